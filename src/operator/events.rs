//! (status before, status after) -> the events worth a user's attention. PURE but for the small
//! recorder that publishes them.
//!
//! Events are written on transitions only: a steady state, good or bad, is silent. One
//! mistake is one event, though several conditions tell it, and another text is another
//! event: the text is part of an event's name.

use std::collections::HashMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as KubeEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::metrics::Metrics;
use crate::api::conditions::{self, ConditionType};
use crate::api::{ModelService, ModelServiceStatus};
use crate::contract;

/// Conditions whose changes are told, and what the controller was doing. Those that name a
/// cause come before those that sum up.
const TOLD: &[(ConditionType, &str)] = &[
    (ConditionType::BaseConfigResolved, "Resolve"),
    (ConditionType::WorkloadsReady, "Observe"),
    (ConditionType::RouterReady, "Observe"),
    (ConditionType::RedisReady, "Observe"),
    (ConditionType::Stalled, "Reconcile"),
    (ConditionType::Ready, "Reconcile"),
];

/// The longest note the events API takes, in bytes.
const NOTE_LIMIT: usize = 1024;
/// The longest name an object may have, in bytes.
const NAME_LIMIT: usize = 253;
/// Events whose repetitions are counted; of more, the counts start anew.
const COUNTED_LIMIT: usize = 4096;

/// What happened, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// The sentence; at most 1024 bytes.
    pub note: String,
    /// What the controller was doing.
    pub action: &'static str,
}

/// Chooses the events between two states of a ModelService. PURE.
pub fn between(before: Option<&ModelServiceStatus>, after: &ModelServiceStatus) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut bad: Vec<&Condition> = Vec::new();
    for (type_, action) in TOLD {
        let old = before.and_then(|status| conditions::find(&status.conditions, *type_));
        let Some(new) = conditions::find(&after.conditions, *type_) else {
            continue;
        };
        let is_bad = new.status == bad_when(*type_);
        // A condition that sums up repeats what its cause has said, now or earlier.
        let told_by_cause = is_bad
            && bad.iter().any(|cause| {
                cause.message.contains(&new.message)
                    || (cause.reason == new.reason && new.message.contains(&cause.message))
            });
        if is_bad {
            bad.push(new);
        }
        if told_by_cause || !is_news(*type_, old, new) {
            continue;
        }
        events.push(event(*type_, action, new));
    }
    events
}

fn bad_when(type_: ConditionType) -> &'static str {
    if type_ == ConditionType::Stalled {
        "True"
    } else {
        "False"
    }
}

/// A change of status is news; so is a new reason or text of something bad. That
/// something is not yet true is no news while it is being built.
fn is_news(type_: ConditionType, old: Option<&Condition>, new: &Condition) -> bool {
    let is_bad = new.status == bad_when(type_);
    let progressing = matches!(
        new.reason.as_str(),
        "Progressing" | "Pending" | "NotStalled" | "NotChecked"
    );
    match old {
        None => !progressing && (is_bad || type_ == ConditionType::BaseConfigResolved),
        Some(old) if old.status != new.status => !progressing,
        Some(old) => {
            let said_otherwise =
                old.reason != new.reason || headline(&old.message) != headline(&new.message);
            let says_something =
                (is_bad && !progressing) || type_ == ConditionType::BaseConfigResolved;
            says_something && said_otherwise
        }
    }
}

/// The part of a message that names the trouble. Which pod has it, and how long the kubelet
/// waits before it tries again, stand behind and change all the time.
fn headline(message: &str) -> &str {
    message
        .split_once(super::observe::POD_DETAIL)
        .map_or(message, |(headline, _)| headline)
}

fn event(type_: ConditionType, action: &'static str, condition: &Condition) -> Event {
    let good = condition.status != bad_when(type_);
    let mut note = condition.message.clone();
    if note.len() > NOTE_LIMIT {
        let mut end = NOTE_LIMIT - 3;
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push_str("...");
    }
    Event {
        warning: !good,
        // `Ready`, `WorkloadsReady` read better than their reasons when all is well.
        reason: if good && type_ != ConditionType::BaseConfigResolved {
            type_.as_str().to_owned()
        } else {
            condition.reason.clone()
        },
        note,
        action,
    }
}

/// The name of an event: the same for the same words about the same object, so that a
/// repetition is counted and another text is never lost in an older event. PURE.
fn name(event: &Event, regarding: &ObjectReference) -> String {
    let words = json!([
        regarding.uid,
        event.warning,
        event.action,
        event.reason,
        event.note
    ]);
    let digest = Sha256::digest(words.to_string().as_bytes());
    let hash: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut stem = regarding.name.clone().unwrap_or_default();
    stem.truncate(NAME_LIMIT - hash.len() - 1);
    format!("{}.{hash}", stem.trim_end_matches(['.', '-']))
}

/// Publishes events. kube's own recorder takes events of one reason for one event and shows
/// the text of the first only.
pub struct Recorder {
    client: Client,
    instance: String,
    /// How often each event was seen, by namespace and name.
    seen: Mutex<HashMap<(String, String), i32>>,
}

impl Recorder {
    /// A recorder that signs as `instance`.
    pub fn new(client: Client, instance: String) -> Self {
        Self {
            client,
            instance,
            seen: Mutex::default(),
        }
    }

    /// Publishes events. IO. A failure is logged only: events are for people, and the
    /// conditions say the same.
    pub async fn publish(&self, ms: &ModelService, events: &[Event], metrics: &Metrics) {
        for event in events {
            metrics.wrote("event", "Event");
            if let Err(error) = self.write(event, ms.object_ref(&())).await {
                tracing::warn!(%error, reason = event.reason, "event not published");
            }
        }
    }

    async fn write(&self, event: &Event, regarding: ObjectReference) -> Result<(), kube::Error> {
        let namespace = regarding
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let name = name(event, &regarding);
        let api: Api<KubeEvent> = Api::namespaced(self.client.clone(), &namespace);
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let count = self.count(&namespace, &name);
        if count > 1 {
            let series = json!({"series": {"count": count, "lastObservedTime": now}});
            let patched = api
                .patch(&name, &PatchParams::default(), &Patch::Merge(&series))
                .await;
            match patched {
                // The API server forgets events after an hour.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => return other.map(drop),
            }
        }
        let object = self.object(event, regarding, name.clone(), now.clone());
        match api.create(&PostParams::default(), &object).await {
            // An earlier process of this operator has said it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let count = self.count(&namespace, &name);
                let series = json!({"series": {"count": count, "lastObservedTime": now}});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&series))
                    .await
                    .map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Counts one more sighting.
    fn count(&self, namespace: &str, name: &str) -> i32 {
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.len() >= COUNTED_LIMIT {
            seen.clear();
        }
        let count = seen
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    fn object(
        &self,
        event: &Event,
        regarding: ObjectReference,
        name: String,
        now: MicroTime,
    ) -> KubeEvent {
        KubeEvent {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            action: Some(event.action.to_owned()),
            event_time: Some(now),
            note: Some(event.note.clone()),
            reason: Some(event.reason.clone()),
            regarding: Some(regarding),
            reporting_controller: Some(contract::MANAGER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            ..KubeEvent::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::{Verdict, set_condition};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn status(verdicts: &[(ConditionType, Verdict)]) -> ModelServiceStatus {
        let now = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let mut status = ModelServiceStatus::default();
        for (type_, verdict) in verdicts {
            let list = &mut status.conditions;
            set_condition(list, type_.as_str(), verdict, Some(1), &now);
        }
        status
    }

    fn healthy() -> ModelServiceStatus {
        status(&[
            (
                ConditionType::BaseConfigResolved,
                Verdict::yes("Resolved", "base config b resolved"),
            ),
            (
                ConditionType::WorkloadsReady,
                Verdict::yes("AllReady", "ready"),
            ),
            (ConditionType::Stalled, Verdict::no("NotStalled", "nothing")),
            (ConditionType::Ready, Verdict::yes("Ready", "ready")),
        ])
    }

    fn mistaken(text: &str) -> ModelServiceStatus {
        status(&[
            (
                ConditionType::BaseConfigResolved,
                Verdict::no("EPPSettingsInvalid", text),
            ),
            (
                ConditionType::WorkloadsReady,
                Verdict::yes("AllReady", "ready"),
            ),
            (
                ConditionType::Stalled,
                Verdict::yes("EPPSettingsInvalid", text),
            ),
            (
                ConditionType::Ready,
                Verdict::no("EPPSettingsInvalid", text),
            ),
        ])
    }

    fn notes(before: &ModelServiceStatus, after: &ModelServiceStatus) -> Vec<String> {
        between(Some(before), after)
            .into_iter()
            .map(|event| event.note)
            .collect()
    }

    #[test]
    fn one_mistake_is_one_event() {
        assert_eq!(notes(&healthy(), &mistaken("A")), ["A"]);
        assert!(notes(&mistaken("A"), &mistaken("A")).is_empty());
        assert_eq!(between(None, &mistaken("A")).len(), 1);
    }

    #[test]
    fn another_mistake_with_the_same_reason_is_another_event() {
        let events = between(Some(&mistaken("A")), &mistaken("B"));
        let notes: Vec<_> = events.iter().map(|event| event.note.as_str()).collect();
        assert_eq!(notes, ["B"]);
        let regarding = ObjectReference {
            name: Some("m".to_owned()),
            ..ObjectReference::default()
        };
        let earlier = &between(Some(&healthy()), &mistaken("A"))[0];
        assert_ne!(name(earlier, &regarding), name(&events[0], &regarding));
        assert_eq!(name(earlier, &regarding), name(earlier, &regarding));
    }

    #[test]
    fn a_mistake_of_the_modelservice_itself_is_told_once() {
        let wrong = status(&[
            (
                ConditionType::BaseConfigResolved,
                Verdict::yes("Resolved", "base config b resolved"),
            ),
            (
                ConditionType::Stalled,
                Verdict::yes("SpecInvalid", "uri: no"),
            ),
            (ConditionType::Ready, Verdict::no("SpecInvalid", "uri: no")),
        ]);
        assert_eq!(notes(&healthy(), &wrong), ["uri: no"]);
    }

    #[test]
    fn the_same_trouble_of_another_pod_is_no_news() {
        let failing = |message: &str| {
            status(&[
                (
                    ConditionType::WorkloadsReady,
                    Verdict::no("PodsFailing", message),
                ),
                (ConditionType::Ready, Verdict::no("PodsFailing", message)),
            ])
        };
        let first = failing("Deployment d: image \"x\" (pod d-1: ErrImagePull)");
        let again = failing("Deployment d: image \"x\" (pod d-2: ImagePullBackOff)");
        let other = failing("Deployment d: image \"y\" (pod d-3: ErrImagePull)");
        assert!(notes(&first, &again).is_empty());
        assert_eq!(notes(&again, &other).len(), 1);
    }
}
