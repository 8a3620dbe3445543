//! etcd, kube-apiserver, controller-manager and scheduler as child processes, with their
//! certificates and kubeconfigs. IO.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tokio_util::sync::CancellationToken;

use crate::net::{Mode, Net};
use crate::paths::Paths;
use crate::process::{self, Spec};
use crate::tools::Tools;

/// How long the API server may take to answer.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// A running control plane.
#[derive(Clone)]
pub struct ControlPlane {
    /// Where the API server listens.
    pub api: SocketAddr,
    /// The certificate authority.
    pub ca_pem: PathBuf,
    /// The administrator's client.
    pub client: kube::Client,
}

/// Starts everything and waits until the API server is ready.
///
/// # Errors
/// Names the component that failed, with the end of its log.
pub async fn start(
    tools: &Tools,
    net: &Net,
    paths: &Paths,
    stop: &CancellationToken,
) -> Result<ControlPlane> {
    let state = paths.state();
    let (api_port, etcd_port, peer_port) = (free_port()?, free_port()?, free_port()?);
    let api = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), api_port);
    let pki = Pki::create(&state, net)?;
    let etcd_url = format!("http://127.0.0.1:{etcd_port}");
    let peer_url = format!("http://127.0.0.1:{peer_port}");
    supervise(
        stop,
        "etcd",
        Spec {
            program: tools.etcd.clone(),
            args: strings(&[
                "--unsafe-no-fsync",
                "--log-level=warn",
                &format!("--data-dir={}", state.join("etcd").display()),
                &format!("--listen-client-urls={etcd_url}"),
                &format!("--advertise-client-urls={etcd_url}"),
                &format!("--listen-peer-urls={peer_url}"),
                &format!("--initial-advertise-peer-urls={peer_url}"),
                &format!("--initial-cluster=default={peer_url}"),
            ]),
            ..spec(paths, "etcd")
        },
    );
    let file = |name: &str| state.join(name).display().to_string();
    fs::write(state.join("audit.yaml"), AUDIT_POLICY)?;
    supervise(
        stop,
        "kube-apiserver",
        Spec {
            program: tools.controlplane.clone(),
            args: strings(&[
                "kube-apiserver",
                &format!("--etcd-servers={etcd_url}"),
                &format!("--secure-port={api_port}"),
                "--bind-address=127.0.0.1",
                &format!("--advertise-address={}", advertised(net)),
                "--endpoint-reconciler-type=none",
                &format!("--cert-dir={}", file("certs")),
                &format!("--tls-cert-file={}", file("apiserver.pem")),
                &format!("--tls-private-key-file={}", file("apiserver.key")),
                &format!("--client-ca-file={}", file("ca.pem")),
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-key-file={}", file("sa.pub")),
                &format!("--service-account-signing-key-file={}", file("sa.key")),
                &format!("--service-cluster-ip-range={}", net.service_cidr()),
                "--authorization-mode=RBAC",
                "--allow-privileged=true",
                &format!("--audit-policy-file={}", file("audit.yaml")),
                &format!("--audit-log-path={}", file("audit.log")),
            ]),
            ..spec(paths, "kube-apiserver")
        },
    );
    let admin = pki.kubeconfig(
        paths.admin_kubeconfig().as_path(),
        api,
        "admin",
        Some("system:masters"),
    )?;
    let client = admin_client(&admin).await?;
    wait_ready(&client, paths).await?;
    for (component, user, extra) in [
        (
            "kube-controller-manager",
            "system:kube-controller-manager",
            vec![
                format!("--service-account-private-key-file={}", file("sa.key")),
                format!("--root-ca-file={}", file("ca.pem")),
                "--use-service-account-credentials=true".to_owned(),
                "--kube-api-qps=300".to_owned(),
                "--kube-api-burst=600".to_owned(),
                controllers(net).to_owned(),
            ],
        ),
        ("kube-scheduler", "system:kube-scheduler", vec![]),
    ] {
        let kubeconfig = pki.kubeconfig(
            &state.join(format!("{component}.kubeconfig")),
            api,
            user,
            None,
        )?;
        let mut args = strings(&[
            component,
            &format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            &format!("--secure-port={}", free_port()?),
        ]);
        if component == "kube-scheduler" {
            args.push(format!(
                "--authentication-kubeconfig={}",
                kubeconfig.display()
            ));
            args.push(format!(
                "--authorization-kubeconfig={}",
                kubeconfig.display()
            ));
        }
        args.extend(extra);
        supervise(
            stop,
            component,
            Spec {
                program: tools.controlplane.clone(),
                args,
                ..spec(paths, component)
            },
        );
    }
    Ok(ControlPlane {
        api,
        ca_pem: state.join("ca.pem"),
        client,
    })
}

/// Writes are what tests count; reads would fill the disk.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: Metadata
";

/// Endpoints refuse loopback addresses: their controllers would only fill the event list.
fn controllers(net: &Net) -> &'static str {
    match net.mode() {
        Mode::Namespace => "--controllers=*",
        Mode::Loopback => {
            "--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"
        }
    }
}

/// The API server refuses a loopback address here; nothing ever connects to it.
fn advertised(net: &Net) -> IpAddr {
    let node = net.node_ip();
    if node.is_loopback() {
        Ipv4Addr::new(10, 244, 0, 1).into()
    } else {
        node
    }
}

fn spec(paths: &Paths, name: &str) -> Spec {
    Spec {
        env: vec![
            ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
            ("HOME".to_owned(), paths.run().display().to_string()),
        ],
        log: paths.logs().join(format!("{name}.log")),
        pid_file: Some(paths.state().join(format!("{name}.pid"))),
        ..Spec::default()
    }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// Keeps a process running until told to stop; one that dies comes back, as it would
/// under a real node's service manager.
pub fn supervise(stop: &CancellationToken, name: &str, spec: Spec) {
    let (stop, name) = (stop.clone(), name.to_owned());
    tokio::spawn(async move {
        loop {
            match process::spawn(&spec) {
                Ok(mut child) => {
                    tokio::select! {
                        () = stop.cancelled() => {
                            let _ = child.kill().await;
                            return;
                        }
                        status = child.wait() => {
                            tracing::warn!(name, ?status, log = %spec.log.display(), "ended; starting it again");
                        }
                    }
                }
                Err(error) => tracing::error!(name, error = format!("{error:#}"), "cannot start"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    });
}

/// A port nobody listens on now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("find a free port")?
        .local_addr()?
        .port())
}

async fn admin_client(kubeconfig: &Path) -> Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
            .await?;
    config.read_timeout = Some(Duration::from_secs(295));
    Ok(kube::Client::try_from(config)?)
}

async fn wait_ready(client: &kube::Client, paths: &Paths) -> Result<()> {
    let started = Instant::now();
    loop {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        match client.request_text(request).await {
            Ok(text) if text == "ok" => return Ok(()),
            _ if started.elapsed() > READY_LIMIT => {
                bail!(
                    "the API server is not ready after {READY_LIMIT:?}:\n{}",
                    tail(&paths.logs().join("kube-apiserver.log"))
                );
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(30).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The cluster's certificate authority.
struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn create(state: &Path, net: &Net) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.distinguished_name.push(DnType::CommonName, "rig");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(state.join("ca.pem"), issuer.pem())?;
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
        ];
        let mut names: Vec<String> = strings(&names);
        names.push(net.kubernetes_service_ip().to_string());
        let pki = Self { issuer };
        let (certificate, key) = pki.issue(
            names,
            "kube-apiserver",
            None,
            ExtendedKeyUsagePurpose::ServerAuth,
        )?;
        fs::write(state.join("apiserver.pem"), certificate)?;
        fs::write(state.join("apiserver.key"), key)?;
        let account = KeyPair::generate()?;
        fs::write(state.join("sa.key"), account.serialize_pem())?;
        fs::write(state.join("sa.pub"), account.public_key_pem())?;
        Ok(pki)
    }

    fn issue(
        &self,
        names: Vec<String>,
        user: &str,
        group: Option<&str>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<(String, String)> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![purpose];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn kubeconfig(
        &self,
        path: &Path,
        api: SocketAddr,
        user: &str,
        group: Option<&str>,
    ) -> Result<PathBuf> {
        let (certificate, key) =
            self.issue(Vec::new(), user, group, ExtendedKeyUsagePurpose::ClientAuth)?;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rig",
            "clusters": [{"name": "rig", "cluster": {
                "server": format!("https://{api}"), "certificate-authority-data": encode(&self.issuer.pem()),
            }}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": user}}],
            "users": [{"name": user, "user": {
                "client-certificate-data": encode(&certificate), "client-key-data": encode(&key),
            }}],
        });
        fs::write(path, serde_json::to_string_pretty(&config)?)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path.to_path_buf())
    }
}
