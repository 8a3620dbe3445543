//! Subscriptions against publishers on real sockets.

use std::future::Future;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Mutex;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

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

fn wanted(endpoint: SocketAddr, events_port: u16) -> Wanted {
    Wanted {
        endpoint,
        pod_uid: "pod-1".to_owned(),
        events_port: Some(events_port),
        replay_port: 1,
    }
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
            connect_timeout: Duration::from_millis(500),
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
            pod_uid: pod_uid.to_owned(),
            ..wanted(self.endpoint, engine.port)
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

/// A pod that says these bytes to everybody who dials it, and when they dialled.
struct Hostile {
    port: u16,
    dialled: Arc<Mutex<Vec<Instant>>>,
}

impl Hostile {
    async fn start(host: IpAddr, says: Vec<u8>) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialled = Arc::new(Mutex::new(Vec::new()));
        let times = Arc::clone(&dialled);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                times.lock().unwrap().push(Instant::now());
                let says = says.clone();
                tokio::spawn(async move {
                    let _ = stream.write_all(&says).await;
                    // Stays for as long as the other side does.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                });
            }
        });
        Self { port, dialled }
    }

    fn times(&self) -> Vec<Instant> {
        self.dialled.lock().unwrap().clone()
    }
}

/// A greeting of ZMTP 3.0 and READY of a publisher.
fn hello() -> Vec<u8> {
    let mut greeting = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL".to_vec();
    greeting.resize(64, 0);
    greeting.extend_from_slice(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB");
    greeting
}

/// The header of a frame of 2^40 bytes.
const HUGE: &[u8] = b"\x02\0\0\x01\0\0\0\0\0";

#[tokio::test]
async fn a_pod_that_breaks_the_rules_is_dropped_counted_and_costs_the_others_nothing() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    let mut pods = vec![wanted(rig.endpoint, engine.port)];
    let endless = [hello(), [1, 0].repeat(1000)].concat();
    let mut hostile = Vec::new();
    for (place, (says, reason)) in [
        (HUGE.to_vec(), "handshake"),
        ([&hello()[..64], HUGE].concat(), "frame_too_large"),
        ([&hello(), HUGE].concat(), "frame_too_large"),
        (endless, "too_many_frames"),
        (Vec::new(), "timeout"),
    ]
    .into_iter()
    .enumerate()
    {
        let endpoint = SocketAddr::from(([127, 0, 0, 2 + place as u8], PORT));
        let pod = Hostile::start(endpoint.ip(), says).await;
        pods.push(wanted(endpoint, pod.port));
        hostile.push((pod, endpoint, reason));
    }
    rig.subscriptions.sync(pods);
    rig.heard(&mut engine).await;
    for (pod, endpoint, reason) in &hostile {
        let name = format!("llm_d_epp_kv_peers_dropped_total{{reason=\"{reason}\"}}");
        eventually(reason, || rig.metric(&name) >= 2).await;
        eventually("tried again", || pod.times().len() >= 2).await;
        let state = rig.states.state(*endpoint, Instant::now()).unwrap();
        assert!(!state.reporting && state.last_batch_age.is_none());
    }
    let tokens = prompt(1);
    engine.store(&tokens);
    eventually("the honest engine is heard", || rig.held(&tokens) == 3).await;
}

#[tokio::test]
async fn a_good_batch_first_does_not_buy_a_quick_retry() {
    let mut rig = Rig::new();
    let topic = own_topic();
    let mut says = hello();
    let batch = payload(EncodeEvent::Cleared);
    for (flags, frame) in [(1, topic.as_bytes()), (1, &[0; 8]), (0, &batch)] {
        says.extend_from_slice(&[flags, frame.len() as u8]);
        says.extend_from_slice(frame);
    }
    says.extend_from_slice(HUGE);
    let pod = Hostile::start(rig.endpoint.ip(), says).await;
    let wanted = vec![wanted(rig.endpoint, pod.port)];
    rig.subscriptions.sync(wanted);
    eventually("five attempts", || pod.times().len() >= 5).await;
    assert!(rig.metric("llm_d_epp_kv_batches_total") >= 4);
    let times = pod.times();
    // Doubled four times from 10 ms, cut off at 50 ms; at least half of it is waited.
    assert!(
        times[4] - times[3] >= Duration::from_millis(25),
        "{times:?}"
    );
}

#[tokio::test]
async fn payloads_on_their_way_to_the_writer_have_a_budget() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (changes, mut queue) = mpsc::channel(1024);
    let shutdown = Shutdown::new();
    let engine = Engine::start(0).await;
    let pod = Pod::new(
        Wanted {
            endpoint: SocketAddr::from(([127, 0, 0, 1], PORT)),
            pod_uid: "pod-1".to_owned(),
            events_port: Some(engine.port),
            replay_port: 1,
        },
        Arc::new(Settings::default()),
        Arc::new(Shared::new(Instant::now())),
        changes,
        Arc::new(Semaphore::new(QUEUE_KIB)),
        Arc::new(Never),
        metrics,
    );
    shutdown.spawn_for_peer("pod", pod.run(CancellationToken::new(), shutdown.clone()));
    assert!(matches!(queue.recv().await, Some(Change::Add(_))));
    eventually("connected", || engine.socket.subscribers() == 1).await;
    // A batch of no events that takes 5 MiB, by a field that is passed over.
    let mut large = b"\x94\xcb\x3f\xf0\0\0\0\0\0\0\x90\x00\xc6".to_vec();
    large.extend_from_slice(&(5_u32 << 20).to_be_bytes());
    large.resize(large.len() + (5 << 20), 0);
    let waits = || {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        page.contains("stream_events_total{type=\"queue_full\"} 1")
    };
    eventually("the pod waits", || {
        engine.send(&own_topic(), 0, large.clone());
        waits()
    })
    .await;
    let mut kept = Vec::new();
    while let Ok(change) = queue.try_recv() {
        kept.push(change);
    }
    let batches = |changes: &[Change]| {
        let is_batch = |change: &&Change| matches!(change, Change::Batch { .. });
        changes.iter().filter(is_batch).count()
    };
    assert_eq!(batches(&kept), 3, "three fit into 16 MiB");
    kept.clear();
    while batches(&kept) == 0 {
        let change = tokio::time::timeout(Duration::from_secs(20), queue.recv()).await;
        kept.push(change.expect("the next one has room").unwrap());
    }
    shutdown.begin();
}

#[tokio::test]
async fn every_task_ends_with_the_program() {
    let mut rig = Rig::new();
    let mut engine = Engine::start(0).await;
    rig.subscribed(&mut engine).await;
    rig.shutdown.begin();
    tokio::time::timeout(Duration::from_secs(20), rig.shutdown.finished())
        .await
        .expect("all tasks end")
        .unwrap();
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
    shutdown.spawn_for_peer("pod", pod.run(CancellationToken::new(), shutdown.clone()));
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
