//! Why the eBPF programs cannot be had, and what to grant.

use std::io;

use aya::programs::ProgramError;

use rustix::thread::CapabilitySet;

use super::{
    super::ladder::explain,
    layout::LayoutError,
    strategy::{Anchor, Kind, PREFIX},
};
use crate::sys::{self, Lockdown};

/// Why the source `ebpf` cannot be had here. Every message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// A plain `cargo build` made this agent.
    #[error(
        "this reload-agent was built without its eBPF program; build it with `cargo xtask build`"
    )]
    NotBuiltIn,
    /// The kernel does not describe its types.
    #[error(
        "the kernel's type information cannot be read at {BTF}; \
         it needs CONFIG_DEBUG_INFO_BTF and a mounted /sys"
    )]
    Btf {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's types are not as expected.
    #[error("the kernel's structures are not as expected; please report the kernel")]
    Layout {
        /// What is missing.
        source: LayoutError,
    },
    /// The kernel has nothing that a hook could be attached to.
    #[error("this kernel has no {what}; it needs {needs}")]
    NoPoint {
        /// What was looked for.
        what: String,
        /// What has it.
        needs: &'static str,
    },
    /// Programs are allowed, but not those that are attached to functions.
    #[error(
        "the kernel refuses to attach programs to its functions, though not to tracepoints: \
         it may be locked down, or an LSM forbids it"
    )]
    LockedDown {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel knows such programs, and has no way to attach them.
    #[error(
        "this kernel cannot attach programs to its functions; on arm64 that needs Linux 6.4 or later"
    )]
    NoTrampolines {
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent may end in a way that its kernel would never recover from.
    #[error(
        "this kernel (Linux before 6.9) would wait for itself for ever if the agent were killed with the \
         first process of its pid namespace; run it in the host's (hostPID), or as the first of its own"
    )]
    MayHang,
    /// No strategy can be used.
    #[error("strategy trampoline: {trampoline}; strategy tracepoint: {tracepoint}")]
    NoStrategy {
        /// Why not the better one.
        trampoline: String,
        /// Why not the other.
        tracepoint: String,
    },
    /// Capabilities are missing.
    #[error(
        "eBPF needs {missing}; grant it (Kubernetes: securityContext.capabilities.add \
         [BPF, PERFMON]; systemd: AmbientCapabilities=CAP_BPF CAP_PERFMON; or run as root)"
    )]
    Privilege {
        /// The capabilities that are not effective.
        missing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The capabilities are there, and the kernel refuses all the same.
    #[error("the kernel refuses eBPF although the capabilities are there: {because}")]
    Forbidden {
        /// What is known to forbid it.
        because: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process may have too few files open.
    #[error("eBPF needs up to 64 open files; raise the limit (ulimit -n, LimitNOFILE=)")]
    Descriptors {
        /// What the kernel said.
        source: io::Error,
    },
    /// The eBPF maps or programs cannot be loaded.
    #[error("the kernel did not take the eBPF object")]
    Load {
        /// What aya said.
        source: aya::EbpfError,
    },
    /// The verifier or the attaching failed.
    #[error("the kernel did not take the eBPF program {program}; please report the kernel")]
    Program {
        /// The program.
        program: &'static str,
        /// What aya said.
        source: ProgramError,
    },
    /// The object lacks what the agent looks for: the two halves are not of one build.
    #[error("the eBPF object has no {name}; build both halves with `cargo xtask build`")]
    Incomplete {
        /// The map or program.
        name: &'static str,
    },
    /// A map of the object is not of the expected kind.
    #[error("the eBPF map {name} is not as expected; build both halves with `cargo xtask build`")]
    Map {
        /// The map.
        name: &'static str,
        /// What aya said.
        source: aya::maps::MapError,
    },
    /// The ring cannot be waited for, or the canary cannot be made.
    #[error("cannot make what the eBPF source needs")]
    Setup {
        /// What the kernel said.
        source: io::Error,
    },
    /// Everything was attached, and yet a change of the agent's own canary was not seen.
    #[error(
        "the eBPF programs were attached, but a test write of the agent did not arrive; \
         please report the kernel"
    )]
    Canary,
}

/// Where the kernel describes its types.
pub(crate) const BTF: &str = "/sys/kernel/btf/vmlinux";

impl Unavailable {
    /// Finds the reason for a failure to load or attach: what is missing is only asked after the
    /// kernel has refused, for only the kernel decides.
    pub(super) fn load(source: aya::EbpfError) -> Self {
        match io_error(&source) {
            Some(error) if is_refusal(&error) => Self::refusal(error),
            Some(source) if is_shortage(&source) => Self::Descriptors { source },
            _ => Self::Load { source },
        }
    }

    /// As [`Unavailable::load`], for one program.
    pub(super) fn program(program: &'static str, source: ProgramError) -> Self {
        match io_error(&source) {
            // With a verdict of the verifier, a refusal is about the program, not about rights.
            Some(error) if is_refusal(&error) && !has_verdict(&source) => Self::refusal(error),
            Some(source) if is_shortage(&source) => Self::Descriptors { source },
            _ => Self::Program { program, source },
        }
    }

    /// As [`Unavailable::program`], for one that is attached to `anchor`.
    pub(super) fn of(anchor: &Anchor, source: ProgramError) -> Self {
        /// The kernel's own `ENOTSUPP`, which the C library does not know.
        const NOT_SUPPORTED: i32 = 524;
        let is_function = matches!(anchor.kind, Kind::Entry | Kind::End);
        match io_error(&source) {
            Some(error) if is_function && error.raw_os_error() == Some(NOT_SUPPORTED) => {
                Self::NoTrampolines { source: error }
            }
            // Another program has been loaded already, so the rights are there.
            Some(error) if is_function && is_refusal(&error) && !has_verdict(&source) => {
                Self::LockedDown { source: error }
            }
            _ => Self::program(anchor.hook.program(), source),
        }
    }

    /// The kernel has nothing that is as `anchor` wants it.
    pub(super) fn no_point(anchor: &Anchor) -> Self {
        let names = anchor.names.iter().map(|name| name.strip_prefix(PREFIX).unwrap_or(name));
        let names = names.collect::<Vec<_>>().join(" or ");
        match anchor.kind {
            Kind::Tracepoint => {
                Self::NoPoint { what: format!("tracepoint {names}"), needs: "Linux 6.13 or later" }
            }
            Kind::Entry | Kind::End => Self::NoPoint {
                what: format!("function {names} that takes what is expected"),
                needs: "Linux 5.17 or later with CONFIG_SECURITY and CONFIG_DEBUG_INFO_BTF",
            },
        }
    }

    /// Both strategies have failed; where it is for one reason, that is said once.
    pub(super) fn both(trampoline: &Self, tracepoint: Self) -> Self {
        match tracepoint {
            Self::Privilege { .. } | Self::Descriptors { .. } => tracepoint,
            tracepoint => Self::NoStrategy {
                trampoline: explain(trampoline),
                tracepoint: explain(&tracepoint),
            },
        }
    }

    fn refusal(source: io::Error) -> Self {
        let missing = missing_capabilities(sys::capability::effective());
        if !missing.is_empty() {
            return Self::Privilege { missing: missing.join(" and "), source };
        }
        Self::Forbidden { because: forbidder(), source }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EMFILE)
}

fn has_verdict(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { verifier_log, .. }
        if !verifier_log.to_string().trim().is_empty())
}

/// The system error at the root of an error of aya's.
fn io_error(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(code));
        }
        next = error.source();
    }
    None
}

/// The capabilities that eBPF needs and `effective` has not.
///
/// Before Linux 5.8 there was only `CAP_SYS_ADMIN`, which still stands for both.
fn missing_capabilities(effective: CapabilitySet) -> Vec<&'static str> {
    const NEEDED: [(CapabilitySet, &str); 2] =
        [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return Vec::new();
    }
    let missing = NEEDED.into_iter().filter(|&(capability, _)| !effective.contains(capability));
    missing.map(|(_, name)| name).collect()
}

/// What may forbid eBPF to a process that has the capabilities.
fn forbidder() -> String {
    if !sys::is_in_initial_user_namespace() {
        let remedy = sys::LEAVE_USER_NAMESPACE;
        return format!(
            "they are those of a user namespace, which do not count for eBPF; {remedy}"
        );
    }
    if sys::lockdown() == Some(Lockdown::Confidentiality) {
        return "the kernel is locked down (lockdown=confidentiality)".to_owned();
    }
    "a seccomp profile, an LSM or the kernel's lockdown forbids bpf(2); \
     use another profile (Docker: --security-opt seccomp=unconfined)"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use reload_ebpf::Hook;

    use super::{super::strategy::Need, *};

    #[test]
    fn each_missing_capability_is_named() {
        fn check(effective: CapabilitySet, expected: &[&str]) {
            assert_eq!(missing_capabilities(effective), expected, "for {effective:?}");
        }
        let both = CapabilitySet::BPF | CapabilitySet::PERFMON;
        check(CapabilitySet::empty(), &["CAP_BPF", "CAP_PERFMON"]);
        check(CapabilitySet::BPF, &["CAP_PERFMON"]);
        check(CapabilitySet::PERFMON, &["CAP_BPF"]);
        check(both, &[]);
        check(CapabilitySet::SYS_ADMIN, &[]);
    }

    /// What aya says where a system call has failed.
    fn failed(code: i32) -> ProgramError {
        let io_error = io::Error::from_raw_os_error(code);
        ProgramError::SyscallError(aya::sys::SyscallError {
            call: "bpf_raw_tracepoint_open",
            io_error,
        })
    }

    #[test]
    fn a_kernel_without_trampolines_has_its_own_sentence() {
        const fn anchor(kind: Kind) -> Anchor {
            Anchor {
                hook: Hook::Write,
                kind,
                names: &["security_file_permission"],
                arguments: &[],
                need: Need::Vital,
            }
        }
        const SUPPORT: i32 = 524;
        let (entry, tracepoint) = (anchor(Kind::Entry), anchor(Kind::Tracepoint));
        let unavailable = Unavailable::of(&entry, failed(SUPPORT));
        assert!(matches!(unavailable, Unavailable::NoTrampolines { .. }), "{unavailable:?}");
        let unavailable = Unavailable::of(&tracepoint, failed(SUPPORT));
        assert!(matches!(unavailable, Unavailable::Program { .. }), "{unavailable:?}");
        for code in [nix::libc::EPERM, nix::libc::EACCES] {
            let unavailable = Unavailable::of(&entry, failed(code));
            assert!(matches!(unavailable, Unavailable::LockedDown { .. }), "{unavailable:?}");
        }
        let unavailable = Unavailable::of(&entry, failed(nix::libc::EMFILE));
        assert!(matches!(unavailable, Unavailable::Descriptors { .. }), "{unavailable:?}");
    }

    #[test]
    fn a_function_that_is_not_there_is_named_with_what_has_it() {
        let anchor = Anchor {
            hook: Hook::Close,
            kind: Kind::Entry,
            names: &["security_file_release", "__fput"],
            arguments: &[],
            need: Need::Vital,
        };
        assert_eq!(
            Unavailable::no_point(&anchor).to_string(),
            "this kernel has no function security_file_release or __fput that takes what is expected; \
             it needs Linux 5.17 or later with CONFIG_SECURITY and CONFIG_DEBUG_INFO_BTF"
        );
        let names: &[_] = &["btf_trace_ctime_ns_xchg"];
        let anchor = Anchor { kind: Kind::Tracepoint, names, ..anchor };
        assert_eq!(
            Unavailable::no_point(&anchor).to_string(),
            "this kernel has no tracepoint ctime_ns_xchg; it needs Linux 6.13 or later"
        );
    }

    #[test]
    fn what_is_in_the_way_of_both_strategies_is_said_once() {
        let source = || io::Error::from_raw_os_error(nix::libc::EPERM);
        let locked = || Unavailable::LockedDown { source: source() };
        let missing = || "CAP_BPF".to_owned();
        let privilege = Unavailable::Privilege { missing: missing(), source: source() };
        let said = Unavailable::both(&locked(), privilege).to_string();
        assert!(said.starts_with("eBPF needs CAP_BPF; grant it"), "{said}");
        let said = Unavailable::both(&locked(), Unavailable::Canary).to_string();
        let both =
            ["strategy trampoline: the kernel refuses to attach", "strategy tracepoint: the eBPF"];
        assert!(both.iter().all(|part| said.contains(part)), "{said}");
    }
}
