//! (settings, request, candidates, rotation) -> decision. PURE.

use super::config::Settings;
use super::decision::{Decision, NoEndpoint};
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
    let (decode, explain) =
        profile::run(&settings.decode, &filters, request, candidates, rotation)?;
    let chosen = candidates.iter().find(|candidate| candidate.id == decode);
    let prefill = chosen
        .filter(|chosen| wants_prefill(settings, request, chosen))
        .and_then(|_| {
            let filters = [Filter::Ready, Filter::Role(Role::Prefill)];
            let pods: Vec<Candidate> = candidates
                .iter()
                .filter(|candidate| candidate.role == Role::Prefill && candidate.id != decode)
                .cloned()
                .collect();
            profile::run(&settings.prefill, &filters, request, &pods, rotation).ok()
        });
    Ok(Decision {
        decode,
        prefill: prefill.map(|(endpoint, _)| endpoint),
        explain,
    })
}

fn wants_prefill(settings: &Settings, request: &Request, decode: &Candidate) -> bool {
    if !settings.pd_enabled || request.prompt_bytes == 0 {
        return false;
    }
    let cached = if request.prompt_blocks == 0 {
        0.0
    } else {
        f64::from(decode.cached_blocks.max(decode.prefix_blocks)) / f64::from(request.prompt_blocks)
    };
    let uncached_bytes = request.prompt_bytes as f64 * (1.0 - cached.min(1.0));
    uncached_bytes >= settings.pd_threshold as f64
}
