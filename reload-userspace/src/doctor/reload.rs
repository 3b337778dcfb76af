//! What surrounds a reload: whether its check could be run, and what would speak for it afterwards.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;
use rustix::thread::CapabilitySet;

use super::{
    finding::{Finding, Id},
    report::Report,
    source::Sources,
    status::Standing,
};
use crate::{
    child::program,
    confirm::Opens,
    rule::{Action, Check, CheckIn, Sketch},
    target::Procfs,
};

/// The namespaces and the root that a command in the place of a target enters.
const PLACE: [&str; 8] =
    ["ns/user", "ns/mnt", "ns/pid", "ns/net", "ns/ipc", "ns/uts", "ns/cgroup", "root"];

/// What comes of a check that cannot be run.
const WITHHELD: &str = "every reload would be withheld";

/// Looks at what the rules ask for.
pub(super) fn examine(report: &mut Report, rules: &[Sketch], me: &Standing, sources: &Sources) {
    for rule in rules {
        if let Some(check) = &rule.check {
            examine_check(report, rule, check, me);
        }
        for action in &rule.actions {
            if let Action::Exec(command) = action {
                report.add(
                    own(Id::Exec, command.program(), "it could not be run").of(command.to_string()),
                );
            }
        }
    }
    let is_confirmed = |rule: &Sketch| {
        rule.selector.is_some()
            && !rule.pace.confirm_timeout.is_zero()
            && rule.actions.iter().any(|action| action.signal().is_some())
    };
    if rules.iter().any(is_confirmed) {
        report.add(confirmation(sources));
    }
}

/// Whether a program is there that the agent would run itself; if not, `loss` is what comes of that.
fn own(id: Id, program: &str, loss: &str) -> Finding {
    let Some(found) = program::own(program) else {
        let (lack, remedy) = program::lack(program);
        let elsewhere = match id {
            Id::Check => ", give its path, or let it run where the target is (--check-in target)",
            _ => " or give its path",
        };
        return Finding::bad(id, format!("{lack}: {loss}")).remedy(format!("{remedy}{elsewhere}"));
    };
    Finding::ok(id, format!("{} is run", found.display()))
}

/// It is not run: only the operator knows what it does besides.
fn examine_check(report: &mut Report, rule: &Sketch, check: &Check, me: &Standing) {
    let command = check.command.to_string();
    let program = check.command.program();
    match check.place {
        CheckIn::Agent => {
            report.add(own(Id::Check, program, WITHHELD).of(command));
        }
        CheckIn::Target => {
            let found = rule.selector.as_ref().and_then(|it| Procfs::default().resolve(it).ok());
            // It runs in one of them.
            if let Some(held) = found.iter().flatten().next() {
                report.add(in_target(held.target().pid, program, me).of(command));
            }
        }
    }
}

fn in_target(pid: Pid, program: &str, me: &Standing) -> Finding {
    let home = PathBuf::from(format!("/proc/{pid}"));
    let missing_rights = missing_rights(pid, &home, me);
    if !missing_rights.is_empty() {
        let detail = format!(
            "the place of pid {pid} cannot be entered without {}",
            missing_rights.join(", ")
        );
        return Finding::bad(Id::Check, detail)
            .remedy("grant that, or let the check run where the agent is (--check-in agent)");
    }
    let variables = fs::read(home.join("environ")).unwrap_or_default();
    let path = variables.split(|&byte| byte == 0).find_map(|it| it.strip_prefix(b"PATH="));
    match program::find(&home.join("root"), program, path.map(OsStr::from_bytes)) {
        Some(found) => {
            Finding::ok(Id::Check, format!("{} is run in the place of pid {pid}", found.display()))
        }
        None => Finding::bad(Id::Check, missing(program, &format!("where pid {pid} is")))
            .remedy("give a path that the target knows, or --check-in agent"),
    }
}

fn missing(program: &str, place: &str) -> String {
    format!("there is no program {program} {place}: {WITHHELD}")
}

/// The capabilities that it would take to run a command in the place of a process.
fn missing_rights(pid: Pid, home: &Path, me: &Standing) -> Vec<&'static str> {
    let is_same = |what: &str| {
        let (its, ours) =
            (fs::read_link(home.join(what)), fs::read_link(Path::new("/proc/self").join(what)));
        matches!((its, ours), (Ok(its), Ok(ours)) if its == ours)
    };
    let mut needed = Vec::new();
    if !PLACE.iter().all(|what| is_same(what)) {
        needed.extend([
            (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
            (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
            (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
        ]);
    }
    if Standing::of(pid).is_some_and(|it| it.effective_uid != me.effective_uid) {
        needed
            .extend([(CapabilitySet::SETUID, "CAP_SETUID"), (CapabilitySet::SETGID, "CAP_SETGID")]);
        // Its environment is in a file that is its own. Either of two lets that be read.
        if !me.effective.contains(CapabilitySet::DAC_OVERRIDE) {
            needed.push((CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"));
        }
    }
    let lacking = needed.into_iter().filter(|(right, _)| !me.effective.contains(*right));
    lacking.map(|(_, name)| name).collect()
}

/// What would be seen of a reload.
fn confirmation(sources: &Sources) -> Finding {
    let told = if sources.tells_opens() { Ok(()) } else { Opens::open().map(drop) };
    match told {
        Ok(()) => Finding::ok(Id::Confirmation, "it is seen who opens the new content"),
        Err(error) => Finding::note(
            Id::Confirmation,
            format!(
                "it is not seen who opens the new content ({error}): replaced workers confirm a \
                 reload, or that the process still runs"
            ),
        )
        .remedy(
            "none where that is enough; otherwise CAP_SYS_ADMIN, or eBPF by strategy trampoline",
        ),
    }
}
