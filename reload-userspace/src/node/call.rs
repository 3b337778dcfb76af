//! What is said to the API server: Events, and annotations that have the kubelet look at a pod.

use std::time::SystemTime;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::json;

use super::{
    notice::Notice,
    pod::{NUDGED, Pod},
    spec,
};
use crate::rule::ANNOTATION;

/// Who says so.
const REPORTER: &str = "reload-agent.dev/node";

/// How much of a pod's name is in that of an Event.
const MOST_NAME: usize = 200;

/// What came of a call.
#[derive(Debug)]
pub(super) struct Answer {
    /// What kind of call it was.
    pub(super) what: &'static str,
    /// What to say of it if it went wrong.
    pub(super) sentence: &'static str,
    /// What went wrong, if anything did.
    pub(super) fault: Option<String>,
}

/// What went wrong with a call, in the server's own words where it has answered.
pub(super) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => {
            let mut words = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                // Some say their cause themselves.
                let cause_words = cause.to_string();
                if !words.contains(&cause_words) {
                    words = format!("{words}: {cause_words}");
                }
                source = cause.source();
            }
            words
        }
    }
}

/// Tells of something that is about a pod, as an Event of `events.k8s.io/v1`.
pub(super) async fn publish(client: Client, pod: Pod, node: String, notice: Notice) -> Answer {
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A name has 253 characters at most.
    let start: String = pod.name.chars().take(MOST_NAME).collect();
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        // As the kubelet calls its own: the pod's name, and what no other has.
        "metadata": { "namespace": pod.namespace, "name": format!("{start}.{:x}", since.as_nanos()) },
        "action": "Reload",
        "eventTime": humantime::format_rfc3339_micros(now).to_string(),
        "note": notice.note,
        "reason": notice.reason,
        "regarding": pod.reference(),
        "reportingController": REPORTER,
        "reportingInstance": node,
        "type": notice.weight.name(),
    });
    let kind = GroupVersionKind::gvk("events.k8s.io", "v1", "Event");
    let kind = ApiResource::from_gvk_with_plural(&kind, "events");
    let events: Api<DynamicObject> = Api::namespaced_with(client, &pod.namespace, &kind);
    let created = match serde_json::from_value(event) {
        Ok(event) => events.create(&PostParams::default(), &event).await.map(drop),
        Err(error) => Err(kube::Error::SerdeError(error)),
    };
    Answer {
        what: "events",
        sentence: "cannot tell of it as an Event",
        fault: created.err().and_then(|it| fault(&it, "grant create on events of events.k8s.io")),
    }
}

/// Has the kubelet look at a pod.
pub(super) async fn nudge(client: Client, pod: Pod) -> Answer {
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let annotations = json!({ format!("{ANNOTATION}{NUDGED}"): now });
    // Another pod may have its name by now: that is a conflict, and no change.
    let patch = json!({ "metadata": { "uid": pod.api_uid, "annotations": annotations } });
    let pods: Api<spec::Pod> = Api::namespaced(client, &pod.namespace);
    let done = pods.patch_metadata(&pod.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    Answer {
        what: "nudges",
        sentence: "cannot nudge a pod, so the kubelet looks when it looks",
        fault: done.err().and_then(|it| fault(&it, "grant patch on pods, or leave out --nudge")),
    }
}

/// What is wrong if a call went so, with the remedy where it is that the right is missing.
fn fault(error: &kube::Error, remedy: &str) -> Option<String> {
    let is_refused = matches!(error, kube::Error::Api(status) if status.code == 403);
    match words(error) {
        _ if is_gone(error) => None,
        words if is_refused => Some(format!("{words}; {remedy}")),
        words => Some(words),
    }
}

/// Whether it has only come too late: the pod is gone, or its namespace is about to be.
fn is_gone(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let is_ending = status.code == 403 && status.message.contains("being terminated");
    status.code == 404 || status.code == 409 || is_ending
}
