//! A thief on this machine: it listens on the API server's port before the server does. The
//! cluster comes up all the same, and says who took the port.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use rig::net::Mode;
use rig::up::{self, Running};
use tokio_util::sync::CancellationToken;

use crate::crashes::kill;
use crate::support::{LIMIT, Turn};

/// Ports taken, by the directory of the run they were taken from.
type Stolen = Arc<Mutex<BTreeMap<PathBuf, Vec<TcpListener>>>>;

/// Takes the ports of API servers that this test's own processes start on the host's network,
/// as long as it is told of fewer thefts than allowed.
struct Thief {
    stolen: Stolen,
    allowed: Arc<Mutex<usize>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Thief {
    fn start() -> Self {
        let (stolen, allowed) = (Stolen::default(), Arc::new(Mutex::new(1)));
        let stop = CancellationToken::new();
        let (all, limit, end) = (stolen.clone(), allowed.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !end.is_cancelled() {
                let limit = *limit.lock().unwrap_or_else(PoisonError::into_inner);
                for (run, port) in api_servers() {
                    let mut stolen = all.lock().unwrap_or_else(PoisonError::into_inner);
                    let of_run = stolen.entry(run).or_default();
                    if of_run.len() < limit {
                        // The server itself may have been quicker, or this port is taken already.
                        of_run.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            stolen,
            allowed,
            stop,
            thread: Some(thread),
        }
    }

    fn allow(&self, thefts: usize) {
        *self.allowed.lock().unwrap_or_else(PoisonError::into_inner) = thefts;
    }

    /// Ports taken from this run.
    fn taken(&self, run: &Path) -> Vec<u16> {
        let stolen = self.stolen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_run = stolen.get(run).into_iter().flatten();
        of_run
            .filter_map(|listener| Some(listener.local_addr().ok()?.port()))
            .collect()
    }
}

impl Drop for Thief {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs and ports of API servers in this process's network namespace whose rig it started.
fn api_servers() -> Vec<(PathBuf, u16)> {
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let here = network("self");
    let found = |process: &str| {
        let line = fs::read_to_string(format!("/proc/{process}/cmdline")).ok()?;
        let args: Vec<&str> = line.split('\0').collect();
        if !args.contains(&"kube-apiserver") || network(process) != here {
            return None;
        }
        let value = |flag: &str| args.iter().find_map(|arg| arg.strip_prefix(flag));
        let run = Path::new(value("--cert-dir=")?).ancestors().nth(2)?;
        let mine = parent(&parent(process)?)? == std::process::id().to_string();
        mine.then_some((run.to_path_buf(), value("--secure-port=")?.parse().ok()?))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| found(entry.file_name().to_str()?))
        .collect()
}

fn parent(process: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(line.trim().to_owned())
}

/// The API server answers, and the rig's log names this process as the owner of these ports.
async fn told(cluster: &Running, ports: &[u16]) -> Result<()> {
    cluster
        .wait_for("the API server to answer", LIMIT, || async {
            let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"]).await?;
            Ok((!nodes.contains("node/gpu-0")).then_some(nodes))
        })
        .await?;
    let log = fs::read_to_string(cluster.paths.logs().join("rig.log"))?;
    for port in ports {
        let line = log
            .lines()
            .find(|line| line.contains(&format!("its port {port} is taken by")));
        let me = format!("(process {})", std::process::id());
        ensure!(
            line.is_some_and(|line| line.contains(&me)),
            "the owner of port {port} is not named:\n{log}"
        );
    }
    Ok(())
}

#[test]
fn a_cluster_whose_api_server_loses_its_port_moves_to_another() -> Result<()> {
    let _turn = Turn::wait();
    up::runtime()?.block_on(async {
        let thief = Thief::start();
        let args = up::Args {
            net: Some(Mode::Loopback),
        };
        let cluster = up::start(&args).await?;
        let run = cluster.paths.run();
        ensure!(thief.taken(run).len() == 1, "nothing was taken");
        told(&cluster, &thief.taken(run)).await?;

        eprintln!("lost before it came up: {:?}", thief.taken(run));
        thief.allow(2);
        kill(&cluster, &cluster.paths.state().join("kube-apiserver.pid")).await?;
        cluster
            .wait_for("a second theft", LIMIT, || async {
                let taken = thief.taken(run);
                Ok((taken.len() < 2).then(|| format!("{taken:?}")))
            })
            .await?;
        told(&cluster, &thief.taken(run)).await?;
        eprintln!("lost again while it was down: {:?}", thief.taken(run));
        Ok(())
    })
}
