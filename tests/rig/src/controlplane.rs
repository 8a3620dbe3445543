//! etcd, kube-apiserver, controller-manager and scheduler as child processes, with their
//! certificates and kubeconfigs. IO.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tokio_util::sync::CancellationToken;

use crate::net::{Mode, Net};
use crate::paths::Paths;
use crate::portal;
use crate::ports::Port;
use crate::process::Spec;
use crate::supervise::{Life, supervise, supervise_on_a_port};
use crate::tools::Tools;

/// How long the API server may take to answer: minutes on a machine that is busy.
const READY_LIMIT: Duration = Duration::from_mins(5);

/// After this long a question is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// As many of a program's ends are told when it never ran.
const ENDS_TOLD: usize = 5;

/// A running control plane.
#[derive(Clone)]
pub struct ControlPlane {
    /// Where the API server is reached, wherever it listens itself.
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
    let file = |name: &str| state.join(name).display().to_string();
    let pki = Pki::create(&state, net)?;
    // Unix sockets: etcd's ports could be lost, and nobody else needs them.
    let etcd_url = format!("unix://{}", paths.sockets().join("etcd").display());
    let etcd = supervise(stop, "etcd", etcd_spec(tools, paths, &etcd_url));
    fs::write(state.join("audit.yaml"), AUDIT_POLICY)?;
    let (program, advertised) = (tools.controlplane.clone(), advertised(net));
    let (own, services) = (paths.clone(), net.service_cidr());
    let (server, place) =
        supervise_on_a_port(stop, "kube-apiserver", Port::choose()?, move |address| {
            Spec {
                program: program.clone(),
                args: api_server_args(&own, &etcd_url, address, advertised, &services),
                ..spec(&own, "kube-apiserver")
            }
        });
    let api = portal::front(place).await?;
    let admin = pki.kubeconfig(
        paths.admin_kubeconfig().as_path(),
        api,
        "admin",
        Some("system:masters"),
    )?;
    let client = admin_client(&admin).await?;
    wait_ready(&client, paths, [etcd, server]).await?;
    for (component, user) in [
        ("kube-controller-manager", "system:kube-controller-manager"),
        ("kube-scheduler", "system:kube-scheduler"),
    ] {
        let kubeconfig = pki.kubeconfig(
            &state.join(format!("{component}.kubeconfig")),
            api,
            user,
            None,
        )?;
        let kubeconfig = kubeconfig.display();
        let mut args = strings(&[
            component,
            &format!("--kubeconfig={kubeconfig}"),
            "--leader-elect=false",
            // Nobody reads their pages.
            "--secure-port=0",
        ]);
        if component == "kube-scheduler" {
            args.push(format!("--authentication-kubeconfig={kubeconfig}"));
            args.push(format!("--authorization-kubeconfig={kubeconfig}"));
        } else {
            args.extend(strings(&[
                &format!("--service-account-private-key-file={}", file("sa.key")),
                &format!("--root-ca-file={}", file("ca.pem")),
                "--use-service-account-credentials=true",
                "--kube-api-qps=300",
                "--kube-api-burst=600",
                controllers(net),
            ]));
        }
        let spec = Spec {
            program: tools.controlplane.clone(),
            args,
            ..spec(paths, component)
        };
        supervise(stop, component, spec);
    }
    Ok(ControlPlane {
        api,
        ca_pem: state.join("ca.pem"),
        client,
    })
}

fn etcd_spec(tools: &Tools, paths: &Paths, clients: &str) -> Spec {
    let data = paths.state().join("etcd");
    let peers = format!("unix://{}", paths.sockets().join("etcd-peers").display());
    Spec {
        program: tools.etcd.clone(),
        args: strings(&[
            "--unsafe-no-fsync",
            "--log-level=warn",
            &format!("--data-dir={}", data.display()),
            &format!("--listen-client-urls={clients}"),
            &format!("--listen-peer-urls={peers}"),
            // Only other members would connect to these, and there are none.
            "--advertise-client-urls=http://localhost:2379",
            "--initial-advertise-peer-urls=http://localhost:2380",
            "--initial-cluster=default=http://localhost:2380",
        ]),
        ..spec(paths, "etcd")
    }
}

fn api_server_args(
    paths: &Paths,
    etcd: &str,
    address: SocketAddr,
    advertised: IpAddr,
    services: &str,
) -> Vec<String> {
    let file = |name: &str| paths.state().join(name).display().to_string();
    strings(&[
        "kube-apiserver",
        &format!("--etcd-servers={etcd}"),
        &format!("--secure-port={}", address.port()),
        &format!("--bind-address={}", address.ip()),
        &format!("--advertise-address={advertised}"),
        "--endpoint-reconciler-type=none",
        &format!("--cert-dir={}", file("certs")),
        &format!("--tls-cert-file={}", file("apiserver.pem")),
        &format!("--tls-private-key-file={}", file("apiserver.key")),
        &format!("--client-ca-file={}", file("ca.pem")),
        "--service-account-issuer=https://kubernetes.default.svc",
        &format!("--service-account-key-file={}", file("sa.pub")),
        &format!("--service-account-signing-key-file={}", file("sa.key")),
        &format!("--service-cluster-ip-range={services}"),
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        &format!("--audit-policy-file={}", file("audit.yaml")),
        &format!("--audit-log-path={}", file("audit.log")),
    ])
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

async fn admin_client(kubeconfig: &Path) -> Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
            .await?;
    config.read_timeout = Some(Duration::from_secs(295));
    Ok(kube::Client::try_from(config)?)
}

async fn wait_ready(client: &kube::Client, paths: &Paths, parts: [Life; 2]) -> Result<()> {
    let failed = |why: &str| {
        let mut text = format!("the API server is not ready: {why}");
        for (part, name) in parts.iter().zip(["etcd", "kube-apiserver"]) {
            let ends = part.ends();
            for end in ends.iter().skip(ends.len().saturating_sub(ENDS_TOLD)) {
                text += &format!("\n{end}");
            }
            let log = paths.logs().join(format!("{name}.log"));
            text += &format!("\nthe end of {}:\n{}", log.display(), tail(&log));
        }
        text
    };
    let ready = async {
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = tokio::time::timeout(ANSWER_LIMIT, client.request_text(request)).await;
            if matches!(answer, Ok(Ok(text)) if text == "ok") {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let given_up = futures::future::select_all(parts.iter().map(|part| Box::pin(part.given_up())));
    tokio::select! {
        ready = tokio::time::timeout(READY_LIMIT, ready) => match ready {
            Ok(ready) => ready,
            Err(_) => bail!(failed(&format!("{READY_LIMIT:?} are over"))),
        },
        _ = given_up => bail!(failed("it was given up")),
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(15).collect();
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
