//! The command line as the user typed it.
//!
//! Nothing here touches the system or judges a combination of options; [`crate::rule`] does.

#![expect(
    clippy::doc_markdown,
    rustdoc::broken_intra_doc_links,
    reason = "the doc comments are help texts, which are plain text"
)]

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};

/// The version, and the commit that it was built of.
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("RELOAD_COMMIT"), ")");

/// Reload a process when its configuration has changed
///
/// reload-agent sees a change of configuration files in the kernel, waits until it is complete, makes
/// sure that a signal is safe and needed, and signals exactly the right process.
#[derive(Clone, Debug, Parser)]
#[command(name = "reload-agent", version = VERSION, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Watch configuration and reload the process that reads it
    ///
    /// Example: reload-agent run --watch /etc/nginx --process nginx
    ///
    /// Every option can be given as an environment variable instead, RELOAD_ and its name.
    Run(RunArgs),
    /// Say what works here, what does not, why, and what to grant
    ///
    /// It takes the options of `run`, of which none is needed. The exit status is 0 where `run` with
    /// these options would work.
    Doctor(DoctorArgs),
    /// Run one command for the agent, which starts itself so
    #[command(hide = true)]
    Inside(InsideArgs),
}

/// The options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// What to watch and whom to reload
    #[command(flatten)]
    pub rule: RuleArgs,

    /// Signal to send: a name (HUP, SIGUSR1, RTMIN+3) or a number [default: HUP]
    ///
    /// [env: RELOAD_SIGNAL, SIGNAL]
    #[arg(long, value_name = "SIGNAL")]
    pub signal: Option<String>,

    /// Send the signal even where the process does not catch it
    ///
    /// Without a handler most signals end a process, so they are withheld otherwise.
    #[arg(long, env = "RELOAD_FORCE", value_parser = BoolishValueParser::new())]
    pub force: bool,

    /// How long a process that has just started is given to install its handler
    #[arg(long, value_name = "DURATION", env = "RELOAD_HANDLER_TIMEOUT", default_value = "2s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub handler_timeout: Duration,

    /// Quiet after which an in-place write counts as complete
    ///
    /// It only matters where the source cannot see that the last writer has closed the file.
    #[arg(long, value_name = "DURATION", env = "RELOAD_SETTLE", default_value = "100ms")]
    #[arg(value_parser = humantime::parse_duration)]
    pub settle: Duration,

    /// Longest wait for the end of a change, however busy its writer is
    #[arg(long, value_name = "DURATION", env = "RELOAD_SETTLE_MAX", default_value = "2s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub settle_max: Duration,

    /// Shortest time between two reloads of the same process
    ///
    /// Changes within it become one reload: the last state is always delivered.
    #[arg(long, value_name = "DURATION", env = "RELOAD_MIN_INTERVAL", default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub min_interval: Duration,

    /// How often to compare the content even though nothing was seen
    #[arg(long, value_name = "DURATION", env = "RELOAD_RECONCILE", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub reconcile: Duration,

    /// Where events come from
    #[arg(long, value_name = "NAME", env = "RELOAD_SOURCE", value_enum, default_value = "auto")]
    pub source: SourceChoice,

    /// Tell what would be signalled, and signal nothing
    #[arg(long, env = "RELOAD_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,

    /// How the log is written
    #[arg(long, value_name = "FORMAT", env = "RELOAD_LOG_FORMAT", value_enum)]
    #[arg(default_value = "text")]
    pub log_format: Format,

    /// How much is logged
    #[arg(long, value_name = "LEVEL", env = "RELOAD_LOG_LEVEL", value_enum)]
    #[arg(default_value = "info")]
    pub log_level: LogLevel,
}

/// The options of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// What `run` would be given
    #[command(flatten)]
    pub run: RunArgs,

    /// How the report is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub format: Format,
}

/// What the agent tells the helper that runs a command.
#[derive(Args, Clone, Debug)]
pub struct InsideArgs {
    /// Process in whose place it runs
    #[arg(long, value_name = "PID", requires = "started")]
    pub target: Option<i32>,

    /// Clock tick at which that process has started
    #[arg(long, value_name = "TICK")]
    pub started: Option<u64>,

    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub words: Vec<String>,
}

/// What to watch and whom to reload.
#[derive(Args, Clone, Debug)]
pub struct RuleArgs {
    /// File or directory to watch; repeat for more
    ///
    /// A directory stands for the files in it, but not for those of its subdirectories. Symlinks are
    /// followed and watched at every hop, as a mounted ConfigMap needs. What does not exist yet is
    /// waited for. As an environment variable: paths, separated by commas.
    ///
    /// [env: RELOAD_WATCH, FILE, CONFIG_DIR]
    #[arg(long, value_name = "PATH")]
    pub watch: Vec<PathBuf>,

    /// Name of the process to reload
    ///
    /// The name of the task, of the executable, or of argv[0]. Of several processes the topmost of
    /// each process tree is meant: nginx's master, not its workers.
    ///
    /// [env: RELOAD_PROCESS, PROCESS, PROCESS_NAME]
    #[arg(long, value_name = "NAME")]
    pub process: Option<String>,
}

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceChoice {
    /// The best source that works here
    Auto,
    /// eBPF programs in the kernel; they need CAP_BPF and CAP_PERFMON
    Ebpf,
    /// fanotify; it tells who wrote if it has CAP_SYS_ADMIN
    Fanotify,
    /// inotify; it needs no rights
    Inotify,
    /// No events: the content is compared once a second
    Poll,
}

/// How something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// JSON, for programs
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// Only what ends the agent
    Error,
    /// And what someone should look at
    Warn,
    /// And every decision
    Info,
    /// And what led to it, the eBPF side's diagnostics included
    Debug,
}

/// The environment variables that may name what to watch, the best known first.
pub const WATCH_VARIABLES: [&str; 3] = ["RELOAD_WATCH", "FILE", "CONFIG_DIR"];
/// The environment variables that may name the process.
pub const PROCESS_VARIABLES: [&str; 3] = ["RELOAD_PROCESS", "PROCESS", "PROCESS_NAME"];
/// The environment variables that may name the signal.
pub const SIGNAL_VARIABLES: [&str; 2] = ["RELOAD_SIGNAL", "SIGNAL"];

impl RuleArgs {
    /// Fills in from the environment what was not typed; the first variable that is set wins.
    #[must_use]
    pub fn or_environment(self, get: impl Fn(&str) -> Option<OsString>) -> Self {
        let Self { watch, process } = self;
        let from_environment = || {
            let mut set = WATCH_VARIABLES.iter().filter_map(|name| get(name));
            let paths = set.find(|paths| !paths.is_empty()).unwrap_or_default();
            // Paths are bytes, not text.
            let paths = paths.as_bytes().split(|&byte| byte == b',');
            let paths = paths.filter(|path| !path.is_empty());
            paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
        };
        Self {
            watch: if watch.is_empty() { from_environment() } else { watch },
            process: process.or_else(|| first_set(&PROCESS_VARIABLES, &get)),
        }
    }
}

/// The variables of the agent's kind that mean nothing to it, sorted: a misspelt option is not heeded.
///
/// Kubernetes sets variables for every Service, also for one that is called `reload` or
/// `reload-agent`; they are meant for nobody in particular.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let run = RunArgs::augment_args(clap::Command::new("run"));
    let mut known: Vec<_> = run.get_arguments().filter_map(|it| it.get_env()).collect();
    let others = [&WATCH_VARIABLES[..], &PROCESS_VARIABLES, &SIGNAL_VARIABLES];
    known.extend(others.into_iter().flatten().map(OsStr::new));
    let is_ours = |name: &OsString| name.as_bytes().starts_with(b"RELOAD_");
    let names = names.filter(|name| is_ours(name) && !known.contains(&name.as_os_str()));
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut unknown: Vec<_> = names.filter(|name| !is_of_a_service(name)).collect();
    unknown.sort_unstable();
    unknown
}

/// Whether Kubernetes calls a variable of a Service so: `X_SERVICE_HOST`, `X_PORT_80_TCP_ADDR`.
fn is_of_a_service(name: &str) -> bool {
    name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.contains("_PORT")
}

/// The value of the first variable that is set, and not to nothing.
pub fn first_set(names: &[&str], get: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    let value = names.iter().find_map(|name| get(name).filter(|value| !value.is_empty()))?;
    Some(value.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_variable_that_means_nothing_is_known() {
        fn check(names: &[&str], expected: &[&str]) {
            let unknown = unknown_variables(names.iter().map(OsString::from));
            assert_eq!(unknown, expected, "for {names:?}");
        }
        check(&["PATH", "WATCH", "FILE"], &[]);
        check(&["RELOAD_WATCH", "RELOAD_PROCESS", "RELOAD_SIGNAL", "RELOAD_DRY_RUN"], &[]);
        check(&["RELOAD_SETTLE_MAX", "RELOAD_LOG_LEVEL", "RELOAD_FORCE"], &[]);
        check(&["RELOAD_WATCHES", "RELOAD_MININTERVAL"], &["RELOAD_MININTERVAL", "RELOAD_WATCHES"]);
        check(&["RELOAD_AGENT_SERVICE_HOST", "RELOAD_AGENT_PORT_80_TCP_ADDR", "RELOAD_PORT"], &[]);
        check(&["RELOAD_AGENT_SERVICE_PORT_HTTP"], &[]);
    }

    #[test]
    fn the_first_variable_that_is_set_wins() {
        fn check(set: &[(&str, &str)], watch: &[&str], process: Option<&str>) {
            let get = |name: &str| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let args = RuleArgs { watch: Vec::new(), process: None }.or_environment(get);
            let expected: Vec<_> = watch.iter().map(PathBuf::from).collect();
            assert_eq!((args.watch, args.process.as_deref()), (expected, process), "for {set:?}");
        }
        check(&[], &[], None);
        check(&[("FILE", "/a"), ("PROCESS", "nginx")], &["/a"], Some("nginx"));
        check(&[("CONFIG_DIR", "/c,/d"), ("PROCESS_NAME", "x")], &["/c", "/d"], Some("x"));
        check(&[("RELOAD_WATCH", "/r"), ("FILE", "/a")], &["/r"], None);
        check(&[("PROCESS", "p"), ("RELOAD_PROCESS", "r")], &[], Some("r"));
        check(&[("PROCESS", "p"), ("RELOAD_PROCESS", "")], &[], Some("p"));
    }

    #[test]
    fn what_is_typed_wins_over_the_environment() {
        let typed = RuleArgs { watch: vec!["/typed".into()], process: Some("typed".to_owned()) };
        let args = typed.or_environment(|_| Some("environment".into()));
        assert_eq!(args.watch, [PathBuf::from("/typed")]);
        assert_eq!(args.process.as_deref(), Some("typed"));
    }
}
