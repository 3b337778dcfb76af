//! A pod can only ever affect itself, whatever it says and whatever it plants in its volumes.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nix::{
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd::mkfifo,
};
use serde_json::json;

use crate::support::{
    cluster::{Namespace, Pod, until},
    daemon::{Daemon, decided_of},
    listener::{Listener, config, heard, wait_until_it_listens},
};

/// A victim, which is annotated as well, and a hostile pod beside it.
struct Scene {
    daemon: Daemon,
    namespace: Namespace,
    victim: Pod,
    hostile: Pod,
}

impl Scene {
    #[track_caller]
    fn new(overlay: &str, hostile: &Listener) -> Self {
        let daemon = Daemon::install(overlay);
        let namespace = Namespace::new();
        let victim = Listener::annotated("victim", "victim");
        namespace.apply_all(&[
            config("victim", &json!({"key": "0"})),
            config("hostile", &json!({"key": "0"})),
            victim.pod(),
            hostile.pod(),
        ]);
        let [victim, hostile] = ["app=victim", "app=hostile"].map(|it| namespace.ready_pod(it));
        for pod in [&victim, &hostile] {
            wait_until_it_listens(pod);
        }
        daemon.wait_for_rules_of(&victim);
        // It may name nobody that it has.
        daemon.wait_for_watches_of(&hostile);
        Self { daemon, namespace, victim, hostile }
    }

    /// Changes the victim's `ConfigMap`, which must be reloaded for it: so the agent is well, and is
    /// through with what came before.
    #[track_caller]
    fn fence(&self, value: &str) {
        self.namespace.apply_all(&[config("victim", &json!({"key": value}))]);
        let line = format!("config/key={value}");
        self.namespace.touch_until(&line, || heard(&self.victim).contains(&line).then_some(()));
    }

    /// The agent goes on as it began, and the victim has heard what is its own, and no more.
    #[track_caller]
    fn check(&self, values: &[&str]) {
        let own: Vec<_> = values.iter().map(|value| format!("config/key={value}")).collect();
        assert_eq!(heard(&self.victim), own);
        let agent = self.daemon.pod();
        assert_eq!(agent.restarts(), 0);
        assert_eq!(agent.get(crate::support::daemon::PORT, "/healthz").unwrap().0, 200);
    }
}

/// It names a process that only another pod has, and one that only the node has.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn no_process_of_others_is_signalled() {
    let rules = "[{process: victim, force: true}, {process: kubelet, force: true}, \
                 {process: reload-agent, force: true}]";
    let listener = Listener {
        annotations: json!({"reload-agent.dev/rules": rules}),
        ..Listener::plain("hostile", "hostile")
    };
    let scene = Scene::new("base", &listener);
    scene.namespace.apply_all(&[config("hostile", &json!({"key": "1"}))]);
    scene.namespace.touch_until("all three rules wait", || {
        let decided = decided_of(&scene.daemon.pod(), &scene.hostile);
        let waiting = decided.iter().filter(|it| it.name() == "waiting");
        let mut rules: Vec<_> = waiting.map(|it| it.text("rule")).collect();
        rules.sort_unstable();
        rules.dedup();
        (rules.len() == 3).then_some(())
    });
    scene.fence("1");
    scene.check(&["1"]);
    let decided = decided_of(&scene.daemon.pod(), &scene.hostile);
    assert!(decided.iter().all(|it| it.name() != "reloaded"), "{decided:?}");
    assert_eq!(heard(&scene.hostile), [""; 0]);
}

/// As a pod could that may write to its own volume's directory: what leads out of it, and what blocks
/// whoever opens it.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn nothing_beyond_the_volume_is_read() {
    let scene = Scene::new("base", &Listener::annotated("hostile", "hostile"));
    let dir = scene.hostile.volume("configmap", "config");
    // The way to the victim's file as the agent would go it, from the node's root and from here.
    let there = format!(
        "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~configmap/config/key",
        scene.victim.uid()
    );
    plant(&dir, &there);
    // The agent has seen all that once it has reloaded for this, which is one change: what is renamed into the
    // volume is whole.
    let draft = dir.with_extension("draft");
    fs::write(&draft, "1").unwrap();
    fs::rename(draft, dir.join("own")).unwrap();
    until("own=1", || {
        heard(&scene.hostile).iter().any(|it| it.contains("config/own=1")).then_some(())
    });
    // It signals first, and tells of it afterwards.
    let signals = heard(&scene.hostile).len();
    scene.daemon.until_times(&scene.hostile, "reloaded", signals);
    let before = reloads(&scene);

    // What the links lead to changes, and nothing of the pod's own.
    scene.fence("1");
    scene.fence("2");
    scene.check(&["1", "2"]);
    assert_eq!(reloads(&scene), before);

    // And `..data` itself leads out.
    let stolen = PathBuf::from(&there);
    let (draft, data) = (dir.join("..data_tmp"), dir.join("..data"));
    symlink(stolen.parent().unwrap().join("..data"), &draft).unwrap();
    let planted = fs::read_link(&draft).unwrap();
    fs::rename(&draft, &data).unwrap();
    scene.fence("3");
    let after_swap = reloads(&scene);
    scene.fence("4");
    scene.fence("5");
    scene.check(&["1", "2", "3", "4", "5"]);
    // The kubelet may have come by, and have put its own volume there again, which is one change. What it
    // led to has changed twice.
    let repairs = usize::from(fs::read_link(&data).unwrap() != planted);
    let more = reloads(&scene) - after_swap;
    assert!(more <= 2 * repairs, "{more} more decisions, {repairs} of the kubelet's updates");
}

fn reloads(scene: &Scene) -> usize {
    let decided = decided_of(&scene.daemon.pod(), &scene.hostile);
    decided.iter().filter(|it| ["changed", "reloaded"].contains(&it.name())).count()
}

fn plant(dir: &Path, there: &str) {
    symlink(there, dir.join("absolute")).unwrap();
    symlink(format!("../../../../../..{there}"), dir.join("relative")).unwrap();
    symlink(format!("/proc/self/root{there}"), dir.join("magic")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    mkfifo(&dir.join("pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    let mode = Mode::from_bits_truncate(0o666);
    mknod(&dir.join("zero"), SFlag::S_IFCHR, mode, makedev(1, 5)).unwrap();
}

/// A check is a command of the pod's, and so it runs where the pod's processes run, as their user.
#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn a_check_runs_in_the_pod_and_nowhere_else() {
    let mark = format!("/tmp/{}", crate::support::target::unique_name());
    let check = format!("sh -c 'id -u > {mark}; hostname >> {mark}'");
    let listener = Listener {
        annotations: json!({
            "reload-agent.dev/process": "hostile",
            "reload-agent.dev/check": check,
        }),
        ..Listener::plain("hostile", "hostile")
    };
    let scene = Scene::new("overlays/checks", &listener);
    scene.namespace.apply_all(&[config("hostile", &json!({"key": "1"}))]);
    let line = "config/key=1".to_owned();
    scene.namespace.touch_until(&line, || heard(&scene.hostile).contains(&line).then_some(()));
    let said = scene.namespace.ask(&["exec", "hostile", "--", "cat", &mark]);
    assert_eq!(said, "1000\nhostile\n");
    // The node's /tmp is the machine's.
    assert!(!Path::new(&mark).exists());
    scene.fence("1");
    scene.check(&["1"]);
}
