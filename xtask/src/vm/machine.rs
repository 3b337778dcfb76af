//! A virtual machine: QEMU with a kernel and an archive, which it does not outlive.
//!
//! Its processor is emulated, for then it runs wherever QEMU does; a kernel is there in ten seconds.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::Receiver,
};

use anyhow::{Context as _, Result, bail};

use super::kernel::{Kernel, Line};
use crate::child::{Ask, Child, lines};

/// What its processor is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processor {
    /// Two, emulated by one thread.
    ///
    /// With a thread for each, one may go on with code that the other has replaced, and trampolines
    /// replace the kernel's (an oops of `int3`, a processor that never goes on; QEMU 7.2). The machine
    /// that this runs on has another kernel for its other processor.
    Fast,
    /// One whose clock goes on by a nanosecond with each instruction, whatever it is: what a program takes
    /// for the time is the number of instructions, which does not depend on this machine.
    Counting,
}

impl Processor {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Fast => &["-accel", "tcg,thread=single", "-smp", "2"],
            Self::Counting => &["-accel", "tcg,thread=single", "-icount", "shift=0", "-smp", "1"],
        }
    }
}

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Machine {
    line: Line,
    child: Child,
    output: Receiver<String>,
    log: File,
    log_path: PathBuf,
    report: PathBuf,
}

impl Machine {
    /// Starts a kernel with this archive. What it says goes to the file `log` as well, and what it reports
    /// to one in `folder`.
    ///
    /// # Errors
    ///
    /// Fails where QEMU does not start.
    pub(crate) fn start(
        line: Line,
        kernel: &Kernel,
        processor: Processor,
        archive: &Path,
        folder: &Path,
        log: PathBuf,
    ) -> Result<Self> {
        let report = folder.join(format!("report-{line}"));
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "q35", "-cpu", "max"]).args(processor.arguments());
        qemu.args(["-m", "3072", "-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(archive);
        // A kernel that panics restarts the machine at once, which `-no-reboot` makes its end.
        qemu.args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1"]);
        qemu.args(["-serial", "stdio", "-serial"]).arg(format!("file:{}", report.display()));
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut qemu, Ask::Signal)?;
        let output = child.pipes().stdout.take().context("QEMU has no output")?;
        Ok(Self { line, child, output: lines(output), log: file, log_path: log, report })
    }

    /// Passes on what the machine has said, and tells whether it has ended.
    ///
    /// # Errors
    ///
    /// Fails where the log cannot be written.
    pub(crate) fn look(&mut self) -> Result<bool> {
        // Asked first: what it said last is then there.
        let has_ended = self.child.ended()?.is_some();
        for text in self.output.try_iter() {
            self.tell(&text)?;
        }
        if has_ended {
            // Until its end of the pipe is closed, which it has been.
            for text in &self.output {
                self.tell(&text)?;
            }
        }
        Ok(has_ended)
    }

    fn tell(&self, text: &str) -> Result<()> {
        let text = text.trim_end_matches('\r');
        println!("{:>4} │ {text}", self.line.to_string());
        writeln!(&self.log, "{text}")
            .with_context(|| format!("cannot write {}", self.log_path.display()))
    }

    /// Says how it ended, and gives what the tests have measured: files by name.
    ///
    /// # Errors
    ///
    /// Fails where a test has failed, and where the machine ended without a word.
    pub(crate) fn result(&self) -> Result<BTreeMap<String, String>> {
        let Self { line, log_path, report, .. } = self;
        let text = fs::read(report).unwrap_or_default();
        let mut files = parse(&String::from_utf8_lossy(&text));
        match files.remove("status").as_deref().map(str::trim) {
            Some("0") => Ok(files),
            Some(_) => {
                bail!("it failed on Linux {line}; all that was said is in {}", log_path.display())
            }
            None => bail!(
                "the machine with Linux {line} ended before it was done; its last words are in {}",
                log_path.display(),
            ),
        }
    }
}

/// Reads a report: files, each after a line with its name. Nothing where its end is missing.
fn parse(report: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut name = None;
    for line in report.lines() {
        match (line.strip_prefix("== "), &name) {
            (Some("end"), _) => return files,
            (Some(next), _) => {
                files.insert(next.to_owned(), String::new());
                name = Some(next.to_owned());
            }
            (None, Some(name)) => {
                if let Some(text) = files.get_mut(name) {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            (None, None) => {}
        }
    }
    BTreeMap::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_files_one_after_the_other() {
        let whole = "== coverage\r\n{}\r\n{}\r\n== status\r\n1\r\n== end\r\n";
        let files = parse(whole);
        assert_eq!(files["coverage"], "{}\n{}\n");
        assert_eq!(files["status"], "1\n");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn a_report_without_its_end_says_nothing() {
        assert_eq!(parse("== coverage\n{}\n== status\n0\n"), BTreeMap::new());
        assert_eq!(parse(""), BTreeMap::new());
    }
}
