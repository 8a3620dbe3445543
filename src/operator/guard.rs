//! Rendered pods and Services -> what they ask for beyond their own namespace and containers. PURE.
//!
//! Whoever may create a ModelService and a ConfigMap uses the operator's rights. So what
//! reaches for the node, for other networks or for other people's identities is refused unless
//! an administrator permits its kind. These are allow lists: the types are taken apart whole, so
//! that a field of a later Kubernetes does not compile until somebody decides about it.
//!
//! Not refused, since a pod's author has it by Kubernetes' own rules: to run as root (engines'
//! images do; Pod Security admission is the namespace's own business), to mount Secrets,
//! ConfigMaps and claims of the namespace, to ask for devices and runtime classes.
#![deny(clippy::disallowed_methods)]

mod permission;
mod pod;
mod security;
mod service;
mod volume;

#[cfg(test)]
mod tests;

pub use self::permission::{Allowed, Permission};
pub use self::pod::pod;
pub use self::service::service;

/// Something that an administrator has to permit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The kind that would permit it.
    pub permission: Permission,
    /// The container that asks; `None` for the pod or the object itself.
    pub container: Option<String>,
    /// Name of the field, to find its line.
    pub field: &'static str,
    /// Completes "asks for".
    pub what: String,
}

/// Collects refusals of kinds that are not permitted.
struct Refusals<'a> {
    allowed: &'a Allowed,
    found: Vec<Refusal>,
}

impl Refusals<'_> {
    fn add(
        &mut self,
        permission: Permission,
        container: Option<&str>,
        field: &'static str,
        what: impl Into<String>,
    ) {
        if self.allowed.has(permission) {
            return;
        }
        let mut what = what.into();
        if let Some(container) = container {
            what.push_str(&format!(" in container {container:?}"));
        }
        self.found.push(Refusal {
            permission,
            container: container.map(str::to_owned),
            field,
            what,
        });
    }
}
