//! The agent as chores run it: started, listened to, stopped.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    child::{Ask, Child, lines},
    exec,
    patience::Patience,
    place::{is_program, is_root},
};

/// How long it may take to be ready: long, for ten thousand directories may be watched.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many of the last lines are kept, for when it ends unasked.
const KEPT: usize = 5;

/// Runs a command that ends when standard input does, for what runs as root cannot be signalled by
/// us. The shell itself ends with the command.
const UNTIL_INPUT_ENDS: &str = r#"exec 3<&0
"$@" 3<&- </dev/null & agent=$!
{ read -r _ <&3; kill "$agent"; } 2>/dev/null &
wait "$agent""#;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The binary.
    pub(crate) binary: PathBuf,
    /// What to watch.
    pub(crate) watch: Vec<PathBuf>,
    /// The name of the process to reload, if no file says that.
    pub(crate) process: Option<String>,
    /// Further options.
    pub(crate) options: Vec<String>,
}

impl Recipe {
    /// The arguments, as one would type them.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let watch = self
            .watch
            .iter()
            .flat_map(|path| ["--watch".to_owned(), path.to_string_lossy().into_owned()]);
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(watch);
        let process = self.process.iter().cloned();
        arguments.extend(process.flat_map(|name| ["--process".to_owned(), name]));
        arguments.extend(self.options.iter().cloned());
        arguments.extend(["--log-format".to_owned(), "json".to_owned()]);
        arguments
    }
}

/// Makes sure that the agent can run as root.
///
/// # Errors
///
/// Fails where we are not root, and sudo is missing or refuses.
pub(crate) fn become_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    ensure!(
        is_program("sudo"),
        "the agent's eBPF programs need root, and there is no sudo; run this as root",
    );
    println!("The agent's eBPF programs need root: sudo runs the agent, and nothing else.");
    exec(Command::new("sudo").arg("--validate"))
}

/// An agent that runs.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    lines: Receiver<String>,
    last: VecDeque<String>,
}

/// A decision of the agent: a line of its log that has a field `event`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// When it was told.
    pub(crate) at: SystemTime,
    fields: Value,
}

impl Event {
    /// Reads a line; one that is no decision gives `None`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let fields: Value = serde_json::from_str(line).ok()?;
        fields["event"].as_str()?;
        let at = humantime::parse_rfc3339(fields["time"].as_str()?).ok()?;
        Some(Self { at, fields })
    }

    /// What was decided.
    pub(crate) fn name(&self) -> &str {
        self.text("/event")
    }

    /// The text at `pointer`, such as `/by/comm`; empty where there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.fields.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The number at `pointer`.
    pub(crate) fn number(&self, pointer: &str) -> Option<u64> {
        self.fields.pointer(pointer).and_then(Value::as_u64)
    }

    /// The texts of the list at `pointer`.
    pub(crate) fn texts(&self, pointer: &str) -> Vec<&str> {
        let list = self.fields.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// All of it.
    pub(crate) fn fields(&self) -> &Value {
        &self.fields
    }
}

impl Agent {
    /// Starts it, and waits until it is ready; gives the decision that says so as well.
    ///
    /// # Errors
    ///
    /// Fails where it does, with what it said.
    pub(crate) fn start(recipe: &Recipe, patience: &Patience) -> Result<(Self, Event)> {
        let (mut command, ask) = command(&recipe.binary);
        command.args(recipe.arguments()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Child::spawn(&mut command, ask)?;
        let errors = child.pipes().stderr.take().context("the agent's log is not piped")?;
        let mut agent = Self { child, lines: lines(errors), last: VecDeque::new() };
        let ready = patience.until(Duration::from_millis(5), PATIENCE, || {
            Ok(agent.next()?.filter(|event| event.name() == "ready"))
        })?;
        match ready {
            Some(ready) => Ok((agent, ready)),
            None => bail!("the agent is not ready after {PATIENCE:?}{}", agent.last_words()),
        }
    }

    /// Its pid, or that of sudo.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The next decision, or `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// Fails where the agent has ended.
    pub(crate) fn next(&mut self) -> Result<Option<Event>> {
        loop {
            match self.lines.try_recv() {
                Ok(line) => {
                    if let Some(event) = self.keep(line) {
                        return Ok(Some(event));
                    }
                }
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => {
                    let status = self.child.stop()?;
                    bail!("the agent has ended with {status}{}", self.last_words());
                }
            }
        }
    }

    /// Stops it, and gives the decisions that nobody has taken.
    ///
    /// # Errors
    ///
    /// Fails where it does not end with 0, as one that was asked to stop does.
    pub(crate) fn stop(mut self) -> Result<Vec<Event>> {
        let status = self.child.stop()?;
        let mut events = Vec::new();
        while let Ok(line) = self.lines.recv() {
            events.extend(self.keep(line));
        }
        ensure!(
            status.success(),
            "the agent was asked to stop and ended with {status}{}",
            self.last_words()
        );
        Ok(events)
    }

    fn keep(&mut self, line: String) -> Option<Event> {
        let event = Event::parse(&line);
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
        event
    }

    fn last_words(&self) -> String {
        if self.last.is_empty() {
            return " and said nothing".to_owned();
        }
        format!(
            "; it said: {}",
            self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
        )
    }
}

/// A command that runs the agent as root, with nothing in its environment that would be an option,
/// and how to ask it to end.
fn command(binary: &Path) -> (Command, Ask) {
    if is_root() {
        let mut command = Command::new(binary);
        command.env_clear().stdin(Stdio::null());
        return (command, Ask::Signal);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", "sh", "-c", UNTIL_INPUT_ENDS, "sh"]);
    command.arg(binary).stdin(Stdio::piped());
    (command, Ask::EndOfInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_read_from_the_log() {
        let line = r#"{"time":"2026-11-23T11:50:00.123456Z","level":"info","event":"changed",
            "rule":"nginx","paths":["/a","/b"],"by":{"pid":12,"comm":"mv","operation":"rename"}}"#;
        let event = Event::parse(line).unwrap();
        assert_eq!(event.name(), "changed");
        assert_eq!(event.text("/by/comm"), "mv");
        assert_eq!(event.number("/by/pid"), Some(12));
        assert_eq!(event.texts("/paths"), ["/a", "/b"]);
        assert_eq!((event.text("/nope"), event.number("/nope")), ("", None));
        let since = event.at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since, Duration::from_micros(1_795_434_600_123_456));
    }

    #[test]
    fn other_lines_are_no_decisions() {
        fn check(line: &str) {
            assert_eq!(Event::parse(line), None, "for {line}");
        }
        check("reload-agent: cannot watch /nope");
        check(r#"{"time":"2026-11-23T11:50:00.123456Z","level":"debug","message":"looking"}"#);
        check(r#"{"event":"ready"}"#);
        check("");
    }

    #[test]
    fn options_are_written_as_one_would_type_them() {
        let recipe = Recipe {
            binary: "/reload-agent".into(),
            watch: vec!["/a".into(), "/b".into()],
            process: Some("nginx".to_owned()),
            options: ["--min-interval", "0s"].map(str::to_owned).to_vec(),
        };
        let expected = "run --watch /a --watch /b --process nginx --min-interval 0s \
                        --log-format json";
        assert_eq!(recipe.arguments().join(" "), expected);
    }
}
