//! Reload a process when its configuration has changed.
//!
//! The modules, in the order in which an event passes them:
//!
//! ```text
//!  kernel ──► source ──► watch ──► settle ──► content ──► delivery ──► preflight ──► signal ──► confirm
//!  records    events     which     is it      is it       who is       is it safe?   exec       did it
//!                        files?    complete?  different?  owed what?                 post       take?
//!             └──────────────────────────── agent ────────────────────────────────────────────────┘──► report, ledger
//! ```
//!
//! `rule` says what is wanted, `agent` drives, and everything else knows nothing of its neighbours.
//! Which module may name which is a table in `xtask/src/tidy/import.rs`.

pub mod agent;

mod places;

mod watched;

pub mod witness;

pub mod source;

pub mod filesystem;

pub mod reach;

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

pub mod rights;

pub mod cli;

pub mod trace;

pub mod node;

pub mod doctor;

pub mod explain;

pub mod event;

pub mod clock;

pub mod timeout;

pub mod mount;

pub mod sys;
