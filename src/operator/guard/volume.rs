//! Volumes -> those that reach beyond the namespace. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Volume, VolumeProjection};

use super::{Permission, Refusals};

pub(super) fn volume(volume: &Volume, refusals: &mut Refusals<'_>) {
    let Volume {
        name,
        // Of the namespace, the pod itself or an image.
        config_map: _,
        downward_api: _,
        empty_dir: _,
        ephemeral: _,
        image: _,
        persistent_volume_claim: _,
        secret: _,
        projected,
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        csi,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        host_path,
        iscsi,
        nfs,
        photon_persistent_disk,
        portworx_volume,
        quobyte,
        rbd,
        scale_io,
        storageos,
        vsphere_volume,
    } = volume;
    if host_path.is_some() {
        let what = format!("the hostPath volume {name:?}");
        refusals.add(Permission::HostPath, None, "hostPath", what);
    }
    if csi.is_some() {
        let what = format!("the inline CSI volume {name:?}");
        refusals.add(Permission::InlineCsi, None, "csi", what);
    }
    for (asked, field) in [
        (aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (azure_disk.is_some(), "azureDisk"),
        (azure_file.is_some(), "azureFile"),
        (cephfs.is_some(), "cephfs"),
        (cinder.is_some(), "cinder"),
        (fc.is_some(), "fc"),
        (flex_volume.is_some(), "flexVolume"),
        (flocker.is_some(), "flocker"),
        (gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (git_repo.is_some(), "gitRepo"),
        (glusterfs.is_some(), "glusterfs"),
        (iscsi.is_some(), "iscsi"),
        (nfs.is_some(), "nfs"),
        (photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (portworx_volume.is_some(), "portworxVolume"),
        (quobyte.is_some(), "quobyte"),
        (rbd.is_some(), "rbd"),
        (scale_io.is_some(), "scaleIO"),
        (storageos.is_some(), "storageos"),
        (vsphere_volume.is_some(), "vsphereVolume"),
    ] {
        if asked {
            let what = format!("the {field} volume {name:?}");
            refusals.add(Permission::NetworkVolumes, None, field, what);
        }
    }
    let sources = projected.iter().flat_map(|p| p.sources.iter().flatten());
    for source in sources {
        projection(name, source, refusals);
    }
}

fn projection(volume: &str, source: &VolumeProjection, refusals: &mut Refusals<'_>) {
    let VolumeProjection {
        config_map: _,
        downward_api: _,
        secret: _,
        cluster_trust_bundle,
        pod_certificate,
        service_account_token,
    } = source;
    let token = service_account_token.as_ref();
    let audience = token.and_then(|token| token.audience.as_deref());
    if let Some(audience) = audience.filter(|audience| !audience.is_empty()) {
        let what = format!("a token for {audience:?} in volume {volume:?}");
        refusals.add(Permission::TokenAudience, None, "serviceAccountToken", what);
    }
    if cluster_trust_bundle.is_some() {
        let what = format!("a trust bundle of the cluster in volume {volume:?}");
        refusals.add(Permission::TokenAudience, None, "clusterTrustBundle", what);
    }
    if pod_certificate.is_some() {
        let what = format!("a certificate of the pod in volume {volume:?}");
        refusals.add(Permission::TokenAudience, None, "podCertificate", what);
    }
}
