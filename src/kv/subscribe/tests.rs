//! Subscriptions against publishers on real sockets.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use prometheus_client::registry::Registry;

use super::recover::{Never, Recovered};
use super::*;
use crate::contract::kv_topic;
use crate::kv::blocks::engine::EngineHash;
use crate::kv::blocks::{self, BlockKey, root};
use crate::kv::event::{
    self, EncodeBatch, EncodeEvent, EncodeStored, Form, HashForm, Medium, SpecKind, encode,
};
use crate::kv::index::{self, KvIndex, Limits, Reader};
use crate::zmtp::{PubSocket, SocketSettings};

const MODEL: &str = "org/model@1";
const BLOCK: u32 = 4;
const PORT: u16 = 8000;

/// Waits until something is so; panics when it does not become so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A publisher as an engine has one.
struct Engine {
    socket: PubSocket,
    port: u16,
    next: u64,
}

impl Engine {
    async fn start(port: u16) -> Self {
        let address = format!("tcp://127.0.0.1:{port}");
        let deadline = Instant::now() + Duration::from_secs(20);
        let socket = loop {
            let settings = SocketSettings::default();
            match PubSocket::bind(&address, settings, &Shutdown::new()).await {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < deadline, "no port: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let (_, port) = socket.address().rsplit_once(':').unwrap();
        Self {
            port: port.parse().unwrap(),
            socket,
            next: 0,
        }
    }

    fn send(&self, topic: &str, sequence: u64, payload: Vec<u8>) {
        let sequence = Bytes::copy_from_slice(&sequence.to_be_bytes());
        self.socket
            .send(&[topic.to_owned().into(), sequence, payload.into()]);
    }

    /// The next batch of this engine.
    fn publish(&mut self, payload: Vec<u8>) {
        self.send(&own_topic(), self.next, payload);
        self.next += 1;
    }

    fn store(&mut self, tokens: &[u32]) {
        self.publish(stored(tokens));
    }
}

fn own_topic() -> String {
    kv_topic("127.0.0.1", PORT, MODEL)
}

/// Engine hashes of a prompt's blocks: any that differ.
fn hashes(tokens: &[u32]) -> Vec<EngineHash> {
    (1..=tokens.len() / BLOCK as usize)
        .map(|count| {
            let prefix = &tokens[..count * BLOCK as usize];
            let sum = prefix.iter().fold(count as u64, |sum, token| {
                sum.wrapping_mul(31).wrapping_add(u64::from(*token))
            });
            let mut hash = [0; 32];
            hash[24..].copy_from_slice(&sum.to_be_bytes());
            EngineHash(hash)
        })
        .collect()
}

fn payload(event: EncodeEvent<'_>) -> Vec<u8> {
    let batch = EncodeBatch {
        timestamp_seconds: 1.5,
        rank: Some(0),
        events: &[event],
    };
    encode(&batch, Form::Map, HashForm::Int)
}

fn stored(tokens: &[u32]) -> Vec<u8> {
    payload(EncodeEvent::Stored(EncodeStored {
        hashes: &hashes(tokens),
        parent: None,
        tokens,
        block_size: BLOCK,
        lora_id: None,
        lora: None,
        salt: None,
        medium: Medium::Gpu,
        group: Some(0),
        kind: Some(SpecKind::FullAttention),
    }))
}

fn prompt(first: u32) -> Vec<u32> {
    (first..first + 3 * BLOCK).collect()
}

/// The index's keys of a prompt.
fn keys_of(tokens: &[u32]) -> Vec<BlockKey> {
    blocks::keys(root(MODEL, None, None), tokens, BLOCK as usize)
}

/// Everything that an EPP has of this, and its metrics.
struct Rig {
    subscriptions: Subscriptions,
    states: States,
    hints: Hints,
    reader: Reader,
    registry: Registry,
    shutdown: Shutdown,
    endpoint: SocketAddr,
}

impl Rig {
    fn new() -> Self {
        Self::recovering(Arc::new(Never))
    }

    fn recovering(recover: Arc<dyn Recover>) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let shutdown = Shutdown::new();
        let (writer, reader) = index::new(Limits::default());
        let settings = Settings {
            model: Some(MODEL.to_owned()),
            first_backoff: Duration::from_millis(10),
            max_backoff: Duration::from_millis(50),
            expire_every: Duration::from_millis(10),
            ..Settings::default()
        };
        let (subscriptions, states, hints) = start(settings, writer, recover, metrics, &shutdown);
        Self {
            subscriptions,
            states,
            hints,
            reader,
            registry,
            shutdown,
            endpoint: SocketAddr::from(([127, 0, 0, 1], PORT)),
        }
    }

    fn want(&mut self, engine: &Engine, pod_uid: &str) {
        self.subscriptions.sync(vec![Wanted {
            endpoint: self.endpoint,
            pod_uid: pod_uid.to_owned(),
            events_port: Some(engine.port),
            replay_port: 1,
        }]);
    }

    /// Subscribes and waits until the publisher knows of it: what it sends before is lost.
    async fn subscribed(&mut self, engine: &mut Engine) {
        self.want(engine, "pod-1");
        self.heard(engine).await;
    }

    async fn heard(&self, engine: &mut Engine) {
        let before = self.count("foreign");
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.count("foreign") == before {
            assert!(Instant::now() < deadline, "not subscribed");
            engine.send("kv@203.0.113.9:1@x", 0, Vec::new());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn state(&self) -> State {
        self.states
            .state(self.endpoint, Instant::now())
            .expect("the endpoint is wanted")
    }

    fn slot(&self) -> EndpointSlot {
        self.state().slot.expect("the endpoint has a slot")
    }

    /// Blocks of a prompt that the endpoint holds.
    fn held(&self, tokens: &[u32]) -> u32 {
        let keys = keys_of(tokens);
        match self.states.state(self.endpoint, Instant::now()) {
            Some(State {
                slot: Some(slot), ..
            }) => self.reader.matched(&keys, &[slot])[0],
            _ => 0,
        }
    }

    /// A counter of the stream, by its type.
    fn count(&self, kind: &str) -> u64 {
        self.metric(&format!(
            "llm_d_epp_kv_stream_events_total{{type=\"{kind}\"}}"
        ))
    }

    fn metric(&self, name: &str) -> u64 {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or(0)
    }
}

#[tokio::test]
async fn what_an_engine_stores_and_removes_is_what_it_holds() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    assert!(!rig.state().reporting, "nothing of its own was heard");
    let tokens = prompt(1);
    engine.store(&tokens);
    eventually("three blocks", || rig.held(&tokens) == 3).await;
    let state = rig.state();
    assert!(state.reporting && !state.cold, "{state:?}");
    assert!(state.last_batch_age.unwrap() < Duration::from_secs(20));
    engine.publish(payload(EncodeEvent::Removed {
        hashes: &hashes(&tokens)[2..],
        medium: Medium::Gpu,
        group: Some(0),
    }));
    eventually("two blocks", || rig.held(&tokens) == 2).await;
    engine.publish(payload(EncodeEvent::Cleared));
    eventually("none", || rig.held(&tokens) == 0).await;
    assert_eq!(rig.metric("llm_d_epp_kv_batches_total"), 3);
    assert_eq!(rig.metric("llm_d_epp_kv_events_total{type=\"stored\"}"), 1);
    assert_eq!(
        rig.metric("llm_d_epp_kv_blocks_total{outcome=\"stored\"}"),
        3
    );
    eventually("endpoints are counted", || {
        rig.metric("llm_d_epp_kv_endpoints{state=\"reporting\"}") == 1
    })
    .await;
}

#[tokio::test]
async fn a_gap_forgets_the_pod_and_marks_it_cold() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    let (before, after) = (prompt(1), prompt(100));
    engine.store(&before);
    eventually("the first prompt", || rig.held(&before) == 3).await;
    engine.next += 4;
    engine.store(&after);
    eventually("the second prompt", || rig.held(&after) == 3).await;
    assert_eq!(rig.held(&before), 0);
    assert!(rig.state().cold && rig.state().reporting);
    assert_eq!(rig.count("gap"), 1);
    engine.publish(payload(EncodeEvent::Cleared));
    eventually("an empty cache is a known one", || !rig.state().cold).await;
}

#[tokio::test]
async fn an_engine_that_begins_anew_holds_nothing_of_before() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    let (before, after) = (prompt(1), prompt(100));
    engine.store(&before);
    engine.store(&prompt(50));
    eventually("the first prompt", || rig.held(&before) == 3).await;
    engine.next = 0;
    engine.store(&after);
    eventually("the second prompt", || rig.held(&after) == 3).await;
    assert_eq!(rig.held(&before), 0);
    assert!(!rig.state().cold, "its beginning was seen");
    assert_eq!((rig.count("restart"), rig.count("gap")), (1, 0));
}

#[tokio::test]
async fn one_who_joins_late_knows_that_it_does_not_know_all() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    engine.next = 7;
    let tokens = prompt(1);
    engine.store(&tokens);
    eventually("the prompt", || rig.held(&tokens) == 3).await;
    assert!(rig.state().cold);
    assert_eq!((rig.count("joined_late"), rig.count("gap")), (1, 0));
}

#[tokio::test]
async fn missed_batches_that_can_be_had_leave_no_trace() {
    struct Replay(Vec<Vec<u8>>);
    impl Recover for Replay {
        fn recover<'a>(
            &'a self,
            from: &'a Wanted,
            missed: Range<u64>,
        ) -> Pin<Box<dyn Future<Output = Recovered> + Send + 'a>> {
            assert_eq!((from.replay_port, missed), (1, 1..3));
            let payloads = self.0.iter().cloned().map(Bytes::from).collect();
            Box::pin(std::future::ready(Recovered::Payloads(payloads)))
        }
    }
    let (first, second, third, fourth) = (prompt(1), prompt(50), prompt(100), prompt(150));
    let mut rig = Rig::recovering(Arc::new(Replay(vec![stored(&second), stored(&third)])));
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    engine.store(&first);
    engine.next = 3;
    engine.store(&fourth);
    eventually("the last prompt", || rig.held(&fourth) == 3).await;
    for tokens in [first, second, third] {
        assert_eq!(rig.held(&tokens), 3);
    }
    assert!(!rig.state().cold);
}

#[tokio::test]
async fn garbage_is_counted_and_what_follows_still_counts() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    let tokens = prompt(1);
    engine.publish(b"\xc1garbage".to_vec());
    // A batch with one unknown event, [1.0, [["Unheard"]]].
    let unknown = b"\x92\xcb\x3f\xf0\0\0\0\0\0\0\x91\x91\xa7Unheard".to_vec();
    engine.publish(unknown);
    engine
        .socket
        .send(&[own_topic().into(), Bytes::from_static(b"1")]);
    engine.store(&tokens);
    eventually("the prompt", || rig.held(&tokens) == 3).await;
    assert_eq!(rig.count("bad_payload"), 1);
    assert_eq!(rig.count("bad_frames"), 1);
    assert_eq!(
        rig.metric("llm_d_epp_kv_events_rejected_total{reason=\"unknown_type\"}"),
        1
    );
    assert!(rig.state().cold, "what the garbage said is not known");
    assert_eq!(rig.count("gap"), 0);
}

#[tokio::test]
async fn events_for_others_are_counted_and_dropped() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    let before = rig.count("foreign");
    let (own, other) = (prompt(1), prompt(100));
    for topic in [
        kv_topic("127.0.0.2", PORT, MODEL),
        kv_topic("127.0.0.1", PORT + 1, MODEL),
        kv_topic("127.0.0.1", PORT, "another"),
    ] {
        engine.send(&topic, 0, stored(&other));
    }
    let without_port = format!("kv@127.0.0.1@{MODEL}");
    engine.send(&without_port, 0, stored(&own));
    eventually("the prompt", || rig.held(&own) == 3).await;
    assert_eq!(rig.held(&other), 0);
    // Probes of the subscription may have come in meanwhile.
    assert!(rig.count("foreign") >= before + 2);
    assert_eq!(rig.count("other_model"), 1);
}

#[tokio::test]
async fn a_publisher_that_comes_back_at_its_port_is_heard_again() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    let (before, after) = (prompt(1), prompt(100));
    engine.store(&before);
    eventually("the first prompt", || rig.held(&before) == 3).await;
    let port = engine.port;
    drop(engine);
    eventually("it does not report", || !rig.state().reporting).await;
    assert_eq!(rig.held(&before), 3, "a lost connection is no lost cache");
    let mut engine = Engine::start(port).await;
    rig.heard(&mut engine).await;
    engine.store(&after);
    eventually("the second prompt", || rig.held(&after) == 3).await;
    assert_eq!(rig.held(&before), 0, "the new engine counts from 0");
    assert!(rig.state().reporting && !rig.state().cold);
    assert!(rig.count("reconnect") > 0);
}

#[tokio::test]
async fn a_silent_pod_has_its_place_and_does_not_report() {
    let mut rig = Rig::new();
    let engine = Engine::start(0).await;
    rig.want(&engine, "pod-1");
    drop(engine);
    eventually("a slot", || rig.state().slot.is_some()).await;
    let tokens = prompt(1);
    let keys = keys_of(&tokens);
    assert!(rig.hints.remember(rig.slot(), keys.into()));
    eventually("its history", || rig.held(&tokens) == 3).await;
    let state = rig.state();
    assert!(!state.reporting && !state.cold && state.last_batch_age.is_none());
}

#[tokio::test]
async fn what_is_assumed_counts_until_it_expires() {
    let mut rig = Rig::new();
    let engine = Engine::start(0).await;
    rig.want(&engine, "pod-1");
    eventually("a slot", || rig.state().slot.is_some()).await;
    let tokens = prompt(1);
    let keys = keys_of(&tokens);
    let until = Instant::now() + Duration::from_mins(10);
    assert!(rig.hints.speculate(rig.slot(), keys.clone().into(), until));
    eventually("the assumption", || rig.held(&tokens) == 3).await;
    let other = prompt(100);
    let others = keys_of(&other);
    assert!(
        rig.hints
            .speculate(rig.slot(), others.into(), Instant::now())
    );
    eventually("the expired one is gone", || rig.held(&other) == 0).await;
    assert_eq!(rig.held(&tokens), 3);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_holds_nothing_and_another_pod_there_starts_empty() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    let tokens = prompt(1);
    engine.store(&tokens);
    eventually("the prompt", || rig.held(&tokens) == 3).await;
    let first = rig.slot();
    rig.want(&engine, "pod-1");
    assert_eq!(rig.slot(), first, "nothing changed");

    rig.want(&engine, "pod-2");
    eventually("a slot", || rig.state().slot.is_some()).await;
    assert_ne!(rig.slot(), first);
    let keys = keys_of(&tokens);
    eventually("the old slot is empty", || {
        rig.reader.matched(&keys, &[first])[0] == 0
    })
    .await;
    assert_eq!(rig.held(&tokens), 0);

    rig.heard(&mut engine).await;
    engine.store(&tokens);
    eventually("the prompt", || rig.held(&tokens) == 3).await;
    assert!(rig.state().cold, "this pod's beginning was missed");
    let second = rig.slot();
    rig.subscriptions.sync(Vec::new());
    assert_eq!(rig.states.state(rig.endpoint, Instant::now()), None);
    eventually("the index has forgotten it", || {
        rig.reader.matched(&keys, &[second])[0] == 0
    })
    .await;
}

#[tokio::test]
async fn every_task_ends_with_the_program() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    rig.shutdown.begin();
    tokio::time::timeout(Duration::from_secs(20), rig.shutdown.finished())
        .await
        .expect("all tasks end");
}

#[tokio::test]
async fn events_wait_for_a_busy_writer_and_hints_do_not() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (changes, mut queue) = mpsc::channel(1);
    let mut engine = Engine::start(0).await;
    let endpoint = SocketAddr::from(([127, 0, 0, 1], PORT));
    let shutdown = Shutdown::new();
    let shared = Arc::new(Shared::new(Instant::now()));
    let pod = Pod::new(
        Wanted {
            endpoint,
            pod_uid: "pod-1".to_owned(),
            events_port: Some(engine.port),
            replay_port: 1,
        },
        Arc::new(Settings::default()),
        Arc::clone(&shared),
        changes.clone(),
        Arc::new(Semaphore::new(QUEUE_KIB)),
        Arc::new(Never),
        metrics.clone(),
    );
    shutdown.spawn("pod", pod.run(CancellationToken::new(), shutdown.clone()));
    let page = || {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        page
    };
    // The first change, which makes the endpoint known, fills the queue.
    while !page().contains("{type=\"foreign\"}") {
        engine.send("kv@203.0.113.9:1@x", 0, Vec::new());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let slot = index::new(Limits::default()).0.add_endpoint();
    let hints = Hints::new(changes, metrics);
    assert!(!hints.remember(slot, Vec::new().into()));
    assert!(page().contains("hints_dropped_total{type=\"history\"} 1"));
    for first in [1, 100, 200] {
        engine.store(&prompt(first));
    }
    eventually("the pod waits", || {
        page().contains("stream_events_total{type=\"queue_full\"} 1")
    })
    .await;
    assert!(matches!(queue.recv().await, Some(Change::Add(_))));
    for first in [1, 100, 200] {
        let Some(Change::Batch { events, .. }) = queue.recv().await else {
            panic!("not a batch")
        };
        let event::Event::Stored(stored) = &events[0] else {
            panic!("not stored")
        };
        assert_eq!(stored.tokens, prompt(first));
    }
    shutdown.begin();
}
