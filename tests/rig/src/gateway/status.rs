//! What Envoy runs -> conditions of GatewayClass, Gateway and HTTPRoute. IO; writes only what
//! changed and claims nothing before Envoy confirms it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::config::{Config, Listener, cluster_name};
use super::{CONTROLLER, Gateway};
use crate::world;

/// How long Envoy may take for a page.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// Remembers what was written.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    written: BTreeMap<String, Value>,
}

impl Reporter {
    /// Writes the statuses. False when something was not confirmed yet and this should be
    /// tried again soon.
    pub(super) async fn report(&mut self, gateway: &Gateway, config: &Config) -> bool {
        let active = active_listeners(gateway).await.unwrap_or_default();
        let mut settled = true;
        for class in gateway.world.foreign("GatewayClass") {
            if class.data["spec"]["controllerName"] == CONTROLLER {
                let conditions = [condition(&class, "Accepted", true, "Accepted", "")];
                settled &= self
                    .write(
                        gateway,
                        "GatewayClass",
                        &class,
                        &json!({"conditions": conditions}),
                    )
                    .await;
            }
        }
        for object in gateway.world.foreign("Gateway") {
            let mine: Vec<_> = config
                .listeners
                .iter()
                .filter(|listener| {
                    Some(&listener.namespace) == object.namespace().as_ref()
                        && listener.gateway == object.name_any()
                })
                .collect();
            if mine.is_empty() {
                continue;
            }
            let programmed = mine
                .iter()
                .all(|listener| listens(&active, &listener.listen.told()));
            settled &= programmed;
            settled &= self
                .write(
                    gateway,
                    "Gateway",
                    &object,
                    &gateway_status(&object, &mine, programmed),
                )
                .await;
        }
        for object in gateway.world.foreign("HTTPRoute") {
            let status = route_status(&object, config);
            settled &= self.write(gateway, "HTTPRoute", &object, &status).await;
        }
        settled
    }

    async fn write(
        &mut self,
        gateway: &Gateway,
        kind: &str,
        object: &DynamicObject,
        status: &Value,
    ) -> bool {
        let key = format!("{kind}/{}", object.metadata.uid.clone().unwrap_or_default());
        if self.written.get(&key) == Some(status) {
            return true;
        }
        let resource = world::resource(kind);
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(gateway.client.clone(), &namespace, &resource),
            None => Api::all_with(gateway.client.clone(), &resource),
        };
        let mut stamped = status.clone();
        stamp(&mut stamped, &Timestamp::now().to_string());
        let patch = json!({"status": stamped});
        match api
            .patch_status(
                &object.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
        {
            Ok(_) => {
                self.written.insert(key, status.clone());
                true
            }
            Err(kube::Error::Api(error)) if error.code == 404 => true,
            Err(error) => {
                tracing::warn!(kind, name = object.name_any(), %error, "cannot write a status");
                false
            }
        }
    }
}

fn stamp(value: &mut Value, now: &str) {
    match value {
        Value::Object(map) => {
            if map.contains_key("observedGeneration") && map.contains_key("reason") {
                map.insert("lastTransitionTime".to_owned(), now.into());
            }
            map.values_mut().for_each(|inner| stamp(inner, now));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| stamp(inner, now)),
        _ => {}
    }
}

fn condition(object: &DynamicObject, kind: &str, yes: bool, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": if yes { "True" } else { "False" }, "reason": reason, "message": message,
        "observedGeneration": object.metadata.generation.unwrap_or_default(),
    })
}

fn gateway_status(object: &DynamicObject, listeners: &[&Listener], programmed: bool) -> Value {
    let reason = if programmed { "Programmed" } else { "Pending" };
    let message = if programmed {
        ""
    } else {
        "the proxy has not taken the listeners yet"
    };
    let conditions = || {
        vec![
            condition(object, "Accepted", true, "Accepted", ""),
            condition(object, "Programmed", programmed, reason, message),
        ]
    };
    let address = listeners
        .first()
        .map(|listener| listener.listen.ip().to_string());
    let listeners: Vec<_> = listeners
        .iter()
        .map(|listener| {
            let mut conditions = conditions();
            conditions.push(condition(object, "ResolvedRefs", true, "ResolvedRefs", ""));
            json!({
                "name": listener.section, "attachedRoutes": listener.attached.len(), "conditions": conditions,
                "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}],
            })
        })
        .collect();
    let mut status = json!({"conditions": conditions(), "listeners": listeners});
    if programmed {
        status["addresses"] = json!([{"type": "IPAddress", "value": address}]);
    }
    status
}

fn route_status(object: &DynamicObject, config: &Config) -> Value {
    let key = format!(
        "{}/{}",
        object.namespace().unwrap_or_default(),
        object.name_any()
    );
    let attached = config
        .listeners
        .iter()
        .any(|listener| listener.attached.contains(&key));
    let namespace = object.namespace().unwrap_or_default();
    let missing = object.data["spec"]["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|rule| rule["backendRefs"].as_array().cloned().unwrap_or_default())
        .find(|backend| {
            let port = backend["port"]
                .as_i64()
                .and_then(|port| i32::try_from(port).ok())
                .unwrap_or_default();
            let namespace = backend["namespace"].as_str().unwrap_or(&namespace);
            let name = cluster_name(
                port,
                backend["name"].as_str().unwrap_or_default(),
                namespace,
            );
            !config.clusters.contains_key(&name)
        });
    let accepted = if attached {
        condition(object, "Accepted", true, "Accepted", "")
    } else {
        condition(
            object,
            "Accepted",
            false,
            "NoMatchingParent",
            "no listener of a Gateway takes this route",
        )
    };
    let resolved = match missing {
        None => condition(object, "ResolvedRefs", true, "ResolvedRefs", ""),
        Some(backend) => condition(
            object,
            "ResolvedRefs",
            false,
            "BackendNotFound",
            &format!("backend {} is not found", backend["name"]),
        ),
    };
    let parents: Vec<_> = object.data["spec"]["parentRefs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|parent| json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": [accepted, resolved]}))
        .collect();
    json!({"parents": parents})
}

/// Whether a line of the page (`<name>::<address>`) has this address.
fn listens(page: &str, address: &str) -> bool {
    page.lines()
        .filter_map(|line| line.split_once("::"))
        .any(|(_, told)| told == address)
}

/// Addresses Envoy listens on, from its administration page; an Envoy that hangs has none.
async fn active_listeners(gateway: &Gateway) -> Option<String> {
    let page = tokio::time::timeout(PAGE_LIMIT, listeners_page(&gateway.admin)).await;
    page.ok().flatten()
}

async fn listeners_page(admin: &Path) -> Option<String> {
    let stream = UnixStream::connect(admin).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .ok()?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/listeners")
        .header("host", "envoy")
        .body(Empty::<bytes::Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    connection.abort();
    Some(String::from_utf8_lossy(&body).into_owned())
}
