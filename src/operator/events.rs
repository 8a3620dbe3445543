//! (status before, status after) -> the events worth a user's attention. PURE choice,
//! and one small IO function that publishes them.
//!
//! Events are written on transitions only: a steady state, good or bad, is silent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource as _;
use kube::runtime::events::{Event, EventType, Recorder};

use super::metrics::Metrics;
use crate::api::conditions::{self, ConditionType};
use crate::api::{ModelService, ModelServiceStatus};

/// Conditions whose changes are told, and what the controller was doing.
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

/// Chooses the events between two states of a ModelService. PURE.
pub fn between(before: Option<&ModelServiceStatus>, after: &ModelServiceStatus) -> Vec<Event> {
    TOLD.iter()
        .filter_map(|(type_, action)| {
            let old = before.and_then(|status| conditions::find(&status.conditions, *type_));
            let new = conditions::find(&after.conditions, *type_)?;
            is_news(*type_, old, new).then(|| event(*type_, action, new))
        })
        .collect()
}

/// A change of status is news; so is a new reason or text of something bad. That
/// something is not yet true is no news while it is being built.
fn is_news(type_: ConditionType, old: Option<&Condition>, new: &Condition) -> bool {
    let bad_when = if type_ == ConditionType::Stalled {
        "True"
    } else {
        "False"
    };
    let is_bad = new.status == bad_when;
    let progressing = matches!(
        new.reason.as_str(),
        "Progressing" | "Pending" | "NotStalled"
    );
    match old {
        None => !progressing && (is_bad || type_ == ConditionType::BaseConfigResolved),
        Some(old) if old.status != new.status => !progressing,
        Some(old) => {
            let said_otherwise = old.reason != new.reason || old.message != new.message;
            let says_something =
                (is_bad && !progressing) || type_ == ConditionType::BaseConfigResolved;
            // Counts change with every pod; only another reason is news there.
            let counts = matches!(type_, ConditionType::WorkloadsReady | ConditionType::Ready);
            says_something
                && if counts {
                    old.reason != new.reason
                } else {
                    said_otherwise
                }
        }
    }
}

fn event(type_: ConditionType, action: &str, condition: &Condition) -> Event {
    let good = if type_ == ConditionType::Stalled {
        "False"
    } else {
        "True"
    };
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
        type_: if condition.status == good {
            EventType::Normal
        } else {
            EventType::Warning
        },
        // `Ready`, `WorkloadsReady` read better than their reasons when all is well.
        reason: if condition.status == good && type_ != ConditionType::BaseConfigResolved {
            type_.as_str().to_owned()
        } else {
            condition.reason.clone()
        },
        note: Some(note),
        action: (*action).to_owned(),
        secondary: None,
    }
}

/// Publishes events. IO. A failure is logged only: events are for people, and the
/// conditions say the same.
pub async fn publish(recorder: &Recorder, ms: &ModelService, events: &[Event], metrics: &Metrics) {
    for event in events {
        metrics.wrote("event", "Event");
        if let Err(error) = recorder.publish(event, &ms.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "event not published");
        }
    }
}
