//! What the agent tells: one line for every decision that an operator may ask about. In text, what a
//! command has written follows below its line.

mod paths;
mod text;

pub use self::paths::Paths;
pub(crate) use text::speaks;
pub use text::{one_line, sentence};

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use serde::{Serialize, Serializer};

use crate::{
    cli::{Format, LogLevel},
    confirm::Evidence,
    event::{Actor, LossReason, SourceName},
    preflight::Refusal,
};

/// A decision, as operators see it. The names of variants and fields are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Decision {
    /// Every change from here on is seen.
    Ready {
        /// Where events come from.
        source: SourceName,
        /// How that source does its work, where there is more than one way.
        strategy: Option<&'static str>,
        /// The rules by name.
        rules: Vec<String>,
        /// How many paths are watched.
        watches: usize,
        /// How many of them cannot be read yet: most often they do not exist.
        missing: usize,
        /// How many processes there are to reload now.
        targets: usize,
        /// Where metrics and health are served, with the port that the kernel chose where it was 0.
        listen: Option<SocketAddr>,
        /// How long it took from the start of the agent, in milliseconds.
        #[serde(rename = "after_ms", serialize_with = "millis")]
        after: Duration,
    },
    /// A change is complete, and the content is not what it was.
    Changed {
        /// Whose content.
        rule: String,
        /// The files that differ.
        #[serde(flatten)]
        paths: Paths,
        /// Who did the last of it.
        by: Option<Actor>,
        /// When it was.
        when: Change,
    },
    /// A change is complete, and the content is what it was: nothing is sent.
    Unchanged {
        /// Whose content.
        rule: String,
        /// Who did the last of it.
        by: Option<Actor>,
    },
    /// An action was carried out: a signal was sent, a server told, a command run.
    Reloaded {
        /// For which rule.
        rule: String,
        /// What was done: `signal`, `restart`, `post` or `exec`.
        action: ActionName,
        /// To whom, if it was a process.
        pid: Option<i32>,
        /// Which signal, if it was one.
        signal: Option<String>,
        /// The URL without its password, or the command.
        object: Option<String>,
        /// From the last event of the change to the action, in microseconds; `None` where nobody knows
        /// when the change was.
        #[serde(rename = "change_to_signal_us", serialize_with = "micros")]
        change_to_signal: Option<Duration>,
        /// Whether it was only told and not done.
        dry_run: bool,
    },
    /// There is evidence that a reload took.
    Confirmed {
        /// For which rule.
        rule: String,
        /// By which process, if it was one.
        pid: Option<i32>,
        /// What speaks for it.
        evidence: Evidence,
        /// How long after the action, in milliseconds.
        #[serde(rename = "after_ms", serialize_with = "millis")]
        after: Duration,
    },
    /// There should have been evidence that a reload took, and none came.
    Unconfirmed {
        /// For which rule.
        rule: String,
        /// By which process, if it was one.
        pid: Option<i32>,
        /// What was waited for, and what to look at.
        reason: String,
        /// How long it was waited for, in milliseconds.
        #[serde(rename = "after_ms", serialize_with = "millis")]
        after: Duration,
    },
    /// An action was withheld.
    Refused {
        /// For which rule.
        rule: String,
        /// From whom, if it is about one process.
        pid: Option<i32>,
        /// Which signal, if it was one that it was to be sent.
        signal: Option<String>,
        /// Why.
        reason: Refusal,
        /// What to do about it.
        remedy: &'static str,
        /// What a check said, or which other rule it is about.
        detail: Option<String>,
    },
    /// There is nobody to reload, or nothing to watch, yet.
    Waiting {
        /// For which rule.
        rule: String,
        /// What for.
        #[serde(rename = "for")]
        what: Awaited,
        /// Its name.
        object: String,
        /// What was in the way when this was told, where that is known.
        detail: Option<String>,
    },
    /// There is a process again that was waited for.
    Found {
        /// For which rule.
        rule: String,
        /// What was waited for.
        #[serde(rename = "for")]
        what: Awaited,
        /// Its name.
        object: String,
        /// Who it is.
        pids: Vec<i32>,
    },
    /// An action could not be carried out, or ended its target.
    Failed {
        /// For which rule.
        rule: String,
        /// To whom.
        pid: Option<i32>,
        /// Which of the two.
        what: Failure,
        /// Why, and what to do about it.
        reason: String,
        /// How long until it is tried again, in milliseconds; `None` where it is not.
        #[serde(rename = "retry_ms", serialize_with = "optional_millis")]
        retry: Option<Duration>,
    },
    /// A pod has opted in: its rule is at work.
    Adopted {
        /// The rule.
        rule: String,
        /// Whom it reloads.
        process: String,
        /// What it watches.
        watches: Vec<String>,
    },
    /// A pod is gone or has opted out: its rule is no longer at work.
    Released {
        /// The rule.
        rule: String,
    },
    /// Something works less well than it should.
    Degraded {
        /// Where events come from.
        source: SourceName,
        /// Why, and what to do about it.
        reason: String,
    },
    /// Events are missing: everything is looked at again.
    Lost {
        /// Where they got lost.
        source: SourceName,
        /// How.
        reason: LossReason,
        /// On which hook.
        hook: &'static str,
        /// How many.
        count: u64,
    },
    /// What was said is not all right, and the agent works all the same.
    Warning {
        /// Which rule it is about, if it is one.
        rule: Option<String>,
        /// What is amiss, and what to do about it.
        reason: String,
    },
    /// The rules file was read, or was to be.
    Rules {
        /// The file, if there is one.
        path: Option<String>,
        /// The rules by name, as they are from here on.
        rules: Vec<String>,
        /// Why it is not heeded, if so: the rules stay as they were.
        error: Option<String>,
    },
    /// The agent ends.
    Stopped {
        /// Why.
        reason: &'static str,
    },
}

/// What is done when the content has changed, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionName {
    /// A signal is sent.
    Signal,
    /// A process is ended, to be started anew.
    Restart,
    /// A command is run.
    Exec,
    /// An HTTP server is told.
    Post,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Awaited {
    /// A path that does not exist.
    Path,
    /// A process.
    Target,
}

/// When a change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// While the agent ran.
    Now,
    /// While it did not.
    Away,
}

/// What has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The action: nothing was reloaded.
    NotReloaded,
    /// The target: it was reloaded, and has ended after that.
    Ended,
}

impl Decision {
    /// How much it matters.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        match self {
            Self::Refused { .. }
            | Self::Failed { .. }
            | Self::Unconfirmed { .. }
            | Self::Warning { .. }
            | Self::Rules { error: Some(_), .. }
            | Self::Degraded { .. }
            | Self::Lost { .. } => LogLevel::Warn,
            _ => LogLevel::Info,
        }
    }
}

/// Where decisions are written to: standard error, one line each.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// How they are written.
    pub format: Format,
    /// How much is written.
    pub level: LogLevel,
}

/// A decision with its time, as it is written in JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'static str,
    #[serde(flatten)]
    decision: &'a Decision,
}

impl Log {
    /// Writes down a decision.
    pub fn tell(self, decision: &Decision) {
        if decision.level() > self.level {
            return;
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let reason = format!("{dropped} lines of the log were dropped, for nobody took them");
            if !write_in_time(&self.line(&Decision::Warning { rule: None, reason })) {
                DROPPED.fetch_add(dropped + 1, Ordering::Relaxed);
                return;
            }
        }
        if !write_in_time(&self.line(decision)) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A decision as it is written, with its end of line.
    fn line(self, decision: &Decision) -> String {
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let level = name(decision.level());
        match self.format {
            Format::Text => format!("{time} {level:5} {}\n", sentence(decision)),
            Format::Json => serde_json::to_string(&Line { time, level, decision }).map_or_else(
                |error| format!("{{\"message\":{:?}}}\n", error.to_string()),
                |json| json + "\n",
            ),
        }
    }
}

/// How many lines nobody has taken.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Writes a line to standard error if there is room for it, and says whether it went out whole.
///
/// A reader that is stuck must not stop reloads.
fn write_in_time(line: &str) -> bool {
    /// What a pipe that is writable takes at once (`PIPE_BUF`, `pipe(7)`).
    const AT_ONCE: usize = 4096;
    let stderr = io::stderr();
    line.as_bytes().chunks(AT_ONCE).all(|chunk| {
        let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
        let has_room = poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        // There is nobody to tell that standard error is closed: the line counts as written.
        has_room && {
            drop(io::stderr().lock().write_all(chunk));
            true
        }
    })
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}

/// JSON is UTF-8 and paths need not be: what is not UTF-8 in them is replaced.
fn lossy<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[expect(clippy::ref_option, reason = "serde hands over the field as it is")]
fn optional_millis<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde hands over the field as it is")]
fn micros<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX)).serialize(serializer)
}
