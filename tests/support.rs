//! What the end-to-end tests share: the agent, sources, targets and writers, filesystems, the kubelet,
//! nginx, containers, the cluster.
//!
//! Nothing here sleeps to let something happen: a test waits for a line or a state, with a deadline.
//! That *nothing* happens is proved by a fence: one more change whose outcome is known, and a look at
//! all that came before it.

#![expect(dead_code, reason = "each file of tests uses its own part of this")]

pub(crate) mod agent;
pub(crate) mod chart;
pub(crate) mod checkout;
pub(crate) mod cluster;
pub(crate) mod daemon;
pub(crate) mod docker;
pub(crate) mod doctor;
pub(crate) mod filesystem;
pub(crate) mod gate;
pub(crate) mod http;
pub(crate) mod kernel;
pub(crate) mod kubelet;
pub(crate) mod lines;
pub(crate) mod listener;
pub(crate) mod manifest;
pub(crate) mod nginx;
pub(crate) mod pod;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod rules;
pub(crate) mod server;
pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod time;
pub(crate) mod trace;
pub(crate) mod way;
pub(crate) mod writer;
