//! The pipeline for one ModelService, and what follows from how it ended. IO through the
//! stages; no decisions of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::apply::{self, Outcome};
use super::error::{Class, Error, chain};
use super::events;
use super::metrics::{Metrics, ResultLabel};
use super::observe::{self, Observed};
use super::plan::{self, Plan};
use super::render;
use super::resolve;
use super::resolved::Served;
use super::settings::Settings;
use super::status::{self, Seen};
use crate::api::ModelService;
use crate::contract;

/// A look at everything even if no watch said so; reads only while nothing changed.
const RESYNC: Duration = Duration::from_mins(10);
/// A Redis of somebody else is not watched: it is asked again after this long.
const EXTERNAL_RETRY: Duration = Duration::from_mins(1);
/// Back-off of retries: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

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
    pub recorder: Recorder,
    /// Failures in a row, per ModelService.
    pub failures: Mutex<HashMap<String, u32>>,
}

/// What a pipeline got done before it ended.
#[derive(Default)]
struct Progress {
    plan: Option<Plan>,
    outcome: Option<Outcome>,
    observed: Option<Observed>,
}

/// Brings the cluster closer to what one ModelService says.
///
/// # Errors
/// Only when trying again may help; a user's mistake is a condition and waits.
pub async fn reconcile(ms: Arc<ModelService>, context: Arc<Context>) -> Result<Action, Error> {
    if ms.metadata.deletion_timestamp.is_some() {
        // Owner references do the rest.
        forget(&context, &ms);
        return Ok(Action::await_change());
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

async fn pipeline(
    ms: &ModelService,
    context: &Context,
    progress: &mut Progress,
) -> Result<(), Error> {
    let resolved = resolve::resolve(&context.client, &context.settings, context.served, ms).await?;
    let plan = plan::plan(&context.settings, ms, &resolved)?;
    let desired = render::render(&context.settings, &plan);
    let outcome = apply::apply(&context.client, &context.metrics, ms, desired).await;
    let observed =
        observe::observe(&context.client, context.served, ms, &plan, &outcome.applied).await?;
    progress.plan = Some(plan);
    progress.observed = Some(observed);
    let outcome = progress.outcome.insert(outcome);
    let failed = std::mem::take(&mut outcome.failed);
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Apply(failed))
    }
}

async fn write_status(
    ms: &ModelService,
    context: &Context,
    progress: &Progress,
    failure: Option<&Error>,
) -> Result<(), Error> {
    let seen = match (&progress.plan, &progress.outcome, &progress.observed) {
        (Some(plan), Some(outcome), Some(observed)) => Some(Seen {
            plan,
            outcome,
            observed,
        }),
        _ => None,
    };
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let status = status::compute(ms, seen.as_ref(), failure, &now);
    if ms.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let namespace = ms.namespace().unwrap_or_default();
    let api: Api<ModelService> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": format!("{}/v1alpha1", contract::GROUP),
        "kind": "ModelService",
        "metadata": {"name": ms.name_any(), "uid": ms.uid()},
        "status": status,
    });
    let params = PatchParams::apply(contract::MANAGER).force();
    context.metrics.wrote("status", "ModelService");
    match api
        .patch_status(&ms.name_any(), &params, &Patch::Apply(patch))
        .await
    {
        Ok(_) => {}
        // Deleted while we looked: nobody needs the status.
        Err(kube::Error::Api(response)) if response.is_not_found() || response.is_conflict() => {
            return Ok(());
        }
        Err(source) => {
            return Err(Error::Status {
                name: key(ms),
                source,
            });
        }
    }
    let news = events::between(ms.status.as_ref(), &status);
    events::publish(&context.recorder, ms, &news, &context.metrics).await;
    Ok(())
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
