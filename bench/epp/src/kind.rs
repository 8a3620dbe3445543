//! The EPPs that are compared: the floor, ours in several settings, anybody else's by command
//! line. IO: starts processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::kubeapi;
use crate::net::Net;
use crate::process::{Process, Spec};

/// One EPP.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its name in tables.
    pub name: String,
    /// What it is.
    pub what: What,
}

/// What an EPP is.
#[derive(Clone, Debug)]
pub enum What {
    /// Decides nothing; `delay_ms` is how long it takes for that.
    Floor {
        /// Milliseconds before each decision.
        delay_ms: u64,
    },
    /// Ours, with these settings on top of its defaults.
    Ours {
        /// Environment.
        env: &'static [(&'static str, &'static str)],
        /// With the tokenizer mounted.
        tokenizer: bool,
    },
    /// A command line for a shell, with `{host}`, `{grpc_port}`, `{health_port}`,
    /// `{metrics_port}`, `{endpoints}`, `{kubeconfig}` and `{tokenizer}` filled in.
    Peer {
        /// The command line.
        command: String,
    },
}

const PREFIX_AND_LOAD: &[(&str, &str)] = &[
    ("ENABLE_PREFIX_AWARE_SCORER", "true"),
    ("ENABLE_LOAD_AWARE_SCORER", "true"),
    ("ENABLE_KVCACHE_AWARE_SCORER", "false"),
    ("ENABLE_SESSION_AWARE_SCORER", "false"),
];
const WITH_KV: &[(&str, &str)] = &[
    ("ENABLE_PREFIX_AWARE_SCORER", "true"),
    ("ENABLE_LOAD_AWARE_SCORER", "true"),
    ("ENABLE_KVCACHE_AWARE_SCORER", "true"),
    ("ENABLE_SESSION_AWARE_SCORER", "false"),
];
const WITH_SESSIONS: &[(&str, &str)] = &[
    ("ENABLE_PREFIX_AWARE_SCORER", "false"),
    ("ENABLE_LOAD_AWARE_SCORER", "true"),
    ("ENABLE_KVCACHE_AWARE_SCORER", "false"),
    ("ENABLE_SESSION_AWARE_SCORER", "true"),
    ("SESSION_AWARE_SCORER_WEIGHT", "10"),
];

impl Kind {
    /// One of the names known here, or `NAME=COMMAND` for a peer.
    ///
    /// # Errors
    /// For another name.
    pub fn parse(text: &str) -> Result<Self> {
        let ours = |env, tokenizer| What::Ours { env, tokenizer };
        let what = match text {
            "floor" => What::Floor { delay_ms: 0 },
            "ours" => ours(PREFIX_AND_LOAD, false),
            "ours-kv" => ours(WITH_KV, true),
            "ours-kv-remote" => ours(WITH_KV, false),
            "ours-sessions" => ours(WITH_SESSIONS, false),
            _ => match text.split_once('=') {
                Some((name, command)) => {
                    let command = command.to_owned();
                    return Ok(Self {
                        name: name.to_owned(),
                        what: What::Peer { command },
                    });
                }
                None => bail!(
                    "{text:?} is none of floor, ours, ours-kv, ours-kv-remote, ours-sessions, \
                     NAME=COMMAND"
                ),
            },
        };
        Ok(Self {
            name: text.to_owned(),
            what,
        })
    }
}

/// What an EPP is started with.
pub struct Surroundings<'a> {
    /// Addresses of the run.
    pub net: &'a Net,
    /// The run's folder, with the files below.
    pub dir: &'a Path,
    /// Our EPP.
    pub epp: &'a Path,
}

impl Surroundings<'_> {
    /// Writes what EPPs read.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn prepare(&self, engines: &[SocketAddr], kube_api: SocketAddr) -> Result<()> {
        let lines: String = engines.iter().map(|engine| format!("{engine}\n")).collect();
        let yaml: String = engines
            .iter()
            .enumerate()
            .map(|(index, engine)| {
                format!("- {{name: vllm-{index:03}, address: \"{engine}\", role: decode}}\n")
            })
            .collect();
        let write = |name: &str, text: String| {
            let path = self.dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write("endpoints.txt", lines)?;
        write("endpoints.yaml", format!("endpoints:\n{yaml}"))?;
        kubeapi::write_kubeconfig(&self.dir.join("kubeconfig"), kube_api)?;
        crate::tokenizer::write(&self.dir.join("tokenizer"))
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// A running EPP.
pub struct Epp {
    /// Its name.
    pub name: String,
    /// Its process.
    pub process: Process,
    /// Where it serves ext_proc.
    pub grpc: SocketAddr,
    spec: Spec,
}

impl Epp {
    /// Starts one; `index` tells its ports from those of others.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(kind: &Kind, index: usize, around: &Surroundings<'_>) -> Result<Self> {
        let first = 9100 + 10 * index as u16;
        let (grpc, health, metrics) = (first + 2, first + 3, first + 4);
        let host = around.net.host().to_string();
        let mut spec = Spec {
            name: format!("epp-{}", kind.name),
            env: vec![
                ("LLM_D_BIND_HOST".to_owned(), host.clone()),
                ("KUBECONFIG".to_owned(), around.file("kubeconfig")),
            ],
            ..Spec::default()
        };
        match &kind.what {
            What::Floor { delay_ms } => {
                spec.program = floor()?;
                spec.args = vec![
                    format!("--listen={host}:{grpc}"),
                    format!("--endpoints={}", around.file("endpoints.txt")),
                    format!("--delay-ms={delay_ms}"),
                ];
            }
            What::Ours { env, tokenizer } => {
                spec.program = around.epp.to_path_buf();
                spec.args = vec![
                    format!("--grpc-port={grpc}"),
                    format!("--grpc-health-port={health}"),
                    format!("--metrics-port={metrics}"),
                ];
                spec.args.extend(endpoint_args(around)?);
                if *tokenizer {
                    spec.args
                        .push(format!("--tokenizer={}", around.file("tokenizer")));
                }
                let env = env.iter().map(|(name, value)| (*name, *value));
                spec.env
                    .extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            What::Peer { command } => {
                let command = command
                    .replace("{host}", &host)
                    .replace("{grpc_port}", &grpc.to_string())
                    .replace("{health_port}", &health.to_string())
                    .replace("{metrics_port}", &metrics.to_string())
                    .replace("{endpoints}", &around.file("endpoints.yaml"))
                    .replace("{kubeconfig}", &around.file("kubeconfig"))
                    .replace("{tokenizer}", &around.file("tokenizer"));
                spec.program = PathBuf::from("/bin/sh");
                spec.args = vec!["-c".to_owned(), format!("exec {command}")];
            }
        }
        Ok(Self {
            name: kind.name.clone(),
            process: Process::start(&spec, around.dir)?,
            grpc: around.net.at(grpc),
            spec,
        })
    }

    /// Starts it anew, on the same ports.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, dir: &Path) -> Result<()> {
        self.process.end();
        self.process = Process::start(&self.spec, dir)?;
        Ok(())
    }
}

/// Endpoints from a file where this build of ours can, else from the Kubernetes API.
fn endpoint_args(around: &Surroundings<'_>) -> Result<Vec<String>> {
    let help = Command::new(around.epp)
        .arg("--help")
        .output()
        .with_context(|| format!("run {} --help", around.epp.display()))?;
    Ok(
        if String::from_utf8_lossy(&help.stdout).contains("--endpoints-file") {
            vec![format!(
                "--endpoints-file={}",
                around.file("endpoints.yaml")
            )]
        } else {
            vec![
                format!("--endpoint-selector={}", kubeapi::SELECTOR),
                "--pool-namespace=default".to_owned(),
            ]
        },
    )
}

/// The floor is built beside this program.
fn floor() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .context("find this program")?
        .with_file_name("ext-proc-floor");
    anyhow::ensure!(path.exists(), "{} is missing", path.display());
    Ok(path)
}
