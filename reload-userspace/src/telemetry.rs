//! What other machines ask the agent: metrics, and whether it is well.
//!
//! Without `--listen` none of it exists. With it, whoever asks is answered by a thread of its own,
//! so that no client, however slow or many, delays a reload: the loop only moves counters, and
//! answers the canary's question at most once a second.

mod health;
mod metrics;
mod series;
mod server;
mod teller;
mod text;

pub use self::{
    health::{Health, Probe, Probes, Readiness},
    metrics::Metrics,
    series::Confirms,
    server::{Server, ServerError},
    teller::{Heard, Herald, Teller, herald},
};
