//! What is said to the API server: Events, and annotations that have the kubelet look at a pod.

use std::time::SystemTime;

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod as ApiPod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{notice::Notice, pod::Pod};
use crate::rule::ANNOTATION;

/// Who says so.
const REPORTER: &str = "reload-agent.dev/node";

/// What came of a call.
#[derive(Debug)]
pub(super) struct Outcome {
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

/// Tells of something that is about a pod.
pub(super) async fn publish(
    client: Client,
    pod: ObjectReference,
    node: String,
    notice: Notice,
) -> Outcome {
    let namespace = pod.namespace.clone().unwrap_or_default();
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            // As the kubelet calls its own: the pod's name, and what no other has.
            name: pod.name.as_ref().map(|name| format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some("Reload".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(notice.note),
        reason: Some(notice.reason.to_owned()),
        regarding: Some(pod),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(node),
        type_: Some(notice.weight.name().to_owned()),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(client, &namespace);
    let created = events.create(&PostParams::default(), &event).await;
    Outcome {
        what: "events",
        sentence: "cannot tell of it as an Event; grant create on events of events.k8s.io",
        fault: created.err().filter(|error| !is_gone(error)).map(|error| words(&error)),
    }
}

/// Has the kubelet look at a pod.
pub(super) async fn nudge(client: Client, pod: Pod) -> Outcome {
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let annotations = json!({ format!("{ANNOTATION}nudged"): now });
    // Another pod may have its name by now: that is a conflict, and no change.
    let patch = json!({ "metadata": { "uid": pod.api_uid, "annotations": annotations } });
    let pods: Api<ApiPod> = Api::namespaced(client, &pod.namespace);
    let done = pods.patch_metadata(&pod.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    Outcome {
        what: "nudges",
        sentence: "cannot nudge a pod, so the kubelet looks when it looks; grant patch on pods, or \
                   leave out --nudge",
        fault: done.err().filter(|error| !is_gone(error)).map(|error| words(&error)),
    }
}

/// Whether it has only come too late: the pod is gone, or its namespace is about to be.
fn is_gone(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let is_ending = status.code == 403 && status.message.contains("being terminated");
    status.code == 404 || status.code == 409 || is_ending
}
