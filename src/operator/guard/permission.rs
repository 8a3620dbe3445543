//! What an administrator can permit, by names as a flag has them. PURE.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::nearest::nearest;

macro_rules! permissions {
    ($($variant:ident $name:literal $doc:literal)*) => {
        /// A kind of reach that templates may be permitted.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Permission {
            $(#[doc = $doc] $variant,)*
        }

        impl Permission {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in flags and messages.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

permissions! {
    HostNamespaces "host-namespaces" "The node's network, processes or IPC."
    HostPath "host-path" "Folders of the node."
    HostPort "host-port" "Ports of the node."
    Privileged "privileged" "Privileged containers, host processes of Windows, unmasked `/proc`."
    Capabilities "capabilities" "Capabilities beyond NET_BIND_SERVICE, such as IPC_LOCK for RDMA."
    Profiles "profiles" "Unconfined or node-local seccomp and AppArmor profiles."
    SeLinux "se-linux" "SELinux types beyond those of containers, users, roles."
    Sysctls "sysctls" "Sysctls that Pod Security does not call safe."
    NodeName "node-name" "Choosing the node past the scheduler."
    SystemPriority "system-priority" "Priorities of system components."
    ControlPlane "control-plane" "Tolerating every taint, or those of control planes."
    ProbeHost "probe-host" "Probes and hooks that the kubelet sends to another host."
    NetworkVolumes "network-volumes" "Volumes that name servers or disks: NFS, iSCSI and the like."
    InlineCsi "inline-csi" "CSI volumes without a claim."
    RawDevices "raw-devices" "Block devices."
    TokenAudience "token-audience" "Tokens for other audiences, certificates of the pod, trust bundles."
    Annotations "annotations" "Annotations that add networks or instruct container runtimes."
    ExternalServices "external-services" "Services that are reached from outside the cluster, or lead there."
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.iter();
        if let Some(found) = all.find(|permission| permission.as_str() == text) {
            return Ok(*found);
        }
        let names = Self::ALL.iter().map(|permission| permission.as_str());
        let hint = nearest(text, names.clone()).map_or_else(
            || format!("known are {}", names.collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean {near}?"),
        );
        Err(format!("{text:?} is nothing that can be permitted; {hint}"))
    }
}

/// What an administrator permits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allowed(BTreeSet<Permission>);

impl Allowed {
    /// Everything.
    pub fn all() -> Self {
        Self(Permission::ALL.iter().copied().collect())
    }

    /// Permits one kind more.
    pub fn permit(&mut self, permission: Permission) {
        self.0.insert(permission);
    }

    /// True when the kind is permitted.
    pub fn has(&self, permission: Permission) -> bool {
        self.0.contains(&permission)
    }
}

impl FromIterator<Permission> for Allowed {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_a_wrong_one_names_the_nearest() {
        for permission in Permission::ALL {
            assert_eq!(permission.as_str().parse(), Ok(*permission));
        }
        let error = "hostpath".parse::<Permission>().unwrap_err();
        assert!(error.ends_with("did you mean host-path?"), "{error}");
    }
}
