//! Where the rig keeps things: a cache that outlives runs (programs built or
//! fetched, by version) and one directory per run (logs, state, sockets). IO: makes directories.

use std::io;
use std::path::{Path, PathBuf};

/// Directories of one run.
#[derive(Clone, Debug)]
pub struct Paths {
    run: PathBuf,
}

impl Paths {
    /// Uses `run` as this run's directory and creates its folders.
    ///
    /// # Errors
    /// When a folder cannot be created.
    pub fn create(run: &Path) -> io::Result<Self> {
        let paths = Self {
            run: run.to_path_buf(),
        };
        for dir in [paths.logs(), paths.state(), paths.sockets(), paths.pods()] {
            std::fs::create_dir_all(dir)?;
        }
        Ok(paths)
    }

    /// The run's own directory.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// One file per process: `logs/<name>.log`, containers as `logs/pods/<namespace>_<pod>_<container>.log`.
    pub fn logs(&self) -> PathBuf {
        self.run.join("logs")
    }

    /// etcd's data, certificates, kubeconfigs, generated Envoy files.
    pub fn state(&self) -> PathBuf {
        self.run.join("state")
    }

    /// Unix sockets of the portal: paths work across network namespaces.
    pub fn sockets(&self) -> PathBuf {
        self.run.join("s")
    }

    /// One folder per pod: volumes, `<container>.pid`.
    pub fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// The kubeconfig of the cluster's administrator, valid inside the rig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.state().join("admin.kubeconfig")
    }
}

/// Programs built or fetched once per version: `$XDG_CACHE_HOME/llm-d-rig` or `~/.cache/llm-d-rig`.
///
/// # Errors
/// When neither variable is set or the folder cannot be created.
pub fn cache_dir() -> io::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?;
    let dir = base.join("llm-d-rig");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
