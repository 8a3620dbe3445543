//! The cluster's network: pod addresses and, where user namespaces are allowed,
//! a network namespace per pod. IO.
//!
//! Two modes. *Namespace*: the rig runs in its own user + network + mount
//! namespace; pods get 10.244.0.0/16 addresses on a bridge; every ClusterIP of
//! 10.96.0.0/16 is local. *Loopback*: nothing is unshared; pod addresses and
//! ClusterIPs both come from 127/8, and programs are told where to bind.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::ports::Reservation;
use crate::{netlink, process};

/// How the cluster's network is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Own user, network and mount namespace; one network namespace per pod.
    Namespace,
    /// Everything on 127/8 of the host.
    Loopback,
}

/// One pod's place in the network. Dropping it takes the namespace away.
#[derive(Debug)]
pub struct PodNet {
    /// The pod's address.
    pub ip: IpAddr,
    /// A path that `setns` accepts; `None` in loopback mode.
    pub netns: Option<PathBuf>,
    /// Holds the namespace.
    pause: Option<Child>,
    host: u16,
    used: Arc<Mutex<BTreeSet<u16>>>,
}

impl Drop for PodNet {
    fn drop(&mut self) {
        if let Some(pause) = &mut self.pause {
            let _ = pause.start_kill();
        }
        self.used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(&self.host);
    }
}

/// The network of one cluster; cheap to clone.
#[derive(Clone, Debug)]
pub struct Net {
    mode: Mode,
    /// Loopback: which pair of /16 ranges this rig has for itself.
    slot: u8,
    _reservation: Option<Arc<Reservation>>,
    used: Arc<Mutex<BTreeSet<u16>>>,
    last: Arc<Mutex<u16>>,
}

impl Net {
    /// Sets the network up. In namespace mode the process must already be inside.
    ///
    /// # Errors
    /// When the kernel refuses, or every loopback range is taken.
    pub async fn open(mode: Mode) -> Result<Self> {
        let (slot, reservation) = match mode {
            Mode::Namespace => {
                netlink::cluster(
                    (Ipv4Addr::new(10, 96, 0, 0), 16),
                    (Ipv4Addr::new(10, 244, 0, 1), 16),
                )
                .await?;
                (0, None)
            }
            Mode::Loopback => {
                let (slot, reservation) = free_slot()?;
                (slot, Some(Arc::new(reservation)))
            }
        };
        Ok(Self {
            mode,
            slot,
            _reservation: reservation,
            used: Arc::default(),
            last: Arc::new(Mutex::new(1)),
        })
    }

    /// The mode this cluster runs in.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Makes an address (and a network namespace) for one pod.
    ///
    /// # Errors
    /// When the address range is used up or the kernel refuses.
    pub async fn add_pod(&self) -> Result<PodNet> {
        let host = self.take_host()?;
        let [high, low] = host.to_be_bytes();
        let mut net = PodNet {
            ip: self.pod_ip(high, low),
            netns: None,
            pause: None,
            host,
            used: self.used.clone(),
        };
        if self.mode == Mode::Namespace {
            let (child, pid) = start_pause(host, Ipv4Addr::new(10, 244, high, low)).await?;
            net.netns = Some(PathBuf::from(format!("/proc/{pid}/ns/net")));
            net.pause = Some(child);
        }
        Ok(net)
    }

    fn pod_ip(&self, high: u8, low: u8) -> IpAddr {
        match self.mode {
            Mode::Namespace => Ipv4Addr::new(10, 244, high, low).into(),
            Mode::Loopback => Ipv4Addr::new(127, 16 + self.slot, high, low).into(),
        }
    }

    /// Addresses are not used again soon, as on a real node.
    fn take_host(&self) -> Result<u16> {
        let mut used = self
            .used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for _ in 0..u16::MAX {
            *last = if *last >= 0xfffd { 2 } else { *last + 1 };
            if used.insert(*last) {
                return Ok(*last);
            }
        }
        anyhow::bail!("all pod addresses are taken")
    }

    /// The node's own address: 10.244.0.1 or 127.0.0.1.
    pub fn node_ip(&self) -> IpAddr {
        match self.mode {
            Mode::Namespace => Ipv4Addr::new(10, 244, 0, 1).into(),
            Mode::Loopback => Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn service_ip(&self, low: u8) -> IpAddr {
        match self.mode {
            Mode::Namespace => Ipv4Addr::new(10, 96, 0, low).into(),
            Mode::Loopback => Ipv4Addr::new(127, 128 + self.slot, 0, low).into(),
        }
    }

    /// The range the API server takes ClusterIPs from; each can be bound by the service proxy.
    pub fn service_cidr(&self) -> String {
        format!("{}/16", self.service_ip(0))
    }

    /// Address of the Service `kubernetes`.
    pub fn kubernetes_service_ip(&self) -> IpAddr {
        self.service_ip(1)
    }

    /// Address of the cluster's DNS server.
    pub fn dns_ip(&self) -> IpAddr {
        self.service_ip(10)
    }
}

/// Two rigs on one machine must not share addresses: each reserves its range.
fn free_slot() -> Result<(u8, Reservation)> {
    (0..100)
        .find_map(|slot| Some((slot, Reservation::take(&format!("loopback/{slot}"))?)))
        .context("100 rigs are running already")
}

async fn start_pause(host: u16, ip: Ipv4Addr) -> Result<(Child, u32)> {
    let mut child = Command::new(process::rig_program()?)
        .args(["pause", &ip.to_string(), "10.244.0.1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start the pod's pause process")?;
    let pid = child.id().context("the pause process ended at once")?;
    let mut lines = BufReader::new(child.stdout.take().context("pause has no output")?).lines();
    ensure!(
        lines.next_line().await?.as_deref() == Some("ready"),
        "the pause process could not make a network namespace"
    );
    netlink::join(&format!("v{host}"), pid).await?;
    let mut input = child.stdin.take().context("pause has no input")?;
    input.write_all(b"go\n").await?;
    ensure!(
        lines.next_line().await?.as_deref() == Some("up"),
        "the pause process could not set its network up"
    );
    child.stdin = Some(input);
    Ok((child, pid))
}
