//! The base's pool -> the port on which endpoints serve. PURE.
#![deny(clippy::disallowed_methods)]

use super::Context;
use crate::contract;
use crate::operator::base::BasePool;

/// The port on which endpoints serve, as the EPP names them to gateway and sidecar. Of
/// several (one for each data-parallel rank) the first.
pub(super) fn serving_port(context: &Context<'_>) -> i32 {
    let port = match &context.base.pool {
        Some(BasePool::V1(pool)) => pool.spec.target_ports.first().map(|port| port.number),
        Some(BasePool::Alpha(pool)) => pool.spec.target_port_number,
        None => None,
    };
    port.unwrap_or(i32::from(contract::PORT_SERVING))
}
