//! `doctor` says what `run` would do, to people and to programs, and changes nothing.

#![cfg(test)]

mod support;

use std::{fs, process::Stdio};

use crate::support::{
    agent::{command, run_to_end},
    doctor::Diagnosis,
    lines::Lines,
    process::Process,
    target::Recipe,
};

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn where_run_works_everything_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new();
    let mut target = recipe.start();
    let watch = path.to_str().unwrap();

    let found = Diagnosis::by(&mut command(), &["--watch", watch, "--process", recipe.name()]);

    assert_eq!(found.status, 0);
    let (status, said) = found.of("source", "ebpf");
    assert_eq!(status, "ok", "{said}");
    // Why the better strategy is not used, where it is not.
    let taken = |strategy, why| {
        said.starts_with(&format!("it works (strategy {strategy}), and `run` would take it{why}"))
    };
    let passed_over = "; not by strategy trampoline, for the kernel refuses";
    assert!(taken("trampoline", "") || taken("tracepoint", passed_over), "{said}");
    assert_eq!(found.only("watched_by"), ("ok", "ebpf", ""));
    assert_eq!(found.only("watch"), ("ok", "a file of 1 bytes", ""));
    let can = format!("pid {}, uid 0: HUP is allowed and caught", target.pid);
    assert_eq!(found.only("process"), ("ok", can.as_str(), ""));
    let order = ["kernel", "user", "source", "watch", "process"].map(|id| {
        let ids = found.ids();
        ids.iter().position(|found| *found == id).unwrap()
    });
    assert!(order.is_sorted(), "{:?}", found.ids());
    assert!(target.lives());
    assert_eq!(target.signals_at_hand(), [], "nothing was sent");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_is_missing_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let watch = dir.path().join("none/app.conf");
    let arguments = ["--watch", watch.to_str().unwrap(), "--process", "nobody-is-called-so"];
    let found = Diagnosis::by(&mut command(), &arguments);
    assert_eq!(found.status, 0);
    let waits = format!("{} does not exist; it is waited for", dir.path().join("none").display());
    assert_eq!(found.only("watch"), ("note", waits.as_str(), ""));
    assert_eq!(found.only("process").0, "note");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_options_of_run_are_heeded() {
    let recipe = Recipe::new().handler("none");
    let _target = recipe.start();
    let arguments = ["--process", recipe.name(), "--signal", "USR1"];
    let found = Diagnosis::by(&mut command(), &arguments);
    assert_eq!((found.status, found.bad()), (1, vec!["process"]));
    let (_, detail, remedy) = found.only("process");
    assert!(detail.contains("USR1 would be withheld"), "{detail}");
    assert!(remedy.contains("--force"), "{remedy}");

    let forced = Diagnosis::by(&mut command(), &[&arguments[..], &["--force"]].concat());
    assert_eq!(forced.status, 0);
    let forced = Diagnosis::by(command().env("RELOAD_FORCE", "1"), &arguments);
    assert_eq!(forced.status, 0);
}

#[test]
fn every_rule_of_a_file_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.yaml");
    let root = dir.path().display();
    let text = format!(
        "rules:\n- {{watch: {root}/a, process: nobody-a}}\n- {{watch: {root}/b, process: nobody-b}}\n"
    );
    fs::write(&rules, text).unwrap();
    let found = Diagnosis::by(&mut command(), &["--config", rules.to_str().unwrap()]);
    assert_eq!(found.status, 0);
    assert_eq!(found.of("watch", &format!("{root}/b")).0, "note");
    assert_eq!(found.of("process", "nobody-a").0, "note");
    assert_eq!(found.of("process", "nobody-b").0, "note");
}

#[test]
fn a_mistake_is_a_mistake_here_too() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let usage = |arguments: &[&str]| run_to_end(command().arg("doctor").args(arguments));
    let (status, said) = usage(&["--reconcile", "0s"]);
    assert_eq!(status, Some(2), "{said}");
    let (status, said) = usage(&["--signal", "HUPP"]);
    assert_eq!(status, Some(2), "{said}");
    let (status, said) = usage(&["--watch", ""]);
    assert_eq!(status, Some(2), "{said}");
    let found = Diagnosis::by(&mut command(), &["--watch", fifo.to_str().unwrap()]);
    assert_eq!(found.status, 1);
    assert!(found.bad().contains(&"watch"), "{:?}", found.bad());
}

/// For people: groups in the order of the pipeline, and lines that fit a terminal.
#[test]
fn the_text_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    let mut command = command();
    command.args(["doctor", "--process", "nobody-is-called-so", "--watch"]).arg(dir.path());
    let output = command.env("RELOAD_NONSENSE", "1").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    let titles: Vec<_> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    let expected = ["options", "kernel", "rights", "source", "watch", "target", "reload"];
    let titles: Vec<_> = titles.into_iter().filter(|title| !title.is_empty()).collect();
    assert_eq!(titles[..7], expected);
    assert!(titles[7].starts_with("`reload-agent run` "), "{titles:?}");
    assert_eq!(titles.len(), 8);
    let width = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!((60..=96).contains(&width), "{width} columns");
    assert!(text.contains("  note  subdirectories  1 is not watched"), "{text}");
    assert!(text.ends_with("Is it spelt so?\n  the process nobody-is-called-so\n"), "{text}");
}

#[test]
fn a_misspelt_variable_is_named() {
    let mut command = command();
    command.env("RELOAD_WATCHES", "/etc").env("RELOAD_AGENT_SERVICE_HOST", "10.0.0.1");
    let found = Diagnosis::by(&mut command, &[]);
    assert_eq!(found.ids()[0], "unknown_variable");
    assert_eq!(found.all("unknown_variable")[0]["object"], "RELOAD_WATCHES");
    assert_eq!(found.all("unknown_variable").len(), 1);
}

/// `run` goes on without it, and says so in one line.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn run_names_a_misspelt_variable_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command();
    command.args(["run", "--process", "nobody-is-called-so", "--watch"]).arg(dir.path());
    command.env("RELOAD_WATCHES", "/etc").env("RELOAD_X\n", "1");
    let mut agent = Process::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()));
    let mut said = Lines::of("agent", agent.stderr.take().unwrap());
    let mut lines = Vec::new();
    said.until("ready", |line| {
        lines.push(line.to_owned());
        line.contains(" ready after ").then_some(())
    });
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("RELOAD_")).collect();
    assert_eq!(warnings.len(), 1, "{lines:?}");
    let expected = "no option is called RELOAD_WATCHES, RELOAD_X\\n: see `reload-agent run --help`";
    assert!(warnings[0].contains(expected), "{lines:?}");
}
