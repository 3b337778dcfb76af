//! Embeds the eBPF object that `cargo xtask build` has made, where there is one.
//!
//! Without `RELOAD_EBPF_OBJECT`, as in an editor or a plain `cargo build`, the agent is built without
//! it, and says so when it is asked for the source `ebpf`.

use std::env;

/// The path of the eBPF object.
const OBJECT: &str = "RELOAD_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rustc-check-cfg=cfg(ebpf_object)");
    if let Some(path) = env::var_os(OBJECT) {
        println!("cargo::rerun-if-changed={}", path.display());
        println!("cargo::rustc-cfg=ebpf_object");
    }
}
