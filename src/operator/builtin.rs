//! What lies under a shorthand base value, or where a role has no base at all: engine,
//! routing sidecar and EPP as one would write them by hand. PURE.
//!
//! Everything here only FILLS what is absent: what the user said is never changed.
#![deny(clippy::disallowed_methods)]

mod pieces;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec, Probe,
    ResourceRequirements, Service, ServiceSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::artifacts::Artifacts;
use super::engine::CommandLine;
use super::facts::{BEHIND_SIDECAR, Ports, takes_flags};
use super::merge::{MODEL_MOUNT_PATH, MODEL_VOLUME, is_extended};
use crate::api::modelservice::Parallelism;
use crate::contract;
pub use pieces::{
    UNPRIVILEGED_USER, field_var, port, resources, restricted, restricted_pod, secret_var,
    service_port, var,
};
use pieces::{grpc_probe, http_probe, restricted_engine};

/// The EPP's program in this project's image.
pub const EPP_PROGRAM: &str = "/epp";
/// The routing sidecar's program in this project's image.
pub const SIDECAR_PROGRAM: &str = "/routing-proxy";

/// The engine's HOME: a volume of its own, writable for whichever user it runs as.
const HOME_PATH: &str = "/engine-home";
const HOME_VOLUME: &str = "engine-home";
/// Scheduling and pulling an image come on top of the time that the startup probe gives.
const PROGRESS_MARGIN_SECONDS: i32 = 600;

/// What the engine container of a role is filled with.
#[derive(Clone, Debug)]
pub struct Engine<'a> {
    /// Image where none is given.
    pub image: &'a str,
    /// Where the pod listens.
    pub ports: Ports,
    /// `routing.modelName`.
    pub served_name: &'a str,
    /// Where the weights are.
    pub artifacts: &'a Artifacts,
    /// How the engine spreads over GPUs.
    pub parallelism: Option<&'a Parallelism>,
    /// The user of an image that may have none.
    pub user: Option<i64>,
    /// KV transfer between prefill and decode by NIXL.
    pub nixl: bool,
}

/// Adds env entries whose names are not taken.
pub fn add_env(container: &mut Container, entries: impl IntoIterator<Item = EnvVar>) {
    let env = container.env.get_or_insert_default();
    for entry in entries {
        if !env.iter().any(|existing| existing.name == entry.name) {
            env.push(entry);
        }
    }
}

/// True when the container's command line has this flag, as `--flag value`, `--flag=value`
/// or bare.
pub fn has_flag(container: &Container, flag: &str) -> bool {
    let words = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten());
    words.into_iter().any(|word| {
        word == flag
            || word
                .strip_prefix(flag)
                .is_some_and(|rest| rest.starts_with('='))
    })
}

/// True when the container's command is that program of this project's image: the image
/// has no program of its own that is an EPP or a sidecar, so who wants one names it.
pub fn starts(container: &Container, program: &str) -> bool {
    let command = container.command.as_ref();
    command
        .and_then(|command| command.first())
        .map(String::as_str)
        == Some(program)
}

/// The main container of that name, made first in the pod where it is absent.
pub fn main_container<'a>(pod: &'a mut PodSpec, name: &str) -> &'a mut Container {
    let index = pod
        .containers
        .iter()
        .position(|container| container.name == name)
        .unwrap_or_else(|| {
            pod.containers.push(Container {
                name: name.to_owned(),
                ..Container::default()
            });
            pod.containers.len() - 1
        });
    &mut pod.containers[index]
}

/// Fills the engine container of a decode or prefill pod.
pub fn fill_engine(pod: &mut PodSpec, engine: &Engine<'_>) {
    let container = main_container(pod, contract::CONTAINER_ENGINE);
    container
        .image
        .get_or_insert_with(|| engine.image.to_owned());
    fill_command(container, engine);
    if container.ports.as_ref().is_none_or(Vec::is_empty) {
        container.ports = Some(vec![port("http", engine.ports.engine)]);
    }
    let ports = engine.ports;
    let probe = |period, failures| http_probe(ports.engine, ports.engine_tls, period, failures);
    // Loading a large model takes long; only then do the other probes start.
    container.startup_probe.get_or_insert_with(|| probe(5, 720));
    container.readiness_probe.get_or_insert_with(|| probe(5, 3));
    container.liveness_probe.get_or_insert_with(|| probe(10, 6));
    if let Artifacts::HuggingFace { secret, .. } = engine.artifacts {
        if let Some(secret) = secret {
            add_env(container, [secret_var("HF_TOKEN", secret, "HF_TOKEN")]);
        }
        add_env(container, [var("HF_HOME", MODEL_MOUNT_PATH)]);
    }
    if engine.nixl {
        // The address other engines connect to for the KV cache.
        add_env(
            container,
            [
                field_var("VLLM_NIXL_SIDE_CHANNEL_HOST", "status.podIP"),
                var("VLLM_NIXL_SIDE_CHANNEL_PORT", "5557"),
            ],
        );
    }
    fill_gpus(container, engine.parallelism);
    mount(
        container,
        MODEL_VOLUME,
        MODEL_MOUNT_PATH,
        engine.artifacts.read_only(),
    );
    mount(container, "dshm", "/dev/shm", false);
    // Engines compile and cache below HOME, which any user must be able to write.
    add_env(container, [var("HOME", HOME_PATH), var("USER", "engine")]);
    mount(container, HOME_VOLUME, HOME_PATH, false);
    container
        .security_context
        .get_or_insert_with(restricted_engine);
    if pod.security_context.is_none() && !wants_root(pod) {
        pod.security_context = Some(PodSecurityContext {
            run_as_user: engine.user,
            ..restricted_pod()
        });
    }
    let volumes = pod.volumes.get_or_insert_default();
    if !volumes.iter().any(|volume| volume.name == HOME_VOLUME) {
        volumes.push(Volume {
            name: HOME_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    if !volumes.iter().any(|volume| volume.name == "dshm") {
        // NCCL and vLLM's workers talk through shared memory; 64 MiB is not enough.
        volumes.push(Volume {
            name: "dshm".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity("2Gi".to_owned())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
}

/// A container that says it runs as root, which a pod that does not would keep from starting.
fn wants_root(pod: &PodSpec) -> bool {
    let init = pod.init_containers.iter().flatten();
    let mut contexts = pod
        .containers
        .iter()
        .chain(init)
        .filter_map(|container| container.security_context.as_ref());
    contexts.any(|context| {
        context.run_as_user == Some(0)
            || context.run_as_non_root == Some(false)
            || context.privileged == Some(true)
    })
}

/// `vllm serve MODEL --port … --served-model-name …` in front of what the user says.
fn fill_command(container: &mut Container, engine: &Engine<'_>) {
    if container
        .command
        .as_ref()
        .is_some_and(|command| !command.is_empty())
    {
        let line = CommandLine::of(container);
        if takes_flags(&line) {
            let flags = flags(container, engine);
            container.args.get_or_insert_default().extend(flags);
        }
        return;
    }
    let mut front = Vec::new();
    let positional = container
        .args
        .iter()
        .flatten()
        .next()
        .is_some_and(|arg| !arg.starts_with('-'));
    if !positional && !has_flag(container, "--model") {
        front.push(engine.artifacts.serve_argument());
    }
    let back = flags(container, engine);
    container.command = Some(vec!["vllm".to_owned(), "serve".to_owned()]);
    let given = container.args.take().unwrap_or_default();
    let split = usize::from(positional);
    let mut args = front;
    args.extend(given.iter().take(split).cloned());
    args.extend(back);
    args.extend(given.into_iter().skip(split));
    container.args = Some(args);
}

/// Flags that vLLM needs here and that nobody gives.
fn flags(container: &Container, engine: &Engine<'_>) -> Vec<String> {
    let mut back = Vec::new();
    let line = CommandLine::of(container);
    let has_flag = |_: &Container, flag: &str| line.has(&[flag]);
    if !line.has(&["--port", "--config"]) {
        back.push(format!("--port={}", engine.ports.engine));
    }
    if !has_flag(container, "--served-model-name") {
        back.push(format!("--served-model-name={}", engine.served_name));
    }
    if let Some(parallelism) = engine.parallelism {
        for (size, flags) in [
            (parallelism.tensor, ["--tensor-parallel-size", "-tp"]),
            (parallelism.pipeline, ["--pipeline-parallel-size", "-pp"]),
            (parallelism.data, ["--data-parallel-size", "-dp"]),
        ] {
            let size = size.unwrap_or(1);
            if size > 1 && !flags.iter().any(|flag| has_flag(container, flag)) {
                back.push(format!("{}={size}", flags[0]));
            }
        }
    }
    if engine.nixl && !has_flag(container, "--kv-transfer-config") {
        back.push(
            r#"--kv-transfer-config={"kv_connector":"NixlConnector","kv_role":"kv_both"}"#
                .to_owned(),
        );
    }
    back
}

/// One GPU per tensor and pipeline rank, where parallelism is given and no GPU asked for.
fn fill_gpus(container: &mut Container, parallelism: Option<&Parallelism>) {
    const GPU: &str = "nvidia.com/gpu";
    let Some(parallelism) = parallelism else {
        return;
    };
    // No node has so many: such pods stay pending and say why, which beats a crash here.
    let count = [parallelism.tensor, parallelism.pipeline, parallelism.data]
        .into_iter()
        .fold(1_i32, |count, size| {
            count.saturating_mul(size.unwrap_or(1).max(1))
        });
    if asks_for_accelerator(container) {
        return;
    }
    let resources: &mut ResourceRequirements = container.resources.get_or_insert_default();
    let limits = resources.limits.get_or_insert_default();
    limits.insert(GPU.to_owned(), Quantity(count.to_string()));
    resources
        .requests
        .get_or_insert_default()
        .insert(GPU.to_owned(), Quantity(count.to_string()));
}

/// True when the container asks for a device: a GPU or a slice of one (MIG), another accelerator,
/// or a claim. Network devices are none.
pub fn asks_for_accelerator(container: &Container) -> bool {
    let Some(resources) = &container.resources else {
        return false;
    };
    let is_network = |name: &str| {
        ["rdma", "sriov", "hca", "roce", "efa", "openshift.io/"]
            .iter()
            .any(|word| name.contains(word))
    };
    let mut names = resources
        .limits
        .iter()
        .chain(&resources.requests)
        .flat_map(|amounts| amounts.iter());
    let claims = resources.claims.as_ref();
    names.any(|(name, amount)| is_extended(name) && !is_network(name) && amount.0 != "0")
        || claims.is_some_and(|claims| !claims.is_empty())
}

/// How engines are replaced, where nobody says it: on GPUs one pod goes before the next comes,
/// since there is seldom a spare one; and a rollout is not given up while an engine may still be
/// loading its model.
pub fn fill_rollout(deployment: &mut Deployment) {
    let pod = deployment.spec.template.spec.as_ref();
    let engine = pod.and_then(|pod| {
        let mut containers = pod.containers.iter();
        containers.find(|container| container.name == contract::CONTAINER_ENGINE)
    });
    let Some(engine) = engine else { return };
    let on_accelerators = asks_for_accelerator(engine);
    let starting = engine.startup_probe.as_ref().map_or(0, startup_seconds);
    let spec = &mut deployment.spec;
    spec.progress_deadline_seconds
        .get_or_insert_with(|| (starting + PROGRESS_MARGIN_SECONDS).max(600));
    if on_accelerators {
        spec.strategy.get_or_insert_with(|| DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(0)),
                max_unavailable: Some(IntOrString::Int(1)),
            }),
        });
    }
}

/// How long a pod may take to start before the kubelet ends it, in seconds.
pub fn startup_seconds(probe: &Probe) -> i32 {
    let tries = probe.failure_threshold.unwrap_or(3);
    let period = probe.period_seconds.unwrap_or(10);
    let delay = probe.initial_delay_seconds.unwrap_or(0);
    delay.saturating_add(tries.saturating_mul(period))
}

/// Fills the routing sidecar of a decode pod: the user's container of that name, or a
/// native sidecar (started before the engine, stopped after it).
pub fn fill_sidecar(pod: &mut PodSpec, image: &str, ports: Ports, nixl: bool) {
    let name = contract::CONTAINER_SIDECAR;
    let init = pod.init_containers.iter_mut().flatten();
    let existing = pod
        .containers
        .iter_mut()
        .chain(init)
        .find(|container| container.name == name);
    let container = if let Some(container) = existing {
        container
    } else {
        let containers = pod.init_containers.get_or_insert_default();
        containers.push(Container {
            name: name.to_owned(),
            restart_policy: Some("Always".to_owned()),
            ..Container::default()
        });
        containers.last_mut().expect("one was just pushed")
    };
    if container.image.is_none() {
        container.image = Some(image.to_owned());
        container
            .command
            .get_or_insert_with(|| vec![SIDECAR_PROGRAM.to_owned()]);
    }
    let mut args = Vec::new();
    let line = CommandLine::of(container);
    if !line.has(&["--port", "-port"]) {
        args.push(format!("--port={}", ports.serving));
    }
    if !line.has(BEHIND_SIDECAR) {
        args.push(format!("--vllm-port={}", ports.engine));
    }
    if nixl && !has_flag(container, "--connector") && !has_flag(container, "--kv-connector") {
        args.push("--connector=nixlv2".to_owned());
    }
    container.args.get_or_insert_default().extend(args);
    if container.ports.as_ref().is_none_or(Vec::is_empty) {
        container.ports = Some(vec![port("proxy", ports.serving)]);
    }
    container
        .readiness_probe
        .get_or_insert_with(|| http_probe(ports.serving, false, 5, 3));
    container.security_context.get_or_insert_with(restricted);
    // The sidecar holds at most 128 MiB of bodies at once; the rest is connections.
    container
        .resources
        .get_or_insert_with(|| resources(&[("memory", "64Mi")], "512Mi"));
}

/// Fills the EPP's pod; `args` are those of a container without command and args.
pub fn fill_epp(pod: &mut PodSpec, image: &str, args: Vec<String>) {
    let container = main_container(pod, contract::CONTAINER_EPP);
    if container.image.is_none() {
        container.image = Some(image.to_owned());
        container
            .command
            .get_or_insert_with(|| vec![EPP_PROGRAM.to_owned()]);
    }
    if container.args.as_ref().is_none_or(Vec::is_empty) {
        container.args = Some(args);
    }
    if container.ports.as_ref().is_none_or(Vec::is_empty) {
        container.ports = Some(vec![
            port("grpc", contract::PORT_EPP_GRPC),
            port("grpc-health", contract::PORT_EPP_HEALTH),
            port("metrics", contract::PORT_EPP_METRICS),
        ]);
    }
    add_env(
        container,
        [
            field_var("POD_NAME", "metadata.name"),
            field_var("POD_NAMESPACE", "metadata.namespace"),
            field_var(contract::ENV_POD_IP, "status.podIP"),
        ],
    );
    // An EPP serves once it knows its endpoints: it is given ten minutes for that. One that
    // stops answering later leaves the Service within six seconds, and is started again after
    // at most twenty-five.
    container
        .startup_probe
        .get_or_insert_with(|| grpc_probe(2, 300));
    container
        .readiness_probe
        .get_or_insert_with(|| grpc_probe(2, 2));
    container.liveness_probe.get_or_insert_with(|| Probe {
        // One that hangs does not use the time to finish that one which ends in order has.
        termination_grace_period_seconds: Some(5),
        ..grpc_probe(5, 3)
    });
    container.security_context.get_or_insert_with(restricted);
    // The EPP holds at most 128 MiB of bodies at once; the index of the KV cache and the
    // tokenizer take most of the rest.
    container
        .resources
        .get_or_insert_with(|| resources(&[("cpu", "250m"), ("memory", "256Mi")], "1Gi"));
    pod.security_context.get_or_insert_with(restricted_pod);
}

/// A Service in front of the engines of a role.
pub fn role_service(serving: u16) -> Service {
    let mut port = service_port("http", serving);
    port.app_protocol = Some("http".to_owned());
    Service {
        spec: Some(ServiceSpec {
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The EPP's Service. Gateways speak HTTP/2 to a port only when it says so.
pub fn epp_service() -> Service {
    let mut grpc = service_port("grpc", contract::PORT_EPP_GRPC);
    grpc.app_protocol = Some("http2".to_owned());
    let mut health = service_port("grpc-health", contract::PORT_EPP_HEALTH);
    health.app_protocol = Some("http2".to_owned());
    let metrics = service_port("http-metrics", contract::PORT_EPP_METRICS);
    Service {
        spec: Some(ServiceSpec {
            ports: Some(vec![grpc, health, metrics]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn mount(container: &mut Container, volume: &str, path: &str, read_only: bool) {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts
        .iter()
        .any(|mount| mount.mount_path == path || mount.name == volume)
    {
        return;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    });
}
