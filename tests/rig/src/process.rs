//! A program, its arguments, environment, network namespace and mounts -> a child
//! process that dies with the rig. IO.
//!
//! Every child starts as `rig exec …`, which sets the parent-death signal, enters
//! the namespaces, makes the mounts and then becomes the program. So nothing here
//! needs code between fork and exec.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// Enter this network namespace first.
    pub netns: Option<PathBuf>,
    /// Bind mounts `(source, target)`, made in a mount namespace of the process's own.
    /// Targets need not exist. Namespace mode only.
    pub mounts: Vec<Mount>,
    /// The process's id is written here.
    pub pid_file: Option<PathBuf>,
}

/// One bind mount.
#[derive(Clone, Debug)]
pub struct Mount {
    /// A file or folder that exists.
    pub source: PathBuf,
    /// An absolute path as the program shall see it.
    pub target: PathBuf,
    /// Mount read-only.
    pub read_only: bool,
}

/// Starts the program. The child is killed when the returned handle is dropped, and
/// when the rig dies.
///
/// Must be called on a long-lived thread (a runtime worker, not `spawn_blocking`):
/// the parent-death signal follows the thread that forked.
///
/// # Errors
/// When the log cannot be opened or the process cannot be started.
pub fn spawn(spec: &Spec) -> Result<Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("open log {}", spec.log.display()))?;
    let mut command = Command::new(rig_program()?);
    command
        .arg("exec")
        .args(["--parent", &std::process::id().to_string()]);
    if let Some(netns) = &spec.netns {
        command.arg("--netns").arg(netns);
    }
    for mount in &spec.mounts {
        let mode = if mount.read_only { "ro" } else { "rw" };
        command.arg("--mount").arg(format!(
            "{mode}:{}:{}",
            mount.source.display(),
            mount.target.display()
        ));
    }
    command.arg("--").arg(&spec.program).args(&spec.args);
    let child = command
        .env_clear()
        .envs(spec.env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log file")?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", spec.program.display()))?;
    if let (Some(file), Some(pid)) = (&spec.pid_file, child.id()) {
        // Whole at once: readers look at any time.
        let new = file.with_extension("pid.new");
        std::fs::write(&new, pid.to_string())
            .and_then(|()| std::fs::rename(&new, file))
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(child)
}

/// Takes the process's id away once it has ended: the kernel may give it to another.
pub(crate) fn forget(spec: &Spec) {
    if let Some(file) = &spec.pid_file {
        let _ = std::fs::remove_file(file);
    }
}

/// The `rig` executable: this process when it is the rig itself, else (in tests) the
/// one cargo built beside the test binary, or `$RIG_BIN`.
pub(crate) fn rig_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("RIG_BIN") {
        return Ok(PathBuf::from(path));
    }
    let this = std::env::current_exe().context("path of this program")?;
    if this.file_stem().is_some_and(|stem| stem == "rig") {
        return Ok(this);
    }
    let beside = this
        .parent()
        .and_then(|deps| deps.parent())
        .map(|dir| dir.join("rig"));
    beside
        .filter(|path| path.exists())
        .context("the rig program is not built: run `cargo build -p rig` or set RIG_BIN")
}
