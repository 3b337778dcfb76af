//! Reload a process when its configuration has changed, and prove that it took.

pub mod agent;
pub mod cli;
pub mod content;
pub mod doctor;
pub mod event;
pub mod preflight;
pub mod report;
pub mod rule;
pub mod settle;
pub mod source;
pub mod sys;
pub mod target;
pub mod watch;
