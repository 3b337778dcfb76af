//! The way of a record into the ring.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task,
        generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_query},
    },
    maps::ring_buf::RingBufEntry,
};
use aya_log_ebpf::debug;
use reload_ebpf::{COMM_LEN, Hook, RecordHeader, RecordKind};

use crate::{
    maps::{DROPPED, OBSERVER, RECORDS, RING_BYTES},
    offsets::{
        OFF_PID_LEVEL, OFF_PID_NUMBERS, OFF_TASK_LEADER, OFF_TASK_PID, OFF_UPID_NR, OFF_UPID_NS,
        SIZE_UPID, peek,
    },
};

/// Which records still find room when the ring runs full.
///
/// Each kind leaves room for those after it: the busiest writer takes nothing from a rename, and both
/// nothing from an exec.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// What is followed by more, or is worth less: a write is followed by a close, and an open is evidence
    /// and no change.
    Repeated,
    /// What happens once, but can be found by looking.
    Change,
    /// What nobody could find out later: processes.
    Process,
}

impl Priority {
    /// How many bytes may wait in the ring already.
    const fn limit(self) -> u64 {
        match self {
            Self::Repeated => RING_BYTES as u64 / 2,
            Self::Change => RING_BYTES as u64 / 4 * 3,
            Self::Process => u64::MAX,
        }
    }
}

/// Sends `record` to the agent, or counts it as dropped where the ring has no room for it.
///
/// `reserved` is called once there is room, before the agent can see the record. A full ring never
/// blocks the process that is being traced.
#[inline]
pub(crate) fn emit<T: 'static>(
    ctx: &impl EbpfContext,
    record: T,
    hook: Hook,
    priority: Priority,
    reserved: impl FnOnce(),
) {
    fill(ctx, hook, priority, |slot: &mut RingBufEntry<T>| {
        slot.write(record);
        reserved();
    });
}

/// As [`emit`], of a record that is too large for the stack: it is written where it is to be.
#[inline]
pub(crate) fn fill<T: 'static>(
    ctx: &impl EbpfContext,
    hook: Hook,
    priority: Priority,
    write: impl FnOnce(&mut RingBufEntry<T>),
) {
    /// How many bytes wait in the ring (`BPF_RB_AVAIL_DATA`).
    const WAITING: u64 = 0;
    // SAFETY: the helper reads the ring's own counters.
    let waiting = unsafe { bpf_ringbuf_query((&raw const RECORDS).cast_mut().cast(), WAITING) };
    let is_spared = waiting > priority.limit();
    let slot = if is_spared { None } else { RECORDS.reserve::<T>(0) };
    let Some(mut slot) = slot else {
        count_drop(hook);
        debug!(ctx, "the ring is full: hook {} dropped a record", hook as u32);
        return;
    };
    write(&mut slot);
    slot.submit(0);
    debug!(ctx, "hook {} sent a record", hook as u32);
}

/// The header of a record on what the current task does.
#[inline]
pub(crate) fn header(ctx: &impl EbpfContext, kind: RecordKind) -> RecordHeader {
    // SAFETY: the helper takes no argument and every tracing program may call it (Linux 5.8).
    let boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    RecordHeader {
        boot_ns,
        kind: kind as u32,
        pid: visible_pid(current()).unwrap_or(0),
        // The helper fails only on a null buffer. An empty name still says that it happened.
        comm: ctx.command().unwrap_or([0; COMM_LEN]),
    }
}

/// Whether the agent itself is the process that acts.
pub(crate) fn is_own() -> bool {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    OBSERVER.get(0).is_some_and(|observer| observer.tgid == tgid)
}

/// The current task, a `struct task_struct`.
pub(crate) fn current() -> *const u8 {
    // SAFETY: the helper takes no argument and every tracing program may call it.
    unsafe { bpf_get_current_task() as *const u8 }
}

/// The process of a task as the agent's pid namespace numbers it, or `None` where it is not in there.
pub(crate) fn visible_pid(task: *const u8) -> Option<u32> {
    let observer = OBSERVER.get(0)?;
    let leader: *const u8 = peek(task, &OFF_TASK_LEADER)?;
    let pid: *const u8 = peek(leader, &OFF_TASK_PID)?;
    let level: u32 = peek(pid, &OFF_PID_LEVEL)?;
    if level < observer.level {
        return None;
    }
    let upid = number_at(pid, observer.level);
    let namespace: u64 = peek(upid, &OFF_UPID_NS)?;
    if namespace == observer.namespace { peek(upid, &OFF_UPID_NR) } else { None }
}

/// Where a `struct pid` keeps its number in the namespace at `level`.
pub(crate) fn number_at(pid: *const u8, level: u32) -> *const u8 {
    let offset = OFF_PID_NUMBERS.load() + level * SIZE_UPID.load();
    pid.wrapping_add(offset as usize)
}

fn count_drop(hook: Hook) {
    let Some(dropped) = DROPPED.get_ptr_mut(hook as u32) else {
        return;
    };
    // SAFETY: the map gave this CPU's own slot, aligned for a `u64` and alive as long as the map.
    // A tracing program is not migrated, and one that interrupts us can at worst lose one count.
    unsafe { *dropped += 1 };
}
