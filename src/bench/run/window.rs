//! The measured window: requests out, a row each back, counters read in between. IO.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::sync::Mutex;

use super::before::wait_for_scrape;
use super::{LAGGING_AGAIN, SETTLE_AGAIN, Say, Sender, pause};
use crate::bench::answer;
use crate::bench::counters::{Pod, Reader};
use crate::bench::exposition::Counters;
use crate::bench::http::Answer;
use crate::bench::outcome::RequestRow;
use crate::bench::plan::{Request, Workload};
use crate::bench::tally::{Readings, Tally};

/// How long a reading after one request may take to show that request.
const SHOWN_WITHIN: Duration = Duration::from_millis(500);
/// About this many lines of progress.
const PROGRESS_LINES: usize = 30;

/// The window since the baseline.
pub(super) struct Window<'a> {
    reader: &'a Reader,
    started: Instant,
    tally: Mutex<Tally>,
    done: AtomicU64,
}

/// What is known after one request.
#[derive(Default)]
pub(super) struct After {
    /// Who answered, and how that is known.
    pub(super) pod: Option<(String, &'static str)>,
    totals: Option<Counters>,
    requests: u64,
}

impl<'a> Window<'a> {
    /// Opens it.
    pub(super) fn new(reader: &'a Reader, tally: Tally) -> Self {
        Self {
            reader,
            started: Instant::now(),
            tally: Mutex::new(tally),
            done: AtomicU64::new(0),
        }
    }

    /// Reads counters after a request and says who answered it. While another request is
    /// being looked at, only the answer's headers are.
    pub(super) async fn sample(&self, answer: Option<&Answer>) -> After {
        let pods = self.reader.list().await.unwrap_or_default();
        let named = answer.and_then(|answer| named(answer, &pods));
        let mut after = After {
            pod: named,
            totals: None,
            requests: self.done.load(Ordering::Relaxed),
        };
        if self.reader.lags() {
            return after;
        }
        let Ok(mut tally) = self.tally.try_lock() else {
            return after;
        };
        let deadline = Instant::now() + SHOWN_WITHIN;
        let mut active = read(self.reader, &pods, &mut tally).await;
        // An engine may count a moment after it has answered.
        while active.is_empty() && answer.is_some_and(served) && Instant::now() < deadline {
            tokio::time::sleep(SETTLE_AGAIN).await;
            active = read(self.reader, &pods, &mut tally).await;
        }
        after.totals = Some(tally.totals());
        if let (None, [only]) = (&after.pod, active.as_slice()) {
            after.pod = Some((only.clone(), "counters"));
        }
        after
    }

    /// Sends the measured requests; their rows, in the order of the plan.
    pub(super) async fn measure(
        &self,
        sender: &Sender<'_>,
        workload: &Workload,
        say: Say<'_>,
    ) -> Vec<RequestRow> {
        let count = sender.plan.measured.len();
        let every = count.div_ceil(PROGRESS_LINES).max(1);
        let last = count.saturating_sub(workload.concurrency);
        let mut rows: Vec<RequestRow> =
            futures::stream::iter(sender.plan.measured.iter().enumerate())
                .map(|(index, request)| async move {
                    let row = self.one(sender, workload, index, request).await;
                    if row.error.is_some() || (index + 1) % every == 0 {
                        say(&line(&row, count));
                    }
                    if index < last {
                        pause(workload).await;
                    }
                    row
                })
                .buffer_unordered(workload.concurrency)
                .collect()
                .await;
        rows.sort_by_key(|row| row.number);
        rows
    }

    async fn one(
        &self,
        sender: &Sender<'_>,
        workload: &Workload,
        index: usize,
        request: &Request,
    ) -> RequestRow {
        let mut row = RequestRow {
            number: index + 1,
            session: request.session_index + 1,
            turn: request.turn + 1,
            prefix_group: request.group.map(|group| group + 1),
            at_seconds: self.started.elapsed().as_secs_f64(),
            ..RequestRow::default()
        };
        let answer = sender.chat(request, sender.timeout).await;
        self.done.fetch_add(1, Ordering::Relaxed);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                row.error = Some(error.to_string());
                return row;
            }
        };
        row.status = Some(answer.status);
        row.prompt_tokens = answer.usage.prompt_tokens;
        row.cached_tokens = answer.usage.cached_tokens;
        row.first_milliseconds = Some(answer.first.as_secs_f64() * 1000.0);
        row.total_milliseconds = Some(answer.total.as_secs_f64() * 1000.0);
        if answer.status != 200 {
            row.error = Some(answer::error_text(&answer.body));
        }
        let after = self.sample(Some(&answer)).await;
        if let Some((pod, from)) = after.pod {
            // With several requests in flight a counter tells nothing about one of them.
            if workload.concurrency == 1 || from != "counters" {
                row.pod = Some(pod);
                row.pod_from = Some(from.to_owned());
            }
        }
        row.window_query_tokens = after.totals.map(|totals| totals.query_tokens);
        row.window_hit_tokens = after.totals.map(|totals| totals.hit_tokens);
        row.window_requests = after.totals.map(|_| after.requests);
        row
    }

    /// Reads counters until they show `expected` query tokens or `limit` is over.
    pub(super) async fn finish(self, expected: u64, limit: Duration, say: Say<'_>) -> Tally {
        let mut tally = self.tally.into_inner();
        let again = if self.reader.lags() {
            let pods = self.reader.list().await.unwrap_or_default();
            // What was measured is worth more than the last scrape.
            if let Err(error) = wait_for_scrape(self.reader, &pods, limit, say).await {
                say(&error.to_string());
            }
            LAGGING_AGAIN
        } else {
            SETTLE_AGAIN
        };
        let deadline = Instant::now() + limit;
        loop {
            let pods = self.reader.list().await.unwrap_or_default();
            read(self.reader, &pods, &mut tally).await;
            let counted = tally.totals().query_tokens;
            let all_read = tally.pods().values().all(|pod| !pod.lost);
            if (counted >= expected && all_read) || Instant::now() >= deadline {
                say(&format!(
                    "counted {counted} query tokens in the window, the answers report {expected}"
                ));
                return tally;
            }
            tokio::time::sleep(again).await;
        }
    }
}

fn served(answer: &Answer) -> bool {
    answer.status == 200 && answer.usage.prompt_tokens.is_some_and(|tokens| tokens > 0)
}

async fn read(reader: &Reader, pods: &[Pod], tally: &mut Tally) -> Vec<String> {
    let readings: Readings = reader
        .read(pods)
        .await
        .into_iter()
        .map(|(pod, read)| (pod, read.ok().map(|scrape| scrape.counters)))
        .collect();
    tally.read(&readings)
}

/// The pod that an answer's headers name: by name, or by address where it is a known one.
fn named(answer: &Answer, pods: &[Pod]) -> Option<(String, &'static str)> {
    let header = |name: &str| {
        answer
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
            .filter(|value| !value.is_empty())
    };
    if let Some(pod) = header("x-inference-pod") {
        return Some((pod.to_owned(), "x-inference-pod"));
    }
    let upstream = header("x-upstream-host")?;
    let address: Option<std::net::IpAddr> = upstream
        .parse::<std::net::SocketAddr>()
        .map(|address| address.ip())
        .or_else(|_| upstream.parse())
        .ok();
    let pod = pods
        .iter()
        .find(|pod| pod.ip.is_some() && pod.ip == address)
        .map_or(upstream, |pod| &pod.name);
    Some((pod.to_owned(), "x-upstream-host"))
}

fn line(row: &RequestRow, count: usize) -> String {
    let mut line = format!("request {} of {count}: ", row.number);
    match (row.status, row.total_milliseconds) {
        (Some(status), Some(total)) => line.push_str(&format!("{status} in {total:.0} ms")),
        _ => line.push_str("no answer"),
    }
    if let Some(pod) = &row.pod {
        line.push_str(&format!(", {pod}"));
    }
    if let Some(error) = &row.error {
        line.push_str(&format!(", {error}"));
    }
    if let (Some(queries), Some(hits)) = (row.window_query_tokens, row.window_hit_tokens)
        && queries > 0
    {
        line.push_str(&format!(
            ", hit rate so far {:.1} %",
            hits as f64 / queries as f64 * 100.0
        ));
    }
    line
}
