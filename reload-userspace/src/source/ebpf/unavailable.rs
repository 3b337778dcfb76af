//! Why the eBPF programs cannot be had, and what to grant.

use std::io;

use aya::{BtfError, programs::ProgramError};

use rustix::thread::CapabilitySet;

use super::layout::LayoutError;
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
    /// aya does not understand what we tell it of the kernel's types.
    #[error("aya does not take the number of a tracepoint; please report it")]
    StandIn {
        /// What aya said.
        source: BtfError,
    },
    /// The kernel's types are not as expected.
    #[error("the kernel's structures are not as expected; please report the kernel")]
    Layout {
        /// What is missing.
        source: LayoutError,
    },
    /// The kernel has no such tracepoint.
    #[error(
        "this kernel has no tracepoint {tracepoint}; the strategy tracepoint needs Linux 6.13 or later"
    )]
    NoTracepoint {
        /// The one that was looked for first.
        tracepoint: &'static str,
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
    #[error("eBPF needs about 40 open files; raise the limit (ulimit -n, LimitNOFILE=)")]
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

    fn refusal(source: io::Error) -> Self {
        let missing = missing_capabilities(sys::effective_capabilities());
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
    use super::*;

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
}
