//! The Kubernetes vocabulary: `ModelService` and the few foreign objects we
//! render. PURE data: no logic beyond defaults and schema; imports nothing of the crate
//! but `contract`.

pub mod conditions;
pub mod crd;
pub mod foreign;
pub mod modelservice;

pub use modelservice::{ModelService, ModelServiceSpec, ModelServiceStatus};
