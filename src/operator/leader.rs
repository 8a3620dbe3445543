//! One Lease -> at most one acting operator. IO (the Lease); the choice of the next
//! step is the pure function [`next_step`].
//!
//! Every write carries the resourceVersion that was read, so two candidates can never
//! both believe they won, and another holder's expiry is measured on our own clock from
//! the moment we saw it renew: clocks of two nodes are never compared
//! (the rules of client-go's leaderelection).

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::telemetry::shutdown::Shutdown;

/// How long a silent holder keeps the lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long stops acting.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between looks at the lease.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Why leadership ended or could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else holds the lease now.
    #[error("lease {namespace}/{name} was taken over by {holder:?}")]
    Lost {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// The new holder.
        holder: String,
    },
    /// The API server could not be reached in time.
    #[error("lease {namespace}/{name} could not be renewed for {RENEW_DEADLINE:?}")]
    Expired {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// The last failure.
        #[source]
        source: Option<kube::Error>,
    },
}

/// A candidate for leadership.
pub struct Candidate {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    /// What we last saw, and when we first saw it.
    seen: Option<(Observation, Instant)>,
    /// When the write that last made or kept us the holder was begun.
    renewed: Option<Instant>,
}

/// What identifies one renewal of a holder.
#[derive(Clone, Debug, PartialEq)]
struct Observation {
    holder: String,
    renewed: Option<MicroTime>,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// There is no lease: make it.
    Create,
    /// It is ours, free or expired: write ourselves in.
    Hold,
    /// Somebody else holds it.
    Wait,
}

/// Chooses the next step. PURE: `unchanged_for` is how long the lease has looked the
/// way it looks now, on the caller's clock.
pub fn next_step(lease: Option<&Lease>, identity: &str, unchanged_for: Duration) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    let spec = lease.spec.as_ref();
    let holder = spec
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default();
    let duration = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(LEASE_DURATION, Duration::from_secs);
    if holder.is_empty() || holder == identity || unchanged_for >= duration {
        Step::Hold
    } else {
        Step::Wait
    }
}

// === impl Candidate ===

impl Candidate {
    /// A candidate named `identity` (unique per process) for `namespace/name`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
            renewed: None,
        }
    }

    /// Waits until this candidate leads. `false`: shutdown came first.
    pub async fn lead(&mut self, shutdown: &Shutdown) -> bool {
        loop {
            match tokio::time::timeout(RENEW_DEADLINE, self.attempt()).await {
                Ok(Ok(true)) => return true,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.name, "cannot read or write the lease");
                }
                Err(_elapsed) => tracing::warn!(lease = self.name, "the API server is silent"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PERIOD) => {}
                () = shutdown.requested() => return false,
            }
        }
    }

    /// Renews for as long as it can; returns only when leadership is lost, and the process
    /// must stop acting at once. The renew deadline counts from the last renewal that
    /// succeeded, so that it ends before anybody else may take the lease.
    pub async fn keep(&mut self) -> Error {
        let renewed = self.renewed.unwrap_or_else(Instant::now);
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        let ended = renew(self, renewed, RETRY_PERIOD, RENEW_DEADLINE).await;
        match ended {
            Ended::Taken => self.lost(),
            Ended::Expired(source) => Error::Expired {
                namespace,
                name,
                source,
            },
        }
    }

    /// One look and, if allowed, one write. True: we hold the lease.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let begun = Instant::now();
        let lease = self.api.get_opt(&self.name).await?;
        let unchanged_for = self.observe(lease.as_ref());
        let held = match next_step(lease.as_ref(), &self.identity, unchanged_for) {
            Step::Wait => false,
            Step::Create => {
                let lease = self.claim(None);
                conflict_is_false(self.api.create(&PostParams::default(), &lease).await)?
            }
            Step::Hold => {
                let claim = self.claim(lease);
                conflict_is_false(
                    self.api
                        .replace(&self.name, &PostParams::default(), &claim)
                        .await,
                )?
            }
        };
        if held {
            self.renewed = Some(begun);
        }
        Ok(held)
    }

    /// Notes what the lease looks like and since when, on our own clock.
    fn observe(&mut self, lease: Option<&Lease>) -> Duration {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let now = Observation {
            holder: spec
                .and_then(|spec| spec.holder_identity.clone())
                .unwrap_or_default(),
            renewed: spec.and_then(|spec| spec.renew_time.clone()),
        };
        match &self.seen {
            Some((before, since)) if *before == now => since.elapsed(),
            _ => {
                self.seen = Some((now, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// The lease with us as holder, keeping its resourceVersion.
    fn claim(&self, current: Option<Lease>) -> Lease {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let mut lease = current.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let before = lease.spec.take().unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(self.identity.as_str());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
            acquire_time: if ours {
                before.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..LeaseSpec::default()
        });
        lease
    }

    /// Gives the lease back, so that the next candidate need not wait. Only after everything
    /// this process does under the lease has ended.
    pub async fn step_down(&mut self) {
        let given = tokio::time::timeout(RETRY_PERIOD, self.give_back()).await;
        if given.is_err() {
            tracing::debug!("the lease was not given back in time");
        }
    }

    async fn give_back(&mut self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else {
            return;
        };
        let Some(spec) = lease.spec.as_mut() else {
            return;
        };
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return;
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        // Best effort: without it the next candidate waits for the lease to expire.
        if let Err(error) = self
            .api
            .replace(&self.name, &PostParams::default(), &lease)
            .await
        {
            tracing::debug!(%error, "the lease was not given back");
        }
    }

    fn lost(&self) -> Error {
        let holder = self
            .seen
            .as_ref()
            .map(|(seen, _)| seen.holder.clone())
            .unwrap_or_default();
        Error::Lost {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            holder,
        }
    }
}

/// Something that can be renewed.
trait Renewable {
    /// What can go wrong with one attempt.
    type Error: std::fmt::Display;
    /// True: renewed. False: another writer was ahead, or somebody else holds it.
    async fn attempt(&mut self) -> Result<bool, Self::Error>;
    /// True when, as last seen, somebody else holds it.
    fn is_taken(&self) -> bool;
}

impl Renewable for Candidate {
    type Error = kube::Error;

    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        Candidate::attempt(self).await
    }

    fn is_taken(&self) -> bool {
        let holder = self.seen.as_ref().map(|(seen, _)| seen.holder.as_str());
        holder.is_some_and(|holder| !holder.is_empty() && holder != self.identity)
    }
}

/// How leadership ended.
#[derive(Debug)]
enum Ended<E> {
    /// Somebody else holds the lease.
    Taken,
    /// It could not be renewed in time; the last failure.
    Expired(Option<E>),
}

/// Renews until that fails for the whole deadline, or somebody else is the holder.
async fn renew<R: Renewable>(
    lease: &mut R,
    mut renewed: Instant,
    retry: Duration,
    deadline: Duration,
) -> Ended<R::Error> {
    let mut last_error = None;
    loop {
        let ends = tokio::time::Instant::from_std(renewed + deadline);
        let next = (tokio::time::Instant::now() + retry).min(ends);
        tokio::time::sleep_until(next).await;
        let begun = Instant::now();
        match tokio::time::timeout_at(ends, lease.attempt()).await {
            Ok(Ok(true)) => renewed = begun,
            Ok(Ok(false)) if lease.is_taken() => return Ended::Taken,
            // Somebody else wrote into our lease: look again.
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease was not renewed; trying again");
                last_error = Some(error);
            }
            Err(_elapsed) => return Ended::Expired(last_error),
        }
        if renewed.elapsed() >= deadline {
            return Ended::Expired(last_error);
        }
    }
}

/// Somebody wrote between our read and our write: not an error, we just did not win.
fn conflict_is_false(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn a_free_lease_is_taken_and_a_held_one_waited_for() {
        let short = Duration::from_secs(1);
        assert_eq!(next_step(None, "a", short), Step::Create);
        assert_eq!(next_step(Some(&lease("")), "a", short), Step::Hold);
        assert_eq!(next_step(Some(&lease("a")), "a", short), Step::Hold);
        assert_eq!(next_step(Some(&lease("b")), "a", short), Step::Wait);
    }

    #[test]
    fn a_holder_silent_for_the_whole_lease_is_replaced() {
        assert_eq!(
            next_step(Some(&lease("b")), "a", Duration::from_secs(14)),
            Step::Wait
        );
        assert_eq!(
            next_step(Some(&lease("b")), "a", Duration::from_secs(15)),
            Step::Hold
        );
    }

    /// Answers from a script; what is not in it never comes.
    struct Script {
        answers: Vec<Result<bool, &'static str>>,
        taken: bool,
    }

    impl Renewable for Script {
        type Error = &'static str;

        async fn attempt(&mut self) -> Result<bool, &'static str> {
            if self.answers.is_empty() {
                std::future::pending::<()>().await;
            }
            self.answers.remove(0)
        }

        fn is_taken(&self) -> bool {
            self.taken && self.answers.is_empty()
        }
    }

    async fn ended(
        answers: Vec<Result<bool, &'static str>>,
        taken: bool,
    ) -> (Ended<&'static str>, Duration) {
        let begun = Instant::now();
        let mut script = Script { answers, taken };
        let (retry, deadline) = (Duration::from_millis(10), Duration::from_millis(200));
        let ended = renew(&mut script, begun, retry, deadline).await;
        (ended, begun.elapsed())
    }

    #[tokio::test]
    async fn attempts_that_hang_do_not_add_up_beyond_the_deadline() {
        let (end, took) = ended(vec![Err("down"), Err("still down")], false).await;
        assert!(matches!(end, Ended::Expired(Some("still down"))), "{end:?}");
        // Two deadlines would be two leaders.
        assert!(took < Duration::from_millis(390), "{took:?}");
    }

    #[tokio::test]
    async fn a_conflict_is_looked_at_again_and_another_holder_ends_it() {
        let (end, _) = ended(vec![Ok(true), Ok(false), Ok(true), Ok(false)], true).await;
        assert!(matches!(end, Ended::Taken), "{end:?}");
    }
}
