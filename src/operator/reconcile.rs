//! The pipeline for one ModelService, and what follows from how it ended. IO through the
//! stages; no decisions of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::apply::{self, Outcome};
use super::check;
use super::children::{Children, Desired, Ownership};
use super::error::{Class, Error};
use super::events::{self, Recorder};
use super::facts::{self, Facts};
use super::finding::Finding;
use super::metrics::{Metrics, ResultLabel};
use super::neighbours::Neighbours;
use super::observe::{self, Observed};
use super::render;
use super::resolve;
use super::resolved::Served;
use super::settings::Settings;
use super::status::{self, Seen};
use crate::api::{ModelService, ModelServiceStatus};
use crate::contract;
use crate::telemetry::error_chain::chain;

/// A look at everything even if no watch said so; reads only while nothing changed.
const RESYNC: Duration = Duration::from_mins(10);
/// A Redis of somebody else is not watched: it is asked again after this long.
const EXTERNAL_RETRY: Duration = Duration::from_mins(1);
/// Back-off of retries: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// Holds a ModelService that is being deleted until its objects in other namespaces are gone.
const FINALIZER: &str = "llm-d.ai/other-namespaces";

/// What every reconcile shares.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// The administrator's choices.
    pub settings: Settings,
    /// Optional APIs the cluster serves.
    pub served: Served,
    /// What is counted.
    pub metrics: Metrics,
    /// Publishes events.
    pub recorder: Arc<Recorder>,
    /// Every ModelService, as the watch knows them.
    pub modelservices: Store<ModelService>,
    /// Failures in a row, per ModelService.
    pub failures: Mutex<HashMap<String, u32>>,
}

/// What a pipeline got done before it ended.
#[derive(Default)]
struct Progress {
    /// The ModelService as our own writes left it, where there were any.
    current: Option<ModelService>,
    /// What a user should know though nothing is wrong.
    findings: Vec<Finding>,
    facts: Option<Facts>,
    outcome: Option<Outcome>,
    observed: Option<Observed>,
}

/// Brings the cluster closer to what one ModelService says.
///
/// # Errors
/// Only when trying again may help; a user's mistake is a condition and waits.
pub async fn reconcile(ms: Arc<ModelService>, context: Arc<Context>) -> Result<Action, Error> {
    if ms.metadata.deletion_timestamp.is_some() {
        return delete(&ms, &context).await;
    }
    let started = Instant::now();
    let mut progress = Progress::default();
    let result = Box::pin(pipeline(&ms, &context, &mut progress)).await;
    context
        .metrics
        .reconcile_seconds
        .observe(started.elapsed().as_secs_f64());
    let label = ResultLabel {
        result: result.as_ref().err().map_or("ok", Error::reason),
    };
    context.metrics.reconciles.get_or_create(&label).inc();
    write_status(&ms, &context, &progress, result.as_ref().err()).await?;
    match result {
        Ok(()) => {
            forget(&context, &ms);
            let redis_down = progress
                .observed
                .is_some_and(|o| matches!(o.redis, Some(Err(_))));
            Ok(Action::requeue(if redis_down {
                EXTERNAL_RETRY
            } else {
                RESYNC
            }))
        }
        Err(error) if error.class() == Class::UserInput => {
            tracing::warn!(
                modelservice = %key(&ms), reason = error.reason(), error = chain(&error),
                "waiting for a change"
            );
            forget(&context, &ms);
            Ok(Action::requeue(RESYNC))
        }
        Err(error) => Err(error),
    }
}

/// Owner references do most of it; what they cannot reach is removed here.
async fn delete(ms: &ModelService, context: &Context) -> Result<Action, Error> {
    if has_finalizer(ms) {
        apply::remove_elsewhere(&context.client, &context.metrics, ms)
            .await
            .map_err(Error::Apply)?;
        set_finalizer(ms, context, false).await?;
    }
    forget(context, ms);
    Ok(Action::await_change())
}

async fn pipeline(
    ms: &ModelService,
    context: &Context,
    progress: &mut Progress,
) -> Result<(), Error> {
    let all = context.modelservices.state();
    let neighbours = Neighbours::of(ms, all.iter().map(AsRef::as_ref));
    let resolved = resolve::resolve(
        &context.client,
        &context.settings,
        context.served,
        neighbours,
        ms,
    )
    .await?;
    let facts = facts::decide(&context.settings, ms, &resolved, &mut progress.findings)?;
    let desired = render::render(&facts);
    check::check(&facts, &desired)?;
    let elsewhere = reaches_elsewhere(&desired);
    let current = progress.current.insert(ms.clone());
    if elsewhere && !has_finalizer(current) {
        *current = set_finalizer(current, context, true).await?;
    }
    *current = announce(current, context, &desired).await?;
    let ms = &*current;
    let mut outcome = apply::apply(&context.client, &context.metrics, ms, desired).await;
    let failed = std::mem::take(&mut outcome.failed);
    let facts = progress.facts.insert(facts);
    let outcome = progress.outcome.insert(outcome);
    let observed =
        observe::observe(&context.client, context.served, ms, facts, &outcome.applied).await;
    if !failed.is_empty() {
        progress.observed = observed.ok();
        return Err(Error::Apply(failed));
    }
    progress.observed = Some(observed?);
    let own = ms.namespace().unwrap_or_default();
    let nothing_left = outcome.inventory.iter().all(|entry| entry.namespace == own);
    if has_finalizer(ms) && !elsewhere && nothing_left {
        *current = set_finalizer(ms, context, false).await?;
    }
    Ok(())
}

fn reaches_elsewhere(desired: &Children<Desired>) -> bool {
    let mut children = desired.items.iter();
    children.any(|child| child.ownership == Ownership::Elsewhere)
}

fn has_finalizer(ms: &ModelService) -> bool {
    ms.finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Returns the ModelService as it is now.
async fn set_finalizer(
    ms: &ModelService,
    context: &Context,
    present: bool,
) -> Result<ModelService, Error> {
    let mut finalizers = ms.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    if present {
        finalizers.push(FINALIZER.to_owned());
    }
    // The list is written whole: over the version it was read from, or not at all.
    let patch = json!({"metadata": {
        "resourceVersion": ms.resource_version(),
        "finalizers": finalizers,
    }});
    let params = PatchParams {
        field_manager: Some(contract::MANAGER.into()),
        ..PatchParams::default()
    };
    context.metrics.wrote("apply", "ModelService");
    let api: Api<ModelService> =
        Api::namespaced(context.client.clone(), &ms.namespace().unwrap_or_default());
    match api
        .patch(&ms.name_any(), &params, &Patch::Merge(patch))
        .await
    {
        Ok(now) => Ok(now),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(ms.clone()),
        Err(source) => Err(Error::Finalizer {
            name: key(ms),
            source,
        }),
    }
}

/// Writes down what is about to be made, so that it is found and pruned later even if this
/// process ends in the middle. Nothing is written while the set stays the same. Returns the
/// ModelService as it is now.
async fn announce(
    ms: &ModelService,
    context: &Context,
    desired: &Children<Desired>,
) -> Result<ModelService, Error> {
    let planned = apply::planned_inventory(ms, desired);
    let mut status = ms.status.clone().unwrap_or_default();
    if planned == status.inventory {
        return Ok(ms.clone());
    }
    status.inventory = planned;
    patch_status(ms, context, &status).await
}

/// Applies a whole status, over the version that was read: an older one must not take
/// entries out of the inventory. Returns the ModelService as it is now.
async fn patch_status(
    ms: &ModelService,
    context: &Context,
    status: &ModelServiceStatus,
) -> Result<ModelService, Error> {
    let namespace = ms.namespace().unwrap_or_default();
    let api: Api<ModelService> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": format!("{}/v1alpha1", contract::GROUP),
        "kind": "ModelService",
        "metadata": {
            "name": ms.name_any(),
            "uid": ms.uid(),
            "resourceVersion": ms.resource_version(),
        },
        "status": status,
    });
    let params = PatchParams::apply(contract::MANAGER).force();
    context.metrics.wrote("status", "ModelService");
    api.patch_status(&ms.name_any(), &params, &Patch::Apply(patch))
        .await
        .map_err(|source| Error::Status {
            name: key(ms),
            source,
        })
}

async fn write_status(
    ms: &ModelService,
    context: &Context,
    progress: &Progress,
    failure: Option<&Error>,
) -> Result<(), Error> {
    let ms = progress.current.as_ref().unwrap_or(ms);
    let seen = match (&progress.facts, &progress.outcome) {
        (Some(facts), Some(outcome)) => Some(Seen {
            facts,
            outcome,
            observed: progress.observed.as_ref(),
        }),
        _ => None,
    };
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let status = status::compute(ms, seen.as_ref(), failure, &progress.findings, &now);
    if ms.status.as_ref() == Some(&status) {
        return Ok(());
    }
    match patch_status(ms, context, &status).await {
        Ok(_) => {
            let news = events::between(ms.status.as_ref(), &status);
            context.recorder.publish(ms, &news, &context.metrics).await;
            Ok(())
        }
        // Deleted while we looked, and nobody needs the status; or changed, and the change
        // brings the next look.
        Err(Error::Status {
            source: kube::Error::Api(response),
            ..
        }) if response.is_not_found() || response.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// When to try again after an error: later each time, spread so that many ModelServices
/// hit by one outage do not come back at once.
pub fn on_error(ms: Arc<ModelService>, error: &Error, context: Arc<Context>) -> Action {
    let attempts = {
        let mut failures = context
            .failures
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = failures.entry(key(&ms)).or_insert(0);
        *count = count.saturating_add(1);
        *count
    };
    let delay = backoff(attempts, &ms.uid().unwrap_or_default());
    tracing::warn!(
        modelservice = %key(&ms), reason = error.reason(), error = chain(error),
        retry_ms = delay.as_millis() as u64, "reconcile failed"
    );
    Action::requeue(delay)
}

/// Doubling, capped, and up to a quarter longer by the object's own uid.
fn backoff(attempts: u32, uid: &str) -> Duration {
    let doubled = BACKOFF
        .0
        .saturating_mul(1 << attempts.saturating_sub(1).min(16));
    let spread = uid.bytes().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    }) % 25;
    doubled
        .min(BACKOFF.1)
        .mul_f64(1.0 + f64::from(spread) / 100.0)
}

fn forget(context: &Context, ms: &ModelService) {
    context
        .failures
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .remove(&key(ms));
}

fn key(ms: &ModelService) -> String {
    format!("{}/{}", ms.namespace().unwrap_or_default(), ms.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_later_each_time_up_to_a_limit() {
        let delays: Vec<_> = (1..12).map(|attempts| backoff(attempts, "uid")).collect();
        assert!(delays.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(delays[0] >= BACKOFF.0 && delays[10] <= BACKOFF.1.mul_f64(1.25));
    }
}
