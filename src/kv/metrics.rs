//! What is counted about prompts' tokens and engines' KV events. Label values come from closed
//! sets, so that no engine and no client can make more of them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::histogram::DurationHistogram;

/// Where tokens come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenSource {
    /// They stood in the request.
    Request,
    /// The tokenizer in this process.
    Local,
    /// The engine.
    Remote,
    /// There was nobody to ask.
    None,
}

impl TokenSource {
    /// Every source, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Request, Self::Local, Self::Remote, Self::None];

    fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Local => "local",
            Self::Remote => "remote",
            Self::None => "none",
        }
    }
}

/// The outcome of a prompt whose tokens are known.
pub const TOKENS_KNOWN: &str = "ok";

/// What became of the tokenizer files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenizerFiles {
    /// None were given.
    None,
    /// They are used.
    Loaded,
    /// They cannot be used; the engines are asked instead.
    Broken,
}

/// What happened to one pod's stream of events, or to a message in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamEvent {
    /// Batches are missing: the pod's blocks were forgotten.
    Gap,
    /// The engine counts from the start again: the pod's blocks were forgotten.
    Restart,
    /// The first batch seen was not the engine's first.
    JoinedLate,
    /// The connection was lost or not made.
    Reconnect,
    /// A topic that names another endpoint; dropped.
    Foreign,
    /// A topic that names another model; dropped.
    OtherModel,
    /// Not three frames, or a sequence that is not eight bytes; dropped.
    BadFrames,
    /// A payload of which nothing could be read; dropped.
    BadPayload,
    /// The writer was busy, so the pod's events had to wait.
    QueueFull,
}

/// What became of blocks in the index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BlockOutcome {
    /// Held from now on.
    Stored,
    /// Held already; one more copy.
    Duplicate,
    /// No longer held.
    Removed,
    /// No longer held, all at once.
    Cleared,
    /// Not indexed: the block before them is not known.
    UnknownParent,
    /// Not removed: they were not known.
    UnknownHash,
    /// Not indexed: of a kind whose blocks are not reusable prefixes.
    SkippedKind,
    /// Not indexed: tokens and blocks do not fit together.
    OddSize,
    /// Not indexed: they hold more than tokens.
    Opaque,
    /// Not indexed: their hash names other blocks already.
    Conflicting,
    /// Not indexed: the index is full.
    OverLimit,
}

/// What the request path tells the index when it can.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hint {
    /// Blocks an endpoint will hold soon.
    Speculation,
    /// Blocks an endpoint was sent.
    History,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TokenLabel {
    source: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct SourceLabel {
    source: &'static str,
}

/// The metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    batches: Counter,
    events: Family<TypeLabel, Counter>,
    rejected: Family<ReasonLabel, Counter>,
    stream: Family<TypeLabel, Counter>,
    peers: Family<ReasonLabel, Counter>,
    blocks: Family<OutcomeLabel, Counter>,
    dropped: Family<TypeLabel, Counter>,
    endpoints: Family<StateLabel, Gauge>,
    held: Gauge,
    tokenized: Family<TokenLabel, Counter>,
    tokenize_seconds: Family<SourceLabel, DurationHistogram>,
    /// The series that every request counts in, in the order of [`TokenSource::ALL`]: a family
    /// looks them up under a lock.
    token_sources: [TokenSeries; TokenSource::ALL.len()],
    tokenizer: Family<StateLabel, Gauge>,
}

/// The series of one source of tokens.
#[derive(Clone, Debug)]
struct TokenSeries {
    ok: Counter,
    seconds: DurationHistogram,
}

fn tokenize_seconds() -> DurationHistogram {
    let microseconds = [
        10, 50, 200, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    ];
    DurationHistogram::new(microseconds.map(Duration::from_micros))
}

impl Metrics {
    /// Registers every metric, under `llm_d_epp_kv_`.
    pub fn register(registry: &mut Registry) -> Self {
        let tokenized: Family<TokenLabel, Counter> = Family::default();
        let tokenize_seconds =
            Family::<SourceLabel, DurationHistogram>::new_with_constructor(tokenize_seconds);
        let metrics = Self {
            token_sources: TokenSource::ALL.map(|source| {
                let source = source.label();
                let outcome = TOKENS_KNOWN;
                TokenSeries {
                    ok: tokenized.get_or_create_owned(&TokenLabel { source, outcome }),
                    seconds: tokenize_seconds.get_or_create_owned(&SourceLabel { source }),
                }
            }),
            batches: Counter::default(),
            events: Family::default(),
            rejected: Family::default(),
            stream: Family::default(),
            peers: Family::default(),
            blocks: Family::default(),
            dropped: Family::default(),
            endpoints: Family::default(),
            held: Gauge::default(),
            tokenized,
            tokenize_seconds,
            tokenizer: Family::default(),
        };
        let own = registry.sub_registry_with_prefix("llm_d_epp_kv");
        let copy = metrics.clone();
        own.register("batches", "Batches of KV events applied", copy.batches);
        own.register("events", "KV events applied, by type", copy.events);
        own.register(
            "events_rejected",
            "KV events that could not be read, by reason",
            copy.rejected,
        );
        own.register(
            "stream_events",
            "Gaps, restarts and bad messages in engines' KV event streams",
            copy.stream,
        );
        own.register(
            "peers_dropped",
            "KV event connections ended because the engine broke the protocol or a limit, by reason",
            copy.peers,
        );
        own.register("blocks", "Blocks of KV events, by outcome", copy.blocks);
        own.register(
            "hints_dropped",
            "Hints of the request path dropped because the index writer was busy",
            copy.dropped,
        );
        own.register(
            "endpoints",
            "Endpoints whose KV events are wanted, by state",
            copy.endpoints,
        );
        own.register("index_blocks", "Distinct blocks in the index", copy.held);
        own.register(
            "tokenized",
            "Prompts tokenized, by source and outcome",
            copy.tokenized,
        );
        own.register(
            "tokenizer",
            "1 for the state of the tokenizer files: none, loaded or broken",
            copy.tokenizer,
        );
        own.register(
            "tokenize_seconds",
            "Time to get a prompt's tokens, by source",
            copy.tokenize_seconds,
        );
        metrics
    }

    /// Says what became of the tokenizer files.
    pub fn tokenizer(&self, state: TokenizerFiles) {
        let state = match state {
            TokenizerFiles::None => "none",
            TokenizerFiles::Loaded => "loaded",
            TokenizerFiles::Broken => "broken",
        };
        self.tokenizer.get_or_create(&StateLabel { state }).set(1);
    }

    /// Counts one prompt. `outcome` is [`TOKENS_KNOWN`] or a reason of a closed set.
    pub fn tokenized(&self, source: TokenSource, outcome: &'static str, took: Duration) {
        let series = &self.token_sources[source as usize];
        if outcome == TOKENS_KNOWN {
            series.ok.inc();
        } else {
            let source = source.label();
            let label = TokenLabel { source, outcome };
            self.tokenized.get_or_create(&label).inc();
        }
        series.seconds.observe(took);
    }

    /// Counts one batch and its events.
    pub fn batch(&self, stored: u64, removed: u64, cleared: u64) {
        self.batches.inc();
        for (name, count) in [
            ("stored", stored),
            ("removed", removed),
            ("cleared", cleared),
        ] {
            if count > 0 {
                self.events
                    .get_or_create(&TypeLabel { r#type: name })
                    .inc_by(count);
            }
        }
    }

    /// Counts one event that could not be read, by its reason's label.
    pub fn rejected(&self, reason: &'static str) {
        self.rejected.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts something about a pod's stream.
    pub fn stream(&self, event: StreamEvent) {
        let name = match event {
            StreamEvent::Gap => "gap",
            StreamEvent::Restart => "restart",
            StreamEvent::JoinedLate => "joined_late",
            StreamEvent::Reconnect => "reconnect",
            StreamEvent::Foreign => "foreign",
            StreamEvent::OtherModel => "other_model",
            StreamEvent::BadFrames => "bad_frames",
            StreamEvent::BadPayload => "bad_payload",
            StreamEvent::QueueFull => "queue_full",
        };
        self.stream.get_or_create(&TypeLabel { r#type: name }).inc();
    }

    /// Counts one connection that was ended because of what the peer did, by the reason's
    /// label.
    pub fn peer_dropped(&self, reason: &'static str) {
        self.peers.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts blocks.
    pub fn blocks(&self, outcome: BlockOutcome, count: u64) {
        if count == 0 {
            return;
        }
        let outcome = match outcome {
            BlockOutcome::Stored => "stored",
            BlockOutcome::Duplicate => "duplicate",
            BlockOutcome::Removed => "removed",
            BlockOutcome::Cleared => "cleared",
            BlockOutcome::UnknownParent => "unknown_parent",
            BlockOutcome::UnknownHash => "unknown_hash",
            BlockOutcome::SkippedKind => "skipped_kind",
            BlockOutcome::OddSize => "odd_size",
            BlockOutcome::Opaque => "opaque",
            BlockOutcome::Conflicting => "conflicting",
            BlockOutcome::OverLimit => "over_limit",
        };
        self.blocks
            .get_or_create(&OutcomeLabel { outcome })
            .inc_by(count);
    }

    /// Counts one hint that found the writer's queue full.
    pub fn dropped(&self, hint: Hint) {
        let name = match hint {
            Hint::Speculation => "speculation",
            Hint::History => "history",
        };
        self.dropped
            .get_or_create(&TypeLabel { r#type: name })
            .inc();
    }

    /// Says how many endpoints there are: all, those that report, those that are cold.
    pub fn endpoints(&self, subscribed: usize, reporting: usize, cold: usize) {
        for (state, count) in [
            ("subscribed", subscribed),
            ("reporting", reporting),
            ("cold", cold),
        ] {
            self.endpoints
                .get_or_create(&StateLabel { state })
                .set(count as i64);
        }
    }

    /// Says how many distinct blocks the index holds.
    pub fn held(&self, blocks: usize) {
        self.held.set(blocks as i64);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn each_source_of_tokens_is_counted_under_its_own_word() {
        for source in TokenSource::ALL {
            let mut registry = Registry::default();
            let metrics = Metrics::register(&mut registry);
            metrics.tokenized(source, TOKENS_KNOWN, Duration::from_micros(1));
            metrics.tokenized(source, "a_reason", Duration::from_micros(1));
            let mut page = String::new();
            encode(&mut page, &registry).unwrap();
            let source = source.label();
            for series in [
                format!(r#"tokenized_total{{source="{source}",outcome="ok"}} 1"#),
                format!(r#"tokenized_total{{source="{source}",outcome="a_reason"}} 1"#),
                format!(r#"tokenize_seconds_count{{source="{source}"}} 2"#),
            ] {
                assert!(page.contains(&series), "{series}: {page}");
            }
        }
    }
}
