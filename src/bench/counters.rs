//! The decode pods and their prefix cache counters: from the API server's pod proxy, from
//! the pods themselves, or from Prometheus. IO.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{Api, ListParams};

use super::exposition::{self, CACHE_CONFIG, Counters, HITS, NoSeries, QUERIES, Scrape};
use super::http::Http;
use super::prometheus;
use crate::telemetry::error_chain;

const SCRAPE: Duration = Duration::from_secs(10);
/// The pod list is read again at most this often while requests run.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// The largest metrics page that is believed.
const PAGE_LIMIT: usize = 32 << 20;

/// Where counters come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Source {
    /// Prometheus where its URL is given; else the API server's pod proxy, and where that
    /// refuses, the pod itself.
    Auto,
    /// The API server's pod proxy.
    ApiProxy,
    /// The pod's own address.
    Direct,
    /// Prometheus: its scrape interval delays every reading.
    Prometheus,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No pods could be listed.
    #[error("list pods {selector:?} in {namespace}: {cause}")]
    List {
        namespace: String,
        selector: String,
        cause: String,
    },
    /// A pod's page could not be read.
    #[error("{0}")]
    Page(String),
    /// A pod's page has no counters.
    #[error(transparent)]
    NoSeries(#[from] NoSeries),
    /// Prometheus did not answer.
    #[error("ask prometheus: {0}")]
    Prometheus(String),
}

/// One decode pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) ip: Option<IpAddr>,
    pub(super) ready: bool,
    /// Given by the caller: where its metrics are.
    url: Option<String>,
}

impl Pod {
    /// A pod whose metrics are at a known URL.
    pub(super) fn fixed(name: &str, url: &str) -> Self {
        let host = url.parse::<::http::Uri>().ok();
        let host = host.as_ref().and_then(::http::Uri::host);
        Self {
            name: name.to_owned(),
            ip: host.and_then(|host| host.trim_matches(['[', ']']).parse().ok()),
            ready: true,
            url: Some(url.to_owned()),
        }
    }
}

/// Which pods there are.
pub(super) enum Pods {
    /// Those that the API server lists.
    Cluster {
        client: kube::Client,
        namespace: String,
        selector: String,
    },
    /// Those that the caller named.
    Fixed(Vec<Pod>),
}

/// Reads pods and counters.
pub(super) struct Reader {
    pub(super) http: Http,
    pub(super) pods: Pods,
    pub(super) source: Source,
    pub(super) port: u16,
    pub(super) prometheus: Option<String>,
    /// Which ways have worked, for the outcome.
    used: Mutex<BTreeSet<&'static str>>,
    listed: Mutex<Option<(Instant, Vec<Pod>)>>,
}

impl Reader {
    pub(super) fn new(http: Http, pods: Pods, source: Source, port: u16) -> Self {
        Self {
            http,
            pods,
            source,
            port,
            prometheus: None,
            used: Mutex::default(),
            listed: Mutex::default(),
        }
    }

    /// The ways that have worked.
    pub(super) fn used(&self) -> String {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.iter().copied().collect::<Vec<_>>().join(", ")
    }

    /// Whether readings may lag behind by a scrape interval.
    pub(super) fn lags(&self) -> bool {
        match self.source {
            Source::Prometheus => true,
            Source::Auto => self.prometheus.is_some(),
            Source::ApiProxy | Source::Direct => false,
        }
    }

    /// The running decode pods, from a list that is at most a second old.
    pub(super) async fn list(&self) -> Result<Vec<Pod>, Error> {
        let (client, namespace, selector) = match &self.pods {
            Pods::Fixed(pods) => return Ok(pods.clone()),
            Pods::Cluster {
                client,
                namespace,
                selector,
            } => (client, namespace, selector),
        };
        if let Some((when, pods)) = &*self.listed.lock().unwrap_or_else(PoisonError::into_inner)
            && when.elapsed() < LIST_AGAIN
        {
            return Ok(pods.clone());
        }
        let api: Api<KubePod> = Api::namespaced(client.clone(), namespace);
        let list = api
            .list(&ListParams::default().labels(selector))
            .await
            .map_err(|error| Error::List {
                namespace: namespace.clone(),
                selector: selector.clone(),
                cause: error_chain::chain(&error),
            })?;
        let pods: Vec<Pod> = list.items.into_iter().filter_map(running).collect();
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), pods.clone()));
        Ok(pods)
    }

    /// Reads all pods at once.
    pub(super) async fn read(&self, pods: &[Pod]) -> BTreeMap<String, Result<Scrape, Error>> {
        if self.lags() {
            return match self.ask_prometheus(pods).await {
                Ok(scrapes) => scrapes,
                Err(error) => {
                    let text = error.to_string();
                    pods.iter()
                        .map(|pod| (pod.name.clone(), Err(Error::Prometheus(text.clone()))))
                        .collect()
                }
            };
        }
        let reads = pods
            .iter()
            .map(|pod| async { (pod.name.clone(), self.read_pod(pod).await) });
        join_all(reads).await.into_iter().collect()
    }

    async fn read_pod(&self, pod: &Pod) -> Result<Scrape, Error> {
        let page = match (&pod.url, self.source) {
            (Some(url), _) => self.direct(url).await?,
            (None, Source::Direct) => self.direct(&self.pod_url(pod)?).await?,
            (None, Source::ApiProxy) => self.proxied(pod).await?,
            (None, _) => match self.proxied(pod).await {
                Ok(page) => page,
                // API servers refuse to proxy to loopback addresses.
                Err(refused) => match self.direct(&self.pod_url(pod)?).await {
                    Ok(page) => page,
                    Err(direct) => return Err(Error::Page(format!("{refused}; {direct}"))),
                },
            },
        };
        Ok(exposition::scan(&page)?)
    }

    fn pod_url(&self, pod: &Pod) -> Result<String, Error> {
        match pod.ip {
            Some(IpAddr::V6(ip)) => Ok(format!("http://[{ip}]:{}/metrics", self.port)),
            Some(ip) => Ok(format!("http://{ip}:{}/metrics", self.port)),
            None => Err(Error::Page(format!("{} has no address", pod.name))),
        }
    }

    async fn direct(&self, url: &str) -> Result<String, Error> {
        let answer = self
            .http
            .get(url, None, SCRAPE)
            .await
            .map_err(|error| Error::Page(format!("{url}: {error}")))?;
        if answer.status != 200 {
            return Err(Error::Page(format!("{url}: status {}", answer.status)));
        }
        self.note("direct");
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    async fn proxied(&self, pod: &Pod) -> Result<String, Error> {
        let Pods::Cluster {
            client, namespace, ..
        } = &self.pods
        else {
            return Err(Error::Page("no API server".to_owned()));
        };
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{}:{}/proxy/metrics",
            pod.name, self.port
        );
        let fail = |cause: String| Error::Page(format!("GET {path}: {cause}"));
        let request = ::http::Request::get(&path)
            .body(Vec::new())
            .map_err(|error| fail(error.to_string()))?;
        let page = tokio::time::timeout(SCRAPE, client.request_text(request))
            .await
            .map_err(|_| fail(format!("no answer within {SCRAPE:?}")))?
            .map_err(|error| fail(error_chain::chain(&error)))?;
        if page.len() > PAGE_LIMIT {
            return Err(fail("the page is too large".to_owned()));
        }
        self.note("api-proxy");
        Ok(page)
    }

    fn note(&self, way: &'static str) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(way);
    }

    async fn query(&self, query: &str) -> Result<Vec<prometheus::Sample>, Error> {
        let fail = |cause: String| Error::Prometheus(cause);
        let base = self
            .prometheus
            .as_deref()
            .ok_or_else(|| fail("no URL".to_owned()))?;
        let url = format!("{base}{}", prometheus::path(query));
        let answer = self
            .http
            .get(&url, None, SCRAPE)
            .await
            .map_err(|error| fail(error.to_string()))?;
        prometheus::samples(&answer.body).map_err(|error| {
            fail(format!(
                "{} (status {})",
                error_chain::chain(&error),
                answer.status
            ))
        })
    }

    fn select(&self, metric: &str) -> String {
        match &self.pods {
            Pods::Cluster { namespace, .. } => prometheus::selector(metric, namespace),
            Pods::Fixed(_) => metric.to_owned(),
        }
    }

    async fn by_pod(&self, names: &[&str]) -> Result<BTreeMap<String, f64>, Error> {
        for name in names {
            let samples = self.query(&self.select(name)).await?;
            if !samples.is_empty() {
                return Ok(prometheus::by_pod(&samples));
            }
        }
        Ok(BTreeMap::new())
    }

    async fn ask_prometheus(
        &self,
        pods: &[Pod],
    ) -> Result<BTreeMap<String, Result<Scrape, Error>>, Error> {
        let queries = self.by_pod(QUERIES).await?;
        let hits = self.by_pod(HITS).await?;
        let sizes = self.query(&self.select(CACHE_CONFIG)).await?;
        self.note("prometheus");
        Ok(pods
            .iter()
            .map(|pod| {
                let scrape = match (queries.get(&pod.name), hits.get(&pod.name)) {
                    (Some(queries), Some(hits)) => Ok(Scrape {
                        counters: Counters {
                            query_tokens: queries.round() as u64,
                            hit_tokens: hits.round() as u64,
                        },
                        block_size: sizes
                            .iter()
                            .filter(|sample| sample.pod == pod.name)
                            .find_map(|sample| sample.labels.get("block_size")?.parse().ok()),
                    }),
                    _ => Err(NoSeries(QUERIES[0]).into()),
                };
                (pod.name.clone(), scrape)
            })
            .collect())
    }

    /// The oldest time at which Prometheus scraped one of these pods, in seconds since the
    /// epoch; `None` while one of them has not been scraped.
    pub(super) async fn scraped_at(&self, pods: &[Pod]) -> Result<Option<f64>, Error> {
        let mut times = Vec::new();
        for name in QUERIES {
            let query = format!("timestamp({})", self.select(name));
            times = self.query(&query).await?;
            if !times.is_empty() {
                break;
            }
        }
        let mut oldest = f64::INFINITY;
        for pod in pods {
            let latest = times
                .iter()
                .filter(|sample| sample.pod == pod.name)
                .map(|sample| sample.value)
                .fold(f64::NEG_INFINITY, f64::max);
            oldest = oldest.min(latest);
        }
        Ok(oldest.is_finite().then_some(oldest))
    }
}

fn running(pod: KubePod) -> Option<Pod> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status?;
    if status.phase.as_deref() != Some("Running") {
        return None;
    }
    let ready = status
        .conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Some(Pod {
        name: pod.metadata.name?,
        ip: status.pod_ip.and_then(|ip| ip.parse().ok()),
        ready,
        url: None,
    })
}

#[cfg(test)]
mod tests;
