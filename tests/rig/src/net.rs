//! The cluster's network: pod addresses and, where user namespaces are allowed,
//! a network namespace per pod. IO.
//!
//! Two modes. *Namespace*: the rig runs in its own user + network + mount
//! namespace; pods get 10.244.0.0/16 addresses on a bridge; every ClusterIP of
//! 10.96.0.0/16 is local. *Loopback*: nothing is unshared; pod addresses and
//! ClusterIPs both come from 127/8, and programs are told where to bind.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Result;

/// How the cluster's network is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Own user, network and mount namespace; one network namespace per pod.
    Namespace,
    /// Everything on 127/8 of the host.
    Loopback,
}

/// One pod's place in the network.
#[derive(Clone, Debug)]
pub struct PodNet {
    /// The pod's address.
    pub ip: IpAddr,
    /// A path that `setns` accepts; `None` in loopback mode.
    pub netns: Option<PathBuf>,
}

/// The network of one cluster; cheap to clone.
#[derive(Clone, Debug)]
pub struct Net {
    mode: Mode,
}

impl Net {
    /// The mode this cluster runs in.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Makes an address (and a network namespace) for one pod.
    ///
    /// # Errors
    /// When the address range is used up or the kernel refuses.
    pub async fn add_pod(&self) -> Result<PodNet> {
        anyhow::bail!("not built yet")
    }

    /// Gives the address and the namespace back.
    pub async fn remove_pod(&self, pod: &PodNet) {
        let _ = pod;
    }

    /// The node's own address: 10.244.0.1 or 127.0.0.1.
    pub fn node_ip(&self) -> IpAddr {
        match self.mode {
            Mode::Namespace => Ipv4Addr::new(10, 244, 0, 1).into(),
            Mode::Loopback => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// The range the API server takes ClusterIPs from; each can be bound by the service proxy.
    pub fn service_cidr(&self) -> &'static str {
        match self.mode {
            Mode::Namespace => "10.96.0.0/16",
            Mode::Loopback => "127.96.0.0/16",
        }
    }

    /// Address of the Service `kubernetes`.
    pub fn kubernetes_service_ip(&self) -> IpAddr {
        match self.mode {
            Mode::Namespace => Ipv4Addr::new(10, 96, 0, 1).into(),
            Mode::Loopback => Ipv4Addr::new(127, 96, 0, 1).into(),
        }
    }

    /// Address of the cluster's DNS server.
    pub fn dns_ip(&self) -> IpAddr {
        match self.mode {
            Mode::Namespace => Ipv4Addr::new(10, 96, 0, 10).into(),
            Mode::Loopback => Ipv4Addr::new(127, 96, 0, 10).into(),
        }
    }
}
