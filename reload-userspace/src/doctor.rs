//! What works here, what does not, why, and what to grant.

mod report;

use std::{fs, os::fd::BorrowedFd, path::Path, time::Duration};

use rustix::{
    fs::{Access, access},
    process::test_kill_process,
    thread::CapabilitySet,
};

use self::report::Status::{Bad, Note, Ok};
use crate::{
    event::Writers,
    preflight::{self, Caution, Verdict},
    rule::SignalNumber,
    source::{BTF, EbpfSource, Interest},
    sys,
    target::{Held, Procfs, Selector},
    watch::{self, FileState, Identity, Obstacle, Visitor},
};

pub use self::report::{Finding, Report, Status};

/// What `run` would be asked to do, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The paths to watch, all absolute.
    pub watches: Vec<std::path::PathBuf>,
    /// Whom to reload.
    pub selector: Option<Selector>,
}

/// Looks at everything that `run` depends on, in the order of the pipeline.
#[must_use]
pub fn examine(question: &Question, signal: SignalNumber) -> Report {
    let mut report = Report::default();
    kernel(&mut report);
    capabilities(&mut report);
    source(&mut report);
    for path in &question.watches {
        watch(&mut report, path);
    }
    if let Some(selector) = &question.selector {
        targets(&mut report, selector, signal);
    }
    report
}

fn kernel(report: &mut Report) {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    report.add(Ok, "kernel", format!("Linux {} {}", text(uname.release()), text(uname.machine())));

    match fs::metadata(BTF) {
        Result::Ok(btf) => report.add(Ok, "BTF", format!("{BTF}, {} KiB", btf.len() / 1024)),
        Err(error) => report.add(
            Bad,
            "BTF",
            format!("{BTF}: {error}; it needs CONFIG_DEBUG_INFO_BTF and a mounted /sys"),
        ),
    }
    let lockdown = "/sys/kernel/security/lockdown";
    match fs::read_to_string(lockdown) {
        Result::Ok(modes) => {
            let mode = modes.split(['[', ']']).nth(1).unwrap_or("unknown");
            let is_closed = mode == "confidentiality";
            let verdict = if is_closed { Bad } else { Ok };
            report.add(verdict, "lockdown", format!("{mode}{}", if is_closed {
                ": eBPF programs may not read the kernel; start the kernel with lockdown=integrity"
            } else {
                ""
            }));
        }
        Err(_) => report.add(
            Note,
            "lockdown",
            format!("not known: {lockdown} cannot be read (securityfs is not mounted?)"),
        ),
    }
}

fn capabilities(report: &mut Report) {
    /// The capabilities that matter, and what for.
    const WANTED: [(CapabilitySet, &str, &str); 5] = [
        (CapabilitySet::BPF, "CAP_BPF", "loads eBPF programs"),
        (CapabilitySet::PERFMON, "CAP_PERFMON", "attaches them"),
        (CapabilitySet::KILL, "CAP_KILL", "signals processes of other users"),
        (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "sees the executables of other users"),
        (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "reads files of other users"),
    ];
    let effective = sys::effective_capabilities();
    for (capability, name, purpose) in WANTED {
        let has = effective.contains(capability);
        let detail = if has { purpose.to_owned() } else { format!("missing: {purpose}") };
        report.add(if has { Ok } else { Note }, name, detail);
    }
}

fn source(report: &mut Report) {
    match EbpfSource::open(false) {
        Result::Ok(_) => report.add(
            Ok,
            "source ebpf",
            format!(
                "strategy {}: loaded, attached, and a test write was seen",
                EbpfSource::STRATEGY
            ),
        ),
        Err(error) => {
            report.add(Bad, "source ebpf", format!("{:#}", anyhow::Error::new(error)));
        }
    }
}

/// Writes down the hops of a chain.
struct Hops<'a>(&'a mut Report);

impl Visitor for Hops<'_> {
    fn directory(&mut self, _: BorrowedFd<'_>, _: Identity, _: &Path, _: Interest) {}

    fn link(&mut self, path: &Path, target: &Path) {
        self.0.add(Ok, "  link", format!("{} -> {}", path.display(), target.display()));
    }

    fn file(&mut self, _: BorrowedFd<'_>, _: Identity, _: &Path) {}

    fn writers(&mut self, _: BorrowedFd<'_>, path: &Path, state: &FileState) -> Writers {
        let readable = access(path, Access::READ_OK);
        match readable {
            Result::Ok(()) => {
                self.0.add(Ok, "  file", format!("{}, {} bytes", path.display(), state.size));
            }
            Err(errno) => self.0.add(
                Note,
                "  file",
                format!(
                    "{}: {errno}; its inode, size and time stand for its content",
                    path.display()
                ),
            ),
        }
        Writers::Unknown
    }
}

fn watch(report: &mut Report, path: &Path) {
    let at = report.findings.len();
    let view = watch::look(path, &mut Hops(report));
    let files = match view.files.len() {
        1 => "1 file".to_owned(),
        many => format!("{many} files"),
    };
    let (verdict, detail) = match view.obstacle {
        None => (Ok, files),
        Some(obstacle @ Obstacle::Missing(_)) => (Note, format!("{obstacle}; it is waited for")),
        Some(obstacle) => {
            (Bad, format!("{obstacle}; give --watch a file or directory that can be read"))
        }
    };
    report.insert(at, verdict, format!("watch {}", path.display()), detail);
}

fn targets(report: &mut Report, selector: &Selector, signal: SignalNumber) {
    let procfs = Procfs::default();
    let what = format!("process {selector}");
    if let Err(error) = procfs.verify() {
        report.add(Bad, what, error.to_string());
        return;
    }
    match procfs.resolve(selector) {
        Err(error) => report.add(Bad, what, format!("{:#}", anyhow::Error::new(error))),
        Result::Ok(found) if found.is_empty() => {
            report.add(Note, what, "no such process; it is waited for");
        }
        Result::Ok(found) => {
            for held in &found {
                target(report, &procfs, held, &what, signal);
            }
        }
    }
}

fn target(report: &mut Report, procfs: &Procfs, held: &Held, what: &str, signal: SignalNumber) {
    let pid = held.target().pid;
    let Some(sets) = procfs.signal_sets(pid) else {
        return;
    };
    // As if the process had run for long: what it does not catch now, it may yet.
    let caution = Caution { is_forced: false, handler_timeout: Duration::ZERO };
    match preflight::judge(signal.get(), sets, Duration::MAX, caution) {
        Verdict::Refused(reason) => report.add(
            Bad,
            what,
            format!("pid {pid}: {signal} would be withheld: {reason}; {}", reason.remedy()),
        ),
        Verdict::Go | Verdict::NotYet => {
            let allowed = rustix::process::Pid::from_raw(pid.as_raw()).map(test_kill_process);
            match allowed {
                Some(Err(errno)) => report.add(
                    Bad,
                    what,
                    format!(
                        "pid {pid}: {signal} is not allowed: {errno}; run the agent as the uid of \
                         that process, or give it CAP_KILL as an effective capability"
                    ),
                ),
                _ => {
                    report.add(Ok, what, format!("pid {pid}: {signal} can be sent"));
                }
            }
        }
    }
}
