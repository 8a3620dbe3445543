//! The API server -> which optional APIs it serves. IO (discovery).
//!
//! An API that is absent is not an error: its objects are not rendered and not watched.

use kube::Client;

use super::resolved::{PoolVersion, Served};

/// Asks the API server what it serves.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn discover(client: &Client) -> Result<Served, kube::Error> {
    let has = |group_version: &'static str, kind: &'static str| async move {
        match client.list_api_group_resources(group_version).await {
            Ok(list) => Ok(list.resources.iter().any(|resource| resource.kind == kind)),
            // An unserved group answers 404 in plain text, without a reason.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    };
    let inference_pool = if has("inference.networking.k8s.io/v1", "InferencePool").await? {
        Some(PoolVersion::V1)
    } else if has("inference.networking.x-k8s.io/v1alpha2", "InferencePool").await? {
        Some(PoolVersion::V1Alpha2)
    } else {
        None
    };
    Ok(Served {
        inference_pool,
        inference_model: has("inference.networking.x-k8s.io/v1alpha2", "InferenceModel").await?,
        http_route: has("gateway.networking.k8s.io/v1", "HTTPRoute").await?,
        openshift: has("security.openshift.io/v1", "SecurityContextConstraints").await?,
        envoy_filter: has("networking.istio.io/v1alpha3", "EnvoyFilter").await?,
    })
}
