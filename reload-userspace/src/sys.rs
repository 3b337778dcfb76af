//! The only `unsafe` of the agent, and what else speaks to the kernel without a word of our own.
//!
//! **Invariant:** what this module exports is safe for every argument.

#![expect(
    unsafe_code,
    reason = "calls that cannot know what their argument is, and one of the allocator"
)]

pub mod capability;
pub mod fanotify;
pub mod limit;
pub mod pidfd;
pub mod probe;
pub mod spawn;
pub mod version;

mod resolve;

pub use resolve::resolve_without_plugins;

use std::{
    fs, io, mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{libc, sys::statfs};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::{Interest, unix::AsyncFd};

/// What to do about a user namespace in which eBPF counts for nothing, in one voice.
pub const LEAVE_USER_NAMESPACE: &str =
    "run the agent outside of it (Kubernetes: hostUsers: true; Docker: --userns host)";

/// Whether this process is in the user namespace that the machine starts with, in which alone
/// capabilities count for everything.
#[must_use]
pub fn is_in_initial_user_namespace() -> bool {
    /// `PROC_USER_INIT_INO` of the kernel.
    const INITIAL: &str = "user:[4026531837]";
    // Where it is not told, as in a kernel without namespaces, there is no other.
    fs::read_link("/proc/self/ns/user").map_or(true, |it| it.as_os_str() == INITIAL)
}

/// Where the kernel says how far it is locked down.
pub const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// How far the kernel keeps even root out, `kernel_lockdown(7)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// So far that eBPF programs may not read its memory.
    Confidentiality,
    /// Less far, in its own word.
    Less(String),
}

/// How far the kernel is locked down, or `None` where [`LOCKDOWN`] cannot be read.
#[must_use]
pub fn lockdown() -> Option<Lockdown> {
    fs::read_to_string(LOCKDOWN).ok().map(|modes| parse_lockdown(&modes))
}

/// Takes the mode in brackets from `none [integrity] confidentiality`.
fn parse_lockdown(modes: &str) -> Lockdown {
    match modes.split(['[', ']']).nth(1).unwrap_or("unknown") {
        "confidentiality" => Lockdown::Confidentiality,
        mode => Lockdown::Less(mode.to_owned()),
    }
}

/// Lets the runtime wait until there is something to read from `source`.
///
/// The runtime watches a duplicate of the descriptor, so `source` stays free to be read.
///
/// # Errors
///
/// Fails where the process or the runtime is out of descriptors.
pub fn readable(source: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let duplicate = source.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` owns its descriptor, so it is open, and the same one, for as long as the
    // `AsyncFd` that takes it lives.
    unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE) }.map_err(Into::into)
}

/// Lets the runtime wait until something exceptional is told of `source` (`POLLPRI`).
///
/// # Errors
///
/// Fails where the process or the runtime is out of descriptors.
pub fn exceptional(source: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor, so it is open, and the same one, for as long as the
    // `AsyncFd` that takes it lives.
    unsafe { AsyncFd::register_with_interest(source, Interest::PRIORITY) }.map_err(Into::into)
}

/// A path that leads to what is behind `handle`, whatever its name is or was (`proc(5)`).
#[must_use]
pub fn link_of(handle: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// An inode as fanotify names it: its filesystem, and its name there (`name_to_handle_at(2)`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// The identity of the filesystem: `f_fsid` of `statfs(2)`.
    pub filesystem: [i32; 2],
    /// What the bytes mean, which only the filesystem knows.
    pub kind: i32,
    /// The name.
    pub bytes: Vec<u8>,
}

/// The name of the inode behind `file` (`O_PATH` will do), as fanotify reports it.
///
/// # Errors
///
/// Fails where the filesystem has no such names.
pub fn file_handle(file: BorrowedFd<'_>) -> io::Result<FileHandle> {
    // Linux 6.5; without it, filesystems whose handles cannot be opened again give none.
    let with_fid = name_to_handle(file, libc::AT_EMPTY_PATH | libc::AT_HANDLE_FID);
    match with_fid {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            name_to_handle(file, libc::AT_EMPTY_PATH)
        }
        result => result,
    }
}

fn name_to_handle(file: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<FileHandle> {
    const MOST: usize = libc::MAX_HANDLE_SZ as usize;
    /// `struct file_handle`, with room for the longest handle.
    #[repr(C)]
    struct Handle {
        length: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; MOST],
    }
    let mut handle =
        Handle { length: libc::MAX_HANDLE_SZ as libc::c_uint, kind: 0, bytes: [0; MOST] };
    let mut mount = 0;
    let place = (&raw mut handle).cast::<libc::file_handle>();
    // SAFETY: the path is a string; `handle` begins like a `file_handle` and says truly how many
    // bytes follow; `mount` takes an integer; all of them outlive the call.
    let result = unsafe {
        libc::name_to_handle_at(file.as_raw_fd(), c"".as_ptr(), place, &raw mut mount, flags)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(handle.length).unwrap_or(MOST).min(MOST);
    let bytes = handle.bytes[..length].to_vec();
    Ok(FileHandle { filesystem: filesystem_id(file)?, kind: handle.kind, bytes })
}

fn filesystem_id(file: BorrowedFd<'_>) -> io::Result<[i32; 2]> {
    let id = statfs::fstatfs(file)?.filesystem_id();
    // SAFETY: `fsid_t` is two integers (`statfs(2)`), which libc keeps to itself; any are valid.
    Ok(unsafe { mem::transmute::<libc::fsid_t, [i32; 2]>(id) })
}

/// Calls `make` while this process can open no file, so that a library that would read one goes
/// without it.
///
/// Only to be used while there is one thread.
pub fn without_opening<T>(make: impl FnOnce() -> T) -> T {
    let limit = getrlimit(Resource::Nofile);
    let shut = Rlimit { current: Some(0), maximum: limit.maximum };
    let is_shut = setrlimit(Resource::Nofile, shut).is_ok();
    let result = make();
    if is_shut && let Err(error) = setrlimit(Resource::Nofile, limit) {
        // Lowering the soft limit and raising it again needs no right; this is never seen.
        tracing::error!(%error, "cannot raise the limit of open files again");
    }
    result
}

/// Gives memory that is free but not returned, after the start has used a lot, back to the kernel.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes an integer, is safe at any time, and touches only free memory.
    let _has_released = unsafe { libc::malloc_trim(0) };
}

/// The highest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

/// The signal with this number, real-time ones included, or `None` where there is none to send.
///
/// Numbers 32 and 33 belong to the C library (`nptl(7)`), so nobody can mean them.
#[must_use]
pub fn signal(number: i32) -> Option<Signal> {
    if !(1..=SIGNAL_MAX).contains(&number) || (32..=33).contains(&number) {
        return None;
    }
    // SAFETY: the number is one of the kernel's signals, and none that the C library keeps.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_the_mode_in_brackets() {
        fn check(modes: &str, expected: &str) {
            assert_eq!(parse_lockdown(modes), Lockdown::Less(expected.to_owned()), "for {modes:?}");
        }
        check("[none] integrity confidentiality\n", "none");
        check("none [integrity] confidentiality\n", "integrity");
        check("confidentiality\n", "unknown");
        let most = parse_lockdown("none integrity [confidentiality]\n");
        assert_eq!(most, Lockdown::Confidentiality);
    }
}
