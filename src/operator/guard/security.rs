//! Security contexts -> what they ask for beyond a container. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
    WindowsSecurityContextOptions,
};

use super::{Permission, Refusals};

/// The one capability that Pod Security "restricted" lets a container add
/// (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).
const HARMLESS_CAPABILITY: &str = "NET_BIND_SERVICE";
/// SELinux types of Pod Security "baseline".
const SE_LINUX_TYPES: &[&str] = &[
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];
/// Sysctls of Pod Security "baseline".
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

pub(super) fn of_pod(context: &PodSecurityContext, refusals: &mut Refusals<'_>) {
    let PodSecurityContext {
        app_armor_profile,
        fs_group: _,
        fs_group_change_policy: _,
        run_as_group: _,
        run_as_non_root: _,
        run_as_user: _,
        se_linux_change_policy: _,
        se_linux_options,
        seccomp_profile,
        supplemental_groups: _,
        supplemental_groups_policy: _,
        sysctls,
        windows_options,
    } = context;
    profiles(
        seccomp_profile.as_ref(),
        app_armor_profile.as_ref(),
        None,
        refusals,
    );
    se_linux(se_linux_options.as_ref(), None, refusals);
    windows(windows_options.as_ref(), None, refusals);
    for sysctl in sysctls.iter().flatten() {
        if !SAFE_SYSCTLS.contains(&sysctl.name.as_str()) {
            let what = format!("the sysctl {}", sysctl.name);
            refusals.add(Permission::Sysctls, None, "sysctls", what);
        }
    }
}

pub(super) fn of_container(context: &SecurityContext, name: &str, refusals: &mut Refusals<'_>) {
    let SecurityContext {
        // The default is to allow it; what it gives is what the image's own files give.
        allow_privilege_escalation: _,
        app_armor_profile,
        capabilities,
        privileged,
        proc_mount,
        read_only_root_filesystem: _,
        run_as_group: _,
        run_as_non_root: _,
        run_as_user: _,
        se_linux_options,
        seccomp_profile,
        windows_options,
    } = context;
    if *privileged == Some(true) {
        let what = format!("the privileged container {name:?}");
        refusals.add(Permission::Privileged, None, "privileged", what);
    }
    let added = capabilities.iter().flat_map(|c| c.add.iter().flatten());
    for capability in added {
        let bare = capability.strip_prefix("CAP_").unwrap_or(capability);
        if bare != HARMLESS_CAPABILITY {
            let what = format!("the capability {capability}");
            refusals.add(Permission::Capabilities, Some(name), "capabilities", what);
        }
    }
    if let Some(mount) = proc_mount.as_deref().filter(|mount| *mount != "Default") {
        let what = format!("procMount {mount}");
        refusals.add(Permission::Privileged, Some(name), "procMount", what);
    }
    profiles(
        seccomp_profile.as_ref(),
        app_armor_profile.as_ref(),
        Some(name),
        refusals,
    );
    se_linux(se_linux_options.as_ref(), Some(name), refusals);
    windows(windows_options.as_ref(), Some(name), refusals);
}

fn profiles(
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    container: Option<&str>,
    refusals: &mut Refusals<'_>,
) {
    let seccomp = seccomp.map(|p| (&p.type_, "seccomp", "seccompProfile"));
    let app_armor = app_armor.map(|p| (&p.type_, "AppArmor", "appArmorProfile"));
    for (kind, name, field) in seccomp.into_iter().chain(app_armor) {
        let what = match kind.as_str() {
            "RuntimeDefault" => continue,
            "Unconfined" => format!("an unconfined {name} profile"),
            other => format!("a {name} profile of type {other}"),
        };
        refusals.add(Permission::Profiles, container, field, what);
    }
}

fn se_linux(
    options: Option<&SELinuxOptions>,
    container: Option<&str>,
    refusals: &mut Refusals<'_>,
) {
    let Some(options) = options else { return };
    let SELinuxOptions {
        level: _,
        role,
        type_,
        user,
    } = options;
    let type_ = type_.as_deref().unwrap_or_default();
    if !SE_LINUX_TYPES.contains(&type_) {
        let what = format!("the SELinux type {type_}");
        refusals.add(Permission::SeLinux, container, "seLinuxOptions", what);
    }
    for (name, value) in [("user", user), ("role", role)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            let what = format!("the SELinux {name} {value}");
            refusals.add(Permission::SeLinux, container, "seLinuxOptions", what);
        }
    }
}

fn windows(
    options: Option<&WindowsSecurityContextOptions>,
    container: Option<&str>,
    refusals: &mut Refusals<'_>,
) {
    if options.is_some_and(|options| options.host_process == Some(true)) {
        refusals.add(
            Permission::Privileged,
            container,
            "hostProcess",
            "hostProcess",
        );
    }
}
