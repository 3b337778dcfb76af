//! What the agent itself may do, and when it gives up the rest.
//!
//! A capability that was granted is kept as long as there is something that needs it, and no longer:
//! from the rules on until all is open, and from then on. docs/privileges.md has the table, and
//! `tests/privileges.rs` proves it.
//!
//! **Invariant:** what is given up is given up by every thread, for it is done before there is another.
//!
//! The losers: (a) to keep what may be needed permitted and not effective, which whoever takes over the
//! agent undoes with one call; (b) a helper that keeps all rights and is asked to run the commands,
//! which whoever takes over the agent may ask, too.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::{process::geteuid, thread::CapabilitySet};

use crate::{
    event::SourceName,
    rule::{Action, CheckIn, Origin, Rule, Settings},
    source::Choice,
    sys::{
        capability::{self, Programs},
        version::{Version, version},
    },
};

/// Since when what has a map of eBPF open may use it without `CAP_BPF`, whatever
/// `kernel.unprivileged_bpf_disabled` says: commit c8644cd0efe7.
const MAPS_WITHOUT_RIGHTS: Version = (5, 19);

/// Below it, ports are for those who have `CAP_NET_BIND_SERVICE` (`ip_unprivileged_port_start`).
const FIRST_FREE_PORT: u16 = 1024;

/// What containers get if nobody says otherwise (Docker, containerd).
///
/// Without `CAP_SYS_PTRACE` the kernel shows what a process runs only to who has the same uid, and
/// effective every capability that the process is permitted (`cap_ptrace_access_check` of
/// `security/commoncap.c`). So root of one container sees what root of another runs as long as it gives
/// up none of these.
const COMMON: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What it takes to run a check in the place of another's process: to enter its namespaces and its root,
/// and to become its user.
const TO_CHECK_THERE: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// What may be of use to an agent with these rules, of what it has been granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    to_open: CapabilitySet,
    to_work: CapabilitySet,
    programs: Programs,
    wants_witness: bool,
}

impl Rights {
    /// Finds out what these rules need. Rules from a file may become any others.
    #[must_use]
    pub fn of(rules: &[Rule], settings: &Settings, choice: Choice) -> Self {
        let dir = settings.state_dir.as_deref();
        let dir = dir.filter(|dir| !is_own(dir)).map(|_| CapabilitySet::DAC_OVERRIDE);
        let kept = dir.unwrap_or(CapabilitySet::empty());
        Self::with(rules, settings, choice, (capability::permitted(), version()), kept)
    }

    /// The same, where these capabilities are granted on such a kernel, and these needed besides.
    fn with(
        rules: &[Rule],
        settings: &Settings,
        choice: Choice,
        (granted, kernel): (CapabilitySet, Version),
        besides: CapabilitySet,
    ) -> Self {
        // Where the one is not granted the other is, perhaps.
        let or = |one, other| if granted.contains(one) { one } else { other };
        let any = |is_so: fn(&Rule) -> bool| {
            settings.origin != Origin::Options || rules.iter().any(is_so)
        };
        let may_be = |name| choice == Choice::Best || choice == Choice::Only(name);

        let mut to_work = besides | or(CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE);
        if any(|rule| rule.selector().is_some()) {
            to_work |= or(CapabilitySet::SYS_PTRACE, COMMON);
        }
        // A helper that is to be killed may have become another user by then.
        if any(is_checked_there) || (any(has_signal) && !settings.is_dry) {
            to_work |= CapabilitySet::KILL;
        }
        let mut to_open = to_work;
        if may_be(SourceName::Ebpf) {
            let maps = or(CapabilitySet::BPF, CapabilitySet::SYS_ADMIN);
            to_open |= maps | or(CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN);
            if kernel < MAPS_WITHOUT_RIGHTS {
                to_work |= maps;
            }
        }
        let is_witnessed = any(is_confirmed) && !settings.is_dry;
        if is_witnessed || may_be(SourceName::Fanotify) {
            to_open |= CapabilitySet::SYS_ADMIN;
        }
        if settings.listen.is_some_and(|address| address.port() < FIRST_FREE_PORT) {
            to_open |= CapabilitySet::NET_BIND_SERVICE;
        }
        let programs = match settings.origin {
            // A pod may have a check, in its own place, and no other command.
            Origin::Pods { .. } => Programs::AtMost(TO_CHECK_THERE),
            _ if any(runs_programs) => Programs::AtMost(CapabilitySet::all()),
            _ => Programs::None,
        };
        Self { to_open: to_open | to_work, to_work, programs, wants_witness: is_witnessed }
    }

    /// What is of use to a trace: to see files and processes, and nothing to touch them with.
    #[must_use]
    pub fn to_trace() -> Self {
        let to_work = CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::SYS_PTRACE;
        let maps = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
        let kept = if version() < MAPS_WITHOUT_RIGHTS { maps } else { CapabilitySet::empty() };
        Self {
            to_open: to_work | maps,
            to_work: to_work | kept,
            programs: Programs::None,
            wants_witness: true,
        }
    }

    /// Gives up what is of no use to open the sources, the address and the files.
    ///
    /// # Errors
    ///
    /// Fails where the kernel does not let go of it; the agent may go on with more than it needs.
    pub fn give_up_to_open(&self) -> io::Result<()> {
        capability::keep(self.to_open, self.programs)
    }

    /// Gives up what was of use only for that. To be called before a thread is started.
    ///
    /// # Errors
    ///
    /// As [`Rights::give_up_to_open`].
    pub fn give_up_to_work(&self) -> io::Result<()> {
        capability::keep(self.to_work, self.programs)
    }

    /// Whether it should be opened, while there is the right to, what tells who opens the content: reloads
    /// are confirmed by it. It needs a right to be called, and none to be heard.
    #[must_use]
    pub fn wants_witness(&self) -> bool {
        self.wants_witness
    }
}

fn has_signal(rule: &Rule) -> bool {
    rule.actions().iter().any(|action| action.signal().is_some())
}

fn is_confirmed(rule: &Rule) -> bool {
    has_signal(rule) && !rule.pace().confirm_timeout.is_zero()
}

fn is_checked_there(rule: &Rule) -> bool {
    rule.check().is_some_and(|check| check.place == CheckIn::Target)
}

fn runs_programs(rule: &Rule) -> bool {
    let is_command = |action: &Action| matches!(action, Action::Exec(_));
    rule.check().is_some() || rule.actions().iter().any(is_command)
}

/// Whether a directory, or the one that it is to be made in, is the agent's own to write to.
fn is_own(directory: &Path) -> bool {
    /// `S_IRWXU`.
    const ALL: u32 = 0o700;
    let there = directory.ancestors().find_map(|it| fs::metadata(it).ok());
    there.is_some_and(|it| it.uid() == geteuid().as_raw() && it.mode() & ALL == ALL)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        rule,
    };

    const ALL: CapabilitySet = CapabilitySet::all();
    const NONE: CapabilitySet = CapabilitySet::empty();
    const BPF: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);
    const READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;
    const SIGNAL: CapabilitySet = READ.union(CapabilitySet::KILL).union(CapabilitySet::SYS_PTRACE);
    const NEW: Version = (6, 18);

    fn rights(options: &str, granted: CapabilitySet, kernel: Version) -> Rights {
        let words = shell_words::split(&format!("reload-agent run --watch /a {options}")).unwrap();
        let Command::Run(run) = Cli::parse_from(words).command else {
            unreachable!("it is what was typed");
        };
        let rules = rule::from_args(&run).unwrap();
        let settings = Settings::new(&run).unwrap();
        let choice = match run.source {
            crate::cli::SourceChoice::Ebpf => Choice::Only(SourceName::Ebpf),
            crate::cli::SourceChoice::Inotify => Choice::Only(SourceName::Inotify),
            _ => Choice::Best,
        };
        Rights::with(&rules, &settings, choice, (granted, kernel), NONE)
    }

    /// What is kept to open and to work, of what is granted.
    #[track_caller]
    fn check(
        options: &str,
        granted: CapabilitySet,
        to_open: CapabilitySet,
        to_work: CapabilitySet,
    ) {
        let rights = rights(options, granted, NEW);
        assert_eq!(rights.to_work & granted, to_work, "to work with {options}");
        assert_eq!(rights.to_open & granted, to_open | to_work, "to open with {options}");
    }

    #[test]
    fn what_no_rule_needs_is_not_kept() {
        let admin = CapabilitySet::SYS_ADMIN;
        check("--process x", ALL, BPF | admin, SIGNAL);
        check("--process x --source ebpf", ALL, BPF | admin, SIGNAL);
        check("--process x --source ebpf --confirm-timeout 0s", ALL, BPF, SIGNAL);
        check("--process x --source inotify --confirm-timeout 0s", ALL, NONE, SIGNAL);
        check("--process x --restart --source inotify", ALL, admin, SIGNAL);
        let seeing = READ | CapabilitySet::SYS_PTRACE;
        check("--process x --dry-run --source inotify", ALL, NONE, seeing);
        check("--exec true --source inotify", ALL, NONE, READ);
        check("--post http://a --source inotify", ALL, NONE, READ);
        let there = "--process x --check a --check-in target --dry-run --source inotify";
        check(there, ALL, NONE, SIGNAL);
        let port = CapabilitySet::NET_BIND_SERVICE;
        check("--exec true --source inotify --listen 127.0.0.1:80", ALL, port, READ);
        check("--exec true --source inotify --listen 127.0.0.1:9533", ALL, NONE, READ);
    }

    #[test]
    fn what_stands_for_what_is_not_granted_is_kept() {
        let (kill, over) = (CapabilitySet::KILL, CapabilitySet::DAC_OVERRIDE);
        check("--process x", BPF | kill, BPF, kill);
        check("--exec true --source inotify", over | CapabilitySet::CHOWN, NONE, over);
        // An engine that does not know the others.
        let admin = CapabilitySet::SYS_ADMIN;
        check("--exec true --source ebpf", admin, admin, NONE);
        // Root beside root of another container.
        check("--process x", COMMON | BPF, BPF, COMMON);
    }

    #[test]
    fn an_old_kernel_wants_the_right_for_every_use_of_a_map() {
        let kept = |granted, kernel| {
            rights("--exec true --source ebpf", granted, kernel).to_work & granted
        };
        assert_eq!(kept(BPF, (5, 18)), CapabilitySet::BPF);
        assert_eq!(kept(CapabilitySet::SYS_ADMIN, (5, 18)), CapabilitySet::SYS_ADMIN);
        assert_eq!(kept(BPF, (5, 19)), NONE);
    }

    #[test]
    fn only_who_runs_programs_keeps_what_they_get() {
        fn check(options: &str, expected: Programs) {
            assert_eq!(rights(options, ALL, NEW).programs, expected, "for {options}");
        }
        check("--process x", Programs::None);
        check("--post http://a", Programs::None);
        check("--exec true", Programs::AtMost(ALL));
        check("--process x --check true", Programs::AtMost(ALL));
        check("--process x --check true --check-in target", Programs::AtMost(ALL));
    }

    #[test]
    fn rules_from_a_file_may_become_any_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        fs::write(&path, "rules: [{watch: /a, post: 'http://b'}]").unwrap();
        let words = ["reload-agent", "run", "--source", "inotify", "--config"];
        let words = words.into_iter().chain(path.to_str());
        let Command::Run(run) = Cli::parse_from(words).command else {
            unreachable!("it is what was typed");
        };
        let (rules, settings) = (rule::from_args(&run).unwrap(), Settings::new(&run).unwrap());
        let choice = Choice::Only(SourceName::Inotify);
        let rights = Rights::with(&rules, &settings, choice, (ALL, NEW), NONE);
        let expected = Rights {
            to_open: SIGNAL | CapabilitySet::SYS_ADMIN,
            to_work: SIGNAL,
            programs: Programs::AtMost(ALL),
            wants_witness: true,
        };
        assert_eq!(rights, expected);
    }

    #[test]
    fn on_a_node_there_are_checks_and_no_other_commands() {
        let words = ["reload-agent", "node", "--node-name", "a", "--source", "ebpf"];
        let Command::Node(node) = Cli::parse_from(words).command else {
            unreachable!("it is what was typed");
        };
        let (settings, _) = Settings::of_node(&node.run).unwrap();
        let choice = Choice::Only(SourceName::Ebpf);
        let rights = Rights::with(&[], &settings, choice, (ALL, NEW), NONE);
        let expected = Rights {
            to_open: SIGNAL | BPF | CapabilitySet::SYS_ADMIN,
            to_work: SIGNAL,
            programs: Programs::AtMost(TO_CHECK_THERE),
            wants_witness: true,
        };
        assert_eq!(rights, expected);
    }

    #[test]
    fn a_directory_that_is_to_be_made_is_judged_by_where() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_own(dir.path()));
        assert!(is_own(&dir.path().join("a/b")));
        assert!(!is_own(Path::new("/proc/1/a")));
    }
}
