//! A rule about a pod reaches the processes of that pod's containers, and nobody else's.

#![cfg(test)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::unistd::Pid;
use reload_userspace::{
    child::{Job, Outcome, Place, run_by},
    preflight::{Attempt, Attempted, Caution},
    target::{Census, Held, Procfs, Scope, Selector, Target, Which},
};
use rustix::process::Signal;

use crate::support::{
    agent::AGENT,
    process::children_of,
    target::{Recipe, Running},
    time::{PATIENCE, poll},
};

const A: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";
const B: &str = "2d5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b22";
const ONE: &str = "1111456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const TWO: &str = "2222456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A process is in one group at a time, and so is this one.
static NODES: Mutex<()> = Mutex::new(());

/// Groups of a test's own in the machine's hierarchies, of which this process is in one, as an agent that
/// is a process of a node. It is put back, and the groups are removed, when this is dropped.
struct Node {
    hierarchies: Vec<Hierarchy>,
    _alone: MutexGuard<'static, ()>,
}

/// One hierarchy.
struct Hierarchy {
    /// Where this process came from.
    before: PathBuf,
    /// The outermost group of the test's.
    root: PathBuf,
}

impl Hierarchy {
    /// A hierarchy with this mount, given as a line of `mountinfo`, if it is one that is of use here.
    fn of(mount: &str) -> Option<Self> {
        let (place, kind) = mount.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let at = (place.next()? == "/").then(|| place.next().map(Path::new))??;
        let mut kind = kind.split(' ');
        let (is_new, options) = (kind.next()? == "cgroup2", kind.nth(1)?);
        // Those that a process can be moved to whatever else they are about.
        let is_simple = |it: &&str| ["pids", "freezer", "name=systemd"].contains(it);
        let controller = options.split(',').find(is_simple);
        if !is_new && controller.is_none() {
            return None;
        }
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = match controller {
                Some(name) => controllers.split(',').any(|it| it == name),
                None => controllers.is_empty(),
            };
            is_it.then(|| path.trim_start_matches('/').to_owned())
        });
        let root = at.join(format!("reload-agent-test-{}", process::id()));
        Some(Self { before: at.join(own?), root })
    }

    /// Puts a process into a group of the test's, which is made.
    fn put(&self, pid: i32, path: &str) {
        let group = self.root.join(path);
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Node {
    fn new() -> Self {
        let alone = NODES.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let hierarchies: Vec<_> = mounts.lines().filter_map(Hierarchy::of).collect();
        assert!(!hierarchies.is_empty(), "control groups must be mounted here");
        let node = Self { hierarchies, _alone: alone };
        node.put(Pid::this().as_raw(), "system.slice/agent.service");
        node
    }

    /// Puts a process into the same group in all hierarchies.
    fn put(&self, pid: i32, path: &str) {
        self.hierarchies.iter().for_each(|it| it.put(pid, path));
    }

    /// Starts a target there.
    fn start(&self, recipe: &Recipe, path: &str) -> Running {
        let target = recipe.start();
        self.put(target.pid, path);
        target
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for Hierarchy { before, root } in &self.hierarchies {
            fs::write(before.join("cgroup.procs"), process::id().to_string()).unwrap();
            // Whoever was in it and has ended may not have left it yet.
            poll("the groups are removed", || remove(root).then_some(()));
        }
    }
}

/// Removes a group and those in it, and says whether that is done.
fn remove(group: &Path) -> bool {
    let inner = fs::read_dir(group).into_iter().flatten().map(|entry| entry.unwrap().path());
    inner.filter(|path| path.is_dir()).all(|path| remove(&path)) && {
        let removed = fs::remove_dir(group);
        removed.is_ok() || !group.exists()
    }
}

fn container(pod: &str, id: &str) -> String {
    format!("kubepods/burstable/pod{pod}/{id}")
}

fn selector(recipe: &Recipe, pod: &str, containers: Option<&str>) -> Selector {
    let scope = Scope::pod(pod, containers).unwrap();
    Selector { scope, ..Selector::process(recipe.name()) }
}

fn found(selector: &Selector) -> Vec<i32> {
    pids(&Procfs::default().resolve(selector).unwrap())
}

fn pids(held: &[Held]) -> Vec<i32> {
    let mut pids: Vec<_> = held.iter().map(|held| held.target().pid.as_raw()).collect();
    pids.sort_unstable();
    pids
}

fn sorted<const N: usize>(mut pids: [i32; N]) -> [i32; N] {
    pids.sort_unstable();
    pids
}

/// Tries to send HUP, as the agent does.
fn attempt(held: &Held, selector: &Selector) -> Attempted {
    let procfs = Procfs::default();
    let caution = Caution { is_forced: false, handler_timeout: Duration::ZERO };
    let attempt =
        Attempt { procfs: &procfs, selector, signal: Signal::HUP, caution, is_dry: false };
    attempt.on(held, Duration::MAX).unwrap()
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn of_processes_of_one_name_those_of_the_pod_are_meant() {
    let node = Node::new();
    let recipe = Recipe::new();
    let mut first = node.start(&recipe, &container(A, ONE));
    let second = node.start(&recipe, &container(A, TWO));
    let mut other = node.start(&recipe, &container(B, ONE));
    let stranger = node.start(&recipe, "system.slice/x.service");

    let anywhere = sorted([first.pid, second.pid, other.pid, stranger.pid]);
    assert_eq!(found(&Selector::process(recipe.name())), anywhere);
    assert_eq!(found(&selector(&recipe, A, None)), sorted([first.pid, second.pid]));
    assert_eq!(found(&selector(&recipe, A, Some(ONE))), [first.pid]);
    assert_eq!(found(&selector(&recipe, A, Some(&format!("{TWO},{ONE}")))).len(), 2);
    assert!(found(&selector(&recipe, A, Some(""))).is_empty());
    assert_eq!(found(&selector(&recipe, B, None)), [other.pid]);
    assert!(found(&selector(&recipe, B, Some(TWO))).is_empty());

    let of_first = selector(&recipe, A, Some(ONE));
    let of_other = selector(&recipe, B, None);
    let procfs = Procfs::default();
    let held = Held::open(&procfs, Pid::from_raw(other.pid)).unwrap().unwrap();
    assert_eq!(attempt(&held, &of_first), Attempted::Gone);
    let [first_held] = &procfs.resolve(&of_first).unwrap()[..] else { panic!("there is one") };
    assert_eq!(attempt(first_held, &of_first), Attempted::Delivered);
    first.signal();
    assert_eq!(other.signals_at_hand(), []);
    // The fence.
    assert_eq!(attempt(&held, &of_other), Attempted::Delivered);
    other.signal();
    assert_eq!(other.signals_at_hand(), []);
}

/// A master outside hides no worker within: whoever is outside is not seen at all.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_topmost_is_that_of_the_pod() {
    let node = Node::new();
    let recipe = Recipe::new().workers(2);
    let master = recipe.start();
    let [inside, outside] = children_of(master.pid)[..] else { panic!("there are two") };
    node.put(master.pid, &container(B, ONE));
    node.put(outside, &container(B, ONE));
    node.put(inside, &container(A, ONE));
    assert_eq!(found(&selector(&recipe, A, None)), [inside]);
    assert_eq!(found(&selector(&recipe, B, None)), [master.pid]);
    node.put(master.pid, &container(A, TWO));
    assert_eq!(found(&selector(&recipe, A, None)), [master.pid]);
    assert_eq!(found(&selector(&recipe, B, None)), [outside]);
    let all = Selector { which: Which::All, ..selector(&recipe, A, None) };
    assert_eq!(found(&all), sorted([master.pid, inside]));
}

/// It was of the pod when it was found, and is not when it is to be signalled.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn who_has_left_the_pod_is_not_signalled() {
    let node = Node::new();
    let recipe = Recipe::new();
    let mut target = node.start(&recipe, &container(A, ONE));
    let selector = selector(&recipe, A, None);
    let mut census = Census::default();
    let procfs = Procfs::default();
    let found = procfs.resolve_by(&selector, &mut census).unwrap();
    assert_eq!(pids(&found), [target.pid]);

    for elsewhere in [&container(B, ONE), "system.slice/x.service", &format!("kubepods/pod{A}")] {
        node.put(target.pid, elsewhere);
        assert_eq!(attempt(&found[0], &selector), Attempted::Gone, "for {elsewhere}");
        // Nor is it found by an old census.
        assert!(procfs.resolve_by(&selector, &mut census).unwrap().is_empty(), "for {elsewhere}");
    }
    assert_eq!(target.signals_at_hand(), []);
    // The fence.
    node.put(target.pid, &container(A, TWO));
    assert_eq!(attempt(&found[0], &selector), Attempted::Delivered);
    target.signal();
    assert_eq!(target.signals_at_hand(), []);
}

/// A container may make groups below its own, and call them as it likes.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn whatever_groups_a_container_makes_it_is_of_its_own_pod() {
    let node = Node::new();
    let recipe = Recipe::new();
    let hostile = recipe.start();
    for below in [container(B, ONE), format!("pod{B}/{ONE}"), format!("x/pod{B}/{ONE}")] {
        node.put(hostile.pid, &format!("{}/{below}", container(A, ONE)));
        assert_eq!(found(&selector(&recipe, A, None)), [hostile.pid], "for {below}");
        assert!(found(&selector(&recipe, B, None)).is_empty(), "for {below}");
    }
    // Nor does one who is in none.
    node.put(hostile.pid, &format!("system.slice/x.service/{}", container(B, ONE)));
    assert!(found(&selector(&recipe, B, None)).is_empty());
    // In one hierarchy here and in another there: it is in neither.
    for hierarchy in node.hierarchies.iter().skip(1) {
        node.put(hostile.pid, &container(A, ONE));
        assert_eq!(found(&selector(&recipe, A, None)), [hostile.pid]);
        hierarchy.put(hostile.pid, &container(B, ONE));
        assert!(found(&selector(&recipe, A, None)).is_empty());
        assert!(found(&selector(&recipe, B, None)).is_empty());
    }
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_command_runs_in_the_place_of_nobody_else() {
    let node = Node::new();
    let target = node.start(&Recipe::new(), &container(A, ONE));
    let known: Target = Procfs::default().target(Pid::from_raw(target.pid)).unwrap().unwrap();
    let run = |scope: Scope| {
        let place = Place::Target(known, scope);
        let command = "true".parse().unwrap();
        let job = Job { command, place, timeout: *PATIENCE, environment: Vec::new() };
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(run_by(Path::new(AGENT), job)).outcome
    };
    let scope = |pod: &str, containers: Option<&str>| Scope::pod(pod, containers).unwrap();
    let passes = |scope: Scope| assert!(matches!(run(scope), Outcome::Passed));
    let is_refused = |scope: Scope| {
        let Outcome::NotRun(reason) = run(scope) else { panic!("it is not where it must be") };
        let pid = target.pid;
        let expected =
            format!("the process {pid} is in none of the containers that the rule is about");
        assert_eq!(reason.to_string(), expected);
    };
    passes(Scope::Anywhere);
    passes(scope(A, None));
    passes(scope(A, Some(&format!("{ONE},{TWO}"))));
    is_refused(scope(A, Some(TWO)));
    is_refused(scope(A, Some("")));
    is_refused(scope(B, None));
    node.put(target.pid, &container(B, ONE));
    is_refused(scope(A, None));
    passes(scope(B, None));
}
