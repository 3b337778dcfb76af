//! The programs in C that the tests run, compiled when they are first needed.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use super::process::run;

/// A directory for what must lie on the same filesystem as the programs.
pub(crate) const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

/// Compiled one at a time, for tests run side by side.
static COMPILER: Mutex<()> = Mutex::new(());

/// One of the programs of `tests/programs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    name: &'static str,
    source: &'static str,
}

pub(crate) const TARGET: Program =
    Program { name: "target", source: include_str!("../programs/target.c") };
pub(crate) const WRITER: Program =
    Program { name: "writer", source: include_str!("../programs/writer.c") };
pub(crate) const RESPAWN: Program =
    Program { name: "respawn", source: include_str!("../programs/respawn.c") };

pub(crate) const HALT: Program =
    Program { name: "halt", source: include_str!("../programs/halt.c") };
pub(crate) const REFUSE: Program =
    Program { name: "refuse", source: include_str!("../programs/refuse.c") };

pub(crate) const READER: Program =
    Program { name: "reader", source: include_str!("../programs/reader.c") };

pub(crate) const TIMER: Program =
    Program { name: "timer", source: include_str!("../programs/timer.c") };

/// All of them.
pub(crate) const ALL: [Program; 7] = [TARGET, WRITER, RESPAWN, HALT, REFUSE, READER, TIMER];

impl Program {
    /// Where the compiled program is.
    ///
    /// It is kept under a name made of its source: another source is another program, and what was
    /// compiled once is never written to again while it may run.
    pub(crate) fn path(self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.source.hash(&mut hasher);
        let home = Path::new(SCRATCH).join(format!("programs-{:016x}", hasher.finish()));
        let path = home.join(self.name);
        // A test that failed while it compiled has left nothing half-done behind.
        let _one_at_a_time = COMPILER.lock().unwrap_or_else(PoisonError::into_inner);
        if !path.exists() {
            fs::create_dir_all(&home).unwrap();
            let draft = tempfile::tempdir_in(SCRATCH).unwrap();
            let source = draft.path().join("source.c");
            let compiled = draft.path().join(self.name);
            fs::write(&source, self.source).unwrap();
            let mut cc = Command::new("cc");
            run(cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).args([&compiled, &source]));
            fs::rename(compiled, &path).unwrap();
        }
        path
    }
}
