//! The only `unsafe` of the agent, and what else speaks to the kernel without a word of our own.
//!
//! **Invariant:** what this module exports is safe for every argument.

#![expect(
    unsafe_code,
    reason = "calls that cannot know what their argument is, and one of the allocator"
)]

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
    thread::CapabilitySet,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The capabilities that are effective now; none where the kernel does not say.
#[must_use]
pub fn effective_capabilities() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
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
    let _has_released = unsafe { nix::libc::malloc_trim(0) };
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
