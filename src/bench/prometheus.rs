//! Prometheus' query API: questions out, samples by pod in. PURE
//! (<https://prometheus.io/docs/prometheus/latest/querying/api/>).
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use serde::Deserialize;

/// What the test asks of Prometheus: `metric` of a namespace's pods.
pub fn selector(metric: &str, namespace: &str) -> String {
    let escaped = namespace.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{metric}{{namespace=\"{escaped}\"}}")
}

/// The path and query of an instant query.
pub fn path(query: &str) -> String {
    let mut path = "/api/v1/query?query=".to_owned();
    for byte in query.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            path.push(byte as char);
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// An answer that is no list of samples.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the API's JSON.
    #[error("read the answer of Prometheus")]
    Json(#[from] serde_json::Error),
    /// The query failed.
    #[error("prometheus: {0}")]
    Failed(String),
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

/// One series of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The pod it belongs to.
    pub pod: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Reads an instant vector. Series without a pod label or with a broken value are left out.
///
/// # Errors
/// When the answer is none, or says that the query failed.
pub fn samples(body: &[u8]) -> Result<Vec<Sample>, Error> {
    let answer: Answer = serde_json::from_slice(body)?;
    if answer.status != "success" {
        return Err(Error::Failed(answer.error.unwrap_or(answer.status)));
    }
    let series = answer.data.map(|data| data.result).unwrap_or_default();
    Ok(series
        .into_iter()
        .filter_map(|series| {
            Some(Sample {
                pod: series.metric.get("pod")?.clone(),
                value: series
                    .value
                    .1
                    .parse()
                    .ok()
                    .filter(|value: &f64| value.is_finite())?,
                labels: series.metric,
            })
        })
        .collect())
}

/// Sums samples by pod.
pub fn by_pod(samples: &[Sample]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for sample in samples {
        *sums.entry(sample.pod.clone()).or_insert(0.0) += sample.value;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_pod_are_summed() {
        let body = br#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"pod":"a","engine":"0"},"value":[1.5,"10"]},
            {"metric":{"pod":"a","engine":"1"},"value":[1.5,"5"]},
            {"metric":{"instance":"x"},"value":[1.5,"1"]},
            {"metric":{"pod":"b"},"value":[1.5,"NaN"]}]}}"#;
        let sums = by_pod(&samples(body).unwrap());
        assert_eq!(sums, BTreeMap::from([("a".to_owned(), 15.0)]));
    }

    #[test]
    fn a_failed_query_says_why() {
        let body = br#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(
            samples(body).unwrap_err().to_string(),
            "prometheus: parse error"
        );
        assert!(samples(b"<html>").is_err());
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            path(&selector("vllm:x_total", "a\"b")),
            "/api/v1/query?query=vllm%3Ax_total%7Bnamespace%3D%22a%5C%22b%22%7D"
        );
    }
}
