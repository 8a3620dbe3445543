//! The bindings as requests see them: what is counted and what is passed on.

use std::net::SocketAddr;

use prometheus_client::registry::Registry;

use super::*;

fn endpoint(number: u8) -> EndpointId {
    EndpointId(SocketAddr::from(([10, 0, 0, number], 8000)))
}

#[test]
fn what_happens_to_bindings_is_counted() {
    let metrics = Metrics::register(&mut Registry::default());
    let limits = Limits {
        max_bindings: 4,
        ..Limits::default()
    };
    let sessions = Sessions::new(limits, metrics.clone());
    let now = unix_now();
    for session in 0..4 {
        sessions.bind(session, endpoint(1), 1, now);
    }
    sessions.bind(0, endpoint(2), 2, now);
    sessions.bind(0, endpoint(2), 2, now);
    sessions.bind(9, endpoint(3), 3, now);
    assert_eq!(sessions.get(9, now), Some(endpoint(3)));
    assert_eq!(sessions.binding(9, now).map(|bound| bound.pod_uid), Some(3));
    assert_eq!(sessions.forget_endpoint(endpoint(3)), 1);
    for (event, wanted) in [
        ("bound", 5),
        ("moved", 1),
        ("evicted", 1),
        ("forgotten", 1),
        ("refused", 0),
    ] {
        assert_eq!(metrics.events(event), wanted, "{event}");
    }
    assert_eq!(
        sessions.len() as u64,
        sessions.count(endpoint(1)) + sessions.count(endpoint(2))
    );
    assert_eq!(metrics.unshared(), 0, "there is nobody to share with");
}

#[test]
fn a_full_queue_drops_changes_and_not_bindings() {
    let metrics = Metrics::register(&mut Registry::default());
    let (sessions, mut changes) = Sessions::shared(Limits::default(), metrics.clone());
    let now = unix_now();
    for session in 0..QUEUE as u64 + 7 {
        sessions.bind(session, endpoint(1), 1, now);
    }
    assert_eq!(metrics.unshared(), 7);
    assert_eq!(sessions.count(endpoint(1)), QUEUE as u64 + 7);
    assert_eq!(changes.0.try_recv().map(|change| change.session), Ok(0));
}

#[tokio::test]
async fn expired_bindings_go_without_anybody_asking() {
    let metrics = Metrics::register(&mut Registry::default());
    let limits = Limits {
        sticky: Duration::from_millis(50),
        ..Limits::default()
    };
    let sessions = Sessions::new(limits, metrics.clone());
    let shutdown = Shutdown::new();
    shutdown.spawn("sessions", sessions.clone().maintain(shutdown.clone()));
    sessions.bind(1, endpoint(1), 1, unix_now());
    let ends = std::time::Instant::now() + Duration::from_secs(20);
    while metrics.events("expired") == 0 {
        assert!(std::time::Instant::now() < ends);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(sessions.is_empty());
    assert_eq!(sessions.count(endpoint(1)), 0);
    shutdown.begin();
    shutdown.finished().await.unwrap();
}

#[tokio::test]
async fn room_is_made_before_a_request_has_to() {
    let metrics = Metrics::register(&mut Registry::default());
    let limits = Limits {
        max_bindings: 1_600,
        ..Limits::default()
    };
    let sessions = Sessions::new(limits, metrics.clone());
    let shutdown = Shutdown::new();
    shutdown.spawn("sessions", sessions.clone().maintain(shutdown.clone()));
    for session in 0..1_500 {
        sessions.bind(session, endpoint(1), 1, unix_now());
    }
    let ends = std::time::Instant::now() + Duration::from_secs(20);
    while metrics.events("evicted") == 0 {
        assert!(std::time::Instant::now() < ends);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((metrics.events("evicted"), sessions.len()), (100, 1_400));
    shutdown.begin();
    shutdown.finished().await.unwrap();
}
