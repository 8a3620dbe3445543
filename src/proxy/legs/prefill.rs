//! Prefill legs: the endpoints a request names -> one that is allowed and gives an answer. IO.
//!
//! An endpoint that fails, in whatever way and with whatever status, says nothing of the
//! request: the next one is asked, and at last the decode engine, whose answer is the only one
//! that a client sees.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;

use super::{Head, Legs};
use crate::proxy::allowlist::{Host, Target, Verdict};
use crate::proxy::body::{self, Body, Bounds, Edited, ReadError};
use crate::proxy::failure;
use crate::proxy::heavy;
use crate::proxy::reason::{Fallback, Leg, Outcome, Refusal};
use crate::proxy::route;
use crate::proxy::service::Service;
use crate::telemetry::error_chain;

/// Most prefill endpoints tried for one request.
const MAX_TRIED: usize = 3;
/// Most bytes of an answer: it is one token and the ids of the prompt's blocks, of which a
/// million tokens have some hundred thousand.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// What came of the prefill legs.
#[derive(Debug)]
pub enum Prefill<T> {
    /// An answer with what the connector wants to know.
    Done(T),
    /// An endpoint that turned out to be forbidden: this is the client's answer.
    Forbidden(Box<Response<Body>>),
    /// Nothing: the decode engine computes the prompt.
    Failed,
}

enum Attempt<T> {
    Done(T),
    Forbidden,
    Failed {
        reason: Fallback,
        /// True when the same endpoint may be asked again.
        again: bool,
    },
}

impl<T> Attempt<T> {
    fn failed(reason: Fallback) -> Self {
        Self::Failed {
            reason,
            again: false,
        }
    }
}

impl Legs {
    /// The endpoints among a header's entries, and why others were left out: they are none, or
    /// the Service does not have them yet.
    ///
    /// # Errors
    /// The answer for the client, when one of them is not allowed.
    pub async fn targets(
        &self,
        head: &Head,
        entries: &[String],
    ) -> Result<(Vec<Target>, Option<Fallback>), Box<Response<Body>>> {
        let (mut targets, mut left_out) = (Vec::with_capacity(entries.len()), None);
        let mut asked = false;
        for entry in entries {
            let Some(target) = Target::parse(entry) else {
                tracing::warn!(entry, "a prefill entry is not `host:port`");
                left_out = Some(Fallback::BadTarget);
                continue;
            };
            match self.verdict(&target, &mut asked).await {
                Verdict::Allowed => targets.push(target),
                Verdict::NotYet => {
                    tracing::warn!(prefiller = %target, "--prefill-service does not have this endpoint");
                    left_out = Some(Fallback::NotListed);
                }
                no => return Err(Box::new(self.forbid(head, &target, no))),
            }
        }
        Ok((targets, left_out))
    }

    /// What becomes of a target, also when the Service is looked up again, which a request
    /// asks for but once.
    async fn verdict(&self, target: &Target, asked: &mut bool) -> Verdict {
        let prefillers = &self.prefillers;
        let check = || {
            let service = prefillers.service.as_ref().map(Service::listed);
            prefillers
                .allowlist
                .check(target, &service.unwrap_or_default())
        };
        match (check(), &prefillers.service) {
            (Verdict::NotYet, Some(service)) if !*asked => {
                *asked = true;
                service.refresh().await;
                check()
            }
            (verdict, _) => verdict,
        }
    }

    fn forbid(&self, head: &Head, target: &Target, why: Verdict) -> Response<Body> {
        tracing::warn!(prefiller = %target, ?why, "a request named a prefill endpoint that is not allowed");
        let why = match why {
            Verdict::NoList => "no list is set: --allowed-prefillers or --prefill-service",
            Verdict::Never => "this address is never a prefill endpoint",
            _ => "neither --allowed-prefillers nor --prefill-service has it",
        };
        let message = format!("Forbidden: prefill target not allowed by SSRF protection: {why}");
        self.refuse(head.api, Refusal::Target, &message)
    }

    /// Sends the prefill body to the first endpoint that gives an answer `read` understands.
    pub async fn prefill<T: Send + 'static>(
        &self,
        targets: &[Target],
        head: &Head,
        body: &Edited,
        read: impl Fn(&Bytes) -> Option<T> + Copy + Send + 'static,
    ) -> Prefill<T> {
        let mut last = Fallback::BadTarget;
        for target in targets.iter().take(MAX_TRIED) {
            match self.ask(target, head, body, read).await {
                Attempt::Done(done) => return Prefill::Done(done),
                Attempt::Forbidden => {
                    let answer = self.forbid(head, target, Verdict::Never);
                    return Prefill::Forbidden(Box::new(answer));
                }
                Attempt::Failed { reason, .. } => {
                    tracing::warn!(prefiller = %target, reason = reason.word(), "prefill failed");
                    last = reason;
                }
            }
        }
        self.fell_back(head, last);
        Prefill::Failed
    }

    /// One endpoint, asked again while it says that it may work later.
    async fn ask<T: Send + 'static>(
        &self,
        target: &Target,
        head: &Head,
        body: &Edited,
        read: impl Fn(&Bytes) -> Option<T> + Copy + Send + 'static,
    ) -> Attempt<T> {
        let mut retries = self.limits.prefill_max_retries;
        loop {
            let open = self.metrics.begin(Leg::Prefill);
            let begun = Instant::now();
            let once = self.ask_once(target, head, body, read);
            let attempt = tokio::time::timeout(self.limits.prefill_timeout, once).await;
            let attempt = attempt.unwrap_or(Attempt::failed(Fallback::Timeout));
            open.end(match &attempt {
                Attempt::Done(_) => Outcome::Ok,
                Attempt::Forbidden => Outcome::Unreachable,
                Attempt::Failed { reason, .. } => reason.outcome(),
            });
            match attempt {
                Attempt::Failed { again: true, .. } if retries > 0 => retries -= 1,
                attempt => {
                    if matches!(attempt, Attempt::Done(_)) {
                        self.metrics.prefilled(begun.elapsed());
                    }
                    return attempt;
                }
            }
            tokio::time::sleep(self.limits.prefill_retry_backoff).await;
        }
    }

    async fn ask_once<T: Send + 'static>(
        &self,
        target: &Target,
        head: &Head,
        body: &Edited,
        read: impl Fn(&Bytes) -> Option<T> + Copy + Send + 'static,
    ) -> Attempt<T> {
        let address = match self.look_up(target).await {
            Ok(Some(address)) => address,
            Ok(None) => return Attempt::Forbidden,
            Err(error) => {
                tracing::warn!(prefiller = %target, %error, "look up a prefill endpoint");
                return Attempt::failed(Fallback::Unreachable);
            }
        };
        let headers = route::prefill_headers(&head.headers, self.prefillers.key.now());
        let request = head.request(headers, body.clone());
        let response = match self.engine.at(address).send(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(prefiller = %target, error = error_chain::chain(&error), "reach a prefill endpoint");
                return Attempt::failed(if failure::is_unreachable(&error) {
                    Fallback::Unreachable
                } else {
                    Fallback::BrokenAnswer
                });
            }
        };
        let status = response.status();
        if !status.is_success() {
            tracing::warn!(prefiller = %target, status = status.as_u16(), "a prefill endpoint answered with an error");
            return Attempt::Failed {
                reason: Fallback::of(status),
                again: matches!(status.as_u16(), 502..=504),
            };
        }
        match body::read(response.into_body(), &self.answer_bounds()).await {
            Ok(bytes) => heavy::run(bytes.len(), move || read(&bytes))
                .await
                .map_or(Attempt::failed(Fallback::BrokenAnswer), Attempt::Done),
            Err(error) => Attempt::failed(match error {
                ReadError::TooLarge { .. } => Fallback::AnswerTooLarge,
                ReadError::NoBudget { .. } => Fallback::NoBudget,
                ReadError::TimedOut { .. } => Fallback::Timeout,
                ReadError::Broken(_) => Fallback::BrokenAnswer,
            }),
        }
    }

    fn answer_bounds(&self) -> Bounds {
        Bounds {
            limit: self.limits.max_body_bytes.min(MAX_ANSWER_BYTES),
            // The whole leg has a time already.
            timeout: Duration::MAX,
            budget: self.budget.clone(),
        }
    }

    /// Where to connect; `None` when the name only has addresses that are refused. The address
    /// checked is the one connected to: a name cannot change in between.
    async fn look_up(&self, target: &Target) -> std::io::Result<Option<SocketAddr>> {
        let name = match &target.host {
            Host::Address(address) => return Ok(Some(SocketAddr::new(*address, target.port))),
            Host::Name(name) => name,
        };
        let allowlist = &self.prefillers.allowlist;
        let mut found = tokio::net::lookup_host((name.as_str(), target.port)).await?;
        Ok(found.find(|found| allowlist.allows_resolved(found.ip())))
    }
}
