//! Documents -> pipelines, and what is said about the others.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::{SchedulingConfig, SettingError};
use crate::scheduling::filter::{Filter, Operator, Requirement};
use crate::scheduling::picker::Picker;
use crate::scheduling::pipeline::{
    Decider, Pipeline, Profile, ProfileHandler, Weight, WeightedScorer,
};
use crate::scheduling::scorer::{MatchLength, Scorer, SessionAffinity};

const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    owned.collect()
}

/// The pipeline of a document and the warnings about it; `body` follows the two header lines.
fn read(body: &str) -> (Pipeline, Vec<String>) {
    match SchedulingConfig::from_document(&format!("{HEAD}{body}"), &env(&[])) {
        Ok((config, warnings)) => {
            let said = |w: &super::SettingWarning| format!("{} {}", w.at, w.message);
            (config.pipeline, warnings.iter().map(said).collect())
        }
        Err(errors) => panic!("{}", said(&errors).join("\n")),
    }
}

fn said(errors: &[SettingError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// Everything that is said against a document.
fn wrong(body: &str) -> Vec<String> {
    let document = format!("{HEAD}{body}");
    match SchedulingConfig::from_document(&document, &env(&[])) {
        Ok((config, _)) => panic!("{config:?}"),
        Err(errors) => said(&errors),
    }
}

fn weighted(scorer: Scorer, weight: f64) -> WeightedScorer {
    WeightedScorer {
        scorer,
        weight: Weight::new(weight).unwrap(),
    }
}

#[test]
fn a_document_of_upstreams_for_prefill_and_decode_is_understood() {
    let (pipeline, warnings) = read(
        "plugins:
- type: approx-prefix-cache-producer
  parameters: {maxPrefixTokensToMatch: 16384}
- type: prefix-cache-scorer
- type: queue-scorer
- type: prefill-filter
- type: decode-filter
- type: max-score-picker
- type: disagg-profile-handler
  parameters:
    deciders: {prefill: prefix-based-pd-decider}
- type: prefix-based-pd-decider
  parameters: {nonCachedTokens: 16}
schedulingProfiles:
- name: prefill
  plugins:
  - pluginRef: prefill-filter
  - pluginRef: max-score-picker
  - {pluginRef: prefix-cache-scorer, weight: 2}
  - {pluginRef: queue-scorer, weight: 0.5}
- name: decode
  plugins:
  - pluginRef: decode-filter
  - pluginRef: max-score-picker
  - {pluginRef: prefix-cache-scorer, weight: 2}
  - pluginRef: queue-scorer
",
    );
    let prefix = Scorer::PrefixCache(MatchLength::default());
    let profile = |name: &str, filter, queue| Profile {
        name: name.to_owned(),
        filters: vec![filter],
        scorers: vec![
            weighted(prefix.clone(), 2.0),
            weighted(Scorer::Queue, queue),
        ],
        picker: Picker::MaxScore,
    };
    assert_eq!(
        pipeline,
        Pipeline {
            handler: ProfileHandler::Disagg {
                prefill: profile("prefill", Filter::Prefill, 0.5),
                decider: Decider::PrefixBased {
                    non_cached_tokens: 16,
                    prompt_tokens: 0
                },
            },
            decode: profile("decode", Filter::Decode, 1.0),
        }
    );
    assert_eq!(
        warnings,
        [
            "line 4: plugins[0].type \"approx-prefix-cache-producer\" does nothing here: the EPP remembers what it has sent to each endpoint, in blocks of 64 bytes"
        ]
    );
}

#[test]
fn every_part_is_read_with_its_parameters() {
    let (pipeline, warnings) = read(
        "plugins:
- {type: load-aware-scorer, parameters: {threshold: 64}}
- {type: running-requests-size-scorer}
- {type: kv-cache-utilization-scorer}
- {type: active-request-scorer, parameters: {idleThreshold: 2, maxBusyScore: 0.5}}
- {type: least-load-scorer}
- {type: precise-prefix-cache-producer, name: events}
- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: events, matchLengthWeight: 0.25, matchLengthScaleTokens: 1000}}
- {type: precise-prefix-cache-scorer}
- type: session-affinity-scorer
  parameters:
    strategy: session_id
    sessionIdConfig: {sources: [{header: X-Session-Id}, {header: session-id}], evictionTtlSeconds: 60}
    queueThreshold: 7
- type: label-selector-filter
  parameters:
    matchLabels: {gpu: h100}
    matchExpressions: [{key: zone, operator: NotIn, values: [a, b]}, {key: spot, operator: DoesNotExist}]
- {type: weighted-random-picker}
",
    );
    let requirement = |key: &str, operator, values: &[&str]| Requirement {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    let length = MatchLength {
        weight: 0.25,
        scale_tokens: 1000,
    };
    let session = SessionAffinity {
        headers: vec!["x-session-id".to_owned(), "session-id".to_owned()],
        sticky: Duration::from_mins(1),
        queue_threshold: 7,
    };
    let busy = Scorer::ActiveRequests {
        idle_threshold: 2,
        max_busy_score: 0.5,
    };
    let scorers = [
        Scorer::LoadAware {
            queue_threshold: 64,
        },
        Scorer::RunningRequests,
        Scorer::KvUtilization,
        busy,
        Scorer::LeastLoad,
        Scorer::PreciseCache(length),
        Scorer::PreciseCache(MatchLength::default()),
        Scorer::SessionAffinity(session),
    ];
    let expected = Profile {
        name: "default".to_owned(),
        filters: vec![Filter::LabelSelector(vec![
            requirement("gpu", Operator::In, &["h100"]),
            requirement("zone", Operator::NotIn, &["a", "b"]),
            requirement("spot", Operator::DoesNotExist, &[]),
        ])],
        scorers: scorers.into_iter().map(|s| weighted(s, 1.0)).collect(),
        picker: Picker::WeightedRandom,
    };
    assert_eq!(pipeline.decode, expected);
    assert_eq!(pipeline.handler, ProfileHandler::Single);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn what_is_not_written_is_filled_in_as_upstream_does() {
    let (pipeline, _) = read(
        "plugins: [{type: random-picker}, {type: max-score-picker}, {type: queue-scorer}]
schedulingProfiles:
- {name: only, plugins: [{pluginRef: queue-scorer}]}
",
    );
    assert_eq!(pipeline.handler, ProfileHandler::Single);
    assert_eq!(
        pipeline.decode,
        Profile {
            name: "only".to_owned(),
            filters: Vec::new(),
            scorers: vec![weighted(Scorer::Queue, 1.0)],
            picker: Picker::Random,
        },
        "the first declared picker, and a weight of 1"
    );
    let (pipeline, warnings) = read("plugins: []\n");
    assert_eq!(pipeline.decode.picker, Picker::MaxScore);
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn what_is_deprecated_is_understood_and_its_new_name_said() {
    let document = "apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: kv-cache-scorer
- type: by-label
  parameters: {label: role, validValues: [decode], allowsNoLabel: true}
- type: prefill-header-handler
- type: pd-profile-handler
  parameters: {threshold: 10, decodeProfile: d, prefillProfile: p, hashBlockSize: 5}
schedulingProfiles:
- {name: d, plugins: [{pluginRef: by-label}, {pluginRef: kv-cache-scorer}]}
- {name: p, plugins: []}
parser: {pluginRef: openai-parser}
";
    let (config, warnings) = SchedulingConfig::from_document(document, &env(&[])).unwrap();
    let ProfileHandler::Disagg { prefill, decider } = config.pipeline.handler else {
        panic!("no prefill");
    };
    assert_eq!(prefill.name, "p");
    assert_eq!(
        decider,
        Decider::CharThreshold {
            chars: 10,
            cache_aware: true
        }
    );
    let decode = config.pipeline.decode;
    assert_eq!(decode.scorers, [weighted(Scorer::KvUtilization, 1.0)]);
    let text: Vec<_> = warnings
        .iter()
        .map(|warning| format!("{} {}", warning.at, warning.message))
        .collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    line 1: apiVersion inference.networking.x-k8s.io/v1alpha1 is deprecated; write llm-d.ai/v1alpha1
    line 4: plugins[0].type "kv-cache-scorer" is deprecated; write kv-cache-utilization-scorer
    line 5: plugins[1].type "by-label" is deprecated; write label-selector-filter
    line 7: plugins[2].type "prefill-header-handler" is deprecated; write disagg-profile-handler
    line 7: plugins[2].type "prefill-header-handler" does nothing here: the EPP sets the sidecar's headers itself
    line 8: plugins[3].type "pd-profile-handler" is deprecated; write disagg-profile-handler
    line 9: plugins[3].parameters.decodeProfile is deprecated; write profiles.decode of a disagg-profile-handler
    line 9: plugins[3].parameters.hashBlockSize does nothing here: how much of a prompt an endpoint holds is known without
    line 9: plugins[3].parameters.prefillProfile is deprecated; write profiles.prefill of a disagg-profile-handler
    line 9: plugins[3].parameters.threshold is deprecated; write a char-threshold-pd-decider with chars
    line 13: parser is deprecated; write requestHandler.parsers
    "#);
}

#[test]
fn what_does_nothing_is_loud() {
    let (_, warnings) = read(
        "plugins:
- type: queue-scorer
- type: decode-filter
- {type: always-disagg-pd-decider}
- {type: max-score-picker, parameters: {maxNumOfEndpoints: 3}}
- {type: disagg-profile-handler}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter, weight: 2}]}
- {name: spare, plugins: []}
featureGates: [dataLayer, flowControl=false]
",
    );
    insta::assert_snapshot!(warnings.join("\n"), @r#"
    line 4: plugins[0] is in no profile and does nothing
    line 6: plugins[2] is no handler's decider and does nothing
    line 7: plugins[3].parameters.maxNumOfEndpoints does nothing here: one endpoint is picked
    line 8: plugins[4].parameters has no deciders.prefill: no prompt is ever computed on a prefill endpoint
    line 10: schedulingProfiles[0].plugins[0].weight does nothing: only scorers have weights
    line 11: schedulingProfiles[1] profile "spare" is never run
    line 12: featureGates[0] "dataLayer" does nothing: it is always on
    "#);
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_path_and_line() {
    let errors = wrong(
        "plugins:
- type: queu-scorer
- type: latency-scorer
- type: load-aware-scorer
  parameters: {treshold: 5}
- {type: active-request-scorer, parameters: {maxBusyScore: 1.5, idleThreshold: -1}}
- {type: session-affinity-scorer}
- {type: decode-filter, nmae: x}
- {type: decode-filter}
- {type: label-selector-filter, parameters: {matchExpressions: [{key: a, operator: Is}]}}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: load-aware-scorer, weight: -1}
  - {pluginRef: load-aware-scorer, weight: .inf}
  - {pluginRef: load-aware-scorer, weight: heavy}
  - {pluginRef: decode-fliter}
flowControl: {maxRequests: 5}
featureGates: [flowControl]
scheduler: {}
",
    );
    insta::assert_snapshot!(errors.join("\n"), @r#"
    line 4: plugins[0].type: "queu-scorer" does not exist here; did you mean queue-scorer?
    line 5: plugins[1].type: "latency-scorer" does not exist here
    line 7: plugins[2].parameters.treshold: is not a field here; did you mean threshold?
    line 8: plugins[3].parameters.idleThreshold: -1 is out of range; a whole number of at least 0 is wanted
    line 8: plugins[3].parameters.maxBusyScore: 1.5 is out of range; a number from 0 to 1 is wanted
    line 9: plugins[4].parameters: strategy is encoded_endpoint_header where it is not given, which does not exist here; write strategy: session_id
    line 10: plugins[5].nmae: is not a field here; did you mean name?
    line 11: plugins[6]: "decode-filter" is the name of another plugin
    line 12: plugins[7].parameters.matchExpressions[0]: key and operator are wanted
    line 12: plugins[7].parameters.matchExpressions[0].operator: "Is" is none of In, NotIn, Exists and DoesNotExist
    line 16: schedulingProfiles[0].plugins[0].weight: -1 is out of range; a number from 0 to 1000000 is wanted
    line 17: schedulingProfiles[0].plugins[1].weight: inf is out of range; a number from 0 to 1000000 is wanted
    line 18: schedulingProfiles[0].plugins[2].weight: "heavy" is text; a number is wanted
    line 19: schedulingProfiles[0].plugins[3].pluginRef: there is no plugin "decode-fliter"; did you mean decode-filter?
    line 20: flowControl: does not exist here: requests are neither queued nor shed by the EPP
    line 21: featureGates[0]: "flowControl" does not exist here
    line 22: scheduler: is not a field here; there are apiVersion, kind, featureGates, plugins, schedulingProfiles, parser, requestHandler, dataLayer, flowControl, saturationDetector
    "#);
}

#[test]
fn profiles_and_handlers_must_fit() {
    let body = |handler: &str| {
        format!(
            "plugins: [{{type: queue-scorer}}, {{type: always-disagg-pd-decider}}{handler}]
schedulingProfiles:
- {{name: decode, plugins: []}}
- {{name: other, plugins: []}}
"
        )
    };
    let cases = [
        (
            "",
            "line 6: schedulingProfiles[1]: is a second profile, which wants a disagg-profile-handler in plugins",
        ),
        (
            ", {type: disagg-profile-handler, parameters: {deciders: {prefill: queue-scorer}}}",
            "line 3: plugins[2].parameters.deciders.prefill: \"queue-scorer\" is a scorer; a decider is wanted",
        ),
        (
            ", {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}",
            "line 3: plugins[2]: wants a profile \"prefill\", which schedulingProfiles does not have",
        ),
        (
            ", {type: disagg-profile-handler, parameters: {stageOrder: prefill-first, profiles: {prefill: other}}}",
            "line 3: plugins[2].parameters.stageOrder: \"prefill-first\" does not exist here; decode-first does",
        ),
        (
            ", {type: single-profile-handler}, {type: disagg-profile-handler, parameters: {deciders: {encode: x}}}",
            "line 3: plugins[3].parameters.deciders.encode: does not exist here: no profile chooses where images are encoded",
        ),
    ];
    for (handler, expected) in cases {
        let errors = wrong(&body(handler));
        assert!(errors.iter().any(|error| error == expected), "{errors:#?}");
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    let cases = [
        ("", "EndpointPickerConfig"),
        ("just text", "\"just text\" is text; a mapping is wanted"),
        ("a: [1", "EndpointPickerConfig"),
        ("{}", "apiVersion is wanted: llm-d.ai/v1alpha1"),
        ("{}", "kind is wanted: EndpointPickerConfig"),
        (
            "apiVersion: llm-d.ai/v1\nkind: Pod",
            "line 1: apiVersion: \"llm-d.ai/v1\" is not known; write llm-d.ai/v1alpha1",
        ),
        (
            "apiVersion: llm-d.ai/v1\nkind: Pod",
            "line 2: kind: \"Pod\" is not known; write EndpointPickerConfig",
        ),
        ("kind: a\nkind: b", "line 2"),
    ];
    for (document, expected) in cases {
        let errors = SchedulingConfig::from_document(document, &env(&[])).unwrap_err();
        let errors = said(&errors);
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{document:?}: {errors:?}"
        );
    }
}

#[test]
fn only_what_upstream_has_is_marked_so() {
    let document = format!("{HEAD}plugins: [{{type: latency-scorer}}, {{type: latecy}}]\n");
    let errors = SchedulingConfig::from_document(&document, &env(&[])).unwrap_err();
    let marks: Vec<_> = errors.iter().map(|error| error.upstream_only).collect();
    assert_eq!(marks, [true, false]);
}

#[test]
fn scorers_that_look_at_one_table_of_sessions_must_agree() {
    let scorer = |name, seconds| {
        format!(
            "- {{name: {name}, type: session-affinity-scorer, parameters: {{strategy: session_id, sessionIdConfig: {{evictionTtlSeconds: {seconds}}}}}}}\n"
        )
    };
    let agreeing = format!("plugins:\n{}{}", scorer("a", 5), scorer("b", 5));
    assert_eq!(read(&agreeing).0.decode.scorers.len(), 2);
    let different = format!("plugins:\n{}{}", scorer("a", 5), scorer("b", 6));
    assert!(wrong(&different)[0].contains("sessions are bound once"));
}

#[test]
fn a_document_counts_in_place_of_the_environment() {
    let variables = env(&[
        ("ENABLE_LOAD_AWARE_SCORER", "true"),
        ("PD_ENABLED", "true"),
        ("KVCACHE_INDEXER_REDIS_ADDR", "redis:6379"),
        ("HOME", "/"),
    ]);
    let document = format!("{HEAD}plugins: [{{type: queue-scorer}}]\n");
    let (config, warnings) = SchedulingConfig::from_document(&document, &variables).unwrap();
    assert_eq!(config.pipeline.handler, ProfileHandler::Single);
    assert_eq!(config.redis_addr.as_deref(), Some("redis:6379"));
    let names: Vec<_> = warnings
        .iter()
        .map(|warning| warning.at.to_string())
        .collect();
    assert_eq!(names, ["ENABLE_LOAD_AWARE_SCORER", "PD_ENABLED"]);
}

#[test]
fn the_articles_environment_prints_as_a_document() {
    let variables = env(&[
        ("ENABLE_KVCACHE_AWARE_SCORER", "true"),
        ("KVCACHE_AWARE_SCORER_WEIGHT", "10"),
        ("ENABLE_LOAD_AWARE_SCORER", "true"),
        ("ENABLE_SESSION_AWARE_SCORER", "true"),
        ("SESSION_AWARE_SCORER_WEIGHT", "20"),
        (
            "SESSION_HEADER_NAMES",
            "session-id,x-session-id,authorization",
        ),
        ("PD_ENABLED", "true"),
        ("PREFILL_ENABLE_KVCACHE_AWARE_SCORER", "true"),
    ]);
    let (config, _) = SchedulingConfig::from_env(&variables).unwrap();
    insta::assert_snapshot!(serde_yaml::to_string(&config.to_document()).unwrap(), @r"
    apiVersion: llm-d.ai/v1alpha1
    kind: EndpointPickerConfig
    plugins:
    - type: decode-filter
    - type: least-load-scorer
    - type: session-affinity-scorer
      parameters:
        strategy: session_id
        sessionIdConfig:
          sources:
          - header: session-id
          - header: x-session-id
          - header: authorization
          evictionTtlSeconds: 3600
        queueThreshold: 128
    - type: precise-prefix-cache-scorer
    - type: max-score-picker
    - type: prefill-filter
    - type: char-threshold-pd-decider
      parameters:
        chars: 100
        cacheAware: true
    - type: disagg-profile-handler
      parameters:
        profiles:
          decode: decode
          prefill: prefill
        deciders:
          prefill: char-threshold-pd-decider
    schedulingProfiles:
    - name: decode
      plugins:
      - pluginRef: decode-filter
      - pluginRef: least-load-scorer
        weight: 1
      - pluginRef: session-affinity-scorer
        weight: 20
      - pluginRef: precise-prefix-cache-scorer
        weight: 10
      - pluginRef: max-score-picker
    - name: prefill
      plugins:
      - pluginRef: prefill-filter
      - pluginRef: precise-prefix-cache-scorer
        weight: 1
      - pluginRef: max-score-picker
    ");
}

prop_compose! {
    fn label_filters()(label in "[a-z]{1,8}", values in prop::collection::vec("[a-z0-9]{1,8}", 1..3), kind in 0_usize..5, allows_no_label: bool) -> Filter {
        if kind == 4 {
            return Filter::ByLabel { label, values, allows_no_label };
        }
        let operator = Operator::ALL[kind];
        let values = if operator.wants_values() { values } else { Vec::new() };
        Filter::LabelSelector(vec![Requirement { key: label, operator, values }])
    }
}

fn scorers() -> impl Strategy<Value = Scorer> {
    let length = (0.0..=1.0, 1_u32..).prop_map(|(weight, scale_tokens)| MatchLength {
        weight,
        scale_tokens,
    });
    prop_oneof![
        Just(Scorer::LeastLoad),
        Just(Scorer::Queue),
        Just(Scorer::RunningRequests),
        Just(Scorer::KvUtilization),
        (1_u64..).prop_map(|queue_threshold| Scorer::LoadAware { queue_threshold }),
        (0_u64.., 0.0..=1.0).prop_map(|(idle_threshold, max_busy_score)| {
            Scorer::ActiveRequests {
                idle_threshold,
                max_busy_score,
            }
        }),
        length.clone().prop_map(Scorer::PrefixCache),
        length.prop_map(Scorer::PreciseCache),
    ]
}

prop_compose! {
    fn profiles(name: &'static str)(filters in prop::collection::vec(prop_oneof![Just(Filter::Decode), Just(Filter::Prefill), label_filters()], 0..4),
        scorers in prop::collection::vec((scorers(), 0.0..=Weight::MAX), 0..5), picker in 0_usize..3) -> Profile {
        let scorers = scorers.into_iter().map(|(scorer, weight)| weighted(scorer, weight)).collect();
        Profile { name: name.to_owned(), filters, scorers, picker: Picker::ALL[picker] }
    }
}

prop_compose! {
    fn pipelines()(decode in profiles("decode"), prefill in prop::option::of(profiles("prefill")), tokens in 1_usize..1_000_000, kind in 0..3,
        session in prop::option::of((0_usize..2, 1_u64..1_000_000, 1_u64..))) -> Pipeline {
        let decider = match kind {
            0 => Decider::Always,
            1 => Decider::CharThreshold { chars: tokens, cache_aware: tokens % 2 == 0 },
            _ => Decider::PrefixBased { non_cached_tokens: tokens, prompt_tokens: tokens / 3 },
        };
        let handler = prefill.map_or(ProfileHandler::Single, |prefill| ProfileHandler::Disagg { prefill, decider });
        let mut pipeline = Pipeline { handler, decode };
        if let Some((headers, millis, queue_threshold)) = session {
            let headers = ["x-session-id", "authorization"][headers..].iter().map(|name| (*name).to_owned()).collect();
            let affinity = SessionAffinity { headers, sticky: Duration::from_millis(millis), queue_threshold };
            pipeline.decode.scorers.push(weighted(Scorer::SessionAffinity(affinity), 2.0));
        }
        pipeline
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_as_the_same(pipeline in pipelines()) {
        let config = SchedulingConfig { pipeline, redis_addr: None, index_update_interval: None };
        let document = config.to_document();
        for text in [document.to_string(), serde_yaml::to_string(&document).unwrap()] {
            match SchedulingConfig::from_document(&text, &env(&[])) {
                Ok((read, _)) => prop_assert_eq!(&read, &config),
                Err(errors) => prop_assert!(false, "{}\n{}", text, said(&errors).join("\n")),
            }
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(apiVersion|kind|plugins|- type|parameters|schedulingProfiles|name|pluginRef|weight|llm-d.ai/v1alpha1|[:,{}\\[\\]&*!|> \n-]|[a-z0-9.-]{1,8}){0,40}") {
        let _ = SchedulingConfig::from_document(&text, &env(&[]));
    }
}
