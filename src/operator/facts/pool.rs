//! The base's pool and the engines -> the port on which endpoints serve. PURE.
#![deny(clippy::disallowed_methods)]

use super::{Context, Engines};
use crate::contract;
use crate::operator::base::BasePool;
use crate::operator::finding::Finding;

/// The port that the base's pool names. Of several (one for each data-parallel rank) the first.
pub(super) fn asked_port(context: &Context<'_>) -> Option<u16> {
    let port = match context.base.pool.as_ref()? {
        BasePool::V1(pool) => pool.spec.target_ports.first()?.number,
        BasePool::Alpha(pool) => pool.spec.target_port_number?,
    };
    u16::try_from(port).ok()
}

/// The port on which endpoints serve, as the EPP names them to gateway and sidecar.
pub(super) fn serving_port(
    context: &Context<'_>,
    decode: Option<&Engines>,
    prefill: Option<&Engines>,
    findings: &mut Vec<Finding>,
) -> u16 {
    let asked = asked_port(context);
    let of_decode = decode.map(|decode| decode.ports.serving);
    let port = asked.or(of_decode).unwrap_or(contract::PORT_SERVING);
    for (role, engines) in [("decode", decode), ("prefill", prefill)] {
        let Some(serving) = engines.map(|engines| engines.ports.serving) else {
            continue;
        };
        if serving == port {
            continue;
        }
        let by = if asked.is_some() {
            "the inferencePool of the base config"
        } else {
            "the decode role"
        };
        let text = format!("{role} pods serve on port {serving}, but {by} names {port}");
        let detail = "the EPP and the gateway connect to every pod on that one port";
        findings.push(Finding::new(text).detail(detail));
    }
    port
}
