//! What people wrote about an engine -> what they should know though nothing is refused: flags
//! that the engine will not take, settings that cannot act, containers that nobody manages. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::Container;

use super::{Context, Written, takes_flags};
use crate::api::modelservice::Parallelism;
use crate::contract;
use crate::operator::builtin;
use crate::operator::engine::{CommandLine, refused_flags};
use crate::operator::finding::Finding;
use crate::operator::names::Role;

/// Looks at one role.
pub(super) fn tell(
    context: &Context<'_>,
    role: Role,
    written: &Written,
    parallelism: Option<&Parallelism>,
    findings: &mut Vec<Finding>,
) {
    let name = contract::CONTAINER_ENGINE;
    let section = format!("spec.{}", role.as_str());
    let Some(engine) = written.container(name) else {
        no_engine(written, findings);
        return;
    };
    let line = CommandLine::of(engine);
    let fallback = &context.settings.vllm_image;
    let image = engine.image.as_deref().unwrap_or(fallback);
    for (flag, why) in refused_flags(&line, image) {
        let place = written.sources.flag(name, |arg| arg.starts_with(flag));
        findings.push(Finding::at(place, flag).detail(why));
    }
    let command = engine.command.as_ref().is_some_and(|c| !c.is_empty());
    let acts = written.filled && (!command || takes_flags(&line));
    let sizes = parallelism.map(|p| [p.tensor, p.pipeline, p.data]);
    let asks = sizes.is_some_and(|sizes| sizes.iter().any(|size| size.unwrap_or(1) > 1));
    if asks && !acts {
        let why = if written.filled {
            "the container has a command of its own"
        } else {
            "the Deployment is written in full"
        };
        let text = format!("{section}.parallelism has no effect: {why}");
        let detail = "write --tensor-parallel-size and the GPUs where the rest is written";
        findings.push(Finding::new(text).detail(detail));
    }
    deadline(written, engine, findings);
    literal_templates(context, role, findings);
}

/// A rollout that is given up while its pods may still be starting.
fn deadline(written: &Written, engine: &Container, findings: &mut Vec<Finding>) {
    const KUBERNETES_DEFAULT_SECONDS: i32 = 600;
    let said = written.deployment.spec.progress_deadline_seconds;
    if said.is_none() && written.filled {
        return;
    }
    let limit = said.unwrap_or(KUBERNETES_DEFAULT_SECONDS);
    let Some(starting) = engine.startup_probe.as_ref().map(builtin::startup_seconds) else {
        return;
    };
    if starting <= limit {
        return;
    }
    let field = "progressDeadlineSeconds";
    let place = written.sources.field(None, field);
    let text = format!(
        "a rollout is given up after {limit} s, but the startup probe gives the engine {starting} s"
    );
    let detail = format!("write {field}: {} or more", starting.saturating_add(60));
    findings.push(Finding::at(place, text).detail(detail));
}

/// A full Deployment whose engine has another name.
fn no_engine(written: &Written, findings: &mut Vec<Finding>) {
    let pod = written.pod();
    let names: Vec<&str> = pod
        .containers
        .iter()
        .map(|container| container.name.as_str())
        .filter(|name| *name != contract::CONTAINER_SIDECAR)
        .collect();
    if written.filled || names.is_empty() {
        return;
    }
    let text = format!(
        "no container is named {}, but {}: its ports, flags and KV events are not managed",
        contract::CONTAINER_ENGINE,
        names.join(", ")
    );
    let detail = format!("name the engine's container {}", contract::CONTAINER_ENGINE);
    findings.push(Finding::at(written.sources.whole(), text).detail(detail));
}

/// Templates where none are rendered: everything of a ModelService but args.
fn literal_templates(context: &Context<'_>, role: Role, findings: &mut Vec<Finding>) {
    let spec = match role {
        Role::Decode => &context.ms.spec.decode,
        Role::Prefill => &context.ms.spec.prefill,
    };
    for container in spec.iter().flat_map(|spec| &spec.containers) {
        let path = format!("spec.{}.containers[{}]", role.as_str(), container.name);
        let image = container
            .image
            .iter()
            .map(|text| ("image".to_owned(), text));
        let command = container.command.iter().flatten();
        let command = command.map(|text| ("command".to_owned(), text));
        let env = container.env.iter().flatten();
        let env = env.filter_map(|e| Some((format!("env[{}]", e.name), e.value.as_ref()?)));
        for (field, text) in image.chain(command).chain(env) {
            if text.contains("{{") {
                let text =
                    format!("{path}.{field} holds {{{{ }}}}, which is rendered in args only");
                let detail = "write the value itself, or move it to the base config";
                findings.push(Finding::new(text).detail(detail));
            }
        }
    }
}
