//! A command runs bounded in time and output, where and as what it should, and leaves nothing behind.

#![cfg(test)]

mod support;

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    future::Future,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::unistd::Pid;
use reload_userspace::{
    child::{Ended, Job, Outcome, Place, run_by},
    rule::CommandLine,
    target::{Procfs, Scope, Target},
};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    agent::AGENT,
    lines::Lines,
    process::{Process, children_of},
    time::{PATIENCE, poll},
};

/// A time within which a command starts, on a machine that has others to run, and after which it is to
/// be killed.
const LONG_ENOUGH_TO_START: Duration = Duration::from_secs(5);

fn job(words: &[&str]) -> Job {
    Job {
        command: CommandLine::new(words.iter().map(|&word| word.to_owned()).collect()).unwrap(),
        place: Place::Agent,
        timeout: *PATIENCE,
        environment: Vec::new(),
    }
}

fn shell(script: &str) -> Job {
    job(&["sh", "-c", script])
}

/// A shell whose `$1` is `path`.
fn shell_with(script: &str, path: &Path) -> Job {
    job(&["sh", "-c", script, "sh", path.to_str().unwrap()])
}

fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future)
}

fn run(job: Job) -> Ended {
    wait_for(run_by(Path::new(AGENT), job))
}

/// Runs it and gives its output; it must pass.
#[track_caller]
fn output_of(job: Job) -> String {
    let Ended { outcome, output } = run(job);
    assert!(matches!(outcome, Outcome::Passed), "{outcome:?}: {output}");
    output
}

/// Runs it and gives the reason; it must not be run.
#[track_caller]
fn reason_of(ended: Ended) -> String {
    let Ended { outcome, output } = ended;
    let Outcome::NotRun(reason) = outcome else { panic!("{outcome:?}: {output}") };
    reason.to_string()
}

/// The pid that a command has written to a file.
fn pid_in(path: &Path) -> i32 {
    poll("a pid is written", || fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok())
}

/// Waits until there is not even a zombie of a process.
#[track_caller]
fn wait_for_end(pid: i32) {
    poll("it is gone", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}

fn kill(pid: i32) {
    kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// A directory that everybody may use.
fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

#[test]
fn its_end_is_told() {
    assert!(matches!(run(job(&["true"])).outcome, Outcome::Passed));
    assert!(matches!(run(job(&["false"])).outcome, Outcome::Exited(1)));
    assert!(matches!(run(shell("exit 77")).outcome, Outcome::Exited(77)));
    assert!(matches!(run(shell("kill -TERM $$")).outcome, Outcome::Killed(15)));
}

#[test]
fn what_cannot_be_run_is_told() {
    let reason = reason_of(run(job(&["no-such-program"])));
    assert_eq!(reason, "cannot run no-such-program: No such file or directory (os error 2)");
    let reason = reason_of(run(job(&["/"])));
    assert_eq!(reason, "cannot run /: Permission denied (os error 13)");
    let reason = reason_of(wait_for(run_by(Path::new("/no-agent"), job(&["true"]))));
    let expected = "cannot start the agent's helper /proc/self/exe: No such file or directory (os \
                    error 2); make sure that /proc is mounted";
    assert_eq!(reason, expected);
}

#[test]
fn the_helper_is_nobody_elses_business() {
    let help = Command::new(AGENT).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("doctor") && !help.contains("inside"), "{help}");
}

#[test]
fn no_shell_sees_its_words() {
    let words = ["printf", "%s|", "a b", "$HOME;*", "--target", ""];
    assert_eq!(output_of(job(&words)), "a b|$HOME;*|--target||");
}

#[test]
fn both_outputs_are_one_and_in_order() {
    let script = "echo 1; echo 2 >&2; echo 3; echo 4 > /dev/stderr; cat";
    assert_eq!(output_of(shell(script)), "1\n2\n3\n4\n");
}

#[test]
fn its_environment_is_ours_and_more() {
    let mut job = shell("echo $CARGO_PKG_NAME $RELOAD_RULE");
    job.environment.push(("RELOAD_RULE".into(), "web".into()));
    assert_eq!(output_of(job), "reload-userspace web\n");
}

#[test]
fn of_an_endless_output_the_end_is_kept() {
    let output = output_of(shell("head -c 10000000 /dev/zero | tr '\\0' x; echo end"));
    let (first, rest) = output.split_once('\n').unwrap();
    assert_eq!(first, "... 9995908 bytes before");
    assert_eq!(rest, "x".repeat(4092) + "end\n");
    let mut job = job(&["yes"]);
    job.timeout = LONG_ENOUGH_TO_START;
    let Ended { outcome, output } = run(job);
    assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
    assert!(output.ends_with("y\ny\n"), "{output}");
}

#[test]
fn what_is_left_in_the_background_does_not_hold_it_up_and_is_killed() {
    let dir = open_dir();
    let path = dir.path().join("pid");
    let output = output_of(shell_with("sleep 1h & echo $! > $1; echo done", &path));
    assert_eq!(output, "done\n");
    wait_for_end(pid_in(&path));
}

#[test]
fn a_daemon_is_left_alone() {
    let dir = open_dir();
    let path = dir.path().join("pid");
    let script = "setsid sh -c 'echo $$ > $0; exec sleep 1h' $1 & while ! [ -s $1 ]; do :; done";
    output_of(shell_with(script, &path));
    kill(pid_in(&path));
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_that_it_has_started() {
    let dir = open_dir();
    let [one, two, helper] = ["one", "two", "helper"].map(|name| dir.path().join(name));
    let script = "cd $1; echo $PPID > helper; echo $$ > one; \
                  sh -c 'echo $$ > two; echo before; trap \"\" TERM; sleep 1h' & wait";
    let mut job = shell_with(script, dir.path());
    job.timeout = LONG_ENOUGH_TO_START;
    let Ended { outcome, output } = run(job);
    assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}: {output}");
    assert_eq!(output, "before\n");
    for path in [one, two, helper] {
        wait_for_end(pid_in(&path));
    }
}

#[test]
fn one_that_waits_for_a_fifo_takes_too_long() {
    let dir = open_dir();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut job = job(&["cat", fifo.to_str().unwrap()]);
    job.timeout = LONG_ENOUGH_TO_START;
    assert!(matches!(run(job).outcome, Outcome::TimedOut));
}

#[test]
fn one_that_nobody_waits_for_any_more_is_killed() {
    let dir = open_dir();
    let [path, helper] = ["pid", "helper"].map(|name| dir.path().join(name));
    let script = "cd $1; echo $PPID > helper; sleep 1h & echo $! > pid; wait";
    let job = shell_with(script, dir.path());
    wait_for(async {
        let mut running = Box::pin(run_by(Path::new(AGENT), job));
        let written = tokio::task::spawn_blocking(move || {
            let is_whole = || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'));
            poll("the pids are written", || is_whole().then_some(()));
            [pid_in(&path), pid_in(&helper)]
        });
        let pids = tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            pids = written => pids.unwrap(),
        };
        drop(running);
        // The runtime goes on meanwhile, and so it reaps the helper.
        tokio::task::spawn_blocking(move || pids.map(wait_for_end)).await.unwrap();
    });
}

#[test]
fn one_whose_helper_is_killed_is_killed_too() {
    let dir = open_dir();
    let path = dir.path().join("pid");
    let script = "echo $$ > $1; kill -KILL $PPID; exec sleep 1h";
    let reason = reason_of(run(shell_with(script, &path)));
    assert!(reason.starts_with("the agent's helper was killed"), "{reason}");
    wait_for_end(pid_in(&path));
}

#[test]
fn it_inherits_three_descriptors_and_no_signals() {
    // One that is not closed by `exec`, as whoever started the agent may have left it.
    let left = rustix::io::dup(std::io::stdin()).unwrap();
    let output = output_of(job(&["ls", "-l", "/proc/self/fd"]));
    drop(left);
    let links = output.lines().filter_map(|line| line.split_once(" -> "));
    let links: Vec<_> = links.map(|(_, link)| link.split(':').next().unwrap()).collect();
    // The last is the directory that `ls` has opened.
    assert_eq!(links.len(), 4, "{output}");
    assert_eq!(links[..3], ["/dev/null", "pipe", "pipe"], "{output}");

    let (_dir, agent) = wrapped(AGENT, "trap '' HUP USR1 CHLD; exec");
    let Ended { outcome, output } = wait_for(run_by(&agent, job(&["cat", "/proc/self/status"])));
    assert!(matches!(outcome, Outcome::Passed), "{outcome:?}: {output}");
    let sets = output.lines().filter_map(|line| line.strip_prefix("Sig")?.split_once(":\t"));
    let sets: Vec<_> = sets
        .filter(|(set, _)| matches!(*set, "Blk" | "Ign" | "Cgt"))
        .map(|(_, bits)| bits)
        .collect();
    assert_eq!(sets.len(), 3, "{output}");
    for set in sets {
        // But 32 and 33, which are the C library's.
        let bits = u64::from_str_radix(set, 16).unwrap() & !(0b11 << 31);
        assert_eq!(bits, 0, "{output}");
    }
}

#[test]
fn what_is_another_process_by_now_is_not_entered() {
    let me = Procfs::default().target(Pid::this()).unwrap().unwrap();
    let mut job = job(&["true"]);
    job.place = Place::Target(Target { started: me.started + 1, ..me }, Scope::Anywhere);
    let pid = me.pid;
    assert_eq!(reason_of(run(job)), format!("the process {pid} has ended"));
}

/// A process to run commands in the place of.
struct Host {
    process: Process,
    target: Target,
}

impl Host {
    /// Runs `words` and then `script`, which says `ready` before it turns into `sleep`.
    fn start(words: &[&str], script: &str) -> Self {
        let mut command = Command::new(words.first().unwrap_or(&"sh"));
        command.args(words.get(1..).unwrap_or_default());
        if !words.is_empty() {
            command.arg("sh");
        }
        let script = format!("set -e; {script}\necho ready; exec $SLEEP sleep 1h");
        command.args(["-c", &script]).stdout(Stdio::piped());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("OF_TARGET", "its own").env("RELOAD_RULE", "not this");
        let mut process = Process::spawn(&mut command);
        let lines = process.stdout.take().unwrap();
        Lines::of("host", lines).until("ready", |line| (line == "ready").then_some(()));
        // Below `unshare --fork`.
        let pid = children_of(process.pid()).first().copied().unwrap_or(process.pid());
        poll("it sleeps", || {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (comm == "sleep\n").then_some(())
        });
        let target = Procfs::default().target(Pid::from_raw(pid)).unwrap().unwrap();
        Self { process, target }
    }

    fn job(&self, script: &str) -> Job {
        let mut job = shell(script);
        job.place = Place::Target(self.target, Scope::Anywhere);
        job.environment.push((OsString::from("RELOAD_RULE"), OsString::from("web")));
        job
    }

    fn run(&self, script: &str) -> String {
        output_of(self.job(script))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The one below `unshare --fork` first; either may be gone.
        let pid = rustix::process::Pid::from_raw(self.target.pid.as_raw()).unwrap();
        let _killed = kill_process(pid, Signal::KILL);
        drop(self.process.kill());
    }
}

/// An agent that a script starts, beside that script; `how` ends with what stands before its path.
fn wrapped(agent: &str, how: &str) -> (TempDir, PathBuf) {
    let dir = open_dir();
    let wrapper = dir.path().join("wrapper");
    fs::write(&wrapper, format!("#!/bin/sh\n{how} {agent} \"$@\"\n")).unwrap();
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    (dir, wrapper)
}

/// An agent that has the uid 1234 and no rights.
fn powerless_agent() -> (TempDir, PathBuf) {
    wrapped(AGENT, &format!("exec {}", USER.join(" ")))
}

const USER: [&str; 5] = ["setpriv", "--reuid=1234", "--regid=2345", "--groups=3456,4567", "--"];

#[test]
#[ignore = "needs root; it makes namespaces"]
fn in_the_place_of_a_target_are_its_files_its_pids_and_its_environment() {
    let host = Host::start(
        &[
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--net",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ],
        "mount -t tmpfs none /mnt; echo secret > /mnt/only-there; hostname there; cd /mnt",
    );
    let script = "pwd; cat only-there; hostname; echo $OF_TARGET, $RELOAD_RULE, $CARGO_PKG_NAME; \
                  wc -l < /proc/net/dev; [ -d /proc/$$ ] && [ $$ -lt 100 ] && echo few pids";
    // Of one device besides two lines of header.
    let expected = "/mnt\nsecret\nthere\nits own, web,\n3\nfew pids\n";
    assert_eq!(host.run(script), expected);
    for kind in ["mnt", "pid", "uts", "net", "ipc", "user", "cgroup"] {
        let theirs = fs::read_link(format!("/proc/{}/ns/{kind}", host.target.pid)).unwrap();
        let ours = host.run(&format!("readlink /proc/self/ns/{kind}"));
        assert_eq!(Path::new(ours.trim_end()), theirs);
    }
    let reason = reason_of(run(host_job(&host, &["only-there-program"])));
    assert_eq!(reason, "cannot run only-there-program: No such file or directory (os error 2)");
}

fn host_job(host: &Host, words: &[&str]) -> Job {
    Job { place: Place::Target(host.target, Scope::Anywhere), ..job(words) }
}

/// The fields of its own `status` that begin so.
fn status(host: &Host, fields: &str) -> Vec<String> {
    let output = host.run(&format!("grep -E '^({fields}):' /proc/self/status"));
    output.lines().map(|line| line.replace('\t', " ").trim_end().to_owned()).collect()
}

#[test]
#[ignore = "needs root; it makes processes of another user"]
fn in_the_place_of_a_target_it_is_the_targets_user() {
    let host = Host::start(&USER, "");
    assert_eq!(
        status(&host, "Uid|Gid|Groups|Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs"),
        [
            "Uid: 1234 1234 1234 1234",
            "Gid: 2345 2345 2345 2345",
            "Groups: 3456 4567",
            "CapInh: 0000000000000000",
            "CapPrm: 0000000000000000",
            "CapEff: 0000000000000000",
            "CapBnd: 0000000000000000",
            "CapAmb: 0000000000000000",
            "NoNewPrivs: 1",
        ]
    );
    // A server that opens /dev/stderr anew, although the pipe is the agent's.
    assert_eq!(host.run("echo here > /dev/stderr"), "here\n");
}

#[test]
#[ignore = "needs root; it drops capabilities"]
fn in_the_place_of_a_target_it_has_the_targets_capabilities_and_no_other() {
    let root = Host::start(&["setpriv", "--bounding-set=-all,+chown,+net_bind_service"], "");
    let two = "0000000000000401";
    let caps = ["Prm", "Eff", "Bnd"].map(|set| format!("Cap{set}: {two}"));
    assert_eq!(status(&root, "CapPrm|CapEff|CapBnd"), caps);
    assert_eq!(root.run("id -u"), "0\n");

    let user = Host::start(
        &[
            "setpriv",
            "--reuid=1234",
            "--clear-groups",
            "--inh-caps=+net_bind_service",
            "--ambient-caps=+net_bind_service",
        ],
        "",
    );
    let one = "0000000000000400";
    let caps = ["Prm", "Eff", "Bnd"].map(|set| format!("Cap{set}: {one}"));
    assert_eq!(status(&user, "CapPrm|CapEff|CapBnd"), caps);
}

#[test]
#[ignore = "needs root; it makes a user namespace of another user"]
fn root_of_a_user_namespace_is_root_there_only() {
    let dir = open_dir();
    let host = Host::start(
        &[
            "setpriv",
            "--reuid=1234",
            "--clear-groups",
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
        ],
        "mount -t tmpfs none /mnt; echo there > /mnt/file",
    );
    let made = dir.path().join("made");
    let output = host.run(&format!("id -u; cat /mnt/file; echo > {}", made.display()));
    assert_eq!(output, "0\nthere\n");
    assert_eq!(fs::metadata(&made).unwrap().uid(), 1234);
    let script = "cat /proc/1/environ > /dev/null 2>&1 || echo no; cat /etc/shadow || echo no";
    assert!(host.run(script).starts_with("no\n"));
}

#[test]
#[ignore = "needs root; it changes a root directory"]
fn the_root_of_a_target_is_its_own() {
    let dir = open_dir();
    let root = dir.path().display();
    // In a mount namespace of its own, for that ends with it.
    let script = format!(
        "mount --rbind / {root}; mount -t tmpfs none {root}/mnt; \
                  echo below > {root}/mnt/file; SLEEP='chroot {root}'"
    );
    let host = Host::start(&["unshare", "--mount"], &script);
    assert_eq!(host.run("cat /mnt/file; pwd"), "below\n/\n");
}

#[test]
#[ignore = "needs root; it looks into another mount namespace"]
fn what_a_targets_environment_says_is_for_the_command_alone() {
    let host = Host::start(
        &["unshare", "--mount"],
        "export LD_PRELOAD=/no-such-library PATH=/mnt:/usr/bin:/bin; mount -t tmpfs none /mnt; \
         printf '#!/bin/sh\\necho \"of the target as $(id -u)\"\\n' > /mnt/hello; chmod +x /mnt/hello",
    );
    let output = output_of(host_job(&host, &["true"]));
    assert_eq!(output.matches("LD_PRELOAD").count(), 1, "{output}");
    let output = output_of(host_job(&host, &["hello"]));
    assert!(output.ends_with("of the target as 0\n"), "{output}");
}

#[test]
#[ignore = "needs root; it makes a mount namespace"]
fn a_target_with_files_of_its_own_never_meets_the_agents_executable() {
    let host = Host::start(&["unshare", "--mount"], "");
    assert_eq!(host.run("readlink /proc/$PPID/exe"), "/memfd:reload-agent (deleted)\n");
    // The program whose interpreter is what runs it, which can be told from the agent's own file.
    let script = "mount -t tmpfs none /mnt; printf '#!/proc/self/exe\\n' > /mnt/trap; \
                  chmod +x /mnt/trap";
    let host = Host::start(&["unshare", "--mount"], script);
    let Ended { outcome, output } = run(host_job(&host, &["/mnt/trap"]));
    assert!(matches!(outcome, Outcome::Exited(2)), "{outcome:?}: {output}");
    assert!(output.contains("/mnt/trap"), "the agent, as a copy, knows no such command: {output}");
}

#[test]
#[ignore = "needs root; it makes a pid namespace"]
fn in_another_pid_namespace_too_all_is_killed() {
    let dir = open_dir();
    let path = dir.path().join("pid");
    let words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let host = Host::start(&words, "");
    let script = format!("echo $$ > {}; sleep 2h & wait", path.display());
    let mut job = host.job(&script);
    job.timeout = LONG_ENOUGH_TO_START;
    assert!(matches!(run(job).outcome, Outcome::TimedOut));
    let pid = pid_in(&path);
    // What was below the command is the first process's now, and sleep reaps nobody.
    let script = format!(
        "[ -d /proc/{pid} ] || echo gone; grep -ls '[s]leep.2h' /proc/*/cmdline || echo none"
    );
    assert_eq!(host.run(&script), "gone\nnone\n");
}

#[test]
#[ignore = "needs root; it makes processes of another user"]
fn where_all_is_the_same_no_right_is_needed() {
    let (_dir, agent) = powerless_agent();
    let host = Host::start(&USER, "");
    let Ended { outcome, output } = wait_for(run_by(&agent, host.job("id -u; id -G")));
    assert!(matches!(outcome, Outcome::Passed), "{outcome:?}: {output}");
    assert_eq!(output, "1234\n2345 3456 4567\n");
}

#[test]
#[ignore = "needs root; it makes processes of another user"]
fn a_right_that_is_missing_is_named() {
    let (_dir, agent) = powerless_agent();
    let check = |words: &[&str], expected: &str| {
        let host = Host::start(words, "");
        let reason = reason_of(wait_for(run_by(&agent, host.job("true"))));
        let expected = expected.replace("PID", &host.target.pid.to_string());
        assert_eq!(reason, expected, "for {words:?}");
    };
    check(
        &[],
        "cannot look at the namespaces of the process PID: Permission denied (os error 13); \
         --check-in target needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or the uid of the process \
         and no fewer capabilities than it has",
    );
    let mut other_groups = USER;
    other_groups[3] = "--groups=99";
    check(
        &other_groups,
        "cannot become the user 1234:2345 of the process PID: Operation not permitted (os error \
         1); --check-in target needs CAP_SETUID and CAP_SETGID for a process of another user or \
         with other groups",
    );
    let mut elsewhere = vec!["unshare", "--mount", "--uts"];
    elsewhere.extend(USER);
    check(
        &elsewhere,
        "cannot enter the mount and uts namespaces of the process PID: Operation not permitted \
         (os error 1); --check-in target needs CAP_SYS_ADMIN, CAP_SYS_CHROOT and CAP_SYS_PTRACE \
         (and CAP_SETUID, CAP_SETGID and CAP_DAC_READ_SEARCH for a process of another user)",
    );
}
