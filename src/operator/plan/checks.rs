//! What is refused before anything is applied: text that would change the meaning of the
//! template it is pasted into, pods the API server would refuse, and pods that reach for
//! the node without the administrator's leave. PURE.

use k8s_openapi::api::core::v1::{Capabilities, ContainerPort, PodSpec, SecurityContext};
use kube::core::ObjectMeta;

use super::place::{Place, Sources};
use super::{Context, Error};
use crate::api::ModelService;
use crate::api::modelservice::is_pasted_safely;

/// The one capability the "restricted" pod security standard lets a container add.
const HARMLESS_CAPABILITY: &str = "NET_BIND_SERVICE";
/// Where AppArmor profiles were written before the field existed.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const UNCONFINED: &str = "Unconfined";

/// The texts that templates paste into YAML, command lines and shell scripts. The schema
/// of the CRD says the same; `generate` and older objects do not pass it.
pub(super) fn pasted_texts(ms: &ModelService) -> Result<(), Error> {
    let artifacts = &ms.spec.model_artifacts;
    let repo = artifacts.uri.strip_prefix("hf://").unwrap_or_default();
    let texts = [
        (
            "spec.routing.modelName",
            ms.spec.routing.model_name.as_str(),
        ),
        ("spec.modelArtifacts.uri", artifacts.uri.as_str()),
        ("spec.modelArtifacts.uri", repo),
    ];
    for (field, text) in texts {
        if text.is_empty() || is_pasted_safely(text) {
            continue;
        }
        return Err(Error::Spec {
            field: field.to_owned(),
            message: format!(
                "{text:?} is pasted into templates: it may not begin with a dash, nor hold \
                 whitespace, control characters, quotes, brackets, braces, a backslash or any \
                 of ` , # * ! ? % ^ < > | & ; $"
            ),
        });
    }
    let secret = artifacts.auth_secret_name.as_deref().unwrap_or_default();
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = secret.len() <= 253
        && secret
            .bytes()
            .all(|byte| named(byte) || byte == b'-' || byte == b'.')
        && secret.bytes().next().is_none_or(named)
        && secret.bytes().last().is_none_or(named);
    if !valid {
        return Err(Error::Spec {
            field: "spec.modelArtifacts.authSecretName".to_owned(),
            message: format!(
                "{secret:?} is not the name of a Secret: lower-case letters, digits, dashes and dots are"
            ),
        });
    }
    Ok(())
}

/// A pod that cannot run, or that may not.
pub(super) fn pod(
    context: &Context<'_>,
    sources: &Sources<'_>,
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
    if context.settings.allow_privileged_templates {
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
