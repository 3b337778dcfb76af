//! What is done besides signals is done in order, tried again until it succeeds, and told when it has.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    agent::{Agent, Event, clean, command, count, names},
    gate::Gate,
    lines::Lines,
    process::{Process, children_of},
    server::Server,
    source::Source,
    target::{Recipe, Running},
    time::{pause, poll},
    writer::{bring, config, replace},
};

/// A file to watch, and a directory that nobody watches.
struct Scene {
    aside: TempDir,
    path: PathBuf,
    _dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let (dir, path) = config();
        Self { aside: tempfile::tempdir().unwrap(), path, _dir: dir }
    }

    fn aside(&self, name: &str) -> PathBuf {
        self.aside.path().join(name)
    }

    /// Starts an agent for the file with these options.
    fn agent(&self, options: &[&str]) -> Agent {
        let watch = ["--watch", self.path.to_str().unwrap()];
        Agent::ready(Source::Inotify, &[&watch, options].concat())
    }

    /// Starts an agent with a rule of this text besides the file.
    fn agent_of(&self, source: Source, rule: &str, options: &[&str]) -> Agent {
        let rules = self.aside("rules.yaml");
        let watch = self.path.display();
        fs::write(&rules, format!("rules:\n- name: web\n  watch: {watch}\n{rule}")).unwrap();
        let rules = ["--config", rules.to_str().unwrap()];
        Agent::ready(source, &[&rules, options].concat())
    }
}

fn shell(script: &str) -> String {
    assert!(!script.contains('\''), "it is quoted by these");
    format!("sh -c '{script}'")
}

/// Waits until a file is there, whole, as it was renamed, and gives its text.
fn text_of(path: &Path) -> String {
    poll("it is written", || fs::read_to_string(path).ok())
}

#[test]
fn a_command_is_told_what_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let aside = tempfile::tempdir().unwrap();
    let [a, b] = ["a.conf", "b with space.conf"].map(|name| dir.path().join(name));
    fs::write(&a, "0").unwrap();
    fs::write(&b, "0").unwrap();
    let mut gate = Gate::new(aside.path());
    let out = aside.path().join("out");
    let script = format!(
        "printf \"%s|%s|%s\" \"$RELOAD_RULE\" \"$RELOAD_CHANGED_COUNT\" \"$RELOAD_CHANGED\" > {}; \
         said=here; {}; exit $(cat {})",
        out.display(),
        gate.script(),
        a.display(),
    );
    let watch = dir.path().to_str().unwrap();
    let options = ["--watch", watch, "--process", "nobody-is-called-so", "--exec", &shell(&script)];
    let mut agent = Agent::ready(Source::Inotify, &options);

    // It fails, so that what has changed is still to be told when more does.
    bring(&a, "1");
    gate.arrival();
    let told = format!("nobody-is-called-so|1|{}", a.display());
    assert_eq!(fs::read_to_string(&out).unwrap(), told);
    gate.open();
    agent.wait_for("failed");
    bring(&b, "1");
    agent.until("changed", |event| {
        event.name() == "changed" && event.paths() == [b.to_str().unwrap()]
    });
    // One attempt of before may be under way.
    let both = format!("nobody-is-called-so|2|{}\n{}", a.display(), b.display());
    poll("it is told of both", || {
        gate.arrival();
        let is_both = fs::read_to_string(&out).unwrap() == both;
        if !is_both {
            gate.open();
        }
        is_both.then_some(())
    });
    // It succeeds, and the next change is told of alone.
    fs::write(&a, "0").unwrap();
    gate.open();
    agent.wait_for("confirmed");
    bring(&b, "2");
    poll("it is told of one", || {
        gate.arrival();
        gate.open();
        let told = format!("nobody-is-called-so|1|{}", b.display());
        (fs::read_to_string(&out).unwrap() == told).then_some(())
    });
}

#[test]
fn a_command_that_is_not_there_is_told_of_before_it_is_wanted() {
    let scene = Scene::new();
    let mut agent = scene.agent(&["--exec", "no-such-command --really"]);
    let warning = agent.wait_for("warning");
    let expected = "there is no program no-such-command where the agent is: it cannot be run when \
                    the content changes; install it there or give its path";
    assert_eq!(warning.text("reason"), expected);
    replace(&scene.path, "1");
    let failed = agent.wait_for("failed");
    assert!(failed.text("reason").starts_with("cannot run no-such-command: "), "{failed}");
}

#[test]
fn no_shell_sees_the_words_of_a_command() {
    let scene = Scene::new();
    let [out, hole] = ["out", "hole"].map(|name| scene.aside(name));
    // A program that writes its words, and what would be commands for a shell.
    let script = format!("printf \"%s|\" \"$@\" > {0}.draft; mv {0}.draft {0}", out.display());
    let hole = hole.display();
    let words = format!("a; 'b $(touch {hole})' `touch {hole}` $HOME '' > {hole}");
    let exec = format!("{} sh {words}", shell(&script));
    let mut agent = scene.agent(&["--exec", &exec]);

    replace(&scene.path, "1");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    assert_eq!(events[1].text("action"), "exec");
    assert_eq!(events[2].text("evidence"), "accepted");
    let expected = format!("a;|b $(touch {hole})|`touch|{hole}`|$HOME||>|{hole}|");
    assert_eq!(text_of(&out), expected);
    assert!(!scene.aside("hole").exists());
}

#[test]
fn a_command_that_fails_is_tried_again_and_told_of_once() {
    let scene = Scene::new();
    let tries = scene.aside("tries");
    let script =
        format!("echo try >> {0}; echo not yet; [ $(wc -l < {0}) -ge 3 ]", tries.display());
    let mut agent = scene.agent(&["--exec", &shell(&script)]);

    replace(&scene.path, "1");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "failed", "reloaded", "confirmed"], "{events:?}");
    let reason = events[1].text("reason");
    assert!(reason.ends_with("ended with exit status 1: not yet"), "{reason}");
    assert_eq!(fs::read_to_string(tries).unwrap().lines().count(), 3);
}

#[test]
fn newer_content_does_not_wait_for_the_next_attempt() {
    let scene = Scene::new();
    let path = scene.path.display();
    let tries = scene.aside("tries");
    let script = format!("said=$(cat {path}); echo $said >> {}; [ $said = good ]", tries.display());
    let mut agent = scene.agent(&["--exec", &shell(&script)]);

    replace(&scene.path, "bad");
    agent.wait_for("failed");
    // By now the pauses are long.
    poll("it was tried four times", || {
        (fs::read_to_string(&tries).unwrap().matches("bad").count() >= 4).then_some(())
    });
    replace(&scene.path, "good");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    // The fourth pause has four seconds: an attempt of the old content would have come first otherwise.
    assert_eq!(fs::read_to_string(&tries).unwrap(), "bad\nbad\nbad\nbad\ngood\n");
}

#[test]
fn a_server_is_asked_until_it_accepts() {
    let scene = Scene::new();
    let server = Server::start();
    let url = format!("http://{}/-/reload", server.address());
    let mut agent = scene.agent(&["--post", &url]);

    replace(&scene.path, "1");
    for _ in 0..2 {
        assert_eq!(server.request().first().unwrap(), "POST /-/reload HTTP/1.1");
        server.answer("500 Internal Server Error");
    }
    server.request();
    let events = agent.events_until("failed");
    assert_eq!(names(&events), ["changed", "failed"], "{events:?}");
    let reason = format!("{url} answered 500 Internal Server Error");
    assert_eq!(events[1].text("reason"), reason);
    server.answer("200 OK");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["reloaded", "confirmed"], "{events:?}");
    assert_eq!(events[0].text("object"), url);
    assert_eq!(events[0].text("action"), "post");
    assert_eq!(events[1].text("evidence"), "accepted");

    replace(&scene.path, "2");
    server.request();
    server.answer("204 No Content");
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    assert!(!server.has_request());
}

#[test]
fn a_server_that_answers_while_the_agent_stands_still_is_not_asked_again() {
    check_stop(|server| server.answer("200 OK"), |_| {});
}

#[test]
fn a_server_that_stood_still_with_the_agent_is_not_asked_again() {
    check_stop(|_| {}, |server| server.answer("200 OK"));
}

/// An answer is waited for 10 s, and that does not include a stop.
#[track_caller]
fn check_stop(meanwhile: impl FnOnce(&Server), after: impl FnOnce(&Server)) {
    let scene = Scene::new();
    let server = Server::start();
    let mut agent = scene.agent(&["--post", &format!("http://{}/", server.address())]);
    replace(&scene.path, "1");
    server.request();
    let pid = Pid::from_raw(agent.pid()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    meanwhile(&server);
    pause(Duration::from_secs(11));
    kill_process(pid, Signal::CONT).unwrap();
    after(&server);
    let events = agent.events_until("confirmed");
    assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
    assert!(!server.has_request());
}

#[test]
fn a_redirect_is_a_failure() {
    let scene = Scene::new();
    let server = Server::start();
    let url = format!("http://{}/", server.address());
    let mut agent = scene.agent(&["--post", &url]);
    replace(&scene.path, "1");
    server.request();
    server.answer("302 Found\r\nlocation: http://user:secret@127.0.0.1:9/elsewhere");
    let events = agent.events_until("failed");
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    let reason = format!(
        "{url} answered 302 Found and leads to http://user:***@127.0.0.1:9/elsewhere; a redirect is not \
         followed: give --post the URL that it leads to"
    );
    assert_eq!(events.last().unwrap().text("reason"), reason);
}

#[test]
fn a_password_reaches_the_server_and_no_line_of_the_log() {
    for format in ["text", "json"] {
        let scene = Scene::new();
        let server = Server::start();
        let url = format!("http://Aladdin:open%20sesame@{}/?token=hush", server.address());
        let mut command = command();
        command.args([
            "run",
            "--source",
            "inotify",
            "--log-format",
            format,
            "--log-level",
            "debug",
        ]);
        command.args(["--min-interval", "0", "--post", &url, "--watch"]).arg(&scene.path);
        let mut process = Process::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        let mut lines = Lines::of("agent", process.stderr.take().unwrap());
        let mut said = Vec::new();
        let mut until = |text: &str| {
            lines.until(text, |line| {
                said.push(line.to_owned());
                line.contains(text).then_some(())
            });
        };
        until("ready");
        replace(&scene.path, "1");
        for answer in ["500 No", "200 OK"] {
            let request = server.request();
            assert_eq!(request.first().unwrap(), "POST /?token=hush HTTP/1.1");
            let expected = "authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
            assert!(request.iter().any(|line| line.to_lowercase() == expected.to_lowercase()));
            server.answer(answer);
        }
        until("confirmed");
        drop(process);
        said.extend(lines.rest());
        for secret in ["sesame", "hush", "QWxhZGRpbj"] {
            assert!(!said.iter().any(|line| line.contains(secret)), "{secret}: {said:#?}");
        }
    }
}

/// A supervisor: whenever what it has started ends, it starts another.
struct Supervisor {
    process: Process,
    lines: Lines,
}

impl Supervisor {
    /// It starts them by `how`, which may be nothing.
    fn start(recipe: &Recipe, how: &str) -> Self {
        let target = recipe.command();
        let arguments = target.get_args().map(|it| it.to_str().unwrap().to_owned());
        let line = [recipe.path().to_str().unwrap().to_owned()].into_iter().chain(arguments);
        let line = line.collect::<Vec<_>>().join(" ");
        let mut command = clean(Command::new("sh"));
        command.args(["-c", &format!("while :; do {how} {line}; done")]);
        let mut process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let lines = Lines::of("supervised", process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// Waits for the next to be ready, and gives its pid and what it has read.
    fn next(&mut self) -> (i32, String) {
        let started = self.lines.until("started", |line| {
            let (pid, content) = line.strip_prefix("started ")?.split_once(' ')?;
            Some((pid.parse().unwrap(), content.to_owned()))
        });
        self.lines.until("ready", |line| line.starts_with("ready ").then_some(()));
        started
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // So that it starts no other; what it has started ends with it (`PR_SET_PDEATHSIG`).
        let children = children_of(self.process.pid());
        drop(self.process.kill());
        for child in children {
            let pid = Pid::from_raw(child).unwrap();
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

fn check_restart(source: Source, how: &str) {
    let scene = Scene::new();
    let recipe = Recipe::new().handler("none").reading(&scene.path);
    let mut supervisor = Supervisor::start(&recipe, how);
    let mut last = supervisor.next();
    assert_eq!(last.1, "0");
    let options = ["--restart", "--confirm-timeout", "20s"];
    let mut agent = Agent::with(source, &scene.path, recipe.name(), &options);

    for content in ["1", "2", "3"] {
        source.let_look();
        replace(&scene.path, content);
        let mut events = agent.events_until("confirmed");
        // There may be nobody for a moment.
        events.retain(|event| !["waiting", "found"].contains(&event.name()));
        assert_eq!(names(&events), ["changed", "reloaded", "confirmed"], "{events:?}");
        assert_eq!(events[1].text("action"), "restart");
        assert_eq!(events[1].pid(), last.0);
        assert_eq!(events[2].text("evidence"), "restarted");
        last = supervisor.next();
        assert_eq!(last.1, content, "it was restarted once, and has the content");
    }
    let (_status, events) = agent.stop(Signal::TERM);
    assert_eq!(names(&events), ["stopped"], "{events:?}");
}

promise!(a_program_that_cannot_reload_is_started_anew);
fn a_program_that_cannot_reload_is_started_anew(source: Source) {
    check_restart(source, "");
}

promise!(one_in_a_session_of_its_own_is_restarted_once);
/// Its parent might have read the configuration for it, but it was started in place of one that was
/// ended for that.
fn one_in_a_session_of_its_own_is_restarted_once(source: Source) {
    check_restart(source, "setsid --wait");
}

promise!(one_whose_supervisor_takes_its_time_is_waited_for);
/// As systemd's does, and the kubelet.
fn one_whose_supervisor_takes_its_time_is_waited_for(source: Source) {
    check_restart(source, "sleep 0.5;");
}

promise!(who_was_just_started_anew_is_not_ended_at_once);
/// `--min-interval` holds for those who follow each other in one place as for one process.
fn who_was_just_started_anew_is_not_ended_at_once(source: Source) {
    const INTERVAL: Duration = Duration::from_secs(2);
    let scene = Scene::new();
    let recipe = Recipe::new().handler("none").reading(&scene.path);
    let mut supervisor = Supervisor::start(&recipe, "");
    let (first, _) = supervisor.next();
    let options = ["--restart", "--min-interval", "2s"];
    let mut agent = Agent::with(source, &scene.path, recipe.name(), &options);

    let began = Instant::now();
    replace(&scene.path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), first);
    let (second, content) = supervisor.next();
    assert_eq!(content, "1");
    replace(&scene.path, "2");
    assert_eq!(agent.wait_for("reloaded").pid(), second);
    assert!(began.elapsed() >= INTERVAL, "after {:?}", began.elapsed());
    assert_eq!(supervisor.next().1, "2");
}

/// A rule with three actions, and what they work upon.
struct Three {
    scene: Scene,
    target: Running,
    server: Server,
    rule: String,
}

impl Three {
    /// The first is a command that fails as long as the file `obstacle` is there.
    fn new() -> Self {
        let scene = Scene::new();
        let recipe = Recipe::new().reading(&scene.path);
        let target = recipe.start();
        let server = Server::start();
        let (obstacle, done) = (scene.aside("obstacle"), scene.aside("done"));
        let rule = format!(
            "  process: {}\n  actions:\n  - exec: [sh, -c, \"[ ! -e {} ] && echo >> {}\"]\n  \
             - signal: HUP\n  - post: http://{}/\n",
            recipe.name(),
            obstacle.display(),
            done.display(),
            server.address()
        );
        Self { scene, target, server, rule }
    }
}

/// Which action was carried out, or what else was decided.
fn deeds(events: &[Event]) -> Vec<&str> {
    let deed = |event: &'_ Event| event.name() == "reloaded";
    events.iter().map(|it| if deed(it) { it.text("action") } else { it.name() }).collect()
}

promise!(several_actions_come_in_order_and_wait_for_the_ones_before);
fn several_actions_come_in_order_and_wait_for_the_ones_before(source: Source) {
    let Three { scene, mut target, server, rule } = Three::new();
    let mut agent = scene.agent_of(source, &rule, &[]);

    fs::write(scene.aside("obstacle"), "").unwrap();
    replace(&scene.path, "1");
    let events = agent.events_until("failed");
    assert_eq!(names(&events), ["changed", "failed"], "{events:?}");
    replace(&scene.path, "2");
    agent.wait_for("failed");
    assert!(!server.has_request(), "it waits for the first");
    fs::remove_file(scene.aside("obstacle")).unwrap();

    assert_eq!(target.signal().content, "2", "this is the first signal");
    server.request();
    let events = agent.events_until("confirmed");
    assert_eq!(deeds(&events), ["exec", "confirmed"], "{events:?}");
    server.answer("200 OK");
    let events = agent.events_until("confirmed");
    assert_eq!(deeds(&events), ["signal", "post", "confirmed"], "{events:?}");
    assert_eq!(fs::read_to_string(scene.aside("done")).unwrap(), "\n");
}

#[test]
fn a_dry_run_does_none_of_them_and_says_what_it_would() {
    let Three { scene, mut target, server, rule } = Three::new();
    let mut agent = scene.agent_of(Source::Inotify, &rule, &["--dry-run"]);

    for content in ["1", "2"] {
        replace(&scene.path, content);
        let events = agent
            .until("post", |event| event.name() == "reloaded" && event.text("action") == "post");
        assert_eq!(deeds(&events), ["changed", "exec", "signal", "post"], "{events:?}");
        assert!(events[1..].iter().all(|event| event.field("dry_run") == true), "{events:?}");
        assert_eq!(events[2].pid(), target.pid);
        assert_eq!(events[3].text("object"), format!("http://{}/", server.address()));
    }
    let (_status, events) = agent.stop(Signal::TERM);
    assert_eq!(names(&events), ["stopped"], "{events:?}");
    assert!(!scene.aside("done").exists());
    assert!(!server.has_request());
    assert_eq!(target.signals_at_hand(), []);
}
