//! DNS queries -> answers for `<service>.<namespace>.svc.cluster.local` from the Services
//! in the cluster. IO around one pure lookup. Namespace mode only: loopback mode writes
//! addresses into the programs' settings instead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use kube::ResourceExt as _;
use tokio::net::UdpSocket;

use crate::world::World;

/// The cluster's domain.
const DOMAIN: &str = "svc.cluster.local";
const TTL_SECONDS: u32 = 5;

/// Binds UDP port 53 of `ip`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(ip: IpAddr) -> Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(ip, 53))
        .await
        .with_context(|| format!("bind the DNS port of {ip}"))
}

/// Answers for as long as the rig runs.
pub async fn run(world: World, socket: UdpSocket) {
    let mut buffer = [0; 512];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Ok(query) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        if let Ok(bytes) = answer(&world, &query).to_vec() {
            let _ = socket.send_to(&bytes, client).await;
        }
    }
}

fn answer(world: &World, query: &Message) -> Message {
    let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    response.metadata.authoritative = true;
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    let Some(question) = query.queries.first() else {
        response.metadata.response_code = ResponseCode::FormErr;
        return response;
    };
    response.add_query(question.clone());
    let name = question.name().to_ascii().to_lowercase();
    match lookup(world, name.trim_end_matches('.')) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) if question.query_type() == RecordType::A => {
            for address in addresses {
                let data = RData::A(address.into());
                response.add_answer(Record::from_rdata(
                    question.name().clone(),
                    TTL_SECONDS,
                    data,
                ));
            }
        }
        Some(_) => {}
    }
    response
}

/// Addresses of a Service name; `None` when there is no such Service.
fn lookup(world: &World, name: &str) -> Option<Vec<Ipv4Addr>> {
    let short = name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    let (service, namespace) = short.split_once('.')?;
    let service = world.services.state().into_iter().find(|found| {
        found.name_any() == service && found.namespace().as_deref() == Some(namespace)
    })?;
    let spec = service.spec.as_ref()?;
    if let Some(Ok(ip)) = spec.cluster_ip.as_ref().map(|ip| ip.parse()) {
        return Some(vec![ip]);
    }
    let port = spec.ports.iter().flatten().next()?;
    let ips = world
        .endpoints(&service, port)
        .into_iter()
        .filter_map(|address| match address.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
    Some(ips.collect())
}
