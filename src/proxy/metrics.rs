//! What the sidecar counts. Label values come from closed sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Which of its requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leg {
    /// A prompt sent to a prefill endpoint.
    Prefill,
    /// A request sent to the local engine after its body was read.
    Decode,
    /// Anything else sent to the local engine.
    Passthrough,
}

/// How a leg ended, up to the head of its answer (prefill: up to the answer's end).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A status below 400.
    Ok,
    /// A 4xx status.
    ClientError,
    /// A 5xx status.
    ServerError,
    /// No connection.
    Unreachable,
    /// The connection broke, or the answer made no sense.
    Broken,
    /// No answer in time.
    Timeout,
    /// The client left first.
    Cancelled,
}

impl Outcome {
    /// The outcome a status stands for.
    pub fn of(status: http::StatusCode) -> Self {
        match status.as_u16() {
            ..400 => Self::Ok,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

/// Why a prompt was computed by the decode engine although a prefill endpoint was named.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fallback {
    /// No entry of the header is an endpoint.
    BadTarget,
    /// No connection to the last one tried.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// It answered with an error of its own.
    ServerError,
    /// Its answer broke off or was no JSON object.
    BrokenAnswer,
    /// Its answer was larger than the bound on bodies.
    AnswerTooLarge,
    /// It answered without KV transfer parameters.
    NoParams,
    /// The connector chosen by flag is not built in.
    Connector,
}

/// Why a client got an error from the sidecar itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// A prefill endpoint is not on the allowlist.
    Target,
    /// The body is larger than the bound.
    TooLarge,
    /// The body had to be read and is no JSON object.
    NotJson,
    /// The body is compressed.
    Encoded,
    /// The client's connection broke inside the body.
    Broken,
}

macro_rules! words {
    ($kind:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $kind {
            /// The label value.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}
words!(Leg { Prefill => "prefill", Decode => "decode", Passthrough => "passthrough" });
words!(Outcome {
    Ok => "ok",
    ClientError => "client_error",
    ServerError => "server_error",
    Unreachable => "unreachable",
    Broken => "broken",
    Timeout => "timeout",
    Cancelled => "cancelled",
});
words!(Fallback {
    BadTarget => "bad_target",
    Unreachable => "unreachable",
    Timeout => "timeout",
    ServerError => "server_error",
    BrokenAnswer => "broken_answer",
    AnswerTooLarge => "answer_too_large",
    NoParams => "no_params",
    Connector => "connector",
});
words!(Refusal {
    Target => "target_not_allowed",
    TooLarge => "body_too_large",
    NotJson => "not_json",
    Encoded => "body_encoded",
    Broken => "body_broken",
});

/// Labels of `requests`.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct LegLabels {
    leg: &'static str,
    outcome: &'static str,
}

/// Label of `fallbacks` and `refusals`.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// The sidecar's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<LegLabels, Counter>,
    fallbacks: Family<ReasonLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    prefill_seconds: Histogram,
    stripped: Counter,
    usage_skipped: Counter,
}

impl Metrics {
    /// Registers every metric.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            fallbacks: Family::default(),
            refusals: Family::default(),
            prefill_seconds: Histogram::new([
                5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
            ]),
            stripped: Counter::default(),
            usage_skipped: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("llm_d_proxy");
        registry.register(
            "requests",
            "Requests sent, by leg and outcome",
            metrics.requests.clone(),
        );
        registry.register(
            "fallbacks",
            "Prompts computed by the decode engine although a prefill endpoint was named, by reason",
            metrics.fallbacks.clone(),
        );
        registry.register(
            "refusals",
            "Requests refused by the sidecar itself, by reason",
            metrics.refusals.clone(),
        );
        registry.register(
            "prefill_seconds",
            "Time of one successful prefill leg",
            metrics.prefill_seconds.clone(),
        );
        registry.register(
            "kv_transfer_params_stripped",
            "Requests whose client set KV transfer parameters, which were removed",
            metrics.stripped.clone(),
        );
        registry.register(
            "usage_rewrites_skipped",
            "Answers, or lines of them, too large to have their cached token count corrected",
            metrics.usage_skipped.clone(),
        );
        registry.register(
            "build",
            "Version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        metrics
    }

    /// Begins counting one request of this leg.
    pub fn begin(&self, leg: Leg) -> Open<'_> {
        Open {
            metrics: self,
            leg,
            ended: false,
        }
    }

    /// Counts one prompt that stayed with the decode engine.
    pub fn fell_back(&self, reason: Fallback) {
        let reason = reason.word();
        self.fallbacks.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts one refused request.
    pub fn refused(&self, reason: Refusal) {
        let reason = reason.word();
        self.refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Records one successful prefill.
    pub fn prefilled(&self, took: Duration) {
        self.prefill_seconds.observe(took.as_secs_f64());
    }

    /// Counts one request with KV transfer parameters of the client's.
    pub fn stripped(&self) {
        self.stripped.inc();
    }

    /// Counts answers and lines left as they are because of their size.
    pub fn usage_skipped(&self, count: u64) {
        self.usage_skipped.inc_by(count);
    }

    fn ended(&self, leg: Leg, outcome: Outcome) {
        let labels = LegLabels {
            leg: leg.word(),
            outcome: outcome.word(),
        };
        self.requests.get_or_create(&labels).inc();
    }
}

/// A request on its way; dropped without an end it counts as cancelled.
#[derive(Debug)]
#[must_use]
pub struct Open<'a> {
    metrics: &'a Metrics,
    leg: Leg,
    ended: bool,
}

impl Open<'_> {
    /// Says how it ended.
    pub fn end(mut self, outcome: Outcome) {
        self.ended = true;
        self.metrics.ended(self.leg, outcome);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.ended(self.leg, Outcome::Cancelled);
        }
    }
}
