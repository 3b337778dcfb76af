//! What surrounds a reload: whether its check could be run, and what would speak for it afterwards.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;
use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    thread::CapabilitySet,
};

use super::{
    finding::{Finding, Id},
    report::Report,
    status::Standing,
};
use crate::{
    confirm::Opens,
    rule::{Check, CheckIn, Sketch},
    target::Procfs,
};

/// Where a program is looked for if nobody says so (`execvp(3)`).
const USUAL_PATH: &str = "/bin:/usr/bin";

/// The namespaces and the root that a command in the place of a target enters.
const PLACE: [&str; 8] =
    ["ns/user", "ns/mnt", "ns/pid", "ns/net", "ns/ipc", "ns/uts", "ns/cgroup", "root"];

/// Looks at what the rules ask for.
pub(super) fn examine(report: &mut Report, rules: &[Sketch], me: &Standing) {
    for rule in rules {
        if let Some(check) = &rule.check {
            examine_check(report, rule, check, me);
        }
    }
    let is_confirmed = |rule: &Sketch| {
        rule.selector.is_some()
            && !rule.pace.confirm_timeout.is_zero()
            && rule.actions.iter().any(|action| action.signal().is_some())
    };
    if rules.iter().any(is_confirmed) {
        report.add(confirmation());
    }
}

/// It is not run: only the operator knows what it does besides.
fn examine_check(report: &mut Report, rule: &Sketch, check: &Check, me: &Standing) {
    let command = check.command.to_string();
    let program = check.command.program();
    match check.place {
        CheckIn::Agent => {
            let path = env::var_os("PATH");
            let finding = match find(Path::new("/"), program, path.as_deref()) {
                Some(found) => Finding::ok(Id::Check, format!("{} is run", found.display())),
                None => Finding::bad(Id::Check, missing(program, "where the agent is")).remedy(
                    "install it there, give its path, or let it run where the target is \
                     (--check-in target)",
                ),
            };
            report.add(finding.of(command));
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
    match find(&home.join("root"), program, path.map(OsStr::from_bytes)) {
        Some(found) => {
            Finding::ok(Id::Check, format!("{} is run in the place of pid {pid}", found.display()))
        }
        None => Finding::bad(Id::Check, missing(program, &format!("where pid {pid} is")))
            .remedy("give a path that the target knows, or --check-in agent"),
    }
}

fn missing(program: &str, place: &str) -> String {
    format!("there is no program {program} {place}: every reload would be withheld")
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
    }
    let lacking = needed.into_iter().filter(|(right, _)| !me.effective.contains(*right));
    lacking.map(|(_, name)| name).collect()
}

/// Where a program is, as seen from a root: at the path that is given, or in a directory of `path`.
fn find(root: &Path, program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![program.into()]
    } else {
        let usual = OsString::from(USUAL_PATH);
        env::split_paths(path.unwrap_or(&usual)).map(|dir| dir.join(program)).collect()
    };
    let is_program = |path: &PathBuf| {
        let path = root.join(path.strip_prefix("/").unwrap_or(path));
        // A symlink may be absolute, and means another root's file then: it is taken for a program.
        let is_link = || fs::symlink_metadata(&path).is_ok_and(|it| it.is_symlink());
        let is_file = || fs::metadata(&path).is_ok_and(|it| it.is_file());
        let may_run = || accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
        (is_file() && may_run()) || (root != Path::new("/") && is_link())
    };
    candidates.into_iter().find(is_program)
}

/// What would be seen of a reload.
fn confirmation() -> Finding {
    match Opens::open() {
        Ok(_) => Finding::ok(Id::Confirmation, "it is seen who opens the new content"),
        Err(error) => Finding::note(
            Id::Confirmation,
            format!(
                "it is not seen who opens the new content ({error}): replaced workers confirm a \
                 reload, or that the process still runs"
            ),
        )
        .remedy("none where that is enough; otherwise CAP_SYS_ADMIN"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_is_looked_for_as_the_kernel_would() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, mode: u32| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("usr/bin/check", 0o755);
        put("opt/check", 0o644);
        put("opt/tool", 0o755);
        let check = |program: &str, path: Option<&str>, expected: Option<&str>| {
            let found = find(root.path(), program, path.map(OsStr::new));
            assert_eq!(found.as_deref(), expected.map(Path::new), "for {program} in {path:?}");
        };
        check("check", None, Some("/usr/bin/check"));
        check("check", Some("/opt:/usr/bin"), Some("/usr/bin/check"));
        check("check", Some("/opt"), None);
        check("tool", None, None);
        check("/opt/tool", None, Some("/opt/tool"));
        check("/opt", None, None);
        check("/usr/bin/none", Some("/usr/bin"), None);
    }
}
