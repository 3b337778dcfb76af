//! Embeds the eBPF object that `cargo xtask build` has made, where there is one, and the commit.
//!
//! Without `RELOAD_EBPF_OBJECT`, as in an editor or a plain `cargo build`, the agent is built without
//! it, and says so when it is asked for the source `ebpf`.

use std::{env, path::Path, process::Command};

/// The path of the eBPF object.
const OBJECT: &str = "RELOAD_EBPF_OBJECT";

/// The commit that is built, where git cannot be asked, and for the source: `env!` takes it.
const COMMIT: &str = "RELOAD_COMMIT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rustc-check-cfg=cfg(ebpf_object)");
    if let Some(path) = env::var_os(OBJECT) {
        println!("cargo::rerun-if-changed={}", path.display());
        println!("cargo::rustc-cfg=ebpf_object");
    }

    println!("cargo::rerun-if-env-changed={COMMIT}");
    // Without a line of this kind cargo runs a build script for every change of any file.
    println!("cargo::rerun-if-changed=build.rs");
    let given = env::var(COMMIT).ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(commit).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env={COMMIT}={commit}");
}

/// Asks git for the commit that is checked out, and has cargo ask again when that is another one.
///
/// Whether files differ from it is not told, for no file says when that changes.
fn commit() -> Option<String> {
    let root = Path::new("..").canonicalize().ok()?;
    // The source may have been unpacked in the middle of another repository.
    if git(&["rev-parse", "--show-toplevel"])?.as_str() != root.to_str()? {
        return None;
    }
    // The log of HEAD grows with every commit, checkout and rebase. Where git keeps no logs, HEAD
    // and its branch tell, as long as the branch is not packed.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"])?;
    let tells = ["logs/HEAD", "HEAD", &branch].map(|name| git(&["rev-parse", "--git-path", name]));
    let files = tells.into_iter().flatten().filter(|file| Path::new(file).is_file());
    // A file that is not there would make cargo run this every time.
    files.for_each(|file| println!("cargo::rerun-if-changed={file}"));
    git(&["rev-parse", "HEAD"])
}

/// What git prints; `None` where it is missing or fails, which is a normal answer.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
