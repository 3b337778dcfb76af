//! What the agent needs is what docs/privileges.md says, and what it keeps: no more, and with one less it
//! says which is missing.

#![cfg(test)]

mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::thread::CapabilitySet;
use tempfile::TempDir;

use crate::support::{
    agent::{AGENT, Agent, clean},
    doctor::{Diagnosis, as_nobody, public},
    lines::Lines,
    process::Process,
    rules::text,
    source::Source,
    target::{Recipe, Running},
    time::poll,
    writer::{config, replace},
};

/// A capability: what setpriv calls it, and what the kernel does.
type Capability = (&'static str, CapabilitySet);

const BPF: Capability = ("bpf", CapabilitySet::BPF);
const PERFMON: Capability = ("perfmon", CapabilitySet::PERFMON);
const KILL: Capability = ("kill", CapabilitySet::KILL);
const PTRACE: Capability = ("sys_ptrace", CapabilitySet::SYS_PTRACE);
const READ: Capability = ("dac_read_search", CapabilitySet::DAC_READ_SEARCH);
const OVERRIDE: Capability = ("dac_override", CapabilitySet::DAC_OVERRIDE);
const ADMIN: Capability = ("sys_admin", CapabilitySet::SYS_ADMIN);
const CHROOT: Capability = ("sys_chroot", CapabilitySet::SYS_CHROOT);
const SETUID: Capability = ("setuid", CapabilitySet::SETUID);
const SETGID: Capability = ("setgid", CapabilitySet::SETGID);
const BIND: Capability = ("net_bind_service", CapabilitySet::NET_BIND_SERVICE);
const CHOWN: Capability = ("chown", CapabilitySet::CHOWN);

/// Parts of lines of the log.
const READY: &str = r#""event":"ready""#;
const RELOADED: &str = r#""event":"reloaded""#;
const CONFIRMED: &str = r#""event":"confirmed""#;

/// Who runs the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The agent's user.
    Own,
    /// Root, and the agent is not.
    Others,
    /// The same, in a mount namespace of its own.
    Elsewhere,
}

/// A line of the table.
struct Need {
    /// What it is for, as the table says.
    what: &'static str,
    options: &'static [&'static str],
    whose: Whose,
    /// What is needed at the start.
    start: &'static [Capability],
    /// What of it stays effective.
    keeps: &'static [Capability],
    /// What of it stays permitted besides.
    idle: &'static [Capability],
    /// A part of a line of the log, which comes with all of it.
    works: &'static str,
    /// The same where one is missing: `CAP_X` is its name.
    lacks: &'static str,
}

/// The table. `{exe}`, `{process}` and `{state}` are the test's.
const NEEDS: &[Need] = &[
    Need {
        what: "`--source ebpf`",
        options: &["--process", "{process}", "--source", "ebpf"],
        whose: Whose::Own,
        start: &[BPF, PERFMON],
        keeps: &[],
        idle: &[],
        works: RELOADED,
        lacks: "eBPF needs CAP_X; grant it",
    },
    Need {
        what: "`--source fanotify`",
        options: &["--process", "{process}", "--source", "fanotify"],
        whose: Whose::Own,
        start: &[],
        keeps: &[],
        idle: &[],
        works: RELOADED,
        lacks: "",
    },
    Need {
        what: "`--source fanotify` that names who wrote",
        options: &["--process", "{process}", "--source", "fanotify", "--confirm-timeout", "0"],
        whose: Whose::Own,
        start: &[ADMIN],
        keeps: &[],
        idle: &[],
        works: r#""by":{"pid":"#,
        lacks: r#""strategy":"unprivileged""#,
    },
    Need {
        what: "`--source inotify`",
        options: &["--process", "{process}", "--source", "inotify"],
        whose: Whose::Own,
        start: &[],
        keeps: &[],
        idle: &[],
        works: RELOADED,
        lacks: "",
    },
    Need {
        what: "`--source poll`",
        options: &["--process", "{process}", "--source", "poll"],
        whose: Whose::Own,
        start: &[],
        keeps: &[],
        idle: &[],
        works: RELOADED,
        lacks: "",
    },
    Need {
        what: "files that others may not read",
        options: &["--process", "{process}", "--watch", "{secret}"],
        whose: Whose::Own,
        start: &[READ],
        keeps: &[READ],
        idle: &[],
        works: RELOADED,
        lacks: "or give it CAP_X as an effective capability",
    },
    Need {
        what: "`--state-dir` of another user",
        options: &["--process", "{process}", "--source", "inotify", "--state-dir", "{state}"],
        whose: Whose::Own,
        start: &[OVERRIDE],
        keeps: &[OVERRIDE],
        idle: &[],
        works: RELOADED,
        lacks: "give --state-dir a directory that the agent may write to",
    },
    Need {
        what: "`--listen` below port 1024",
        options: &["--source", "inotify", "--listen", "0.0.0.0:81", "--post", "http://[::1]:9"],
        whose: Whose::Own,
        start: &[BIND],
        keeps: &[],
        idle: &[],
        works: r#""listen":"0.0.0.0:81""#,
        lacks: "ports below 1024 are for who has CAP_X",
    },
    Need {
        what: "to see what others' processes run (`--exe`, a name that is only the executable's)",
        options: &["--exe", "{exe}", "--source", "inotify", "--dry-run"],
        whose: Whose::Others,
        start: &[PTRACE],
        keeps: &[PTRACE],
        idle: &[],
        works: RELOADED,
        lacks: r#""event":"waiting""#,
    },
    Need {
        what: "`--signal` to another user's process",
        options: &["--process", "{process}", "--source", "inotify"],
        whose: Whose::Others,
        start: &[KILL],
        keeps: &[KILL],
        idle: &[],
        works: RELOADED,
        lacks: "give it CAP_X as an effective capability",
    },
    Need {
        what: "`--restart` of another user's process",
        options: &["--process", "{process}", "--source", "inotify", "--restart"],
        whose: Whose::Others,
        start: &[KILL],
        keeps: &[KILL],
        idle: &[],
        works: RELOADED,
        lacks: "give it CAP_X as an effective capability",
    },
    Need {
        what: "the evidence `reopened`",
        options: &["--process", "{process}", "--source", "inotify", "--confirm-timeout", "5s"],
        whose: Whose::Own,
        start: &[ADMIN],
        keeps: &[],
        idle: &[],
        works: r#""evidence":"reopened""#,
        lacks: r#""evidence":"alive""#,
    },
    Need {
        what: "`--exec`, `--post`, `--check` in the agent's place",
        options: &["--source", "inotify", "--check", "true", "--exec", "true"],
        whose: Whose::Own,
        start: &[],
        keeps: &[],
        idle: &[],
        works: RELOADED,
        lacks: "",
    },
    Need {
        what: "`--check-in target`, where that is another user's and in other namespaces",
        options: &[
            "--process",
            "{process}",
            "--source",
            "inotify",
            "--check",
            "true",
            "--check-in",
            "target",
            "--exec",
            "true",
        ],
        whose: Whose::Elsewhere,
        start: &[ADMIN, CHROOT, PTRACE, SETUID, SETGID, READ],
        keeps: &[PTRACE, READ],
        idle: &[ADMIN, CHROOT, SETUID, SETGID],
        works: RELOADED,
        lacks: "CAP_X",
    },
];

/// A file, a target that may read it, and an agent that is nobody in particular.
struct Scene {
    dir: TempDir,
    agent: PathBuf,
    recipe: Recipe,
    _target: Running,
}

impl Scene {
    fn new(whose: Whose) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent = public(dir.path(), Path::new(AGENT));
        let path = dir.path().join("app.conf");
        fs::write(&path, "0").unwrap();
        for (name, mode) in [("secret", 0o600), ("state", 0o700)] {
            let path = dir.path().join(name);
            if name == "state" {
                fs::create_dir(&path).unwrap();
            } else {
                fs::write(&path, "0").unwrap();
            }
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        let recipe = Recipe::new().reading(&path);
        let recipe_command = recipe.command();
        let mut command = match whose {
            Whose::Own => {
                let program = public(dir.path(), &recipe.path());
                let mut command = as_nobody(&program, "-all", &[]);
                command.args(recipe_command.get_args());
                command
            }
            Whose::Others => recipe_command,
            Whose::Elsewhere => {
                let mut command = clean(Command::new("unshare"));
                command.arg("--mount").arg(recipe.path()).args(recipe_command.get_args());
                command
            }
        };
        let mut target = Running::of(recipe.name(), &mut command);
        target.wait_until_ready();
        Self { dir, agent, recipe, _target: target }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.conf")
    }

    /// The agent as nobody, with these capabilities and no other.
    ///
    /// It has a network of its own, in which ports below 1024 are for who has the right, whatever this
    /// machine says.
    fn command(&self, granted: &[Capability], options: &[&str]) -> Command {
        let mut command = clean(Command::new("unshare"));
        command.arg("--net");
        let setpriv = self.setpriv(granted);
        command.arg(setpriv.get_program()).args(setpriv.get_args());
        command.args(self.arguments(options));
        command
    }

    fn setpriv(&self, granted: &[Capability]) -> Command {
        let names: Vec<_> = granted.iter().map(|(name, _)| format!("+{name}")).collect();
        let names = if names.is_empty() { "-all".to_owned() } else { names.join(",") };
        as_nobody(&self.agent, &names, &[])
    }

    fn arguments(&self, options: &[&str]) -> Vec<String> {
        let of = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let filled = options.iter().map(|option| match *option {
            "{process}" => self.recipe.name().to_owned(),
            "{exe}" => self.recipe.path().to_str().unwrap().to_owned(),
            "{secret}" => of("secret"),
            "{state}" => of("state"),
            option => option.to_owned(),
        });
        let run = ["run", "--log-format", "json", "--min-interval", "0", "--watch"];
        run.map(str::to_owned).into_iter().chain([of("app.conf")]).chain(filled).collect()
    }
}

/// An agent, and the line of its log that was waited for.
struct Started {
    agent: Process,
    lines: Lines,
    line: String,
}

/// Starts an agent, changes the file when it is ready, and waits for a line that has `part`.
#[track_caller]
fn start(command: &mut Command, path: &Path, part: &str) -> Started {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut agent = Process::spawn(command);
    let mut lines = Lines::of("agent", agent.stderr.take().unwrap());
    let line = lines.until(part, |line| {
        if line.contains(READY) {
            replace(path, "1");
        }
        line.contains(part).then(|| line.to_owned())
    });
    Started { agent, lines, line }
}

/// A field of the status of a thread, as bits.
fn bits(status: &str, field: &str) -> CapabilitySet {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    CapabilitySet::from_bits_retain(u64::from_str_radix(line.unwrap(), 16).unwrap())
}

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

fn set(capabilities: &[Capability]) -> CapabilitySet {
    capabilities.iter().map(|(_, bit)| *bit).collect()
}

/// The line of the table.
fn line(need: &Need) -> String {
    let names = |capabilities: &[Capability]| {
        let names: Vec<_> =
            capabilities.iter().map(|(name, _)| format!("`CAP_{}`", name.to_uppercase())).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let Need { what, start, keeps, idle, .. } = need;
    let idle = if idle.is_empty() { String::new() } else { format!("; idle: {}", names(idle)) };
    format!("| {what} | {} | {}{idle} |", names(start), names(keeps))
}

#[test]
fn the_table_is_what_is_proved_here() {
    let page = include_str!("../docs/privileges.md");
    let table = page.lines().skip_while(|line| !line.starts_with("| for ")).skip(2);
    let table: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
    let expected: Vec<_> = NEEDS.iter().map(line).collect();
    assert_eq!(table, expected, "docs/privileges.md should have:\n{}", expected.join("\n"));
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_the_table_says_is_enough_and_what_is_kept() {
    for need in NEEDS {
        println!("--- {}", need.what);
        let scene = Scene::new(need.whose);
        let mut command = scene.command(need.start, need.options);
        let Started { agent, lines: _lines, .. } = start(&mut command, &scene.path(), need.works);
        let status = status(agent.pid());
        assert_eq!(bits(&status, "CapEff"), set(need.keeps), "{}", need.what);
        let permitted = set(need.keeps) | set(need.idle);
        assert_eq!(bits(&status, "CapPrm"), permitted, "{}", need.what);
    }
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn with_one_less_it_says_what_is_missing() {
    for need in NEEDS {
        for missing in need.start {
            println!("--- {} without {}", need.what, missing.0);
            let scene = Scene::new(need.whose);
            let granted: Vec<_> = need.start.iter().copied().filter(|it| it != missing).collect();
            let lacks = need.lacks.replace("CAP_X", &format!("CAP_{}", missing.0.to_uppercase()));
            start(&mut scene.command(&granted, need.options), &scene.path(), &lacks);
        }
    }
}

/// What a process runs is the one thing of which `run` cannot know whether it would be of use.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_doctor_says_what_it_takes_to_see_what_others_run() {
    let scene = Scene::new(Whose::Others);
    let exe = scene.recipe.path();
    let found = Diagnosis::by(&mut scene.setpriv(&[]), &["--exe", exe.to_str().unwrap()]);
    let missing = "missing: it sees the executables of other users";
    assert_eq!(found.of("capability", "CAP_SYS_PTRACE"), ("note", missing));
}

/// The promise of the README: three capabilities, whatever is mounted.
#[test]
#[ignore = "needs root; it mounts"]
fn ebpf_wants_bpf_perfmon_and_kill_with_and_without_tracefs() {
    let with = "mount -t tracefs tracefs /sys/kernel/tracing && [ -d /sys/kernel/tracing/events ]";
    let without = "while umount -l /sys/kernel/tracing 2> /dev/null; do :; done; \
                   while umount -l /sys/kernel/debug 2> /dev/null; do :; done; \
                   [ ! -e /sys/kernel/tracing/events ] && [ ! -e /sys/kernel/debug/tracing ]";
    let options = ["--process", "{process}", "--source", "ebpf", "--confirm-timeout", "5s"];
    for script in [with, without] {
        println!("--- {script}");
        let scene = Scene::new(Whose::Others);
        let setpriv = scene.setpriv(&[BPF, PERFMON, KILL]);
        let mut command = clean(Command::new("unshare"));
        command.args(["--mount", "sh", "-ec", &format!("{script}; exec \"$@\""), "sh"]);
        command.arg(setpriv.get_program()).args(setpriv.get_args());
        command.args(scene.arguments(&options));
        let Started { agent, mut lines, line } = start(&mut command, &scene.path(), READY);
        let status = status(agent.pid());
        assert_eq!(bits(&status, "CapEff"), KILL.1);
        assert_eq!(bits(&status, "CapPrm"), KILL.1);
        // Without the others it still hears, learns new files, forgets old ones, and is told of opens
        // where the strategy can tell.
        let is_told = line.contains(r#""strategy":"trampoline""#);
        let evidence = if is_told { r#""evidence":"reopened""# } else { r#""evidence":"alive""# };
        for text in ["2", "3"] {
            lines.until("reloaded", |line| line.contains(RELOADED).then_some(()));
            let confirmed = |line: &str| line.contains(CONFIRMED).then(|| line.to_owned());
            let line = lines.until("confirmed", confirmed);
            assert!(line.contains(evidence), "{line}");
            replace(&scene.path(), text);
        }
        let mut command = scene.setpriv(&[BPF, PERFMON, KILL]);
        let found = Diagnosis::by(&mut command, &["--process", scene.recipe.name()]);
        assert_eq!(found.only("confirmation").0, if is_told { "ok" } else { "note" });
    }
}

/// Every thread of it: capabilities belong to threads.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn root_gives_up_what_its_rules_do_not_need() {
    let scene = Scene::new(Whose::Own);
    let options = ["--process", "{process}", "--listen", "127.0.0.1:0", "--state-dir", "{state}"];
    let mut command = clean(Command::new(AGENT));
    command.args(scene.arguments(&options));
    let Started { agent, lines: _lines, .. } = start(&mut command, &scene.path(), RELOADED);
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let threads: Vec<_> = threads.map(|it| it.unwrap().path().join("status")).collect();
    assert!(threads.len() >= 3, "the loop, the server and the ledger: {threads:?}");
    for status in threads.iter().map(|path| fs::read_to_string(path).unwrap()) {
        let kept = set(&[READ, KILL, PTRACE]);
        for (field, expected) in [
            ("CapEff", kept),
            ("CapPrm", kept),
            ("CapInh", CapabilitySet::empty()),
            ("CapAmb", CapabilitySet::empty()),
            ("CapBnd", CapabilitySet::empty()),
        ] {
            assert_eq!(bits(&status, field), expected, "{field}: {status}");
        }
        assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }
}

/// It tells what would be done with the rights that it would be done with.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_dry_run_explains_before_it_gives_anything_up() {
    let scene = Scene::new(Whose::Own);
    let mut command = clean(Command::new(AGENT));
    command.args(["run", "--watch"]).arg(scene.path()).args([
        "--process",
        scene.recipe.name(),
        "--dry-run",
    ]);
    let mut agent =
        Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut lines = Lines::of("agent", agent.stdout.take().unwrap());
    lines
        .until("what it would do", |line| line.contains("HUP is allowed and caught").then_some(()));
    let kept = poll("it gives up what it does not need", || {
        let kept = bits(&status(agent.pid()), "CapPrm");
        (!kept.contains(ADMIN.1)).then_some(kept)
    });
    assert_eq!(kept, set(&[READ, PTRACE]));
}

/// The capabilities that are written to the file.
fn written(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().filter(|text| text.contains("CapAmb"))
}

/// `systemctl reload` does what it would do in the shell that the agent was started from.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_command_of_roots_has_what_root_has() {
    let scene = Scene::new(Whose::Own);
    let seen = scene.dir.path().join("seen");
    let exec = format!("sh -c 'grep -E ^Cap /proc/self/status > {}'", seen.display());
    let mut command = clean(Command::new(AGENT));
    command.args(scene.arguments(&["--process", "{process}", "--exec", &exec]));
    let Started { agent, lines: _lines, .. } =
        start(&mut command, &scene.path(), r#""action":"exec""#);
    let own = Command::new("grep").args(["-E", "^Cap", "/proc/self/status"]).output().unwrap();
    let seen = poll("the command has run", || written(&seen));
    assert_eq!(seen, String::from_utf8(own.stdout).unwrap());
    // And yet the agent itself has nothing that its rules do not need: it sends no signal.
    let status = status(agent.pid());
    assert_eq!(bits(&status, "CapEff"), set(&[READ, PTRACE]));
    assert_eq!(bits(&status, "CapPrm"), set(&[READ, PTRACE]));
}

/// What a unit for systemd grants for a command's sake.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_command_of_others_has_what_the_agent_was_started_with() {
    let scene = Scene::new(Whose::Own);
    let public = scene.dir.path().join("public");
    fs::create_dir(&public).unwrap();
    fs::set_permissions(&public, Permissions::from_mode(0o777)).unwrap();
    let seen = public.join("seen");
    let exec = format!("sh -c 'grep -E ^Cap /proc/self/status > {}'", seen.display());
    let granted = [CHOWN, BPF, PERFMON];
    let mut command = scene.command(&granted, &["--source", "ebpf", "--exec", &exec]);
    let Started { agent, lines: _lines, .. } =
        start(&mut command, &scene.path(), r#""action":"exec""#);
    let seen = poll("the command has run", || written(&seen));
    for field in ["CapEff", "CapPrm", "CapAmb"] {
        assert_eq!(bits(&seen, field), set(&granted), "{field}");
    }
    let status = status(agent.pid());
    assert_eq!(bits(&status, "CapEff"), CapabilitySet::empty());
    assert_eq!(bits(&status, "CapPrm"), set(&granted));
}

/// An edit may ask for what no rule has needed so far.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn rules_from_a_file_get_what_they_may_need_later() {
    let scene = Scene::new(Whose::Others);
    let config = scene.dir.path().join("rules.yaml");
    let watch = format!("watch: {}", scene.path().display());
    fs::write(&config, text(&[format!("{watch}, exec: 'true'")])).unwrap();
    let mut command = scene.setpriv(&[BPF, PERFMON, KILL, ADMIN, CHOWN]);
    command.args(["run", "--log-format", "json", "--min-interval", "0", "--config"]).arg(&config);
    let mut agent = Agent::spawn(&mut command);
    assert_eq!(agent.wait_for("ready").text("source"), Source::Ebpf.name());
    let kept = bits(&status(agent.pid()), "CapEff");
    // As an executable of others may be asked for, and SYS_PTRACE is not there to see it with.
    assert_eq!(kept, set(&[KILL, CHOWN]));

    let rule = format!("{watch}, process: {}", scene.recipe.name());
    replace(&config, &text(&[rule]));
    agent.heeds_rules();
    replace(&scene.path(), "1");
    agent.wait_for("reloaded");
    assert_eq!(agent.wait_for("confirmed").text("evidence"), "reopened");
}

/// Root of a container beside root of another, with what Docker grants both.
#[test]
#[ignore = "needs root; it drops capabilities"]
fn root_with_the_usual_rights_sees_what_root_with_the_same_runs() {
    const USUAL: &str = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,\
                         +setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write";
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let with = |granted: &str, program: &Path| {
        let mut command = clean(Command::new("setpriv"));
        command.args(["--bounding-set", granted, "--inh-caps", "-all"]).arg(program);
        command
    };
    let mut target = with(USUAL, &recipe.path());
    let mut target = Running::of(recipe.name(), target.args(recipe.command().get_args()));
    target.wait_until_ready();
    let mut command = with(&format!("{USUAL},+bpf,+perfmon,+net_admin"), Path::new(AGENT));
    command.args(["run", "--log-format", "json", "--min-interval", "0", "--watch"]).arg(&path);
    let mut agent = Agent::spawn(command.arg("--exe").arg(recipe.path()));
    assert_eq!(agent.wait_for("ready").text("source"), Source::Ebpf.name());
    replace(&path, "1");
    assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
    let kept = bits(&status(agent.pid()), "CapPrm");
    assert!(!kept.intersects(set(&[BPF, PERFMON]) | CapabilitySet::NET_ADMIN), "{kept:?}");
    assert!(kept.contains(set(&[KILL, CHOWN, OVERRIDE])), "{kept:?}");
}
