//! What the agent may do: uids, capabilities, and what a seccomp filter refuses.

use std::{fs, os::fd::AsFd as _};

use rustix::{
    fs::getxattr_query,
    io::Errno,
    process::{PidfdFlags, getpid, pidfd_open},
    thread::CapabilitySet,
};

use super::{
    finding::{Finding, Id},
    report::Report,
    status::Standing,
};
use crate::sys::{
    self, probe,
    version::{Version, version},
};

/// The capabilities that matter, and what for.
const WANTED: [(CapabilitySet, &str, &str); 5] = [
    (CapabilitySet::BPF, "CAP_BPF", "loads eBPF programs"),
    (CapabilitySet::PERFMON, "CAP_PERFMON", "attaches them"),
    (CapabilitySet::KILL, "CAP_KILL", "signals processes of other users"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "sees the executables of other users"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "reads files of other users"),
];

/// Looks at the agent's own rights.
pub(super) fn examine(report: &mut Report, me: &Standing) {
    let detail = format!("uid {}, gid {}", me.effective_uid, me.gid);
    report.add(Finding::ok(Id::User, detail));
    let is_initial = sys::is_in_initial_user_namespace();
    if !is_initial {
        report.add(user_namespace());
    }
    for (capability, name, purpose) in WANTED {
        report.add(capability_of(me, capability, purpose).of(name));
    }
    if let Some(finding) = ineffective(me, file_brings_some()) {
        report.add(finding);
    }
    let detail = if me.no_new_privs {
        "set (allowPrivilegeEscalation: false): file capabilities and set-uid count for nothing"
    } else {
        "not set"
    };
    report.add(Finding::ok(Id::NoNewPrivs, detail));
    report.add(seccomp(&calls(me, is_initial, version()), me.is_filtered));
}

fn user_namespace() -> Finding {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ranges: Vec<_> = map.lines().filter_map(range).collect();
    let detail = format!(
        "not the machine's own ({}): capabilities count only for what belongs to it, and eBPF does \
         not",
        if ranges.is_empty() { "no uid is mapped".to_owned() } else { ranges.join(", ") }
    );
    let remedy = format!("none where other sources do; for eBPF, {}", sys::LEAVE_USER_NAMESPACE);
    Finding::note(Id::UserNamespace, detail).remedy(remedy)
}

/// A line of `uid_map` in words.
fn range(line: &str) -> Option<String> {
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
    let (inside, outside, count) =
        (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(if count == 1 {
        format!("uid {inside} is {outside} outside")
    } else {
        format!("uids from {inside} on are {outside} and up outside")
    })
}

fn capability_of(me: &Standing, capability: CapabilitySet, purpose: &str) -> Finding {
    if me.effective.contains(capability) {
        return Finding::ok(Id::Capability, purpose);
    }
    if me.permitted.contains(capability) {
        // The agent makes effective what is permitted as soon as it starts.
        let detail = format!("permitted and not effective: it {purpose}");
        return Finding::note(Id::Capability, detail)
            .remedy("let a seccomp filter allow capset(2)");
    }
    Finding::note(Id::Capability, format!("missing: it {purpose}"))
}

/// Why capabilities that were granted count for nothing.
///
/// What a container runtime adds goes to the bounding set. `execve(2)` makes it permitted for root, and
/// for others only what the file of the program brings besides (`capabilities(7)`).
fn ineffective(me: &Standing, file_brings_some: bool) -> Option<Finding> {
    let lost = WANTED.iter().filter(|&&(capability, ..)| {
        me.bounding.contains(capability) && !me.permitted.contains(capability)
    });
    let lost = lost.map(|&(_, name, _)| name).collect::<Vec<_>>().join(", ");
    if me.effective_uid == 0 || lost.is_empty() {
        return None;
    }
    let (why, how) = match (file_brings_some, me.no_new_privs) {
        (true, true) => (
            "and without privilege escalation the file of the agent brings it nothing",
            "allowPrivilegeEscalation: true, with which capabilities.add counts",
        ),
        (true, false) => (
            "and the file of the agent brings others",
            "setcap on the file, which must not be on a mount with nosuid",
        ),
        (false, true) => (
            "and the file of the agent brings nothing",
            "setcap on the file, and allowPrivilegeEscalation: true",
        ),
        (false, false) => (
            "and the file of the agent brings nothing",
            "setcap on the file, as the image of the agent has it, or systemd's \
             AmbientCapabilities=",
        ),
    };
    let uid = me.effective_uid;
    let detail = format!(
        "{lost}: only in the bounding set, for uid {uid} is not root, {why}: with runAsUser: {uid}, \
         capabilities.add has no effect"
    );
    let remedy = format!(
        "run the agent as the uid of the target, which needs no capability to signal it; or {how}; \
         or root with no more than it needs (runAsUser: 0, capabilities.drop [ALL], add [KILL])"
    );
    Some(Finding::note(Id::IneffectiveCapabilities, detail).remedy(remedy))
}

/// Whether the file that the agent was started from has capabilities of its own.
fn file_brings_some() -> bool {
    getxattr_query("/proc/self/exe", "security.capability").is_ok_and(|length| length > 0)
}

/// A system call that the agent wants, and what came of a call that does nothing.
struct Call {
    name: &'static str,
    answer: Result<(), Errno>,
    /// What the kernel answers where it is asked, if that is an error.
    expected: Option<Errno>,
    /// Whether the kernel itself may have refused it for want of a capability.
    may_lack_privilege: bool,
    remedy: &'static str,
}

/// Whether a filter lets a call pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Open,
    Refused,
    /// The kernel answers so too.
    Unclear,
}

impl Call {
    fn passage(&self, is_filtered: bool) -> Passage {
        match self.answer {
            _ if !is_filtered => Passage::Open,
            Ok(()) | Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Passage::Open,
            Err(errno) if Some(errno) == self.expected => Passage::Open,
            // From a kernel that lacks it, or a filter that is older than the call.
            Err(Errno::NOSYS) => Passage::Unclear,
            Err(Errno::PERM) if self.may_lack_privilege => Passage::Unclear,
            Err(_) => Passage::Refused,
        }
    }
}

fn calls(me: &Standing, is_initial: bool, kernel: Version) -> [Call; 4] {
    const PIDFDS: &str = "for pidfds, a newer container runtime, whose profile knows them";
    let lacks = |capability: CapabilitySet| {
        !is_initial || !me.effective.intersects(capability | CapabilitySet::SYS_ADMIN)
    };
    let own = pidfd_open(getpid(), PidfdFlags::empty());
    // To oneself one always may.
    let sent = match &own {
        Ok(own) => probe::pidfd_send_signal(own.as_fd()),
        Err(errno) => Err(*errno),
    };
    [
        Call {
            name: "bpf(2)",
            answer: Err(probe::bpf()),
            expected: Some(Errno::TOOBIG),
            may_lack_privilege: lacks(CapabilitySet::BPF) && kernel < (6, 5),
            remedy: "for bpf(2), capabilities.add [BPF, PERFMON], with which a runtime's own profile \
                     allows it",
        },
        Call {
            name: "fanotify_init(2)",
            answer: Err(probe::fanotify_init()),
            expected: Some(Errno::INVAL),
            may_lack_privilege: lacks(CapabilitySet::SYS_ADMIN) && kernel < (5, 13),
            remedy: "for fanotify_init(2), a profile that allows it (Kubernetes: seccompProfile; \
                     Docker: --security-opt seccomp=)",
        },
        Call {
            name: "pidfd_open(2)",
            answer: own.as_ref().map(drop).map_err(|&errno| errno),
            expected: None,
            may_lack_privilege: false,
            remedy: PIDFDS,
        },
        Call {
            name: "pidfd_send_signal(2)",
            answer: sent,
            expected: None,
            may_lack_privilege: false,
            remedy: PIDFDS,
        },
    ]
}

fn seccomp(calls: &[Call], is_filtered: bool) -> Finding {
    if !is_filtered {
        return Finding::ok(Id::Seccomp, "no filter");
    }
    let with = |wanted: Passage| {
        let such = calls.iter().filter(move |call| call.passage(true) == wanted);
        let names: Vec<_> = such.clone().map(|call| call.name).collect();
        let mut remedies: Vec<_> = such.map(|call| call.remedy).collect();
        remedies.dedup();
        (names.join(", "), remedies)
    };
    let ((open, _), (refused, remedies), (unclear, _)) =
        (with(Passage::Open), with(Passage::Refused), with(Passage::Unclear));
    let mut details = Vec::new();
    if !refused.is_empty() {
        details.push(format!("a filter refuses {refused}"));
    }
    if !unclear.is_empty() {
        details.push(format!(
            "{unclear} is refused, by a filter or by the kernel (for want of a capability, or \
             because it lacks the call): from here they cannot be told apart"
        ));
    }
    if details.is_empty() {
        return Finding::ok(Id::Seccomp, format!("a filter that lets {open} pass"));
    }
    let finding = Finding::note(Id::Seccomp, details.join("; "));
    if remedies.is_empty() { finding } else { finding.remedy(remedies.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(uid: u32, effective: CapabilitySet, bounding: CapabilitySet) -> Standing {
        Standing {
            name: "agent".to_owned(),
            parent: 1,
            uid,
            effective_uid: uid,
            saved_uid: uid,
            gid: uid,
            effective,
            permitted: effective,
            bounding,
            no_new_privs: false,
            is_filtered: true,
        }
    }

    fn call(name: &'static str, answer: Result<(), Errno>, may_lack_privilege: bool) -> Call {
        let expected = Some(Errno::TOOBIG);
        Call { name, answer, expected, may_lack_privilege, remedy: "another profile" }
    }

    #[test]
    fn a_filter_is_told_from_a_missing_privilege_where_that_is_possible() {
        fn check(answer: Result<(), Errno>, may_lack_privilege: bool, expected: Passage) {
            let call = call("x", answer, may_lack_privilege);
            assert_eq!(call.passage(true), expected, "for {answer:?}, {may_lack_privilege}");
            assert_eq!(call.passage(false), Passage::Open, "for {answer:?} without a filter");
        }
        check(Ok(()), false, Passage::Open);
        check(Err(Errno::TOOBIG), false, Passage::Open);
        check(Err(Errno::MFILE), false, Passage::Open);
        check(Err(Errno::PERM), false, Passage::Refused);
        check(Err(Errno::PERM), true, Passage::Unclear);
        check(Err(Errno::ACCESS), true, Passage::Refused);
        check(Err(Errno::NOSYS), false, Passage::Unclear);
    }

    #[test]
    fn what_a_filter_refuses_is_named() {
        let open = || call("a(2)", Ok(()), false);
        let refused = || call("b(2)", Err(Errno::PERM), false);
        let unclear = || call("c(2)", Err(Errno::PERM), true);
        assert_eq!(seccomp(&[refused()], false), Finding::ok(Id::Seccomp, "no filter"));
        let expected = Finding::ok(Id::Seccomp, "a filter that lets a(2), a(2) pass");
        assert_eq!(seccomp(&[open(), open()], true), expected);
        let expected = Finding::note(
            Id::Seccomp,
            "a filter refuses b(2), b(2); c(2) is refused, by a filter or by the kernel (for want \
             of a capability, or because it lacks the call): from here they cannot be told apart",
        );
        let found = seccomp(&[open(), refused(), refused(), unclear()], true);
        assert_eq!(found, expected.remedy("another profile"));
    }

    #[test]
    fn capabilities_that_count_for_nothing_are_named() {
        let kill = CapabilitySet::KILL;
        let none = CapabilitySet::empty();
        assert_eq!(ineffective(&standing(0, none, kill), false), None);
        assert_eq!(ineffective(&standing(7, kill, kill), false), None);
        assert_eq!(ineffective(&standing(7, none, CapabilitySet::CHOWN), false), None);
        let mut me = standing(7, none, kill | CapabilitySet::BPF);
        let found = ineffective(&me, false).unwrap();
        let expected = "CAP_BPF, CAP_KILL: only in the bounding set, for uid 7 is not root, and the \
                        file of the agent brings nothing: with runAsUser: 7, capabilities.add has no \
                        effect";
        assert_eq!(found.detail, expected);
        let remedy = |me: &Standing, file| ineffective(me, file).unwrap().remedy.unwrap();
        assert!(remedy(&me, false).contains("AmbientCapabilities="));
        assert!(remedy(&me, true).contains("nosuid"));
        me.no_new_privs = true;
        assert!(!remedy(&me, false).contains("AmbientCapabilities="));
        assert!(remedy(&me, true).contains("; or allowPrivilegeEscalation: true, with which "));
    }

    #[test]
    fn a_capability_is_missing_or_not_effective() {
        let mut me = standing(7, CapabilitySet::empty(), CapabilitySet::KILL);
        let status = |me: &Standing| capability_of(me, CapabilitySet::KILL, "signals").detail;
        assert_eq!(status(&me), "missing: it signals");
        me.permitted = CapabilitySet::KILL;
        assert_eq!(status(&me), "permitted and not effective: it signals");
        me.effective = CapabilitySet::KILL;
        assert_eq!(status(&me), "signals");
    }

    #[test]
    fn a_map_of_uids_is_put_in_words() {
        let range = |line| range(line).unwrap();
        assert_eq!(range("         0       1000          1"), "uid 0 is 1000 outside");
        assert_eq!(range("0 100000 65536"), "uids from 0 on are 100000 and up outside");
    }
}
