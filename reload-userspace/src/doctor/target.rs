//! Whom to reload: which processes are seen at all, and whether they can be signalled.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::Pid;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    process::{PidfdFlags, pidfd_open, test_kill_process},
    thread::CapabilitySet,
};

use super::{
    environment::suspicions,
    finding::{Finding, Id},
    report::Report,
    status::Standing,
    watch::{counted, listed},
};
use crate::{
    mount::Mounts,
    preflight::{self, Caution, Verdict},
    rule::{Action, SignalNumber, Sketch},
    sys::probe,
    target::{Disposition, Held, Procfs, Selector},
};

/// The pid namespace that the machine starts with (`PROC_PID_INIT_INO` of the kernel).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The longest variable that a process can be started with (`MAX_ARG_STRLEN`), in bytes.
const LONGEST_VARIABLE: u64 = 128 * 1024;

/// How much of an environment is compared, in bytes.
const MOST_READ: u64 = 1024 * 1024;

/// All processes that are seen here.
type Processes = BTreeMap<i32, Standing>;

/// Looks for the processes that `selector` means.
pub(super) fn examine(
    report: &mut Report,
    rule: &Sketch,
    selector: &Selector,
    me: &Standing,
    mounts: &Mounts,
    files: &BTreeSet<PathBuf>,
) {
    let procfs = Procfs::default();
    if let Err(error) = procfs.verify() {
        let detail = "/proc is that of another pid namespace: a number in it may be of any process";
        report.add(Finding::bad(Id::Procfs, detail).remedy(error.to_string()));
        return;
    }
    let processes = all();
    let found = match procfs.resolve(selector) {
        Ok(found) => found,
        Err(error) => {
            let detail = format!("{:#}", anyhow::Error::new(error));
            report.add(Finding::bad(Id::Process, detail).of(selector.to_string()));
            return;
        }
    };
    report.add(namespace(&processes, !found.is_empty()));
    report.findings.extend(hidden(mounts, me));
    if found.is_empty() {
        let awaited = format!("the process {selector}");
        let finding = nobody(selector.lack(&procfs), &processes, me);
        report.add(finding.of(selector.to_string()).awaiting(awaited));
    }
    let contents = if found.is_empty() { BTreeMap::new() } else { contents(files) };
    for held in &found {
        let pid = held.target().pid;
        let signals = rule.actions.iter().filter_map(Action::signal);
        let findings = signals
            .filter_map(|signal| whether_signalled(&procfs, held, signal, rule.pace.caution, me));
        report.findings.extend(findings.map(|finding| finding.of(selector.to_string())));
        report.findings.extend(environment(pid, &contents));
    }
}

fn all() -> Processes {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, Standing::of(Pid::from_raw(pid))?))).collect()
}

/// Says whose processes are seen here.
fn namespace(processes: &Processes, is_found: bool) -> Finding {
    let id = Id::PidNamespace;
    if is_in_initial_namespace() {
        return Finding::ok(id, "the machine's own: all processes are seen");
    }
    let count = counted(processes.len(), "process is", "processes are");
    let first = processes.get(&1).map_or("not seen", |first| first.name.as_str());
    if !is_found && is_alone(processes, Pid::this().as_raw()) {
        return Finding::note(id, "this container sees only its own processes").remedy(
            "let it see those of the other containers: shareProcessNamespace: true (Kubernetes), \
             or --pid container:NAME (Docker)",
        );
    }
    let detail = if first == "pause" {
        format!("shared by the containers of a pod (pid 1 is pause): {count} seen")
    } else {
        format!("one of several on this machine: {count} seen, pid 1 is {first}")
    };
    Finding::ok(id, detail)
}

fn is_in_initial_namespace() -> bool {
    let it = fs::read_link("/proc/self/ns/pid");
    it.is_ok_and(|it| it == Path::new(INITIAL_PID_NAMESPACE))
}

/// Whether every process is the agent, another of its name, or what started it.
fn is_alone(processes: &Processes, me: i32) -> bool {
    let name = processes.get(&me).map(|me| &me.name);
    let mut ours = BTreeSet::new();
    let mut next = me;
    // It ends at the latest where it comes round.
    while let Some(process) = processes.get(&next).filter(|_| ours.insert(next)) {
        next = process.parent;
    }
    processes.iter().all(|(pid, process)| ours.contains(pid) || Some(&process.name) == name)
}

/// Says whose processes `/proc` does not show.
fn hidden(mounts: &Mounts, me: &Standing) -> Option<Finding> {
    let options = mounts.of(Path::new("/proc"))?.options.to_str()?;
    let mode = options.split(',').find_map(|option| option.strip_prefix("hidepid="))?;
    let sees_all = matches!(mode, "0" | "off") || me.effective.contains(CapabilitySet::SYS_PTRACE);
    let detail = format!("/proc hides the processes of other users (hidepid={mode})");
    let remedy = "run the agent as the uid of the target, or with CAP_SYS_PTRACE, or mount /proc \
                  without hidepid";
    (!sees_all).then(|| Finding::note(Id::HiddenProcesses, detail).remedy(remedy))
}

/// Says that there is no such process, and who is there instead.
fn nobody(lack: Option<String>, processes: &Processes, me: &Standing) -> Finding {
    let mut details = vec!["no such process; it is waited for".to_owned()];
    details.extend(lack);
    // A container has few; of a machine it would be no help.
    if !is_in_initial_namespace() {
        let names: BTreeSet<_> = processes.values().map(|process| process.name.clone()).collect();
        details.push(format!("there are {}", listed(&names.into_iter().collect::<Vec<_>>())));
    }
    let is_hidden = |pid: &&i32| {
        let executable = fs::read_link(format!("/proc/{pid}/exe"));
        executable.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let hidden = processes.keys().filter(is_hidden).count();
    if hidden == 0 || me.effective.contains(CapabilitySet::SYS_PTRACE) {
        return Finding::note(Id::Process, details.join("; "));
    }
    details.push(format!(
        "of {} only the name of the task and argv[0] are seen, and not the executable",
        counted(hidden, "process", "processes")
    ));
    Finding::note(Id::Process, details.join("; "))
        .remedy("if it is one of those: run the agent as its uid, or with CAP_SYS_PTRACE")
}

/// Says whether `signal` would reach the process, or why not; `None` where it is gone.
pub(crate) fn whether_signalled(
    procfs: &Procfs,
    held: &Held,
    signal: SignalNumber,
    caution: Caution,
    me: &Standing,
) -> Option<Finding> {
    let pid = held.target().pid;
    let disposition = match procfs.disposition(pid, signal.get()) {
        Ok(disposition) => disposition?,
        Err(error) => {
            let detail = format!("{:#}", anyhow::Error::new(error));
            return Some(Finding::bad(Id::Process, detail));
        }
    };
    let it = Standing::of(pid)?;
    let who = format!("pid {pid}, uid {}", it.uid);
    // As if the process had run for long: what it does not catch now, it may yet.
    let caution = Caution { handler_timeout: Duration::ZERO, ..caution };
    let verdict = preflight::judge(signal.get(), disposition, Duration::MAX, caution);
    if let Verdict::Refused(reason) = verdict {
        let detail = format!("{who}: {signal} would be withheld: {reason}");
        return Some(Finding::bad(Id::Process, detail).remedy(reason.remedy()));
    }
    Some(match may_signal(pid)? {
        Ok(()) => {
            let is_caught = matches!(disposition, Disposition::Caught | Disposition::Awaited);
            let how = if is_caught { "is allowed and caught" } else { "can be sent" };
            Finding::ok(Id::Process, format!("{who}: {signal} {how}"))
        }
        Err(Errno::SRCH) => return None,
        Err(errno) => {
            let (why, remedy) = denial(&it, me);
            let answer = if errno == Errno::PERM { String::new() } else { format!(" ({errno})") };
            let detail = format!("{who}: {signal} is not allowed{answer}: {why}");
            Finding::bad(Id::Process, detail).remedy(remedy)
        }
    })
}

/// Asks whether the process can be signalled, in the way that `run` would take.
fn may_signal(pid: Pid) -> Option<Result<(), Errno>> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw())?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty());
    Some(match pidfd.and_then(|pidfd| probe::pidfd_send_signal(pidfd.as_fd())) {
        Err(Errno::NOSYS | Errno::PERM) => test_kill_process(pid),
        answer => answer,
    })
}

/// Why the agent may not signal a process, and what to do about it (`kill(2)`).
fn denial(it: &Standing, me: &Standing) -> (String, String) {
    let (kill, own) = (CapabilitySet::KILL, me.effective_uid);
    let is_same = [me.uid, own].iter().any(|uid| [it.uid, it.saved_uid].contains(uid));
    if is_same || me.effective.contains(kill) {
        let right = if is_same { "the uids are the same" } else { "CAP_KILL is effective" };
        let why =
            format!("{right}, and yet a seccomp filter, an LSM or a user namespace forbids it");
        let remedy = "allow kill(2) and pidfd_send_signal(2) there, or run the agent in the user \
                      namespace of the process";
        return (why, remedy.to_owned());
    }
    let lost = if me.permitted.contains(kill) {
        ", though permitted"
    } else if own != 0 && me.bounding.contains(kill) {
        ", though in the bounding set: capabilities.add counts for root, and for others if the file \
         of the agent brings it too"
    } else {
        ""
    };
    let why = format!("the agent is uid {own}, and CAP_KILL is not effective{lost}");
    let uid = it.uid;
    let mut remedy =
        format!("run the agent as uid {uid} (runAsUser: {uid}), which needs no capability");
    if uid != 0 {
        remedy += "; or as root with CAP_KILL (runAsUser: 0, capabilities.add [KILL])";
    }
    (why, remedy)
}

/// What is in the files, as far as it may be the value of a variable.
fn contents(files: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Vec<u8>> {
    // Without waiting: a FIFO may have taken the file's place.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let content = |path: &PathBuf| {
        let file = File::from(open(path, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok()?;
        let is_short = metadata.is_file() && metadata.len() <= LONGEST_VARIABLE;
        let mut content = Vec::new();
        file.take(LONGEST_VARIABLE).read_to_end(&mut content).ok()?;
        is_short.then(|| (path.clone(), content))
    };
    files.iter().filter_map(content).collect()
}

/// Says which files the process seems to know by its environment. Where that may not be read, nothing
/// is known.
fn environment(pid: Pid, contents: &BTreeMap<PathBuf, Vec<u8>>) -> Option<Finding> {
    let mut environment = Vec::new();
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(MOST_READ).read_to_end(&mut environment).ok()?;
    let suspicions = suspicions(&environment, contents);
    let first = suspicions.first()?;
    let more = match suspicions.len() {
        1 => String::new(),
        many => format!(" (and {})", counted(many - 1, "more such file", "more such files")),
    };
    let detail = format!(
        "pid {pid} seems to know {} by its environment, as {}{more}: that is fixed when a process \
         starts, and no signal changes it",
        first.file.display(),
        first.variable
    );
    Some(Finding::note(Id::Environment, detail).remedy(
        "restart the process when it changes (kubectl rollout restart), or let it read the file in \
         place of the variable (a mounted volume in place of envFrom)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(name: &str, parent: i32, uid: u32) -> Standing {
        Standing {
            name: name.to_owned(),
            parent,
            uid,
            effective_uid: uid,
            saved_uid: uid,
            gid: uid,
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            bounding: CapabilitySet::empty(),
            no_new_privs: false,
            is_filtered: false,
        }
    }

    #[test]
    fn a_container_with_nobody_else_is_alone() {
        fn check(processes: &[(i32, &str, i32)], expected: bool) {
            let all = processes.iter().map(|&(pid, name, parent)| (pid, standing(name, parent, 0)));
            assert_eq!(is_alone(&all.collect(), 7), expected, "for {processes:?}");
        }
        check(&[(7, "agent", 0)], true);
        check(&[(1, "agent", 0), (7, "agent", 0)], true);
        check(&[(1, "sh", 0), (7, "agent", 1)], true);
        check(&[(1, "sh", 0), (5, "nginx", 1), (7, "agent", 1)], false);
        check(&[(1, "pause", 0), (7, "agent", 0)], false);
        check(&[(1, "agent", 0), (5, "nginx", 0), (7, "agent", 0)], false);
        check(&[(5, "a", 7), (7, "agent", 5)], true);
    }

    #[track_caller]
    fn check_denial(it: &Standing, me: &Standing, expected: &str) {
        assert_eq!(denial(it, me).0, expected);
    }

    #[test]
    fn why_a_signal_is_not_allowed_is_said() {
        let kill = CapabilitySet::KILL;
        let it = standing("nginx", 1, 101);
        let mut me = standing("agent", 1, 7);
        check_denial(&it, &me, "the agent is uid 7, and CAP_KILL is not effective");
        me.bounding = kill;
        check_denial(
            &it,
            &me,
            "the agent is uid 7, and CAP_KILL is not effective, though in the bounding set: \
             capabilities.add counts for root, and for others if the file of the agent brings it too",
        );
        me.permitted = kill;
        check_denial(
            &it,
            &me,
            "the agent is uid 7, and CAP_KILL is not effective, though permitted",
        );
        me.effective = kill;
        let forbids = "and yet a seccomp filter, an LSM or a user namespace forbids it";
        check_denial(&it, &me, &format!("CAP_KILL is effective, {forbids}"));
        let same = standing("agent", 1, 101);
        check_denial(&it, &same, &format!("the uids are the same, {forbids}"));
        let root = Standing { bounding: kill, ..standing("agent", 1, 0) };
        check_denial(&it, &root, "the agent is uid 0, and CAP_KILL is not effective");
    }
}
