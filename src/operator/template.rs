//! Base config values and args with `{{ … }}` -> plain text. PURE: the Go template engine
//! with this operator's variables and its one own function, `getPort`.
#![deny(clippy::disallowed_methods)]

use super::artifacts::Artifacts;
use super::names::{self, Role};
use crate::api::ModelService;
use std::sync::{Mutex, PoisonError};

use crate::gotemplate::{Error, Functions, Limits, Spent, Template, Value};

/// How much all texts of one ModelService and its base may use together; each one alone has
/// [`Limits::default`].
const TOGETHER: Limits = Limits {
    output_bytes: 2 << 20,
    steps: 400_000,
    work_bytes: 64 << 20,
    depth: 100,
};

/// Renders text for one ModelService.
pub struct Renderer {
    data: Value,
    functions: Functions,
    /// What the texts so far have used.
    spent: Mutex<Spent>,
}

impl Renderer {
    /// Collects what templates may refer to.
    pub fn new(ms: &ModelService, name: &str, namespace: &str, artifacts: &Artifacts) -> Self {
        let model = &ms.spec.routing.model_name;
        let sanitized = names::sanitize(model);
        let fields = [
            ("ModelServiceName", name.to_owned()),
            ("ModelServiceNamespace", namespace.to_owned()),
            ("ModelName", model.clone()),
            (
                "SanitizedModelName",
                if sanitized.is_empty() {
                    "default-modelName".to_owned()
                } else {
                    sanitized
                },
            ),
            ("HFModelName", artifacts.hf_model_name().to_owned()),
            ("ModelPath", artifacts.model_path().to_owned()),
            ("MountedModelPath", artifacts.mounted_path()),
            (
                "AuthSecretName",
                ms.spec
                    .model_artifacts
                    .auth_secret_name
                    .clone()
                    .unwrap_or_default(),
            ),
            ("EPPServiceName", names::epp_service(name)),
            ("EPPDeploymentName", names::epp_deployment(name)),
            (
                "PrefillDeploymentName",
                names::deployment(name, Role::Prefill),
            ),
            (
                "DecodeDeploymentName",
                names::deployment(name, Role::Decode),
            ),
            ("PrefillServiceName", names::service(name, Role::Prefill)),
            ("DecodeServiceName", names::service(name, Role::Decode)),
            ("InferencePoolName", names::inference_pool(name)),
            ("InferenceModelName", name.to_owned()),
        ];
        let data = Value::structure(fields.map(|(name, value)| (name, Value::from(value))));
        let ports: Vec<(String, i32)> = ms
            .spec
            .routing
            .ports
            .iter()
            .map(|port| (port.name.clone(), port.port))
            .collect();
        let functions = Functions::standard().with("getPort", move |args| {
            let [Value::String(wanted)] = args else {
                return Err("wants one argument: the name of a port".to_owned());
            };
            match ports.iter().find(|(name, _)| name == wanted) {
                Some((_, port)) => Ok(Value::Int(i64::from(*port))),
                None => Err(format!("spec.routing.ports has no port named {wanted:?}")),
            }
        });
        Self {
            data,
            functions,
            spent: Mutex::default(),
        }
    }

    /// Renders one text; `key` is how errors name it.
    ///
    /// # Errors
    /// With key, line and column, for anything Go's engine would refuse and for the
    /// functions this one refuses. Also when this text and those before it, together, make
    /// too much.
    pub fn render(&self, key: &str, text: &str) -> Result<String, Error> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        Template::parse(key, text, &self.functions)?.render_after(
            &self.data,
            &self.functions,
            &Limits::default(),
            &TOGETHER,
            &mut spent,
        )
    }
}
