//! The name of a headless Service -> the addresses that prefill endpoints have now. IO (DNS).
//!
//! One task looks the name up: at the start, again and again, and at once when a request names
//! an endpoint that is not known, but no more than once a second whatever requests name. So
//! there is never more than one look-up at a time, and requests only read.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::allowlist::Listed;
use super::metrics::Metrics;
use crate::telemetry::shutdown::Shutdown;

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From the beginning of one look-up to the next, at least.
    pub pause: Duration,
    /// From one look-up to the next where nobody asks.
    pub refresh: Duration,
    /// Longest wait of a request for a look-up it asked for.
    pub wait: Duration,
    /// How long addresses are kept while look-ups fail. A Service without ready pods fails to
    /// be looked up as one whose DNS is down does.
    pub keep: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(1),
            refresh: Duration::from_secs(15),
            wait: Duration::from_secs(1),
            keep: Duration::from_mins(2),
        }
    }
}

/// Most addresses of one Service.
const MAX_ADDRESSES: usize = 4096;

/// Turns a name and a port into addresses.
pub type LookUp =
    Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The system's resolver.
pub fn system() -> LookUp {
    Arc::new(|name, port| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, port)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// What is known of the Service; cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    known: watch::Receiver<Known>,
    asked: Arc<Notify>,
    pace: Pace,
}

#[derive(Debug)]
struct Known {
    listed: Listed,
    /// Look-ups that have ended.
    ended: u64,
    /// When the last of these began.
    begun: Option<Instant>,
    /// When the addresses were last confirmed.
    confirmed: Option<Instant>,
}

impl Known {
    fn new(port: u16) -> Self {
        Self {
            listed: Listed {
                port,
                addresses: Vec::new(),
            },
            ended: 0,
            begun: None,
            confirmed: None,
        }
    }

    /// Takes in what a look-up found that began and ended then. True when the addresses changed.
    fn learn(
        &mut self,
        found: io::Result<Vec<IpAddr>>,
        (begun, now): (Instant, Instant),
        keep: Duration,
    ) -> bool {
        self.ended += 1;
        self.begun = Some(begun);
        let kept = |at: Instant| now.duration_since(at) < keep;
        let addresses = match found {
            Ok(mut addresses) => {
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(MAX_ADDRESSES);
                self.confirmed = Some(now);
                addresses
            }
            Err(_) if self.confirmed.is_some_and(kept) => return false,
            Err(_) => Vec::new(),
        };
        let changed = self.listed.addresses != addresses;
        self.listed.addresses = addresses;
        changed
    }
}

impl Service {
    /// Begins to look up the name, until shutdown.
    pub fn start(
        (name, port): (String, u16),
        look_up: LookUp,
        pace: Pace,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> Self {
        let (sender, known) = watch::channel(Known::new(port));
        let asked: Arc<Notify> = Arc::default();
        let resolver = Resolver {
            name,
            port,
            look_up,
            pace,
            known: sender,
            asked: asked.clone(),
            metrics,
        };
        let until = shutdown.clone();
        shutdown.spawn("prefill service", async move {
            tokio::select! {
                () = resolver.run() => {}
                () = until.requested() => {}
            }
            Ok(())
        });
        Self { known, asked, pace }
    }

    /// The addresses known now.
    pub fn listed(&self) -> Listed {
        self.known.borrow().listed.clone()
    }

    /// Waits for the look-up under way, or for a new one; not at all where the last has only
    /// just been.
    pub async fn refresh(&self) {
        let mut known = self.known.clone();
        let ended = {
            let known = known.borrow_and_update();
            if known
                .begun
                .is_some_and(|begun| begun.elapsed() < self.pace.pause)
            {
                return;
            }
            known.ended
        };
        self.asked.notify_one();
        // Where the wait is over the old list stands.
        let next = known.wait_for(|known| known.ended > ended);
        let _ = tokio::time::timeout(self.pace.wait, next).await;
    }
}

struct Resolver {
    name: String,
    port: u16,
    look_up: LookUp,
    pace: Pace,
    known: watch::Sender<Known>,
    asked: Arc<Notify>,
    metrics: Metrics,
}

impl Resolver {
    async fn run(self) {
        loop {
            let begun = Instant::now();
            let found = (self.look_up)(self.name.clone(), self.port).await;
            self.learn(begun, found);
            tokio::time::sleep_until(begun + self.pace.pause).await;
            tokio::select! {
                () = self.asked.notified() => {}
                () = tokio::time::sleep(self.pace.refresh) => {}
            }
        }
    }

    fn learn(&self, begun: Instant, found: io::Result<Vec<IpAddr>>) {
        let error = found.as_ref().err().map(ToString::to_string);
        let (mut changed, mut addresses) = (false, 0);
        self.known.send_modify(|known| {
            changed = known.learn(found, (begun, Instant::now()), self.pace.keep);
            addresses = known.listed.addresses.len();
        });
        self.metrics.looked_up(addresses, error.is_some());
        if changed {
            tracing::info!(service = self.name, addresses, "prefill endpoints changed");
        }
        if let Some(error) = error {
            tracing::warn!(
                service = self.name,
                error,
                addresses,
                "look up the prefill Service"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prometheus_client::registry::Registry;

    use super::*;

    fn addresses(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| [10, 0, 0, *last].into()).collect()
    }

    const HOUR: Duration = Duration::from_hours(1);
    /// Nothing happens unless it is asked for, and then at once.
    const PACE: Pace = Pace {
        pause: Duration::ZERO,
        refresh: HOUR,
        wait: HOUR,
        keep: HOUR,
    };

    /// A Service whose look-ups find one address more each time; and how many there were.
    fn growing(pace: Pace) -> (Service, Arc<Mutex<u8>>, Shutdown) {
        let asked: Arc<Mutex<u8>> = Arc::default();
        let shared = asked.clone();
        let look_up: LookUp = Arc::new(move |name, port| {
            assert_eq!((name.as_str(), port), ("prefill", 8000));
            let mut asked = shared.lock().unwrap();
            *asked += 1;
            let found = addresses(&(1..=*asked).collect::<Vec<_>>());
            Box::pin(async move { Ok(found) })
        });
        let shutdown = Shutdown::new();
        let metrics = Metrics::register(&mut Registry::default());
        let name = ("prefill".to_owned(), 8000);
        let service = Service::start(name, look_up, pace, metrics, &shutdown);
        (service, asked, shutdown)
    }

    #[tokio::test]
    async fn it_is_looked_up_at_the_start_and_when_asked() {
        let (service, asked, shutdown) = growing(PACE);
        while service.listed().addresses.is_empty() {
            service.refresh().await;
        }
        let before = *asked.lock().unwrap();
        service.refresh().await;
        assert!(*asked.lock().unwrap() > before);
        assert_eq!(service.listed().port, 8000);
        shutdown.begin();
        shutdown.finished().await.unwrap();
    }

    #[tokio::test]
    async fn requests_cannot_make_it_look_up_more_often_than_it_may() {
        let (service, asked, _shutdown) = growing(Pace {
            pause: HOUR,
            ..PACE
        });
        futures::future::join_all((0..100).map(|_| service.refresh())).await;
        for _ in 0..1000 {
            service.refresh().await;
        }
        assert_eq!(*asked.lock().unwrap(), 1);
        assert_eq!(service.listed().addresses, addresses(&[1]));
    }

    #[tokio::test]
    async fn a_request_waits_only_so_long_for_a_look_up_that_hangs() {
        let look_up: LookUp = Arc::new(|_, _| Box::pin(std::future::pending()));
        let shutdown = Shutdown::new();
        let metrics = Metrics::register(&mut Registry::default());
        let pace = Pace {
            wait: Duration::from_millis(1),
            ..PACE
        };
        let name = ("x".to_owned(), 1);
        let service = Service::start(name, look_up, pace, metrics, &shutdown);
        service.refresh().await;
        assert!(service.listed().addresses.is_empty());
        shutdown.begin();
        shutdown.finished().await.unwrap();
    }

    #[test]
    fn addresses_that_are_not_confirmed_go_and_those_of_a_failing_dns_stay_for_a_while() {
        let (start, keep) = (Instant::now(), Duration::from_mins(2));
        let mut known = Known::new(8000);
        let at = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (now, now)
        };
        let failed = || Err(io::Error::other("no such name"));
        assert!(!known.learn(failed(), at(0), keep));
        assert!(known.learn(Ok(addresses(&[2, 1, 2])), at(1), keep));
        assert_eq!(known.listed.addresses, addresses(&[1, 2]));
        assert!(!known.learn(Ok(addresses(&[2, 1])), at(2), keep));
        assert!(known.learn(Ok(addresses(&[2])), at(3), keep));
        assert!(!known.learn(failed(), at(122), keep));
        assert_eq!(known.listed.addresses, addresses(&[2]));
        assert!(known.learn(failed(), at(123), keep));
        assert_eq!(known.listed.addresses, addresses(&[]));
        assert_eq!(known.ended, 6);
    }
}
