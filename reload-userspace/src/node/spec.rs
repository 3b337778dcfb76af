//! A pod as the API server tells of it, as far as the agent reads it: all else is passed over while it is
//! parsed, for pods are many and their specs are long.

use std::borrow::Cow;

use kube::{
    Resource,
    core::{NamespaceResourceScope, ObjectMeta},
};
use serde::Deserialize;

/// A pod.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Option<PodSpec>,
    pub(super) status: Option<PodStatus>,
}

/// What it is to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) volumes: Option<Vec<Volume>>,
    pub(super) containers: Option<Vec<Container>>,
    pub(super) init_containers: Option<Vec<Container>>,
}

impl PodSpec {
    /// The containers that run at the same time; a sidecar of the new kind is an init container that goes on.
    pub(super) fn running(&self) -> impl Iterator<Item = &Container> {
        let goes_on = |it: &&Container| it.restart_policy.as_deref() == Some("Always");
        let sidecars = self.init_containers.iter().flatten().filter(goes_on);
        self.containers.iter().flatten().chain(sidecars)
    }
}

/// One of its containers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) restart_policy: Option<String>,
    pub(super) volume_mounts: Option<Vec<VolumeMount>>,
}

/// Where it has a volume.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount {
    pub(super) name: String,
    pub(super) mount_path: String,
    pub(super) sub_path: Option<String>,
    pub(super) sub_path_expr: Option<String>,
}

/// One of its volumes; of the kinds that the kubelet does not update only the name.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) config_map: Option<Named>,
    pub(super) secret: Option<SecretVolume>,
    pub(super) projected: Option<Projected>,
    #[serde(rename = "downwardAPI")]
    pub(super) downward_api: Option<DownwardApi>,
}

/// A `ConfigMap` or `Secret` by name.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    #[serde(default)]
    pub(super) name: String,
}

/// The same, as a volume calls it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretVolume {
    pub(super) secret_name: Option<String>,
}

/// A volume of several things.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Projected {
    pub(super) sources: Option<Vec<Projection>>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Projection {
    pub(super) config_map: Option<Named>,
    pub(super) secret: Option<Named>,
    pub(super) service_account_token: Option<Anything>,
    #[serde(rename = "downwardAPI")]
    pub(super) downward_api: Option<DownwardApi>,
}

/// What a pod is told of itself.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct DownwardApi {
    pub(super) items: Option<Vec<DownwardApiItem>>,
}

/// One thing of that.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DownwardApiItem {
    pub(super) field_ref: Option<FieldRef>,
}

/// Which.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FieldRef {
    pub(super) field_path: String,
}

impl DownwardApi {
    /// Whether all annotations are told.
    pub(super) fn shows_annotations(&self) -> bool {
        let mut fields = self.items.iter().flatten().filter_map(|it| it.field_ref.as_ref());
        fields.any(|it| it.field_path == "metadata.annotations")
    }
}

/// Something that is there, whatever is in it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Anything {}

/// How it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    pub(super) container_statuses: Option<Vec<ContainerStatus>>,
    pub(super) init_container_statuses: Option<Vec<ContainerStatus>>,
}

/// How one of its containers is.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
