//! A place in a shell script where it waits until the test lets it go on.

use std::{fs::File, io::Write as _, path::Path};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::lines::Lines;

/// A gate of two FIFOs: at one a script says that it has come, at the other it waits.
#[derive(Debug)]
pub(crate) struct Gate {
    arrivals: Lines,
    bell: File,
    script: String,
}

impl Gate {
    /// Makes one in a directory.
    pub(crate) fn new(dir: &Path) -> Self {
        let [arrivals, bell] = ["arrivals", "bell"].map(|name| dir.join(name));
        let open = |path: &Path| {
            mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap();
            // For both, so that neither side waits for the other to open it.
            File::options().read(true).write(true).open(path).unwrap()
        };
        let (lines, opened) = (Lines::of("gate", open(&arrivals)), open(&bell));
        let (arrivals_path, bell_path) = (arrivals.display(), bell.display());
        let script = format!("echo $said > {arrivals_path}; read go < {bell_path}");
        Self { arrivals: lines, bell: opened, script }
    }

    /// A script that sets `$said` to what it has to say, and waits here.
    pub(crate) fn script(&self) -> &str {
        &self.script
    }

    /// Waits for the next to come, and gives what it has said.
    #[track_caller]
    pub(crate) fn arrival(&mut self) -> String {
        self.arrivals.until("somebody comes to the gate", |line| Some(line.to_owned()))
    }

    /// What those have said who have come and were not waited for.
    pub(crate) fn arrivals_at_hand(&mut self) -> Vec<String> {
        self.arrivals.at_hand()
    }

    /// Lets one go on.
    pub(crate) fn open(&mut self) {
        self.bell.write_all(b"go\n").unwrap();
    }
}
