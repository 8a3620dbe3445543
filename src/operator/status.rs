//! (old status, what happened, now) -> new status. PURE.
//!
//! Computed from applied children and observations only, never from wishes; a failed
//! reconcile keeps what was known and says what failed.
#![deny(clippy::disallowed_methods)]

mod router;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;

use self::router::router;
use super::apply::Outcome;
use super::children::{Applied, ChildKey, Children, Object, pods_of};
use super::error::{Class, Error};
use super::facts::Facts;
use super::finding::Finding;
use super::observe::Observed;
use crate::api::conditions::{self, ConditionType, Verdict, set_condition};
use crate::api::foreign::Gateway;
use crate::api::{ModelService, ModelServiceStatus};
use crate::telemetry::error_chain::chain;

/// What a reconcile achieved.
#[derive(Debug)]
pub struct Seen<'a> {
    /// What was decided.
    pub facts: &'a Facts,
    /// What came of applying it.
    pub outcome: &'a Outcome,
    /// What the cluster says; `None` when it could not be asked.
    pub observed: Option<&'a Observed>,
}

/// Computes the status. `result` is what the pipeline gave; `seen` is there whenever it
/// got as far as applying.
pub fn compute(
    ms: &ModelService,
    seen: Option<&Seen<'_>>,
    failure: Option<&Error>,
    findings: &[Finding],
    now: &Time,
) -> ModelServiceStatus {
    let mut status = ms.status.clone().unwrap_or_default();
    let generation = ms.metadata.generation;
    status.observed_generation = generation;
    let set = |conditions: &mut Vec<Condition>, type_: ConditionType, verdict: &Verdict| {
        set_condition(conditions, type_.as_str(), verdict, generation, now);
    };
    if let Some(seen) = seen {
        describe(&mut status, seen);
        mirror(&mut status.conditions, seen);
    }
    let mut conditions = std::mem::take(&mut status.conditions);
    if let Some(verdict) = base_config(ms, seen, failure, findings) {
        set(&mut conditions, ConditionType::BaseConfigResolved, &verdict);
    }
    if let Some(seen) = seen
        && let Some(verdict) = workloads(seen, failure)
    {
        set(&mut conditions, ConditionType::WorkloadsReady, &verdict);
    }
    if let Some(seen) = seen
        && let Some(observed) = seen.observed
    {
        let verdict = router(ms, seen, observed);
        set(&mut conditions, ConditionType::RouterReady, &verdict);
        match &observed.redis {
            Some(Ok(message)) => set(
                &mut conditions,
                ConditionType::RedisReady,
                &Verdict::yes("Reachable", message),
            ),
            Some(Err(message)) => set(
                &mut conditions,
                ConditionType::RedisReady,
                &Verdict::no("RedisUnreachable", message),
            ),
            None => {
                conditions
                    .retain(|condition| condition.type_ != ConditionType::RedisReady.as_str());
            }
        }
    }
    let (ready, reconciling, stalled) = summary(&conditions, failure);
    set(&mut conditions, ConditionType::Ready, &ready);
    set(&mut conditions, ConditionType::Reconciling, &reconciling);
    set(&mut conditions, ConditionType::Stalled, &stalled);
    status.conditions = conditions;
    status
}

fn base_config(
    ms: &ModelService,
    seen: Option<&Seen<'_>>,
    failure: Option<&Error>,
    findings: &[Finding],
) -> Option<Verdict> {
    if let Some(error) = failure
        && error.blames_base_config()
    {
        return Some(Verdict::no(error.reason(), with(chain(error), findings)));
    }
    if let Some(error @ Error::Invalid(_)) = failure {
        // Whether an older complaint about the base config still holds was not seen.
        let old = ms.status.as_ref()?;
        let old = conditions::find(&old.conditions, ConditionType::BaseConfigResolved)?;
        return (old.status == "False").then(|| {
            Verdict::unknown(
                "NotChecked",
                format!("the ModelService is wrong first ({})", error.reason()),
            )
        });
    }
    seen?;
    let message = match ms
        .spec
        .base_config_map_ref
        .as_ref()
        .and_then(|r| r.name.as_ref())
    {
        Some(name) => format!("base config {name} resolved"),
        None => "no base config: built-in bases are used".to_owned(),
    };
    let message = with(message, findings);
    let reason = if findings.is_empty() {
        "Resolved"
    } else {
        "ResolvedWithWarnings"
    };
    Some(Verdict::yes(reason, message))
}

/// A message, and what else a user should know.
fn with(mut message: String, findings: &[Finding]) -> String {
    for finding in findings {
        message.push_str("; ");
        message.push_str(&finding.to_string());
    }
    // The API takes no more; the rest is in the log.
    if message.len() > 30_000 {
        let mut end = 30_000;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    message
}

/// Names, counts and references.
fn describe(status: &mut ModelServiceStatus, seen: &Seen<'_>) {
    let applied = &seen.outcome.applied;
    let counts = |key| {
        applied
            .deployment(key)
            .map_or((String::new(), 0), |deployment| {
                let (ready, wanted, available) = counts(deployment);
                (format!("{ready}/{wanted}"), available)
            })
    };
    (status.decode_ready, status.decode_available) = counts(ChildKey::DecodeDeployment);
    (status.prefill_ready, status.prefill_available) = counts(ChildKey::PrefillDeployment);
    (status.epp_ready, status.epp_available) = counts(ChildKey::EppDeployment);
    let decode = applied.deployment(ChildKey::DecodeDeployment);
    status.decode_replicas =
        decode.map(|d| d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0));
    status.decode_selector = decode.and_then(|deployment| Some(pods_of(deployment)?.to_string()));
    let name = |key| applied.get(key).map(Object::name);
    status.decode_deployment_ref = name(ChildKey::DecodeDeployment);
    status.prefill_deployment_ref = name(ChildKey::PrefillDeployment);
    status.epp_deployment_ref = name(ChildKey::EppDeployment);
    status.http_route_ref = name(ChildKey::HttpRoute);
    status.inference_model_ref = name(ChildKey::InferenceModel);
    status.inference_pool_ref = name(ChildKey::InferencePool);
    status.envoy_filter_ref = name(ChildKey::EnvoyFilter);
    let account = name(ChildKey::PdServiceAccount);
    status.prefill_service_account_ref = account
        .clone()
        .filter(|_| status.prefill_deployment_ref.is_some());
    status.decode_service_account_ref = account.filter(|_| status.decode_deployment_ref.is_some());
    status.epp_role_binding = name(ChildKey::EppRoleBinding);
    status.config_map_names = applied
        .items
        .iter()
        .filter(|c| c.key == ChildKey::ConfigMaps)
        .map(|c| c.object.name())
        .collect();
    status.inventory.clone_from(&seen.outcome.inventory);
    if let Some(observed) = seen.observed {
        status.url = url(&observed.gateways);
    }
}

fn counts(deployment: &Deployment) -> (i32, i32, i32) {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let available = status
        .and_then(|status| status.available_replicas)
        .unwrap_or(0);
    (ready, wanted, available)
}

/// Where clients send requests: the first address of the first Gateway that has one.
fn url(gateways: &[Gateway]) -> Option<String> {
    gateways.iter().find_map(|gateway| {
        let address = gateway.status.as_ref()?.addresses.first()?;
        let listener = gateway
            .spec
            .listeners
            .iter()
            .find(|l| matches!(l.protocol.as_str(), "HTTP" | "HTTPS"))?;
        let scheme = listener.protocol.to_lowercase();
        let host = if address.value.contains(':') {
            format!("[{}]", address.value)
        } else {
            address.value.clone()
        };
        let default = if scheme == "http" { 80 } else { 443 };
        let port = if listener.port == default {
            String::new()
        } else {
            format!(":{}", listener.port)
        };
        Some(format!("{scheme}://{host}{port}"))
    })
}

/// Each Deployment's own conditions with its role in front, as the Go operator had them.
fn mirror(conditions: &mut Vec<Condition>, seen: &Seen<'_>) {
    let roles = [
        ("Decode", ChildKey::DecodeDeployment),
        ("Prefill", ChildKey::PrefillDeployment),
        ("Epp", ChildKey::EppDeployment),
    ];
    let ours = |type_: &str| {
        ["Available", "Progressing", "ReplicaFailure"]
            .iter()
            .any(|suffix| {
                roles
                    .iter()
                    .any(|(role, _)| type_ == format!("{role}{suffix}"))
            })
    };
    conditions.retain(|condition| !ours(&condition.type_));
    for (role, key) in roles {
        let Some(deployment) = seen.outcome.applied.deployment(key) else {
            continue;
        };
        let list = deployment
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        for condition in list.into_iter().flatten() {
            let Some(time) = condition.last_update_time.clone() else {
                continue;
            };
            conditions.push(Condition {
                type_: format!("{role}{}", condition.type_.clone().unwrap_or_default()),
                status: condition
                    .status
                    .clone()
                    .unwrap_or_else(|| "Unknown".to_owned()),
                reason: condition
                    .reason
                    .clone()
                    .unwrap_or_else(|| "Unknown".to_owned()),
                message: condition.message.clone().unwrap_or_default(),
                last_transition_time: time,
                observed_generation: None,
            });
        }
    }
}

/// `None` when nothing new is known.
fn workloads(seen: &Seen<'_>, failure: Option<&Error>) -> Option<Verdict> {
    let deployments: Vec<&Deployment> = deployments(&seen.outcome.applied).collect();
    if let Some(error @ Error::Apply(_)) = failure {
        return Some(Verdict::no(error.reason(), chain(error)));
    }
    let unready = &seen.observed?.unready;
    if unready.is_empty() {
        return Some(Verdict::yes(
            "AllReady",
            format!("{} Deployments are ready", deployments.len()),
        ));
    }
    let troubled = unready.iter().find(|(_, why)| !why.is_empty());
    let (name, why) = troubled.unwrap_or(&unready[0]);
    if why.is_empty() {
        let (ready, wanted) = deployments
            .iter()
            .find(|deployment| deployment.name_any() == *name)
            .map_or((0, 0), |deployment| {
                (counts(deployment).0, counts(deployment).1)
            });
        return Some(Verdict::no(
            "Progressing",
            format!("Deployment {name}: {ready} of {wanted} pods are ready"),
        ));
    }
    Some(Verdict::no(
        "PodsFailing",
        format!("Deployment {name}: {why}"),
    ))
}

fn deployments(applied: &Children<Applied>) -> impl Iterator<Item = &Deployment> {
    applied
        .items
        .iter()
        .filter_map(|child| match &child.object {
            Object::Deployment(deployment) => Some(deployment.as_ref()),
            _ => None,
        })
}

/// Ready, Reconciling and Stalled from everything else.
fn summary(conditions: &[Condition], failure: Option<&Error>) -> (Verdict, Verdict, Verdict) {
    if let Some(error) = failure {
        let message = chain(error);
        let user = error.class() == Class::UserInput;
        let ready = Verdict::no(error.reason(), &message);
        return if user {
            (
                ready,
                Verdict::no("Stalled", "waiting for a change"),
                Verdict::yes(error.reason(), message),
            )
        } else {
            (
                ready,
                Verdict::yes("Retrying", message),
                Verdict::no("NotStalled", "the operator is retrying"),
            )
        };
    }
    let needed = [
        ConditionType::BaseConfigResolved,
        ConditionType::WorkloadsReady,
        ConditionType::RouterReady,
    ];
    let blocking = needed.iter().find_map(|type_| {
        conditions
            .iter()
            .find(|c| c.type_ == type_.as_str() && c.status != "True")
    });
    let not_stalled = Verdict::no("NotStalled", "nothing waits for a user");
    match blocking {
        None => (
            Verdict::yes("Ready", "requests can be answered"),
            Verdict::no("Settled", "the cluster is as wanted"),
            not_stalled,
        ),
        Some(condition) => (
            Verdict::no(condition.reason.clone(), condition.message.clone()),
            Verdict::yes("Progressing", condition.message.clone()),
            not_stalled,
        ),
    }
}
