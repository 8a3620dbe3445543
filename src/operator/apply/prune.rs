//! Inventory entries that are no longer wanted -> gone, or no longer ours. IO.
//!
//! Only what this ModelService owns is touched; of what is shared only the claim goes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::{CONFLICT_RETRIES, Error, is_owned, made_by_us, owner_reference, recorded};
use crate::api::ModelService;
use crate::api::modelservice::InventoryEntry;
use crate::contract;
use crate::operator::metrics::Metrics;

/// Removes what the garbage collector will not: the objects of a ModelService in other
/// namespaces.
///
/// # Errors
/// Everything that could not be removed.
pub async fn remove_elsewhere(
    client: &Client,
    metrics: &Metrics,
    ms: &ModelService,
) -> Result<(), Vec<Error>> {
    let owner = owner_reference(ms);
    let own = ms.namespace().unwrap_or_default();
    let mut failed = Vec::new();
    for entry in recorded(ms).iter().filter(|entry| entry.namespace != own) {
        if let Err(error) = prune(client, metrics, &owner, entry).await {
            failed.push(error);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed)
    }
}

/// Removes one object, or our claim on it, and again when another writer was ahead.
pub(super) async fn prune(
    client: &Client,
    metrics: &Metrics,
    owner: &OwnerReference,
    entry: &InventoryEntry,
) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_prune(client, metrics, owner, entry).await {
            Err(error) if error.is_conflict() && tries <= CONFLICT_RETRIES => {}
            other => return other,
        }
    }
}

async fn try_prune(
    client: &Client,
    metrics: &Metrics,
    owner: &OwnerReference,
    entry: &InventoryEntry,
) -> Result<(), Error> {
    let fail = |source: kube::Error| Error::Write {
        kind: entry.kind.clone(),
        namespace: entry.namespace.clone(),
        name: entry.name.clone(),
        source: Box::new(source),
    };
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &entry.namespace, &resource_of(entry));
    let live = match api.get_opt(&entry.name).await {
        Ok(Some(live)) => live,
        Ok(None) => return Ok(()),
        // The API itself is gone, and its objects with it.
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    if live.uid().is_none() || !is_owned(&live, owner) {
        return Ok(());
    }
    let owners = live.owner_references().iter();
    let others: Vec<_> = owners.filter(|other| other.uid != owner.uid).collect();
    if others.is_empty() {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: live.uid(),
                // Somebody may become an owner of what is shared between our look and the
                // delete.
                resource_version: made_by_us(&live).then(|| live.resource_version()).flatten(),
            }),
            ..DeleteParams::background()
        };
        metrics.wrote("delete", "pruned");
        match api.delete(&entry.name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(fail(error)),
        }
        let (kind, namespace, name) = (&entry.kind, &entry.namespace, &entry.name);
        tracing::info!(kind, namespace, name, "pruned");
    } else {
        // Shared: only our claim goes.
        let patch = json!({"metadata": {
            "uid": live.uid(),
            "resourceVersion": live.resource_version(),
            "ownerReferences": others,
        }});
        let params = PatchParams {
            field_manager: Some(contract::MANAGER.into()),
            ..PatchParams::default()
        };
        metrics.wrote("apply", "shared");
        api.patch(&entry.name, &params, &Patch::Merge(patch))
            .await
            .map_err(fail)?;
    }
    Ok(())
}

/// The plural is the kind in lower case with an `s`, or `ies` for a `y`: true of every
/// kind in [`Object`].
fn resource_of(entry: &InventoryEntry) -> ApiResource {
    let (group, version) = entry
        .api_version
        .rsplit_once('/')
        .unwrap_or(("", &entry.api_version));
    let gvk = kube::core::GroupVersionKind::gvk(group, version, &entry.kind);
    let lower = entry.kind.to_lowercase();
    let plural = lower
        .strip_suffix('y')
        .map_or(format!("{lower}s"), |stem| format!("{stem}ies"));
    ApiResource::from_gvk_with_plural(&gvk, &plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_entry_finds_its_resource_again() {
        let resource = |api_version: &str, kind: &str| {
            resource_of(&InventoryEntry {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                ..InventoryEntry::default()
            })
        };
        assert_eq!(resource("v1", "Service").plural, "services");
        assert_eq!(
            resource("networking.k8s.io/v1", "NetworkPolicy").plural,
            "networkpolicies"
        );
        assert_eq!(
            resource("gateway.networking.k8s.io/v1", "HTTPRoute").plural,
            "httproutes"
        );
        assert_eq!(
            resource("networking.istio.io/v1alpha3", "EnvoyFilter").plural,
            "envoyfilters"
        );
        assert_eq!(resource("apps/v1", "Deployment").group, "apps");
    }
}
