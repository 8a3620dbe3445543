//! (settings, request, candidates, rotation) -> decision. PURE.

use super::config::Settings;
use super::decision::{Decision, NoEndpoint, PrefillBecause};
use super::endpoint::{Candidate, Role};
use super::filter::Filter;
use super::profile;
use super::request::Request;

/// Decides where a request goes: decode first, then, when the part of the prompt that the
/// decode endpoint does not hold is long enough, where its prompt is computed.
///
/// # Errors
/// When no decode endpoint passes the filters. That no prefill endpoint does is no error:
/// the decode engine computes the prompt itself.
pub fn schedule(
    settings: &Settings,
    request: &Request,
    candidates: &[Candidate],
    rotation: usize,
) -> Result<Decision, NoEndpoint> {
    let filters = [Filter::Ready, Filter::Role(Role::Decode), Filter::Subset];
    let (decode, explain) = profile::run(
        settings,
        &settings.decode,
        &filters,
        request,
        candidates,
        rotation,
    )?;
    let mut decision = Decision {
        decode,
        prefill: None,
        prefill_because: PrefillBecause::Off,
        explain,
        explain_prefill: Vec::new(),
    };
    if !settings.pd_enabled || request.prompt_chars == 0 {
        return Ok(decision);
    }
    let chosen = candidates.iter().find(|candidate| candidate.id == decode);
    if chosen.is_some_and(|chosen| lacks(settings, request, chosen) < settings.pd_threshold as f64)
    {
        decision.prefill_because = PrefillBecause::BelowThreshold;
        return Ok(decision);
    }
    let filters = [Filter::Ready, Filter::Role(Role::Prefill)];
    let pods: Vec<Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.role == Role::Prefill && candidate.id != decode)
        .cloned()
        .collect();
    match profile::run(
        settings,
        &settings.prefill,
        &filters,
        request,
        &pods,
        rotation,
    ) {
        Ok((prefill, explain)) => {
            decision.prefill = Some(prefill);
            decision.prefill_because = PrefillBecause::Chosen;
            decision.explain_prefill = explain;
        }
        Err(_) => decision.prefill_because = PrefillBecause::NoEndpoint,
    }
    Ok(decision)
}

/// Characters of the prompt that the decode endpoint would have to compute.
fn lacks(settings: &Settings, request: &Request, decode: &Candidate) -> f64 {
    let hit = if settings.pd_cache_aware {
        decode.hit()
    } else {
        0.0
    };
    request.prompt_chars as f64 * (1.0 - hit.clamp(0.0, 1.0))
}
