//! On a real Kubernetes the agent does what it says: as a sidecar, and as the agent of a node.
//!
//! `cargo xtask k8s` brings the cluster up and runs these, one at a time.

#![cfg(test)]

mod support;

/// By this name `cargo xtask test` tells those that need a cluster from others.
mod cluster {
    mod annotation;
    mod churn;
    mod event;
    mod hostile;
    mod nudge;
    mod overlay;
    mod server;
    mod sidecar;
    mod upheaval;
    mod volume;
}
