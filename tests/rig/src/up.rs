//! Starts a cluster and gives ways into it: a kubeconfig, the gateway's URL, logs. IO.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::inner::{self, Ready};
use crate::net::Mode;
use crate::paths::Paths;
use crate::{portal, process, tools};

/// How long the cluster's programs may take to die.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Flags of `up`.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "cluster")]
pub struct Args {
    /// The network; by default namespaces where they are allowed, loopback otherwise.
    #[arg(long, env = "RIG_NET")]
    pub net: Option<Mode>,
}

/// A running cluster; it ends when this is dropped.
pub struct Running {
    /// How its network was made.
    pub mode: Mode,
    /// Its directory.
    pub paths: Paths,
    /// For `kubectl` and clients on this machine, outside the cluster.
    pub kubeconfig: PathBuf,
    /// The gateway's first listener, from outside.
    pub gateway: SocketAddr,
    /// Envoy's administration page, from outside.
    pub envoy_admin: SocketAddr,
    /// Programs fetched or built.
    pub tools: tools::Tools,
    child: Child,
    temporary: Option<tempfile::TempDir>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        if let Some(temporary) = self.temporary.take() {
            end(temporary);
        }
    }
}

/// `rig up`.
///
/// # Errors
/// When the cluster does not start.
pub fn run(args: &Args) -> Result<()> {
    runtime()?.block_on(async {
        let running = start(args).await?;
        println!("{}", running.describe());
        wait_for_end().await
    })
}

/// The runtime of the outer commands.
///
/// # Errors
/// When it cannot be made.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

/// Resolves on Ctrl-C or SIGTERM.
///
/// # Errors
/// When signals cannot be watched.
pub async fn wait_for_end() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Starts a cluster in a new temporary directory.
///
/// # Errors
/// When a part does not start.
pub async fn start(args: &Args) -> Result<Running> {
    let tools = tokio::task::spawn_blocking(tools::ensure_all)
        .await
        .context("fetch the programs")??;
    let temporary = tempfile::Builder::new()
        .prefix("rig-")
        .tempdir()
        .context("make a directory")?;
    match start_in(temporary.path(), args, tools).await {
        Ok(mut running) => {
            running.temporary = Some(temporary);
            Ok(running)
        }
        Err(error) => {
            end(temporary);
            Err(error)
        }
    }
}

/// Removes the run's directory, or says where it is kept.
fn end(temporary: tempfile::TempDir) {
    let folder = temporary.keep();
    if std::env::var_os("RIG_KEEP").is_some() {
        eprintln!("rig: logs and state are kept in {}", folder.display());
        return;
    }
    // Programs die a moment after the rig, and until then may still write.
    let began = Instant::now();
    while let Err(error) = std::fs::remove_dir_all(&folder) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        if began.elapsed() > END_LIMIT {
            eprintln!("rig: cannot remove {}: {error}", folder.display());
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn start_in(folder: &Path, args: &Args, tools: tools::Tools) -> Result<Running> {
    let paths = Paths::create(folder)?;
    let mut mode = args.net.unwrap_or(Mode::Namespace);
    let mut launched = launch(mode, args, &paths).await?;
    if launched.is_none() && args.net.is_none() {
        eprintln!(
            "rig: user namespaces are forbidden here; pods share the host's loopback addresses instead"
        );
        mode = Mode::Loopback;
        launched = launch(mode, args, &paths).await?;
    }
    let Some((child, ready)) = launched else {
        bail!("user namespaces are forbidden here: run with RIG_NET=loopback");
    };
    let socket = |name: &str| portal::outside(paths.sockets().join(name));
    let api = match mode {
        Mode::Loopback => ready.api,
        Mode::Namespace => socket(portal::API).await?,
    };
    let (gateway, envoy_admin) = (socket(portal::GATEWAY).await?, socket(portal::ENVOY).await?);
    let kubeconfig = outside_kubeconfig(&paths, api)?;
    Ok(Running {
        mode,
        paths,
        kubeconfig,
        gateway,
        envoy_admin,
        tools,
        child,
        temporary: None,
    })
}

/// Starts the cluster's process; `None` when this machine forbids user namespaces.
async fn launch(mode: Mode, args: &Args, paths: &Paths) -> Result<Option<(Child, Ready)>> {
    use clap::ValueEnum as _;
    let value = |possible: Option<clap::builder::PossibleValue>| {
        possible
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    };
    let mut child = Command::new(process::rig_program()?)
        .arg("inner")
        .arg("--dir")
        .arg(paths.run())
        .args(["--mode", &value(mode.to_possible_value())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(if mode == Mode::Namespace && args.net.is_none() {
            quiet(paths)?
        } else {
            Stdio::inherit()
        })
        .kill_on_drop(true)
        .spawn()
        .context("start the cluster's process")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    if let Some(line) = lines.next_line().await? {
        return Ok(Some((
            child,
            serde_json::from_str(&line).context("read where the cluster listens")?,
        )));
    }
    let status = child.wait().await?;
    if status.code() == Some(i32::from(inner::NO_NAMESPACES)) {
        return Ok(None);
    }
    let told = std::fs::read_to_string(paths.logs().join("inner.log")).unwrap_or_default();
    bail!(
        "the cluster did not start: {status}\n{}\nlogs: {}",
        told.trim_end(),
        paths.logs().display()
    )
}

/// While trying namespaces: what the cluster says goes to a file, and into the error if it fails.
fn quiet(paths: &Paths) -> Result<Stdio> {
    Ok(std::fs::File::create(paths.logs().join("inner.log"))?.into())
}

/// The administrator's kubeconfig with the address that works from outside.
fn outside_kubeconfig(paths: &Paths, api: SocketAddr) -> Result<PathBuf> {
    let text = std::fs::read_to_string(paths.admin_kubeconfig())?;
    let mut config: Value = serde_json::from_str(&text)?;
    let server = config
        .pointer_mut("/clusters/0/cluster/server")
        .context("kubeconfig without a server")?;
    *server = format!("https://{api}").into();
    let path = paths.run().join("kubeconfig");
    std::fs::write(&path, serde_json::to_string_pretty(&config)?)?;
    Ok(path)
}

impl Running {
    /// What a person needs to look around.
    pub fn describe(&self) -> String {
        format!(
            "  gateway   http://{}\n  kubectl   {} --kubeconfig {}\n  logs      {}",
            self.gateway,
            self.tools.kubectl.display(),
            self.kubeconfig.display(),
            self.paths.logs().display(),
        )
    }

    /// A client for the cluster's API server.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig).await
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Errors
    /// With what it said on failure.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.tool(&self.tools.kubectl, args).await
    }

    /// Runs helm and returns what it printed.
    ///
    /// # Errors
    /// With what it said on failure.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        self.tool(&self.tools.helm, args).await
    }

    async fn tool(&self, program: &Path, args: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.paths.run())
            .output()
            .await
            .with_context(|| format!("start {}", program.display()))?;
        ensure!(
            output.status.success(),
            "{} {}: {}",
            program.file_name().unwrap_or_default().to_string_lossy(),
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
            .await?;
    Ok(kube::Client::try_from(config)?)
}
