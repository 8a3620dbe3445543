//! One container -> a process, kept running as the pod's restart policy says, with its
//! probes' verdicts in its state. IO.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Probe, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt as _};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use super::env::{self, Sources};
use super::pod::Shared;
use super::status::{Ended, Phase, Role};
use super::{event, probe, volumes};
use crate::images;
use crate::net::Mode;
use crate::process::{self, Mount, Spec};

/// First wait after a second crash, as the kubelet's; doubles up to [`BACK_OFF_LIMIT`].
const BACK_OFF: Duration = Duration::from_secs(10);
const BACK_OFF_LIMIT: Duration = Duration::from_mins(5);
/// A container that ran this long starts with no back-off again.
const RAN_WELL: Duration = Duration::from_mins(10);
/// How often a probe that never succeeded is tried: processes start within milliseconds here,
/// and a probe's own period would only make everyone wait.
const EAGER: Duration = Duration::from_millis(300);
/// How long a name in loopback mode may miss its Service before the program starts without.
const SERVICE_WAIT: Duration = Duration::from_mins(1);

/// Runs until the container is done or told to stop.
pub(super) async fn run(
    shared: Arc<Shared>,
    index: usize,
    container: Container,
    stop: CancellationToken,
) {
    let mut back_off = Duration::ZERO;
    loop {
        let spec = tokio::select! {
            () = stop.cancelled() => return,
            spec = prepare(&shared, index, &container) => spec,
        };
        let began = Instant::now();
        let status = attempt(&shared, index, &container, &spec, &stop).await;
        if stop.is_cancelled() || !restarts(&shared, index, status.as_ref().ok()) {
            return;
        }
        if began.elapsed() > RAN_WELL {
            back_off = Duration::ZERO;
        }
        if !back_off.is_zero() {
            let message = format!(
                "back-off {}s restarting failed container={}",
                back_off.as_secs(),
                container.name
            );
            event(
                &shared.node.client,
                &shared.pod,
                "Warning",
                "BackOff",
                &message,
            )
            .await;
            wait(&shared, index, "CrashLoopBackOff", &message);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(back_off) => {}
            }
        }
        back_off = (back_off * 2).clamp(BACK_OFF, BACK_OFF_LIMIT);
        shared.update(index, |state| state.restarts += 1);
    }
}

fn wait(shared: &Shared, index: usize, reason: &str, message: &str) {
    shared.update(index, |state| {
        if let Phase::Terminated(ended) = &state.phase {
            state.last = Some(ended.clone());
        }
        state.phase = Phase::Waiting {
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
    });
}

fn restarts(shared: &Shared, index: usize, status: Option<&ExitStatus>) -> bool {
    let policy = shared
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let failed = status.is_none_or(|status| !status.success());
    match shared.state(index).role {
        Role::Sidecar => true,
        Role::Init => failed && policy != "Never",
        Role::Main => policy == "Always" || (policy == "OnFailure" && failed),
    }
}

/// Everything the process needs; retries, with the reason in the state, until it has it.
async fn prepare(shared: &Shared, index: usize, container: &Container) -> Spec {
    let mut told = String::new();
    let mut pause = Duration::from_secs(1);
    loop {
        let (reason, message) = match try_prepare(shared, container).await {
            Ok(spec) => return spec,
            Err(error) => match error.downcast::<images::Unknown>() {
                Ok(unknown) => {
                    let image = container.image.as_deref().unwrap_or_default();
                    if told.is_empty() {
                        let text = format!("failed to pull image {image:?}: {unknown}");
                        wait(shared, index, "ErrImagePull", &text);
                        event(&shared.node.client, &shared.pod, "Warning", "Failed", &text).await;
                    }
                    (
                        "ImagePullBackOff",
                        format!("Back-off pulling image {image:?}: {unknown}"),
                    )
                }
                Err(other) => ("CreateContainerConfigError", format!("{other:#}")),
            },
        };
        if told != message {
            wait(shared, index, reason, &message);
            event(
                &shared.node.client,
                &shared.pod,
                "Warning",
                "Failed",
                &format!("Error: {reason}: {message}"),
            )
            .await;
            told = message;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(20));
    }
}

async fn try_prepare(shared: &Shared, container: &Container) -> Result<Spec> {
    let node = &shared.node;
    let ip = shared.net.ip;
    let loopback = node.net.mode() == Mode::Loopback;
    let sources = fetch(shared, container).await?;
    let mut env = vec![
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOSTNAME".to_owned(), shared.pod.name_any()),
        ("HOME".to_owned(), "/".to_owned()),
        (
            "KUBERNETES_SERVICE_HOST".to_owned(),
            node.net.kubernetes_service_ip().to_string(),
        ),
        ("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned()),
    ];
    let own = env::resolve(
        container,
        &shared.pod,
        &ip.to_string(),
        &node.net.node_ip().to_string(),
        &sources,
    )
    .map_err(anyhow::Error::msg)?;
    env.retain(|(name, _)| !own.iter().any(|(other, _)| other == name));
    env.extend(own);
    let expand = |texts: &Option<Vec<String>>| -> Vec<String> {
        texts
            .iter()
            .flatten()
            .map(|text| env::expand(text, &env))
            .collect()
    };
    let (mut command, mut args) = (expand(&container.command), expand(&container.args));
    let volumes = shared.volumes();
    let mut mounts = Vec::new();
    if loopback {
        env.push(("LLM_D_BIND_HOST".to_owned(), ip.to_string()));
        if let Some(token) = volumes::token_folder(&shared.pod, container, &volumes) {
            env.push(("KUBECONFIG".to_owned(), pod_kubeconfig(shared, &token)?));
        }
        env::without_dns(&mut env);
        let mut texts: Vec<&mut String> = env.iter_mut().map(|(_, value)| value).collect();
        texts.extend(command.iter_mut().chain(args.iter_mut()));
        name_services(shared, texts).await;
    } else {
        mounts = volumes::mounts(&shared.pod, container, &volumes);
        mounts.push(resolv_conf(shared)?);
    }
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("the rig's own folder")?;
    let image = container.image.clone().unwrap_or_default();
    let program = images::program(
        &node.tools,
        programs,
        &image,
        &command,
        &args,
        loopback.then_some(ip),
    )?;
    let log = node.paths.logs().join("pods");
    std::fs::create_dir_all(&log)?;
    std::fs::create_dir_all(&shared.dir)?;
    Ok(Spec {
        program: program.path,
        args: program.args,
        env,
        log: log.join(format!("{}_{}.log", shared.label(), container.name)),
        netns: shared.net.netns.clone(),
        mounts,
        pid_file: Some(shared.dir.join(format!("{}.pid", container.name))),
    })
}

async fn fetch(shared: &Shared, container: &Container) -> Result<Sources> {
    let namespace = shared.pod.namespace().unwrap_or_default();
    let (maps, secrets) = env::needed(container);
    let mut sources = Sources::default();
    let api: Api<ConfigMap> = Api::namespaced(shared.node.client.clone(), &namespace);
    for name in maps {
        let found = api
            .get_opt(&name)
            .await?
            .with_context(|| format!("configmap {name:?} not found"))?;
        sources.config_maps.insert(name, found);
    }
    let api: Api<Secret> = Api::namespaced(shared.node.client.clone(), &namespace);
    for name in secrets {
        let found = api
            .get_opt(&name)
            .await?
            .with_context(|| format!("secret {name:?} not found"))?;
        sources.secrets.insert(name, found);
    }
    Ok(sources)
}

/// Without a network of its own a pod cannot have `/var/run/secrets`: a kubeconfig with the
/// same token stands for it.
fn pod_kubeconfig(shared: &Shared, token: &std::path::Path) -> Result<String> {
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "pod",
        "clusters": [{"name": "rig", "cluster": {
            "server": format!("https://{}", shared.node.api), "certificate-authority": shared.node.ca_pem,
        }}],
        "contexts": [{"name": "pod", "context": {
            "cluster": "rig", "user": "account", "namespace": shared.pod.namespace(),
        }}],
        "users": [{"name": "account", "user": {"tokenFile": token.join("token")}}],
    });
    std::fs::create_dir_all(&shared.dir)?;
    let path = shared.dir.join("kubeconfig");
    std::fs::write(&path, serde_json::to_string_pretty(&config)?)?;
    Ok(path.display().to_string())
}

/// Without DNS, names of Services become their ClusterIPs.
async fn name_services(shared: &Shared, mut texts: Vec<&mut String>) {
    let began = Instant::now();
    loop {
        for service in shared.node.world.services.state() {
            let ip = service
                .spec
                .as_ref()
                .and_then(|spec| spec.cluster_ip.clone())
                .unwrap_or_default();
            if ip.parse::<std::net::IpAddr>().is_err() {
                continue;
            }
            let name = format!(
                "{}.{}.svc",
                service.name_any(),
                service.namespace().unwrap_or_default()
            );
            for text in &mut texts {
                if text.contains(&name) {
                    **text = text
                        .replace(&format!("{name}.cluster.local"), &ip)
                        .replace(&name, &ip);
                }
            }
        }
        if began.elapsed() > SERVICE_WAIT
            || !texts.iter().any(|text| text.contains(".svc.cluster.local"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn resolv_conf(shared: &Shared) -> Result<Mount> {
    let namespace = shared.pod.namespace().unwrap_or_default();
    std::fs::create_dir_all(&shared.dir)?;
    let source = shared.dir.join("resolv.conf");
    let text = format!(
        "nameserver {}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
        shared.node.net.dns_ip()
    );
    std::fs::write(&source, text)?;
    Ok(Mount {
        source,
        target: "/etc/resolv.conf".into(),
        read_only: true,
    })
}

/// One life of the process.
async fn attempt(
    shared: &Arc<Shared>,
    index: usize,
    container: &Container,
    spec: &Spec,
    stop: &CancellationToken,
) -> Result<ExitStatus> {
    let mut child = process::spawn(spec)?;
    let id = format!("process://{}", child.id().unwrap_or_default());
    let since = Timestamp::now().to_string();
    shared.update(index, |state| {
        if let Phase::Terminated(ended) = &state.phase {
            state.last = Some(ended.clone());
        }
        state.phase = Phase::Running {
            since: since.clone(),
        };
        state.id.clone_from(&id);
    });
    let inside = probe::Inside {
        netns: spec.netns.clone(),
        env: spec.env.clone(),
    };
    let (status, unhealthy) = tokio::select! {
        status = child.wait() => (status?, None),
        reason = watch_probes(shared, index, container, &inside) => (end(&mut child, shared).await?, Some(reason)),
        () = stop.cancelled() => (end(&mut child, shared).await?, None),
    };
    process::forget(spec);
    if let Some(reason) = unhealthy {
        let message = format!(
            "Container {} failed its probe, will be restarted: {reason}",
            container.name
        );
        event(
            &shared.node.client,
            &shared.pod,
            "Warning",
            "Unhealthy",
            &message,
        )
        .await;
    }
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    let ended = Ended {
        code,
        reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
        started: since,
        finished: Timestamp::now().to_string(),
        id,
    };
    shared.update(index, |state| {
        state.phase = Phase::Terminated(ended);
        state.ready = false;
        state.started = false;
    });
    Ok(status)
}

/// SIGTERM, and SIGKILL when the pod's patience is over (the caller drops us then, which kills).
async fn end(child: &mut Child, shared: &Shared) -> Result<ExitStatus> {
    let grace = shared
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    if let Some(pid) = child.id() {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).context("process id")?);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(30));
    if let Ok(status) = tokio::time::timeout(limit, child.wait()).await {
        return Ok(status?);
    }
    child.start_kill()?;
    Ok(child.wait().await?)
}

/// Follows the probes; returns why the container must be restarted, if it must.
async fn watch_probes(
    shared: &Shared,
    index: usize,
    container: &Container,
    inside: &probe::Inside,
) -> String {
    if let Some(startup) = &container.startup_probe
        && let Err(reason) = until_success(shared, startup, container, inside).await
    {
        return format!("startup: {reason}");
    }
    shared.update(index, |state| {
        state.started = true;
        state.ready = container.readiness_probe.is_none();
    });
    tokio::select! {
        reason = liveness(shared, container, inside) => format!("liveness: {reason}"),
        () = readiness(shared, index, container, inside) => String::new(),
    }
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10))
}

fn delay(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0))
}

fn failures(probe: &Probe) -> u32 {
    u32::try_from(probe.failure_threshold.unwrap_or(3)).unwrap_or(3)
}

async fn until_success(
    shared: &Shared,
    probe: &Probe,
    container: &Container,
    inside: &probe::Inside,
) -> Result<(), String> {
    tokio::time::sleep(delay(probe)).await;
    let began = Instant::now();
    loop {
        match probe::check(probe, container, shared.net.ip, inside).await {
            Ok(()) => return Ok(()),
            Err(reason) if began.elapsed() > period(probe) * failures(probe) => return Err(reason),
            Err(_) => tokio::time::sleep(EAGER.min(period(probe))).await,
        }
    }
}

async fn liveness(shared: &Shared, container: &Container, inside: &probe::Inside) -> String {
    let Some(probe) = &container.liveness_probe else {
        return std::future::pending().await;
    };
    tokio::time::sleep(delay(probe)).await;
    let mut failed = 0;
    loop {
        tokio::time::sleep(period(probe)).await;
        match probe::check(probe, container, shared.net.ip, inside).await {
            Ok(()) => failed = 0,
            Err(reason) => {
                failed += 1;
                if failed >= failures(probe) {
                    return reason;
                }
            }
        }
    }
}

async fn readiness(shared: &Shared, index: usize, container: &Container, inside: &probe::Inside) {
    let Some(probe) = &container.readiness_probe else {
        return std::future::pending().await;
    };
    tokio::time::sleep(delay(probe)).await;
    let (mut failed, mut ready) = (0, false);
    loop {
        if let Ok(()) = probe::check(probe, container, shared.net.ip, inside).await {
            failed = 0;
            if !ready {
                ready = true;
                shared.update(index, |state| state.ready = true);
            }
        } else {
            failed += 1;
            if ready && failed >= failures(probe) {
                ready = false;
                shared.update(index, |state| state.ready = false);
            }
        }
        tokio::time::sleep(if ready {
            period(probe)
        } else {
            EAGER.min(period(probe))
        })
        .await;
    }
}
