//! Who owns which field of an object, and over which version it is written. IO in one place:
//! handing our own fields from "created" to "applied".

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::contract;

/// Lets the API server refuse the write when the object is no longer the one we read.
pub(super) fn over_version(mut wanted: Value, live: &DynamicObject) -> Value {
    wanted["metadata"]["resourceVersion"] = json!(live.resource_version());
    wanted
}

/// Fields that our create set belong to us as an updater: turned into an applier's, so that
/// a later apply can take them away again.
pub(super) async fn own_by_apply(
    api: &Api<DynamicObject>,
    live: &DynamicObject,
) -> Result<DynamicObject, kube::Error> {
    let Some(entries) = applier_entries(live) else {
        return Ok(live.clone());
    };
    let patch = json!({"metadata": {
        "resourceVersion": live.resource_version(),
        "managedFields": entries,
    }});
    api.patch(
        &live.name_any(),
        &PatchParams {
            field_manager: Some(contract::MANAGER.into()),
            ..PatchParams::default()
        },
        &Patch::Merge(patch),
    )
    .await
}

/// The managed fields with our create as an apply; `None` where there is nothing to turn.
fn applier_entries(live: &DynamicObject) -> Option<Vec<ManagedFieldsEntry>> {
    let ours = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(contract::MANAGER)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    let mut entries = live.managed_fields().to_vec();
    if entries.iter().any(|entry| ours(entry, "Apply")) {
        return None;
    }
    let created = entries.iter_mut().find(|entry| ours(entry, "Update"))?;
    created.operation = Some("Apply".to_owned());
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_our_create_set_becomes_an_appliers() {
        let entry = |operation: &str| json!({"manager": contract::MANAGER, "operation": operation});
        let with = |entries: Value| {
            object(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "managedFields": entries},
            }))
        };
        let turned = applier_entries(&with(json!([entry("Update")]))).unwrap();
        assert_eq!(turned[0].operation.as_deref(), Some("Apply"));
        assert!(applier_entries(&with(json!([entry("Update"), entry("Apply")]))).is_none());
        assert!(applier_entries(&with(json!([]))).is_none());
    }
}
