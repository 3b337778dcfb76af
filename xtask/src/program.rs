//! The C programs that chores run, compiled when they are needed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{exec, place::Place};

/// A program in C, carried by xtask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its source.
    pub(crate) source: &'static str,
}

impl Program {
    /// Compiles it, unless that has been done, and says where it is.
    ///
    /// # Errors
    ///
    /// Fails where it does not compile; the compiler has then said why.
    pub(crate) fn compile(self, place: &Place) -> Result<PathBuf> {
        let folder = place.target.join("programs");
        let source = folder.join(self.name).with_extension("c");
        let program = folder.join(self.name);
        let known = fs::read_to_string(&source).unwrap_or_default();
        if known == self.source && program.is_file() {
            return Ok(program);
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        // Removed before its source is renewed, so that an interrupted compiler leaves nothing
        // that looks up to date, and a running program is not written to.
        if program.exists() {
            fs::remove_file(&program)
                .with_context(|| format!("cannot remove {}", program.display()))?;
        }
        fs::write(&source, self.source)
            .with_context(|| format!("cannot write {}", source.display()))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(&source);
        exec(&mut compiler)?;
        Ok(program)
    }
}
