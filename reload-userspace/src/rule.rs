//! What to watch, whom to reload, and how: what the user typed, judged.
//!
//! **Invariant:** a [`Rule`] is valid. Its fields are private, and [`Rule::new`] is the only way to
//! one, so no code past this file asks again whether a path is absolute.

mod action;
mod check;
mod command;
mod endpoint;
mod signal;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    cli::{self, RuleArgs, RunArgs},
    preflight::Caution,
    settle::Limits,
    target::Selector,
};

pub use self::{
    action::Action,
    check::{Check, CheckIn},
    command::{CommandError, CommandLine},
    endpoint::{Endpoint, EndpointError},
    signal::{SignalError, SignalNumber},
};

/// How long the kubelet is given to remove the old directory of a volume after the swap.
const VOLUME_TIMEOUT: Duration = Duration::from_millis(200);

/// What to watch, whom to reload, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    name: String,
    watches: Vec<PathBuf>,
    selector: Option<Selector>,
    actions: Vec<Action>,
    check: Option<Check>,
    pace: Pace,
}

/// When a rule is carried out, and how carefully.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// When a change is complete.
    pub limits: Limits,
    /// When a signal is safe.
    pub caution: Caution,
    /// The shortest time between two reloads of one target.
    pub min_interval: Duration,
    /// How long evidence that a reload took is waited for; nothing is waited for where it is zero.
    pub confirm_timeout: Duration,
    /// What a target has when the agent starts.
    pub on_start: OnStart,
}

/// What a target of which nothing is remembered is taken to have when the agent starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStart {
    /// What is there: it is left alone.
    #[default]
    Skip,
    /// Nobody knows what: it is reloaded.
    Reload,
}

/// How the agent works, whatever its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often the content is compared although nothing was seen.
    pub reconcile: Duration,
    /// Whether actions are only told of and not carried out.
    pub is_dry: bool,
    /// Where what was applied to whom is remembered.
    pub state_dir: Option<PathBuf>,
    /// Where the rules come from, if from a file.
    pub config: Option<PathBuf>,
}

/// Why the command line cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// There is no path.
    #[error("there is nothing to watch; give --watch PATH, or set {}", cli::WATCH_VARIABLES.join(", "))]
    NoWatch,
    /// A path is empty.
    #[error("--watch is empty; give the path of a file or directory")]
    EmptyWatch,
    /// The current directory, from which a relative path starts, is not known.
    #[error("cannot make {} absolute; give an absolute path", path.display())]
    Relative {
        /// The path as the user gave it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no selector.
    #[error("there is nobody to reload; give --process NAME, or set {}", cli::PROCESS_VARIABLES.join(", "))]
    NoProcess,
    /// The selector matches nothing.
    #[error("--process is empty; give the name of a process, as in /proc/<pid>/comm")]
    EmptyProcess,
    /// The selector is a path.
    #[error("--process {name:?} has a slash in it; give the name without its directories")]
    ProcessIsPath {
        /// What was given.
        name: String,
    },
    /// There is no such signal.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// A duration is too short.
    #[error(
        "--reconcile is less than 1s; give at least that, for it is how often every file is read"
    )]
    ShortReconcile,
}

impl Rule {
    /// Judges what the user typed.
    ///
    /// # Errors
    ///
    /// Each says what is wrong with which option, and what to give instead.
    pub fn new(args: &RunArgs, rule: &RuleArgs, signal: Option<&str>) -> Result<Self, RuleError> {
        let RuleArgs { watch, process } = rule;
        if watch.is_empty() {
            return Err(RuleError::NoWatch);
        }
        let watches = watches(watch)?;
        let selector = selector(process.as_deref().ok_or(RuleError::NoProcess)?)?;
        let signal = self::signal(signal)?;
        Ok(Self {
            name: selector.to_string(),
            watches,
            selector: Some(selector),
            actions: vec![Action::Signal(signal)],
            check: None,
            pace: Pace::new(args)?,
        })
    }

    /// What the rule is called in logs, metrics and the ledger.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The paths to watch, all absolute.
    #[must_use]
    pub fn watches(&self) -> &[PathBuf] {
        &self.watches
    }

    /// Whom to reload, if it is about processes.
    #[must_use]
    pub fn selector(&self) -> Option<&Selector> {
        self.selector.as_ref()
    }

    /// What to do, in this order.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// What content must pass first.
    #[must_use]
    pub fn check(&self) -> Option<&Check> {
        self.check.as_ref()
    }

    /// When, and how carefully.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.pace
    }
}

impl Pace {
    /// Judges what the user typed.
    ///
    /// # Errors
    ///
    /// Fails where a duration makes no sense.
    pub fn new(args: &RunArgs) -> Result<Self, RuleError> {
        let &RunArgs { force, handler_timeout, settle, settle_max, min_interval, .. } = args;
        Ok(Self {
            limits: Limits { quiet: settle, max: settle_max, volume: VOLUME_TIMEOUT },
            caution: Caution { is_forced: force, handler_timeout },
            min_interval,
            confirm_timeout: Duration::from_secs(5),
            on_start: OnStart::Skip,
        })
    }
}

impl Settings {
    /// Judges what the user typed.
    ///
    /// # Errors
    ///
    /// Fails where a duration makes no sense.
    pub fn new(args: &RunArgs) -> Result<Self, RuleError> {
        if args.reconcile < Duration::from_secs(1) {
            return Err(RuleError::ShortReconcile);
        }
        Ok(Self { reconcile: args.reconcile, is_dry: args.dry_run, state_dir: None, config: None })
    }
}

/// The paths to watch, all absolute.
///
/// # Errors
///
/// Fails where one is empty.
pub fn watches(paths: &[PathBuf]) -> Result<Vec<PathBuf>, RuleError> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// Whom a name means.
///
/// # Errors
///
/// Fails where no process can have that name.
pub fn selector(name: &str) -> Result<Selector, RuleError> {
    if name.trim().is_empty() {
        return Err(RuleError::EmptyProcess);
    }
    if name.contains('/') {
        return Err(RuleError::ProcessIsPath { name: name.to_owned() });
    }
    Ok(Selector::process(name))
}

/// The signal with that name or number, or HUP.
///
/// # Errors
///
/// Fails where there is no such signal.
pub fn signal(name: Option<&str>) -> Result<SignalNumber, RuleError> {
    Ok(name.map_or(Ok(SignalNumber::HUP), str::parse)?)
}

/// The path from the root; symlinks stay, for they are what is watched.
fn absolute(path: &Path) -> Result<PathBuf, RuleError> {
    if path.as_os_str().is_empty() {
        return Err(RuleError::EmptyWatch);
    }
    std::path::absolute(path)
        .map_err(|source| RuleError::Relative { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn rule(watch: &[&str], process: Option<&str>, signal: Option<&str>) -> Result<Rule, String> {
        let args = RuleArgs {
            watch: watch.iter().map(PathBuf::from).collect(),
            process: process.map(str::to_owned),
        };
        let Command::Run(run) = Cli::parse_from(["reload-agent", "run"]).command else {
            unreachable!("it is what was typed");
        };
        Rule::new(&run, &args, signal).map_err(|error| error.to_string())
    }

    #[test]
    fn each_bad_value_is_named_with_its_remedy() {
        #[track_caller]
        fn check(rule: Result<Rule, String>, expected: &str) {
            assert_eq!(rule.map(|rule| rule.name).unwrap_err(), expected);
        }
        check(
            rule(&[], Some("x"), None),
            "there is nothing to watch; give --watch PATH, or set RELOAD_WATCH, FILE, CONFIG_DIR",
        );
        check(
            rule(&[""], Some("x"), None),
            "--watch is empty; give the path of a file or directory",
        );
        check(
            rule(&["/etc"], None, None),
            "there is nobody to reload; give --process NAME, or set RELOAD_PROCESS, PROCESS, \
             PROCESS_NAME",
        );
        check(
            rule(&["/etc"], Some(" "), None),
            "--process is empty; give the name of a process, as in /proc/<pid>/comm",
        );
        check(
            rule(&["/etc"], Some("/usr/sbin/nginx"), None),
            "--process \"/usr/sbin/nginx\" has a slash in it; give the name without its directories",
        );
        check(
            rule(&["/etc"], Some("x"), Some("HUPP")),
            "--signal \"HUPP\" is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, or a \
             number from 1 to 64",
        );
    }

    #[test]
    fn a_relative_path_starts_at_the_current_directory() {
        let rule = rule(&["conf.d/../x"], Some("x"), None).unwrap();
        assert_eq!(rule.watches, [std::env::current_dir().unwrap().join("conf.d/../x")]);
        assert_eq!(rule.actions, [Action::Signal(SignalNumber::HUP)]);
    }
}
