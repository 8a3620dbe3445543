//! Rendered children -> an error for a pod that cannot run, and for what reaches beyond the
//! namespace without the administrator's leave. PURE. It sees what will be applied, whoever wrote it.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodSpec;
use kube::core::ObjectMeta;

use super::base::{Place, Sources};
use super::children::{ChildKey, Children, Desired, Object};
use super::facts::{self, Facts};
use super::guard::{self, Refusal};
use super::invalid::Error;
use super::settings::Settings;

/// Looks at everything that people wrote and that can reach beyond the namespace.
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
    services(facts, children)?;
    hostnames(facts, children)
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
    match refused(guard::pod(meta, pod, &settings.allowed)) {
        None => Ok(()),
        Some((message, first)) => Err(Error::Merged {
            object: sources.key(),
            place: sources.field(first.container.as_deref(), first.field),
            message,
            reason: "PrivilegedNotAllowed",
        }),
    }
}

/// Services of a base config, as they will be applied.
fn services(facts: &Facts, children: &Children<Desired>) -> Result<(), Error> {
    for key in [
        ChildKey::DecodeService,
        ChildKey::PrefillService,
        ChildKey::EppService,
    ] {
        let Some(Object::Service(service)) = children.get(key) else {
            continue;
        };
        if let Some((message, _)) = refused(guard::service(service, &facts.settings.allowed)) {
            return Err(Error::Merged {
                object: key.as_str(),
                place: Place::Base {
                    object: facts.base.source.clone(),
                    key: key.as_str(),
                    line: None,
                },
                message,
                reason: "PrivilegedNotAllowed",
            });
        }
    }
    Ok(())
}

/// Host names of the route, where the administrator has a list of them.
fn hostnames(facts: &Facts, children: &Children<Desired>) -> Result<(), Error> {
    let list = &facts.settings.allowed_hostnames;
    let Some(Object::HttpRoute(route)) = children.get(ChildKey::HttpRoute) else {
        return Ok(());
    };
    let fits = |name: &str| {
        list.iter().any(|allowed| match allowed.strip_prefix("*.") {
            Some(suffix) => name.ends_with(&format!(".{suffix}")),
            None => name == allowed,
        })
    };
    let names = facts::hostnames(route);
    let Some(wrong) = names.iter().find(|name| !list.is_empty() && !fits(name)) else {
        return Ok(());
    };
    Err(Error::Merged {
        object: ChildKey::HttpRoute.as_str(),
        place: Place::Base {
            object: facts.base.source.clone(),
            key: ChildKey::HttpRoute.as_str(),
            line: None,
        },
        message: format!(
            "the host name {wrong} is not on the administrator's list (--allowed-hostnames): {}",
            list.join(", ")
        ),
        reason: "HostnameNotAllowed",
    })
}

/// All that is refused in one text, and the first of it.
fn refused(refusals: Vec<Refusal>) -> Option<(String, Refusal)> {
    let first = refusals.first()?.clone();
    let what: Vec<&str> = refusals.iter().map(|one| one.what.as_str()).collect();
    let mut kinds: Vec<&str> = refusals.iter().map(|one| one.permission.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let message = format!(
        "asks for {}; the operator allows that only with --allow={} (or all of it, with \
         --allow-privileged-templates)",
        what.join(", "),
        kinds.join(",")
    );
    Some((message, first))
}
