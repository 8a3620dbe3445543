//! One child process: started with a log of its own, measured from outside, ended with its
//! owner. IO.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Also the log's name.
    pub name: String,
    /// Executable.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment on top of this process's own.
    pub env: Vec<(String, String)>,
}

/// A running child; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, with its output in `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(spec: &Spec, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{}.log", spec.name));
        let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = Command::new(&spec.program)
            .args(&spec.args)
            .envs(spec.env.iter().cloned())
            // Its end tells children that watch it that this process is gone.
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", spec.program.display()))?;
        let name = spec.name.clone();
        Ok(Self { name, child, log })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// CPU milliseconds of all its threads since the start, ended ones too.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_ms(&self) -> Result<f64> {
        let clock = clock_getcpuclockid(self.pid())
            .and_then(nix::time::ClockId::now)
            .with_context(|| format!("read the CPU clock of {}", self.name))?;
        Ok(clock.tv_sec() as f64 * 1e3 + clock.tv_nsec() as f64 / 1e6)
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in MiB.
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss_mib(&self) -> Result<f64> {
        rss_mib(self.id()).with_context(|| self.name.clone())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Kills it and waits for its end.
    pub fn end(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(15);
        format!("--- {}:\n{}", self.log.display(), lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// When it is gone.
pub fn rss_mib(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .with_context(|| format!("{path} has no VmRSS: the process has ended"))?;
    Ok(kib / 1024.0)
}
