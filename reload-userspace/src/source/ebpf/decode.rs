//! From the bytes of a record to an event: pure, so that it is tested without a kernel.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, time::Duration};

use nix::{libc, unistd::Pid};
use reload_ebpf::{
    ChangeRecord, DeliveryRecord, ForkRecord, Hook, OpenRecord, ProcessRecord, Queue, ReadRecord,
    RecordHeader, RecordKind, SignalRecord, WatchRecord,
};
use zerocopy::FromBytes as _;

use crate::clock::Boot;
use crate::event::{Actor, Event, Fate, Handling, Heard, News, Operation, PlaceId, Sender};

/// Translates a record of the ring to an event, or gives `None` where it is no record of ours.
pub(super) fn decode(record: &[u8]) -> Option<Event> {
    let (header, _) = RecordHeader::read_from_prefix(record).ok()?;
    let at = Boot(Duration::from_nanos(header.boot_ns));
    match header.kind {
        kind if kind == RecordKind::Change as u32 => {
            let (change, _) = ChangeRecord::read_from_prefix(record).ok()?;
            let by = Actor {
                pid: i32::try_from(header.pid).ok().filter(|&pid| pid != 0),
                comm: Some(text(&header.comm)),
                operation: operation(change.syscall, change.hook),
            };
            Some(Event::Changed { place: PlaceId(change.place), at, by })
        }
        kind if kind == RecordKind::Exec as u32 => {
            Some(Event::Started { pid: process(record)?, at })
        }
        kind if kind == RecordKind::Exit as u32 => {
            Some(Event::Ended { pid: process(record)?, comm: text(&header.comm), at })
        }
        kind if kind == RecordKind::Open as u32 => {
            let (open, _) = OpenRecord::read_from_prefix(record).ok()?;
            let pid = Pid::from_raw(i32::try_from(header.pid).ok()?);
            Some(Event::Opened { place: PlaceId(open.place), inode: Some(open.inode), pid, at })
        }
        kind if kind == RecordKind::Fork as u32 => {
            let (fork, _) = ForkRecord::read_from_prefix(record).ok()?;
            let child = visible(fork.child)?;
            Some(Event::Forked { parent: process(record)?, child, at })
        }
        kind if kind == RecordKind::Signal as u32 => {
            let (it, _) = SignalRecord::read_from_prefix(record).ok()?;
            let by = match (it.by_kernel, visible(header.pid)?) {
                (0, Some(pid)) => Sender::Process(pid),
                (0, None) => Sender::Unseen,
                _ => Sender::Kernel,
            };
            let (pid, signal) = (visible(it.target)??, i32::try_from(it.signal).ok()?);
            let comm = text(&header.comm);
            Some(Event::Signalled { pid, signal, by, comm, fate: fate(it.result)?, at })
        }
        kind if kind == RecordKind::Delivery as u32 => {
            let (it, _) = DeliveryRecord::read_from_prefix(record).ok()?;
            let (pid, signal) = (process(record)?, i32::try_from(it.signal).ok()?);
            let (comm, handling) = (text(&header.comm), handling(it.action)?);
            Some(Event::Delivered { pid, signal, comm, handling, at })
        }
        kind if kind == RecordKind::Read as u32 => {
            let (it, news) = ReadRecord::read_from_prefix(record).ok()?;
            let (pid, comm) = (visible(header.pid)?, text(&header.comm));
            let descriptor = i32::try_from(it.descriptor).ok()?;
            Some(Event::Read { pid, comm, descriptor, news: self::news(&it, news)?, at })
        }
        kind if kind == RecordKind::Watch as u32 => {
            let (it, _) = WatchRecord::read_from_prefix(record).ok()?;
            let (pid, comm) = (visible(header.pid)?, text(&header.comm));
            let descriptor = i32::try_from(it.descriptor).ok()?;
            Some(Event::Watched { pid, comm, descriptor, watch: i32::try_from(it.watch).ok()? })
        }
        _ => None,
    }
}

/// What has been read from a queue, as far as it is told.
fn news(record: &ReadRecord, bytes: &[u8]) -> Option<News> {
    match record.queue {
        queue if queue == Queue::Inotify as u32 => {
            let mut rest = bytes.get(..usize::try_from(record.told).ok()?)?;
            let mut heard = Vec::new();
            while let Some((event, others)) = heard_first(rest) {
                heard.push(event);
                rest = others;
            }
            Some(News::Inotify { heard, is_whole: rest.is_empty() && record.told == record.length })
        }
        queue if queue == Queue::Fanotify as u32 => Some(News::Fanotify),
        _ => None,
    }
}

/// The first event of what was read by inotify, a `struct inotify_event` and its name, and the rest.
fn heard_first(bytes: &[u8]) -> Option<(Heard, &[u8])> {
    let ([watch, mask, _cookie, length], rest) = <[u32; 4]>::read_from_prefix(bytes).ok()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = OsStr::from_bytes(name).to_owned();
    Some((Heard { watch: watch.cast_signed(), mask, name }, rest))
}

/// A process, if it is visible in our pid namespace.
#[expect(clippy::option_option, reason = "a number that is none is no record of ours")]
fn visible(pid: u32) -> Option<Option<Pid>> {
    let pid = i32::try_from(pid).ok()?;
    Some((pid != 0).then(|| Pid::from_raw(pid)))
}

fn fate(result: u32) -> Option<Fate> {
    /// In the order of their numbers.
    const FATES: [Fate; 5] =
        [Fate::Queued, Fate::Ignored, Fate::AlreadyPending, Fate::Overflown, Fate::InfoLost];
    FATES.get(usize::try_from(result).ok()?).copied()
}

fn handling(action: u32) -> Option<Handling> {
    const ACTIONS: [Handling; 3] = [Handling::Default, Handling::Ignore, Handling::Handler];
    ACTIONS.get(usize::try_from(action).ok()?).copied()
}

fn process(record: &[u8]) -> Option<Pid> {
    let (process, _) = ProcessRecord::read_from_prefix(record).ok()?;
    Some(Pid::from_raw(i32::try_from(process.header.pid).ok()?))
}

/// The bytes up to the first zero; what is not UTF-8 is replaced.
fn text(comm: &[u8]) -> String {
    let name = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// What somebody does: by the hook that saw it where that is for one thing only, or else by his system
/// call.
fn operation(syscall: i64, hook: u32) -> Operation {
    match Hook::ALL.into_iter().find(|it| *it as u32 == hook) {
        Some(Hook::Create) => Operation::Open,
        Some(Hook::Link) => Operation::Link,
        Some(Hook::Symlink) => Operation::Symlink,
        Some(Hook::Mkdir) => Operation::Mkdir,
        Some(Hook::Rename) => Operation::Rename,
        Some(Hook::Unlink | Hook::Rmdir) => Operation::Unlink,
        Some(Hook::Close) => Operation::Close,
        hook => match (by_syscall(syscall), hook) {
            (Operation::Change, Some(Hook::Write)) => Operation::Write,
            (Operation::Change, Some(Hook::Attributes)) => Operation::Attributes,
            (operation, _) => operation,
        },
    }
}

/// What a system call does, by its number on this architecture.
fn by_syscall(syscall: i64) -> Operation {
    #[cfg(target_arch = "x86_64")]
    match syscall {
        libc::SYS_rename | libc::SYS_renameat => return Operation::Rename,
        libc::SYS_open | libc::SYS_creat => return Operation::Open,
        libc::SYS_symlink => return Operation::Symlink,
        libc::SYS_link => return Operation::Link,
        libc::SYS_unlink | libc::SYS_rmdir => return Operation::Unlink,
        libc::SYS_mkdir => return Operation::Mkdir,
        libc::SYS_chmod | libc::SYS_chown | libc::SYS_lchown => return Operation::Attributes,
        _ => {}
    }
    match syscall {
        libc::SYS_renameat2 => Operation::Rename,
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_splice
        | libc::SYS_sendfile
        | libc::SYS_copy_file_range => Operation::Write,
        libc::SYS_openat | libc::SYS_openat2 => Operation::Open,
        libc::SYS_truncate | libc::SYS_ftruncate | libc::SYS_fallocate => Operation::Truncate,
        libc::SYS_symlinkat => Operation::Symlink,
        libc::SYS_linkat => Operation::Link,
        libc::SYS_unlinkat => Operation::Unlink,
        libc::SYS_mkdirat => Operation::Mkdir,
        libc::SYS_fchmod
        | libc::SYS_fchmodat
        | libc::SYS_fchown
        | libc::SYS_fchownat
        | libc::SYS_utimensat => Operation::Attributes,
        _ => Operation::Change,
    }
}

/// The numbers of the system calls that only ever add names to a directory.
///
/// Of what does not count here, a call of `io_uring` say, nothing is known: it may do anything.
pub(super) fn creating_syscalls() -> impl Iterator<Item = u32> {
    #[cfg(target_arch = "x86_64")]
    const OLD: &[i64] = &[
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_mkdir,
        libc::SYS_mknod,
        libc::SYS_link,
        libc::SYS_symlink,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const OLD: &[i64] = &[];
    const NEW: &[i64] = &[
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
    ];
    OLD.iter().chain(NEW).filter_map(|&number| u32::try_from(number).ok())
}

/// The numbers of the system calls that open a file and return its descriptor.
pub(super) fn opening_syscalls() -> impl Iterator<Item = u32> {
    #[cfg(target_arch = "x86_64")]
    const OLD: &[i64] = &[libc::SYS_open, libc::SYS_creat];
    #[cfg(not(target_arch = "x86_64"))]
    const OLD: &[i64] = &[];
    const NEW: &[i64] = &[libc::SYS_openat, libc::SYS_openat2];
    OLD.iter().chain(NEW).filter_map(|&number| u32::try_from(number).ok())
}

/// The numbers of the system calls that read from a queue, and have inotify watch something.
pub(super) fn queue_syscalls() -> [u32; 2] {
    [libc::SYS_read, libc::SYS_inotify_add_watch].map(|it| u32::try_from(it).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use reload_ebpf::{COMM_LEN, NO_SYSCALL};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn header(kind: u32, pid: u32) -> RecordHeader {
        let mut comm = [0; COMM_LEN];
        comm[..5].copy_from_slice(b"nginx");
        RecordHeader { boot_ns: 1_500, kind, pid, comm }
    }

    fn change(pid: u32, syscall: i64, hook: Hook) -> ChangeRecord {
        ChangeRecord {
            header: header(RecordKind::Change as u32, pid),
            syscall,
            place: 7,
            hook: hook as u32,
        }
    }

    fn changed(pid: Option<i32>, operation: Operation) -> Event {
        Event::Changed {
            place: PlaceId(7),
            at: Boot(Duration::from_nanos(1_500)),
            by: Actor { pid, comm: Some("nginx".to_owned()), operation },
        }
    }

    #[test]
    fn a_change_tells_who_did_what() {
        fn check(pid: u32, syscall: i64, hook: Hook, expected: &Event) {
            let record = change(pid, syscall, hook);
            assert_eq!(decode(record.as_bytes()).as_ref(), Some(expected), "for call {syscall}");
        }
        check(12, libc::SYS_renameat2, Hook::CtimeSet, &changed(Some(12), Operation::Rename));
        check(12, libc::SYS_write, Hook::CtimeSwap, &changed(Some(12), Operation::Write));
        check(12, libc::SYS_unlinkat, Hook::CtimeSwap, &changed(Some(12), Operation::Unlink));
        // A process of another pid namespace, and a store to a mapped page.
        check(0, NO_SYSCALL, Hook::CtimeSwap, &changed(None, Operation::Change));
        // By somebody else's mapping, long after.
        check(12, libc::SYS_munmap, Hook::Close, &changed(Some(12), Operation::Close));
        check(12, libc::SYS_mmap, Hook::Map, &changed(Some(12), Operation::Change));
        // A number of a 32-bit program means another call.
        check(12, libc::SYS_write, Hook::Unlink, &changed(Some(12), Operation::Unlink));
        // io_uring, of which the hook knows what the system call does not say.
        check(12, NO_SYSCALL, Hook::Rename, &changed(Some(12), Operation::Rename));
        check(12, libc::SYS_io_uring_enter, Hook::Write, &changed(Some(12), Operation::Write));
    }

    #[test]
    fn an_open_tells_who_and_when() {
        let header = header(RecordKind::Open as u32, 9);
        let open = OpenRecord { header, inode: 3, place: 7, reserved: 0 };
        let (place, at) = (PlaceId(7), Boot(Duration::from_nanos(1_500)));
        let expected = Event::Opened { place, inode: Some(3), pid: Pid::from_raw(9), at };
        assert_eq!(decode(open.as_bytes()), Some(expected));
    }

    #[test]
    fn a_process_is_named_by_its_pid() {
        let at = Boot(Duration::from_nanos(1_500));
        let exec = ProcessRecord { header: header(RecordKind::Exec as u32, 9) };
        let exit = ProcessRecord { header: header(RecordKind::Exit as u32, 9) };
        let pid = Pid::from_raw(9);
        assert_eq!(decode(exec.as_bytes()), Some(Event::Started { pid, at }));
        let comm = text(&exit.header.comm);
        assert_eq!(decode(exit.as_bytes()), Some(Event::Ended { pid, comm, at }));
    }

    #[test]
    fn a_fork_names_both() {
        let at = Boot(Duration::from_nanos(1_500));
        let header = header(RecordKind::Fork as u32, 9);
        let fork = |child| decode(ForkRecord { header, child, reserved: 0 }.as_bytes());
        let expected = |child| Some(Event::Forked { parent: Pid::from_raw(9), child, at });
        assert_eq!(fork(10), expected(Some(Pid::from_raw(10))));
        assert_eq!(fork(0), expected(None));
    }

    #[test]
    fn a_signal_tells_whose_it_is_and_what_becomes_of_it() {
        let at = Boot(Duration::from_nanos(1_500));
        let pid = Pid::from_raw(7);
        let signal = |sender, result, by_kernel| {
            let header = header(RecordKind::Signal as u32, sender);
            decode(SignalRecord { header, target: 7, signal: 1, result, by_kernel }.as_bytes())
        };
        let expected = |by, fate| {
            let comm = "nginx".to_owned();
            Some(Event::Signalled { pid, signal: 1, by, comm, fate, at })
        };
        let sender = Sender::Process(Pid::from_raw(9));
        assert_eq!(signal(9, 0, 0), expected(sender, Fate::Queued));
        assert_eq!(signal(9, 1, 0), expected(sender, Fate::Ignored));
        assert_eq!(signal(9, 2, 1), expected(Sender::Kernel, Fate::AlreadyPending));
        assert_eq!(signal(0, 4, 0), expected(Sender::Unseen, Fate::InfoLost));
        assert_eq!(signal(9, 5, 0), None);

        let delivery = |action| {
            let header = header(RecordKind::Delivery as u32, 7);
            decode(DeliveryRecord { header, signal: 1, action }.as_bytes())
        };
        let expected = |handling| {
            let comm = "nginx".to_owned();
            Some(Event::Delivered { pid, signal: 1, comm, handling, at })
        };
        assert_eq!(delivery(0), expected(Handling::Default));
        assert_eq!(delivery(1), expected(Handling::Ignore));
        assert_eq!(delivery(2), expected(Handling::Handler));
        assert_eq!(delivery(3), None);
    }

    #[test]
    fn what_is_read_from_a_queue_is_told_event_by_event() {
        let event = |watch: u32, name: &[u8]| {
            let length = u32::try_from(name.len()).unwrap();
            [[watch, 0x80, 0, length].as_bytes(), name].concat()
        };
        let check = |bytes: &[u8], length: usize, names: &[&str], is_whole: bool| {
            let record = ReadRecord {
                header: header(RecordKind::Read as u32, 9),
                descriptor: 3,
                queue: Queue::Inotify as u32,
                length: u32::try_from(length).unwrap(),
                told: u32::try_from(bytes.len()).unwrap(),
            };
            // More is in the ring, and means nothing.
            let record = [record.as_bytes(), bytes, &[7; 40]].concat();
            let names = names.iter().map(Into::into);
            let heard = names.map(|name| Heard { watch: 7, mask: 0x80, name }).collect();
            let news = News::Inotify { heard, is_whole };
            let (pid, comm) = (Some(Pid::from_raw(9)), "nginx".to_owned());
            let at = Boot(Duration::from_nanos(1_500));
            let expected = Some(Event::Read { pid, comm, descriptor: 3, news, at });
            assert_eq!(decode(&record), expected);
        };
        let both = [event(7, b""), event(7, b"a.conf\0\0\0\0\0\0\0\0\0\0")].concat();
        check(&both, both.len(), &["", "a.conf"], true);
        check(&both, both.len() + 16, &["", "a.conf"], false);
        // Cut within a name, and within an event.
        check(&both[..40], 48, &[""], false);
        check(&both[..20], 48, &[""], false);
        check(&[], 16, &[], false);
    }

    #[test]
    fn what_is_no_record_is_not_decoded() {
        assert_eq!(decode(header(0, 1).as_bytes()), None);
        assert_eq!(decode(header(99, 1).as_bytes()), None);
        let whole = change(1, 0, Hook::Write);
        for length in 0..whole.as_bytes().len() {
            assert_eq!(decode(&whole.as_bytes()[..length]), None, "for the first {length} bytes");
        }
    }
}
