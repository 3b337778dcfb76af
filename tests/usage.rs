//! A bad value never starts the agent: one line on the standard error names it and the remedy.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use crate::support::{
    agent::{AGENT, clean, command, run_to_end},
    process::run,
    source::Source,
};

/// The exit statuses.
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// Options that are right by themselves. `{dir}` stands for the directory of the test.
const WATCH: &[&str] = &["run", "--watch", "{dir}/app.conf"];
const NOBODY: &[&str] = &["run", "--process", "nobody-is-called-so"];
const BOTH: &[&str] = &["run", "--watch", "{dir}/app.conf", "--process", "nobody-is-called-so"];

/// What is typed after options that are right, and the one line that it gives.
struct Mistake {
    right: &'static [&'static str],
    wrong: &'static [&'static str],
    message: &'static str,
}

/// Mistakes that can be told without root.
const MISTAKES: &[Mistake] = &[
    Mistake {
        right: BOTH,
        wrong: &["--min-interval", "-1s"],
        message: "unexpected argument '-1' found; a value that begins with a dash goes behind an equals \
                  sign: --option=VALUE; see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--signal", "HUPP"],
        message: "--signal \"HUPP\" is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, or \
                  a number from 1 to 64",
    },
    Mistake {
        right: BOTH,
        wrong: &["--signal", "65"],
        message: "--signal \"65\" is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, or a \
                  number from 1 to 64",
    },
    Mistake {
        right: BOTH,
        wrong: &["--signal", "0"],
        message: "--signal \"0\" is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, or a \
                  number from 1 to 64",
    },
    Mistake {
        right: BOTH,
        wrong: &["--signal", "http://u:secret@h/"],
        message: "--signal \"http://u:***@h/\" is no signal; give a name such as HUP, SIGUSR1 or \
                  RTMIN+3, or a number from 1 to 64",
    },
    Mistake {
        right: BOTH,
        wrong: &["--settle", "http://u:secret@h/"],
        message: "invalid value 'http://u:***@h/' for '--settle <DURATION>': write 250ms, 2s or \
                  1m; see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--settle", "x:; http://u:secret@h/"],
        message: "invalid value 'x:; http://u:***@h/' for '--settle <DURATION>': write 250ms, 2s or \
                  1m; see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["http://u:secret@h/"],
        message: "unexpected argument 'http://u:***@h/' found; see `reload-agent run --help`",
    },
    Mistake {
        right: WATCH,
        wrong: &[],
        message: "there is nobody to reload; give --process NAME, or set RELOAD_PROCESS, PROCESS, \
                  PROCESS_NAME",
    },
    Mistake {
        right: WATCH,
        wrong: &["--process", ""],
        message: "--process is empty; give the name of a process, as in /proc/<pid>/comm",
    },
    Mistake {
        right: WATCH,
        wrong: &["--process", " "],
        message: "--process is empty; give the name of a process, as in /proc/<pid>/comm",
    },
    Mistake {
        right: WATCH,
        wrong: &["--process", "/usr/sbin/nginx"],
        message: "--process \"/usr/sbin/nginx\" has a slash in it; give the name without its \
                  directories",
    },
    Mistake {
        right: NOBODY,
        wrong: &[],
        message: "there is nothing to watch; give --watch PATH, or set RELOAD_WATCH, FILE, \
                  CONFIG_DIR",
    },
    Mistake {
        right: BOTH,
        wrong: &["--settle", "5"],
        message: "invalid value '5' for '--settle <DURATION>': write 250ms, 2s or 1m; see \
                  `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--settle-max", "soon"],
        message: "invalid value 'soon' for '--settle-max <DURATION>': write 250ms, 2s or 1m; see \
                  `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--reconcile", "0s"],
        message: "--reconcile is less than 1s; give at least that, for it is how often every file is read",
    },
    Mistake {
        right: BOTH,
        wrong: &["--settle", "3s"],
        message: "--settle is 3s, more than --settle-max, which is 2s; give a shorter --settle or a \
                  longer --settle-max",
    },
    Mistake {
        right: BOTH,
        wrong: &["--exe", "/bin/true"],
        message: "--process and --exe both say whom to reload; give one of them",
    },
    Mistake {
        right: BOTH,
        wrong: &["--config", "{dir}/rules.yaml"],
        message: "--watch is about one rule, and --config names a file with rules; say it there",
    },
    Mistake {
        right: BOTH,
        wrong: &["--exec", "render 'it"],
        message: "--exec \"render 'it\" has a quote that is not closed; close it, or write a \
                  backslash before it",
    },
    Mistake {
        right: WATCH,
        wrong: &["--restart"],
        message: "there is nobody to reload; give --process NAME, or set RELOAD_PROCESS, PROCESS, \
                  PROCESS_NAME",
    },
    Mistake {
        right: WATCH,
        wrong: &["--exec", "render", "--check", "test", "--check-in", "target"],
        message: "--check-in is about the process to reload, and none is named; give --process or \
                  --exe or --pid-file",
    },
    Mistake {
        right: BOTH,
        wrong: &["--check-in", "host"],
        message: "invalid value 'host' for '--check-in <WHERE>'; [possible values: agent, target]; \
                  see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--listen", "localhost:9090"],
        message: "invalid value 'localhost:9090' for '--listen <ADDR>': give a port or an address \
                  and a port: 9533, 127.0.0.1:9533, [::1]:9533; see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--source", "magic"],
        message: "invalid value 'magic' for '--source <NAME>'; [possible values: auto, ebpf, \
                  fanotify, inotify, poll]; see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--log-format", "xml"],
        message: "invalid value 'xml' for '--log-format <FORMAT>'; [possible values: text, json]; \
                  see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--nonsense"],
        message: "unexpected argument '--nonsense' found; see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["extra"],
        message: "unexpected argument 'extra' found; see `reload-agent run --help`",
    },
    Mistake {
        right: BOTH,
        wrong: &["--process", "another"],
        message: "the argument '--process <NAME>' cannot be used multiple times; see \
                  `reload-agent run --help`",
    },
    Mistake {
        right: &[],
        wrong: &["reload"],
        message: "unrecognized subcommand 'reload'; see `reload-agent --help`",
    },
    Mistake {
        right: &[],
        wrong: &[],
        message: "say what to do: run, node, trace or doctor; see `reload-agent --help`",
    },
];

/// A path that cannot be watched, and the cause.
struct Unwatchable {
    path: &'static str,
    cause: &'static str,
}

/// Paths that not even root can watch.
const UNWATCHABLE: &[Unwatchable] = &[
    Unwatchable { path: "fifo", cause: "{dir}/fifo is neither a regular file nor a directory" },
    Unwatchable { path: "device", cause: "{dir}/device is neither a regular file nor a directory" },
    Unwatchable { path: "app.conf/below", cause: "{dir}/app.conf is not a directory" },
    Unwatchable { path: "loop", cause: "{dir}/loop leads through more than 40 symlinks" },
];

fn scene() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("app.conf"), "0").unwrap();
    run(Command::new("mkfifo").arg(dir.path().join("fifo")));
    symlink("/dev/null", dir.path().join("device")).unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    dir
}

/// The exit status and the whole standard error of `command` with `arguments`, with the directory of
/// the test made `{dir}` again.
#[track_caller]
fn outcome(command: &mut Command, dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let dir = dir.to_str().unwrap();
    command.args(arguments.iter().map(|argument| argument.replace("{dir}", dir)));
    let (status, said) = run_to_end(command);
    (status, said.replace(dir, "{dir}"))
}

/// The agent as the user nobody, with these capabilities, from where that user can reach it.
fn as_nobody(dir: &Path, capabilities: &str) -> Command {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.join("agent");
    run(Command::new("cp").args([Path::new(AGENT), &binary]));
    let mut command = clean(Command::new("setpriv"));
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]).arg(binary);
    command
}

#[test]
fn a_mistake_is_named_with_its_remedy() {
    let dir = scene();
    for Mistake { right, wrong, message } in MISTAKES {
        let got = outcome(&mut command(), dir.path(), &[*right, *wrong].concat());
        assert_eq!(got, (Some(USAGE), format!("reload-agent: {message}")), "for {wrong:?}");
    }
}

#[test]
fn help_is_given_in_whichever_way_it_is_asked_for() {
    let said = |arguments: &[&str]| {
        let output = command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let help = said(&["--help"]);
    assert!(help.contains("doctor"), "{help}");
    assert_eq!(said(&["help"]), help);
    let help = said(&["run", "--help"]);
    assert!(help.contains("--min-interval"), "{help}");
    assert_eq!(said(&["help", "run"]), help);
}

#[test]
fn a_mistake_in_the_environment_is_one_too() {
    let dir = scene();
    let got = outcome(command().env("SIGNAL", "HUPP"), dir.path(), BOTH);
    let message = "reload-agent: SIGNAL \"HUPP\" is no signal; give a name such as HUP, SIGUSR1 \
                   or RTMIN+3, or a number from 1 to 64";
    assert_eq!(got, (Some(USAGE), message.to_owned()));

    let got = outcome(command().env("RELOAD_SETTLE", "5"), dir.path(), BOTH);
    let message = "reload-agent: invalid value '5' for RELOAD_SETTLE: write 250ms, 2s or 1m; see \
                   `reload-agent run --help`";
    assert_eq!(got, (Some(USAGE), message.to_owned()));

    let got = outcome(command().env("RELOAD_SETTLE", "3s"), dir.path(), BOTH);
    let message = "reload-agent: RELOAD_SETTLE is 3s, more than --settle-max, which is 2s; give a \
                   shorter RELOAD_SETTLE or a longer --settle-max";
    assert_eq!(got, (Some(USAGE), message.to_owned()));

    let from_file = ["run", "--config", "{dir}/rules.yaml"];
    let got = outcome(command().env("RELOAD_PROCESS", "x"), dir.path(), &from_file);
    let message = "reload-agent: RELOAD_PROCESS is about one rule, and --config names a file with \
                   rules; say it there";
    assert_eq!(got, (Some(USAGE), message.to_owned()));
}

#[test]
fn a_mistake_in_the_file_with_rules_is_named_with_its_place() {
    let dir = scene();
    let check = |rules: &str, message: &str| {
        fs::write(dir.path().join("rules.yaml"), rules).unwrap();
        for command_name in ["run", "doctor"] {
            let arguments = [command_name, "--config", "{dir}/rules.yaml"];
            // What other sidecars read is not heeded.
            let command = &mut command();
            let got =
                outcome(command.env("SIGNAL", "HUPP").env("FILE", ""), dir.path(), &arguments);
            assert_eq!(got, (Some(USAGE), format!("reload-agent: {message}")), "for {rules}");
        }
    };
    check("rules: []", "there are no rules in {dir}/rules.yaml; give at least one, below `rules:`");
    check(
        "rules:\n- watch: /etc\n  proces: x\n",
        "{dir}/rules.yaml:3:3: there is no key \"proces\"; the keys are name, watch, process, exe, \
         pidFile, all, exec, signal, post, restart, actions, check, checkIn, checkTimeout, \
         confirmTimeout, force, handlerTimeout, settle, settleMax, minInterval, onStart",
    );
    check(
        "rules:\n- watch: /etc\n  process: x\n\n- watch: /etc\n  process: y\n  signal: HUPP\n",
        "{dir}/rules.yaml:5:3: rule y: signal \"HUPP\" is no signal; give a name such as HUP, \
         SIGUSR1 or RTMIN+3, or a number from 1 to 64",
    );
    fs::remove_file(dir.path().join("rules.yaml")).unwrap();
    let got = outcome(&mut command(), dir.path(), &["run", "--config", "{dir}/rules.yaml"]);
    let message = "reload-agent: cannot read the rules in {dir}/rules.yaml: No such file or \
                   directory (os error 2); make it, or give --config another";
    assert_eq!(got, (Some(USAGE), message.to_owned()));
}

promise!(a_path_that_cannot_be_watched_is_named_with_the_cause);
fn a_path_that_cannot_be_watched_is_named_with_the_cause(source: Source) {
    let dir = scene();
    for Unwatchable { path, cause } in UNWATCHABLE {
        let watched = format!("{{dir}}/{path}");
        let arguments = [NOBODY, &source.arguments(), &["--watch", &watched]].concat();
        let got = outcome(&mut command(), dir.path(), &arguments);
        let message = format!(
            "reload-agent: cannot watch {watched}: {cause}; give --watch a file or directory that \
             can be read"
        );
        assert_eq!(got, (Some(FAILED), message), "for {path}");
    }
}

promise!(a_path_that_cannot_be_read_is_named_with_the_cause);
fn a_path_that_cannot_be_read_is_named_with_the_cause(source: Source) {
    let dir = scene();
    let secret = dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("app.conf"), "0").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = as_nobody(dir.path(), "+bpf,+perfmon");
    let watched = "{dir}/secret/app.conf";
    let arguments = [NOBODY, &source.arguments(), &["--watch", watched]].concat();
    let got = outcome(&mut command, dir.path(), &arguments);
    let message = "reload-agent: cannot watch {dir}/secret/app.conf: {dir}/secret/app.conf cannot \
                   be read: Permission denied (os error 13); give --watch a file or directory that \
                   can be read";
    assert_eq!(got, (Some(FAILED), message.to_owned()));
}

// The others need none.
promise!(a_missing_capability_is_named: ebpf);
fn a_missing_capability_is_named(source: Source) {
    let dir = scene();
    // One that is of no use here: an empty list cannot be given.
    let arguments = [BOTH, &source.arguments()].concat();
    let got = outcome(&mut as_nobody(dir.path(), "+chown"), dir.path(), &arguments);
    let message = "reload-agent: source ebpf cannot be had: eBPF needs CAP_BPF and CAP_PERFMON; \
                   grant it (Kubernetes: securityContext.capabilities.add [BPF, PERFMON]; systemd: \
                   AmbientCapabilities=CAP_BPF CAP_PERFMON; or run as root): Operation not \
                   permitted (os error 1)";
    assert_eq!(got, (Some(FAILED), message.to_owned()));
}
