//! Who reads from a queue of notifications, and who has something watched.

use aya_ebpf::{
    cty::c_void, helpers::generated::bpf_probe_read_user, maps::ring_buf::RingBufEntry,
    programs::BtfTracePointContext,
};
use reload_ebpf::{Hook, NEWS_LEN, Queue, ReadRecord, RecordKind, WatchRecord};

use crate::{
    emit::{Priority, current, emit, fill, header, is_own},
    learn,
    maps::QUEUES,
    offsets::{
        CALL_READ, CALL_WATCH, OFF_FILE_OPERATIONS, OFF_REGS_FIRST, OFF_REGS_SECOND,
        OFF_REGS_SYSCALL, member, peek,
    },
};

/// How many bytes an event has at least (`struct inotify_event`; one of fanotify has more).
const LEAST: u32 = 16;

/// What is sent: on the stack there is no room for it.
#[repr(C)]
struct Told {
    record: ReadRecord,
    news: [u8; NEWS_LEN as usize],
}

/// Sends a [`ReadRecord`] if a system call has read from a queue, and a [`WatchRecord`] if it has added a watch.
#[inline]
pub(crate) fn returned(ctx: &BtfTracePointContext) {
    let registers: *const u8 = ctx.arg(0);
    // SAFETY: the first argument is a `struct pt_regs`. Four bytes: all there are on arm64, and the lower ones
    // of eight on x86-64.
    let call: u32 = unsafe { member(registers, &OFF_REGS_SYSCALL) };
    // Most calls are others, and most of the rest have to do with files: the descriptor is followed last.
    let Ok(returned) = u32::try_from(ctx.arg::<i64>(1)) else {
        return;
    };
    if call == CALL_READ.load() && returned >= LEAST {
        read(ctx, registers, returned);
    } else if call == CALL_WATCH.load() {
        watched(ctx, registers, returned);
    }
}

#[inline]
fn read(ctx: &BtfTracePointContext, registers: *const u8, length: u32) {
    // SAFETY: the caller has the registers of the hook. A descriptor is their lower half.
    let descriptor: u32 = unsafe { member(registers, &OFF_REGS_FIRST) };
    let file = learn::file(current(), descriptor as usize);
    let operations = file.and_then(|file| peek(file, &OFF_FILE_OPERATIONS));
    let Some(queue) = operations.and_then(queue) else {
        return;
    };
    if is_own() {
        return;
    }
    // SAFETY: as above.
    let buffer: *const c_void = unsafe { member(registers, &OFF_REGS_SECOND) };
    let header = header(ctx, RecordKind::Read);
    fill(ctx, Hook::Queue, Priority::Repeated, |slot: &mut RingBufEntry<Told>| {
        let told = length.min(NEWS_LEN);
        // SAFETY: the pointer is of the slot, which is as large.
        let news = unsafe { &raw mut (*slot.as_mut_ptr()).news };
        // SAFETY: the helper checks the address in the process itself, and writes no more than there is room for.
        let failure = unsafe { bpf_probe_read_user(news.cast(), told, buffer) };
        let told = if failure == 0 { told } else { 0 };
        let record = ReadRecord { header, descriptor, queue: queue as u32, length, told };
        // SAFETY: as above.
        unsafe { slot.as_mut_ptr().cast::<ReadRecord>().write(record) };
    });
}

#[inline]
fn watched(ctx: &BtfTracePointContext, registers: *const u8, watch: u32) {
    if is_own() {
        return;
    }
    // SAFETY: the caller has the registers of the hook.
    let descriptor: u32 = unsafe { member(registers, &OFF_REGS_FIRST) };
    let header = header(ctx, RecordKind::Watch);
    let record = WatchRecord { header, descriptor, watch };
    emit(ctx, record, Hook::Queue, Priority::Repeated, || ());
}

/// Which queue a file with these operations is, if any.
fn queue(operations: u64) -> Option<Queue> {
    let is = |queue: Queue| QUEUES.get(queue as u32).is_some_and(|&known| known == operations);
    if operations == 0 {
        return None;
    }
    [Queue::Inotify, Queue::Fanotify].into_iter().find(|&queue| is(queue))
}
