//! Content that does not pass the check never reaches a target, and what does pass is what was checked.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    agent::{AGENT, Agent, arguments, clean, count, names},
    gate::Gate,
    lines::Lines,
    nginx::{Nginx, server},
    process::{Process, run},
    source::Source,
    target::{Recipe, Running},
    time::{pause, poll},
    writer::{bring, replace},
};

/// A file to watch, a target that reads it, and a directory that nobody watches.
struct Scene {
    aside: TempDir,
    path: PathBuf,
    recipe: Recipe,
    target: Running,
    _dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        // Not among temporary files, where others come and go: each would wake the agent.
        let [dir, aside] = [(); 2].map(|()| tempfile::tempdir_in("/opt").unwrap());
        let path = dir.path().join("app.conf");
        fs::write(&path, "0").unwrap();
        let recipe = Recipe::new().reading(&path);
        let target = recipe.start();
        Self { aside, path, recipe, target, _dir: dir }
    }

    /// A check that refuses what has `bad` in it, and writes a line whenever it runs.
    fn check(&self) -> String {
        let (path, runs) = (self.path.display(), self.runs());
        shell(&format!("cat {path}; echo run >> {}; ! grep -q bad {path}", runs.display()))
    }

    fn runs(&self) -> PathBuf {
        self.aside.path().join("runs")
    }

    /// How often the check has run.
    fn count_runs(&self) -> usize {
        fs::read_to_string(self.runs()).unwrap_or_default().lines().count()
    }

    /// A check that reads the file, waits at the gate, and refuses what has `bad` in it.
    fn gated_check(&self, gate: &Gate) -> String {
        let (path, gate) = (self.path.display(), gate.script());
        shell(&format!("said=$(cat {path}); {gate}; case $said in *bad*) exit 1;; esac"))
    }

    fn agent(&self, source: Source, options: &[impl AsRef<OsStr>]) -> Agent {
        Agent::with(source, &self.path, self.recipe.name(), options)
    }
}

fn shell(script: &str) -> String {
    assert!(!script.contains('\''), "it is quoted by these");
    format!("sh -c '{script}'")
}

promise!(bad_content_is_withheld_and_the_next_good_content_goes_through);
fn bad_content_is_withheld_and_the_next_good_content_goes_through(source: Source) {
    let mut scene = Scene::new();
    let mut agent = scene.agent(source, &["--check", &scene.check()]);

    replace(&scene.path, "bad-1");
    let events = agent.events_until("refused");
    assert_eq!(names(&events), ["changed", "refused"], "{events:?}");
    let refused = events.last().unwrap();
    assert_eq!(refused.text("reason"), "check_failed");
    assert_eq!(refused.text("level"), "warn");
    assert_eq!(refused.text("remedy"), "mend the content: good content goes through at once");
    assert!(refused.field("pid").is_null(), "{refused}");
    let detail = refused.text("detail");
    assert!(detail.ends_with("ended with exit status 1: bad-1"), "{detail}");

    replace(&scene.path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
    assert_eq!(events.last().unwrap().pid(), scene.target.pid);
    assert_eq!(scene.target.signal().content, "2", "this is the first signal");
}

promise!(a_roll_back_to_what_the_target_has_is_unchanged);
fn a_roll_back_to_what_the_target_has_is_unchanged(source: Source) {
    let mut scene = Scene::new();
    let mut agent = scene.agent(source, &["--check", &scene.check()]);

    replace(&scene.path, "bad");
    agent.wait_for("refused");
    replace(&scene.path, "0");
    let events = agent.events_until("unchanged");
    assert_eq!(names(&events), ["unchanged"], "{events:?}");
    assert_eq!(scene.count_runs(), 1, "what is there already is not checked");

    replace(&scene.path, "1");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
    assert_eq!(scene.target.signal().content, "1", "this is the first signal");
}

#[test]
fn the_same_bad_content_is_refused_each_time_that_it_comes() {
    let scene = Scene::new();
    let mut agent = scene.agent(Source::Inotify, &["--check", &scene.check()]);
    for _ in 0..3 {
        replace(&scene.path, "bad");
        let events = agent.events_until("refused");
        assert_eq!(names(&events), ["changed", "refused"], "{events:?}");
        replace(&scene.path, "0");
        agent.wait_for("unchanged");
    }
    assert_eq!(scene.count_runs(), 3);
}

promise!(where_nobody_is_owed_anything_nothing_is_checked);
fn where_nobody_is_owed_anything_nothing_is_checked(source: Source) {
    let mut scene = Scene::new();
    let mut agent = scene.agent(source, &["--check", &scene.check()]);

    replace(&scene.path, "0");
    agent.wait_for("unchanged");
    replace(&scene.path, "1");
    agent.wait_for("reloaded");
    scene.target.signal();
    assert_eq!(scene.count_runs(), 1);
}

promise!(content_that_changes_while_it_is_checked_is_checked_again);
fn content_that_changes_while_it_is_checked_is_checked_again(source: Source) {
    let mut scene = Scene::new();
    let mut gate = Gate::new(scene.aside.path());
    let mut agent = scene.agent(source, &["--check", &scene.gated_check(&gate)]);

    replace(&scene.path, "1");
    assert_eq!(gate.arrival(), "1");
    replace(&scene.path, "bad-2");
    gate.open();
    assert_eq!(gate.arrival(), "bad-2");
    gate.open();
    let events = agent.events_until("refused");
    assert_eq!(count(&events, "reloaded"), 0, "what passed was not there any more: {events:?}");

    replace(&scene.path, "3");
    assert_eq!(gate.arrival(), "3");
    gate.open();
    agent.wait_for("reloaded");
    assert_eq!(scene.target.signal().content, "3", "this is the first signal");
}

promise!(content_that_was_another_while_it_was_checked_is_checked_again);
/// The check may have read what was there in between.
fn content_that_was_another_while_it_was_checked_is_checked_again(source: Source) {
    let mut scene = Scene::new();
    let mut gate = Gate::new(scene.aside.path());
    let mut agent = scene.agent(source, &["--check", &scene.gated_check(&gate)]);

    replace(&scene.path, "1");
    assert_eq!(gate.arrival(), "1");
    agent.wait_for("changed");
    replace(&scene.path, "2");
    agent.wait_for("changed");
    replace(&scene.path, "1");
    agent.wait_for("changed");
    gate.open();
    assert_eq!(gate.arrival(), "1", "it is checked anew");
    gate.open();
    agent.wait_for("reloaded");
    assert_eq!(scene.target.signal().content, "1");
    assert_eq!(gate.arrivals_at_hand(), [] as [&str; 0]);
}

#[test]
fn a_check_that_writes_to_what_is_watched_is_told_of() {
    let scene = Scene::new();
    let check = format!("touch {}", scene.path.display());
    let mut agent = scene.agent(Source::Inotify, &["--check", &check]);
    replace(&scene.path, "1");
    let events = agent.events_until("refused");
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    let refused = events.last().unwrap();
    assert_eq!(refused.text("reason"), "unchecked");
    assert_eq!(refused.text("detail"), "the files were touched whenever they were checked");
    let remedy = "see that the check writes to nothing that is watched";
    assert_eq!(refused.text("remedy"), remedy);
    // Each check is followed by one of these.
    assert!(count(&events, "unchanged") < 10, "it is not checked in a circle: {events:?}");
}

#[test]
fn a_check_that_never_ends_is_killed_and_withholds() {
    let mut scene = Scene::new();
    let pid = scene.aside.path().join("pid");
    let script = format!(
        "grep -q bad {} || exit 0; echo $$ > {}; echo waiting; exec sleep 1h",
        scene.path.display(),
        pid.display()
    );
    // Long enough to start on a machine that has others to run.
    let options = ["--check", &shell(&script), "--check-timeout", "5s"];
    let mut agent = scene.agent(Source::Inotify, &options);

    replace(&scene.path, "bad");
    let refused = agent.wait_for("refused");
    assert_eq!(refused.text("reason"), "check_failed");
    let detail = refused.text("detail");
    assert!(detail.ends_with("was killed, for it took longer than 5s: waiting"), "{detail}");
    let pid = fs::read_to_string(pid).unwrap();
    let home = Path::new("/proc").join(pid.trim_end());
    poll("it is gone", || (!home.exists()).then_some(()));

    replace(&scene.path, "1");
    agent.wait_for("reloaded");
    assert_eq!(scene.target.signal().content, "1", "this is the first signal");
}

promise!(a_check_that_ends_while_the_agent_stands_still_has_not_taken_too_long: fanotify, inotify);
/// It has passed in time, or its time was not over when both were frozen.
fn a_check_that_ends_while_the_agent_stands_still_has_not_taken_too_long(source: Source) {
    for ends_meanwhile in [true, false] {
        let mut scene = Scene::new();
        let mut gate = Gate::new(scene.aside.path());
        let check = scene.gated_check(&gate);
        let mut agent = scene.agent(source, &["--check", &check, "--check-timeout", "8s"]);
        replace(&scene.path, "1");
        assert_eq!(gate.arrival(), "1");
        let pid = Pid::from_raw(agent.pid()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        if ends_meanwhile {
            gate.open();
        }
        pause(Duration::from_secs(9));
        kill_process(pid, Signal::CONT).unwrap();
        if !ends_meanwhile {
            gate.open();
        }
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        assert_eq!(scene.target.signal().content, "1");
    }
}

#[test]
fn the_output_of_a_check_is_bounded_and_escaped() {
    let scene = Scene::new();
    let noise =
        "head -c 200000 /dev/zero | tr \"\\0\" x; printf \"\\033[31m\\nthe\\tend\\n\"; exit 3";
    let check = shell(noise);
    let mut agent = scene.agent(Source::Inotify, &["--check", &check]);
    let mut command = clean(Command::new(AGENT));
    command.args(["run", "--source", "inotify", "--check", &check, "--watch"]).arg(&scene.path);
    command.args(["--process", scene.recipe.name()]).stderr(std::process::Stdio::piped());
    let mut talker = Process::spawn(&mut command);
    let mut text = Lines::of("text", talker.stderr.take().unwrap());
    text.until("ready", |line| line.contains(" ready after ").then_some(()));

    replace(&scene.path, "1");
    let detail = agent.wait_for("refused").text("detail").to_owned();
    assert!(detail.contains("ended with exit status 3: ... 195918 bytes before\nxxx"), "{detail}");
    assert!(detail.ends_with("xxx\u{1b}[31m\nthe\tend"), "{detail}");
    let mut lines = Vec::new();
    text.until("the end", |line| {
        lines.push(line.to_owned());
        (line == "    | the\\tend").then_some(())
    });
    let at = lines.iter().position(|line| line.contains("did nothing")).unwrap();
    assert!(
        lines[at].ends_with("mend the content: good content goes through at once"),
        "{lines:?}"
    );
    let [how, noise, _] = &lines[at + 1..] else { panic!("{lines:?}") };
    let expected = "ended with exit status 3: ... 195918 bytes before";
    assert!(how.starts_with("    | sh -c ") && how.ends_with(expected), "{how}");
    assert!(noise.starts_with("    | xxx") && noise.ends_with("xxx\\u{1b}[31m"), "{noise}");
    assert!(!lines.concat().chars().any(char::is_control), "{lines:?}");
}

#[test]
fn a_check_that_cannot_be_run_withholds_and_does_not_blame_the_content() {
    let scene = Scene::new();
    let mut agent = scene.agent(Source::Inotify, &["--check", "no-such-check --really"]);
    // It is known before any content is withheld.
    let warning = agent.wait_for("warning");
    assert_eq!((warning.text("rule"), warning.text("level")), (scene.recipe.name(), "warn"));
    let expected = "there is no program no-such-check where the agent is: ";
    assert!(warning.text("reason").starts_with(expected), "{warning}");
    replace(&scene.path, "1");
    let refused = agent.wait_for("refused");
    assert_eq!(refused.text("reason"), "unchecked");
    let detail = "cannot run no-such-check: No such file or directory (os error 2)";
    assert_eq!(refused.text("detail"), detail);
    let remedy = "see that the check can be run; what it has to say of the content is not known";
    assert_eq!(refused.text("remedy"), remedy);
}

#[test]
#[ignore = "needs root; it is another user"]
fn a_check_under_a_target_without_rights_says_which_are_missing() {
    let scene = Scene::new();
    for dir in [scene.aside.path(), scene.path.parent().unwrap()] {
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    let binary = scene.aside.path().join("agent");
    run(Command::new("cp").args([Path::new(AGENT), &binary]));
    let mut command = clean(Command::new("setpriv"));
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(binary);
    command.args(arguments(&scene.path, scene.recipe.name())).args(Source::Inotify.arguments());
    let mut agent = Agent::spawn(command.args(["--check", "true", "--check-in", "target"]));
    agent.wait_for("ready");

    replace(&scene.path, "1");
    let refused = agent.wait_for("refused");
    let detail = format!(
        "cannot look at the namespaces of the process {}: Permission denied (os error 13); \
         --check-in target needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or the uid of the process \
         and no fewer capabilities than it has",
        scene.target.pid
    );
    assert_eq!(refused.text("detail"), detail);
    assert!(!refused.text("remedy").contains("mend the content"), "{refused}");
}

promise!(a_target_that_was_started_with_bad_content_gets_the_good_one_back);
fn a_target_that_was_started_with_bad_content_gets_the_good_one_back(source: Source) {
    let mut scene = Scene::new();
    let mut agent = scene.agent(source, &["--check", &scene.check()]);

    replace(&scene.path, "bad");
    agent.wait_for("refused");
    scene.target = scene.recipe.start();
    assert_eq!(scene.target.content, "bad");
    source.let_look();
    replace(&scene.path, "0");
    let reloaded = agent.wait_for("reloaded");
    assert_eq!(reloaded.pid(), scene.target.pid);
    assert_eq!(scene.target.signal().content, "0");
}

promise!(a_check_that_is_called_like_the_target_is_none);
/// `nginx -t` is called nginx.
fn a_check_that_is_called_like_the_target_is_none(source: Source) {
    let mut scene = Scene::new();
    let mut gate = Gate::new(scene.aside.path());
    let namesake = scene.aside.path().join(scene.recipe.name());
    fs::write(&namesake, format!("#!/bin/sh\nsaid=here; {}\n", gate.script())).unwrap();
    fs::set_permissions(&namesake, Permissions::from_mode(0o755)).unwrap();
    let namesake = namesake.to_str().unwrap();
    let mut agent = scene.agent(source, &["--check", namesake, "--handler-timeout", "0s"]);

    replace(&scene.path, "1");
    gate.arrival();
    // While it runs the agent looks for all processes of that name.
    let mut other = scene.recipe.start();
    agent.wait_for("changed");
    source.let_look();
    gate.open();
    agent.wait_for("reloaded");
    assert_eq!(scene.target.signal().content, "1");

    replace(&scene.path, "2");
    gate.arrival();
    gate.open();
    assert_eq!(scene.target.signal().content, "2");
    assert_eq!(other.signals_until("2").last().unwrap().content, "2");
    let (_status, events) = agent.stop(Signal::TERM);
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    let ours = [scene.target.pid, other.pid];
    let reloaded = events.iter().filter(|event| event.name() == "reloaded");
    for event in reloaded {
        assert!(ours.contains(&event.pid()), "{event}");
    }
}

#[test]
fn a_check_in_the_place_of_a_target_waits_for_one() {
    let scene = Scene::new();
    let Scene { aside, path, recipe, target, .. } = scene;
    let out = aside.path().join("out");
    let check = format!("grep -qv bad {}", path.display());
    let exec = format!("cp {} {}", path.display(), out.display());
    let options = ["--check", &check, "--check-in", "target", "--exec", &exec];
    let mut agent = Agent::with(Source::Inotify, &path, recipe.name(), &options);

    replace(&path, "1");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "1");

    target.kill();
    replace(&path, "2");
    let events = agent.events_until_each(&["changed", "waiting"]);
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    let _next = recipe.start();
    // Where nothing tells of processes they are looked for after a change.
    replace(&path, "3");
    let events = agent.events_until("confirmed");
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    assert_eq!(fs::read_to_string(out).unwrap(), "3");
}

promise!(a_target_reads_nothing_bad_for_the_sake_of_another_rule);
fn a_target_reads_nothing_bad_for_the_sake_of_another_rule(source: Source) {
    check_two_rules(source, "");
}

promise!(two_rules_do_not_wait_for_the_checks_of_each_other);
fn two_rules_do_not_wait_for_the_checks_of_each_other(source: Source) {
    check_two_rules(source, "  check: \"true\"\n");
}

/// The rule `other` of the same target has this check.
fn check_two_rules(source: Source, check: &str) {
    let mut scene = Scene::new();
    let other = scene.aside.path().join("other.conf");
    fs::write(&other, "0").unwrap();
    let rules = scene.aside.path().join("rules.yaml");
    let (path, name) = (scene.path.display(), scene.recipe.name());
    let text = format!(
        "rules:\n- name: checked\n  watch: {path}\n  process: {name}\n  check: grep -qv bad {path}\n\
         - name: other\n  watch: {}\n  process: {name}\n{check}",
        other.display()
    );
    fs::write(&rules, text).unwrap();
    let mut agent = Agent::ready(source, &["--config", rules.to_str().unwrap()]);

    replace(&scene.path, "bad");
    agent.wait_for("refused");
    replace(&other, "1");
    let refused = agent.wait_for("refused");
    assert_eq!(refused.text("rule"), "other");
    assert_eq!(refused.text("reason"), "other_check_failed");
    assert_eq!(refused.text("detail"), "rule checked");
    assert_eq!(refused.pid(), scene.target.pid);
    // It waits for the other rule's content, and not in a circle.
    let before = agent.wake_ups();
    pause(Duration::from_millis(500));
    let times = agent.wake_ups() - before;
    assert!(times < 50, "it woke up {times} times in half a second");

    replace(&scene.path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    let reloaded = events.last().unwrap();
    let next = agent.wait_for("reloaded");
    let rules = [reloaded.text("rule"), next.text("rule")];
    assert!(rules.contains(&"checked") && rules.contains(&"other"), "{rules:?}");
    assert_eq!(scene.target.signal().content, "2", "this is the first signal");
}

/// A configuration for nginx, which is broken and then mended.
fn check_nginx(source: Source, servers: &Path, nginx: &mut Nginx, options: &[&str]) {
    let path = servers.join("app.conf");
    let options = [&["--check", nginx.check()], options].concat();
    let mut agent = Agent::with(source, servers, nginx.name(), &options);

    bring(&path, &server(servers, "revision 2").replace("location", "lokation"));
    let refused = agent.wait_for("refused");
    assert_eq!(refused.text("reason"), "check_failed");
    assert!(refused.text("detail").contains("unknown directive \"lokation\""), "{refused}");
    assert_eq!(nginx.get().unwrap(), "revision 1");

    bring(&path, &server(servers, "revision 3"));
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "refused"), 0, "{events:?}");
    assert_eq!(events.last().unwrap().pid(), nginx.pid());
    poll("nginx serves it", || nginx.get().filter(|body| body == "revision 3"));
    assert!(nginx.lives());
    let (_status, events) = agent.stop(Signal::TERM);
    assert_eq!(count(&events, "reloaded") + count(&events, "refused"), 0, "{events:?}");
}

/// A volume that has a server in it.
fn servers() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let servers = dir.path().join("servers");
    fs::create_dir(&servers).unwrap();
    fs::write(servers.join("app.conf"), server(&servers, "revision 1")).unwrap();
    (dir, servers)
}

promise!(nginx_gets_no_broken_configuration);
fn nginx_gets_no_broken_configuration(source: Source) {
    let (_dir, servers) = servers();
    let mut nginx = Nginx::start(&servers);
    check_nginx(source, &servers, &mut nginx, &[]);
}

promise!(nginx_is_asked_where_it_is);
/// As beside a sidecar: the volume is mounted elsewhere for nginx, and the rest of its configuration is
/// only there.
fn nginx_is_asked_where_it_is(source: Source) {
    let (_dir, servers) = servers();
    let mut nginx = Nginx::start_apart(&servers);
    check_nginx(source, &servers, &mut nginx, &["--check-in", "target"]);
}
