//! The prefill role -> which endpoints the decode pods' sidecars may ask. PURE.
//!
//! The sidecar sends a prompt where a header says, so it asks only endpoints on its list.
//! The list is the ready prefill pods, by the DNS name of a headless Service: nothing has to
//! be restarted when pods come and go. It is told by environment variables, which a sidecar
//! of somebody else does not mind, where an unknown flag would end it.

use k8s_openapi::api::core::v1::{Container, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;

use super::{Context, Workload, pool};
use crate::contract;
use crate::operator::names::{self, Role};
use crate::operator::{builtin, merge};

/// `clusterIP` of a Service that is only a name for its pods.
const HEADLESS: &str = "None";

/// Tells the sidecar its own address and the prefill pods. The Service to make for that;
/// `None` where there is no sidecar or no prefill role, where the user wrote a list, or where
/// the role's own Service does already.
pub(super) fn allow(
    context: &Context<'_>,
    decode: Option<&mut Workload>,
    prefill: Option<&Workload>,
) -> Option<Service> {
    let pod = merge::pod_spec(&mut decode?.deployment);
    let init = pod.init_containers.iter_mut().flatten();
    let sidecar = pod
        .containers
        .iter_mut()
        .chain(init)
        .find(|container| container.name == contract::CONTAINER_SIDECAR)?;
    let base = context.base.decode.as_ref();
    let shorthand = base.map_or(!context.base.is_old_form(), |base| base.shorthand);
    if !shorthand && !builtin::starts(sidecar, builtin::SIDECAR_PROGRAM) {
        // Somebody else's program, in a Deployment that is not to be added to.
        return None;
    }
    let address = builtin::field_var(contract::ENV_POD_IP, "status.podIP");
    builtin::add_env(sidecar, [address]);
    let prefill = prefill?;
    if has_list(sidecar) {
        return None;
    }
    let port = pool::serving_port(context);
    let (name, service) = if prefill.service.as_ref().is_some_and(names_ready_pods) {
        (names::service(&context.name, Role::Prefill), None)
    } else {
        let name = names::prefill_pods(&context.name);
        (name.clone(), Some(headless(context, name, port)))
    };
    let target = format!("{}:{port}", context.host(&name));
    builtin::add_env(
        sidecar,
        [builtin::var(contract::ENV_PREFILL_SERVICE, &target)],
    );
    service
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

fn headless(context: &Context<'_>, name: String, port: i32) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: context.namespace.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(HEADLESS.to_owned()),
            selector: Some(context.role_labels(Role::Prefill)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                protocol: Some("TCP".to_owned()),
                port,
                target_port: Some(IntOrString::Int(port)),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
