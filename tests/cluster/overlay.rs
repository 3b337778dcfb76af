//! What `deploy/daemonset` has is what a real API server takes.

use crate::support::{
    cluster::try_feed,
    daemon::{Daemon, manifests},
};

#[test]
#[ignore = "needs a cluster; `cargo xtask k8s` runs it"]
fn every_overlay_is_taken_by_the_server() {
    // With its namespace, without which the server refuses the rest even to try.
    let _daemon = Daemon::install("base");
    for folder in ["base", "overlays/nudge", "overlays/checks", "overlays/no-ebpf"] {
        let arguments = ["apply", "--dry-run=server", "--filename=-"];
        let said = try_feed(&arguments, &manifests(folder)).unwrap_or_else(|error| {
            panic!("{folder}: {error}");
        });
        assert!(said.contains("daemonset.apps/reload-agent "), "{folder}: {said}");
    }
}
