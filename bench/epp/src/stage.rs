//! Engines, EPPs and one Envoy between a client and them, started in order and seen to answer.
//! IO.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::envoy::{self, Listener};
use crate::kind::{Epp, Kind, Surroundings};
use crate::kubeapi::{self, KubeApi};
use crate::net::{self, Net};
use crate::process::{Process, Spec};

/// How long anything may take to start.
const START: Duration = Duration::from_secs(30);
/// First port of the listeners, below the range that clients' ports are taken from.
const FIRST_LISTENER: u16 = 10_000;

/// What every run can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Our EPP's program.
    #[arg(long, env = "EPP", default_value = "target/release/epp")]
    pub epp: PathBuf,
    /// How many endpoints there are.
    #[arg(long, default_value_t = 10)]
    pub endpoints: usize,
    /// Keep logs and generated files in this folder.
    #[arg(long)]
    pub keep: Option<PathBuf>,
}

/// What is merged into clusters.
#[derive(Clone, Debug, Default)]
pub struct Patches {
    /// Into that of each EPP.
    pub epp_cluster: Value,
    /// Into [`envoy::PREFERRED`].
    pub engine_cluster: Value,
}

/// A run's folder: kept where wished, else gone with the run.
enum Folder {
    Kept(PathBuf),
    Gone(TempDir),
}

/// Everything that runs. The order of fields is the order in which they end.
pub struct Stage {
    /// EPPs, in the order of their kinds.
    pub epps: Vec<Epp>,
    /// Envoy.
    pub envoy: Process,
    /// Listeners, in the order asked for.
    pub listeners: Vec<Listener>,
    /// Addresses of this run.
    pub net: Net,
    _engines: Process,
    _kube_api: KubeApi,
    folder: Folder,
}

impl Stage {
    /// Starts all of it and waits until each listener has answered.
    ///
    /// # Errors
    /// When something does not start, with the end of its log.
    pub async fn start(
        common: &Common,
        kinds: &[Kind],
        mut listeners: Vec<Listener>,
        patches: &Patches,
    ) -> Result<Self> {
        let net = Net::take()?;
        let folder = match &common.keep {
            Some(path) => {
                std::fs::create_dir_all(path)?;
                Folder::Kept(path.canonicalize()?)
            }
            None => Folder::Gone(tempfile::tempdir()?),
        };
        let dir = folder.path().to_path_buf();
        let around = Surroundings {
            net: &net,
            dir: &dir,
            epp: &common.epp,
        };
        let addresses = net.engines(common.endpoints);
        let kube_api = net.at(9443);
        around.prepare(&addresses, kube_api)?;
        let kube_api = kubeapi::serve(kube_api, &addresses).await?;
        let engines = Process::start(&engines(&net, common.endpoints)?, &dir)?;
        for address in &addresses {
            net::listening(*address, START)
                .await
                .with_context(|| engines.tail())?;
        }
        let mut epps = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            let epp = Epp::start(kind, index, &around)?;
            net::listening(epp.grpc, START)
                .await
                .with_context(|| epp.process.tail())?;
            epps.push(epp);
        }
        for (index, listener) in listeners.iter_mut().enumerate() {
            listener.address = net.at(FIRST_LISTENER + index as u16);
        }
        let mut clusters = envoy::engine_clusters(&addresses, &patches.engine_cluster);
        clusters.extend(epps.iter().map(|epp| {
            let mut cluster = envoy::epp_cluster(&epp.name, epp.grpc);
            envoy::merge(&mut cluster, &patches.epp_cluster);
            cluster
        }));
        let config = envoy::bootstrap(&listeners, &clusters);
        let stage = Self {
            epps,
            envoy: envoy::start(&config, "envoy", &dir)?,
            listeners,
            net,
            _engines: engines,
            _kube_api: kube_api,
            folder,
        };
        stage.wait().await.with_context(|| stage.logs())?;
        Ok(stage)
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    async fn wait(&self) -> Result<()> {
        let client = Client::http1();
        for listener in &self.listeners {
            let started = Instant::now();
            net::listening(listener.address, START).await?;
            loop {
                let answer = client.probe(listener.address).await;
                match answer {
                    Ok(200) => break,
                    answer if started.elapsed() > START => {
                        bail!("listener {}: {answer:?}", listener.name)
                    }
                    _ => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
        Ok(())
    }

    /// The ends of the logs.
    pub fn logs(&self) -> String {
        let mut logs = vec![self.envoy.tail()];
        logs.extend(self.epps.iter().map(|epp| epp.process.tail()));
        logs.join("\n")
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Gone(dir) => dir.path(),
        }
    }
}

fn engines(net: &Net, count: usize) -> Result<Spec> {
    Ok(Spec {
        name: "engines".to_owned(),
        program: std::env::current_exe().context("find this program")?,
        args: [
            "engines",
            "--block",
            &net.block().to_string(),
            "--count",
            &count.to_string(),
        ]
        .map(str::to_owned)
        .to_vec(),
        env: Vec::new(),
    })
}
