//! States of a pod's containers -> the status a kubelet would write. PURE: the clock's
//! reading is handed in.

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    Waiting { reason: String, message: String },
    Running { since: String },
    Terminated(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) started: String,
    pub(super) finished: String,
    pub(super) id: String,
}

/// What role a container has in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Main,
}

/// One container's state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) phase: Phase,
    pub(super) last: Option<Ended>,
    pub(super) restarts: u32,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) id: String,
}

impl State {
    pub(super) fn new(role: Role, container: &Container) -> Self {
        let reason = if role == Role::Main {
            "ContainerCreating"
        } else {
            "PodInitializing"
        };
        Self {
            role,
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            phase: Phase::Waiting {
                reason: reason.to_owned(),
                message: String::new(),
            },
            last: None,
            restarts: 0,
            started: false,
            ready: false,
            id: String::new(),
        }
    }

    fn done_well(&self) -> bool {
        matches!(&self.phase, Phase::Terminated(ended) if ended.code == 0)
    }
}

/// The `status` of a pod, without transition times.
pub(super) fn pod_status(
    pod: &Pod,
    states: &[State],
    pod_ip: &str,
    node_ip: &str,
    started: &str,
) -> Value {
    let mains: Vec<_> = states
        .iter()
        .filter(|state| state.role == Role::Main)
        .collect();
    let inits: Vec<_> = states
        .iter()
        .filter(|state| state.role != Role::Main)
        .collect();
    let initialized = inits.iter().all(|state| match state.role {
        Role::Sidecar => state.started,
        _ => state.done_well(),
    });
    let phase = phase(pod, &mains, initialized);
    let running = phase == "Running";
    let containers_ready = running
        && mains.iter().all(|state| state.ready)
        && inits
            .iter()
            .all(|state| state.role == Role::Init || state.ready);
    let unready: Vec<_> = states
        .iter()
        .filter(|state| state.role != Role::Init && !state.ready)
        .map(|state| state.name.as_str())
        .collect();
    let condition = |kind: &str, yes: bool, reason: &str| {
        let mut condition = json!({"type": kind, "status": if yes { "True" } else { "False" }});
        if !yes {
            condition["reason"] = reason.into();
            condition["message"] = match reason {
                "ContainersNotReady" => {
                    format!("containers with unready status: [{}]", unready.join(" ")).into()
                }
                _ => "".into(),
            };
        }
        condition
    };
    json!({
        "phase": phase,
        "podIP": pod_ip, "podIPs": [{"ip": pod_ip}],
        "hostIP": node_ip, "hostIPs": [{"ip": node_ip}],
        "startTime": started,
        "qosClass": pod.status.as_ref().and_then(|status| status.qos_class.clone()),
        "conditions": [
            condition("PodReadyToStartContainers", true, ""),
            condition("Initialized", initialized, "ContainersNotInitialized"),
            condition("Ready", containers_ready, "ContainersNotReady"),
            condition("ContainersReady", containers_ready, "ContainersNotReady"),
        ],
        "containerStatuses": mains.iter().map(|state| container_status(state)).collect::<Vec<_>>(),
        "initContainerStatuses": inits.iter().map(|state| container_status(state)).collect::<Vec<_>>(),
    })
}

fn phase(pod: &Pod, mains: &[&State], initialized: bool) -> &'static str {
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let ended = mains
        .iter()
        .all(|state| matches!(state.phase, Phase::Terminated(_)));
    if ended && policy != "Always" {
        let well = mains.iter().all(|state| state.done_well());
        if well {
            return "Succeeded";
        }
        if policy == "Never" {
            return "Failed";
        }
    }
    let began =
        |state: &&State| !matches!(state.phase, Phase::Waiting { .. }) || state.last.is_some();
    if initialized && mains.iter().all(began) {
        "Running"
    } else {
        "Pending"
    }
}

fn container_status(state: &State) -> Value {
    let ended = |ended: &Ended| {
        json!({"terminated": {
            "exitCode": ended.code, "reason": ended.reason, "startedAt": ended.started,
            "finishedAt": ended.finished, "containerID": ended.id,
        }})
    };
    let current = match &state.phase {
        Phase::Waiting { reason, message } => {
            json!({"waiting": {"reason": reason, "message": message}})
        }
        Phase::Running { since } => json!({"running": {"startedAt": since}}),
        Phase::Terminated(how) => ended(how),
    };
    json!({
        "name": state.name, "image": state.image,
        "imageID": if state.id.is_empty() { String::new() } else { format!("process://{}", state.image) },
        "containerID": state.id, "ready": state.ready || (state.role == Role::Init && state.done_well()),
        "started": state.started, "restartCount": state.restarts,
        "state": current, "lastState": state.last.as_ref().map_or_else(|| json!({}), ended),
    })
}

/// Puts `lastTransitionTime` on every condition: kept where the status did not change.
pub(super) fn stamp(status: &mut Value, before: Option<&Value>, now: &str) {
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return;
    };
    for condition in conditions {
        let same = before
            .and_then(|before| before["conditions"].as_array())
            .and_then(|all| {
                all.iter().find(|old| {
                    old["type"] == condition["type"] && old["status"] == condition["status"]
                })
            });
        let time = same.map_or_else(|| now.into(), |old| old["lastTransitionTime"].clone());
        condition["lastTransitionTime"] = time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(role: Role, phase: Phase, ready: bool) -> State {
        let container = Container {
            name: "c".to_owned(),
            ..Container::default()
        };
        State {
            phase,
            ready,
            started: ready,
            ..State::new(role, &container)
        }
    }

    fn running() -> Phase {
        Phase::Running {
            since: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    #[test]
    fn a_pod_is_ready_only_when_all_its_containers_and_sidecars_are() {
        let ready = |states: &[State]| {
            pod_status(&Pod::default(), states, "10.0.0.1", "10.0.0.2", "t")["conditions"][2]["status"]
                == "True"
        };
        assert!(ready(&[
            state(Role::Sidecar, running(), true),
            state(Role::Main, running(), true)
        ]));
        assert!(!ready(&[
            state(Role::Sidecar, running(), false),
            state(Role::Main, running(), true)
        ]));
        assert!(!ready(&[
            state(Role::Main, running(), true),
            state(Role::Main, running(), false)
        ]));
    }

    #[test]
    fn transition_times_change_only_with_the_status() {
        let mut first = json!({"conditions": [{"type": "Ready", "status": "False"}]});
        stamp(&mut first, None, "one");
        let mut same = json!({"conditions": [{"type": "Ready", "status": "False"}]});
        stamp(&mut same, Some(&first), "two");
        assert_eq!(same["conditions"][0]["lastTransitionTime"], "one");
        let mut other = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        stamp(&mut other, Some(&same), "three");
        assert_eq!(other["conditions"][0]["lastTransitionTime"], "three");
    }
}
