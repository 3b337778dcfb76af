//! The agent under test, and what it logs.

use std::{
    ffi::OsStr,
    fmt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{lines::Lines, process::Process, source::Source, time::PATIENCE};

/// The binary.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_reload-agent");

/// A decision of the agent: a line of its log that has a field `event`.
#[derive(Clone, PartialEq)]
pub(crate) struct Event(Value);

impl Event {
    /// Reads a line; one that is no decision gives `None`.
    #[track_caller]
    fn parse(line: &str) -> Option<Self> {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) if fields.contains_key("event") => {
                Some(Self(Value::Object(fields)))
            }
            Ok(Value::Object(_)) => None,
            _ => panic!("a line of the log is not a JSON object: {line}"),
        }
    }

    /// What was decided.
    pub(crate) fn name(&self) -> &str {
        self.0["event"].as_str().unwrap()
    }

    /// The text of a field.
    #[track_caller]
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_else(|| panic!("{self} has no text {field}"))
    }

    /// The number in a field.
    #[track_caller]
    pub(crate) fn number(&self, field: &str) -> i64 {
        self.0[field].as_i64().unwrap_or_else(|| panic!("{self} has no number {field}"))
    }

    /// A field, or null.
    pub(crate) fn field(&self, field: &str) -> &Value {
        &self.0[field]
    }

    /// The names of all fields, sorted.
    pub(crate) fn fields(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The process that was signalled, or was not.
    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.number("pid")).unwrap()
    }

    /// The paths that changed.
    #[track_caller]
    pub(crate) fn paths(&self) -> Vec<&str> {
        let paths = self.0["paths"].as_array().unwrap_or_else(|| panic!("{self} has no paths"));
        paths.iter().map(|path| path.as_str().unwrap()).collect()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The events in a log.
#[track_caller]
pub(crate) fn events_of(log: &str) -> Vec<Event> {
    log.lines().filter_map(Event::parse).collect()
}

/// What the events are called, in order. When a process is found again depends on the source, so that is
/// left out.
pub(crate) fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::name).filter(|name| *name != "found").collect()
}

/// How many of the events are called so.
pub(crate) fn count(events: &[Event], name: &str) -> usize {
    events.iter().filter(|event| event.name() == name).count()
}

/// A command that runs the agent with nothing in its environment but the path to programs.
pub(crate) fn command() -> Command {
    clean(Command::new(AGENT))
}

/// `command` with nothing in its environment but the path to programs.
pub(crate) fn clean(mut command: Command) -> Command {
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// What makes an agent reload as soon and as often as there is a reason, without looking whether it took.
const HURRY: [[&str; 2]; 2] = [["--min-interval", "0"], ["--confirm-timeout", "0"]];

/// What makes one change of a write in place, however long its writer takes from one step to the next.
/// The first is for where nobody can tell who is writing.
pub(crate) const PATIENT: [&str; 4] = ["--settle", "1s", "--settle-max", "1m"];

/// The arguments of a run that logs JSON and is in a hurry, with whatever source is best.
pub(crate) fn arguments(watch: &Path, process: &str) -> Vec<String> {
    arguments_beside(watch, process, &[] as &[&str])
}

/// Those of them that `options` do not give another value: no option may be given twice.
pub(crate) fn arguments_beside(
    watch: &Path,
    process: &str,
    options: &[impl AsRef<OsStr>],
) -> Vec<String> {
    let is_given = |name: &str| options.iter().any(|option| option.as_ref() == name);
    let hurry = HURRY.into_iter().filter(|[name, _]| !is_given(name)).flatten();
    unhurried_arguments(watch, process).into_iter().chain(hurry.map(str::to_owned)).collect()
}

/// The same of one that gives a process the usual time between two reloads.
pub(crate) fn unhurried_arguments(watch: &Path, process: &str) -> Vec<String> {
    let watch = watch.to_str().unwrap();
    ["run", "--log-format", "json", "--watch", watch, "--process", process]
        .map(str::to_owned)
        .to_vec()
}

/// The arguments of a run with the rules in the file `config`; what they do not say themselves is as in
/// [`arguments`].
pub(crate) fn rules_arguments(config: &Path) -> Vec<String> {
    let options = ["--min-interval", "0", "--confirm-timeout", "0"];
    let run = ["run", "--log-format", "json", "--config", config.to_str().unwrap()];
    run.into_iter().chain(options).map(str::to_owned).collect()
}

/// An agent that runs.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Process,
    lines: Lines,
    strategy: Option<String>,
}

impl Agent {
    /// Starts an agent that watches `watch` for the process `process`, and waits until it is ready.
    #[track_caller]
    pub(crate) fn on(source: Source, watch: &Path, process: &str) -> Self {
        Self::with(source, watch, process, &[] as &[&str])
    }

    /// The same, with more options, which go before those that tests have by default.
    #[track_caller]
    pub(crate) fn with(
        source: Source,
        watch: &Path,
        process: &str,
        options: &[impl AsRef<OsStr>],
    ) -> Self {
        let rule = ["--watch".as_ref(), watch.as_os_str(), "--process".as_ref(), process.as_ref()];
        let options = options.iter().map(AsRef::as_ref);
        Self::ready(source, &rule.into_iter().chain(options).collect::<Vec<_>>())
    }

    /// Starts an agent with the rules in the file `config`, and waits until it is ready.
    #[track_caller]
    pub(crate) fn with_rules(source: Source, config: &Path, options: &[impl AsRef<OsStr>]) -> Self {
        let rules = ["--config".as_ref(), config.as_os_str()];
        let options = options.iter().map(AsRef::as_ref);
        Self::ready(source, &rules.into_iter().chain(options).collect::<Vec<_>>())
    }

    /// Starts an agent with these options and no other rule, and waits until it is ready. It is in a
    /// hurry as far as they do not say otherwise, for no option may be given twice.
    #[track_caller]
    pub(crate) fn ready(source: Source, options: &[impl AsRef<OsStr>]) -> Self {
        let is_said = |name: &str| options.iter().any(|option| option.as_ref() == name);
        let mut command = command();
        command.args(["run", "--log-format", "json"]).args(source.arguments()).args(options);
        command.args(HURRY.into_iter().filter(|[name, _]| !is_said(name)).flatten());
        let mut agent = Self::spawn(&mut command);
        let ready = agent.wait_for("ready");
        assert_eq!(ready.text("source"), source.name(), "{ready}");
        agent.strategy = ready.field("strategy").as_str().map(str::to_owned);
        agent
    }

    /// Takes events up to the one that says that the file with rules was read, and checks that it is
    /// heeded.
    #[track_caller]
    pub(crate) fn heeds_rules(&mut self) -> Vec<Event> {
        let events = self.events_until("rules");
        let rules = events.last().unwrap();
        assert!(rules.field("error").is_null(), "{rules}");
        events
    }

    /// Starts `command`, which runs an agent that logs JSON.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = Process::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        let lines = Lines::of("agent", process.stderr.take().unwrap());
        Self { process, lines, strategy: None }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The strategy of its source, if that has several and its start was waited for.
    pub(crate) fn strategy(&self) -> Option<&str> {
        self.strategy.as_deref()
    }

    /// Takes what its command prints on its standard output, where that is piped.
    pub(crate) fn output(&mut self) -> std::process::ChildStdout {
        self.process.stdout.take().unwrap()
    }

    /// Takes events up to the first that is `wanted`, and gives them all.
    #[track_caller]
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        self.lines.until(what, |line| {
            events.push(Event::parse(line)?);
            events.last().filter(|event| wanted(event)).map(drop)
        });
        events
    }

    /// Takes the events that are there, without waiting for more.
    #[track_caller]
    pub(crate) fn events_at_hand(&mut self) -> Vec<Event> {
        self.lines.at_hand().iter().filter_map(|line| Event::parse(line)).collect()
    }

    /// Takes events up to the first of this name, and gives them all.
    #[track_caller]
    pub(crate) fn events_until(&mut self, name: &str) -> Vec<Event> {
        self.until(name, |event| event.name() == name)
    }

    /// Takes events up to when each of these names has come, in whatever order, and gives them all.
    #[track_caller]
    pub(crate) fn events_until_each(&mut self, names: &[&str]) -> Vec<Event> {
        let mut missing = names.to_vec();
        self.until(&names.join(" and "), |event| {
            missing.retain(|name| *name != event.name());
            missing.is_empty()
        })
    }

    /// Takes events up to the first of this name, and gives that one.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, name: &str) -> Event {
        self.events_until(name).pop().unwrap()
    }

    /// How often its loop has gone to sleep, and so been woken up.
    pub(crate) fn wake_ups(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse().unwrap()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// Sends it a HUP.
    #[track_caller]
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_raw(self.process.pid()).unwrap(), Signal::HUP).unwrap();
    }

    /// Sends it `signal`, and gives its exit status and the events that nobody has taken yet.
    #[track_caller]
    pub(crate) fn stop(mut self, signal: Signal) -> (ExitStatus, Vec<Event>) {
        // Our own child, which nobody has reaped: the pid is its own.
        kill_process(Pid::from_raw(self.process.pid()).unwrap(), signal).unwrap();
        let deadline = Instant::now() + *PATIENCE;
        let mut events = Vec::new();
        while let Some(line) = self.lines.next("the end of its log", deadline) {
            events.extend(Event::parse(&line));
        }
        (self.process.wait().unwrap(), events)
    }
}

/// Runs the agent to its end with `arguments`, and gives its exit status and its standard error.
#[track_caller]
pub(crate) fn run_to_end(command: &mut Command) -> (Option<i32>, String) {
    let mut process =
        Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let lines = Lines::of("agent", process.stderr.take().unwrap());
    let said = lines.rest().join("\n");
    (process.wait().unwrap().code(), said)
}
