//! What every fanotify group of ours needs: marks on inodes at hand, and records from the bytes of the
//! queue, which is pure, so that it is tested without a kernel.

use std::os::fd::BorrowedFd;

use nix::{
    errno::Errno,
    libc,
    sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags},
};
use rustix::fs::CWD;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{FileHandle, file_handle, link_of};

/// What every group is: told of by file handle, after the fact, without waiting.
pub const GROUP: InitFlags = InitFlags::FAN_CLASS_NOTIF
    .union(InitFlags::FAN_CLOEXEC)
    .union(InitFlags::FAN_NONBLOCK)
    .union(InitFlags::from_bits_retain(libc::FAN_REPORT_FID));

/// Makes a group.
///
/// # Errors
///
/// What `fanotify_init(2)` answers.
pub fn group(flags: InitFlags) -> Result<Fanotify, Errno> {
    // Events carry no descriptor, so these flags mean nothing; the kernel wants them nevertheless.
    Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)
}

/// Adds to or removes from the mark on the inode behind `handle` (`O_PATH` will do).
///
/// # Errors
///
/// What `fanotify_mark(2)` answers.
pub fn mark(
    group: &Fanotify,
    flags: MarkFlags,
    mask: MaskFlags,
    handle: BorrowedFd<'_>,
) -> Result<(), Errno> {
    group.mark(flags, mask, CWD, Some(link_of(handle).as_str()))
}

/// Takes the mark on an inode away if that is what is behind `handle`, which was opened where the inode
/// was; otherwise it goes with its inode.
pub fn unmark(group: &Fanotify, mask: MaskFlags, handle: BorrowedFd<'_>, id: &FileHandle) {
    if file_handle(handle).is_ok_and(|it| it == *id) {
        let removed = mark(group, MarkFlags::FAN_MARK_REMOVE, mask, handle);
        tracing::debug!(?id, ?removed, "a mark is of no use any more");
    }
}

/// One event of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub mask: MaskFlags,
    /// The process, in our pid namespace; 0 where the kernel does not tell.
    pub pid: i32,
    /// What it happened to; nothing where the queue was full.
    pub id: Option<FileHandle>,
    /// By which name in which directory, where the group asks for that and the kernel knows it.
    pub entry: Option<(FileHandle, Vec<u8>)>,
}

/// What a group is besides that is told of the name by which something is opened.
pub const NAMES: InitFlags = InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME);

/// `struct fanotify_event_metadata` (`fanotify(7)`), where `own_len` is `metadata_len`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Metadata {
    event_len: u32,
    version: u8,
    _reserved: u8,
    own_len: u16,
    mask: u64,
    _fd: i32,
    pid: i32,
}

/// `struct fanotify_event_info_header`, and of `struct fanotify_event_info_fid` what is before the
/// bytes of the handle.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Info {
    kind: u8,
    _pad: u8,
    len: u16,
    filesystem: [i32; 2],
    handle_bytes: u32,
    handle_type: i32,
}

/// The records in what was read; `None` in place of the first that makes no sense, and then no more.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Option<Record>> + '_ {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let parsed = record(bytes);
        bytes = parsed.as_ref().and_then(|(_, length)| bytes.get(*length..)).unwrap_or_default();
        Some(parsed.map(|(record, _)| record))
    })
}

/// The first record, and how long it is.
fn record(bytes: &[u8]) -> Option<(Record, usize)> {
    let (metadata, _) = Metadata::read_from_prefix(bytes).ok()?;
    let length = usize::try_from(metadata.event_len).ok()?;
    let start = usize::from(metadata.own_len);
    if metadata.version != libc::FANOTIFY_METADATA_VERSION || start < size_of::<Metadata>() {
        return None;
    }
    let infos = bytes.get(..length)?.get(start..)?;
    let mask = MaskFlags::from_bits_retain(metadata.mask);
    let id = handle(infos, libc::FAN_EVENT_INFO_TYPE_FID).map(|(id, _)| id);
    let entry = handle(infos, libc::FAN_EVENT_INFO_TYPE_DFID_NAME).and_then(|(directory, rest)| {
        let name = rest.split(|&byte| byte == 0).next().filter(|name| !name.is_empty())?;
        Some((directory, name.to_vec()))
    });
    Some((Record { mask, pid: metadata.pid, id, entry }, length))
}

/// The handle in the first information record of that kind, and what follows it there.
fn handle(mut infos: &[u8], kind: u8) -> Option<(FileHandle, &[u8])> {
    loop {
        let (info, rest) = Info::read_from_prefix(infos).ok()?;
        let length = usize::from(info.len);
        if info.kind == kind {
            let rest = &rest[..rest.len().min(length.saturating_sub(size_of::<Info>()))];
            let (bytes, rest) = rest.split_at_checked(usize::try_from(info.handle_bytes).ok()?)?;
            let (filesystem, kind) = (info.filesystem, info.handle_type);
            return Some((FileHandle { filesystem, kind, bytes: bytes.to_vec() }, rest));
        }
        infos = infos.get(length.max(1)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event as the kernel writes it, with a handle of 8 bytes.
    fn event(mask: u64, pid: i32) -> Vec<u8> {
        event_with(mask, pid, &info(libc::FAN_EVENT_INFO_TYPE_FID, b""))
    }

    fn event_with(mask: u64, pid: i32, infos: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((24 + u32::try_from(infos.len()).unwrap()).to_ne_bytes());
        bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(infos);
        bytes
    }

    fn info(kind: u8, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0];
        let length = (4 + 8 + 8 + 8 + name.len()).next_multiple_of(4);
        bytes.extend(u16::try_from(length).unwrap().to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend(2_i32.to_ne_bytes());
        bytes.extend(8_u32.to_ne_bytes());
        bytes.extend(3_i32.to_ne_bytes());
        bytes.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend(name);
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn a_name_in_a_directory_is_read_besides() {
        let id = FileHandle { filesystem: [1, 2], kind: 3, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8] };
        let file = info(libc::FAN_EVENT_INFO_TYPE_FID, b"");
        let check = |infos: &[u8], expected: Option<&[u8]>| {
            let read: Vec<_> = records(&event_with(32, 7, infos)).flatten().collect();
            let entry = expected.map(|name| (id.clone(), name.to_vec()));
            assert_eq!(read[0].entry, entry);
            assert_eq!(read[0].id.is_some(), infos.ends_with(&file));
        };
        let named = |name: &[u8]| info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, name);
        check(&[named(b"a.conf\0"), file.clone()].concat(), Some(b"a.conf"));
        check(&named(b"abc\0"), Some(b"abc"));
        check(&named(b"abc"), Some(b"abc"));
        check(&named(b"\0"), None);
        check(&file, None);
    }

    #[test]
    fn records_are_read_one_after_the_other() {
        let id = FileHandle { filesystem: [1, 2], kind: 3, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8] };
        let record = |mask, pid| Record { mask, pid, id: Some(id.clone()), entry: None };
        let bytes = [event(2, 7), event(8, 0)].concat();
        let read: Vec<_> = records(&bytes).collect();
        let expected =
            [record(MaskFlags::FAN_MODIFY, 7), record(MaskFlags::FAN_CLOSE_WRITE, 0)].map(Some);
        assert_eq!(read, expected);
    }

    #[test]
    fn an_overflow_is_of_nothing() {
        let mut bytes = event(MaskFlags::FAN_Q_OVERFLOW.bits(), 0)[..24].to_vec();
        bytes[..4].copy_from_slice(&24_u32.to_ne_bytes());
        let expected = Record { mask: MaskFlags::FAN_Q_OVERFLOW, pid: 0, id: None, entry: None };
        assert_eq!(records(&bytes).collect::<Vec<_>>(), [Some(expected)]);
    }

    #[test]
    fn nonsense_ends_the_reading() {
        let whole = event(2, 7);
        for length in 1..whole.len() {
            assert_eq!(records(&whole[..length]).collect::<Vec<_>>(), [None], "at {length}");
        }
        let mut strange = whole.clone();
        strange[4] = 99;
        assert_eq!(records(&strange).collect::<Vec<_>>(), [None]);
        let mut empty = whole;
        empty[..4].fill(0);
        assert_eq!(records(&empty).collect::<Vec<_>>(), [None]);
    }
}
