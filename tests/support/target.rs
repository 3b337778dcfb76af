//! Processes to reload: `tests/programs/target.c` under a name of the test's own.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    lines::Lines,
    process::Process,
    program::{RESPAWN, SCRATCH, TARGET},
};

/// A program to start targets of.
///
/// Agents look at all processes of the machine, and tests run side by side, so the name is the
/// test's own unless the name is what is being tested.
#[derive(Debug)]
pub(crate) struct Recipe {
    name: String,
    home: TempDir,
    arguments: Vec<OsString>,
}

/// A name that no other process has, of at most 15 bytes.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("tgt{:x}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Recipe {
    /// A target that handles HUP.
    pub(crate) fn new() -> Self {
        Self::named(&unique_name())
    }

    /// The same, under this name.
    pub(crate) fn named(name: &str) -> Self {
        let home = tempfile::tempdir_in(SCRATCH).unwrap();
        // A link and not a copy: a file that is written cannot be run as long as a child that some
        // other test has just forked holds the descriptor (ETXTBSY).
        fs::hard_link(TARGET.path(), home.path().join(name)).unwrap();
        Self { name: name.to_owned(), home, arguments: Vec::new() }
    }

    /// It says what it finds there, when it starts and at each signal.
    pub(crate) fn reading(self, path: &Path) -> Self {
        self.with("--read", path)
    }

    /// `now`, `later` (when told to), `none`, or `ignore`; `signalfd` or `sigwait` in place of one; or
    /// `headless`, in a thread that outlives the first.
    pub(crate) fn handler(self, handler: &str) -> Self {
        self.with("--handler", handler)
    }

    /// Who reads upon a signal: `itself`, `late` (when told to), or a `child`, which then lives on.
    pub(crate) fn reader(self, reader: &str) -> Self {
        self.with("--reader", reader)
    }

    /// How it ends upon a signal, once it has read: `exit` or `late` (when told to) with exit status 3,
    /// or `crash`.
    pub(crate) fn end(self, end: &str) -> Self {
        self.with("--end", end)
    }

    /// It handles the signal of this number in place of HUP.
    pub(crate) fn signal(self, number: i32) -> Self {
        self.with("--signal", number.to_string())
    }

    /// It handles the signal of this number as well.
    pub(crate) fn other_signal(self, number: i32) -> Self {
        self.with("--other-signal", number.to_string())
    }

    /// It has so many children of its own name.
    pub(crate) fn workers(self, count: usize) -> Self {
        self.with("--workers", count.to_string())
    }

    fn with(mut self, option: &str, value: impl Into<OsString>) -> Self {
        self.arguments.push(option.into());
        self.arguments.push(value.into());
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The executable.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join(&self.name)
    }

    /// Its command line.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.path());
        command.args(&self.arguments);
        command
    }

    /// Starts one, and waits until it does what it is to do about signals.
    #[track_caller]
    pub(crate) fn start(&self) -> Running {
        let mut target = self.start_early();
        target.wait_until_ready();
        target
    }

    /// Starts one, and waits until it has read its configuration, but not for its handler.
    #[track_caller]
    pub(crate) fn start_early(&self) -> Running {
        Running::of(&self.name, &mut self.command())
    }

    /// Starts one that gets the pid that `gone` had.
    #[track_caller]
    pub(crate) fn start_in_place_of(&self, gone: &Gone) -> Running {
        let mut command = Command::new(RESPAWN.path());
        command.arg(gone.pid.to_string()).arg(self.path()).args(&self.arguments);
        let mut target = Running::of(&self.name, &mut command);
        assert_eq!(target.pid, gone.pid, "clone3 gave the pid that was asked for");
        target.wait_until_ready();
        target
    }
}

/// A target that was killed and reaped: its pid is free.
#[derive(Debug)]
pub(crate) struct Gone {
    pid: i32,
}

/// A signal that a target has handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handled {
    /// When its handler ran, in nanoseconds since boot.
    pub(crate) at_ns: u64,
    /// What it read then.
    pub(crate) content: String,
}

/// A target that runs.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    lines: Lines,
    /// The pid, in its own pid namespace.
    pub(crate) pid: i32,
    /// What it read when it started.
    pub(crate) content: String,
}

impl Running {
    /// Starts `command`, which becomes a target or has one as its child.
    #[track_caller]
    pub(crate) fn of(name: &str, command: &mut Command) -> Self {
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let lines = Lines::of(name, process.stdout.take().unwrap());
        Self::new(process, lines)
    }

    /// A target that prints on `lines` and lives no longer than `process`.
    #[track_caller]
    pub(crate) fn new(process: Process, mut lines: Lines) -> Self {
        let (pid, content) = lines.until("started", |line| {
            let (pid, content) = line.strip_prefix("started ")?.split_once(' ')?;
            Some((pid.parse().unwrap(), content.to_owned()))
        });
        Self { process, lines, pid, content }
    }

    #[track_caller]
    pub(crate) fn wait_until_ready(&mut self) {
        self.lines.until("ready", |line| line.starts_with("ready ").then_some(()));
    }

    /// Lets a target whose handler comes `later` install it.
    #[track_caller]
    pub(crate) fn install_handler(&mut self) {
        self.go_on();
        self.wait_until_ready();
    }

    /// Lets one that waits to be told so go on.
    #[track_caller]
    pub(crate) fn go_on(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Takes the next signal that it has handled.
    #[track_caller]
    pub(crate) fn signal(&mut self) -> Handled {
        self.lines.until("signal", parse)
    }

    /// Takes signals up to the one upon which it read `content`.
    #[track_caller]
    pub(crate) fn signals_until(&mut self, content: &str) -> Vec<Handled> {
        let mut handled = Vec::new();
        self.lines.until(content, |line| {
            handled.push(parse(line)?);
            handled.last().filter(|signal| signal.content == content).map(drop)
        });
        handled
    }

    /// Takes the next signal that it has handled, or gives `None` where there is none in time.
    pub(crate) fn signal_within(&mut self, time: Duration) -> Option<Handled> {
        self.lines.within(time, parse)
    }

    /// The signals that it has handled and that nobody has taken yet.
    pub(crate) fn signals_at_hand(&mut self) -> Vec<Handled> {
        self.lines.at_hand().iter().filter_map(|line| parse(line)).collect()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// Kills and reaps it.
    pub(crate) fn kill(self) -> Gone {
        Gone { pid: self.pid }
    }
}

fn parse(line: &str) -> Option<Handled> {
    assert!(!line.starts_with("worker-signal"), "a worker was signalled: {line}");
    let (at_ns, content) = line.strip_prefix("signal ")?.split_once(' ')?;
    Some(Handled { at_ns: at_ns.parse().unwrap(), content: content.to_owned() })
}
