//! Replicas that share bindings, through a real server where there is one (`REDIS_URL`), and
//! without any.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use redis::Value;

use super::super::binding::{Bound, Change, Limits, UnixMillis};
use super::super::unix_now;
use super::read::entries;
use super::write::latest;
use super::*;
use crate::scheduling::endpoint::EndpointId;

const DEADLINE: Duration = Duration::from_secs(30);

fn endpoint(number: u8) -> EndpointId {
    EndpointId(SocketAddr::from(([10, 0, 0, number], 8000)))
}

async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let ends = Instant::now() + DEADLINE;
    while !probe() {
        assert!(Instant::now() < ends, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A key no other test uses.
fn key(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = unix_now().0;
    stream_key(
        "test",
        &format!("{name}-{}-{now}-{next}", std::process::id()),
    )
}

fn real() -> Option<ConnectionInfo> {
    let Ok(url) = std::env::var("REDIS_URL") else {
        eprintln!("SKIPPED: set REDIS_URL to a Redis or Valkey server to run this test");
        return None;
    };
    Some(server(&url, None).expect("REDIS_URL is an address"))
}

struct Replica {
    sessions: Sessions,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Replica {
    fn start(server: &ConnectionInfo, key: &str, origin: &str) -> Self {
        Self::with_limits(server, key, origin, Limits::default())
    }

    fn with_limits(server: &ConnectionInfo, key: &str, origin: &str, limits: Limits) -> Self {
        let metrics = Metrics::register(&mut Registry::default());
        let (sessions, changes) = Sessions::shared(limits, metrics.clone());
        let shutdown = Shutdown::new();
        let config = Config {
            server: server.clone(),
            key: key.to_owned(),
            origin: origin.to_owned(),
            max_entries: 10_000,
        };
        let sharing = run(config, sessions.clone(), changes, shutdown.clone());
        shutdown.spawn("sessions", sharing);
        Self {
            sessions,
            metrics,
            shutdown,
        }
    }

    fn at(&self, session: u64) -> Option<EndpointId> {
        self.sessions.get(session, unix_now())
    }

    fn bind(&self, session: u64, number: u8) {
        self.sessions
            .bind(session, endpoint(number), u64::from(number), unix_now());
    }

    async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(DEADLINE, self.shutdown.finished())
            .await
            .expect("sharing ends at shutdown")
            .unwrap();
        assert!(self.shutdown.begun());
    }
}

/// A door to the server that can be shut.
struct Door {
    listener: std::net::TcpListener,
    server: String,
    open: Option<CancellationToken>,
}

impl Door {
    async fn to(info: &ConnectionInfo) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener: listener.into_std().unwrap(),
            server: info.addr().to_string(),
            open: None,
        }
    }

    fn info(&self, like: &ConnectionInfo) -> ConnectionInfo {
        let address = self.listener.local_addr().unwrap();
        server(&address.to_string(), like.redis_settings().password()).unwrap()
    }

    fn open(&mut self) {
        let stop = CancellationToken::new();
        self.open = Some(stop.clone());
        let listener = TcpListener::from_std(self.listener.try_clone().unwrap()).unwrap();
        let server = self.server.clone();
        tokio::spawn(async move {
            while let Some(Ok((mut inside, _))) = stop.run_until_cancelled(listener.accept()).await
            {
                let (stop, server) = (stop.clone(), server.clone());
                tokio::spawn(async move {
                    let mut outside = TcpStream::connect(server).await.unwrap();
                    let copy = tokio::io::copy_bidirectional(&mut inside, &mut outside);
                    stop.run_until_cancelled(copy).await
                });
            }
        });
    }

    fn shut(&mut self) {
        self.open.take().unwrap().cancel();
    }
}

#[test]
fn addresses_are_read_and_passwords_never_shown() {
    let plain = server("redis.ns.svc:6379", None).unwrap();
    assert_eq!(plain.addr().to_string(), "redis.ns.svc:6379");
    assert_eq!(plain.redis_settings().password(), None);
    let url = server("redis://:inside@10.0.0.1:7000/2", Some("outside")).unwrap();
    assert_eq!(url.addr().to_string(), "10.0.0.1:7000");
    assert_eq!(url.redis_settings().password(), Some("outside"));
    assert_eq!(url.redis_settings().db(), 2);
    let url = server("redis://:inside@10.0.0.1", Some("")).unwrap();
    assert_eq!(url.redis_settings().password(), Some("inside"));
    let secure = server("rediss://:secret@redis:6380", None).unwrap();
    assert!(
        matches!(
            secure.addr(),
            redis::ConnectionAddr::TcpTls {
                insecure: false,
                ..
            }
        ),
        "certificates are verified"
    );
    for bad in ["", ":", "http://10.0.0.1:80", "redis://:secret@:x"] {
        let error = server(bad, None).expect_err(bad).to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    assert_eq!(stream_key("ns", "pool"), "llm-d:{ns/pool}:sessions");
}

#[test]
fn only_the_last_change_of_a_session_is_written() {
    let change = |session, number, at| Change {
        session,
        bound: Bound {
            endpoint: endpoint(number),
            pod_uid: 0,
        },
        at: UnixMillis(at),
    };
    let latest = latest(&[
        change(1, 1, 5),
        change(2, 1, 5),
        change(1, 2, 6),
        change(1, 3, 4),
    ]);
    assert_eq!(latest.len(), 2);
    assert_eq!(latest[&1], change(1, 2, 6));
}

#[test]
fn answers_of_another_form_are_refused() {
    let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let entry = Value::Array(vec![text("1-0"), Value::Array(vec![text("s"), text("x")])]);
    let gone = Value::Array(vec![text("2-0"), Value::Nil]);
    let stream =
        |entries| Value::Array(vec![Value::Array(vec![text("key"), Value::Array(entries)])]);
    assert_eq!(entries(&Value::Nil).map(|e| e.len()), Some(0));
    assert_eq!(
        entries(&stream(vec![entry, gone])).map(|e| e.len()),
        Some(2)
    );
    for odd in [
        Value::Okay,
        Value::Int(1),
        Value::Array(vec![]),
        Value::Array(vec![Value::Array(vec![text("key")])]),
        stream(vec![Value::Array(vec![text("1-0")])]),
        stream(vec![Value::Array(vec![
            Value::Int(1),
            Value::Array(vec![]),
        ])]),
        stream(vec![text("1-0")]),
    ] {
        assert!(entries(&odd).is_none(), "{odd:?}");
    }
}

#[tokio::test]
async fn without_a_server_sessions_are_served_all_the_same() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let info = server(&gone.to_string(), None).unwrap();
    let replica = Replica::start(&info, "key", "a");
    let errors = |link| replica.metrics.errors(link);
    // More than the queue holds: the oldest wait, the rest is counted.
    for session in 0..10_000 {
        replica.bind(session, 1);
    }
    until("failures", || errors("read") >= 2 && errors("write") >= 2).await;
    for session in 10_000..20_000 {
        replica.bind(session, 1);
    }
    assert!(replica.metrics.unshared() > 0);
    assert_eq!(replica.sessions.count(endpoint(1)), 20_000);
    assert_eq!(replica.at(19_999), Some(endpoint(1)));
    assert!(!replica.metrics.is_up("read"));
    replica.stop().await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_and_held_by_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let info = server(&listener.local_addr().unwrap().to_string(), None).unwrap();
    let replica = Replica::start(&info, "key", "a");
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(listener.accept().await.unwrap());
    }
    replica.bind(1, 1);
    assert_eq!(replica.at(1), Some(endpoint(1)));
    replica.stop().await;
}

#[tokio::test]
async fn replicas_learn_each_others_bindings() {
    let Some(info) = real() else { return };
    let key = key("learn");
    let (one, other) = (
        Replica::start(&info, &key, "one"),
        Replica::start(&info, &key, "other"),
    );
    one.bind(1, 1);
    other.bind(2, 2);
    until("both know both", || {
        one.at(2) == Some(endpoint(2)) && other.at(1) == Some(endpoint(1))
    })
    .await;
    other.bind(1, 3);
    until("a move", || one.at(1) == Some(endpoint(3))).await;
    assert_eq!(
        (
            one.sessions.count(endpoint(1)),
            one.sessions.count(endpoint(3))
        ),
        (0, 1)
    );
    until("both are counted", || {
        (one.metrics.flushed(), other.metrics.flushed()) == (1, 2)
    })
    .await;
    assert!(one.metrics.is_up("read") && one.metrics.is_up("write"));
    until("own entries", || other.metrics.entries("own") == 2).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_new_replica_is_warm_and_what_was_bound_last_is_not_lost_at_shutdown() {
    let Some(info) = real() else { return };
    let key = key("warm");
    let old = Replica::start(&info, &key, "old");
    for session in 0..2_000 {
        old.bind(session, (session % 3) as u8);
    }
    until("a flush", || old.metrics.flushed() > 0).await;
    until("all flushed", || old.metrics.flushed() == 2_000).await;
    old.bind(9_999, 9);
    old.stop().await;
    let new = Replica::start(&info, &key, "new");
    until("warm", || new.sessions.len() == 2_001).await;
    assert_eq!(new.at(1_000), Some(endpoint(1)));
    assert_eq!(new.at(9_999), Some(endpoint(9)));
    new.stop().await;
}

#[tokio::test]
async fn uses_prolong_a_binding_everywhere_and_expired_entries_are_passed_over() {
    let Some(info) = real() else { return };
    let key = key("prolong");
    let limits = Limits {
        sticky: Duration::from_secs(3),
        ..Limits::default()
    };
    let one = Replica::with_limits(&info, &key, "one", limits);
    let other = Replica::with_limits(&info, &key, "other", limits);
    let begun = Instant::now();
    one.bind(1, 1);
    one.bind(2, 2);
    until("bound", || other.at(1).is_some() && other.at(2).is_some()).await;
    until("only the unused one expires", || {
        one.bind(1, 1);
        other.at(2).is_none() && other.at(1).is_some()
    })
    .await;
    // Times are cut to milliseconds.
    assert!(begun.elapsed() + Duration::from_millis(1) >= limits.sticky);
    let late = Replica::with_limits(&info, &key, "late", limits);
    until("the used one", || {
        one.bind(1, 1);
        late.at(1) == Some(endpoint(1))
    })
    .await;
    assert_eq!(late.at(2), None);
    assert!(late.metrics.entries("expired") > 0);
    for replica in [one, other, late] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn malformed_entries_are_counted_and_the_next_ones_read() {
    let Some(info) = real() else { return };
    let key = key("malformed");
    let mut connection = connect(&Client::open(info.clone()).unwrap(), ANSWER)
        .await
        .unwrap();
    let mut add = async |fields: &[(&str, &str)]| {
        let mut command = redis::cmd("XADD");
        command.arg(&key).arg("*");
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        command
            .query_async::<String>(&mut connection)
            .await
            .unwrap();
    };
    let now = unix_now().0.to_string();
    add(&[("x", "y")]).await;
    add(&[
        ("s", "zz"),
        ("e", "10.0.0.1:1"),
        ("u", "0000000000000001"),
        ("t", &now),
        ("o", "x"),
    ])
    .await;
    let reader = Replica::start(&info, &key, "reader");
    until("two", || reader.metrics.entries("malformed") == 2).await;
    let future = (unix_now().0 + 3_600_000).to_string();
    let good = [
        ("s", "0000000000000001"),
        ("e", "10.0.0.1:8000"),
        ("u", "0000000000000001"),
    ];
    add(&[&good[..], &[("t", &future), ("o", "x")]].concat()).await;
    add(&[&good[..], &[("t", &now), ("o", "x")]].concat()).await;
    until("the good one", || reader.at(1) == Some(endpoint(1))).await;
    assert_eq!(reader.metrics.entries("ahead"), 1);
    reader.stop().await;
}

#[tokio::test]
async fn replicas_meet_again_after_the_server_was_away() {
    let Some(info) = real() else { return };
    let key = key("away");
    let mut door = Door::to(&info).await;
    door.open();
    let through = door.info(&info);
    let (one, other) = (
        Replica::start(&through, &key, "one"),
        Replica::start(&info, &key, "other"),
    );
    one.bind(1, 1);
    until("bound", || other.at(1).is_some()).await;
    door.shut();
    other.bind(2, 2);
    until("down", || !one.metrics.is_up("read")).await;
    one.bind(3, 3);
    assert_eq!(
        (one.at(1), one.at(3)),
        (Some(endpoint(1)), Some(endpoint(3)))
    );
    until("the write fails", || !one.metrics.is_up("write")).await;
    // What the server had may be gone, too.
    let mut connection = connect(&Client::open(info.clone()).unwrap(), ANSWER)
        .await
        .unwrap();
    redis::cmd("DEL")
        .arg(&key)
        .query_async::<u64>(&mut connection)
        .await
        .unwrap();
    other.bind(4, 4);
    door.open();
    until("both know both", || {
        one.at(4).is_some() && other.at(3).is_some()
    })
    .await;
    // The other replica may see an entry before its writer sees the answer.
    until("both links are up", || {
        one.metrics.is_up("read") && one.metrics.is_up("write")
    })
    .await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn the_stream_is_bounded_and_goes_away_when_nobody_writes() {
    let Some(info) = real() else { return };
    let key = key("bounded");
    let metrics = Metrics::register(&mut Registry::default());
    let (sessions, changes) = Sessions::shared(Limits::default(), metrics.clone());
    let shutdown = Shutdown::new();
    let config = Config {
        server: info.clone(),
        key: key.clone(),
        origin: "one".to_owned(),
        max_entries: 100,
    };
    shutdown.spawn(
        "sessions",
        run(config, sessions.clone(), changes, shutdown.clone()),
    );
    for session in 0..3_000 {
        sessions.bind(session, endpoint(1), 1, unix_now());
    }
    until("all flushed", || metrics.flushed() == 3_000).await;
    let mut connection = connect(&Client::open(info).unwrap(), ANSWER).await.unwrap();
    let length: usize = redis::cmd("XLEN")
        .arg(&key)
        .query_async(&mut connection)
        .await
        .unwrap();
    // "About": the server trims whole nodes of its tree, of 100 entries by default.
    assert!(length <= 300, "{length}");
    let left: i64 = redis::cmd("PTTL")
        .arg(&key)
        .query_async(&mut connection)
        .await
        .unwrap();
    let most = Limits::default().sticky * 2 + Duration::from_mins(1);
    assert!(left > 0 && left as u128 <= most.as_millis(), "{left}");
    shutdown.begin();
    shutdown.finished().await.unwrap();
}
