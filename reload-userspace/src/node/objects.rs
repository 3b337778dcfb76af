//! Which `ConfigMap` or `Secret` has changed, as far as that shows without reading it: only names and
//! versions are asked for, so that no secret is ever in the agent's memory because of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, spawn},
};

use super::pod::Object;

/// How many changes may wait to be looked at; whoever watches waits with them.
const MOST_WAITING: usize = 256;

/// How many objects are listed at a time.
const PAGE: u32 = 100;

/// What kind of object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// As the API calls them.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }

    fn object(self, name: String) -> Object {
        match self {
            Self::ConfigMap => Object::ConfigMap(name),
            Self::Secret => Object::Secret(name),
        }
    }
}

impl Object {
    /// What kind of object it is.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Secret(_) => Kind::Secret,
        }
    }
}

/// An object that has changed.
#[derive(Debug)]
pub(super) struct Changed {
    /// Its namespace.
    pub(super) namespace: String,
    /// Which one.
    pub(super) object: Object,
}

/// What is told of the objects of a namespace: one has changed, or they cannot be watched.
pub(super) type News = Result<Changed, Unwatched>;

/// The objects of a kind in a namespace cannot be watched.
#[derive(Debug)]
pub(super) struct Unwatched {
    /// Which namespace.
    pub(super) namespace: String,
    /// Which kind.
    pub(super) kind: Kind,
    /// Why.
    pub(super) error: watcher::Error,
}

/// The objects of some namespaces.
pub(super) struct Objects {
    client: Client,
    watches: BTreeMap<(String, Kind), AbortHandle>,
    to: mpsc::Sender<News>,
    from: mpsc::Receiver<News>,
}

impl Objects {
    pub(super) fn new(client: Client) -> Self {
        let (to, from) = mpsc::channel(MOST_WAITING);
        Self { client, watches: BTreeMap::new(), to, from }
    }

    /// From now on the objects of these namespaces are watched, and no others.
    pub(super) fn watch(&mut self, wanted: &BTreeSet<(String, Kind)>) {
        self.watches.retain(|key, watch| {
            let is_wanted = wanted.contains(key);
            if !is_wanted {
                watch.abort();
            }
            is_wanted
        });
        for key in wanted {
            if self.watches.contains_key(key) {
                continue;
            }
            let (namespace, kind) = key.clone();
            let (client, to) = (self.client.clone(), self.to.clone());
            let watch = match kind {
                Kind::ConfigMap => {
                    let api = Api::<PartialObjectMeta<ConfigMap>>::namespaced(client, &namespace);
                    spawn(follow(api, namespace, kind, to))
                }
                Kind::Secret => {
                    let api = Api::<PartialObjectMeta<Secret>>::namespaced(client, &namespace);
                    spawn(follow(api, namespace, kind, to))
                }
            };
            self.watches.insert(key.clone(), watch.abort_handle());
        }
    }

    /// Waits for the next change. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> News {
        match self.from.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

/// Tells of what changes in a namespace after it was first listed.
async fn follow<K>(
    api: Api<PartialObjectMeta<K>>,
    namespace: String,
    kind: Kind,
    to: mpsc::Sender<News>,
) where
    PartialObjectMeta<K>: Resource<DynamicType = ()>,
    K: Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let which = watcher::Config::default().page_size(PAGE);
    let events = watcher(api, which).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut versions = Versions::default();
    while let Some(event) = events.next().await {
        let news = match event {
            Ok(event) => versions.take(event).map(|name| {
                Ok(Changed { namespace: namespace.clone(), object: kind.object(name) })
            }),
            Err(error) => {
                let namespace = namespace.clone();
                Some(Err(Unwatched { namespace, kind, error }))
            }
        };
        if let Some(news) = news
            && to.send(news).await.is_err()
        {
            return;
        }
    }
}

/// The versions of the objects of a namespace that are known.
#[derive(Debug, Default)]
struct Versions {
    known: HashMap<String, String>,
    listed: BTreeSet<String>,
    is_synced: bool,
}

impl Versions {
    /// Gives the name of what has changed since it was known.
    fn take<K>(&mut self, event: watcher::Event<PartialObjectMeta<K>>) -> Option<String> {
        match event {
            watcher::Event::Init => {
                self.listed.clear();
                None
            }
            watcher::Event::InitApply(object) => {
                self.listed.extend(object.metadata.name.clone());
                let is_new = self.note(object);
                is_new.filter(|_| self.is_synced)
            }
            watcher::Event::InitDone => {
                self.is_synced = true;
                let listed = std::mem::take(&mut self.listed);
                self.known.retain(|name, _| listed.contains(name));
                None
            }
            watcher::Event::Apply(object) => self.note(object),
            watcher::Event::Delete(object) => {
                object.metadata.name.and_then(|name| self.known.remove(&name));
                None
            }
        }
    }

    /// Notes a version, and gives the name if it is another one and what is in the object may be, too.
    fn note<K>(&mut self, object: PartialObjectMeta<K>) -> Option<String> {
        let is_immutable = is_immutable(&object);
        let (name, version) = object.metadata.name.zip(object.metadata.resource_version)?;
        let before = self.known.insert(name.clone(), version.clone());
        (before.as_ref() != Some(&version) && !is_immutable).then_some(name)
    }
}

/// Whether somebody has said that what is in the object never changes: then nobody need look.
fn is_immutable<K>(object: &PartialObjectMeta<K>) -> bool {
    let fields = object.metadata.managed_fields.iter().flatten();
    let mut fields = fields.filter_map(|it| it.fields_v1.as_ref()?.0.as_object());
    fields.any(|fields| fields.contains_key("f:immutable"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
        FieldsV1, ManagedFieldsEntry, ObjectMeta,
    };
    use serde_json::json;

    use super::*;

    fn object(name: &str, version: &str) -> PartialObjectMeta<Secret> {
        PartialObjectMeta {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            ..PartialObjectMeta::default()
        }
    }

    #[test]
    fn what_was_there_is_no_change_and_what_changed_meanwhile_is() {
        let mut versions = Versions::default();
        let mut take = |event| versions.take(event);
        let list = |objects: &[(&str, &str)]| {
            let objects = objects.iter().map(|(name, version)| object(name, version));
            let objects = objects.map(watcher::Event::InitApply).collect::<Vec<_>>();
            [vec![watcher::Event::Init], objects, vec![watcher::Event::InitDone]].concat()
        };
        let first: Vec<_> =
            list(&[("a", "1"), ("b", "1")]).into_iter().filter_map(&mut take).collect();
        assert_eq!(first, [""; 0]);
        assert_eq!(take(watcher::Event::Apply(object("a", "2"))).as_deref(), Some("a"));
        assert_eq!(take(watcher::Event::Apply(object("a", "2"))), None, "told twice");
        assert_eq!(take(watcher::Event::Apply(object("new", "3"))).as_deref(), Some("new"));
        // The watch was interrupted, and everything is listed anew.
        let again = list(&[("a", "2"), ("b", "4"), ("new", "3")]);
        assert_eq!(again.into_iter().filter_map(&mut take).collect::<Vec<_>>(), ["b"]);
        take(watcher::Event::Delete(object("b", "4")));
        assert_eq!(take(watcher::Event::Apply(object("b", "9"))).as_deref(), Some("b"));
    }

    #[test]
    fn what_never_changes_is_no_reason_to_look() {
        let mut immutable = object("a", "1");
        immutable.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
            fields_v1: Some(FieldsV1(json!({"f:data": {}, "f:immutable": {}}))),
            ..ManagedFieldsEntry::default()
        }]);
        let mut versions = Versions::default();
        versions.take::<Secret>(watcher::Event::Init);
        versions.take::<Secret>(watcher::Event::InitDone);
        assert_eq!(versions.take(watcher::Event::Apply(immutable)), None);
    }
}
