//! A probe and a pod's address -> passed or why not. IO.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// What an exec probe needs to run inside the pod.
pub(super) struct Inside {
    pub(super) netns: Option<PathBuf>,
    pub(super) env: Vec<(String, String)>,
}

/// Runs the probe once, within its timeout.
pub(super) async fn check(
    probe: &Probe,
    container: &Container,
    ip: IpAddr,
    inside: &Inside,
) -> Result<(), String> {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1));
    match tokio::time::timeout(limit, once(probe, container, ip, inside)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

async fn once(
    probe: &Probe,
    container: &Container,
    ip: IpAddr,
    inside: &Inside,
) -> Result<(), String> {
    if let Some(http) = &probe.http_get {
        let port = port(&http.port, container).ok_or("the probe's port is unknown")?;
        let path = http.path.clone().unwrap_or_else(|| "/".to_owned());
        return http_get(SocketAddr::new(ip, port), &path).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = port(&tcp.port, container).ok_or("the probe's port is unknown")?;
        return TcpStream::connect((ip, port))
            .await
            .map(|_| ())
            .map_err(|error| error.to_string());
    }
    if let Some(grpc) = &probe.grpc {
        let service = grpc.service.clone().unwrap_or_default();
        return grpc_health(
            format!(
                "http://{}",
                SocketAddr::new(ip, u16::try_from(grpc.port).unwrap_or(0))
            ),
            service,
        )
        .await;
    }
    if let Some(exec) = &probe.exec {
        return exec_in_pod(exec.command.as_deref().unwrap_or_default(), inside).await;
    }
    Ok(())
}

fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .and_then(|port| u16::try_from(port.container_port).ok()),
    }
}

async fn http_get(address: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", address.to_string())
        .header("user-agent", "kube-probe/1.36")
        .header("connection", "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status();
    let _ = response.into_body().collect().await;
    connection.abort();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("HTTP status {status}"))
    }
}

async fn grpc_health(url: String, service: String) -> Result<(), String> {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let channel = tonic::transport::Endpoint::from_shared(url)
        .map_err(|error| error.to_string())?
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service })
        .await
        .map_err(|status| status.to_string())?
        .into_inner();
    if answer.status() == ServingStatus::Serving {
        Ok(())
    } else {
        Err(format!("{:?}", answer.status()))
    }
}

async fn exec_in_pod(command: &[String], inside: &Inside) -> Result<(), String> {
    let rig = crate::process::rig_program().map_err(|error| error.to_string())?;
    let mut exec = tokio::process::Command::new(rig);
    exec.arg("exec");
    if let Some(netns) = &inside.netns {
        exec.arg("--netns").arg(netns);
    }
    let status = exec
        .arg("--")
        .args(command)
        .env_clear()
        .envs(inside.env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| error.to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(status.to_string())
    }
}
