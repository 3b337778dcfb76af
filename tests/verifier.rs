//! How much the kernel's verifier has to look at until it accepts each program: far less than it would.
//!
//! `cargo xtask vm` makes docs/verifier.md of what is measured here.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, io::Write as _};

use nix::unistd::Pid;
use reload_userspace::source::{EbpfSource, Purpose};
use rustix::system::uname;
use serde_json::json;
use tokio::runtime::Builder;

use crate::support::{kernel::Objects, source::Source};

/// The verifier gives a program up after a million instructions, which it counts once for each way that
/// leads there (`BPF_COMPLEXITY_LIMIT_INSNS`, Linux 5.2). A hundredth leaves room for kernels that
/// look more closely.
const BUDGET: u32 = 10_000;

promise!(every_program_is_far_from_the_limit: ebpf);
fn every_program_is_far_from_the_limit(source: Source) {
    assert_eq!(source, Source::Ebpf);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    // With all that it may ever load.
    let _open = EbpfSource::open(Purpose::Trace, false).unwrap();

    let programs = Objects::of(Pid::this().as_raw()).programs();
    assert!(!programs.is_empty(), "a source that is open has no programs");
    let mut lines = String::new();
    let system = uname();
    let release = system.release().to_str().unwrap();
    for program in programs {
        let name = program.name_as_str().unwrap();
        let verified = program.verified_instruction_count();
        let verified = verified.expect("the kernel tells, Linux 5.16");
        println!("{name}: {verified}");
        assert!((1..BUDGET).contains(&verified), "{name}: {verified} instructions");
        let line = json!({ "program": name, "release": release, "verified": verified });
        lines.extend([line.to_string(), "\n".to_owned()]);
    }
    let Some(path) = std::env::var_os("RELOAD_VERIFIER") else { return };
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}
