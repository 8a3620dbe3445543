//! `Children<Desired>` -> `Children<Applied>` by server-side apply, and the removal of
//! what is no longer wanted. IO.
//!
//! An object that already says what is wanted is not written; an object that is not ours
//! is never written. Every child is attempted, so one refusal does not hold up the rest.

mod fields;
mod prune;

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::fields::{over_version, own_by_apply};
use self::prune::prune;
pub use self::prune::remove_elsewhere;
use super::children::{Applied, Child, Children, Desired, Object, Ownership};
use super::diff;
use super::metrics::Metrics;
use crate::api::ModelService;
use crate::api::modelservice::InventoryEntry;
use crate::contract;

/// Fingerprint of what was applied last: tells that a field was dropped from the wish,
/// which comparing the wish with the live object cannot.
const ANNOTATION_APPLIED: &str = "llm-d.ai/applied";
/// On objects in another namespace: the uid of the ModelService they belong to.
const LABEL_OWNER_UID: &str = "llm-d.ai/owner-uid";
/// How often a write is tried again that another writer was ahead of.
const CONFLICT_RETRIES: usize = 5;

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

    /// True when another writer was ahead: reading again and writing again helps.
    fn is_conflict(&self) -> bool {
        match self {
            Self::NotOwned { .. } => false,
            Self::Write { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.is_conflict() || status.is_already_exists(),
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
    /// Everything made or wanted for this ModelService, for the next pruning.
    pub inventory: Vec<InventoryEntry>,
}

/// What will exist once the children are applied, and what existed before: nothing of it may
/// be forgotten, whatever happens on the way. PURE.
pub fn planned_inventory(ms: &ModelService, desired: &Children<Desired>) -> Vec<InventoryEntry> {
    let mut inventory: BTreeSet<InventoryEntry> = recorded(ms).iter().cloned().collect();
    inventory.extend(desired.items.iter().map(|child| entry(&child.object)));
    inventory.into_iter().collect()
}

fn recorded(ms: &ModelService) -> &[InventoryEntry] {
    ms.status
        .as_ref()
        .map(|status| status.inventory.as_slice())
        .unwrap_or_default()
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
    let mut foreign_identity = false;
    for child in desired.items {
        inventory.insert(entry(&child.object));
        // No pod runs under an account that is somebody else's.
        if foreign_identity {
            continue;
        }
        match apply_one(client, metrics, &owner, &child).await {
            Ok(object) => items.push(Child { object, ..child }),
            // It stays in the inventory: it was announced, and what is not ours is not pruned.
            Err(error) => {
                foreign_identity =
                    child.key.is_identity() && matches!(error, Error::NotOwned { .. });
                failed.push(error);
            }
        }
    }
    // Prune only after everything new exists, and not at all when something failed:
    // what still serves must not go before its replacement has come.
    for entry in recorded(ms) {
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

/// Applies one child, and again when another writer was ahead: what is shared is written
/// only over the version that was read, or one of two owners would be lost.
async fn apply_one(
    client: &Client,
    metrics: &Metrics,
    owner: &OwnerReference,
    child: &Child,
) -> Result<Object, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_apply(client, metrics, owner, child).await {
            Err(error) if error.is_conflict() && tries <= CONFLICT_RETRIES => {}
            other => return other,
        }
    }
}

async fn try_apply(
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
    let shared = child.ownership == Ownership::Shared;
    let result = match &live {
        // Created, never applied blindly: of two writers one fails, and reads the winner's.
        None if shared => create(&api, wanted).await,
        Some(live) if shared => {
            let live = own_by_apply(&api, live).await.map_err(fail)?;
            let params = PatchParams::apply(contract::MANAGER).force();
            let wanted = over_version(wanted, &live);
            api.patch(&name, &params, &Patch::Apply(&wanted)).await
        }
        _ => {
            let params = PatchParams::apply(contract::MANAGER).force();
            api.patch(&name, &params, &Patch::Apply(&wanted)).await
        }
    };
    metrics.wrote("apply", kind);
    let written = result.map_err(fail)?;
    tracing::info!(kind, namespace, name, created = live.is_none(), "applied");
    reread(&child.object, to_value(&written)).map_err(fail)
}

async fn create(api: &Api<DynamicObject>, wanted: Value) -> Result<DynamicObject, kube::Error> {
    let object: DynamicObject = serde_json::from_value(wanted).map_err(kube::Error::SerdeError)?;
    let params = PostParams {
        field_manager: Some(contract::MANAGER.into()),
        ..PostParams::default()
    };
    api.create(&params, &object).await
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
    if child.ownership == Ownership::Elsewhere {
        let labels = meta.labels.get_or_insert_default();
        labels.insert(LABEL_OWNER_UID.to_owned(), owner.uid.clone());
        meta.owner_references = None;
    } else {
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
    }
    let mut value = object.to_value();
    value["apiVersion"] = json!(resource.api_version);
    value["kind"] = json!(resource.kind);
    if let Object::Secret(_) = child.object
        && let Some(data) = live.and_then(|live| live.data.get("data"))
        && data.as_object().is_some_and(|data| !data.is_empty())
    {
        // A generated secret is never overwritten, also not by one made a moment later.
        value["data"] = data.clone();
    }
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
    is_owned(live, owner) || (ownership == Ownership::Shared && made_by_us(live))
}

/// The label of what ModelServices share.
fn made_by_us(live: &DynamicObject) -> bool {
    let label = live.labels().get(contract::LABEL_MANAGED_BY);
    label.map(String::as_str) == Some(contract::MANAGER)
}

/// By reference, or by label where no reference reaches.
fn is_owned(live: &DynamicObject, owner: &OwnerReference) -> bool {
    let mut references = live.owner_references().iter();
    references.any(|reference| reference.uid == owner.uid)
        || live.labels().get(LABEL_OWNER_UID) == Some(&owner.uid)
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

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "llm-d.ai/v1alpha1".to_owned(),
            kind: "ModelService".to_owned(),
            name: uid.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    fn child(ownership: Ownership) -> Child {
        let map = serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n"}}));
        Child {
            key: super::super::children::ChildKey::ConfigMaps,
            object: Object::ConfigMap(Box::new(map.unwrap())),
            ownership,
            keep_live_replicas: false,
        }
    }

    fn wish_of(child: &Child, live: Option<&DynamicObject>) -> Value {
        wish(child, &child.object.api_resource(), &owner("a"), live)
    }

    fn live(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn in_another_namespace_a_label_owns_instead_of_a_reference() {
        let wanted = wish_of(&child(Ownership::Elsewhere), None);
        assert_eq!(wanted["metadata"]["labels"][LABEL_OWNER_UID], "a");
        assert!(wanted["metadata"].get("ownerReferences").is_none());
        let object = live(wanted);
        assert!(is_owned(&object, &owner("a")) && !is_owned(&object, &owner("b")));
    }

    #[test]
    fn a_shared_object_keeps_its_other_owners_and_the_version_that_was_read() {
        let found = live(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "resourceVersion": "7", "ownerReferences": [owner("b")]},
        }));
        let wanted = wish_of(&child(Ownership::Shared), Some(&found));
        let uids = wanted["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!(uids.len(), 2);
        let written = over_version(wanted.clone(), &found);
        assert_eq!(written["metadata"]["resourceVersion"], "7");
        let annotations = &wanted["metadata"]["annotations"];
        assert_eq!(&written["metadata"]["annotations"], annotations);
    }

    #[test]
    fn a_generated_secret_that_exists_is_never_overwritten() {
        let secret = |password: &str| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": password},
            })
        };
        let object = serde_json::from_value(secret("bmV3")).unwrap();
        let child = Child {
            object: Object::Secret(Box::new(object)),
            ..child(Ownership::Shared)
        };
        let wanted = wish_of(&child, Some(&live(secret("b2xk"))));
        assert_eq!(wanted["data"]["password"], "b2xk");
        assert_eq!(wish_of(&child, None)["data"]["password"], "bmV3");
    }

    #[test]
    fn nothing_that_existed_is_left_out_of_the_planned_inventory() {
        let old = InventoryEntry {
            kind: "Service".to_owned(),
            ..InventoryEntry::default()
        };
        let mut ms = ModelService::default();
        ms.status.get_or_insert_default().inventory = vec![old.clone()];
        let desired = Children::new(vec![child(Ownership::Owned)]);
        let planned = planned_inventory(&ms, &desired);
        assert_eq!(planned.len(), 2);
        assert!(planned.contains(&old));
    }

    #[test]
    fn replicas_that_an_autoscaler_set_are_kept_or_left_out() {
        let deployment = |replicas: i32, manager: &str| {
            live(json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "d", "managedFields": [
                    {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
                ]},
                "spec": {"replicas": replicas},
            }))
        };
        let mut wanted = json!({"spec": {"replicas": 1}});
        keep_replicas(&mut wanted, &deployment(5, contract::MANAGER));
        assert_eq!(wanted["spec"]["replicas"], 5);
        keep_replicas(&mut wanted, &deployment(5, "autoscaler"));
        assert!(wanted["spec"].get("replicas").is_none());
    }
}
