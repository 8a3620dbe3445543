//! The prefill role -> which endpoints the decode pods' sidecars may ask. PURE.
//!
//! The sidecar sends a prompt where a header says, so it asks only endpoints on its list.
//! The list is the ready prefill pods, by the DNS name of a headless Service: nothing has to
//! be restarted when pods come and go. It is told by environment variables, which a sidecar
//! of somebody else does not mind, where an unknown flag would end it.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Container, Service};

use super::Engines;
use crate::contract;
use crate::operator::builtin;

/// `clusterIP` of a Service that is only a name for its pods.
const HEADLESS: &str = "None";

/// What the sidecar of the decode pods is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Prefillers {
    /// Nothing: there is no sidecar, or it is somebody else's in a Deployment that is not to
    /// be added to.
    Untold,
    /// Its own address only: there is no prefill role, or the user wrote a list.
    Address,
    /// Its own address, and the role's own Service, which names the ready pods already.
    RoleService,
    /// Its own address, and a headless Service that is made for this.
    NewService,
}

/// Decides what the sidecar is told.
pub(super) fn allow(decode: Option<&Engines>, prefill: Option<&Engines>) -> Prefillers {
    let Some(decode) = decode.filter(|decode| decode.has_sidecar()) else {
        return Prefillers::Untold;
    };
    let sidecar = decode.sidecar().cloned().unwrap_or_default();
    if !decode.written.filled && !builtin::starts(&sidecar, builtin::SIDECAR_PROGRAM) {
        return Prefillers::Untold;
    }
    match prefill {
        None => Prefillers::Address,
        Some(_) if has_list(&sidecar) => Prefillers::Address,
        Some(prefill) if prefill.service.as_ref().is_some_and(names_ready_pods) => {
            Prefillers::RoleService
        }
        Some(_) => Prefillers::NewService,
    }
}

fn has_list(sidecar: &Container) -> bool {
    let flags = ["--allowed-prefillers", "--prefill-service"];
    let names = [
        contract::ENV_ALLOWED_PREFILLERS,
        contract::ENV_PREFILL_SERVICE,
    ];
    let mut env = sidecar.env.iter().flatten();
    flags.iter().any(|flag| builtin::has_flag(sidecar, flag))
        || env.any(|entry| names.contains(&entry.name.as_str()))
}

fn names_ready_pods(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.cluster_ip.as_deref() == Some(HEADLESS)
            && spec.publish_not_ready_addresses != Some(true)
    })
}
