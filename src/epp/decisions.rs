//! The last decisions with their score tables -> `/debug/decisions`. IO: HTTP answers.
//!
//! What a decision was made of is kept, and the table is made when somebody asks: deciding is
//! pure, so the same input gives it again. A ring that requests write into without a lock; the oldest is overwritten. It holds no
//! prompt and no session name, only their sizes and hashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::scheduling::decision::{Explanation, NoEndpoint, Row};
use crate::scheduling::endpoint::Candidate;
use crate::scheduling::{Decision, Pipeline, RequestFacts, Scratch, explain, schedule};

/// Decisions kept.
const KEPT: usize = 256;
/// Longest text of a client's that is kept, in bytes.
const TEXT_BYTES: usize = 128;

/// One request and what became of it.
#[derive(Debug)]
pub struct Record {
    /// Milliseconds since 1970 at which it was decided.
    pub at_unix_ms: u64,
    /// The request's id.
    pub request_id: String,
    /// The model asked for.
    pub model: String,
    /// How the tokens were found, or why not.
    pub tokens_from: &'static str,
    /// What it was decided by.
    pub considered: Considered,
    /// The decision, or why there is none.
    pub outcome: Result<Decision, String>,
}

/// Everything a decision depends on.
#[derive(Debug)]
pub struct Considered {
    /// How decisions are made.
    pub pipeline: Arc<Pipeline>,
    /// The request.
    pub request: RequestFacts,
    /// Whom to choose from.
    pub candidates: Vec<Candidate>,
    /// Whose turn it was.
    pub turn: u64,
}

impl Considered {
    /// Decides.
    ///
    /// # Errors
    /// When there is no endpoint for it.
    pub fn decide(&self, scratch: &mut Scratch) -> Result<Decision, NoEndpoint> {
        let Self {
            pipeline,
            request,
            candidates,
            turn,
        } = self;
        schedule(pipeline, request, candidates, *turn, scratch)
    }

    /// The score table as people read it; empty where there is no decision.
    pub fn table(&self) -> String {
        match self.explain() {
            Some((decision, why)) => why.table(&decision),
            None => String::new(),
        }
    }

    fn explain(&self) -> Option<(Decision, Explanation)> {
        explain(&self.pipeline, &self.request, &self.candidates, self.turn).ok()
    }
}

/// The last decisions; cheap to clone.
#[derive(Clone, Debug)]
pub struct Decisions(Arc<Ring>);

#[derive(Debug)]
struct Ring {
    slots: Vec<ArcSwapOption<Record>>,
    next: AtomicUsize,
}

impl Default for Decisions {
    fn default() -> Self {
        Self(Arc::new(Ring {
            slots: (0..KEPT).map(|_| ArcSwapOption::empty()).collect(),
            next: AtomicUsize::new(0),
        }))
    }
}

impl Decisions {
    /// Keeps one; client text is cut.
    pub fn keep(&self, mut record: Record) {
        cut(&mut record.request_id);
        cut(&mut record.model);
        let at = self.0.next.fetch_add(1, Ordering::Relaxed) % KEPT;
        self.0.slots[at].store(Some(Arc::new(record)));
    }

    /// Those kept, the newest first.
    pub fn newest_first(&self) -> Vec<Arc<Record>> {
        let next = self.0.next.load(Ordering::Relaxed);
        (1..=KEPT)
            .filter_map(|back| self.0.slots[next.wrapping_sub(back) % KEPT].load_full())
            .collect()
    }

    /// `/debug/decisions`: JSON, or with `?format=table` as people read it; `?last=N` for
    /// fewer.
    pub fn router(self) -> Router {
        Router::new()
            .route("/debug/decisions", get(show))
            .with_state(self)
    }
}

/// Cuts a client's text, and replaces what could make it look like a row of its own.
fn cut(text: &mut String) {
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        *text = text.replace(|c: char| c.is_control() || c.is_whitespace(), "_");
    }
    if text.len() > TEXT_BYTES {
        let end = (0..=TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
}

#[derive(Debug, serde::Deserialize)]
struct Wanted {
    format: Option<String>,
    last: Option<usize>,
}

async fn show(State(decisions): State<Decisions>, Query(wanted): Query<Wanted>) -> Response {
    let mut records = decisions.newest_first();
    records.truncate(wanted.last.unwrap_or(KEPT));
    if wanted.format.as_deref() == Some("table") {
        let text: String = records.iter().map(|record| table(record)).collect();
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return (kind, text).into_response();
    }
    axum::Json(
        records
            .iter()
            .map(|record| to_json(record))
            .collect::<Vec<_>>(),
    )
    .into_response()
}

fn table(record: &Record) -> String {
    let request = &record.considered.request;
    let tokens = request
        .prompt_tokens
        .map_or_else(|| "?".to_owned(), |count| count.to_string());
    let outcome = match &record.outcome {
        Ok(_) => record.considered.table(),
        Err(reason) => format!("refused: {reason}\n"),
    };
    format!(
        "{} model {} prompt {} chars, {tokens} tokens ({}){}\n{outcome}\n",
        record.request_id,
        record.model,
        request.prompt_chars,
        record.tokens_from,
        request
            .session
            .map_or_else(String::new, |session| format!(", session {session:016x}")),
    )
}

fn to_json(record: &Record) -> Value {
    let request = &record.considered.request;
    let mut value = json!({
        "atUnixMs": record.at_unix_ms,
        "requestId": record.request_id,
        "model": record.model,
        "session": request.session.map(|session| format!("{session:016x}")),
        "promptChars": request.prompt_chars,
        "promptTokens": request.prompt_tokens,
        "tokensFrom": record.tokens_from,
    });
    match &record.outcome {
        Ok(decision) => {
            value["decode"] = json!(decision.decode.to_string());
            value["prefill"] = json!(decision.prefill.map(|endpoint| endpoint.to_string()));
            value["prefillBecause"] = json!(decision.prefill_because.as_str());
            let why = record.considered.explain();
            let why = why.map(|(_, why)| why).unwrap_or_default();
            value["scores"] = rows(&why.decode);
            value["prefillScores"] = rows(&why.prefill);
        }
        Err(reason) => value["refused"] = json!(reason),
    }
    value
}

fn rows(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| {
            let scores: serde_json::Map<String, Value> = row
                .scores
                .iter()
                .map(|(scorer, score, weight)| {
                    (
                        (*scorer).to_owned(),
                        json!({"score": score, "weight": weight}),
                    )
                })
                .collect();
            json!({
                "endpoint": row.endpoint.to_string(),
                "droppedBy": row.dropped_by,
                "scores": scores,
                "total": row.total,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scheduling::config::SchedulingConfig;

    fn record(id: &str, pipeline: &Arc<Pipeline>) -> Record {
        Record {
            at_unix_ms: 0,
            request_id: id.to_owned(),
            model: "é".repeat(TEXT_BYTES),
            tokens_from: "off",
            considered: Considered {
                pipeline: Arc::clone(pipeline),
                request: RequestFacts::default(),
                candidates: Vec::new(),
                turn: 0,
            },
            outcome: Err("because".to_owned()),
        }
    }

    #[test]
    fn a_request_id_cannot_forge_a_row() {
        let decisions = Decisions::default();
        let (config, _) = SchedulingConfig::from_env(&BTreeMap::new()).unwrap();
        let pipeline = Arc::new(config.pipeline);
        decisions.keep(record("x model m\n10.0.0.1:8000 1.0", &pipeline));
        assert_eq!(
            decisions.newest_first()[0].request_id,
            "x_model_m_10.0.0.1:8000_1.0"
        );
    }

    #[test]
    fn the_newest_come_first_and_no_more_than_fit() {
        let (config, _) = SchedulingConfig::from_env(&BTreeMap::new()).unwrap();
        let pipeline = Arc::new(config.pipeline);
        let decisions = Decisions::default();
        for index in 0..KEPT + 2 {
            decisions.keep(record(&index.to_string(), &pipeline));
        }
        let kept = decisions.newest_first();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].request_id, (KEPT + 1).to_string());
        assert_eq!(kept[KEPT - 1].request_id, "2");
        assert_eq!(kept[0].model.len(), TEXT_BYTES);
    }
}
