//! What a handle on a process tells once the process has ended.

use std::{
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::process::ExitStatusExt as _,
    },
    process::ExitStatus,
};

use nix::libc;

/// `struct pidfd_info` of the kernel, in its first published size (`PIDFD_INFO_SIZE_VER0`).
#[derive(Default)]
#[repr(C)]
struct Info {
    mask: u64,
    _cgroup: u64,
    _ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<Info>() == libc::PIDFD_INFO_SIZE_VER0 as usize);
const _: () = assert!(size_of::<Info>() == size_of::<libc::pidfd_info>());

/// How the process behind `pidfd` has ended, or `None` where the kernel does not tell.
///
/// It does from Linux 6.15 on, once the process has been reaped, whoever its parent is.
#[must_use]
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let wanted = u64::from(libc::PIDFD_INFO_EXIT);
    let mut info = Info { mask: wanted, ..Info::default() };
    // SAFETY: the descriptor is open while it is borrowed; the request carries the size of `Info`,
    // which is all that the kernel writes, and `info` outlives the call. Another kind of descriptor,
    // or an older kernel, refuses the request.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & wanted != 0).then(|| ExitStatus::from_raw(info.exit_code))
}
