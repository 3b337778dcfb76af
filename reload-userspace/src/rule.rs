//! What to watch, whom to reload, and how: what the user typed, judged.
//!
//! **Invariant:** a [`Rule`] is valid. Its fields are private, and [`from_args`] and [`read_file`] are
//! the only ways to one, so no code past this folder asks again whether a path is absolute.

mod action;
mod check;
mod command;
mod endpoint;
mod error;
mod file;
mod pod;
mod signal;
mod sketch;

use std::{
    borrow::Cow,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use self::{
    error::Speaker,
    sketch::{absolute, process_name},
};
use crate::{
    cli::{RuleArgs, RunArgs, Variables},
    preflight::Caution,
    settle::Limits,
    target::{PodUid, Scope, Selector},
    watch::Reach,
};

pub use self::{
    action::Action,
    check::{Check, CheckIn},
    command::{CommandError, CommandLine},
    endpoint::{Endpoint, EndpointError, Scheme, discreet},
    error::{ANNOTATION, RuleError},
    file::{RulesFile, RulesText, parse_file, read_file, read_text},
    pod::{
        NodeFile, PodRule, PodRuleArgs, PodSelector, parse_list, parse_node_file, read_node_file,
    },
    signal::{SignalError, SignalNumber},
    sketch::Sketch,
};

/// How long the kubelet is given to remove the old directory of a volume after the swap.
const VOLUME_TIMEOUT: Duration = Duration::from_millis(200);

/// The longest name that a rule can be given.
const MOST_CHARACTERS: usize = 63;

/// What to watch, whom to reload, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    name: String,
    sketch: Sketch,
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
    /// Where metrics and health are served.
    pub listen: Option<SocketAddr>,
    /// Where the rules come from.
    pub origin: Origin,
}

/// Where rules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The options are the only one.
    Options,
    /// A file, which may change.
    File(Box<RulesFile>),
    /// The pods of a node, which come and go.
    Pods {
        /// What is said for them besides, if there is a file for it.
        file: Option<PathBuf>,
        /// When a change of that is complete.
        pace: Pace,
    },
}

impl Origin {
    /// The file that says rules, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Options => None,
            Self::File(file) => Some(&file.path),
            Self::Pods { file, .. } => file.as_deref(),
        }
    }
}

/// The rules that the options are, or those in the file that they name.
///
/// # Errors
///
/// Each says what is wrong with what was said, and what to say instead.
pub fn from_args(args: &RunArgs) -> Result<Vec<Rule>, RuleError> {
    match RulesFile::new(args)? {
        Some(RulesFile { path, defaults }) => read_file(&path, &defaults),
        None => Ok(vec![Rule::new(&args.rule, Speaker::Options(&args.variables))?]),
    }
}

/// The same, except that options which are the rule may say less than one needs.
///
/// # Errors
///
/// As [`from_args`].
pub fn sketches(args: &RunArgs) -> Result<Vec<Sketch>, RuleError> {
    if args.config.is_some() {
        return Ok(from_args(args)?.into_iter().map(|rule| rule.sketch).collect());
    }
    Ok(vec![Sketch::new(&args.rule, Speaker::Options(&args.variables))?])
}

impl Rule {
    /// Judges what was said.
    fn new(said: &RuleArgs, speaker: Speaker<'_>) -> Result<Self, RuleError> {
        let name = said.name.clone().map(|name| {
            let is_good = (1..=MOST_CHARACTERS).contains(&name.chars().count())
                && !name.contains(char::is_control);
            if is_good { Ok(name) } else { Err(RuleError::Name { name: discreet(&name) }) }
        });
        let name = name.transpose()?;
        let sketch = Sketch::new(said, speaker)?.complete(said, speaker)?;
        Ok(Self { name: name.unwrap_or_else(|| sketch.name()), sketch })
    }

    /// A rule that does nothing, about the file that the rules come from.
    #[must_use]
    pub fn about(path: PathBuf, pace: Pace) -> Self {
        let pace = Pace { on_start: OnStart::Skip, ..pace };
        let name = path.display().to_string();
        let watches = vec![path];
        let reach = Reach::Anywhere;
        let sketch =
            Sketch { watches, reach, selector: None, actions: Vec::new(), check: None, pace };
        Self { name, sketch }
    }

    /// What no other rule is called, as long as there are rules: a pod may get the name of one that is gone.
    #[must_use]
    pub fn identity(&self) -> Cow<'_, str> {
        match self.pod() {
            Some(uid) => Cow::Owned(format!("{}@{uid}", self.name)),
            None => Cow::Borrowed(&self.name),
        }
    }

    /// The pod that it is about, if it is about one.
    #[must_use]
    pub fn pod(&self) -> Option<PodUid> {
        match self.selector()?.scope {
            Scope::Pod { uid, .. } => Some(uid),
            Scope::Anywhere => None,
        }
    }

    /// The same, of which nothing leads out of what it watches.
    #[cfg(test)]
    pub(crate) fn beneath(mut self) -> Self {
        self.sketch.reach = Reach::Beneath;
        self
    }

    /// Whether it is [about the rules](Self::about) and no rule of the operator's.
    #[must_use]
    pub fn is_about_rules(&self) -> bool {
        self.actions().is_empty()
    }

    /// What the rule is called in logs, metrics and the ledger.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The paths to watch, all absolute.
    #[must_use]
    pub fn watches(&self) -> &[PathBuf] {
        &self.sketch.watches
    }

    /// How far these reach.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.sketch.reach
    }

    /// Whom to reload, if it is about processes.
    #[must_use]
    pub fn selector(&self) -> Option<&Selector> {
        self.sketch.selector.as_ref()
    }

    /// What to do, in this order.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.sketch.actions
    }

    /// What content must pass first.
    #[must_use]
    pub fn check(&self) -> Option<&Check> {
        self.sketch.check.as_ref()
    }

    /// When, and how carefully.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.sketch.pace
    }
}

impl Settings {
    /// Judges what the user typed.
    ///
    /// # Errors
    ///
    /// Fails where a duration makes no sense.
    pub fn new(args: &RunArgs) -> Result<Self, RuleError> {
        let speaker = Speaker::Options(&args.variables);
        if args.reconcile < Duration::from_secs(1) {
            return Err(RuleError::ShortReconcile { option: speaker.calls("reconcile") });
        }
        let state_dir = args.state_dir.as_deref().map(|dir| absolute(dir, "state_dir", speaker));
        Ok(Self {
            reconcile: args.reconcile,
            is_dry: args.dry_run,
            state_dir: state_dir.transpose()?,
            listen: args.listen,
            origin: RulesFile::new(args)?.map_or(Origin::Options, |it| Origin::File(Box::new(it))),
        })
    }

    /// Judges what the user typed of an agent for the pods of a node, and gives what counts for rules that
    /// do not say otherwise.
    ///
    /// # Errors
    ///
    /// Fails where a duration makes no sense, and where what is about one rule was said.
    pub fn of_node(args: &RunArgs) -> Result<(Self, RuleArgs), RuleError> {
        let speaker = Speaker::Options(&args.variables);
        if let Some(id) = file::about_one_rule(&args.rule) {
            return Err(RuleError::OfPods { option: speaker.calls(id) });
        }
        let pace = sketch::pace(&args.rule, speaker)?;
        let settings = Self::new(&RunArgs { config: None, ..args.clone() })?;
        let file = args.config.as_deref().map(|path| absolute(path, "config", speaker));
        let origin = Origin::Pods { file: file.transpose()?, pace };
        Ok((Self { origin, ..settings }, args.rule.clone()))
    }
}

/// A path that is typed to be watched.
///
/// # Errors
///
/// Fails where it is empty, or the current directory is not known.
pub fn watch_path(path: &Path) -> Result<PathBuf, RuleError> {
    absolute(path, "watch", Speaker::Options(&Variables::new()))
}

/// The name of a process that is typed.
///
/// # Errors
///
/// Fails where it is empty, or has a slash in it.
pub fn process(name: &str) -> Result<String, RuleError> {
    process_name(name, Speaker::Options(&Variables::new()))
}

#[cfg(test)]
mod tests {

    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command, Variables},
        target::{By, Scope, Which},
    };

    fn typed(arguments: &str) -> RunArgs {
        let words = shell_words::split(&format!("reload-agent run {arguments}")).unwrap();
        let Command::Run(run) = Cli::parse_from(words).command else {
            unreachable!("it is what was typed");
        };
        run
    }

    fn rule(arguments: &str) -> Rule {
        from_args(&typed(arguments)).unwrap().remove(0)
    }

    #[test]
    fn each_bad_value_is_named_with_its_remedy() {
        #[track_caller]
        fn check(arguments: &str, expected: &str) {
            let rules = from_args(&typed(arguments)).map_err(|error| error.to_string());
            assert_eq!(rules.unwrap_err(), expected, "for {arguments}");
        }
        check(
            "--process x",
            "there is nothing to watch; give --watch PATH, or set RELOAD_WATCH, FILE, CONFIG_DIR",
        );
        let nobody = "there is nobody to reload; give --process NAME, or set RELOAD_PROCESS, \
                      PROCESS, PROCESS_NAME";
        check("--watch /a", nobody);
        check("--watch /a --restart", nobody);
        check("--watch /a --signal HUP --exec a", nobody);
        check(
            "--watch /a --process ' '",
            "--process is empty; give the name of a process, as in /proc/<pid>/comm",
        );
        check(
            "--watch /a --process /usr/sbin/nginx",
            "--process \"/usr/sbin/nginx\" has a slash in it; give the name without its directories",
        );
        check(
            "--watch /a --process x --signal HUPP",
            "--signal \"HUPP\" is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, or a \
             number from 1 to 64",
        );
        check(
            "--watch /a --process x --pid-file /p",
            "--process and --pid-file both say whom to reload; give one of them",
        );
        check("--watch /a --exec ' '", "--exec is empty; give a program and its arguments");
        check(
            "--watch /a --post ''",
            "--post is empty; give a URL, as in http://127.0.0.1:9090/-/reload",
        );
        check(
            "--watch /a --exec a --all",
            "--all is about the process to reload, and none is named; give --process or --exe or \
             --pid-file",
        );
        check(
            "--watch /a --exec a --check a --check-in target",
            "--check-in is about the process to reload, and none is named; give --process or --exe \
             or --pid-file",
        );
        check(
            "--watch /a --process x --settle 3s",
            "--settle is 3s, more than --settle-max, which is 2s; give a shorter --settle or a \
             longer --settle-max",
        );
        check(
            "--config /r.yaml --restart",
            "--restart is about one rule, and --config names a file with rules; say it there",
        );
        check(
            "--config /r.yaml --settle 3s",
            "--settle is 3s, more than --settle-max, which is 2s; give a shorter --settle or a \
             longer --settle-max",
        );
    }

    #[test]
    fn what_is_in_the_environment_is_called_by_its_variable() {
        #[track_caller]
        fn check(arguments: &str, id: &str, variable: &str, expected: &str) {
            let variables = Variables::from([(id.to_owned(), variable.to_owned())]);
            let run = RunArgs { variables, ..typed(arguments) };
            assert_eq!(from_args(&run).unwrap_err().to_string(), expected, "for {arguments}");
        }
        check(
            "--watch /a --process x --signal 0",
            "signal",
            "SIGNAL",
            "SIGNAL \"0\" is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, or a number \
             from 1 to 64",
        );
        check(
            "--watch /a --process x --settle 3s",
            "settle_max",
            "RELOAD_SETTLE_MAX",
            "--settle is 3s, more than RELOAD_SETTLE_MAX, which is 2s; give a shorter --settle or \
             a longer RELOAD_SETTLE_MAX",
        );
        check(
            "--config /r.yaml --check a",
            "config",
            "RELOAD_CONFIG",
            "--check is about one rule, and RELOAD_CONFIG names a file with rules; say it there",
        );
    }

    #[test]
    fn a_relative_path_starts_at_the_current_directory() {
        let here = std::env::current_dir().unwrap();
        let rule = rule("--watch conf.d/../x --process x");
        assert_eq!(rule.watches(), [here.join("conf.d/../x")]);
        let settings = Settings::new(&typed("--state-dir state --config r.yaml")).unwrap();
        assert_eq!(settings.state_dir.as_deref(), Some(here.join("state").as_path()));
        assert_eq!(settings.origin.file(), Some(here.join("r.yaml").as_path()));
    }

    #[test]
    fn whom_to_reload_is_said_in_one_of_three_ways() {
        fn check(arguments: &str, by: By, which: Which) {
            let rule = rule(&format!("--watch /a {arguments}"));
            assert_eq!(
                rule.selector(),
                Some(&Selector { by, which, scope: Scope::Anywhere }),
                "for {arguments}"
            );
        }
        check("--process x", By::Process("x".to_owned()), Which::Topmost);
        check("--exe /bin/x --all", By::Exe("/bin/x".into()), Which::All);
        check("--pid-file /run/x", By::PidFile("/run/x".into()), Which::Topmost);
        assert_eq!(rule("--watch /a --exec 'b c'").selector(), None);
    }

    #[test]
    fn options_are_carried_out_in_a_fixed_order() {
        fn check(arguments: &str, expected: &[&str]) {
            let rule = rule(&format!("--watch /a --process x {arguments}"));
            let actions: Vec<_> = rule.actions().iter().map(Action::to_string).collect();
            assert_eq!(actions, expected, "for {arguments}");
        }
        check("", &["signal HUP"]);
        check("--exec 'a b'", &["exec a b"]);
        check(
            "--restart --post http://x/ --signal USR1 --exec a",
            &["exec a", "signal USR1", "post http://x/", "restart"],
        );
    }

    #[test]
    fn a_check_is_what_was_said() {
        let rule = rule("--watch /a --process x --check 'nginx -t' --check-in target");
        let check = rule.check().unwrap();
        assert_eq!((check.command.program(), check.place), ("nginx", CheckIn::Target));
        assert_eq!(check.timeout, Duration::from_secs(10));
    }

    #[test]
    fn a_sketch_may_lack_what_a_rule_needs() {
        let sketches = sketches(&typed("--watch /a")).unwrap();
        assert_eq!(sketches.len(), 1);
        assert_eq!(sketches[0].watches, [Path::new("/a")]);
        assert_eq!(sketches[0].selector, None);
    }
}
