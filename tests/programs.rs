//! The C programs that tests run compile here, without a warning.
//!
//! `cargo xtask vm` runs this first: in its machines they have to be there.

#![cfg(test)]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use crate::support::program::ALL;

#[test]
fn they_compile() {
    for program in ALL {
        let path = program.path();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{} can be run", path.display());
    }
}
