//! What people wrote about the EPP -> what its Deployment, its Service and the gateway's filter
//! must agree on. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Container, Service};

use super::{Context, KvEvents, Written, written};
use crate::contract;
use crate::operator::base::Sources;
use crate::operator::finding::Finding;
use crate::operator::names;
use crate::operator::resolved::Generated;
use crate::operator::{builtin, merge};

/// The Endpoint Picker.
#[derive(Clone, Debug)]
pub struct Epp {
    /// What people wrote.
    pub written: Written,
    /// Its container as people wrote it; empty where nobody wrote any.
    pub container: Container,
    /// Its Service, without name and labels.
    pub service: Option<Service>,
    /// The secret to make for its replicas (empty offline), where they read ours.
    pub secret: Option<Generated>,
    /// It may be asked at any time whether it lives.
    pub answers_pings: bool,
    /// There are several replicas.
    pub replicated: bool,
    /// Where it hears KV events; `None` where it does not score by them.
    pub kv_events: Option<KvEvents>,
}

/// The EPP; `None` for an old-form base without one.
pub(super) fn epp(context: &Context<'_>, findings: &mut Vec<Finding>) -> Option<Epp> {
    let base = context.base.epp.as_ref();
    let section = context.ms.spec.endpoint_picker.as_ref();
    let filled = context.base.has_builtin_epp();
    if base.is_none() && !filled {
        return None;
    }
    let mut deployment = base.map(|base| base.object.clone()).unwrap_or_default();
    if let Some(section) = section {
        merge::section(
            &mut deployment,
            section.replicas,
            &section.containers,
            &section.init_containers,
            None,
        );
    }
    let sources = Sources::of_epp(context.ms, &context.base);
    let reserved = [
        contract::LABEL_INFERENCE_SERVING,
        contract::LABEL_MODEL_SERVICE,
        contract::LABEL_ROLE,
    ];
    written::drop_labels(&mut deployment, &reserved, &sources, findings);
    let written = Written {
        deployment,
        filled,
        sources,
        keep_live_replicas: false,
    };
    let container = written
        .container(contract::CONTAINER_EPP)
        .cloned()
        .unwrap_or_default();
    let service = match &context.base.epp_service {
        Some(service) => Some(service.clone()),
        None if filled => Some(builtin::epp_service()),
        None => None,
    };
    let reads_ours = reads_our_secret(context, &container, filled);
    Some(Epp {
        service,
        secret: reads_ours.then(|| context.resolved.epp_secret.clone().unwrap_or_default()),
        answers_pings: is_ours(&container, filled),
        replicated: written
            .deployment
            .spec
            .replicas
            .is_some_and(|count| count > 1),
        kv_events: None,
        written,
        container,
    })
}

/// The built-in base hands the secret over under a variable that nobody else has set.
fn reads_our_secret(context: &Context<'_>, container: &Container, filled: bool) -> bool {
    let name = names::epp_secret(&context.identity.name);
    let mut env = container.env.iter().flatten();
    match env.find(|entry| entry.name == contract::ENV_POOL_SECRET) {
        None => filled,
        Some(entry) => {
            let source = entry.value_from.as_ref();
            let key = source.and_then(|source| source.secret_key_ref.as_ref());
            key.is_some_and(|key| key.name == name)
        }
    }
}

/// True when the container starts this project's EPP, which may be pinged as often as one
/// likes. Go's gRPC servers end a connection that pings more than once in five minutes.
fn is_ours(container: &Container, filled: bool) -> bool {
    if container.command.is_none() && container.image.is_none() {
        return filled;
    }
    builtin::starts(container, builtin::EPP_PROGRAM)
}
