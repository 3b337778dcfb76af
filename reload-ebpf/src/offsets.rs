//! Where the members of the kernel's structures lie, in bytes.
//!
//! rustc knows no CO-RE relocations, so the agent reads the offsets from the running kernel's BTF and
//! sets these constants when it loads the program. They lie in a frozen map, so the verifier knows
//! their values. The agent's `source/ebpf/layout.rs` names each of them.

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub(crate) static $name: Global<u32> = Global::new(0);
    )*};
}

offsets! {
    /// `inode.i_ino`
    OFF_INODE_INO;
    /// `inode.i_sb`
    OFF_INODE_SB;
    /// `inode.i_mode`
    OFF_INODE_MODE;
    /// `inode.i_writecount`
    OFF_INODE_WRITECOUNT;
    /// `super_block.s_dev`
    OFF_SB_DEV;
    /// `file.f_inode`
    OFF_FILE_INODE;
    /// `file.f_mode`
    OFF_FILE_MODE;
    /// `file.f_op`
    OFF_FILE_OPERATIONS;
    /// `files_struct.fdt`
    OFF_FILES_FDT;
    /// `fdtable.fd`
    OFF_FDT_FD;
    /// `task_struct.files`
    OFF_TASK_FILES;
    /// `task_struct.comm`
    OFF_TASK_COMM;
    /// `k_sigaction.sa.sa_handler`
    OFF_ACTION_HANDLER;
    /// `task_struct.group_leader`
    OFF_TASK_LEADER;
    /// `task_struct.thread_pid`
    OFF_TASK_PID;
    /// `pid.level`
    OFF_PID_LEVEL;
    /// `pid.numbers`
    OFF_PID_NUMBERS;
    /// `upid.nr`
    OFF_UPID_NR;
    /// `upid.ns`
    OFF_UPID_NS;
    /// The size of `struct upid`
    SIZE_UPID;
    /// `pt_regs.orig_ax` (x86-64) or `pt_regs.syscallno` (arm64)
    OFF_REGS_SYSCALL;
    /// `pt_regs.di` (x86-64) or `pt_regs.orig_x0` (arm64): the first argument of a system call
    OFF_REGS_FIRST;
    /// `pt_regs.si` (x86-64) or `pt_regs.regs[1]` (arm64): the second
    OFF_REGS_SECOND;
    /// `linux_binprm.file`
    OFF_BPRM_FILE;
    /// `file.f_path.dentry`
    OFF_FILE_DENTRY;
    /// `dentry.d_name.name`
    OFF_DENTRY_NAME;
    /// `dentry.d_parent`
    OFF_DENTRY_PARENT;
    /// `dentry.d_inode`
    OFF_DENTRY_INODE;
    /// `renamedata.old_dir`, or `renamedata.old_parent`
    OFF_RENAME_OLD;
    /// `renamedata.new_dir`, or `renamedata.new_parent`
    OFF_RENAME_NEW;
    /// 1 where these are dentries and no inodes
    RENAME_HAS_DENTRIES;
    /// The number of `read(2)`
    CALL_READ;
    /// The number of `inotify_add_watch(2)`
    CALL_WATCH;
    /// 1 where the agent traces: then a name counts in whatever directory it is opened, and a change is dated
    /// by when it began
    IS_TRACE;
}

/// Reads a member of a kernel structure that may not be there any more.
///
/// Gives `None` where the kernel has nothing at that address.
pub(crate) fn peek<T>(base: *const u8, offset: &Global<u32>) -> Option<T> {
    peek_at(base, offset.load() as usize)
}

/// As [`peek`], at an offset that is counted and not known from the BTF.
pub(crate) fn peek_at<T>(base: *const u8, offset: usize) -> Option<T> {
    // Wrapping, for a wild address is answered by the helper, not by undefined behaviour.
    let address = base.wrapping_add(offset).cast::<T>();
    // SAFETY: the helper checks the address itself, and fails where nothing is mapped.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// Reads a member of a kernel structure that the hook was given, without a helper call.
///
/// # Safety
///
/// `base` is a pointer that the verifier knows to be of the structure that `offset` belongs to: an
/// argument of the hook, or what this function read from one.
pub(crate) unsafe fn member<T: Copy>(base: *const u8, offset: &Global<u32>) -> T {
    // SAFETY: the caller says that the verifier knows the type; it refuses the program otherwise.
    let address = unsafe { base.add(offset.load() as usize) }.cast::<T>();
    // SAFETY: as above. The read is volatile, so that the compiler neither splits nor widens it:
    // the verifier wants the member whole.
    unsafe { address.read_volatile() }
}
