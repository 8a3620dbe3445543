//! Scraping real HTTP servers on loopback, good and bad ones.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::registry::Registry;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;

const PAGE: &str = "vllm:num_requests_waiting{engine=\"0\"} 2
vllm:num_requests_running{engine=\"0\"} 1
vllm:kv_cache_usage_perc{engine=\"0\"} 0.5
vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1
";
const IDLE_PAGE: &str = "vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n";
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `probe` gives something.
async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let ends = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < ends, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A server that answers every request like this; counts connections and requests.
async fn server<F, R>(answer: F) -> (EndpointId, Arc<AtomicUsize>, Arc<AtomicUsize>)
where
    F: Fn() -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response> + Send + 'static,
{
    let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::clone(&requests);
    let router = Router::new().route(
        "/metrics",
        axum::routing::get(move || {
            seen.fetch_add(1, Ordering::SeqCst);
            answer()
        }),
    );
    let counted = axum::serve::ListenerExt::tap_io(listener, {
        let connections = Arc::clone(&connections);
        move |_| {
            connections.fetch_add(1, Ordering::SeqCst);
        }
    });
    tokio::spawn(async move { axum::serve(counted, router).await });
    (EndpointId(address), connections, requests)
}

/// A server that answers every connection with these bytes and hangs up.
async fn raw(bytes: &'static [u8]) -> EndpointId {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
    });
    EndpointId(address)
}

fn text(body: impl Into<Body>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        body.into(),
    )
        .into_response()
}

fn quick() -> Limits {
    Limits {
        fast: Duration::from_millis(10),
        idle: Duration::from_millis(400),
        backoff: Duration::from_millis(100),
        timeout: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn scrapes(limits: Limits) -> (Scrapes, Metrics, Shutdown) {
    let metrics = Metrics::register(&mut Registry::default());
    let shutdown = Shutdown::new();
    let scrapes = Scrapes::new(limits, metrics.clone(), shutdown.clone());
    (scrapes, metrics, shutdown)
}

async fn stopped(shutdown: &Shutdown) {
    shutdown.begin();
    tokio::time::timeout(DEADLINE, shutdown.finished())
        .await
        .expect("every task ends")
        .unwrap();
}

#[tokio::test]
async fn a_load_is_read_over_one_kept_connection() {
    let (endpoint, connections, requests) = server(|| async { text(PAGE) }).await;
    let (scrapes, metrics, shutdown) = scrapes(quick());
    assert_eq!(scrapes.load(endpoint, Instant::now()), None);
    scrapes.sync([endpoint, endpoint]);
    let load = until("a load", || scrapes.load(endpoint, Instant::now())).await;
    assert_eq!((load.waiting, load.running, load.kv_usage), (2, 1, 0.5));
    assert_eq!(
        (load.block_size, load.num_gpu_blocks),
        (Some(16), Some(100))
    );
    until("some scrapes", || (metrics.count("ok") >= 5).then_some(())).await;
    assert!(requests.load(Ordering::SeqCst) >= 5);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    stopped(&shutdown).await;
}

#[tokio::test]
async fn an_endpoint_that_left_is_no_longer_scraped_or_told() {
    let (stays, _, stays_seen) = server(|| async { text(PAGE) }).await;
    let (leaves, _, leaves_seen) = server(|| async { text(PAGE) }).await;
    let (scrapes, _, shutdown) = scrapes(quick());
    scrapes.sync([stays, leaves]);
    for endpoint in [stays, leaves] {
        until("a load", || scrapes.load(endpoint, Instant::now())).await;
    }
    let before = scrapes.load(stays, Instant::now());
    scrapes.sync([stays]);
    assert!(before.is_some() && scrapes.load(stays, Instant::now()).is_some());
    assert_eq!(scrapes.load(leaves, Instant::now()), None);
    // One scrape may still have been on its way.
    let seen = leaves_seen.load(Ordering::SeqCst) + 1;
    let more = stays_seen.load(Ordering::SeqCst) + 10;
    until("more scrapes", || {
        (stays_seen.load(Ordering::SeqCst) >= more).then_some(())
    })
    .await;
    assert!(leaves_seen.load(Ordering::SeqCst) <= seen);
    scrapes.sync([stays, leaves]);
    until("a load again", || scrapes.load(leaves, Instant::now())).await;
    stopped(&shutdown).await;
}

#[tokio::test]
async fn a_load_grows_stale_when_the_engine_falls_silent() {
    let alive = Arc::new(AtomicU64::new(1));
    let answers = Arc::clone(&alive);
    let (endpoint, _, _) = server(move || {
        let alive = answers.load(Ordering::SeqCst) > 0;
        async move {
            if alive {
                text(PAGE)
            } else {
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    })
    .await;
    let (scrapes, metrics, shutdown) = scrapes(quick());
    scrapes.sync([endpoint]);
    until("a load", || scrapes.load(endpoint, Instant::now())).await;
    alive.store(0, Ordering::SeqCst);
    until("a failure", || (metrics.count("status") > 0).then_some(())).await;
    let last = scrapes.0.entries.load()[&endpoint]
        .slot
        .latest
        .load_full()
        .unwrap();
    let stale = quick().stale();
    assert!(scrapes.load(endpoint, last.at + stale).is_some());
    assert_eq!(
        scrapes.load(endpoint, last.at + stale + Duration::from_millis(1)),
        None
    );
    until("silence", || {
        scrapes
            .load(endpoint, Instant::now())
            .is_none()
            .then_some(())
    })
    .await;
    alive.store(1, Ordering::SeqCst);
    until("a load again", || scrapes.load(endpoint, Instant::now())).await;
    stopped(&shutdown).await;
}

#[tokio::test]
async fn every_way_to_fail_is_counted_and_leaves_no_load() {
    let huge = Bytes::from(vec![b'#'; 64 * 1024]);
    let chunks = huge.clone();
    let (hang, _, _) = server(std::future::pending).await;
    let (error, _, _) =
        server(|| async { StatusCode::INTERNAL_SERVER_ERROR.into_response() }).await;
    let (redirect, _, _) =
        server(|| async { axum::response::Redirect::to("/other").into_response() }).await;
    let (large, _, _) = server(move || {
        let body = huge.clone();
        async move { text(body) }
    })
    .await;
    let (endless, _, _) = server(move || {
        let chunk = chunks.clone();
        async move {
            text(Body::from_stream(futures::stream::repeat_with(move || {
                Ok::<_, std::io::Error>(chunk.clone())
            })))
        }
    })
    .await;
    let (html, _, _) =
        server(|| async { axum::response::Html("<p>vllm:num_requests_waiting 1").into_response() })
            .await;
    let (binary, _, _) =
        server(|| async { text(&b"\0\x01vllm:num_requests_waiting 1\n"[..]) }).await;
    let (zipped, _, _) =
        server(|| async { ([(header::CONTENT_ENCODING, "gzip")], "x").into_response() }).await;
    let (nothing, _, _) = server(|| async { text("") }).await;
    let (other, _, _) = server(|| async { text("process_cpu_seconds_total 1\n") }).await;
    let cut =
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nvllm:num_requests_waiting 1\n").await;
    let not_http = raw(b"hello\r\n").await;
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        EndpointId(listener.local_addr().unwrap())
    };
    for (endpoint, outcome) in [
        (hang, "timeout"),
        (error, "status"),
        (redirect, "status"),
        (large, "too_large"),
        (endless, "too_large"),
        (html, "not_text"),
        (binary, "not_text"),
        (zipped, "not_text"),
        (nothing, "empty"),
        (other, "empty"),
        (cut, "connect"),
        (not_http, "connect"),
        (gone, "connect"),
    ] {
        let limits = Limits {
            max_page_bytes: 16 * 1024,
            ..quick()
        };
        let (scrapes, metrics, shutdown) = scrapes(limits);
        scrapes.sync([endpoint]);
        until(outcome, || (metrics.count(outcome) >= 2).then_some(())).await;
        assert_eq!(scrapes.load(endpoint, Instant::now()), None, "{outcome}");
        assert_eq!(metrics.count("ok"), 0, "{outcome}");
        stopped(&shutdown).await;
    }
}

#[tokio::test]
async fn an_idle_endpoint_is_scraped_slowly_until_it_is_nudged() {
    let (endpoint, _, requests) = server(|| async { text(IDLE_PAGE) }).await;
    let limits = Limits {
        idle: Duration::from_hours(1),
        ..quick()
    };
    let (scrapes, _, shutdown) = scrapes(limits);
    scrapes.sync([endpoint]);
    // 10, 20, 40 … ms: after eight scrapes the next one is more than a second away.
    until("eight scrapes", || {
        (requests.load(Ordering::SeqCst) >= 8).then_some(())
    })
    .await;
    let asked = Instant::now();
    scrapes.nudge(endpoint);
    until("a ninth", || {
        (requests.load(Ordering::SeqCst) >= 9).then_some(())
    })
    .await;
    assert!(
        asked.elapsed() < Duration::from_millis(900),
        "{:?}",
        asked.elapsed()
    );
    scrapes.nudge(EndpointId(SocketAddr::from(([127, 0, 0, 1], 1))));
    stopped(&shutdown).await;
}

#[tokio::test]
async fn no_more_scrapes_run_at_one_time_than_allowed() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let mut endpoints = Vec::new();
    for _ in 0..8 {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        let (endpoint, _, _) = server(move || {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                text(PAGE)
            }
        })
        .await;
        endpoints.push(endpoint);
    }
    let (scrapes, metrics, shutdown) = scrapes(Limits {
        concurrent: 2,
        ..quick()
    });
    scrapes.sync(endpoints.clone());
    for endpoint in endpoints {
        until("a load", || scrapes.load(endpoint, Instant::now())).await;
    }
    assert!(most.load(Ordering::SeqCst) <= 2);
    until("a wait", || (metrics.waits() > 0).then_some(())).await;
    stopped(&shutdown).await;
}
