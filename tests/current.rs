//! Whom a rule is about is always known as of now: what has started, ended or become another program.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    agent::{Agent, command, count, names},
    lines::Lines,
    process::Process,
    source::Source,
    target::Recipe,
    writer::{config, replace},
};

promise!(a_target_that_becomes_another_program_is_none_any_more);
/// It goes on under its pid, with a handler even, but the rule is not about what it is now.
fn a_target_that_becomes_another_program_is_none_any_more(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let other = Recipe::new().reading(&path);
    let mut changing = Changing::start(recipe.name(), &other.command());
    let mut agent = Agent::on(source, &path, recipe.name());
    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), changing.pid());
    changing.is_reloaded();
    changing.becomes_the_other();
    // The fence: somebody who is meant.
    let mut target = recipe.start();
    replace(&path, "2");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events).last(), Some(&"reloaded"));
    assert_eq!(events.last().unwrap().pid(), target.pid);
    assert_eq!(target.signal().content, "2");
    replace(&path, "3");
    assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
    let said = changing.lines.at_hand();
    assert!(!said.iter().any(|line| line.starts_with("signal ")), "it was signalled: {said:?}");
}

promise!(a_target_that_becomes_a_program_without_a_handler_survives);
/// The name is the same and the pid is the same; what is done with the signal is not.
fn a_target_that_becomes_a_program_without_a_handler_survives(source: Source) {
    let (_dir, path) = config();
    let recipe = Recipe::new().handler("none").reading(&path);
    let mut changing = Changing::start(recipe.name(), &recipe.command());
    let mut agent = Agent::with(source, &path, recipe.name(), &["--handler-timeout", "0s"]);
    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), changing.pid());
    changing.is_reloaded();
    changing.becomes_the_other();
    replace(&path, "2");
    let events = agent.events_until("refused");
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    assert_eq!(events.last().unwrap().pid(), changing.pid());
    assert_eq!(events.last().unwrap().text("reason"), "not_caught");
    assert!(changing.process.lives());
}

promise!(one_that_starts_after_the_change_is_not_signalled_for_it_however_it_is_found);
/// By its path or its pid file, as by its name.
fn one_that_starts_after_the_change_is_not_signalled_for_it_however_it_is_found(source: Source) {
    for by in [By::Exe, By::PidFile, By::All] {
        println!("--- {by:?}");
        let (dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let pid_file = dir.path().join("x.pid");
        let mut agent = by.agent(source, &path, &recipe, &pid_file);
        for generation in 1..=2 {
            replace(&path, &format!("{generation}-before"));
            agent.wait_for("changed");
            let mut target = recipe.start();
            fs::write(&pid_file, format!("{}\n", target.pid)).unwrap();
            assert_eq!(target.content, format!("{generation}-before"));

            let text = format!("{generation}-after");
            replace(&path, &text);
            let events = agent.events_until("reloaded");
            assert_eq!(count(&events, "reloaded"), 1, "{events:?}");
            assert_eq!(events.last().unwrap().pid(), target.pid);
            assert_eq!(target.signal().content, text, "the first signal is for the later change");
            target.kill();
        }
    }
}

promise!(of_several_trees_the_topmost_of_each_is_meant);
/// Two servers of one name side by side, each with workers of its own.
fn of_several_trees_the_topmost_of_each_is_meant(source: Source) {
    for by in [By::Name, By::Exe] {
        println!("--- {by:?}");
        let (dir, path) = config();
        let recipe = Recipe::new().workers(2).reading(&path);
        let pid_file = dir.path().join("x.pid");
        let mut agent = by.agent(source, &path, &recipe, &pid_file);
        let mut trees = [recipe.start(), recipe.start()];
        replace(&path, "1");
        let mut pids = [agent.wait_for("reloaded").pid(), agent.wait_for("reloaded").pid()];
        pids.sort_unstable();
        let mut expected = [trees[0].pid, trees[1].pid];
        expected.sort_unstable();
        assert_eq!(pids, expected);
        for tree in &mut trees {
            // Panics at a line of a worker that was signalled.
            assert_eq!(tree.signal().content, "1");
        }
    }
}

/// How a rule finds its target.
#[derive(Clone, Copy, Debug)]
enum By {
    Name,
    Exe,
    PidFile,
    /// By its name, and all that bear it.
    All,
}

impl By {
    #[track_caller]
    fn agent(self, source: Source, watch: &Path, recipe: &Recipe, pid_file: &Path) -> Agent {
        let mut command = command();
        command.args(["run", "--log-format", "json", "--min-interval", "0", "--watch"]).arg(watch);
        command.args(["--confirm-timeout", "0"]).args(source.arguments());
        match self {
            Self::Name => command.args(["--process", recipe.name()]),
            Self::Exe => command.arg("--exe").arg(recipe.path()),
            Self::PidFile => command.arg("--pid-file").arg(pid_file),
            Self::All => command.args(["--process", recipe.name(), "--all"]),
        };
        let mut agent = Agent::spawn(&mut command);
        agent.wait_for("ready");
        agent
    }
}

/// A shell that goes by another name, handles HUP, and becomes another program when it is told so.
struct Changing {
    process: Process,
    lines: Lines,
}

impl Changing {
    #[track_caller]
    fn start(name: &str, program: &Command) -> Self {
        let script = "trap 'echo trapped' HUP; trap 'exec \"$@\"' USR1; echo listening
            while :; do sleep 0.1 & wait $!; done";
        let mut shell = Command::new("sh");
        shell.arg0(name).args(["-c", script, "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        let mut process = Process::spawn(shell.stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut lines = Lines::of(&format!("{name}, a shell"), process.stdout.take().unwrap());
        lines.until("the traps are set", |line| (line == "listening").then_some(()));
        Self { process, lines }
    }

    fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Waits until it has handled a HUP as a shell.
    #[track_caller]
    fn is_reloaded(&mut self) {
        self.lines.until("the trap", |line| (line == "trapped").then_some(()));
    }

    #[track_caller]
    fn becomes_the_other(&mut self) {
        // Our own child, which nobody has reaped: the pid is its own.
        kill_process(Pid::from_raw(self.pid()).unwrap(), Signal::USR1).unwrap();
        self.lines.until("the other program", |line| line.starts_with("ready ").then_some(()));
    }
}
