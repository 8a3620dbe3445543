//! Names of plugin types: which part of a pipeline each one is here, what does the work of those
//! that are none, and which exist upstream only. PURE: one table.

/// What a plugin type is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Scorer,
    Filter,
    Picker,
    Handler,
    Decider,
    /// Nothing to configure: this does its work.
    Elsewhere(&'static str),
}

/// A plugin type that is known here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The name to write in its place, where upstream deprecated this one.
    pub(super) new_name: Option<&'static str>,
}

const fn part(name: &'static str, kind: Kind) -> Type {
    Type {
        name,
        kind,
        new_name: None,
    }
}

const fn deprecated(name: &'static str, kind: Kind, new_name: &'static str) -> Type {
    Type {
        name,
        kind,
        new_name: Some(new_name),
    }
}

const fn elsewhere(name: &'static str, who: &'static str) -> Type {
    part(name, Kind::Elsewhere(who))
}

const METRICS: &str = "the EPP scrapes the engines' own metrics, each at its own pace";
const WATCHES: &str = "the EPP watches pods itself";
const PARSERS: &str = "the path of a request says how its body is read";
const TOKENS: &str = "prompts become tokens by --tokenizer, or by the engines' own /tokenize";
const HEADERS: &str = "the EPP sets the sidecar's headers itself";

/// Types of upstream's own parts are first, those of this EPP alone last.
pub(super) const TYPES: &[Type] = &[
    part("prefix-cache-scorer", Kind::Scorer),
    part("precise-prefix-cache-scorer", Kind::Scorer),
    part("load-aware-scorer", Kind::Scorer),
    part("queue-scorer", Kind::Scorer),
    part("running-requests-size-scorer", Kind::Scorer),
    part("kv-cache-utilization-scorer", Kind::Scorer),
    deprecated(
        "kv-cache-scorer",
        Kind::Scorer,
        "kv-cache-utilization-scorer",
    ),
    part("active-request-scorer", Kind::Scorer),
    part("session-affinity-scorer", Kind::Scorer),
    part("decode-filter", Kind::Filter),
    part("prefill-filter", Kind::Filter),
    deprecated("by-label", Kind::Filter, "label-selector-filter"),
    part("label-selector-filter", Kind::Filter),
    deprecated("by-label-selector", Kind::Filter, "label-selector-filter"),
    part("max-score-picker", Kind::Picker),
    part("random-picker", Kind::Picker),
    part("weighted-random-picker", Kind::Picker),
    part("single-profile-handler", Kind::Handler),
    part("disagg-profile-handler", Kind::Handler),
    deprecated(
        "pd-profile-handler",
        Kind::Handler,
        "disagg-profile-handler",
    ),
    part("prefix-based-pd-decider", Kind::Decider),
    part("always-disagg-pd-decider", Kind::Decider),
    elsewhere("metrics-data-source", METRICS),
    elsewhere("core-metrics-extractor", METRICS),
    elsewhere("k8s-notification-source", WATCHES),
    elsewhere("endpoint-notification-source", WATCHES),
    elsewhere("openai-parser", PARSERS),
    elsewhere("anthropic-parser", PARSERS),
    elsewhere("vllmhttp-parser", PARSERS),
    elsewhere("passthrough-parser", PARSERS),
    elsewhere("token-producer", TOKENS),
    deprecated("tokenizer", Kind::Elsewhere(TOKENS), "token-producer"),
    elsewhere(
        "approx-prefix-cache-producer",
        "the EPP remembers what it has sent to each endpoint, in blocks of 64 bytes",
    ),
    elsewhere(
        "precise-prefix-cache-producer",
        "the EPP hears the engines' KV events itself, on the ports of KV_EVENTS_PORT and KV_REPLAY_PORT",
    ),
    elsewhere(
        "inflight-load-producer",
        "the EPP counts what it has in flight to each endpoint",
    ),
    elsewhere(
        "session-id-producer",
        "session-affinity-scorer names the headers itself",
    ),
    deprecated(
        "disagg-headers-handler",
        Kind::Elsewhere(HEADERS),
        "disagg-profile-handler",
    ),
    deprecated(
        "prefill-header-handler",
        Kind::Elsewhere(HEADERS),
        "disagg-profile-handler",
    ),
    part("least-load-scorer", Kind::Scorer),
    part("char-threshold-pd-decider", Kind::Decider),
];

/// Types that upstream has and this EPP does not: no misspelling of one that it has.
const UPSTREAM_ONLY: &[&str] = &[
    "token-load-scorer",
    "no-hit-lru-scorer",
    "lora-affinity-scorer",
    "context-length-aware",
    "latency-scorer",
    "mm-embeddings-cache-scorer",
    "header-label-affinity-scorer",
    "endpoint-attribute-scorer",
    "topology-affinity-scorer",
    "encode-filter",
    "prefix-cache-affinity-filter",
    "slo-headroom-tier-filter",
    "session-affinity-filter",
    "utilization-filter",
    "endpoint-attribute-filter",
    "topology-affinity-filter",
    "header-based-testing-filter",
    "destination-endpoint-served-verifier",
    "data-parallel-profile-handler",
    "header-profile-handler",
    "always-disagg-multimodal-decider",
    "predicted-latency-producer",
    "burst-prefix-cache-producer",
    "p2p-source-producer",
    "mm-embeddings-cache-producer",
    "latency-slo-admitter",
    "probabilistic-admitter",
    "utilization-detector",
    "concurrency-detector",
    "vllmgrpc-parser",
    "sglanghttp-parser",
    "vertexai-parser",
    "global-strict-fairness-policy",
    "round-robin-fairness-policy",
    "program-aware-fairness",
    "fcfs-ordering-policy",
    "edf-ordering-policy",
    "slo-deadline-ordering-policy",
    "static-usage-limit-policy",
    "priority-holdback-policy",
    "soft-reflective-ceiling-policy",
    "models-data-source",
    "dcgm-data-source",
    "dcgm-extractor",
    "topology-extractor",
    "file-discovery",
];

/// The type of that name.
pub(super) fn find(name: &str) -> Option<&'static Type> {
    TYPES.iter().find(|known| known.name == name)
}

/// True for a type that upstream has and this EPP does not.
pub(super) fn is_upstream_only(name: &str) -> bool {
    UPSTREAM_ONLY.contains(&name) || name.starts_with("multicluster-")
}

impl Kind {
    /// What it is, as people say it.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Scorer => "a scorer",
            Self::Filter => "a filter",
            Self::Picker => "a picker",
            Self::Handler => "a profile handler",
            Self::Decider => "a decider",
            Self::Elsewhere(_) => "no part of a profile",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        let mut names: Vec<_> = TYPES.iter().map(|known| known.name).collect();
        names.extend(UPSTREAM_ONLY);
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        for new_name in TYPES.iter().filter_map(|known| known.new_name) {
            assert!(find(new_name).is_some_and(|new| new.new_name.is_none()));
        }
    }
}
