//! `Children<Desired>` -> `Children<Applied>` by server-side apply, and the removal of
//! what is no longer wanted. IO.
//!
//! An object that already says what is wanted is not written; an object that is not ours
//! is never written. Every child is attempted, so one refusal does not hold up the rest.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::children::{Applied, Child, Children, Desired, Object, Ownership};
use super::diff;
use super::metrics::Metrics;
use crate::api::ModelService;
use crate::api::modelservice::InventoryEntry;
use crate::contract;

/// Fingerprint of what was applied last: tells that a field was dropped from the wish,
/// which comparing the wish with the live object cannot.
const ANNOTATION_APPLIED: &str = "llm-d.ai/applied";

/// Why one object could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of that name exists and belongs to somebody else.
    #[error(
        "{kind} {namespace}/{name} exists and is not owned by this ModelService; \
         it was left alone. Delete or rename it"
    )]
    NotOwned {
        /// Kind of the object.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server refused or failed.
    #[error("write {kind} {namespace}/{name}: {}", describe(source))]
    Write {
        /// Kind of the object.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said; not repeated as a source.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// True when trying again cannot help until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotOwned { .. } => true,
            Self::Write { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => {
                    status.is_invalid() || status.is_forbidden() || status.code == 400
                }
                _ => false,
            },
        }
    }

    /// One word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotOwned { .. } => "NotOwned",
            Self::Write { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.is_forbidden() => "Forbidden",
                kube::Error::Api(status) if status.is_invalid() => "Invalid",
                _ => "ApplyFailed",
            },
        }
    }
}

fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What came of applying.
#[derive(Debug)]
pub struct Outcome {
    /// The children that exist now.
    pub applied: Children<Applied>,
    /// One entry per child that could not be made.
    pub failed: Vec<Error>,
    /// Everything that exists for this ModelService, for the next pruning.
    pub inventory: Vec<InventoryEntry>,
}

/// Applies the children in order and removes those of the old inventory that are no
/// longer wanted.
pub async fn apply(
    client: &Client,
    metrics: &Metrics,
    ms: &ModelService,
    desired: Children<Desired>,
) -> Outcome {
    let owner = owner_reference(ms);
    let (mut items, mut failed) = (Vec::new(), Vec::new());
    let mut inventory = BTreeSet::new();
    for child in desired.items {
        inventory.insert(entry(&child.object));
        match apply_one(client, metrics, &owner, &child).await {
            Ok(object) => items.push(Child { object, ..child }),
            Err(error) => {
                if matches!(error, Error::NotOwned { .. }) {
                    inventory.remove(&entry(&child.object));
                }
                failed.push(error);
            }
        }
    }
    // Prune only after everything new exists, and not at all when something failed:
    // what still serves must not go before its replacement has come.
    let old = ms
        .status
        .as_ref()
        .map(|status| status.inventory.as_slice())
        .unwrap_or_default();
    for entry in old {
        if inventory.contains(entry) {
            continue;
        }
        if failed.is_empty() {
            if let Err(error) = prune(client, metrics, &owner, entry).await {
                inventory.insert(entry.clone());
                failed.push(error);
            }
        } else {
            inventory.insert(entry.clone());
        }
    }
    Outcome {
        applied: Children::applied(items),
        failed,
        inventory: inventory.into_iter().collect(),
    }
}

async fn apply_one(
    client: &Client,
    metrics: &Metrics,
    owner: &OwnerReference,
    child: &Child,
) -> Result<Object, Error> {
    let (kind, namespace, name) = (
        child.object.kind(),
        child.object.namespace(),
        child.object.name(),
    );
    let fail = |source: kube::Error| Error::Write {
        kind: kind.to_owned(),
        namespace: namespace.clone(),
        name: name.clone(),
        source: Box::new(source),
    };
    let resource = child.object.api_resource();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let live = api.get_opt(&name).await.map_err(fail)?;
    if let Some(live) = &live
        && !may_write(live, owner, child.ownership)
    {
        return Err(Error::NotOwned {
            kind,
            namespace,
            name,
        });
    }
    let wanted = wish(child, &resource, owner, live.as_ref());
    let live_value = live.as_ref().map(to_value);
    if let Some(live_value) = &live_value
        && diff::covers(live_value, &wanted)
    {
        return reread(&child.object, live_value.clone()).map_err(fail);
    }
    let secret_is_new = live.is_none() && matches!(child.object, Object::Secret(_));
    let result = if secret_is_new {
        // A generated secret is created, never overwritten: of two writers one loses and
        // reads the winner's next time.
        let object: DynamicObject = serde_json::from_value(wanted)
            .map_err(kube::Error::SerdeError)
            .map_err(fail)?;
        api.create(
            &PostParams {
                field_manager: Some(contract::MANAGER.into()),
                ..PostParams::default()
            },
            &object,
        )
        .await
    } else {
        let params = PatchParams::apply(contract::MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&wanted)).await
    };
    metrics.wrote("apply", kind);
    let written = result.map_err(fail)?;
    tracing::info!(kind, namespace, name, created = live.is_none(), "applied");
    reread(&child.object, to_value(&written)).map_err(fail)
}

/// The whole wish as JSON: the rendered object, its owner and its fingerprint.
fn wish(
    child: &Child,
    resource: &ApiResource,
    owner: &OwnerReference,
    live: Option<&DynamicObject>,
) -> Value {
    let mut object = child.object.clone();
    let meta = object.meta_mut();
    let mut owners = vec![owner.clone()];
    if child.ownership == Ownership::Shared
        && let Some(live) = live
    {
        // One field manager for all: leaving the other owners out would remove them.
        let others = live.owner_references().iter();
        owners.extend(others.filter(|other| other.uid != owner.uid).cloned());
        owners.sort_by(|a, b| a.uid.cmp(&b.uid));
    }
    meta.owner_references = Some(owners);
    let mut value = object.to_value();
    value["apiVersion"] = json!(resource.api_version);
    value["kind"] = json!(resource.kind);
    if child.keep_live_replicas
        && let Some(live) = live
    {
        keep_replicas(&mut value, live);
    }
    let fingerprint = fingerprint(&value);
    value["metadata"]["annotations"][ANNOTATION_APPLIED] = json!(fingerprint);
    value
}

/// Says what the live object says while the field is ours, else nothing: dropping a field
/// that only we own would reset it to its default of one pod.
fn keep_replicas(value: &mut Value, live: &DynamicObject) {
    let ours = live.managed_fields().iter().any(|entry| {
        entry.manager.as_deref() == Some(contract::MANAGER)
            && entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    });
    match live.data.pointer("/spec/replicas") {
        Some(replicas) if ours => value["spec"]["replicas"] = replicas.clone(),
        _ => {
            if let Some(spec) = value["spec"].as_object_mut() {
                spec.remove("replicas");
            }
        }
    }
}

fn fingerprint(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Ours to write: owned by this ModelService, or (shared objects) made by this operator.
fn may_write(live: &DynamicObject, owner: &OwnerReference, ownership: Ownership) -> bool {
    let owned = live
        .owner_references()
        .iter()
        .any(|reference| reference.uid == owner.uid);
    let made_by_us = live
        .labels()
        .get(contract::LABEL_MANAGED_BY)
        .map(String::as_str)
        == Some(contract::MANAGER);
    owned || (ownership == Ownership::Shared && made_by_us)
}

async fn prune(
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
    let Some(uid) = live.uid() else { return Ok(()) };
    let owners = live.owner_references();
    if !owners.iter().any(|reference| reference.uid == owner.uid) {
        return Ok(());
    }
    let others: Vec<_> = owners
        .iter()
        .filter(|other| other.uid != owner.uid)
        .cloned()
        .collect();
    if others.is_empty() {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        metrics.wrote("delete", "pruned");
        match api.delete(&entry.name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(fail(error)),
        }
        tracing::info!(
            kind = entry.kind,
            namespace = entry.namespace,
            name = entry.name,
            "pruned"
        );
    } else {
        // Shared: only our claim goes.
        let patch = json!({"metadata": {"uid": uid, "ownerReferences": others}});
        metrics.wrote("apply", "shared");
        api.patch(&entry.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(fail)?;
    }
    Ok(())
}

fn entry(object: &Object) -> InventoryEntry {
    let resource = object.api_resource();
    InventoryEntry {
        api_version: resource.api_version,
        kind: resource.kind,
        namespace: object.namespace(),
        name: object.name(),
    }
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

/// The Go operator's form: not a controller reference, nothing blocked.
fn owner_reference(ms: &ModelService) -> OwnerReference {
    OwnerReference {
        api_version: ModelService::api_version(&()).into_owned(),
        kind: ModelService::kind(&()).into_owned(),
        name: ms.name_any(),
        uid: ms.uid().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

fn to_value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object read as JSON can be written as JSON")
}

fn reread(kind: &Object, value: Value) -> Result<Object, kube::Error> {
    kind.reread(value).map_err(kube::Error::SerdeError)
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
