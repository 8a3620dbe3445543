//! A file of endpoints -> the datastore, without a Kubernetes. IO: reads the file again and
//! again.
//!
//! ```yaml
//! endpoints:
//! - address: 10.0.0.1:8000
//!   role: decode          # decode, prefill or both; both where it is absent
//!   name: pod-a           # the address where it is absent
//!   labels: {zone: a}     # as pods have them
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::datastore::{Datastore, Discovered};
use crate::contract;
use crate::scheduling::endpoint::{EndpointId, Role};
use crate::telemetry::shutdown::Shutdown;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    endpoints: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    address: String,
    role: Option<String>,
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Follows the file until shutdown. A file that cannot be read later on is told, and the
/// endpoints that were known stay.
///
/// # Errors
/// When the file cannot be used at the start.
pub(super) async fn run(
    path: PathBuf,
    datastore: Datastore,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut known = Known::default();
    let first = read(&path).await?;
    datastore.replace(parse(&first).with_context(|| path.display().to_string())?);
    datastore.set_synced();
    known.text = first;
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let now = read(&path).await;
        match known.look(now) {
            Ok(None) => {}
            Ok(Some(endpoints)) => {
                tracing::info!(file = %path.display(), endpoints = endpoints.len(), "endpoints changed");
                datastore.replace(endpoints);
            }
            Err(error) => {
                tracing::error!(file = %path.display(), error, "the endpoints known before stay");
            }
        }
    }
}

/// What was read last.
#[derive(Default)]
struct Known {
    text: String,
    /// The mistake that was told, so that it is told once.
    told: String,
}

impl Known {
    /// The endpoints, when the file says others than before; an error is one not told yet.
    fn look(&mut self, now: anyhow::Result<String>) -> Result<Option<Vec<Discovered>>, String> {
        let read = match now {
            Ok(now) if now == self.text => return Ok(None),
            Ok(now) => parse(&now).map(|endpoints| (now, endpoints)),
            Err(error) => Err(error),
        };
        match read {
            Ok((now, endpoints)) => {
                (self.text, self.told) = (now, String::new());
                Ok(Some(endpoints))
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error == self.told {
                    return Ok(None);
                }
                self.told.clone_from(&error);
                Err(error)
            }
        }
    }
}

async fn read(path: &Path) -> anyhow::Result<String> {
    let name = || format!("--endpoints-file {}", path.display());
    let size = tokio::fs::metadata(path).await.with_context(name)?.len();
    anyhow::ensure!(
        size <= MAX_FILE_BYTES,
        "{} is larger than {MAX_FILE_BYTES} bytes",
        name()
    );
    tokio::fs::read_to_string(path).await.with_context(name)
}

/// False for what can name no other process: port 0, no address, a group, or an address that
/// means something on one link only.
fn is_reachable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let one_link = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !one_link
}

/// The endpoints of the text.
///
/// # Errors
/// When it is not of the form above; says which entry and what is wrong with it.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Discovered>> {
    let document: Document = serde_yaml::from_str(text)?;
    let mut endpoints = Vec::with_capacity(document.endpoints.len());
    for (index, item) in document.endpoints.into_iter().enumerate() {
        let place = || format!("endpoints[{index}]");
        let address: SocketAddr = item
            .address
            .parse()
            .with_context(|| format!("{}.address: {:?} is not IP:PORT", place(), item.address))?;
        anyhow::ensure!(
            is_reachable(address),
            "{}.address: {:?} is no address that a gateway can send requests to",
            place(),
            item.address
        );
        let role = match item.role.as_deref() {
            None | Some(contract::ROLE_BOTH) => Role::Both,
            known @ Some(contract::ROLE_DECODE | contract::ROLE_PREFILL) => Role::from_label(known),
            Some(other) => anyhow::bail!(
                "{}.role: {other:?} is none of decode, prefill and both",
                place()
            ),
        };
        let name = item.name.unwrap_or_else(|| item.address.clone());
        let discovered = Discovered {
            id: EndpointId(address),
            pod_uid: name.clone(),
            pod: name,
            labels: Arc::new(item.labels),
            role,
            ready: true,
        };
        if endpoints
            .iter()
            .any(|known: &Discovered| known.id == discovered.id)
        {
            anyhow::bail!("{}.address: {} is there twice", place(), item.address);
        }
        endpoints.push(discovered);
    }
    endpoints.sort_by_key(|endpoint| endpoint.id);
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_mistakes_are_named() {
        let read = parse(
            "endpoints:\n- address: 10.0.0.2:8000\n- {address: '[::1]:8000', role: prefill, name: a}\n",
        )
        .unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(
            (read[0].role, read[0].pod.as_str()),
            (Role::Both, "10.0.0.2:8000")
        );
        assert_eq!((read[1].role, read[1].pod.as_str()), (Role::Prefill, "a"));
        let error = |text| format!("{:#}", parse(text).unwrap_err());
        for (text, wanted) in [
            (
                "endpoints: [{address: here}]",
                "endpoints[0].address: \"here\" is not IP:PORT",
            ),
            (
                "endpoints: [{address: '1.1.1.1:0'}]",
                "endpoints[0].address: \"1.1.1.1:0\" is no address that",
            ),
            ("endpoints: [{address: '0.0.0.0:1'}]", "is no address that"),
            (
                "endpoints: [{address: '[ff02::1]:1'}]",
                "is no address that",
            ),
            (
                "endpoints: [{address: '[fe80::1%1]:1'}]",
                "is no address that",
            ),
            (
                "endpoints: [{address: '1.1.1.1:1', role: decoder}]",
                "endpoints[0].role: \"decoder\" is none of",
            ),
            (
                "endpoints: [{address: '1.1.1.1:1'}, {address: '1.1.1.1:1'}]",
                "endpoints[1].address: 1.1.1.1:1 is there twice",
            ),
            ("endpoints: [{adress: '1.1.1.1:1'}]", "adress"),
        ] {
            assert!(error(text).contains(wanted), "{}", error(text));
        }
    }

    #[test]
    fn a_broken_file_is_told_once_and_changes_nothing() {
        let mut known = Known::default();
        let ok = || Ok("endpoints: [{address: '127.0.0.1:1'}]".to_owned());
        let broken = || Ok("endpoints: [".to_owned());
        assert_eq!(known.look(ok()).unwrap().unwrap().len(), 1);
        assert_eq!(known.look(ok()), Ok(None));
        assert!(known.look(broken()).is_err());
        assert_eq!(known.look(broken()), Ok(None));
        assert!(known.look(Err(anyhow::anyhow!("gone"))).is_err());
        assert_eq!(known.look(ok()), Ok(None), "it is as it was");
    }

    #[tokio::test]
    async fn a_changed_file_changes_the_endpoints() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.yaml");
        std::fs::write(&path, "endpoints: [{address: '127.0.0.1:1'}]").unwrap();
        let (datastore, shutdown) = (Datastore::default(), Shutdown::new());
        let mut changes = datastore.changes();
        let running = tokio::spawn(run(path.clone(), datastore.clone(), shutdown.clone()));
        changes.changed().await.unwrap();
        assert_eq!(datastore.snapshot().len(), 1);
        let two = "endpoints: [{address: '127.0.0.1:1'}, {address: '127.0.0.1:2'}]";
        std::fs::write(&path, two).unwrap();
        changes.changed().await.unwrap();
        assert_eq!(datastore.snapshot().len(), 2);
        shutdown.begin();
        running.await.unwrap().unwrap();
    }
}
