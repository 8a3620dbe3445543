//! The few things the rig asks of the kernel's network: a bridge, a local route, veth pairs,
//! addresses. IO; acts on the network namespace of the calling process.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

const BRIDGE: &str = "rig0";
/// Fixed: a bridge without one takes the lowest of its members', and every pod that knew the
/// old one is cut off until its neighbour entry expires.
const BRIDGE_MAC: [u8; 6] = [0x02, 0, 0x0a, 0xf4, 0, 0x01];
/// The kernel's table of addresses that are this machine's own.
const TABLE_LOCAL: u32 = 255;

fn open() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open netlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let link = handle
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await
        .with_context(|| format!("find interface {name}"))?;
    Ok(link
        .with_context(|| format!("no interface {name}"))?
        .header
        .index)
}

async fn up(handle: &Handle, index: u32) -> Result<()> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .context("set an interface up")
}

/// The cluster's side: loopback up, every address of `services` local, a bridge for pods.
///
/// # Errors
/// When the kernel refuses.
pub async fn cluster(services: (Ipv4Addr, u8), bridge: (Ipv4Addr, u8)) -> Result<()> {
    let handle = open()?;
    let lo = index(&handle, "lo").await?;
    up(&handle, lo).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(services.0, services.1)
        .output_interface(lo)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .table_id(TABLE_LOCAL)
        .build();
    handle
        .route()
        .add(route)
        .execute()
        .await
        .context("route ClusterIPs to loopback")?;
    handle
        .link()
        .add(
            LinkBridge::new(BRIDGE)
                .address(BRIDGE_MAC.to_vec())
                .up()
                .build(),
        )
        .execute()
        .await
        .context("add the bridge")?;
    let bridge_index = index(&handle, BRIDGE).await?;
    handle
        .address()
        .add(bridge_index, bridge.0.into(), bridge.1)
        .execute()
        .await
        .context("address the bridge")?;
    up(&handle, bridge_index).await
}

/// Joins the bridge and the namespace of process `pid` with a veth pair; its end there is `eth0`.
///
/// # Errors
/// When the kernel refuses.
pub async fn join(name: &str, pid: u32) -> Result<()> {
    let handle = open()?;
    let peer = format!("{name}p");
    handle
        .link()
        .add(LinkVeth::new(name, &peer).build())
        .execute()
        .await
        .context("add a veth pair")?;
    let inside = index(&handle, &peer).await?;
    handle
        .link()
        .set(
            LinkUnspec::new_with_index(inside)
                .name("eth0".to_owned())
                .setns_by_pid(pid)
                .build(),
        )
        .execute()
        .await
        .context("move a veth end into the pod")?;
    let bridge = index(&handle, BRIDGE).await?;
    let outside = index(&handle, name).await?;
    handle
        .link()
        .set(
            LinkUnspec::new_with_index(outside)
                .controller(bridge)
                .up()
                .build(),
        )
        .execute()
        .await
        .context("put a veth end on the bridge")
}

/// The pod's side: loopback and `eth0` up, its address, the way to everything else.
///
/// # Errors
/// When the kernel refuses.
pub async fn pod(ip: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
    let handle = open()?;
    let lo = index(&handle, "lo").await?;
    up(&handle, lo).await?;
    let eth = index(&handle, "eth0").await?;
    handle
        .address()
        .add(eth, ip.into(), 16)
        .execute()
        .await
        .context("address eth0")?;
    up(&handle, eth).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .build();
    handle
        .route()
        .add(route)
        .execute()
        .await
        .context("default route")
}
