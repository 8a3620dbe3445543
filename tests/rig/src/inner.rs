//! The cluster itself: enters its namespaces, starts every part in order, says where each
//! can be reached (one line of JSON), and lives until its standard input ends. IO.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

use crate::net::{Mode, Net};
use crate::paths::Paths;
use crate::world::World;
use crate::{controlplane, crds, dns, exec, gateway, node, portal, services, tools};

/// The gateway's first listener in a network of the cluster's own.
const GATEWAY_PORT: u16 = 80;
/// Exit code that says: this machine forbids user namespaces.
pub const NO_NAMESPACES: u8 = 77;

/// Flags of `inner`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// This run's directory.
    #[arg(long)]
    pub dir: PathBuf,
    /// How the network is made.
    #[arg(long)]
    pub mode: Mode,
}

/// Where the parts listen, as seen inside the cluster's network. The gateway and Envoy's
/// administration page are Unix sockets of the run's directory, as all of them are for others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// The API server.
    pub api: SocketAddr,
}

/// Runs the cluster.
///
/// # Errors
/// When a part does not start; with the end of its log.
pub fn run(args: &Args) -> Result<()> {
    if args.mode == Mode::Namespace
        && let Err(error) = exec::enter_cluster_namespace()
    {
        eprintln!("rig: {error:#}");
        // Not a failure: the caller goes on without namespaces.
        std::process::exit(i32::from(NO_NAMESPACES));
    }
    exec::die_with_parent()?;
    let paths = Paths::create(&args.dir)?;
    init_log(&paths)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(serve(args, &paths))
}

fn init_log(paths: &Paths) -> Result<()> {
    let file = std::fs::File::create(paths.logs().join("rig.log"))?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("RIG_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(file)
        .init();
    Ok(())
}

async fn serve(args: &Args, paths: &Paths) -> Result<()> {
    let stop = CancellationToken::new();
    let tools = tools::ensure_all()?;
    let net = Net::open(args.mode).await.context("set up the network")?;
    let control = controlplane::start(&tools, &net, paths, &stop).await?;
    crds::apply(&control.client, &tools.crds).await?;
    let world = World::watch(&control.client, args.mode);
    tokio::spawn(services::run(world.clone(), control.api));
    if args.mode == Mode::Namespace {
        let socket = dns::listen(net.dns_ip()).await?;
        tokio::spawn(dns::run(world.clone(), socket));
    }
    node::start(node::Node {
        client: control.client.clone(),
        net: net.clone(),
        paths: paths.clone(),
        tools: tools.clone(),
        api: control.api,
        ca_pem: control.ca_pem.clone(),
        world: world.clone(),
    })
    .await?;
    let gateway_socket = paths.sockets().join(portal::GATEWAY);
    let listen = match args.mode {
        Mode::Namespace => gateway::Listen::Address(SocketAddr::new(net.node_ip(), GATEWAY_PORT)),
        Mode::Loopback => gateway::Listen::Socket(gateway_socket.clone()),
    };
    gateway::start(gateway::Gateway {
        client: control.client.clone(),
        world,
        envoy: tools.envoy.clone(),
        paths: paths.clone(),
        listen,
        admin: paths.sockets().join(portal::ENVOY),
        stop: stop.clone(),
    })
    .await?;
    let ready = Ready { api: control.api };
    if args.mode == Mode::Namespace {
        portal::inside(&paths.sockets().join(portal::API), ready.api)?;
        portal::inside(
            &gateway_socket,
            SocketAddr::new(net.node_ip(), GATEWAY_PORT),
        )?;
    }
    println!("{}", serde_json::to_string(&ready)?);
    // The pipe closes when whoever started the cluster is gone.
    let mut input = tokio::io::stdin();
    let mut nothing = [0; 64];
    while input.read(&mut nothing).await.unwrap_or(0) > 0 {}
    stop.cancel();
    std::process::exit(0);
}
