//! Reload a process when its configuration has changed.
//!
//! The modules, in the order in which an event passes them:
//!
//! ```text
//!  kernel ──► source ──► watch ──► settle ──► content ──► target ──► preflight ──► signal
//!  records    events     which     is it      is it       whom?      is it safe?
//!                        files?    complete?  different?
//!             └───────────────────────────── agent ──────────────────────────────┘──► report
//! ```
//!
//! `rule` says what is wanted, `agent` drives, and everything else knows nothing of its neighbours.
//! Which module may name which is a table in `xtask/src/tidy/import.rs`.

pub mod agent;

pub mod source;

pub mod filesystem;

pub mod watch;

pub mod settle;

pub mod content;

pub mod target;

pub mod delivery;

pub mod preflight;

pub mod confirm;

pub mod ledger;

pub mod child;

pub mod report;

pub mod telemetry;

pub mod post;

pub mod rule;

pub mod cli;

pub mod doctor;

pub mod explain;

pub mod event;

pub mod clock;

pub mod mount;

pub mod sys;
