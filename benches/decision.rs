//! What one decision costs: time and allocations, by endpoints and by what is asked.
//!
//! `cargo bench --bench decision`. The bar: 10 us over 100 endpoints with every scorer, and no
//! allocation in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use llm_d_operator::scheduling::config::SchedulingConfig;
use llm_d_operator::scheduling::endpoint::{Candidate, EndpointId, EngineLoad, Role, Signals};
use llm_d_operator::scheduling::{Pipeline, RequestFacts, Scratch, explain, schedule};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const ENDPOINTS: &[usize] = &[10, 100, 1000];

fn main() {
    divan::main();
}

/// Every scorer and every kind of filter, in both profiles.
const EVERYTHING: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: label-selector-filter, parameters: {matchExpressions: [{key: zone, operator: In, values: [a, b, c]}]}}
- {type: decode-filter}
- {type: prefill-filter}
- {type: least-load-scorer}
- {type: queue-scorer}
- {type: running-requests-size-scorer}
- {type: kv-cache-utilization-scorer}
- {type: load-aware-scorer}
- {type: active-request-scorer}
- {type: prefix-cache-scorer, parameters: {matchLengthWeight: 0.5}}
- {type: precise-prefix-cache-scorer}
- {type: session-affinity-scorer, parameters: {strategy: session_id}}
- {type: always-disagg-pd-decider}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}
schedulingProfiles:
- name: decode
  plugins: &all
  - {pluginRef: label-selector-filter}
  - {pluginRef: decode-filter}
  - {pluginRef: least-load-scorer, weight: 1}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: running-requests-size-scorer, weight: 1}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: load-aware-scorer, weight: 1}
  - {pluginRef: active-request-scorer, weight: 1}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: precise-prefix-cache-scorer, weight: 10}
  - {pluginRef: session-affinity-scorer, weight: 20}
- name: prefill
  plugins: *all
";

/// What the environment of the article says.
const ARTICLE: &[(&str, &str)] = &[
    ("ENABLE_KVCACHE_AWARE_SCORER", "true"),
    ("KVCACHE_AWARE_SCORER_WEIGHT", "10"),
    ("ENABLE_LOAD_AWARE_SCORER", "true"),
    ("ENABLE_PREFIX_AWARE_SCORER", "true"),
    ("PREFIX_AWARE_SCORER_WEIGHT", "5"),
    ("ENABLE_SESSION_AWARE_SCORER", "true"),
    ("SESSION_AWARE_SCORER_WEIGHT", "20"),
];

fn everything() -> Pipeline {
    let read = SchedulingConfig::from_document(EVERYTHING, &BTreeMap::new());
    read.expect("a right document").0.pipeline
}

/// The same without a prefill stage.
fn every_scorer() -> Pipeline {
    Pipeline {
        handler: llm_d_operator::scheduling::pipeline::ProfileHandler::Single,
        ..everything()
    }
}

fn article() -> Pipeline {
    let env = ARTICLE
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let read = SchedulingConfig::from_env(&env.collect());
    read.expect("right variables").0.pipeline
}

/// Endpoints of both roles that differ in everything.
fn fleet(endpoints: usize) -> Vec<Candidate> {
    let labels = ["a", "b", "c", "d"].map(|zone| {
        let labels = [("app", "vllm"), ("llm-d.ai/role", "both"), ("zone", zone)];
        let owned = labels.map(|(k, v)| (k.to_owned(), v.to_owned()));
        Arc::new(BTreeMap::from(owned))
    });
    (0..endpoints as u64)
        .map(|n| {
            let address = IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
            let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let share = (noise >> 40) as f64 / f64::from(1 << 24);
            Candidate {
                labels: Some(Arc::clone(&labels[(noise >> 20) as usize % labels.len()])),
                signals: Signals {
                    in_flight: noise >> 60,
                    engine: Some(EngineLoad {
                        running: noise >> 59,
                        waiting: noise >> 58,
                        kv_usage: share,
                    }),
                    cached: Some(share),
                    prefix: share,
                    sessions: n % 7,
                    bound: false,
                },
                ..Candidate::new(EndpointId(SocketAddr::new(address, 8000)), Role::Both)
            }
        })
        .collect()
}

fn request() -> RequestFacts {
    RequestFacts {
        prompt_chars: 30_000,
        prompt_tokens: Some(7_500),
        one_transfer: true,
        session: Some(7),
        subset: None,
    }
}

/// Decides in scratch space that was used before, as the director does.
fn decide(bencher: Bencher<'_, '_>, pipeline: &Pipeline, endpoints: usize) {
    let (fleet, request) = (fleet(endpoints), request());
    let mut scratch = Scratch::default();
    let mut turn = 0;
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(move || {
            turn += 1;
            schedule(
                black_box(pipeline),
                black_box(&request),
                black_box(&fleet),
                turn,
                &mut scratch,
            )
        });
}

#[divan::bench(args = ENDPOINTS)]
fn all_scorers(bencher: Bencher<'_, '_>, endpoints: usize) {
    decide(bencher, &every_scorer(), endpoints);
}

#[divan::bench(args = ENDPOINTS)]
fn all_scorers_and_prefill(bencher: Bencher<'_, '_>, endpoints: usize) {
    decide(bencher, &everything(), endpoints);
}

#[divan::bench(args = ENDPOINTS)]
fn scorers_of_the_article(bencher: Bencher<'_, '_>, endpoints: usize) {
    decide(bencher, &article(), endpoints);
}

/// Idle endpoints: all are equal, so all take turns.
#[divan::bench(args = ENDPOINTS)]
fn all_equal(bencher: Bencher<'_, '_>, endpoints: usize) {
    let pipeline = article();
    let mut fleet = fleet(endpoints);
    for candidate in &mut fleet {
        candidate.signals = Signals::default();
    }
    let request = RequestFacts::default();
    let mut scratch = Scratch::default();
    let mut turn = 0;
    bencher.bench_local(move || {
        turn += 1;
        schedule(&pipeline, &request, black_box(&fleet), turn, &mut scratch)
    });
}

/// A request's own scratch space, not used before.
#[divan::bench(args = ENDPOINTS)]
fn all_scorers_in_new_scratch(bencher: Bencher<'_, '_>, endpoints: usize) {
    let (pipeline, fleet, request) = (every_scorer(), fleet(endpoints), request());
    bencher.bench(|| {
        let mut scratch = Scratch::default();
        schedule(&pipeline, &request, black_box(&fleet), 1, &mut scratch)
    });
}

/// With the score table, which only `/debug/decisions` and debug logs ask for.
#[divan::bench(args = [100])]
fn explained(bencher: Bencher<'_, '_>, endpoints: usize) {
    let (pipeline, fleet, request) = (everything(), fleet(endpoints), request());
    bencher.bench(|| explain(&pipeline, &request, black_box(&fleet), 1));
}
