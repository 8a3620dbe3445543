//! vLLM's command line -> a running simulator. IO.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::cli::Config;
use super::engine::{Engine, Hashing, Settings, Timing};
use super::events::{self, Addresses, Wire};
use super::metrics::{About, Metrics};
use super::server::{self, Sim};
use super::tokens::Tokens;
use super::transfer::{self, Client, SideChannel};
use super::{help, task};
use crate::kv::blocks::engine::none_hash;
use crate::telemetry::logging::{self, LogArgs, LogFormat};
use crate::telemetry::shutdown::Shutdown;

/// Tokens in a step where nothing says how many.
const DEFAULT_BATCH: usize = 8192;

/// Parses the process's arguments and runs until SIGTERM.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{}", help::TEXT);
        return ExitCode::SUCCESS;
    }
    let mut config = match Config::parse(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("inference-sim: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = config.apply_environment(|name| std::env::var(name).ok()) {
        eprintln!("inference-sim: {error}");
        return ExitCode::from(2);
    }
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inference-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    let log_level = std::env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_owned());
    logging::init(&LogArgs {
        log_format: LogFormat::Json,
        log_level,
    })?;
    if !config.ignored.is_empty() {
        tracing::warn!(
            flags = config.ignored.join(" "),
            "flags without a meaning for a simulator"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.on_signals().context("install signal handlers")?;
        if !config.startup_duration.is_zero() {
            tracing::info!("loading the model");
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(config.startup_duration) => {}
            }
        }
        let host = config.environment.bind_host;
        let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let address = SocketAddr::new(host.unwrap_or(any), config.port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        tracing::info!(%address, model = config.model, served = ?config.served_names, "serving");
        Running::start(config, listener, shutdown)
            .await?
            .finished()
            .await
    })
}

/// A simulator that serves.
#[derive(Debug)]
pub struct Running {
    /// Where KV events are published.
    pub events: Addresses,
    /// Where other engines fetch KV cache; `None` without a connector.
    pub side_channel: Option<SocketAddr>,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
    inner: Shutdown,
}

impl Running {
    /// Opens every other socket and serves on the listener until shutdown.
    ///
    /// # Errors
    /// When the tokenizer's files cannot be used or a socket cannot be opened.
    pub async fn start(
        config: Config,
        listener: TcpListener,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        // Ends after the server: requests in flight are answered to the end.
        let inner = Shutdown::new();
        let tokens = load_tokens(&config)?;
        let environment = &config.environment;
        let (publisher, addresses) = match &config.kv_events {
            Some(events) if config.prefix_caching => {
                let wire = Wire {
                    form: environment.event_form,
                    hashes: environment.hash_form,
                    block_size: config.block_size as u32,
                };
                let host = environment.bind_host;
                let (publisher, addresses) = events::start(events, wire, host, &inner).await?;
                tracing::info!(address = addresses.events, replay = ?addresses.replay, "publishing KV events");
                (Some(publisher), addresses)
            }
            _ => (None, Addresses::default()),
        };
        let metrics = Arc::new(Mutex::new(Metrics::new(about(&config))));
        let client = Client::default();
        let handle = task::start(
            Engine::new(settings(&config)),
            metrics.clone(),
            publisher.clone(),
            client.clone(),
            &inner,
        );
        let mut side_channel = None;
        let mut bound = None;
        if let Some(transfer) = config.kv_transfer.as_ref().filter(|transfer| transfer.nixl) {
            let (host, port) = (
                environment.side_channel_host.clone(),
                environment.side_channel_port,
            );
            let engine = transfer
                .engine_id
                .clone()
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            let listener = transfer::listen(environment.bind_host, &host, port).await?;
            let address = listener.local_addr().context("the KV side channel")?;
            bound = Some(address);
            side_channel = Some(SideChannel {
                engine: engine.clone(),
                host,
                port: address.port(),
            });
            transfer::serve(listener, engine, handle.clone(), &inner);
        } else if config.kv_transfer.is_some() {
            tracing::warn!("only NIXL is played among the KV connectors; no KV cache is passed");
        }
        let sim = Arc::new(Sim {
            hashing: Hashing {
                root: none_hash(config.environment.hash_seed.as_deref()),
                block_size: config.block_size,
                enabled: config.prefix_caching,
            },
            connector: side_channel.is_some(),
            tokens,
            handle,
            publisher,
            client,
            side_channel,
            metrics,
            faults: Mutex::default(),
            sleeping: AtomicBool::new(false),
            shutdown: shutdown.clone(),
            config,
        });
        let failed = inner.clone();
        let server = tokio::spawn(async move {
            axum::serve(listener, server::router(sim))
                .with_graceful_shutdown(async move {
                    tokio::select! {
                        () = shutdown.requested() => {}
                        () = failed.requested() => {}
                    }
                })
                .await
                .context("serve")
        });
        Ok(Self {
            events: addresses,
            side_channel: bound,
            server,
            inner,
        })
    }

    /// Waits until the shutdown is done.
    ///
    /// # Errors
    /// When the server failed.
    pub async fn finished(self) -> anyhow::Result<()> {
        let served = self.server.await;
        self.inner.begin();
        let finished = self.inner.finished().await;
        served.context("the server's task")?.and(finished)
    }
}

fn load_tokens(config: &Config) -> anyhow::Result<Tokens> {
    let folder = config.tokenizer.as_ref().unwrap_or(&config.model);
    let tokens = Tokens::load(Path::new(folder)).context("load the tokenizer")?;
    if tokens.is_local() {
        tracing::info!(folder, "tokenizer loaded");
    } else {
        tracing::info!("no tokenizer files: the built-in tokenizer is used");
    }
    Ok(tokens)
}

fn settings(config: &Config) -> Settings {
    // Without chunks a whole prompt must fit into a step.
    let least = if config.chunked_prefill {
        1
    } else {
        config.max_model_len
    };
    let batch = config.max_num_batched_tokens.unwrap_or(DEFAULT_BATCH);
    let transfer = config.kv_transfer.as_ref();
    Settings {
        block_size: config.block_size,
        num_blocks: config.num_gpu_blocks,
        prefix_caching: config.prefix_caching,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: batch.max(least),
        chunked_prefill: config.chunked_prefill,
        max_waiting: config.max_waiting,
        max_model_len: config.max_model_len,
        connector: transfer.is_some_and(|transfer| transfer.nixl),
        recompute_on_failure: transfer.is_none_or(|transfer| transfer.recompute_on_failure),
        hold_timeout: Duration::from_secs(config.environment.hold_seconds),
        timing: Timing {
            time_to_first_token: config.time_to_first_token,
            prefill_overhead: config.prefill_overhead,
            prefill_per_token: config.prefill_time_per_token,
            inter_token: config.inter_token_latency,
            transfer_per_token: config.kv_cache_transfer_time_per_token,
            factor_under_load: config.time_factor_under_load,
        },
    }
}

fn about(config: &Config) -> About {
    About {
        model: config.served_names.first().cloned().unwrap_or_default(),
        block_size: config.block_size,
        num_blocks: config.num_gpu_blocks,
        prefix_caching: config.prefix_caching,
        max_model_len: config.max_model_len,
        max_loras: if config.loras.is_empty() {
            0
        } else {
            config.max_loras
        },
        old_names: config.environment.old_metric_names,
    }
}
