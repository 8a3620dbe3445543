//! One plugin's type and parameters -> the part of a pipeline that it is. PURE.

use std::time::Duration;

use super::document::Declared;
use super::env::DEFAULT_QUEUE_THRESHOLD;
use super::fields::{Fields, Report};

use super::handlers::{Handler, decider, handler};
use super::is_header_name;
use super::types::Kind;
use crate::scheduling::filter::{Filter, Operator, Requirement};
use crate::scheduling::picker::Picker;
use crate::scheduling::pipeline::Decider;
use crate::scheduling::scorer::{MatchLength, Scorer, SessionAffinity};

/// What a plugin is in a pipeline.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Scorer(Scorer),
    Filter(Filter),
    Picker(Picker),
    Handler(Handler),
    Decider(Decider),
    /// Nothing to configure.
    Elsewhere,
    /// Its parameters are wrong, which was said.
    Broken(Kind),
}

impl Part {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Scorer(_) => Kind::Scorer,
            Self::Filter(_) => Kind::Filter,
            Self::Picker(_) => Kind::Picker,
            Self::Handler(_) => Kind::Handler,
            Self::Decider(_) => Kind::Decider,
            Self::Elsewhere => Kind::Elsewhere(""),
            Self::Broken(kind) => *kind,
        }
    }
}

/// Makes the part of a type that is known here.
pub(super) fn make(
    type_name: &'static str,
    kind: Kind,
    mut parameters: Fields<'_>,
    declared: &Declared<'_>,
    report: &mut Report,
) -> Part {
    let errors = report.errors.len();
    let part = match kind {
        Kind::Scorer => scorer(type_name, &mut parameters, declared, report).map(Part::Scorer),
        Kind::Filter => Some(Part::Filter(filter(type_name, &mut parameters, report))),
        Kind::Picker => Some(Part::Picker(picker(type_name, &mut parameters, report))),
        Kind::Handler => Some(Part::Handler(handler(type_name, &mut parameters, report))),
        Kind::Decider => Some(Part::Decider(decider(type_name, &mut parameters, report))),
        Kind::Elsewhere(_) => {
            parameters.ignore_rest();
            Some(Part::Elsewhere)
        }
    };
    parameters.finish(report);
    match part {
        Some(part) if report.errors.len() == errors => part,
        _ => Part::Broken(kind),
    }
}

fn scorer(
    type_name: &str,
    parameters: &mut Fields<'_>,
    declared: &Declared<'_>,
    report: &mut Report,
) -> Option<Scorer> {
    Some(match type_name {
        "least-load-scorer" => Scorer::LeastLoad,
        "queue-scorer" => Scorer::Queue,
        "running-requests-size-scorer" => Scorer::RunningRequests,
        "kv-cache-utilization-scorer" | "kv-cache-scorer" => Scorer::KvUtilization,
        "load-aware-scorer" => Scorer::LoadAware {
            queue_threshold: parameters
                .take("threshold")
                .and_then(|item| item.whole(report, 1))
                .unwrap_or(DEFAULT_QUEUE_THRESHOLD),
        },
        "active-request-scorer" => {
            let ended = "a request is in flight until its answer ends";
            parameters.idle("requestTimeout", ended, report);
            parameters.idle("inFlightLoadProducerName", COUNTS, report);
            Scorer::ActiveRequests {
                idle_threshold: parameters
                    .take("idleThreshold")
                    .and_then(|item| item.whole(report, 0))
                    .unwrap_or(0),
                max_busy_score: parameters
                    .take("maxBusyScore")
                    .and_then(|item| item.number(report, 0.0, 1.0))
                    .unwrap_or(1.0),
            }
        }
        "prefix-cache-scorer" => prefix(parameters, declared, report),
        "precise-prefix-cache-scorer" => {
            for name in ["tokenProcessorConfig", "indexerConfig", "kvEventsConfig"] {
                parameters.idle(name, EVENTS, report);
            }
            for name in ["speculativeIndexing", "speculativeTTL"] {
                parameters.idle(name, "what was sent counts for 2 seconds", report);
            }
            Scorer::PreciseCache(match_length(parameters, report))
        }
        "session-affinity-scorer" => Scorer::SessionAffinity(session(parameters, report)?),
        _ => return None,
    })
}

const COUNTS: &str = "there is one count of what is in flight";
const EVENTS: &str = "the EPP hears KV events on the ports of KV_EVENTS_PORT and KV_REPLAY_PORT, and takes block sizes from the engines";

fn prefix(parameters: &mut Fields<'_>, declared: &Declared<'_>, report: &mut Report) -> Scorer {
    for name in [
        "autoTune",
        "blockSize",
        "blockSizeTokens",
        "hashBlockSize",
        "lruCapacityPerServer",
        "maxPrefixBlocksToMatch",
        "maxPrefixTokensToMatch",
    ] {
        let why = "upstream moved it to approx-prefix-cache-producer, and blocks have 64 bytes";
        parameters.idle(name, why, report);
    }
    let length = match_length(parameters, report);
    let producer = parameters.text("prefixMatchInfoProducerName", report);
    match producer.map(|(name, item)| (declared.type_of(name), name, item)) {
        None | Some((Some("approx-prefix-cache-producer"), ..)) => Scorer::PrefixCache(length),
        Some((Some("precise-prefix-cache-producer"), ..)) => Scorer::PreciseCache(length),
        Some((_, name, item)) => {
            let message = format!(
                "{name:?} is neither an approx-prefix-cache-producer nor a precise-prefix-cache-producer"
            );
            report.absent(item.at(), message);
            Scorer::PrefixCache(length)
        }
    }
}

fn match_length(parameters: &mut Fields<'_>, report: &mut Report) -> MatchLength {
    let default = MatchLength::default();
    MatchLength {
        weight: parameters
            .take("matchLengthWeight")
            .and_then(|item| item.number(report, 0.0, 1.0))
            .unwrap_or(default.weight),
        scale_tokens: parameters
            .take("matchLengthScaleTokens")
            .and_then(|item| item.whole(report, 1))
            .map_or(default.scale_tokens, |tokens| {
                u32::try_from(tokens).unwrap_or(u32::MAX)
            }),
    }
}

/// How long a session stays where nobody says, as upstream has it.
const STICKY: Duration = Duration::from_mins(5);
/// Longest time that a session may stay, in seconds: a year.
const MAX_STICKY: f64 = 366.0 * 24.0 * 3600.0;

fn session(parameters: &mut Fields<'_>, report: &mut Report) -> Option<SessionAffinity> {
    let strategy = parameters.text("strategy", report);
    match &strategy {
        Some(("session_id", _)) => {}
        Some((other, item)) => {
            report.absent(item.at(), format!("{other:?} does not exist here; session_id does"));
        }
        None => report.absent(
            parameters.at(),
            "strategy is encoded_endpoint_header where it is not given, which does not exist here; write strategy: session_id",
        ),
    }
    parameters.idle(
        "encodedEndpointHeaderConfig",
        "it belongs to another strategy",
        report,
    );
    let bound = "a session is bound to its decode endpoint";
    parameters.idle("profileName", bound, report);
    let queue_threshold = parameters
        .take("queueThreshold")
        .and_then(|item| item.whole(report, 1))
        .unwrap_or(DEFAULT_QUEUE_THRESHOLD);
    let mut config = parameters.fields("sessionIdConfig", report);
    config.idle(
        "evictionSweepSeconds",
        "it follows from evictionTtlSeconds",
        report,
    );
    // Upstream takes 0 for its default.
    let sticky = config
        .take("evictionTtlSeconds")
        .and_then(|item| item.number(report, 0.0, MAX_STICKY))
        .filter(|seconds| *seconds > 0.0)
        .map_or(STICKY, Duration::from_secs_f64);
    let mut headers = Vec::new();
    for source in config.list("sources", report) {
        let Some(mut fields) = source.fields(report) else {
            continue;
        };
        let no_attributes = "requests have no attributes; name a header";
        fields.refuse("attribute", no_attributes, report);
        fields.refuse("producer", no_attributes, report);
        match fields.text("header", report) {
            Some((name, _)) if is_header_name(name) => headers.push(name.to_ascii_lowercase()),
            Some((name, item)) => {
                report.error(item.at(), format!("{name:?} is not the name of a header"));
            }
            None => report.error(source.at(), "a header is wanted"),
        }
        fields.finish(report);
    }
    config.finish(report);
    if headers.is_empty() {
        headers.push("x-session-id".to_owned());
    }
    strategy.is_some().then_some(SessionAffinity {
        headers,
        sticky,
        queue_threshold,
    })
}

fn filter(type_name: &str, parameters: &mut Fields<'_>, report: &mut Report) -> Filter {
    match type_name {
        "decode-filter" => Filter::Decode,
        "prefill-filter" => Filter::Prefill,
        "by-label" => by_label(parameters, report),
        _ => Filter::LabelSelector(selector(parameters, report)),
    }
}

fn by_label(parameters: &mut Fields<'_>, report: &mut Report) -> Filter {
    let label = parameters.text("label", report).map(|(label, _)| label);
    if label.is_none() {
        report.error(parameters.at(), "label is wanted");
    }
    let values: Vec<_> = parameters
        .list("validValues", report)
        .iter()
        .filter_map(|item| item.text(report).map(str::to_owned))
        .collect();
    let allows_no_label = parameters
        .take("allowsNoLabel")
        .and_then(|item| item.flag(report))
        .unwrap_or(false);
    if values.is_empty() && !allows_no_label {
        report.error(
            parameters.at(),
            "nothing would pass: validValues or allowsNoLabel is wanted",
        );
    }
    Filter::ByLabel {
        label: label.unwrap_or_default().to_owned(),
        values,
        allows_no_label,
    }
}

fn selector(parameters: &mut Fields<'_>, report: &mut Report) -> Vec<Requirement> {
    let mut requirements = Vec::new();
    if let Some(labels) = parameters.take("matchLabels") {
        let equal = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::In,
            values: vec![value.to_owned()],
        };
        requirements.extend(labels.pairs(report).into_iter().map(equal));
    }
    for item in parameters.list("matchExpressions", report) {
        let Some(mut fields) = item.fields(report) else {
            continue;
        };
        let key = fields.text("key", report).map(|(key, _)| key);
        let operator = fields.text("operator", report).and_then(|(word, at)| {
            let known = Operator::ALL.into_iter().find(|o| o.as_str() == word);
            if known.is_none() {
                let message = format!("{word:?} is none of In, NotIn, Exists and DoesNotExist");
                report.error(at.at(), message);
            }
            known
        });
        let values: Vec<_> = fields
            .list("values", report)
            .iter()
            .filter_map(|item| item.text(report).map(str::to_owned))
            .collect();
        fields.finish(report);
        match (key, operator) {
            (Some(key), Some(operator)) if operator.wants_values() != values.is_empty() => {
                requirements.push(Requirement {
                    key: key.to_owned(),
                    operator,
                    values,
                });
            }
            (Some(_), Some(operator)) => {
                let wants = if operator.wants_values() {
                    "wants"
                } else {
                    "takes no"
                };
                report.error(item.at(), format!("{} {wants} values", operator.as_str()));
            }
            _ => report.error(item.at(), "key and operator are wanted"),
        }
    }
    requirements
}

fn picker(type_name: &str, parameters: &mut Fields<'_>, report: &mut Report) -> Picker {
    if let Some(item) = parameters.take("maxNumOfEndpoints")
        && item.whole(report, 1).is_some_and(|most| most > 1)
    {
        report.warn(item.at(), "does nothing here: one endpoint is picked");
    }
    let picker = Picker::ALL.into_iter().find(|p| p.name() == type_name);
    picker.unwrap_or_default()
}
