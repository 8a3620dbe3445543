//! What people's command lines say -> the port on which an engine listens, and the one on which
//! its pod serves. PURE. Probes, container ports, Services, the pool, the sidecar, the topic of
//! KV events: everything follows these two.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::Container;

use super::Written;
use crate::contract;
use crate::operator::engine::{CommandLine, Port, Program};
use crate::operator::finding::Finding;

/// Flags by which an engine is told its port.
const ENGINE_PORT: &[&str] = &["--port"];
/// Flags by which a sidecar is told its own port.
const SIDECAR_PORT: &[&str] = &["--port", "-port"];
/// Flags by which a sidecar is told the port of its engine.
pub(in crate::operator) const BEHIND_SIDECAR: &[&str] = &[
    "--vllm-port",
    "-vllm-port",
    "--model-server-port",
    "--decoder-port",
];

/// Ports of the pods of one role.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// The engine's own.
    pub engine: u16,
    /// What clients of the pod connect to: the sidecar's where there is one.
    pub serving: u16,
    /// The engine takes TLS connections only.
    pub engine_tls: bool,
}

/// Decides both. `serving` is what the role serves on where nobody says anything.
pub(super) fn decide(
    written: &Written,
    has_sidecar: bool,
    serving: u16,
    findings: &mut Vec<Finding>,
) -> Ports {
    let empty = Container::default();
    let engine = written.container(contract::CONTAINER_ENGINE);
    let line = CommandLine::of(engine.unwrap_or(&empty));
    let engine_tls = line.has(&["--ssl-keyfile"]);
    if !has_sidecar {
        let engine = engine_port(written, engine, &line, serving, findings);
        return Ports {
            engine,
            serving: engine,
            engine_tls,
        };
    }
    let sidecar = written.container(contract::CONTAINER_SIDECAR);
    let sidecar = CommandLine::of(sidecar.unwrap_or(&empty));
    let serving = sidecar.number(SIDECAR_PORT).unwrap_or(serving);
    let forwards_to = sidecar.number(BEHIND_SIDECAR);
    let behind = forwards_to.unwrap_or(contract::PORT_ENGINE_BEHIND_SIDECAR);
    let engine_port = engine_port(written, engine, &line, behind, findings);
    let place = || written.sources.container(contract::CONTAINER_SIDECAR);
    if let Some(target) = forwards_to.filter(|target| *target != engine_port) {
        let text = format!(
            "container {} forwards to port {target}, but the engine listens on {engine_port}",
            contract::CONTAINER_SIDECAR
        );
        let detail = "give --vllm-port and the engine's --port the same number";
        findings.push(Finding::at(place(), text).detail(detail));
    }
    if serving == engine_port {
        let text =
            format!("sidecar and engine both listen on port {serving}: one of them cannot start");
        findings.push(Finding::at(place(), text).detail("give them different ports"));
    }
    Ports {
        engine: engine_port,
        serving,
        engine_tls,
    }
}

/// Where the engine listens: what its flag says; where we may add a flag, what suits the pod; else
/// its declared port or the program's own default.
fn engine_port(
    written: &Written,
    engine: Option<&Container>,
    line: &CommandLine,
    suits: u16,
    findings: &mut Vec<Finding>,
) -> u16 {
    let port = line.port(ENGINE_PORT);
    if let Port::Said(port) = port {
        return port;
    }
    if written.filled && takes_flags(line) && port != Port::Unknown {
        return suits;
    }
    if written.filled && engine.is_none_or(|engine| engine.command.is_none()) {
        return suits;
    }
    let declared = engine
        .into_iter()
        .flat_map(|engine| engine.ports.iter().flatten())
        .find_map(|port| u16::try_from(port.container_port).ok());
    if let Some(port) = declared.or(port.number()) {
        return port;
    }
    if written.filled {
        let place = written.sources.container(contract::CONTAINER_ENGINE);
        let text = format!(
            "the command of container {} does not tell its port; {suits} is assumed",
            contract::CONTAINER_ENGINE
        );
        let detail = "write the port into the container's ports, or --port into its args";
        findings.push(Finding::at(place, text).detail(detail));
    }
    suits
}

/// True for a command line to which flags of vLLM may be added.
pub(in crate::operator) fn takes_flags(line: &CommandLine) -> bool {
    line.program() == Program::Vllm && !line.is_script()
}
