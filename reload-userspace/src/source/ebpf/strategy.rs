//! The strategies: to what in the kernel the programs are attached.

use aya::{Ebpf, programs::Program};
use reload_ebpf::Hook;

use super::{layout::Layout, unavailable::Unavailable};

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// To the entries and ends of kernel functions (fentry, fexit): nearly every way of writing, on all kernels
    /// since Linux 5.17 that allow it.
    Trampoline,
    /// To the kernel's own notes of change times (`tp_btf`), which is allowed where the other is not; since
    /// Linux 6.13.
    Tracepoint,
}

/// To what a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tracepoint with typed arguments.
    Tracepoint,
    /// The entry of a function.
    Entry,
    /// The end of a function.
    End,
}

/// What becomes of a strategy where a hook cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It cannot be used.
    Vital,
    /// It can, but does not see that.
    Useful(&'static str),
}

/// Where a hook belongs.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) hook: Hook,
    pub(super) kind: Kind,
    /// The names of what it may be attached to, the first of them that is there, as the BTF has them.
    pub(super) names: &'static [&'static str],
    /// The arguments that the program follows, and the structures that they must point to.
    pub(super) arguments: &'static [(usize, &'static str)],
    pub(super) need: Need,
}

/// What the kernel puts before the name of a tracepoint to name its type.
pub(super) const PREFIX: &str = "btf_trace_";

/// The structure that a rename is told of with.
pub(super) const RENAMED: &str = "renamedata";

const fn vital(
    hook: Hook,
    kind: Kind,
    names: &'static [&'static str],
    arguments: &'static [(usize, &'static str)],
) -> Anchor {
    Anchor { hook, kind, names, arguments, need: Need::Vital }
}

/// What both strategies have: processes.
const PROCESSES: &[Anchor] = &[
    vital(Hook::Exec, Kind::Tracepoint, &["btf_trace_sched_process_exec"], &[]),
    vital(Hook::Exit, Kind::Tracepoint, &["btf_trace_sched_process_exit"], &[]),
];

const TRAMPOLINE: &[Anchor] = &[
    vital(Hook::Write, Kind::Entry, &["security_file_permission"], &[(0, "file")]),
    // The first since Linux 6.9.
    vital(Hook::Close, Kind::Entry, &["security_file_release", "__fput"], &[(0, "file")]),
    vital(Hook::Attributes, Kind::End, &["notify_change"], &[(1, "dentry")]),
    vital(Hook::Create, Kind::Entry, &["security_inode_create"], &[(0, "inode")]),
    vital(Hook::Rename, Kind::End, &["vfs_rename"], &[(0, RENAMED)]),
    vital(Hook::Link, Kind::End, &["vfs_link"], &[(2, "inode")]),
    vital(Hook::Symlink, Kind::End, &["vfs_symlink"], &[(1, "inode")]),
    vital(Hook::Mkdir, Kind::End, &["vfs_mkdir"], &[(1, "inode")]),
    vital(Hook::Unlink, Kind::End, &["vfs_unlink"], &[(1, "inode")]),
    vital(Hook::Rmdir, Kind::End, &["vfs_rmdir"], &[(1, "inode")]),
    Anchor {
        hook: Hook::Map,
        kind: Kind::Entry,
        names: &["security_mmap_file"],
        arguments: &[(0, "file")],
        need: Need::Useful("stores to a mapping are only seen when it ends"),
    },
];

const TRACEPOINT: &[Anchor] = &[
    vital(Hook::CtimeSwap, Kind::Tracepoint, &["btf_trace_ctime_ns_xchg"], &[]),
    vital(Hook::CtimeSkip, Kind::Tracepoint, &["btf_trace_ctime_xchg_skip"], &[]),
    vital(Hook::CtimeSet, Kind::Tracepoint, &["btf_trace_inode_set_ctime_to_ts"], &[]),
];

/// Who opens a file: attached by itself, where that is to be known.
const OPEN: &[Anchor] = &[vital(Hook::Open, Kind::End, &["security_file_open"], &[(0, "file")])];

/// What processes do to each other, and who reads of changes: only attached where that is to be traced.
const TRACE: &[Anchor] = &[
    vital(Hook::Fork, Kind::Tracepoint, &["btf_trace_sched_process_fork"], &[]),
    vital(Hook::Signal, Kind::Tracepoint, &["btf_trace_signal_generate"], &[]),
    vital(Hook::Deliver, Kind::Tracepoint, &["btf_trace_signal_deliver"], &[]),
    vital(Hook::Queue, Kind::Tracepoint, &["btf_trace_sys_exit"], &[]),
];

/// Who opens a file, where no function can be hooked: only attached where that is to be traced, for every
/// system call of the machine passes it.
const OPENED: &[Anchor] = &[vital(Hook::Opened, Kind::Tracepoint, &["btf_trace_sys_exit"], &[])];

/// When something begins that the others tell of when it is done: only attached where that is to be traced.
const BEGIN: &[Anchor] = &[
    vital(Hook::AttributesBegin, Kind::Entry, &["notify_change"], &[]),
    vital(Hook::LinkBegin, Kind::Entry, &["vfs_link"], &[]),
    vital(Hook::RenameBegin, Kind::Entry, &["vfs_rename"], &[]),
    vital(Hook::UnlinkBegin, Kind::Entry, &["vfs_unlink"], &[]),
];

/// All of them.
pub(super) fn anchors() -> impl Iterator<Item = &'static Anchor> {
    [PROCESSES, TRAMPOLINE, TRACEPOINT, OPEN, TRACE, OPENED, BEGIN].into_iter().flatten()
}

impl Strategy {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Trampoline => "trampoline",
            Self::Tracepoint => "tracepoint",
        }
    }

    fn anchors(self) -> impl Iterator<Item = &'static Anchor> {
        let own = match self {
            Self::Trampoline => TRAMPOLINE,
            Self::Tracepoint => TRACEPOINT,
        };
        own.iter().chain(PROCESSES)
    }

    /// Loads and attaches its programs, and says what will not be seen.
    ///
    /// # Errors
    ///
    /// Says why it cannot be used. Some of its programs may be attached all the same.
    pub(super) fn attach(
        self,
        ebpf: &mut Ebpf,
        layout: &Layout,
    ) -> Result<Vec<String>, Unavailable> {
        let mut blind = Vec::new();
        for anchor in self.anchors() {
            let done = load(ebpf, layout, anchor).and_then(|()| attach(ebpf, anchor));
            match (done, anchor.need) {
                (Ok(()), _) => {}
                (Err(error @ Unavailable::NoPoint { .. }), Need::Useful(what)) => {
                    blind.push(format!("{what}: {error}"));
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(blind)
    }

    /// Detaches and unloads its programs.
    pub(super) fn detach(self, ebpf: &mut Ebpf) {
        for anchor in self.anchors() {
            let unloaded = match ebpf.program_mut(anchor.hook.program()) {
                Some(Program::BtfTracePoint(program)) => program.unload(),
                Some(Program::FEntry(program)) => program.unload(),
                Some(Program::FExit(program)) => program.unload(),
                _ => Ok(()),
            };
            // What was not loaded is not there either.
            drop(unloaded);
        }
    }
}

/// Loads the program that tells who opens a file, and attaches nothing.
///
/// # Errors
///
/// As [`Strategy::attach`].
pub(super) fn load_open(ebpf: &mut Ebpf, layout: &Layout) -> Result<(), Unavailable> {
    OPEN.iter().try_for_each(|anchor| load(ebpf, layout, anchor))
}

/// Loads and attaches what tells of forks, signals and reads of queues, and what the strategy has not by itself:
/// who opens a file, or when something began.
///
/// # Errors
///
/// As [`Strategy::attach`].
pub(super) fn attach_trace(
    strategy: Strategy,
    ebpf: &mut Ebpf,
    layout: &Layout,
) -> Result<(), Unavailable> {
    let own = match strategy {
        Strategy::Trampoline => BEGIN,
        Strategy::Tracepoint => OPENED,
    };
    TRACE.iter().chain(own).try_for_each(|anchor| {
        load(ebpf, layout, anchor)?;
        attach(ebpf, anchor)
    })
}

fn load(ebpf: &mut Ebpf, layout: &Layout, anchor: &'static Anchor) -> Result<(), Unavailable> {
    let Some(point) = layout.point(anchor.hook) else {
        return Err(Unavailable::no_point(anchor));
    };
    let (name, btf) = (point.name(), &layout.stand_in);
    match program(ebpf, anchor.hook)? {
        Program::BtfTracePoint(program) => program.load(name, btf),
        Program::FEntry(program) => program.load(name, btf),
        Program::FExit(program) => program.load(name, btf),
        _ => return Err(Unavailable::Incomplete { name: anchor.hook.program() }),
    }
    .map_err(|error| Unavailable::of(anchor, error))
}

fn attach(ebpf: &mut Ebpf, anchor: &Anchor) -> Result<(), Unavailable> {
    match program(ebpf, anchor.hook)? {
        Program::BtfTracePoint(program) => program.attach().map(drop),
        Program::FEntry(program) => program.attach().map(drop),
        Program::FExit(program) => program.attach().map(drop),
        _ => return Err(Unavailable::Incomplete { name: anchor.hook.program() }),
    }
    .map_err(|error| Unavailable::of(anchor, error))
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut Program, Unavailable> {
    let name = hook.program();
    ebpf.program_mut(name).ok_or(Unavailable::Incomplete { name })
}
