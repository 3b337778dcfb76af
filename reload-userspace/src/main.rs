//! Arguments in, exit code out.

use std::{
    collections::BTreeSet,
    env,
    io::{self, IsTerminal as _, Write},
    num::NonZeroU64,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use nix::unistd::Pid;
use reload_userspace::{
    agent::{Agent, Outlets, Rules, feed},
    child,
    cli::{
        self, Cli, Command, DoctorArgs, Format, InsideArgs, LogLevel, NodeArgs, RunArgs,
        SourceChoice, TraceArgs, TraceFormat,
    },
    clock,
    doctor::{self, Question},
    event::SourceName,
    explain::explain,
    node::{self, Node, Nudging},
    report::{Decision, Log, one_line},
    rights::Rights,
    rule::{self, CommandLine, RuleError, Settings},
    source::{Choice, Ladder, Purpose},
    sys,
    target::{Scope, Target},
    telemetry::{Metrics, Probes, Readiness, Server, Teller, herald},
    trace::{self, Trace},
    witness::Witness,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The exit status where the command line or a rule is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::read(env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // Before there is another thread, for each has its own.
    sys::capability::use_granted();
    // Each target and each watch may take a descriptor.
    sys::limit::raise_open_files();
    let done = match cli.command {
        Command::Run(args) => run(&args),
        Command::Node(args) => node(&args),
        Command::Trace(args) => trace(&args),
        Command::Doctor(args) => return doctor(&args).unwrap_or_else(|error| fail(&error)),
        Command::Inside(args) => return inside(args).unwrap_or_else(|error| fail(&error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // `{:#}` puts the whole chain on one line: what we tried, then each cause.
    complain(&format!("{error:#}"));
    if error.is::<RuleError>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

/// Prints help where it was asked for, and otherwise what is wrong with the command line: one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody is left to be told that standard output is closed.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        complain("say what to do: run, node, trace or doctor; see `reload-agent --help`");
        return ExitCode::from(USAGE);
    }
    let text = error.render().to_string();
    // A URL may stand behind the wrong option.
    let given = error.get(ContextKind::InvalidValue).or(error.get(ContextKind::InvalidArg));
    let text = match given {
        Some(ContextValue::String(given)) => text.replace(given, &rule::discreet(given)),
        _ => text,
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said = said.fold(String::new(), |said, line| match said.chars().next_back() {
        None => line.to_owned(),
        // A list follows.
        Some(':') => format!("{said} {line}"),
        Some(_) => format!("{said}; {line}"),
    });
    let said = name_variable(said.strip_prefix("error: ").unwrap_or(&said), error);
    let command = env::args()
        .nth(1)
        .filter(|word| ["run", "node", "trace", "doctor"].contains(&word.as_str()));
    let command = command.map(|command| format!(" {command}")).unwrap_or_default();
    complain(&format!("{said}; see `reload-agent{command} --help`"));
    ExitCode::from(USAGE)
}

/// Calls an option that nobody has typed by the environment variable that its value is from.
fn name_variable(said: &str, error: &clap::Error) -> String {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return said.to_owned();
    };
    let flag = option.split_whitespace().next().unwrap_or(option);
    let is_typed = env::args_os().skip(1).any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    if is_typed {
        return said.to_owned();
    }
    let id = flag.trim_start_matches("--").replace('-', "_");
    // What is no option was typed, behind another.
    if error.kind() != ErrorKind::UnknownArgument {
        return said.replace(&format!("'{option}'"), &cli::variable(&id));
    }
    let is_value = flag.starts_with('-') && !flag.starts_with("--");
    let remedy = "; a value that begins with a dash goes behind an equals sign: --option=VALUE";
    format!("{said}{}", if is_value { remedy } else { "" })
}

fn complain(text: &str) {
    drop(writeln!(io::stderr(), "reload-agent: {}", one_line(text)));
}

#[tokio::main(flavor = "current_thread")]
async fn run(args: &RunArgs) -> Result<()> {
    let started = clock::now();
    let log = Log { format: args.log_format, level: args.log_level };
    let rules = rule::from_args(args)?;
    let settings = Settings::new(args)?;
    diagnose(log);
    if settings.is_dry {
        // Told with all rights, as a run that is not dry would have them. Where nobody listens nobody
        // is to be told.
        drop(io::stdout().write_all(explain(&rules).as_bytes()));
    }
    let choice = choice(args.source);
    let rights = Rights::of(&rules, &settings, choice);
    heed(rights.give_up_to_open());
    tell_of_unknown_variables(log);

    let (stop, hangup) = (asked_to_stop()?, hangup()?);
    let server = settings.listen.map(|address| Server::bind(&address.to_string())).transpose()?;
    let mut source = Ladder::open(choice, Purpose::Reload, log.level == LogLevel::Debug)?;
    let witness = Witness::open(rights.wants_witness(), &mut source);
    // Whatever is started from here on is started without.
    heed(rights.give_up_to_work());
    let outlets = outlets(server, log)?;
    let rules = Rules::Given(rules);
    Agent::new(source, witness, rules, settings, outlets)?.run(started, stop, hangup).await
}

#[tokio::main(flavor = "current_thread")]
async fn node(args: &NodeArgs) -> Result<()> {
    let NodeArgs { node_name, kubelet_dir, nudge, run } = args;
    let started = clock::now();
    let log = Log { format: run.log_format, level: run.log_level };
    let (settings, defaults) = Settings::of_node(run)?;
    diagnose(log);
    let choice = choice(run.source);
    let rights = Rights::of(&[], &settings, choice);
    heed(rights.give_up_to_open());
    tell_of_unknown_variables(log);
    let (stop, hangup) = (asked_to_stop()?, hangup()?);
    let server = settings.listen.map(|address| Server::bind(&address.to_string())).transpose()?;
    let mut source = Ladder::open(choice, Purpose::Reload, log.level == LogLevel::Debug)?;
    let witness = Witness::open(rights.wants_witness(), &mut source);
    heed(rights.give_up_to_work());
    let mut outlets = outlets(server, log)?;
    let (feeder, feed) = feed();
    let (herald, heard) = herald(node::wants);
    let question = node::Question {
        name: node_name.clone(),
        kubelet_dir: kubelet_dir.clone(),
        nudge: if *nudge { Nudging::On } else { Nudging::Off },
        file: settings.origin.file().map(Path::to_owned),
        defaults,
    };
    let node = Node::new(question, feeder, heard, outlets.teller.clone())?;
    outlets.teller.herald = Some(herald);
    let agent = Agent::new(source, witness, Rules::Fed(feed), settings, outlets)?;
    node.start()?;
    agent.run(started, stop, hangup).await
}

#[tokio::main(flavor = "current_thread")]
async fn trace(args: &TraceArgs) -> Result<()> {
    let TraceArgs { watch, process, count, span, format, output, source } = args;
    diagnose(Log { format: Format::Text, level: LogLevel::Info });
    let paths =
        watch.iter().map(|path| rule::watch_path(path)).collect::<Result<BTreeSet<_>, _>>()?;
    let paths: Vec<_> = paths.into_iter().collect();
    let names = process.iter().map(|name| rule::process(name)).collect::<Result<_, _>>()?;
    let rights = Rights::to_trace();
    heed(rights.give_up_to_open());
    let format = match format {
        TraceFormat::Text => {
            trace::Format::Text { has_colour: output.is_none() && io::stdout().is_terminal() }
        }
        TraceFormat::Json => trace::Format::Json,
        TraceFormat::Chrome => trace::Format::Chrome,
        TraceFormat::Html => trace::Format::Html,
    };
    let (stop, hung_up) = (asked_to_stop()?, hung_up()?);
    let mut source = Ladder::open(choice(*source), Purpose::Trace, false)?;
    let witness = Witness::open(rights.wants_witness(), &mut source);
    // Before anything is watched: it may be in the way of what is.
    let to: Box<dyn Write + Send> = match output {
        Some(path) => Box::new(trace::create(path, &paths)?),
        None => Box::new(io::stdout()),
    };
    heed(rights.give_up_to_work());
    let count = count.map(NonZeroU64::get);
    let question = trace::Question { paths, names, count, span: *span };
    let mut trace = Trace::new(question, source, witness, trace::Output::new(format, to))?;
    for line in trace.preface() {
        drop(writeln!(io::stderr(), "{}", one_line(&line)));
    }
    drop(writeln!(io::stderr(), "ready; Ctrl-C ends it with a summary"));
    trace
        .run(async {
            // A terminal that is closed is no reason to lose what was seen.
            tokio::select! {
                _ = stop => {}
                () = hung_up => {}
            }
        })
        .await
}

/// Tells of variables that are none of its options.
fn tell_of_unknown_variables(log: Log) {
    let unknown = unknown_variables();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        let reason = format!("no option is called {unknown}: see `reload-agent run --help`");
        log.tell(&Decision::Warning { rule: None, reason });
    }
}

/// Waits until the agent is asked to stop, and says how.
fn asked_to_stop() -> Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

fn hangup() -> Result<Signal> {
    signal(SignalKind::hangup()).context("cannot listen for SIGHUP")
}

/// Waits until the terminal is closed, unless that is to be ignored, as under `nohup`.
fn hung_up() -> Result<impl Future<Output = ()>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    let hangup = ignored.is_none_or(|set| set & 1 == 0).then(hangup).transpose()?;
    Ok(async move {
        match hangup {
            Some(mut hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    })
}

/// Tells that the agent has more rights than it needs.
fn heed(given_up: io::Result<()>) {
    if let Err(error) = given_up {
        tracing::warn!(%error, "capabilities that are not needed are kept");
    }
}

/// The log, and the metrics and the health if they are to be served.
fn outlets(server: Option<Server>, log: Log) -> Result<Outlets> {
    let readiness = Readiness::default();
    let Some(server) = server else {
        let teller = Teller { log, metrics: None, herald: None };
        return Ok(Outlets { teller, probes: Probes::none(), listen: None, readiness });
    };
    let metrics = Arc::new(Metrics::new());
    let listen = Some(server.address());
    let probes = server.start(Arc::clone(&metrics), readiness.clone())?;
    let teller = Teller { log, metrics: Some(metrics), herald: None };
    Ok(Outlets { teller, probes, listen, readiness })
}

fn inside(args: InsideArgs) -> Result<ExitCode> {
    let InsideArgs { target, started, pod, containers, words } = args;
    let scope = match pod {
        Some(uid) => Scope::pod(&uid, containers.as_deref())?,
        None => Scope::Anywhere,
    };
    let target = target.zip(started);
    let target = target.map(|(pid, started)| (Target { pid: Pid::from_raw(pid), started }, scope));
    Ok(child::inside::run(&CommandLine::new(words)?, target.as_ref()))
}

#[tokio::main(flavor = "current_thread")]
async fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let DoctorArgs { run, format } = args;
    // What `run` would refuse is refused here.
    let settings = Settings::new(run)?;
    let question = Question {
        rules: rule::sketches(run)?,
        choice: choice(run.source),
        state_dir: settings.state_dir,
        listen: settings.listen,
        unknown_variables: unknown_variables(),
    };
    let report = doctor::examine(&question);
    let text = match format {
        Format::Text => report.text(),
        Format::Json => report.json().context("the report is no JSON")? + "\n",
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write the report")?;
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choice(source: SourceChoice) -> Choice {
    match source {
        SourceChoice::Auto => Choice::Best,
        SourceChoice::Ebpf => Choice::Only(SourceName::Ebpf),
        SourceChoice::Fanotify => Choice::Only(SourceName::Fanotify),
        SourceChoice::Inotify => Choice::Only(SourceName::Inotify),
        SourceChoice::Poll => Choice::Only(SourceName::Poll),
    }
}

/// The variables that look like options and are none, as names that cannot end a line.
fn unknown_variables() -> Vec<String> {
    let names = cli::unknown_variables(env::vars_os().map(|(name, _)| name));
    names.iter().map(|name| one_line(name)).collect()
}

/// Writes what is not a decision to standard error as well: what led to one, at the level `debug`.
fn diagnose(log: Log) {
    let (ours, others) = match log.level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn | LogLevel::Info => (LevelFilter::WARN, LevelFilter::WARN),
        // What aya tells of loading an object is no answer to any question of an operator's.
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
    };
    // What goes wrong between the agent and the API server it tells itself, in its own words.
    let client = if log.level == LogLevel::Debug { others } else { LevelFilter::OFF };
    let filter = Targets::new()
        .with_target("reload_userspace", ours)
        .with_target("reload_ebpf", ours)
        .with_targets(["kube_client", "kube_runtime"].map(|it| (it, client)))
        .with_default(others);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry();
    match log.format {
        Format::Text => registry.with(layer.with_filter(filter)).init(),
        Format::Json => {
            registry.with(layer.json().flatten_event(true).with_filter(filter)).init();
        }
    }
}
