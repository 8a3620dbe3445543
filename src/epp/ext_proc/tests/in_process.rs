//! The real server in this process, over a connection in memory: streams, director,
//! datastore, knowledge and what is counted, with no cluster and no gateway.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser as _;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status, Streaming};

use super::messages::{body, chat, config, handed_back, headers, set_header, status};
use crate::contract;
use crate::epp::cli::Args;
use crate::epp::datastore::{Datastore, Discovered};
use crate::epp::decisions::Decisions;
use crate::epp::director::{Director, Names};
use crate::epp::ext_proc::exchange::{Bounds, Exchanges};
use crate::epp::ext_proc::serve::ExternalProcessor;
use crate::epp::gather;
use crate::epp::metrics::EppMetrics;
use crate::epp::session_key::SessionKeys;
use crate::kv::tokenize::testing::tiny_model;
use crate::scheduling::config::SchedulingConfig;
use crate::scheduling::endpoint::{EndpointId, Role};
use crate::telemetry::budget::Budget;
use crate::telemetry::shutdown::Shutdown;

/// The longest wait for something that has to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// An EPP over endpoints that nobody listens at.
struct Epp {
    datastore: Datastore,
    budget: Budget,
    client: ExternalProcessorClient<Channel>,
    shutdown: Shutdown,
}

struct Given {
    env: &'static [(&'static str, &'static str)],
    tokenizer: Option<String>,
    max_body_bytes: usize,
    body_timeout: Duration,
    budget_bytes: usize,
    max_streams: usize,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            env: &[],
            tokenizer: None,
            max_body_bytes: 1 << 20,
            body_timeout: PATIENCE,
            budget_bytes: 8 << 20,
            max_streams: 1000,
        }
    }
}

fn endpoint(number: u8) -> Discovered {
    Discovered {
        id: EndpointId(([127, 9, 9, number], 1).into()),
        pod: format!("pod-{number}"),
        pod_uid: format!("uid-{number}"),
        labels: Arc::default(),
        role: Role::Decode,
        ready: true,
    }
}

impl Epp {
    async fn start(endpoints: u8, given: Given) -> Self {
        let env: BTreeMap<String, String> = given
            .env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let (scheduling, _) = SchedulingConfig::from_env(&env).unwrap();
        let tokenizer = given
            .tokenizer
            .map(|folder| format!("--tokenizer={folder}"));
        let args = ["epp", "--endpoints-file", "none"].map(str::to_owned);
        let args = Args::try_parse_from(args.into_iter().chain(tokenizer)).unwrap();
        let (datastore, shutdown) = (Datastore::default(), Shutdown::new());
        datastore.replace((1..=endpoints).map(endpoint).collect());
        let mut registry = Registry::default();
        let metrics = EppMetrics::register(&mut registry);
        let knowledge = gather::start(
            &args,
            &scheduling,
            "ns/pool",
            &datastore,
            &mut registry,
            &shutdown,
        )
        .unwrap();
        let director = Director::new(
            Arc::new(scheduling.pipeline),
            datastore.clone(),
            knowledge,
            Some(Decisions::default()),
            metrics.clone(),
            Names {
                session_keys: SessionKeys::new(b"secret"),
                id_prefix: "id".to_owned(),
                first_turn: 0,
            },
        );
        let budget = Budget::new(given.budget_bytes);
        let bounds = Bounds {
            managed: None,
            max_body_bytes: given.max_body_bytes,
            body_timeout: given.body_timeout,
            budget: budget.clone(),
            max_streams: given.max_streams,
        };
        let client = connect(Exchanges::new(director, metrics, bounds), &shutdown).await;
        Self {
            datastore,
            budget,
            client,
            shutdown,
        }
    }

    async fn stream(&self) -> Result<Talk, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let replies = self
            .client
            .clone()
            .process(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Talk { sender, replies })
    }

    /// A whole chat request in full duplex; gives where it went, and the open stream.
    async fn ask(&self, text: &str, more: &[(&str, &str)]) -> (String, Talk) {
        let mut talk = self.stream().await.unwrap();
        talk.begin(more).await;
        let json = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
        talk.say(body(json.as_bytes(), true)).await;
        let first = talk.hear().await;
        let destination = set_header(&first, contract::HEADER_DESTINATION)
            .unwrap_or_else(|| panic!("no destination in {first:?}"));
        let second = talk.hear().await;
        assert_eq!(handed_back(&second), Some((json.as_bytes(), true)));
        (destination, talk)
    }

    fn in_flight(&self) -> Vec<u64> {
        let snapshot = self.datastore.snapshot();
        snapshot
            .iter()
            .map(crate::epp::datastore::Entry::in_flight)
            .collect()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let all = async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, all).await;
        assert!(
            waited.is_ok(),
            "never: {what}; in flight {:?}",
            self.in_flight()
        );
    }
}

impl Drop for Epp {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

struct Talk {
    sender: mpsc::Sender<ProcessingRequest>,
    replies: Streaming<ProcessingResponse>,
}

impl Talk {
    async fn begin(&self, more: &[(&str, &str)]) {
        let said = Some(config(4, 0, false));
        self.say(headers(&chat(more), said, false)).await;
    }

    async fn say(&self, message: ProcessingRequest) {
        self.sender.send(message).await.unwrap();
    }

    async fn hear(&mut self) -> ProcessingResponse {
        tokio::time::timeout(PATIENCE, self.replies.next())
            .await
            .expect("a reply in time")
            .expect("the stream goes on")
            .unwrap()
    }
}

/// One connection in memory.
struct Once(Option<DuplexStream>);

impl tower_service::Service<http::Uri> for Once {
    type Response = TokioIo<DuplexStream>;
    type Error = std::io::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send + 'static>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let io = self
            .0
            .take()
            .ok_or_else(|| std::io::Error::other("one connection"));
        Box::pin(async move { io.map(TokioIo::new) })
    }
}

async fn connect(exchanges: Exchanges, shutdown: &Shutdown) -> ExternalProcessorClient<Channel> {
    let (client, server) = tokio::io::duplex(1 << 20);
    let served = Server::builder()
        .add_service(ExternalProcessor(exchanges))
        .serve_with_incoming_shutdown(
            tokio_stream::once(Ok::<_, std::io::Error>(server)).chain(futures::stream::pending()),
            shutdown.clone().into_requested(),
        );
    tokio::spawn(served);
    let channel = Endpoint::from_static("http://epp")
        .connect_with_connector(Once(Some(client)))
        .await
        .unwrap();
    ExternalProcessorClient::new(channel)
}

#[tokio::test]
async fn a_request_counts_from_its_decision_to_the_end_of_its_stream() {
    let epp = Epp::start(2, Given::default()).await;
    let (destination, talk) = epp.ask("hi", &[]).await;
    assert_eq!(epp.in_flight().iter().sum::<u64>(), 1);
    let (other, _second) = epp.ask("hi", &[]).await;
    assert_ne!(other, destination, "the first is still there");
    drop(talk);
    epp.until("the first request ended", |epp| {
        epp.in_flight().iter().sum::<u64>() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_is_spread_though_all_see_the_same_moment() {
    let epp = Epp::start(4, Given::default()).await;
    let asked = (0..64).map(|_| epp.ask("the same", &[]));
    let talks = futures::future::join_all(asked).await;
    assert_eq!(epp.in_flight(), [16; 4]);
    drop(talks);
    epp.until("nothing is in flight", |epp| epp.in_flight() == [0; 4])
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_decision_counts_nowhere() {
    let epp = Epp::start(2, Given::default()).await;
    let talk = epp.stream().await.unwrap();
    talk.begin(&[]).await;
    talk.say(body(&vec![b'x'; 60_000], false)).await;
    epp.until("the body is held", |epp| epp.budget.used() == 60_000)
        .await;
    drop(talk);
    epp.until("nothing is held", |epp| epp.budget.used() == 0)
        .await;
    assert_eq!(epp.in_flight(), [0, 0]);
}

#[tokio::test]
async fn an_endpoint_that_goes_is_picked_no_more_and_one_that_stays_keeps_its_count() {
    let epp = Epp::start(2, Given::default()).await;
    let (_, _one) = epp.ask("hi", &[]).await;
    let (_, _two) = epp.ask("hi", &[]).await;
    assert_eq!(epp.in_flight(), [1, 1]);
    epp.datastore.replace(vec![endpoint(2)]);
    let (destination, _three) = epp.ask("hi", &[]).await;
    assert_eq!(destination, endpoint(2).id.to_string());
    assert_eq!(epp.in_flight(), [2]);
    epp.datastore.replace(Vec::new());
    let mut talk = epp.stream().await.unwrap();
    talk.begin(&[]).await;
    talk.say(body(b"{}", true)).await;
    assert_eq!(status(&talk.hear().await), Some(503));
}

#[tokio::test]
async fn a_prompt_follows_its_prefix_and_a_session_its_endpoint() {
    let given = Given {
        env: &[
            ("ENABLE_PREFIX_AWARE_SCORER", "true"),
            ("ENABLE_SESSION_AWARE_SCORER", "true"),
            ("SESSION_HEADER_NAMES", "authorization"),
        ],
        ..Given::default()
    };
    let epp = Epp::start(4, given).await;
    // What was sent is remembered by a thread of its own: a prompt that comes again before that
    // goes elsewhere, as do all in turn without it.
    let began = std::time::Instant::now();
    for round in 0.. {
        let long = format!("long prompt {round} ").repeat(100);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(epp.ask(&long, &[]).await.0);
        }
        if places.iter().all(|place| *place == places[0]) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "round {round}: {places:?}");
    }
    let bearer = [("authorization", "Bearer x")];
    let (first, _first) = epp.ask("one", &bearer).await;
    for text in ["two", "three", "four"] {
        assert_eq!(epp.ask(text, &bearer).await.0, first);
    }
}

#[tokio::test]
async fn bodies_that_never_end_stay_within_the_budget_and_others_are_answered() {
    let given = Given {
        budget_bytes: 1 << 20,
        ..Given::default()
    };
    let epp = Epp::start(2, given).await;
    let chunk = vec![b'x'; 60_000];
    let mut refused = 0;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut talk = epp.stream().await.unwrap();
        talk.begin(&[]).await;
        for _ in 0..5 {
            talk.say(body(&chunk, false)).await;
        }
        let held = epp.budget.used();
        let settled = tokio::time::timeout(PATIENCE, async {
            tokio::select! {
                reply = talk.replies.next() => Some(reply.unwrap().unwrap()),
                () = async {
                    while epp.budget.used() < held.saturating_add(300_000) {
                        tokio::task::yield_now().await;
                    }
                } => None,
            }
        });
        if let Some(reply) = settled.await.expect("held or refused") {
            assert_eq!(status(&reply), Some(503));
            refused += 1;
        }
        assert!(epp.budget.used() <= 1 << 20);
        open.push(talk);
    }
    assert!(refused >= 15, "{refused} of 20 were refused");
    let (_, _small) = epp.ask("hi", &[]).await;
    drop(open);
    epp.until("nothing is held", |epp| epp.budget.used() == 0)
        .await;
}

#[tokio::test]
async fn a_message_that_meets_a_bound_before_it_is_whole_is_refused_and_not_an_error() {
    for (budget_bytes, bytes, expected) in [
        (256 << 10, 900_000, 503),
        (8 << 20, 4 << 20, 413),
        // Larger than the budget as well, and to come back later would not help.
        (256 << 10, 4 << 20, 413),
    ] {
        let given = Given {
            budget_bytes,
            ..Given::default()
        };
        let epp = Epp::start(1, given).await;
        let mut talk = epp.stream().await.unwrap();
        talk.begin(&[]).await;
        talk.say(body(&vec![b'x'; bytes], false)).await;
        assert_eq!(status(&talk.hear().await), Some(expected), "{bytes} bytes");
        let end = tokio::time::timeout(PATIENCE, talk.replies.next()).await;
        assert!(end.expect("the stream ends").is_none());
        let (_, _other) = epp.ask("hi", &[]).await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_a_408() {
    let given = Given {
        body_timeout: Duration::from_millis(20),
        ..Given::default()
    };
    let epp = Epp::start(1, given).await;
    let mut talk = epp.stream().await.unwrap();
    talk.begin(&[]).await;
    talk.say(body(b"{", false)).await;
    assert_eq!(status(&talk.hear().await), Some(408));
    let end = tokio::time::timeout(PATIENCE, talk.replies.next()).await;
    assert!(end.expect("the stream ends").is_none());
    assert_eq!((epp.budget.used(), epp.in_flight()), (0, vec![0]));
}

#[tokio::test]
async fn a_stream_too_many_is_ended_at_once() {
    let given = Given {
        max_streams: 1,
        ..Given::default()
    };
    let epp = Epp::start(1, given).await;
    let (_, talk) = epp.ask("hi", &[]).await;
    let refused = epp.stream().await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(talk);
    epp.until("the first stream ended", |epp| epp.in_flight() == [0])
        .await;
    epp.ask("hi", &[]).await;
}

/// As on a thread of connections, which has few blocking threads.
#[test]
fn large_prompts_at_one_time_do_not_wait_for_each_other_for_ever() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    // Dropped, it would wait for threads that wait for ever.
    let runtime = Box::leak(Box::new(runtime));
    runtime.block_on(async {
        let model = tiny_model();
        let given = Given {
            env: &[("ENABLE_KVCACHE_AWARE_SCORER", "true")],
            tokenizer: Some(model.path().display().to_string()),
            ..Given::default()
        };
        let epp = Epp::start(2, given).await;
        let text = "the quick brown fox ".repeat(14_000);
        let json = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
        let mut talks = Vec::new();
        for _ in 0..4 {
            let talk = epp.stream().await.unwrap();
            talk.begin(&[]).await;
            talk.say(body(json.as_bytes(), true)).await;
            talks.push(talk);
        }
        for mut talk in talks {
            let first = talk.hear().await;
            assert!(set_header(&first, contract::HEADER_DESTINATION).is_some());
        }
    });
}

#[tokio::test]
async fn whatever_a_client_sends_reaches_an_engine() {
    let epp = Epp::start(1, Given::default()).await;
    for text in [
        "{\"stream\":\"True\",\"max_tokens\":16.0}",
        "{\"temperature\":NaN}",
        "[1,2]",
        "not json",
        "{\"model\":",
        "\u{feff}{}",
        "",
    ] {
        let mut talk = epp.stream().await.unwrap();
        talk.begin(&[]).await;
        talk.say(body(text.as_bytes(), true)).await;
        let first = talk.hear().await;
        assert!(
            set_header(&first, contract::HEADER_DESTINATION).is_some(),
            "{text}: {first:?}"
        );
    }
}
