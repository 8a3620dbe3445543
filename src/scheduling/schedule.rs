//! (pipeline, request, candidates, turn) -> decision. PURE.

use super::decision::{Decision, Explanation, NoEndpoint, PrefillBecause};
use super::endpoint::{Candidate, Signals};
use super::filter::Gate;
use super::pipeline::{Decider, Pipeline, ProfileHandler};
use super::profile::{self, Round, Scratch};
use super::request::RequestFacts;

/// Decides where a request goes: decode first, then, when the decider says so, where its
/// prompt is computed. `turn` says whose turn it is among equals and is what random pickers
/// draw from: the same turn gives the same decision.
///
/// # Errors
/// When no decode endpoint passes the filters. That no prefill endpoint does is no error:
/// the decode engine computes the prompt itself.
pub fn schedule(
    pipeline: &Pipeline,
    request: &RequestFacts,
    candidates: &[Candidate],
    turn: u64,
    scratch: &mut Scratch,
) -> Result<Decision, NoEndpoint> {
    let round = Round {
        request,
        candidates,
        turn,
    };
    decide(pipeline, round, scratch, None)
}

/// The same decision, and how it came about.
///
/// # Errors
/// As [`schedule`].
pub fn explain(
    pipeline: &Pipeline,
    request: &RequestFacts,
    candidates: &[Candidate],
    turn: u64,
) -> Result<(Decision, Explanation), NoEndpoint> {
    let round = Round {
        request,
        candidates,
        turn,
    };
    let mut explanation = Explanation::default();
    let decision = decide(
        pipeline,
        round,
        &mut Scratch::default(),
        Some(&mut explanation),
    )?;
    Ok((decision, explanation))
}

fn decide(
    pipeline: &Pipeline,
    round: Round<'_>,
    scratch: &mut Scratch,
    mut explanation: Option<&mut Explanation>,
) -> Result<Decision, NoEndpoint> {
    let gates = [Gate::Ready, Gate::Subset];
    let rows = explanation.as_deref_mut().map(|e| &mut e.decode);
    let decode = profile::run(&pipeline.decode, &gates, round, scratch, rows)?;
    let decided = |prefill, prefill_because| {
        Ok(Decision {
            decode: decode.id,
            prefill,
            prefill_because,
        })
    };
    let ProfileHandler::Disagg { prefill, decider } = &pipeline.handler else {
        return decided(None, PrefillBecause::Off);
    };
    if !round.request.has_prompt() {
        return decided(None, PrefillBecause::Off);
    }
    if !round.request.one_transfer {
        return decided(None, PrefillBecause::SeveralTransfers);
    }
    if !decider.wants(round.request, &decode.signals) {
        return decided(None, PrefillBecause::BelowThreshold);
    }
    let gates = [Gate::Ready, Gate::Except(decode.id)];
    let rows = explanation.map(|e| &mut e.prefill);
    match profile::run(prefill, &gates, round, scratch, rows) {
        Ok(prefill) => decided(Some(prefill.id), PrefillBecause::Chosen),
        Err(_) => decided(None, PrefillBecause::NoEndpoint),
    }
}

impl Decider {
    /// True when the prompt is to be computed on an endpoint of its own.
    fn wants(&self, request: &RequestFacts, decode: &Signals) -> bool {
        let lacks = 1.0 - decode.hit().clamp(0.0, 1.0);
        match *self {
            Self::Always => true,
            Self::CharThreshold { chars, cache_aware } => {
                let lacks = if cache_aware { lacks } else { 1.0 };
                request.chars() as f64 * lacks >= chars as f64
            }
            Self::PrefixBased {
                non_cached_tokens,
                prompt_tokens,
            } => {
                let tokens = request.tokens();
                non_cached_tokens > 0
                    && tokens >= prompt_tokens
                    && tokens as f64 * lacks >= non_cached_tokens as f64
            }
        }
    }
}
