//! What crosses between the eBPF program and the agent, compiled once for each half.
//!
//! This library knows neither the kernel nor aya: plain `no_std`, so that it builds on any host.

#![no_std]

mod abi;

pub use abi::{
    Answer, Armed, Begun, CANARY, COMM_LEN, ChangeRecord, DeliveryRecord, ForkRecord, Hook, Key,
    MAX_BEGUN, MAX_EXPECTED_NAMES, MAX_NAMES, MAX_PLACES, NAME_LEN, NAMES_EXPECTED, NEWS_LEN,
    NO_PLACE, NO_SYSCALL, Name, Observer, OpenRecord, ProcessRecord, Queue, ReadRecord,
    RecordHeader, RecordKind, Refusal, SUPERBLOCK_WORDS, SYSCALLS, SignalRecord, WatchRecord,
    superblock_slot,
};
