//! Records that cross from the kernel to the agent, and the values of the maps between them.
//!
//! A record is a [`RecordHeader`] followed by the body that [`RecordHeader::kind`] names.
//!
//! **Invariants**, which the compiler checks below:
//!
//! - Fields have fixed widths. There is no `bool`, `usize`, pointer, enum or `Option` in a record,
//!   for the verifier checks none of their forbidden values.
//! - There is no implicit padding, which would leak kernel stack to userspace: deriving
//!   [`IntoBytes`] fails where there is.
//! - The layout is pinned by the assertions at the foot of this file. Changing one is a change of
//!   the ABI.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The length of a task's name in the kernel, its final zero included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// The place that the agent itself writes to, to prove that its own records arrive.
///
/// It is the only place where changes made by the agent are recorded.
pub const CANARY: u32 = 0;

/// The slot of the canary among the openings that are expected: how many names are. Nobody waits for the
/// canary to be opened.
pub const NAMES_EXPECTED: u32 = CANARY;

/// How many names may be expected to be opened at once.
pub const MAX_EXPECTED_NAMES: u32 = 1024;

/// How much of a file's name is compared, its final zero included, in bytes: nearly every name is shorter,
/// and one that begins alike is looked at in vain.
pub const NAME_LEN: usize = 60;

/// How much of what is read from a queue of notifications is told of, in bytes: at least one event of
/// inotify with the longest name, or some with short ones.
pub const NEWS_LEN: u32 = 288;

/// Tells `learn` to watch nothing.
pub const NO_PLACE: u32 = u32::MAX;

/// Why `learn` could not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Refusal {
    /// The descriptor is not open.
    Unknown = -1,
    /// There is no room for another place.
    Full = -2,
}

/// The value of [`ChangeRecord::syscall`] where no system call can be named: a store to a mapped
/// page, or a kernel thread.
pub const NO_SYSCALL: i64 = -1;

/// How many places can be watched, that of the canary included.
pub const MAX_PLACES: u32 = 65_536;

/// How many words of 64 bits the map of superblocks has.
pub const SUPERBLOCK_WORDS: u32 = 1024;

/// Where a superblock has its bit in the map of superblocks: the word, and the bit in it.
///
/// Devices without hardware (tmpfs, overlayfs, btrfs) are numbered in a row from 1, so that 65,536 of them
/// have bits of their own, and so have the partitions of a disk. Two disks, or a disk and another device,
/// may share one: the major number stands above the 20 bits of the minor one.
#[must_use]
#[inline]
pub const fn superblock_slot(device: u32) -> (u32, u64) {
    let number = device ^ device >> 20;
    ((number >> 6) % SUPERBLOCK_WORDS, 1 << (number % 64))
}

/// How many beginnings are remembered, where that is done: what tasks do at the same time.
pub const MAX_BEGUN: u32 = 1024;

/// How many process names can be looked for.
pub const MAX_NAMES: u32 = 256;

/// How many system calls the map of those that create can tell of: those below this number.
pub const SYSCALLS: u32 = 512;

/// Which changes of a place are to be recorded: the values of the map of armed places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Armed {
    /// None: the place has yielded its record.
    Silent = 0,
    /// Any.
    Any = 1,
    /// Any but those of system calls that create: a name that exists can only be taken away or
    /// replaced.
    Replacement = 2,
    /// Of a file that somebody writes to, any that does not go on with that: that it is closed above all.
    End = 3,
    /// Every one, each with a record of its own: the place never falls silent.
    Every = 4,
}

/// An inode as the kernel sees it.
///
/// The device is `super_block.s_dev`, which on overlayfs and btrfs is not what `stat(2)` says. That
/// is why the agent never makes up a key, but asks the kernel for it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Key {
    /// `inode.i_ino`.
    pub inode: u64,
    /// `inode.i_sb->s_dev`, in the kernel's own encoding, widened so that nothing is padding.
    pub device: u64,
}

/// A name in a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Name {
    /// The place of the directory.
    pub directory: u32,
    /// Its bytes up to the first zero, and zeros after that.
    pub text: [u8; NAME_LEN],
}

/// What a task is about to do: the key of the map of beginnings. Both addresses are only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Begun {
    /// The task.
    pub task: u64,
    /// The argument that tells it from what else the task does for that.
    pub subject: u64,
}

/// What `learn` answers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Answer {
    /// The key of the file, if it was to be watched.
    pub key: Key,
    /// How many have the file open for writing, or a [`Refusal`].
    pub writers: i64,
    /// Where the kernel keeps what can be done with such a file (`file.f_op`), which is only compared.
    pub operations: u64,
}

/// What notifications are queued by: the slots of the map of their files' operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Queue {
    /// `inotify(7)`.
    Inotify = 0,
    /// `fanotify(7)`.
    Fanotify = 1,
}

impl Queue {
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Who the agent is, as the kernel sees it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout,
)]
#[repr(C)]
pub struct Observer {
    /// The address of the agent's pid namespace, which is only compared, never followed.
    pub namespace: u64,
    /// How deep that namespace is nested; 0 is the initial one.
    pub level: u32,
    /// The agent's process as the initial pid namespace numbers it.
    pub tgid: u32,
}

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    /// The inode of a watched place changed: a [`ChangeRecord`].
    Change = 1,
    /// A process with one of the configured names replaced its image: a [`ProcessRecord`].
    Exec = 2,
    /// A process with one of the configured names ended: a [`ProcessRecord`].
    Exit = 3,
    /// Somebody opens a file of which that is expected: an [`OpenRecord`].
    Open = 4,
    /// A process with one of the configured names made another: a [`ForkRecord`].
    Fork = 5,
    /// A signal for a process with one of the configured names was made: a [`SignalRecord`].
    Signal = 6,
    /// A process with one of the configured names takes a signal: a [`DeliveryRecord`].
    Delivery = 7,
    /// Somebody has read from a queue of notifications: a [`ReadRecord`].
    Read = 8,
    /// Somebody has had inotify watch something: a [`WatchRecord`].
    Watch = 9,
}

/// The start of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct RecordHeader {
    /// When it happened, in nanoseconds since boot, suspended time included.
    pub boot_ns: u64,
    /// A [`RecordKind`]. Another number is a bug, for both halves are built from one source.
    pub kind: u32,
    /// The process (thread group) that acted, as the agent's pid namespace numbers it; 0 where the
    /// process is not visible there.
    pub pid: u32,
    /// The name of the task that acted: bytes up to the first zero, in no particular encoding.
    pub comm: [u8; COMM_LEN],
}

/// The content, the attributes or the entries of a watched inode changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ChangeRecord {
    /// Its `kind` is [`RecordKind::Change`].
    pub header: RecordHeader,
    /// The system call that did it, by its number on this architecture, or [`NO_SYSCALL`].
    pub syscall: i64,
    /// The number that the agent gave the place when it registered the inode.
    pub place: u32,
    /// The [`Hook`] that tells of it.
    pub hook: u32,
}

/// Somebody opens a watched file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct OpenRecord {
    /// Its `kind` is [`RecordKind::Open`].
    pub header: RecordHeader,
    /// The inode that it is, as `stat(2)` numbers it but on overlayfs and btrfs.
    pub inode: u64,
    /// The number that the agent gave the place when it registered the inode.
    pub place: u32,
    /// Always zero.
    pub reserved: u32,
}

/// A process made another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ForkRecord {
    /// Its `kind` is [`RecordKind::Fork`]; it is about the parent.
    pub header: RecordHeader,
    /// The child, as the agent's pid namespace numbers it; 0 where it is not visible there.
    pub child: u32,
    /// Always zero.
    pub reserved: u32,
}

/// A signal was made for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct SignalRecord {
    /// Its `kind` is [`RecordKind::Signal`]; it is about whoever was running then, who has sent it unless
    /// the kernel did.
    pub header: RecordHeader,
    /// Whom it is for, as the agent's pid namespace numbers him. Of whoever is not visible there nothing is
    /// told, nor of his execs, forks and end.
    pub target: u32,
    /// The signal's number.
    pub signal: u32,
    /// What became of it: a `TRACE_SIGNAL_…` of `include/trace/events/signal.h`.
    pub result: u32,
    /// 1 where the kernel itself has sent it, 0 otherwise.
    pub by_kernel: u32,
}

/// A process takes a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct DeliveryRecord {
    /// Its `kind` is [`RecordKind::Delivery`]; it is about the one who takes it.
    pub header: RecordHeader,
    /// The signal's number.
    pub signal: u32,
    /// What he does with it: 0 the default (`SIG_DFL`), 1 nothing (`SIG_IGN`), 2 what his handler does.
    pub action: u32,
}

/// Somebody has read from a queue of notifications. The first of what he has read follows, as many bytes as
/// are told; what is in the ring after that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ReadRecord {
    /// Its `kind` is [`RecordKind::Read`].
    pub header: RecordHeader,
    /// The descriptor that he has read from.
    pub descriptor: u32,
    /// A [`Queue`].
    pub queue: u32,
    /// How many bytes he has read.
    pub length: u32,
    /// How many of them follow, [`NEWS_LEN`] at most.
    pub told: u32,
}

/// Somebody has had inotify watch something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct WatchRecord {
    /// Its `kind` is [`RecordKind::Watch`].
    pub header: RecordHeader,
    /// The descriptor of the queue.
    pub descriptor: u32,
    /// The number of the watch in that queue.
    pub watch: u32,
}

/// A process started a program, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ProcessRecord {
    /// Its `kind` is [`RecordKind::Exec`] or [`RecordKind::Exit`].
    pub header: RecordHeader,
}

/// The hooks of the eBPF program, which also number its counters of dropped records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// The change time of an inode on a multigrain filesystem was replaced.
    CtimeSwap = 0,
    /// The change time of an inode on a multigrain filesystem was already the current one.
    CtimeSkip = 1,
    /// The change time of an inode was set.
    CtimeSet = 2,
    /// A process replaced its image.
    Exec = 3,
    /// A task ended.
    Exit = 4,
    /// A file is about to be written to.
    Write = 5,
    /// A file is about to be mapped for stores.
    Map = 6,
    /// A file that was open for writing is closed.
    Close = 7,
    /// The size or another attribute of a file was set.
    Attributes = 8,
    /// A name for a new file is about to be made.
    Create = 9,
    /// A file got another name.
    Link = 10,
    /// A symlink was made.
    Symlink = 11,
    /// A directory was made.
    Mkdir = 12,
    /// A name was moved or exchanged.
    Rename = 13,
    /// A name was removed.
    Unlink = 14,
    /// A directory was removed.
    Rmdir = 15,
    /// A file is opened.
    Open = 16,
    /// A process made another.
    Fork = 17,
    /// A signal was made.
    Signal = 18,
    /// A signal is taken.
    Deliver = 19,
    /// A system call that opens a file has done so.
    Opened = 20,
    /// A system call has read from a queue of notifications, or has something watched with one.
    Queue = 21,
    /// An attribute of a file is about to be set.
    AttributesBegin = 22,
    /// A file is about to get another name.
    LinkBegin = 23,
    /// A name is about to be moved or exchanged.
    RenameBegin = 24,
    /// A name is about to be removed.
    UnlinkBegin = 25,
}

impl Hook {
    /// How many hooks there are.
    pub const COUNT: u32 = 26;

    /// All hooks, in the order of their numbers.
    pub const ALL: [Self; 26] = [
        Self::CtimeSwap,
        Self::CtimeSkip,
        Self::CtimeSet,
        Self::Exec,
        Self::Exit,
        Self::Write,
        Self::Map,
        Self::Close,
        Self::Attributes,
        Self::Create,
        Self::Link,
        Self::Symlink,
        Self::Mkdir,
        Self::Rename,
        Self::Unlink,
        Self::Rmdir,
        Self::Open,
        Self::Fork,
        Self::Signal,
        Self::Deliver,
        Self::Opened,
        Self::Queue,
        Self::AttributesBegin,
        Self::LinkBegin,
        Self::RenameBegin,
        Self::UnlinkBegin,
    ];

    /// The eBPF program that the hook runs. The kernel keeps fifteen bytes of its name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::CtimeSwap => "on_ctime_swap",
            Self::CtimeSkip => "on_ctime_skip",
            Self::CtimeSet => "on_ctime_set",
            Self::Exec => "on_exec",
            Self::Exit => "on_exit",
            Self::Write => "on_write",
            Self::Map => "on_map",
            Self::Close => "on_close",
            Self::Attributes => "on_attributes",
            Self::Create => "on_create",
            Self::Link => "on_link",
            Self::Symlink => "on_symlink",
            Self::Mkdir => "on_mkdir",
            Self::Rename => "on_rename",
            Self::Unlink => "on_unlink",
            Self::Rmdir => "on_rmdir",
            Self::Open => "on_open",
            Self::Fork => "on_fork",
            Self::Signal => "on_signal",
            Self::Deliver => "on_deliver",
            Self::Opened => "on_opened",
            Self::Queue => "on_queue",
            Self::AttributesBegin => "on_attr_begin",
            Self::LinkBegin => "on_link_begin",
            Self::RenameBegin => "on_rename_begin",
            Self::UnlinkBegin => "on_unlink_begin",
        }
    }

    /// Whether it tells that a file is being written to, and so of what a close will follow.
    #[must_use]
    #[inline]
    pub const fn is_under_way(self) -> bool {
        matches!(self, Self::Write | Self::Map)
    }

    /// Whether it tells of a name that is added to a directory, and of nothing else; `None` where it tells
    /// only that something was changed.
    #[must_use]
    #[inline]
    pub const fn is_creating(self) -> Option<bool> {
        match self {
            Self::CtimeSwap | Self::CtimeSkip | Self::CtimeSet => None,
            Self::Create | Self::Link | Self::Symlink | Self::Mkdir => Some(true),
            _ => Some(false),
        }
    }
}

const _: () = {
    assert!(size_of::<Key>() == 16 && align_of::<Key>() == 8);
    assert!(size_of::<Begun>() == 16 && offset_of!(Begun, subject) == 8);
    assert!(size_of::<Answer>() == 32 && offset_of!(Answer, operations) == 24);
    assert!(size_of::<Name>() == 64 && offset_of!(Name, text) == 4);
    assert!(size_of::<Observer>() == 16 && offset_of!(Observer, tgid) == 12);
    assert!(size_of::<RecordHeader>() == 32 && align_of::<RecordHeader>() == 8);
    assert!(offset_of!(RecordHeader, kind) == 8 && offset_of!(RecordHeader, pid) == 12);
    assert!(offset_of!(RecordHeader, comm) == 16);
    assert!(size_of::<ChangeRecord>() == 48 && offset_of!(ChangeRecord, syscall) == 32);
    assert!(offset_of!(ChangeRecord, place) == 40 && offset_of!(ChangeRecord, hook) == 44);
    assert!(size_of::<OpenRecord>() == 48 && offset_of!(OpenRecord, place) == 40);
    assert!(size_of::<ProcessRecord>() == 32);
    assert!(size_of::<ForkRecord>() == 40 && offset_of!(ForkRecord, child) == 32);
    assert!(size_of::<SignalRecord>() == 48 && offset_of!(SignalRecord, by_kernel) == 44);
    assert!(size_of::<DeliveryRecord>() == 40 && offset_of!(DeliveryRecord, action) == 36);
    assert!(size_of::<ReadRecord>() == 48 && offset_of!(ReadRecord, queue) == 36);
    assert!(offset_of!(ReadRecord, length) == 40 && offset_of!(ReadRecord, told) == 44);
    assert!(size_of::<WatchRecord>() == 40 && offset_of!(WatchRecord, watch) == 36);
    assert!(Hook::ALL.len() == Hook::COUNT as usize);
    let mut number = 0;
    while number < Hook::ALL.len() {
        assert!(Hook::ALL[number] as usize == number);
        assert!(Hook::ALL[number].program().len() < COMM_LEN);
        number += 1;
    }
};
