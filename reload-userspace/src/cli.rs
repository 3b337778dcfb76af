//! The command line as the user typed it, and what the environment says in its place.
//!
//! Nothing here touches the system or judges a combination of options; [`crate::rule`] does.

#![expect(
    clippy::doc_markdown,
    rustdoc::broken_intra_doc_links,
    reason = "the doc comments are help texts, which are plain text"
)]

mod rule;
mod value;

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    net::SocketAddr,
    num::NonZeroU64,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    time::Duration,
};

use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::BoolishValueParser, parser::ValueSource,
};

pub use self::{
    rule::{
        ActionArgs, CHECK_TIMEOUT, CONFIRM_TIMEOUT, CheckPlace, HANDLER_TIMEOUT, MIN_INTERVAL,
        RuleArgs, SETTLE, SETTLE_MAX, StartChoice,
    },
    value::{Texts, duration},
};

/// The version, and the commit that it was built of.
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("RELOAD_COMMIT"), ")");

/// Reload a process when its configuration has changed
///
/// reload-agent sees a change of configuration files in the kernel, waits until it is complete, makes
/// sure that a signal is safe and needed, and signals exactly the right process.
#[derive(Clone, Debug, Parser)]
#[command(name = "reload-agent", version = VERSION)]
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
    /// Every option can be given as an environment variable instead, RELOAD_ and its name. One that is
    /// set to nothing counts as not set.
    Run(RunArgs),
    /// Reload the annotated pods of a Kubernetes node when their ConfigMaps and Secrets change
    ///
    /// Example: reload-agent node --node-name worker-1 --nudge
    ///
    /// A pod opts in with the annotation `reload-agent.dev/process: nginx`; it needs no sidecar and no
    /// shared pid namespace. docs/kubernetes.md explains it, deploy/daemonset installs it.
    Node(NodeArgs),
    /// Show where the time of each change goes: written, complete, signalled, read
    ///
    /// Example: reload-agent trace --watch /etc/nginx --process nginx
    ///
    /// It only looks, and so also shows what other reloaders do. docs/trace.md explains what it tells.
    Trace(TraceArgs),
    /// Say what works here, what does not, why, and what to grant
    ///
    /// Example: reload-agent doctor --watch /etc/nginx --process nginx
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
    /// File with rules, for more than one; a change of it is applied at once
    ///
    /// What else says what to watch, whom to reload or how is said in the file then. The other
    /// options count for each of its rules that does not say otherwise. docs/rules.md explains it.
    #[arg(long, value_name = "FILE", env = "RELOAD_CONFIG")]
    pub config: Option<PathBuf>,

    /// What to watch, whom to reload, and how
    #[command(flatten)]
    pub rule: RuleArgs,

    /// Directory in which the agent remembers what each process has
    ///
    /// With it a change that is made while the agent is down is applied when it is back, and nothing
    /// is applied twice.
    #[arg(long, value_name = "DIR", env = "RELOAD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// How often to compare the content even though nothing was seen
    #[arg(long, value_name = "DURATION", env = "RELOAD_RECONCILE", default_value = "30s")]
    #[arg(value_parser = value::span)]
    pub reconcile: Duration,

    /// Where events come from
    #[arg(long, value_name = "NAME", env = "RELOAD_SOURCE", value_enum, default_value = "auto")]
    pub source: SourceChoice,

    /// Where metrics and health are served: 9533, 127.0.0.1:9533, [::1]:9533 [default: nowhere]
    ///
    /// A port alone means all addresses of the machine or pod.
    #[arg(long, value_name = "ADDR", env = "RELOAD_LISTEN", value_parser = value::address)]
    pub listen: Option<SocketAddr>,

    /// Explain each rule, tell what would be done, and do nothing
    ///
    /// It goes on until it is stopped, and tells of each change; `reload-agent doctor` looks once.
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

    /// The options that were not typed but are in the environment, each with its variable.
    #[arg(skip)]
    pub variables: Variables,
}

/// By the name of the field of an option: the environment variable that its value was in.
pub type Variables = BTreeMap<String, String>;

/// The options of `node`.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Name of the node, as Kubernetes calls it
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: String,

    /// Directory of the kubelet, with the volumes of the pods in it
    #[arg(
        long,
        value_name = "DIR",
        env = "RELOAD_KUBELET_DIR",
        default_value = "/var/lib/kubelet"
    )]
    pub kubelet_dir: PathBuf,

    /// Have the kubelet look at once when a ConfigMap or Secret of a pod changes, and not within a minute
    ///
    /// The agent then watches ConfigMaps and Secrets (their names and versions, not what is in them), and
    /// sets the annotation reload-agent.dev/nudged of the pods that use one which has changed.
    #[arg(long, env = "RELOAD_NUDGE", value_parser = BoolishValueParser::new())]
    pub nudge: bool,

    /// What counts for every rule that does not say otherwise, and how the agent works
    #[command(flatten)]
    pub run: RunArgs,
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

/// The options of `trace`.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// File or directory whose changes are told
    #[arg(long, value_name = "PATH", required = true)]
    pub watch: Vec<PathBuf>,

    /// Name of the process that reads it: of its signals, children and opens is told
    #[arg(long, value_name = "NAME")]
    pub process: Vec<String>,

    /// How many updates to tell of [default: until Ctrl-C]
    #[arg(long, value_name = "N")]
    pub count: Option<NonZeroU64>,

    /// For how long [default: until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = value::some_span)]
    pub span: Option<Duration>,

    /// How it is told: text, json, chrome for Perfetto and chrome://tracing, or html
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        hide_possible_values = true
    )]
    pub format: TraceFormat,

    /// File that it is written to [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Where events come from
    #[arg(long, value_name = "NAME", env = "RELOAD_SOURCE", value_enum, default_value = "auto")]
    pub source: SourceChoice,
}

/// How a trace is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceFormat {
    /// For people.
    Text,
    /// An object for each update.
    Json,
    /// Trace events.
    Chrome,
    /// A page.
    Html,
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

    /// Uid of the pod in one of whose containers that process must be
    #[arg(long, value_name = "UID", requires = "target")]
    pub pod: Option<String>,

    /// Which of its containers, with commas between them
    #[arg(long, value_name = "IDS", requires = "pod")]
    pub containers: Option<String>,

    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub words: Vec<String>,
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

impl Cli {
    /// Takes the command line apart, with what the environment says in place of options.
    ///
    /// # Errors
    ///
    /// Fails where an option is unknown or its value is none, and where help was asked for.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = Self::command().mut_subcommands(|command| {
            let is_node = command.get_name() == "node";
            command.mut_args(|option| {
                let option = if is_node { of_node(option) } else { option };
                let value = option.get_env().and_then(env::var_os);
                let is_nothing = value.is_some_and(|value| value.is_empty());
                if is_nothing { option.env(None::<&'static str>) } else { option }
            })
        });
        let matches = command.try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let variables = matches.subcommand().map(|(_, options)| variables(options));
        // The variables that several programs read are about one rule, which a node's agent is not.
        let is_node = matches!(cli.command, Command::Node(_));
        if let Some(run) = cli.command.run_mut() {
            run.variables = variables.unwrap_or_default();
            if !is_node {
                run.ask(|name| env::var_os(name));
            }
        }
        Ok(cli)
    }
}

/// An option as `node` has it: what is about one rule is said by the pods, or in the file.
fn of_node(option: clap::Arg) -> clap::Arg {
    match option.get_id().as_str() {
        "config" => option.help("File with rules for pods that have no annotations").long_help(
            "File with rules for pods that have no annotations\n\nEach names the pods by namespace, \
             name and labels. docs/kubernetes.md explains it.",
        ),
        "watch" | "process" | "exe" | "pid_file" | "all" | "exec" | "signal" | "post"
        | "restart" | "check" | "check_in" => option.hide(true),
        _ => option,
    }
}

impl Command {
    fn run_mut(&mut self) -> Option<&mut RunArgs> {
        match self {
            Self::Run(run) => Some(run),
            Self::Doctor(doctor) => Some(&mut doctor.run),
            Self::Node(node) => Some(&mut node.run),
            Self::Trace(_) | Self::Inside(_) => None,
        }
    }
}

/// Which of the options are in the environment, and where.
fn variables(options: &ArgMatches) -> Variables {
    let ids = options.ids().map(clap::Id::as_str);
    let is_variable = |id: &&str| {
        // What is no option is a group of them, and has no source.
        options.try_contains_id(id).is_ok()
            && options.value_source(id) == Some(ValueSource::EnvVariable)
    };
    ids.filter(is_variable).map(|id| (id.to_owned(), variable(id))).collect()
}

/// The environment variable of an option, by the name of its field.
#[must_use]
pub fn variable(id: &str) -> String {
    format!("RELOAD_{}", id.to_ascii_uppercase())
}

impl RunArgs {
    /// Fills in what was not typed and may have several variables; the first that is set wins.
    ///
    /// Beside a file with rules only those that are the agent's own count: the others may be meant for
    /// whoever else reads them.
    fn ask(&mut self, get: impl Fn(&str) -> Option<OsString>) {
        let most = if self.config.is_some() { 1 } else { usize::MAX };
        let first = |names: &[&'static str]| {
            let mut set = names.iter().take(most).filter_map(|name| Some((*name, get(name)?)));
            set.find(|(_, value)| !value.is_empty())
        };
        let rule = &mut self.rule;
        if rule.watch.is_empty()
            && let Some((name, paths)) = first(&WATCH_VARIABLES)
        {
            // Paths are bytes, not text.
            let paths = paths.as_bytes().split(|&byte| byte == b',');
            let paths = paths.filter(|path| !path.is_empty());
            rule.watch = paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
            self.variables.insert("watch".to_owned(), name.to_owned());
        }
        let texts = [
            ("process", &mut rule.process, &PROCESS_VARIABLES[..]),
            ("signal", &mut rule.signal, &SIGNAL_VARIABLES),
        ];
        for (id, text, names) in texts {
            if text.is_none()
                && let Some((name, value)) = first(names)
            {
                *text = Some(value.to_string_lossy().into_owned());
                self.variables.insert(id.to_owned(), name.to_owned());
            }
        }
    }
}

/// The variables of the agent's kind that mean nothing to it, sorted: a misspelt option is not heeded.
///
/// Kubernetes sets variables for every Service, also for one that is called `reload` or
/// `reload-agent`; they are meant for nobody in particular.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let run = NodeArgs::augment_args(clap::Command::new("run"));
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

    fn typed(arguments: &[&str], set: &[(&str, &str)]) -> RunArgs {
        let arguments = ["reload-agent", "run"].iter().chain(arguments);
        let Command::Run(mut run) = Cli::parse_from(arguments).command else {
            unreachable!("it is what was typed");
        };
        run.ask(|name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        });
        run
    }

    #[test]
    fn the_first_variable_that_is_set_wins() {
        fn check(
            set: &[(&str, &str)],
            watch: &[&str],
            process: Option<&str>,
            signal: Option<&str>,
        ) {
            let rule = typed(&[], set).rule;
            let expected: Vec<_> = watch.iter().map(PathBuf::from).collect();
            assert_eq!(rule.watch, expected, "for {set:?}");
            assert_eq!((rule.process.as_deref(), rule.signal.as_deref()), (process, signal));
        }
        check(&[], &[], None, None);
        check(&[("FILE", "/a"), ("PROCESS", "nginx")], &["/a"], Some("nginx"), None);
        check(&[("CONFIG_DIR", "/c,/d"), ("PROCESS_NAME", "x")], &["/c", "/d"], Some("x"), None);
        check(&[("RELOAD_WATCH", "/r"), ("FILE", "/a"), ("SIGNAL", "1")], &["/r"], None, Some("1"));
        check(&[("PROCESS", "p"), ("RELOAD_PROCESS", "r")], &[], Some("r"), None);
        check(&[("PROCESS", "p"), ("RELOAD_PROCESS", "")], &[], Some("p"), None);
        check(&[("SIGNAL", "HUP"), ("RELOAD_SIGNAL", "USR1")], &[], None, Some("USR1"));
    }

    #[test]
    fn what_is_typed_wins_over_the_environment() {
        let set = [("FILE", "/set"), ("PROCESS", "set"), ("SIGNAL", "USR2")];
        let run = typed(&["--watch", "/typed", "--process", "typed"], &set);
        assert_eq!(run.rule.watch, [PathBuf::from("/typed")]);
        assert_eq!(run.rule.process.as_deref(), Some("typed"));
        let variables = [("signal".to_owned(), "SIGNAL".to_owned())];
        assert_eq!(run.variables, variables.into());
    }

    #[test]
    fn beside_a_file_with_rules_the_names_of_others_are_not_heeded() {
        let set = [("FILE", "/set"), ("PROCESS", "set"), ("RELOAD_SIGNAL", "USR2")];
        let run = typed(&["--config", "/rules.yaml"], &set);
        assert_eq!((run.rule.watch.len(), run.rule.process), (0, None));
        assert_eq!(run.rule.signal.as_deref(), Some("USR2"));
    }

    #[test]
    fn the_defaults_are_those_that_the_help_tells() {
        let run = RunArgs::augment_args(clap::Command::new("run"));
        let check = |id: &str, default: Duration| {
            let option = run.get_arguments().find(|it| it.get_id() == id).unwrap();
            let help = option.get_help().unwrap().to_string();
            let told = format!("[default: {}]", humantime::format_duration(default));
            assert!(help.ends_with(&told), "{help:?} does not end with {told}");
        };
        check("check_timeout", CHECK_TIMEOUT);
        check("confirm_timeout", CONFIRM_TIMEOUT);
        check("handler_timeout", HANDLER_TIMEOUT);
        check("min_interval", MIN_INTERVAL);
        check("settle", SETTLE);
        check("settle_max", SETTLE_MAX);
    }
}
