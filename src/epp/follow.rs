//! Discovered endpoints -> who is listened to, who is scraped, whose sessions are forgotten.
//! IO: starts and stops tasks; the only one that does.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use super::datastore::{Datastore, Discovered};
use super::scrape::Scrapes;
use super::sessions::Sessions;
use crate::kv::subscribe::{Subscriptions, Wanted};
use crate::scheduling::endpoint::EndpointId;
use crate::telemetry::shutdown::Shutdown;

/// Where engines publish KV events.
#[derive(Clone, Copy, Debug)]
pub struct EventPorts {
    /// Of the first engine of a pod; the next ones count up, as data-parallel ranks do.
    pub events: u16,
    /// Where they replay missed ones.
    pub replay: u16,
}

/// What follows the endpoints.
pub struct Followers {
    /// Subscriptions to KV events, and with them the endpoints of the index.
    pub subscriptions: Subscriptions,
    /// Ports to subscribe to; `None` when no profile scores by KV cache.
    pub ports: Option<EventPorts>,
    /// Metrics of the engines.
    pub scrapes: Scrapes,
    /// Bindings of sessions.
    pub sessions: Sessions,
}

/// Follows the endpoints until shutdown.
///
/// # Errors
/// None.
pub async fn run(
    datastore: Datastore,
    mut followers: Followers,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut changes = datastore.changes();
    let mut followed: HashMap<SocketAddr, String> = HashMap::new();
    loop {
        let endpoints: Vec<Discovered> = datastore
            .snapshot()
            .iter()
            .map(|entry| entry.endpoint.clone())
            .collect();
        let now = follow(&endpoints, &followed);
        followers.apply(&endpoints, &now);
        for gone in followed
            .keys()
            .filter(|endpoint| !now.contains_key(endpoint))
        {
            followers.sessions.forget_endpoint(EndpointId(*gone));
        }
        followed = now;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Whom to follow, with the pod's uid: endpoints that are ready, and those followed before that
/// are still there. One that is not ready for a moment keeps its connection, and with it what
/// is known of its cache.
fn follow(
    endpoints: &[Discovered],
    before: &HashMap<SocketAddr, String>,
) -> HashMap<SocketAddr, String> {
    endpoints
        .iter()
        .filter(|endpoint| endpoint.ready || before.get(&endpoint.id.0) == Some(&endpoint.pod_uid))
        .map(|endpoint| (endpoint.id.0, endpoint.pod_uid.clone()))
        .collect()
}

impl Followers {
    fn apply(&mut self, endpoints: &[Discovered], followed: &HashMap<SocketAddr, String>) {
        self.scrapes.sync(followed.keys().copied().map(EndpointId));
        let wanted = followed.iter().map(|(endpoint, uid)| {
            let rank = rank(endpoints, *endpoint, uid);
            let at = |port: u16| port.saturating_add(rank);
            Wanted {
                endpoint: *endpoint,
                pod_uid: uid.clone(),
                events_port: self.ports.map(|ports| at(ports.events)),
                replay_port: at(self.ports.map_or(0, |ports| ports.replay)),
            }
        });
        self.subscriptions.sync(wanted.collect());
        for endpoint in endpoints {
            let uid = pod_uid_hash(&endpoint.pod_uid);
            self.sessions.forget_predecessors(endpoint.id, uid);
        }
    }
}

/// Which of its pod's endpoints this is, by port.
fn rank(endpoints: &[Discovered], endpoint: SocketAddr, uid: &str) -> u16 {
    let ports: BTreeSet<u16> = endpoints
        .iter()
        .filter(|other| other.pod_uid == uid)
        .map(|other| other.id.0.port())
        .collect();
    ports
        .iter()
        .position(|port| *port == endpoint.port())
        .unwrap_or(0) as u16
}

/// A pod's uid as bindings keep it; the same in every replica.
pub fn pod_uid_hash(uid: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(uid.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::endpoint::Role;

    fn endpoint(address: &str, uid: &str, ready: bool) -> Discovered {
        Discovered {
            id: EndpointId(address.parse().unwrap()),
            pod: uid.to_owned(),
            pod_uid: uid.to_owned(),
            role: Role::Decode,
            labels: std::sync::Arc::default(),
            ready,
        }
    }

    #[test]
    fn a_pod_that_is_not_ready_for_a_moment_is_still_followed() {
        let ready = [endpoint("10.0.0.1:8000", "a", true)];
        let before = follow(&ready, &HashMap::new());
        assert_eq!(before.len(), 1);
        let unready = [
            endpoint("10.0.0.1:8000", "a", false),
            endpoint("10.0.0.2:8000", "b", false),
        ];
        let after = follow(&unready, &before);
        assert_eq!(after, before, "a pod that was never ready is not");
        let another = [endpoint("10.0.0.1:8000", "c", false)];
        assert!(follow(&another, &before).is_empty(), "another pod is not");
    }

    #[test]
    fn engines_of_one_pod_count_up_from_the_first_port() {
        let endpoints = [
            endpoint("10.0.0.1:8001", "a", true),
            endpoint("10.0.0.1:8000", "a", true),
            endpoint("10.0.0.2:8000", "b", true),
        ];
        let of = |address: &str, uid| rank(&endpoints, address.parse().unwrap(), uid);
        assert_eq!(of("10.0.0.1:8000", "a"), 0);
        assert_eq!(of("10.0.0.1:8001", "a"), 1);
        assert_eq!(of("10.0.0.2:8000", "b"), 0);
    }
}
