//! Arguments and settings -> everything a decision may know, with the tasks that keep it
//! right. IO: reads tokenizer files, starts tasks.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use prometheus_client::registry::Registry;

use super::cli::Args;
use super::datastore::Datastore;
use super::follow::{self, EventPorts, Followers};
use super::knowledge::Knowledge;
use super::scrape::{self, Scrapes};
use super::sessions::{self, Sessions, share};
use crate::contract;
use crate::kv::metrics::TokenizerFiles;
use crate::kv::tokenize::{self, Tokenizers, local::Tokenizer};
use crate::kv::{index, metrics, subscribe};
use crate::scheduling::config::SchedulingConfig;
use crate::telemetry::shutdown::Shutdown;

/// Starts it all. `pool` names what replicas have in common.
///
/// # Errors
/// When the address of Redis is none.
pub(super) fn start(
    args: &Args,
    config: &SchedulingConfig,
    pool: &str,
    datastore: &Datastore,
    registry: &mut Registry,
    shutdown: &Shutdown,
) -> anyhow::Result<Knowledge> {
    if config.index_update_interval.is_some() {
        tracing::warn!(
            variable = "KVCACHE_INDEX_UPDATE_INTERVAL",
            "does nothing: the KV index is not kept outside this process yet"
        );
    }
    let kv_metrics = metrics::Metrics::register(registry);
    let (writer, reader) = index::new(index::Limits::default());
    let model = args.model.clone().filter(|model| !model.is_empty());
    let subscribe_settings = subscribe::Settings {
        model: model.clone(),
        ..subscribe::Settings::default()
    };
    let (subscriptions, states, hints) = subscribe::start(
        subscribe_settings,
        writer,
        Arc::new(subscribe::recover::Never),
        kv_metrics.clone(),
        shutdown,
    );
    let scrapes = Scrapes::new(
        scrape::Limits::default().every(args.refresh_metrics_interval),
        scrape::Metrics::register(registry),
        shutdown.clone(),
    );
    let sessions = sessions(config, pool, registry, shutdown)?;
    let ports = config.pipeline.uses_kv_events().then_some(EventPorts {
        events: args.kv_events_port,
        replay: args.kv_replay_port,
    });
    let followers = Followers {
        subscriptions,
        ports,
        scrapes: scrapes.clone(),
        sessions: sessions.clone(),
    };
    shutdown.spawn(
        "followers of endpoints",
        follow::run(datastore.clone(), followers, shutdown.clone()),
    );
    Ok(Knowledge {
        index: reader,
        states,
        hints,
        tokenizers: tokenizers(args, config, kv_metrics),
        scrapes,
        sessions,
        base_model: model,
        wants_labels: config.pipeline.uses_labels(),
        wants_prefixes: config.pipeline.uses_prefixes(),
        wants_chars: config.pipeline.may_disaggregate() || args.enable_debug_endpoints,
        told: AtomicUsize::new(0),
    })
}

/// Tokens are wanted only to be compared with KV events.
fn tokenizers(
    args: &Args,
    config: &SchedulingConfig,
    metrics: metrics::Metrics,
) -> Option<Tokenizers> {
    if !config.pipeline.uses_kv_events() {
        return None;
    }
    let (local, files) = local_tokenizer(args);
    metrics.tokenizer(files);
    let now = (Instant::now(), SystemTime::now());
    let settings = tokenize::Settings::default();
    Some(Tokenizers::new(local, settings, metrics, now))
}

/// The tokenizer of `--tokenizer`. Files that cannot be used are an error in the log and in a
/// metric, not the end: requests are worth more than exact tokens.
fn local_tokenizer(args: &Args) -> (Option<Tokenizer>, TokenizerFiles) {
    let Some(folder) = &args.tokenizer else {
        tracing::warn!(
            "no --tokenizer: each prompt costs a request to an engine's /tokenize; where that \
             fails, what was sent before stands in for what engines hold"
        );
        return (None, TokenizerFiles::None);
    };
    match Tokenizer::load(folder) {
        Ok(tokenizer) => {
            tracing::info!(folder = %folder.display(), "prompts are tokenized in this process");
            (Some(tokenizer), TokenizerFiles::Loaded)
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(
                error,
                "--tokenizer cannot be used; engines are asked for tokens"
            );
            (None, TokenizerFiles::Broken)
        }
    }
}

fn sessions(
    config: &SchedulingConfig,
    pool: &str,
    registry: &mut Registry,
    shutdown: &Shutdown,
) -> anyhow::Result<Sessions> {
    let affinity = config.pipeline.session_affinity();
    let mut limits = sessions::Limits::default();
    if let Some(affinity) = affinity {
        limits.sticky = affinity.sticky;
    }
    let metrics = sessions::Metrics::register(registry);
    let address = config.redis_addr.as_ref().filter(|_| affinity.is_some());
    let sessions = match address {
        None => Sessions::new(limits, metrics),
        Some(address) => {
            let password = std::env::var(contract::ENV_REDIS_PASSWORD).ok();
            let server =
                share::server(address, password.as_deref()).context(contract::ENV_REDIS_ADDR)?;
            let (namespace, name) = pool.split_once('/').unwrap_or(("", pool));
            let sharing = share::Config {
                server,
                key: share::stream_key(namespace, name),
                origin: origin(),
                max_entries: limits.max_bindings,
            };
            let (sessions, changes) = Sessions::shared(limits, metrics);
            shutdown.spawn(
                "sharing of sessions",
                share::run(sharing, sessions.clone(), changes, shutdown.clone()),
            );
            sessions
        }
    };
    shutdown.spawn(
        "upkeep of sessions",
        sessions.clone().maintain(shutdown.clone()),
    );
    Ok(sessions)
}

/// This run of this replica: another one after a restart.
fn origin() -> String {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{}-{}-{:x}",
        std::env::var("POD_NAME").unwrap_or_default(),
        std::process::id(),
        since.as_micros()
    )
}
