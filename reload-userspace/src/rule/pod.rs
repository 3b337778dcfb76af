//! What can be said of a pod's processes: by its annotations, or in the node's file.
//!
//! **Invariant:** a rule of a pod is about nothing but the pod: it watches volumes of the pod and nothing
//! beyond them, means processes of the pod's containers only, and checks where these run. There is no key
//! for a path, a command of the agent's, or a request.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    MOST_CHARACTERS, Rule, RuleError, Sketch,
    endpoint::discreet,
    error::Speaker,
    file::{read_text, syntax},
};
use crate::{
    cli::{ActionArgs, CheckPlace, RuleArgs, StartChoice, Texts, duration},
    target::Scope,
    watch::Reach,
};

/// The annotation with a list of rules.
const RULES: &str = "reload-agent.dev/rules";

/// How long a list of rules in an annotation may be, in bytes.
const MOST_TEXT: usize = 64 * 1024;

/// How long a check of a pod may take: others wait for their turn.
const MOST_CHECK: Duration = Duration::from_mins(1);

/// How many bytes any other annotation may have.
const MOST_VALUE: usize = 4096;

/// How many rules a pod may have.
const MOST_RULES: usize = 32;

/// What can be said of one rule of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PodRuleArgs {
    /// In the node's file: the pods that it is about.
    pub pods: Option<PodSelector>,
    /// What it is called, after the pod.
    pub name: Option<String>,
    /// Name of the process to reload.
    pub process: Option<String>,
    /// Whether every process that matches is meant, and not only the topmost of each tree.
    pub all: Option<bool>,
    /// Name of the container that it runs in.
    pub container: Option<String>,
    /// Names of the volumes to watch.
    pub volumes: Option<Texts>,
    /// Signal to send.
    pub signal: Option<String>,
    /// Whether to end the process, for the kubelet to start it anew.
    pub restart: Option<bool>,
    /// Command that new content must pass, run in the container.
    pub check: Option<Texts>,
    /// How long it may take.
    #[serde(deserialize_with = "duration")]
    pub check_timeout: Option<Duration>,
    /// How long to look whether a reload took.
    #[serde(deserialize_with = "duration")]
    pub confirm_timeout: Option<Duration>,
    /// Whether to signal a process that does not catch it.
    pub force: Option<bool>,
    /// How long a process may take to install its handler.
    #[serde(deserialize_with = "duration")]
    pub handler_timeout: Option<Duration>,
    /// The quiet after which a change counts as complete.
    #[serde(deserialize_with = "duration")]
    pub settle: Option<Duration>,
    /// The longest wait for the end of a change.
    #[serde(deserialize_with = "duration")]
    pub settle_max: Option<Duration>,
    /// The shortest time between two reloads.
    #[serde(deserialize_with = "duration")]
    pub min_interval: Option<Duration>,
    /// What becomes of a process of which nothing is remembered.
    pub on_start: Option<StartChoice>,
}

/// A rule that was said of a pod, and how whoever said it spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRule {
    /// What was said.
    pub said: PodRuleArgs,
    is_listed: bool,
}

/// Which pods a rule of the node's file is about: those for which all that is said here is so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelector {
    /// The namespace.
    pub namespace: Option<String>,
    /// The name of the pod; a `*` at its end stands for anything.
    pub name: Option<String>,
    /// Labels that it has.
    pub labels: BTreeMap<String, String>,
}

/// What is said in the file for pods without annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFile {
    /// The rules, each with the pods that it is about.
    pub rules: Vec<(PodSelector, PodRule)>,
}

/// What is in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    rules: Option<Vec<Spanned<PodRuleArgs>>>,
}

impl PodRule {
    /// What the annotations of a pod say, if they opt in: by the part of the name that comes after
    /// `reload-agent.dev/`.
    ///
    /// # Errors
    ///
    /// Says which of them is wrong, and what to say instead.
    pub fn of_annotations(said: &BTreeMap<String, String>) -> Result<Vec<Self>, RuleError> {
        const KNOWN: [&str; 7] =
            ["process", "signal", "container", "volumes", "check", "action", "rules"];
        if let Some(name) = said.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            let known = KNOWN.map(|name| Speaker::Annotations.calls(name)).join(", ");
            return Err(RuleError::Annotation { name: Speaker::Annotations.calls(name), known });
        }
        if let Some((name, _)) = said.iter().find(|(name, it)| it.len() > Self::most_of(name)) {
            let option = Speaker::Annotations.calls(name);
            return Err(RuleError::LongList { option, most: Self::most_of(name), what: "bytes" });
        }
        let get = |name: &str| said.get(name).cloned();
        if let Some(list) = said.get("rules") {
            let others = KNOWN.iter().filter(|name| **name != "rules");
            if let Some(other) = others.into_iter().find(|name| said.contains_key(**name)) {
                return Err(RuleError::Both {
                    first: Speaker::Annotations.calls("rules"),
                    second: Speaker::Annotations.calls(other),
                    what: "what to do",
                });
            }
            return parse_list(list);
        }
        if said.is_empty() {
            return Ok(Vec::new());
        }
        let restart = match get("action").as_deref() {
            None | Some("signal") => None,
            Some("restart") => Some(true),
            Some(given) => {
                let option = Speaker::Annotations.calls("action");
                return Err(RuleError::NoAction { option, given: discreet(given) });
            }
        };
        let names = |text: String| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Texts::Many(names.map(str::to_owned).collect())
        };
        let said = PodRuleArgs {
            process: get("process"),
            container: get("container"),
            volumes: get("volumes").map(names),
            signal: get("signal"),
            restart,
            check: get("check").map(Texts::One),
            ..PodRuleArgs::default()
        };
        Ok(vec![Self { said, is_listed: false }])
    }

    /// How many bytes an annotation may have, by what comes after `reload-agent.dev/`.
    #[must_use]
    pub fn most_of(name: &str) -> usize {
        if name == "rules" { MOST_TEXT } else { MOST_VALUE }
    }

    /// How an option is called by whoever said this.
    #[must_use]
    pub fn calls(&self, id: &str) -> String {
        self.speaker().calls(id)
    }

    fn speaker(&self) -> Speaker<'static> {
        if self.is_listed { Speaker::File } else { Speaker::Annotations }
    }
}

/// As much of a name as shows which it is.
fn shown(name: &str) -> String {
    let shown = discreet(name);
    shown.chars().take(MOST_CHARACTERS).collect()
}

impl Rule {
    /// The rule that was said of a pod: it watches these directories, which are volumes of the pod, and
    /// means processes within the scope, which is the pod.
    ///
    /// # Errors
    ///
    /// Says what is wrong with what was said, and what to say instead.
    pub fn of_pod(
        pod: &str,
        rule: &PodRule,
        volumes: Vec<PathBuf>,
        scope: Scope,
        defaults: &RuleArgs,
    ) -> Result<Self, RuleError> {
        let PodRule { said, is_listed } = rule;
        let speaker = rule.speaker();
        let said = said.clone();
        let called = said.name.clone().or_else(|| said.process.clone()).unwrap_or_default();
        let is_good = |name: &&String| {
            (1..=MOST_CHARACTERS).contains(&name.chars().count())
                && !name.contains(char::is_control)
        };
        // Of a listed rule the process is its name, too, and whoever reads the log has made neither.
        let bad = [&said.name, &said.process].into_iter().flatten().find(|it| !is_good(it));
        if let Some(name) = bad {
            return Err(RuleError::Name { name: shown(name) });
        }
        if said.check_timeout.is_some_and(|it| it > MOST_CHECK) {
            return Err(RuleError::LongCheck { option: speaker.calls("checkTimeout") });
        }
        let name = if *is_listed { format!("{pod}/{called}") } else { pod.to_owned() };
        // One of them must be said: without a process nobody is meant.
        let actions = [
            said.signal.map(ActionArgs::Signal),
            said.restart.filter(|&is_meant| is_meant).map(ActionArgs::Restart),
        ];
        let actions: Vec<_> = actions.into_iter().flatten().collect();
        if actions.len() > 1 {
            let second = speaker.calls(if *is_listed { "restart" } else { "action" });
            return Err(RuleError::Both {
                first: speaker.calls("signal"),
                second,
                what: "what to do",
            });
        }
        let said = RuleArgs {
            watch: volumes,
            process: said.process,
            all: said.all,
            actions: Some(actions).filter(|it| !it.is_empty()),
            check_in: said.check.as_ref().map(|_| CheckPlace::Target),
            check: said.check,
            check_timeout: said.check_timeout,
            confirm_timeout: said.confirm_timeout,
            force: said.force,
            handler_timeout: said.handler_timeout,
            settle: said.settle,
            settle_max: said.settle_max,
            min_interval: said.min_interval,
            on_start: said.on_start,
            ..RuleArgs::default()
        };
        let said = said.or(&RuleArgs { check_in: None, ..defaults.clone() });
        let mut sketch = Sketch::new(&said, speaker)?.complete(&said, speaker)?;
        sketch.reach = Reach::Beneath;
        if let Some(selector) = &mut sketch.selector {
            selector.scope = scope;
        }
        Ok(Self { name, sketch })
    }
}

/// Reads the list of rules in the annotation `reload-agent.dev/rules`.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn parse_list(text: &str) -> Result<Vec<PodRule>, RuleError> {
    let option = || Speaker::Annotations.calls("rules");
    if text.len() > MOST_TEXT {
        return Err(RuleError::LongList { option: option(), most: MOST_TEXT, what: "bytes" });
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let listed: Result<Option<Vec<PodRuleArgs>>, _> =
        serde_saphyr::from_str_with_options(text, options);
    let listed = listed.map_err(|error| syntax(text, Path::new(RULES), &error))?;
    let listed = listed.unwrap_or_default();
    if listed.is_empty() {
        return Err(RuleError::Empty { option: option(), what: "a list of rules" });
    }
    if listed.len() > MOST_RULES {
        return Err(RuleError::LongList { option: option(), most: MOST_RULES, what: "rules" });
    }
    let mut names = BTreeSet::new();
    for said in &listed {
        if said.pods.is_some() {
            return Err(RuleError::ForeignPods);
        }
        let name = said.name.as_ref().or(said.process.as_ref());
        if let Some(name) = name.filter(|name| !names.insert((*name).clone())) {
            return Err(RuleError::SameNameInPod { name: discreet(name) });
        }
    }
    Ok(listed.into_iter().map(|said| PodRule { said, is_listed: true }).collect())
}

/// Reads the node's file with rules for pods that have no annotations.
///
/// # Errors
///
/// Fails where the file cannot be read, or is not made as one with such rules is. The error names the place
/// in the file, and what to do about it.
pub fn read_node_file(path: &Path) -> Result<NodeFile, RuleError> {
    parse_node_file(&read_text(path)?, path)
}

/// The rules in the text of the node's file, which is at `path`.
///
/// # Errors
///
/// Fails where it is not made as [`read_node_file`] wants it.
pub fn parse_node_file(text: &str, path: &Path) -> Result<NodeFile, RuleError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let document: Result<Option<Document>, _> = serde_saphyr::from_str_with_options(text, options);
    let document = document.map_err(|error| syntax(text, path, &error))?;
    let listed = document.and_then(|document| document.rules).unwrap_or_default();
    if listed.is_empty() {
        return Err(RuleError::NoRules { path: path.to_owned() });
    }
    let mut rules = Vec::new();
    for (index, Spanned { value: mut said, referenced: at, .. }) in listed.into_iter().enumerate() {
        let selector = said.pods.take();
        let rule = PodRule { said, is_listed: true };
        let called = rule.said.name.clone().or_else(|| rule.said.process.clone());
        let called = called.map_or_else(|| (index + 1).to_string(), |name| discreet(&name));
        // Whatever a pod is like, it must make sense by itself: judged for one with any volume.
        let volumes = vec![PathBuf::from("/")];
        let judged = Rule::of_pod("pod", &rule, volumes, Scope::Anywhere, &RuleArgs::default());
        // All pods of a node are meant by whoever says so, and by no slip.
        let judged = judged.and_then(|_| selector.ok_or(RuleError::NoPods));
        let selector = judged.map_err(|source| RuleError::Rule {
            path: path.to_owned(),
            line: at.line(),
            column: at.column(),
            rule: called,
            source: Box::new(source),
        })?;
        rules.push((selector, rule));
    }
    Ok(NodeFile { rules })
}

impl PodSelector {
    /// Whether it is about this pod.
    #[must_use]
    pub fn means(&self, namespace: &str, pod: &str, labels: &BTreeMap<String, String>) -> bool {
        let is_named = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => pod.starts_with(start),
            None => pod == pattern,
        };
        self.namespace.as_ref().is_none_or(|it| it == namespace)
            && self.name.as_ref().is_none_or(is_named)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Action;

    fn annotations(said: &[(&str, &str)]) -> BTreeMap<String, String> {
        said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn rules(said: &[(&str, &str)]) -> Result<Vec<Rule>, String> {
        let chain = |error| format!("{:#}", anyhow::Error::new(error));
        let rules = PodRule::of_annotations(&annotations(said)).map_err(chain)?;
        let volumes = || vec![PathBuf::from("/v")];
        let made = rules.iter().map(|rule| {
            Rule::of_pod("shop/web", rule, volumes(), Scope::Anywhere, &RuleArgs::default())
        });
        made.collect::<Result<_, _>>().map_err(chain)
    }

    #[test]
    fn a_pod_that_says_nothing_has_no_rule() {
        assert_eq!(rules(&[]), Ok(Vec::new()));
    }

    #[test]
    fn annotations_make_one_rule_of_the_pod() {
        let said = [("process", "nginx"), ("signal", "USR1"), ("check", "nginx -t")];
        let rule = rules(&said).unwrap().remove(0);
        assert_eq!(rule.name(), "shop/web");
        assert_eq!(rule.reach(), Reach::Beneath);
        assert_eq!(
            rule.actions().iter().map(Action::to_string).collect::<Vec<_>>(),
            ["signal USR1"]
        );
        assert_eq!(rule.check().unwrap().place, crate::rule::CheckIn::Target);
        let rule = rules(&[("process", "app"), ("action", "restart")]).unwrap().remove(0);
        assert_eq!(rule.actions(), [Action::Restart]);
    }

    #[test]
    fn a_list_makes_several() {
        let list =
            "- process: nginx\n  check: [nginx, -t]\n- {name: log, process: fluentd, signal: USR1}";
        let rules = rules(&[("rules", list)]).unwrap();
        let names: Vec<_> = rules.iter().map(Rule::name).collect();
        assert_eq!(names, ["shop/web/nginx", "shop/web/log"]);
    }

    #[test]
    fn each_mistake_is_named_with_its_remedy() {
        #[track_caller]
        fn check(said: &[(&str, &str)], expected: &str) {
            assert_eq!(rules(said).unwrap_err(), expected, "for {said:?}");
        }
        check(&[("signal", "HUP")], "there is nobody to reload; set reload-agent.dev/process");
        check(
            &[("proces", "nginx")],
            "there is no annotation reload-agent.dev/proces; the annotations are \
             reload-agent.dev/process, reload-agent.dev/signal, reload-agent.dev/container, \
             reload-agent.dev/volumes, reload-agent.dev/check, reload-agent.dev/action, \
             reload-agent.dev/rules",
        );
        check(
            &[("process", "/usr/sbin/nginx")],
            "reload-agent.dev/process \"/usr/sbin/nginx\" has a slash in it; give the name without \
             its directories",
        );
        check(
            &[("process", "a"), ("signal", "HUPP")],
            "reload-agent.dev/signal \"HUPP\" is no signal; give a name such as HUP, SIGUSR1 or \
             RTMIN+3, or a number from 1 to 64",
        );
        check(
            &[("process", "a"), ("action", "exec")],
            "reload-agent.dev/action \"exec\" is no action; give signal or restart",
        );
        check(
            &[("process", "a"), ("signal", "HUP"), ("action", "restart")],
            "reload-agent.dev/signal and reload-agent.dev/action both say what to do; give one of \
             them",
        );
        check(
            &[("process", "a"), ("rules", "[]")],
            "reload-agent.dev/rules and reload-agent.dev/process both say what to do; give one of \
             them",
        );
        check(&[("rules", "[]")], "reload-agent.dev/rules is empty; give a list of rules");
        check(
            &[("rules", "[{process: a}, {process: a}]")],
            "two rules of the pod are called \"a\"; give each its own with `name:`",
        );
        check(
            &[("rules", "[{process: a, pods: {}}]")],
            "`pods` is for the node's file; the annotation of a pod is about that pod",
        );
        // Nothing that would be done by the agent, or on the node.
        for key in ["exec", "post", "watch", "pidFile", "exe", "checkIn"] {
            let said = rules(&[("rules", &format!("[{{process: a, {key}: b}}]"))]).unwrap_err();
            assert!(said.contains(&format!("there is no key {key:?}")), "{said}");
        }
    }

    #[test]
    fn the_file_says_for_which_pods_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let shown = path.display().to_string();
            read_node_file(&path)
                .map_err(|error| format!("{:#}", anyhow::Error::new(error)).replace(&shown, "FILE"))
        };
        let file = read(
            "rules:\n- pods: {namespace: shop, name: web-*, labels: {app: web}}\n  process: nginx",
        );
        let file = file.unwrap();
        let (pods, rule) = &file.rules[0];
        assert_eq!(rule.said.process.as_deref(), Some("nginx"));
        let labels = |pairs: &[(&str, &str)]| annotations(pairs);
        assert!(pods.means("shop", "web-1", &labels(&[("app", "web"), ("x", "y")])));
        assert!(!pods.means("shop", "web", &labels(&[("app", "web")])));
        assert!(!pods.means("other", "web-1", &labels(&[("app", "web")])));
        assert!(!pods.means("shop", "web-1", &labels(&[("app", "api")])));

        let missing = read("rules:\n- process: nginx").unwrap_err();
        assert_eq!(
            missing,
            "FILE:2:3: rule nginx: it does not say for which pods it is; say `pods: {namespace: \
             NAME, labels: {KEY: VALUE}}`, or `pods: {}` for all"
        );
        assert!(read("rules:\n- {pods: {}, process: nginx}").is_ok());
        assert!(read("rules: []").unwrap_err().starts_with("there are no rules in FILE"));
    }
}
