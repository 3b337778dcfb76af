//! The manifests of `deploy/`, as far as they go: what is not described here is refused.
//!
//! The types are those of Kubernetes, cut down to what the manifests use, so that a misspelt or
//! misplaced key is found.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::kubelet::Keys;

/// A file of `deploy/sidecar`: a `ConfigMap` and a `Deployment`.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    /// The data of the `ConfigMap`.
    pub(crate) keys: Keys,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) pod: Pod,
}

impl Manifest {
    /// Reads `deploy/sidecar/<name>.yaml`.
    #[track_caller]
    pub(crate) fn read(name: &str) -> Self {
        let path = folder().join(name).with_extension("yaml");
        let text = fs::read_to_string(path).unwrap();
        let objects: Vec<Object> = match serde_saphyr::from_multiple(&text) {
            Ok(objects) => objects,
            Err(error) => panic!("{name}.yaml: {error}"),
        };
        let [Object::ConfigMap(config), Object::Deployment(deployment)] =
            <[Object; 2]>::try_from(objects).expect("a manifest has two objects")
        else {
            panic!("{name}.yaml is not a ConfigMap and a Deployment");
        };
        assert_eq!((&*config.api_version, &*deployment.api_version), ("v1", "apps/v1"));
        let Deployment { metadata, spec, .. } = deployment;
        assert_eq!(spec.selector.match_labels, spec.template.metadata.labels);
        let volumes = &spec.template.spec.volumes;
        let mounted = volumes.iter().find_map(|volume| volume.config_map.as_ref()).unwrap();
        assert_eq!(mounted.name, config.metadata.name);
        let Template { metadata: TemplateMetadata { annotations, .. }, spec: pod } = spec.template;
        Self { name: metadata.name, keys: config.data, annotations, pod }
    }

    /// The names of all that there are.
    pub(crate) fn names() -> Vec<String> {
        let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
        let manifests = files.filter(|path| path.extension().is_some_and(|end| end == "yaml"));
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<_> = manifests.map(|path| stem(&path)).collect();
        names.sort_unstable();
        names
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/sidecar"))
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind")]
enum Object {
    ConfigMap(ConfigMap),
    Deployment(Deployment),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigMap {
    api_version: String,
    metadata: Metadata,
    data: Keys,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Deployment {
    api_version: String,
    metadata: Metadata,
    spec: DeploymentSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeploymentSpec {
    selector: Selector,
    template: Template,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    metadata: TemplateMetadata,
    spec: Pod,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateMetadata {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

/// What a pod is made of.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pod {
    pub(crate) share_process_namespace: bool,
    pub(crate) security_context: PodSecurity,
    pub(crate) containers: Vec<Container>,
    pub(crate) volumes: Vec<Volume>,
}

/// What holds for all containers of a pod that say nothing else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PodSecurity {
    pub(crate) run_as_user: Option<u32>,
    pub(crate) run_as_group: Option<u32>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) seccomp_profile: SeccompProfile,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SeccompProfile {
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// One container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    #[serde(rename = "imagePullPolicy")]
    _image_pull_policy: Option<String>,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<Variable>,
    #[serde(default)]
    pub(crate) ports: Vec<Port>,
    pub(crate) liveness_probe: Option<Probe>,
    pub(crate) readiness_probe: Option<Probe>,
    pub(crate) security_context: Security,
    #[serde(default)]
    pub(crate) resources: Resources,
    pub(crate) volume_mounts: Vec<Mount>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Port {
    pub(crate) container_port: u16,
}

/// A question of the kubelet's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Probe {
    pub(crate) http_get: HttpGet,
    #[serde(rename = "timeoutSeconds")]
    _timeout_seconds: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpGet {
    pub(crate) path: String,
    pub(crate) port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Security {
    pub(crate) run_as_user: Option<u32>,
    pub(crate) run_as_group: Option<u32>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) allow_privilege_escalation: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) read_only_root_filesystem: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capabilities {
    pub(crate) drop: Vec<String>,
    #[serde(default)]
    pub(crate) add: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resources {
    #[serde(default)]
    pub(crate) requests: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) limits: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Mount {
    pub(crate) name: String,
    #[serde(rename = "mountPath")]
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) config_map: Option<ConfigMapVolume>,
    pub(crate) empty_dir: Option<EmptyDir>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigMapVolume {
    pub(crate) name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmptyDir {}
