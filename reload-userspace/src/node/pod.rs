//! What the agent knows of a pod: little, for there are hundreds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::spec::{self, DownwardApi};
use crate::{
    rule::{ANNOTATION, PodRule},
    target::{ContainerId, PodUid},
};

/// Where the token of a service account is mounted, which is renewed all the time.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The annotation that the agent itself sets, so that the kubelet looks at the pod: what comes after
/// `reload-agent.dev/`.
pub(super) const NUDGED: &str = "nudged";

/// What the pod has that stands for a file on the node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    /// What tells it from all others that ever were. The API server has chosen it; nothing that the pod says
    /// of itself goes into it, for by it the pod's processes and volumes are found.
    pub(super) uid: PodUid,
    /// The same as the API writes it.
    pub(super) api_uid: String,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// Its annotations for the agent, by what comes after `reload-agent.dev/`.
    pub(super) annotations: BTreeMap<String, String>,
    /// Its volumes that the kubelet updates, in the order of the spec.
    pub(super) volumes: Vec<Volume>,
    /// Its containers by name, and how the runtime calls those that there are.
    pub(super) containers: BTreeMap<String, Option<ContainerId>>,
    /// Whether its containers run or are to.
    pub(super) is_alive: bool,
}

/// A volume that the kubelet updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// Its name.
    pub(super) name: String,
    /// What the kubelet calls the kind of it, in the name of a directory.
    pub(super) plugin: &'static str,
    /// What it is made of, each once.
    pub(super) objects: Vec<Object>,
    /// Whether it is there for the token of the service account, which nobody has asked for.
    pub(super) is_token: bool,
    /// Whether all annotations of the pod are in it, those too that the agent sets.
    pub(super) shows_annotations: bool,
    /// The containers that mount a part of it, which is never updated.
    pub(super) sub_paths: BTreeSet<String>,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Object {
    /// The `ConfigMap` of that name.
    ConfigMap(String),
    /// The `Secret` of that name.
    Secret(String),
}

impl Pod {
    /// What matters of a pod, or `None` where it is not one that can run, or need a reload: it is over, or
    /// stands for a file on the node, whose pod is called otherwise there and can mount no object.
    pub(super) fn of(pod: &spec::Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let meta = &pod.metadata;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let annotations = meta.annotations.iter().flatten();
        let is_mirror = annotations.clone().any(|(key, _)| key == MIRROR);
        if is_mirror || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let annotations = annotations.filter_map(|(key, value)| {
            let name = key.strip_prefix(ANNOTATION).filter(|name| *name != NUDGED)?;
            // Of one that is too long as much as it takes to see that: a character has four bytes at most.
            let kept = value.floor_char_boundary(PodRule::most_of(name) + 4);
            Some((name.to_owned(), value[..kept].to_owned()))
        });
        let mut pod = Self {
            uid: meta.uid.as_ref()?.parse().ok()?,
            api_uid: meta.uid.clone()?,
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
            labels: meta.labels.clone().unwrap_or_default().into_iter().collect(),
            annotations: annotations.collect(),
            volumes: spec.volumes.iter().flatten().filter_map(|it| Volume::of(it, spec)).collect(),
            containers: spec
                .containers
                .iter()
                .flatten()
                .map(|it| (it.name.clone(), None))
                .collect(),
            // Whoever is about to be ended needs no reload.
            is_alive: meta.deletion_timestamp.is_none(),
        };
        let statuses = status.into_iter().flat_map(|status| {
            let both = [&status.container_statuses, &status.init_container_statuses];
            both.into_iter().flatten().flatten()
        });
        for status in statuses {
            let id = status.container_id.as_deref().and_then(|id| id.parse().ok());
            if let Some(known) = pod.containers.get_mut(&status.name) {
                *known = id;
            }
        }
        Some(pod)
    }

    /// How it is called in logs and metrics.
    pub(super) fn called(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// How Kubernetes refers to it.
    pub(super) fn reference(&self) -> Value {
        let Self { namespace, name, api_uid, .. } = self;
        json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": api_uid,
        })
    }
}

impl Volume {
    /// The volume if it is of a kind that the kubelet updates.
    fn of(volume: &spec::Volume, spec: &spec::PodSpec) -> Option<Self> {
        let config_map = |name: &str| Object::ConfigMap(name.to_owned());
        let secret = |name: &str| Object::Secret(name.to_owned());
        let mut is_token = false;
        let mut shows_annotations = false;
        let mut objects = BTreeSet::new();
        let plugin = if let Some(it) = &volume.config_map {
            objects.insert(config_map(&it.name));
            "configmap"
        } else if let Some(it) = &volume.secret {
            objects.extend(it.secret_name.as_deref().map(secret));
            "secret"
        } else if let Some(it) = &volume.projected {
            for source in it.sources.iter().flatten() {
                is_token |= source.service_account_token.is_some();
                shows_annotations |=
                    source.downward_api.as_ref().is_some_and(DownwardApi::shows_annotations);
                objects.extend(source.config_map.iter().map(|it| config_map(&it.name)));
                objects.extend(source.secret.iter().map(|it| secret(&it.name)));
            }
            "projected"
        } else if let Some(it) = &volume.downward_api {
            shows_annotations = it.shows_annotations();
            "downward-api"
        } else {
            return None;
        };
        let mut sub_paths = BTreeSet::new();
        // Those that end before the others start never live to see an update.
        for container in spec.running() {
            let mounts = container.volume_mounts.iter().flatten();
            for mount in mounts.filter(|it| it.name == volume.name) {
                is_token |= mount.mount_path.trim_end_matches('/') == TOKEN;
                let is_part =
                    |path: &Option<String>| path.as_ref().is_some_and(|it| !it.is_empty());
                if is_part(&mount.sub_path) || is_part(&mount.sub_path_expr) {
                    sub_paths.insert(container.name.clone());
                }
            }
        }
        Some(Self {
            name: volume.name.clone(),
            plugin,
            objects: objects.into_iter().collect(),
            is_token,
            shows_annotations,
            sub_paths,
        })
    }
}
