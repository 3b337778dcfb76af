//! What can be said of one rule: by options, in the environment, or in a file with rules.

#![expect(
    clippy::doc_markdown,
    rustdoc::broken_intra_doc_links,
    reason = "the doc comments are help texts, which are plain text"
)]

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use serde::Deserialize;

use super::value::{Texts, duration, paths, span};

/// How long a check may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long evidence that a reload took is waited for.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process that has just started is given to install its handler.
pub const HANDLER_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest time between two reloads of the same process.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Quiet after which an in-place write counts as complete.
pub const SETTLE: Duration = Duration::from_millis(100);
/// The longest wait for the end of a change.
pub const SETTLE_MAX: Duration = Duration::from_secs(2);

/// What to watch, whom to reload, and how
///
/// Options, the keys of a file with rules and its schema are all made of this: what is not said is
/// `None`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuleArgs {
    /// Name of the rule in logs and metrics, 1 to 63 characters [default: whom it reloads]
    #[arg(skip)]
    pub name: Option<String>,

    /// File or directory to watch; repeat for more
    ///
    /// A directory stands for the files in it, but not for those of its subdirectories. Symlinks are
    /// followed and watched at every hop, as a mounted ConfigMap needs. What does not exist yet is
    /// waited for. As an environment variable: paths, separated by commas.
    ///
    /// [env: RELOAD_WATCH, FILE, CONFIG_DIR]
    #[arg(long, value_name = "PATH")]
    #[serde(deserialize_with = "paths")]
    #[cfg_attr(test, schemars(with = "Texts"))]
    pub watch: Vec<PathBuf>,

    /// Name of the process to reload
    ///
    /// The name of the task, of the executable, or of argv[0]. Of several processes the topmost of
    /// each process tree is meant: nginx's master, not its workers.
    ///
    /// [env: RELOAD_PROCESS, PROCESS, PROCESS_NAME]
    #[arg(long, value_name = "NAME")]
    pub process: Option<String>,

    /// Executable of the process to reload, in place of its name
    #[arg(long, value_name = "PATH", env = "RELOAD_EXE")]
    pub exe: Option<PathBuf>,

    /// File with the pid of the process to reload, in place of its name
    ///
    /// It is read anew each time.
    #[arg(long, value_name = "PATH", env = "RELOAD_PID_FILE")]
    pub pid_file: Option<PathBuf>,

    /// Reload every process that matches, and not only the topmost
    #[arg(long, env = "RELOAD_ALL", action = clap::ArgAction::SetTrue)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub all: Option<bool>,

    /// Command to run when the configuration has changed
    ///
    /// It is split into words as a shell would, but no shell runs it. RELOAD_ variables tell it what
    /// changed.
    /// Of several actions the order is exec, signal, post, restart.
    #[arg(long, value_name = "COMMAND", env = "RELOAD_EXEC")]
    pub exec: Option<Texts>,

    /// Signal to send: a name (HUP, SIGUSR1, RTMIN+3) or a number [default: HUP]
    ///
    /// The default only counts where nothing else is to be done: no exec, post or restart.
    ///
    /// [env: RELOAD_SIGNAL, SIGNAL]
    #[arg(long, value_name = "SIGNAL")]
    pub signal: Option<String>,

    /// URL to send an HTTP POST to; it must answer with 2xx
    #[arg(long, value_name = "URL", env = "RELOAD_POST", hide_env_values = true)]
    pub post: Option<String>,

    /// End the process with TERM, for whoever looks after it to start it anew
    ///
    /// For programs that cannot reload.
    #[arg(long, env = "RELOAD_RESTART", action = clap::ArgAction::SetTrue)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub restart: Option<bool>,

    /// What to do, in this order, in place of exec, signal, post and restart
    #[arg(skip)]
    pub actions: Option<Vec<ActionArgs>>,

    /// Command that the new configuration must pass, or nothing is done
    ///
    /// Run without a shell, like that of exec. It passes if it exits with 0.
    #[arg(long, value_name = "COMMAND", env = "RELOAD_CHECK")]
    pub check: Option<Texts>,

    /// Where the check runs [default: agent]
    #[arg(long, value_name = "WHERE", env = "RELOAD_CHECK_IN", value_enum)]
    pub check_in: Option<CheckPlace>,

    /// How long the check may take [default: 10s]
    #[arg(long, value_name = "DURATION", env = "RELOAD_CHECK_TIMEOUT")]
    #[arg(value_parser = span)]
    #[serde(deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub check_timeout: Option<Duration>,

    /// How long to wait for evidence that a reload took; 0s for not at all [default: 5s]
    #[arg(long, value_name = "DURATION", env = "RELOAD_CONFIRM_TIMEOUT")]
    #[arg(value_parser = span)]
    #[serde(deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub confirm_timeout: Option<Duration>,

    /// Send the signal even where the process does not catch it
    ///
    /// Without a handler most signals end a process, so they are withheld otherwise.
    #[arg(long, env = "RELOAD_FORCE", action = clap::ArgAction::SetTrue)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub force: Option<bool>,

    /// How long a process that has just started is given to install its handler [default: 2s]
    #[arg(long, value_name = "DURATION", env = "RELOAD_HANDLER_TIMEOUT")]
    #[arg(value_parser = span)]
    #[serde(deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub handler_timeout: Option<Duration>,

    /// Quiet after which an in-place write counts as complete [default: 100ms]
    ///
    /// It only matters where the source cannot see that the last writer has closed the file.
    #[arg(long, value_name = "DURATION", env = "RELOAD_SETTLE")]
    #[arg(value_parser = span)]
    #[serde(deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub settle: Option<Duration>,

    /// Longest wait for the end of a change, however busy its writer is [default: 2s]
    #[arg(long, value_name = "DURATION", env = "RELOAD_SETTLE_MAX")]
    #[arg(value_parser = span)]
    #[serde(deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub settle_max: Option<Duration>,

    /// Shortest time between two reloads of the same process [default: 1s]
    ///
    /// Changes within it become one reload: the last state is always delivered.
    #[arg(long, value_name = "DURATION", env = "RELOAD_MIN_INTERVAL")]
    #[arg(value_parser = span)]
    #[serde(deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub min_interval: Option<Duration>,

    /// What becomes of processes of which nothing is remembered when the agent starts [default: skip]
    #[arg(long, value_name = "WHAT", env = "RELOAD_ON_START", value_enum)]
    pub on_start: Option<StartChoice>,
}

/// One action: a single key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ActionArgs {
    /// Command to run
    Exec(Texts),
    /// Signal to send
    Signal(String),
    /// URL to send an HTTP POST to
    Post(String),
    /// True: end the process with TERM, for whoever looks after it to start it anew
    Restart(bool),
}

/// Where a check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum CheckPlace {
    /// Where the agent runs, as the agent
    Agent,
    /// In the namespaces of the process to reload, as its user
    Target,
}

/// What becomes of a process of which nothing is remembered when the agent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum StartChoice {
    /// It is taken to have what is there, and left alone
    Skip,
    /// It is reloaded
    Reload,
}

impl RuleArgs {
    /// What is said here, and where nothing is, what `defaults` say of when and how carefully.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        // All of them by name, so that a new one is not forgotten.
        let Self { name, watch, process, exe, pid_file, all, .. } = self;
        let Self { exec, signal, post, restart, actions, check, .. } = self;
        Self {
            name,
            watch,
            process,
            exe,
            pid_file,
            all,
            exec,
            signal,
            post,
            restart,
            actions,
            check,
            check_in: self.check_in.or(defaults.check_in),
            check_timeout: self.check_timeout.or(defaults.check_timeout),
            confirm_timeout: self.confirm_timeout.or(defaults.confirm_timeout),
            force: self.force.or(defaults.force),
            handler_timeout: self.handler_timeout.or(defaults.handler_timeout),
            settle: self.settle.or(defaults.settle),
            settle_max: self.settle_max.or(defaults.settle_max),
            min_interval: self.min_interval.or(defaults.min_interval),
            on_start: self.on_start.or(defaults.on_start),
        }
    }
}
