//! Rendered pods -> an error for one that cannot run, or that reaches for the node without the
//! administrator's leave. PURE. It sees what will be applied, whoever wrote it.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Capabilities, ContainerPort, PodSpec, SecurityContext};
use kube::core::ObjectMeta;

use super::base::{Place, Sources};
use super::children::{ChildKey, Children, Desired};
use super::facts::Facts;
use super::invalid::Error;
use super::settings::Settings;

/// The one capability the "restricted" pod security standard lets a container add.
const HARMLESS_CAPABILITY: &str = "NET_BIND_SERVICE";
/// Where AppArmor profiles were written before the field existed.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const UNCONFINED: &str = "Unconfined";

/// Looks at every pod that people wrote.
///
/// # Errors
/// The first pod that cannot run or may not, with the place where that was written.
pub fn check(facts: &Facts, children: &Children<Desired>) -> Result<(), Error> {
    let epp = facts.epp.as_ref().map(|epp| &epp.written);
    let decode = facts.decode.as_ref().map(|engines| &engines.written);
    let prefill = facts.prefill.as_ref().map(|engines| &engines.written);
    for (key, written) in [
        (ChildKey::EppDeployment, epp),
        (ChildKey::DecodeDeployment, decode),
        (ChildKey::PrefillDeployment, prefill),
    ] {
        if let (Some(deployment), Some(written)) = (children.deployment(key), written) {
            pods_of(&facts.settings, &written.sources, deployment)?;
        }
    }
    Ok(())
}

fn pods_of(settings: &Settings, sources: &Sources, deployment: &Deployment) -> Result<(), Error> {
    let template = &deployment.spec.template;
    match &template.spec {
        Some(spec) => pod(settings, sources, template.metadata.as_ref(), spec),
        None => Ok(()),
    }
}

/// A pod that cannot run, or that may not.
fn pod(
    settings: &Settings,
    sources: &Sources,
    meta: Option<&ObjectMeta>,
    pod: &PodSpec,
) -> Result<(), Error> {
    let invalid = |place: Place, message: String| Error::Merged {
        object: sources.key(),
        place,
        message,
        reason: "BaseConfigInvalid",
    };
    if pod.containers.is_empty() {
        return Err(invalid(sources.whole(), "has no containers".to_owned()));
    }
    let containers = pod.containers.iter();
    for container in containers.chain(pod.init_containers.iter().flatten()) {
        if container.image.as_ref().is_none_or(String::is_empty) {
            return Err(invalid(
                sources.container(&container.name),
                format!("container {:?} has no image", container.name),
            ));
        }
    }
    if settings.allow_privileged_templates {
        return Ok(());
    }
    let asked = host_reach(pod)
        .or_else(|| container_reach(pod))
        .or_else(|| annotated_reach(meta));
    let Some(asked) = asked else { return Ok(()) };
    Err(Error::Merged {
        object: sources.key(),
        place: sources.field(asked.container.as_deref(), asked.field),
        message: format!(
            "asks for {}; the operator allows that only with --allow-privileged-templates",
            asked.what
        ),
        reason: "PrivilegedNotAllowed",
    })
}

/// Something only an administrator may allow.
struct Asked {
    what: String,
    /// Name of the field, to find its line.
    field: &'static str,
    container: Option<String>,
}

fn host_reach(pod: &PodSpec) -> Option<Asked> {
    let of_pod = |what: String, field| {
        Some(Asked {
            what,
            field,
            container: None,
        })
    };
    for (asked, field) in [
        (pod.host_network, "hostNetwork"),
        (pod.host_pid, "hostPID"),
        (pod.host_ipc, "hostIPC"),
    ] {
        if asked == Some(true) {
            return of_pod(field.to_owned(), field);
        }
    }
    let host_path = pod
        .volumes
        .iter()
        .flatten()
        .find(|volume| volume.host_path.is_some());
    if let Some(volume) = host_path {
        return of_pod(format!("the hostPath volume {:?}", volume.name), "hostPath");
    }
    let context = pod.security_context.as_ref()?;
    if let Some(profile) = &context.seccomp_profile
        && profile.type_ == UNCONFINED
    {
        return of_pod("an unconfined seccomp profile".to_owned(), "seccompProfile");
    }
    if let Some(profile) = &context.app_armor_profile
        && profile.type_ == UNCONFINED
    {
        return of_pod(
            "an unconfined AppArmor profile".to_owned(),
            "appArmorProfile",
        );
    }
    let windows = context.windows_options.as_ref()?;
    if windows.host_process == Some(true) {
        return of_pod("hostProcess".to_owned(), "hostProcess");
    }
    None
}

fn container_reach(pod: &PodSpec) -> Option<Asked> {
    let ordinary = pod
        .containers
        .iter()
        .chain(pod.init_containers.iter().flatten())
        .map(|c| (&c.name, c.security_context.as_ref(), c.ports.as_deref()));
    let ephemeral = pod
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|c| (&c.name, c.security_context.as_ref(), c.ports.as_deref()));
    ordinary
        .chain(ephemeral)
        .find_map(|(name, context, ports)| {
            let (what, field) = context
                .and_then(security_reach)
                .or_else(|| host_port(ports.unwrap_or_default()))?;
            let what = if what == "privileged" {
                format!("the privileged container {name:?}")
            } else {
                format!("{what} in container {name:?}")
            };
            Some(Asked {
                what,
                field,
                container: Some(name.clone()),
            })
        })
}

fn security_reach(context: &SecurityContext) -> Option<(String, &'static str)> {
    if context.privileged == Some(true) {
        return Some(("privileged".to_owned(), "privileged"));
    }
    if let Some(capability) = context.capabilities.as_ref().and_then(added_capability) {
        return Some((format!("the capability {capability}"), "capabilities"));
    }
    if let Some(mount) = context.proc_mount.as_deref()
        && mount != "Default"
    {
        return Some((format!("procMount {mount}"), "procMount"));
    }
    if let Some(profile) = &context.seccomp_profile
        && profile.type_ == UNCONFINED
    {
        return Some(("an unconfined seccomp profile".to_owned(), "seccompProfile"));
    }
    if let Some(profile) = &context.app_armor_profile
        && profile.type_ == UNCONFINED
    {
        return Some((
            "an unconfined AppArmor profile".to_owned(),
            "appArmorProfile",
        ));
    }
    let windows = context.windows_options.as_ref()?;
    (windows.host_process == Some(true)).then(|| ("hostProcess".to_owned(), "hostProcess"))
}

fn added_capability(capabilities: &Capabilities) -> Option<&String> {
    let mut added = capabilities.add.iter().flatten();
    added.find(|capability| {
        let bare = capability.strip_prefix("CAP_").unwrap_or(capability);
        bare != HARMLESS_CAPABILITY
    })
}

fn host_port(ports: &[ContainerPort]) -> Option<(String, &'static str)> {
    let port = ports
        .iter()
        .find_map(|port| port.host_port.filter(|p| *p != 0))?;
    Some((format!("hostPort {port}"), "hostPort"))
}

fn annotated_reach(meta: Option<&ObjectMeta>) -> Option<Asked> {
    let annotations = meta?.annotations.as_ref()?;
    let found = annotations
        .iter()
        .find(|(name, value)| name.starts_with(APPARMOR_ANNOTATION) && *value == "unconfined");
    found.map(|(name, _)| Asked {
        what: format!("an unconfined AppArmor profile (annotation {name})"),
        field: "annotations",
        container: None,
    })
}
