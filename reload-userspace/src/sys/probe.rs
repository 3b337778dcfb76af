//! Whether a system call reaches the kernel at all, or a seccomp filter has it refused before.
//!
//! Each is called with an argument that the kernel refuses whoever asks, so nothing happens.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use nix::libc;
use rustix::io::Errno;

/// Calls `bpf(2)` with attributes of an impossible size: `E2BIG` where the kernel is asked.
///
/// Before Linux 6.5 the kernel may say `EPERM` first to a process without `CAP_BPF`.
#[must_use]
pub fn bpf() -> Errno {
    const BPF_MAP_CREATE: libc::c_long = 0;
    /// More than a page of any machine.
    const TOO_LARGE: libc::c_long = 1 << 20;
    let nothing = std::ptr::null::<u8>();
    // SAFETY: `bpf(2)` refuses the size before it looks at the pointer, and would find it to be null.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, nothing, TOO_LARGE) };
    refusal(answer)
}

/// Calls `fanotify_init(2)` for an unprivileged group with a flag that there is not: `EINVAL` where the
/// kernel is asked.
///
/// Before Linux 5.13 the kernel says `EPERM` first to a process without `CAP_SYS_ADMIN`.
#[must_use]
pub fn fanotify_init() -> Errno {
    const NO_FLAG: libc::c_uint = 1 << 31;
    // SAFETY: `fanotify_init(2)` takes two integers and touches no memory of ours.
    let answer = unsafe { libc::fanotify_init(libc::FAN_REPORT_FID | NO_FLAG, 0) };
    if answer >= 0 {
        // SAFETY: the call has succeeded, so this is a new descriptor that nobody else owns.
        drop(unsafe { OwnedFd::from_raw_fd(RawFd::from(answer)) });
    }
    refusal(libc::c_long::from(answer))
}

/// Asks with signal 0, which is none, whether the process behind `pidfd` could be signalled.
///
/// # Errors
///
/// What `pidfd_send_signal(2)` answers; to itself a process may always send.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    let number = pidfd.as_raw_fd();
    // SAFETY: the descriptor is open while it is borrowed, and without a `siginfo_t` the kernel fills
    // one in itself.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, 0, nothing, 0) };
    if answer == 0 { Ok(()) } else { Err(refusal(answer)) }
}

/// The error behind an answer; one that is none counts as that the kernel was asked.
fn refusal(answer: libc::c_long) -> Errno {
    if answer >= 0 {
        return Errno::INVAL;
    }
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
