//! How the kernel sees a file that the agent has open, and the agent itself.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use reload_ebpf::{Answer, Key, NO_PLACE, Observer, Refusal};

use crate::{
    emit::number_at,
    maps::{ANSWER, ARMED, OBSERVER, PLACES},
    offsets::{
        OFF_FDT_FD, OFF_FILE_INODE, OFF_FILE_OPERATIONS, OFF_FILES_FDT, OFF_INODE_INO,
        OFF_INODE_SB, OFF_INODE_WRITECOUNT, OFF_PID_LEVEL, OFF_SB_DEV, OFF_TASK_FILES,
        OFF_TASK_LEADER, OFF_TASK_PID, OFF_UPID_NS, peek, peek_at,
    },
};

/// Finds the file behind a descriptor, the first argument, and says how many have it open for writing.
///
/// Where the second argument is a place, the file is watched as that from here on, armed as the third
/// says. The writers are counted after that, so that none who comes later goes unnoticed.
///
/// The [`Answer`] is left in a map, for aya keeps what a program returns to itself. The agent's own
/// identity is learned on the way: both are read in the agent's context, and nothing else would know
/// its pid in the initial namespace.
pub(crate) fn inode(ctx: &RawTracePointContext) {
    // SAFETY: the helper takes no argument and every tracing program may call it.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    if let Some(observer) = observer(task) {
        store(OBSERVER.get_ptr_mut(0), observer);
    }
    let answer = answer(task, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    debug!(ctx, "a file asked for has {} writers", answer.writers);
    store(ANSWER.get_ptr_mut(0), answer);
}

fn answer(task: *const u8, descriptor: usize, place: u32, armed: u32) -> Answer {
    let refused = |refusal| Answer { writers: refusal as i64, ..Answer::default() };
    let file = file(task, descriptor);
    let inode = file.and_then(|file| peek(file, &OFF_FILE_INODE));
    let operations = file.and_then(|file| peek(file, &OFF_FILE_OPERATIONS)).unwrap_or(0);
    let Some(inode) = inode else {
        return refused(Refusal::Unknown);
    };
    let Some(key) = key(inode) else {
        return refused(Refusal::Unknown);
    };
    if place != NO_PLACE {
        // Armed first, so that its changes count as soon as the key and its superblock are known.
        store(ARMED.get_ptr_mut(place), armed);
        if PLACES.insert(key, place, 0).is_err() {
            return refused(Refusal::Full);
        }
    }
    let Some(writers) = peek::<i32>(inode, &OFF_INODE_WRITECOUNT) else {
        return refused(Refusal::Unknown);
    };
    // While a file is executed the count is negative: nobody can write to it.
    Answer { key, writers: i64::from(writers.max(0)), operations }
}

/// The `struct file` behind a descriptor of a task.
pub(crate) fn file(task: *const u8, descriptor: usize) -> Option<*const u8> {
    let files: *const u8 = peek(task, &OFF_TASK_FILES)?;
    let table: *const u8 = peek(files, &OFF_FILES_FDT)?;
    let slots: *const u8 = peek(table, &OFF_FDT_FD)?;
    peek_at(slots, descriptor * size_of::<*const u8>())
}

/// The key of an inode that may not be there any more.
pub(crate) fn key(inode: *const u8) -> Option<Key> {
    let number = peek(inode, &OFF_INODE_INO)?;
    let superblock: *const u8 = peek(inode, &OFF_INODE_SB)?;
    let device: u32 = peek(superblock, &OFF_SB_DEV)?;
    Some(Key { inode: number, device: u64::from(device) })
}

fn observer(task: *const u8) -> Option<Observer> {
    let leader: *const u8 = peek(task, &OFF_TASK_LEADER)?;
    let pid: *const u8 = peek(leader, &OFF_TASK_PID)?;
    let level: u32 = peek(pid, &OFF_PID_LEVEL)?;
    let namespace: u64 = peek(number_at(pid, level), &OFF_UPID_NS)?;
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    Some(Observer { namespace, level, tgid })
}

fn store<T>(slot: Option<*mut T>, value: T) {
    if let Some(slot) = slot {
        // SAFETY: the pointer is of a map value, aligned and alive as long as the map; only the
        // agent's one thread runs this program.
        unsafe { slot.write(value) };
    }
}
