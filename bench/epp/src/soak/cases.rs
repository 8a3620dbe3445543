//! The cases of a soak. IO.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _, stream};
use http::HeaderValue;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::Soak;
use super::upload::{End, Upload};
use crate::client::{Client, PATIENCE};
use crate::load::{self, Load, Outcome};
use crate::prompts::Prompts;

const MIB: u64 = 1 << 20;
/// Streams over one HTTP/2 connection.
const PER_CONNECTION: usize = 500;
/// Requests of open answers that wait for their first event at the same time.
const OPENING: usize = 200;
/// How long the open answers stay idle.
const HOLD: Duration = Duration::from_secs(30);

impl Soak {
    /// Many requests for long: none is lost, memory stays.
    pub(super) async fn load(&mut self) {
        let (rate, seconds) = (self.args.rate, self.args.seconds);
        println!("load: {rate} requests a second of 30,000 characters for {seconds} s");
        let watch = self.watch();
        let cpu = self.cpu_ms();
        let outcome = self
            .requests(30_000, rate, Duration::from_secs_f64(seconds))
            .await;
        let cpu = self.cpu_ms() - cpu;
        let seen = watch.end();
        let each = cpu / outcome.sent as f64;
        let told = format!("{}; CPU {each:.3} ms each", tell(&outcome));
        self.verdict
            .check("  every request is answered", all_ok(&outcome), &told);
        self.verdict
            .check("  memory is flat", seen.is_flat(), &seen.to_string());
    }

    async fn requests(&self, chars: usize, rate: u32, duration: Duration) -> Outcome {
        let load = Load {
            rate,
            duration,
            first: 0,
        };
        let prompts = Arc::new(Prompts::new(chars));
        load::run(&self.client, self.stage.listeners[0].address, prompts, load).await
    }

    /// Many answers that stay open, and other requests meanwhile.
    pub(super) async fn streams(&mut self) {
        let wanted = self.args.streams;
        println!("streams: {wanted} answers that stay open");
        let (watch, before) = (self.watch(), self.rss());
        let started = Instant::now();
        let mut open = self.open(wanted).await;
        let told = format!(
            "{} of {wanted} within {:.1} s",
            open.len(),
            started.elapsed().as_secs_f64()
        );
        self.verdict
            .check("  all are open", open.len() == wanted, &told);
        let held = self.rss();
        let outcome = self.requests(1000, 100, HOLD).await;
        self.verdict.check(
            "  others are answered meanwhile",
            all_ok(&outcome),
            &tell(&outcome),
        );
        let lost = open
            .iter_mut()
            // An open answer has nothing to say.
            .filter_map(|body| body.frame().now_or_never())
            .count();
        self.verdict.check(
            "  none is lost",
            lost == 0,
            &format!("{lost} lost after {} s idle", HOLD.as_secs()),
        );
        drop(open);
        let kib = (held - before) * 1024.0 / wanted as f64;
        let seen = watch.end();
        let told = format!("{kib:.1} KiB for each; {seen}");
        self.verdict.check(
            "  memory stays in its bound",
            seen.peak() <= self.args.rss_limit,
            &told,
        );
        // The same again: what the first ones took must serve the second ones.
        let watch = self.watch();
        let again = self.open(wanted).await.len();
        let second = watch.end().peak();
        let told = format!(
            "{again} of {wanted}, RSS {:.0}, then {second:.0} MiB",
            seen.peak()
        );
        let flat = second <= seen.peak() * 1.15 + 8.0;
        self.verdict
            .check("  and the same again", again == wanted && flat, &told);
    }

    fn cpu_ms(&self) -> f64 {
        self.stage.epps[0].process.cpu_ms().unwrap_or_default()
    }

    fn rss(&self) -> f64 {
        self.stage.epps[0].process.rss_mib().unwrap_or_default()
    }

    async fn open(&self, wanted: usize) -> Vec<Incoming> {
        let clients: Vec<Client> = (0..wanted.div_ceil(PER_CONNECTION))
            .map(|_| Client::http2())
            .collect();
        let (to, prompts) = (self.stage.listeners[0].address, Prompts::new(1000));
        stream::iter(0..wanted)
            .map(|number| {
                let client = &clients[number / PER_CONNECTION];
                let mut request = Client::chat(to, prompts.body(number as u64));
                let hold = HeaderValue::from_static("hold");
                request.headers_mut().insert("x-bench-answer", hold);
                async move {
                    let response = client.open(request);
                    let response = tokio::time::timeout(PATIENCE, response).await.ok()?.ok()?;
                    let is_ok = response.status() == 200;
                    let mut body = response.into_body();
                    let first: Bytes = body.frame().await?.ok()?.into_data().ok()?;
                    (is_ok && !first.is_empty()).then_some(body)
                }
            })
            .buffer_unordered(OPENING)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// A client of one byte a second.
    pub(super) async fn drip(&mut self) {
        let bytes = 40;
        println!("drip: a body of {bytes} bytes, one a second");
        let upload = Upload {
            announced: Some(bytes),
            sent: bytes,
            piece: 1,
            pause: Duration::from_secs(1),
        };
        let to = self.stage.listeners[0].address;
        let patience = Duration::from_secs(2 * bytes);
        let load = self.requests(1000, 50, Duration::from_secs(bytes));
        let (end, outcome) = tokio::join!(upload.run(to, patience), load);
        // Served, or told that it takes too long.
        let ended = matches!(end.status, Some(200 | 408));
        self.verdict.check("  it is answered", ended, &told(&end));
        self.verdict.check(
            "  others are answered meanwhile",
            all_ok(&outcome),
            &tell(&outcome),
        );
    }

    /// Uploads that stop before their end.
    pub(super) async fn stall(&mut self) {
        let (count, patience) = (
            self.args.uploads,
            Duration::from_secs(self.args.stall_seconds),
        );
        println!("stall: {count} uploads that stop after 15 of 16 MiB");
        let upload = Upload {
            announced: Some(16 * MIB),
            sent: 15 * MIB,
            piece: 64 << 10,
            pause: Duration::ZERO,
        };
        let (to, watch) = (self.stage.listeners[0].address, self.watch());
        let uploads = join_all((0..count).map(|_| upload.run(to, patience)));
        let load = self.requests(1000, 50, Duration::from_secs(30));
        let (ends, outcome) = tokio::join!(uploads, load);
        let seen = watch.end();
        let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
        for end in &ends {
            let status = end
                .status
                .map_or("none".to_owned(), |status| status.to_string());
            *statuses.entry(status).or_default() += 1;
        }
        let last = ends.iter().map(|end| end.after).max().unwrap_or_default();
        let ended = ends
            .iter()
            .all(|end| matches!(end.status, Some(408 | 413 | 429 | 503)));
        let told = format!("{statuses:?}, the last after {:.1} s", last.as_secs_f64());
        self.verdict
            .check("  all are refused in time", ended, &told);
        self.verdict.check(
            "  others are answered meanwhile",
            all_ok(&outcome),
            &tell(&outcome),
        );
        let bounded = seen.peak() <= self.args.rss_limit;
        self.verdict
            .check("  memory stays in its bound", bounded, &seen.to_string());
    }

    /// 1 GiB, announced and not.
    pub(super) async fn huge(&mut self) {
        for (how, announced) in [("announced", Some(1024 * MIB)), ("chunked", None)] {
            println!("huge: 1 GiB, {how}");
            let upload = Upload {
                announced,
                sent: 1024 * MIB,
                piece: 64 << 10,
                pause: Duration::ZERO,
            };
            let watch = self.watch();
            let end = upload.run(self.stage.listeners[0].address, PATIENCE).await;
            let seen = watch.end();
            let early = end.taken < 64 * MIB;
            let refused = matches!(end.status, Some(413)) && early;
            self.verdict
                .check("  it is refused early", refused, &told(&end));
            let bounded = seen.peak() <= self.args.rss_limit;
            self.verdict
                .check("  memory stays in its bound", bounded, &seen.to_string());
        }
    }
}

fn all_ok(outcome: &Outcome) -> bool {
    outcome.sent > 0 && outcome.ok() == outcome.sent
}

fn tell(outcome: &Outcome) -> String {
    format!(
        "{} of {} with 200 {:?}, p50 {:.2} ms, p99 {:.2} ms, slowest {:.1} ms",
        outcome.ok(),
        outcome.sent,
        outcome.ends,
        outcome.quantile(0.5),
        outcome.quantile(0.99),
        outcome.quantile(1.0)
    )
}

fn told(end: &End) -> String {
    let status = end
        .status
        .map_or("no answer".to_owned(), |status| status.to_string());
    let (after, taken) = (end.after.as_secs_f64(), end.taken as f64 / MIB as f64);
    format!("{status} after {after:.1} s, {taken:.1} MiB taken")
}
