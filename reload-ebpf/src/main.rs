//! The eBPF program: one entry point per kernel hook, and nothing else.
//!
//! An entry point names its hook, says what the kernel promises there, and calls the module that
//! does the work. Reading this file, `tracepoint.rs` and `trampoline.rs` tells what the agent sees of
//! the machine: the first has what both strategies load, the others what is a strategy's own.

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "eBPF helpers and map values are raw pointers to the kernel's memory"
)]
#![expect(clippy::needless_pass_by_value, reason = "the hook macros pass the context by value")]

mod begun;
mod change;
mod emit;
mod learn;
mod maps;
mod offsets;
mod open;
mod place;
mod process;
mod queue;
mod tracepoint;
mod trampoline;

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use reload_ebpf::{Hook, RecordKind};

/// A process replaced its image, so what we know of that pid is out of date.
///
/// Hook: `sched_process_exec`. It fires in the process that called `execve`, after the point of no
/// return, so the current pid is the one that a signal would reach. It does not fire for an exec
/// that failed.
#[btf_tracepoint]
fn on_exec(ctx: BtfTracePointContext) -> i32 {
    process::record(&ctx, Hook::Exec, RecordKind::Exec);
    0
}

/// A task ended.
///
/// Hook: `sched_process_exit`. It fires for every thread; only that of the whole process, the thread
/// group's leader, is recorded.
#[btf_tracepoint]
fn on_exit(ctx: BtfTracePointContext) -> i32 {
    process::record(&ctx, Hook::Exit, RecordKind::Exit);
    0
}

/// A task made another.
///
/// Hook: `sched_process_fork(parent, child)`, in the parent, when the child has its number and does not
/// run yet. Attached only where that is to be told.
#[btf_tracepoint]
fn on_fork(ctx: BtfTracePointContext) -> i32 {
    process::fork(&ctx);
    0
}

/// A signal was made for a task.
///
/// Hook: `signal_generate(signal, info, task, group, result)`, in whoever sends it, also where it comes to
/// nothing. Attached only where that is to be told.
#[btf_tracepoint]
fn on_signal(ctx: BtfTracePointContext) -> i32 {
    process::signal(&ctx);
    0
}

/// A task takes a signal.
///
/// Hook: `signal_deliver(signal, info, action)`, in the task, before it does what it does with it. A signal
/// that somebody waits for (`sigwait(2)`, `signalfd(2)`) does not come here. Attached only where that is
/// to be told.
#[btf_tracepoint]
fn on_deliver(ctx: BtfTracePointContext) -> i32 {
    process::deliver(&ctx);
    0
}

/// A system call is done: one that opens a file tells whether a target has read its configuration.
///
/// Hook: `sys_exit(regs, ret)`. What `io_uring` opens does not come here. Attached only where that is to be
/// told, and no function can be hooked that every open passes.
#[btf_tracepoint]
fn on_opened(ctx: BtfTracePointContext) -> i32 {
    open::returned(&ctx);
    0
}

/// A system call is done: one that reads from a queue of inotify or fanotify tells that somebody has noticed a
/// change, and one that adds a watch to the first of what he will.
///
/// Hook: `sys_exit(regs, ret)`, as above. What `io_uring` reads does not come here. Attached only where that is
/// to be told.
#[btf_tracepoint]
fn on_queue(ctx: BtfTracePointContext) -> i32 {
    queue::returned(&ctx);
    0
}

/// Tells the agent how the kernel sees the file behind one of the agent's own descriptors.
///
/// Never attached: the agent runs it with `BPF_PROG_TEST_RUN` (Linux 5.10), in its own context, with
/// the descriptor as an argument. It leaves in `ANSWER` how many have the file open for writing
/// (`inode.i_writecount`), and watches the file if it is told to.
#[raw_tracepoint]
fn learn(ctx: RawTracePointContext) -> i32 {
    learn::inode(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses an endless loop: a panic that can be reached fails at load, not at run.
    loop {}
}

/// The kernel grants GPL-only helpers by this string.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
