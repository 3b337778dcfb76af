//! What was said, judged, though some of it may be missing yet.

use std::path::{Path, PathBuf};

use super::{
    Action, Check, CheckIn, CommandError, CommandLine, Endpoint, OnStart, Pace, RuleError,
    SignalNumber, VOLUME_TIMEOUT, endpoint::discreet, error::Speaker,
};
use crate::{
    cli::{self, ActionArgs, CheckPlace, RuleArgs, StartChoice, Texts},
    preflight::Caution,
    settle::Limits,
    target::{By, Scope, Selector, Which},
    watch::Reach,
};

/// What a rule says of which some may be missing: there may be nothing to watch and nobody to reload.
///
/// `run` asks for more, see [`super::Rule`]; `doctor` looks at what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// The paths to watch, all absolute.
    pub watches: Vec<PathBuf>,
    /// How far the watches reach.
    pub reach: Reach,
    /// Whom to reload, if it is about processes.
    pub selector: Option<Selector>,
    /// What to do, in this order; at least one.
    pub actions: Vec<Action>,
    /// What content must pass first.
    pub check: Option<Check>,
    /// When, and how carefully.
    pub pace: Pace,
}

impl Sketch {
    /// Judges what was said.
    pub(super) fn new(said: &RuleArgs, speaker: Speaker<'_>) -> Result<Self, RuleError> {
        let watches = said.watch.iter().map(|path| absolute(path, "watch", speaker));
        Ok(Self {
            watches: watches.collect::<Result<_, _>>()?,
            reach: Reach::Anywhere,
            selector: selector(said, speaker)?,
            actions: actions(said, speaker)?,
            check: check(said, speaker)?,
            pace: pace(said, speaker)?,
        })
    }

    /// Makes sure that nothing is missing.
    pub(super) fn complete(self, said: &RuleArgs, speaker: Speaker<'_>) -> Result<Self, RuleError> {
        if self.watches.is_empty() {
            return Err(speaker.no_watch());
        }
        if self.selector.is_none() {
            if self.actions.iter().any(|action| action.signal().is_some()) {
                return Err(speaker.nobody());
            }
            if said.all == Some(true) {
                return Err(speaker.about_nobody("all"));
            }
            if self.check.as_ref().is_some_and(|check| check.place == CheckIn::Target) {
                return Err(speaker.about_nobody("check_in"));
            }
        }
        Ok(self)
    }

    /// What the rule is called unless it says so: whom it reloads, or what it does.
    pub(super) fn name(&self) -> String {
        let action = || self.actions.first().map(ToString::to_string).unwrap_or_default();
        self.selector.as_ref().map_or_else(action, ToString::to_string)
    }
}

fn selector(said: &RuleArgs, speaker: Speaker<'_>) -> Result<Option<Selector>, RuleError> {
    let RuleArgs { process, exe, pid_file, all, .. } = said;
    let process = process.as_deref().map(|name| process_name(name, speaker).map(By::Process));
    let exe = exe.as_deref().map(|path| absolute(path, "exe", speaker).map(By::Exe));
    let pid_file =
        pid_file.as_deref().map(|path| absolute(path, "pid_file", speaker).map(By::PidFile));
    let given = [("process", process), ("exe", exe), ("pid_file", pid_file)];
    let mut given = given.into_iter().filter_map(|(id, by)| Some((id, by?)));
    let Some((first, by)) = given.next() else {
        return Ok(None);
    };
    if let Some((second, _)) = given.next() {
        let (first, second) = (speaker.calls(first), speaker.calls(second));
        return Err(RuleError::Both { first, second, what: "whom to reload" });
    }
    let which = if *all == Some(true) { Which::All } else { Which::Topmost };
    Ok(Some(Selector { by: by?, which, scope: Scope::Anywhere }))
}

pub(super) fn process_name(name: &str, speaker: Speaker<'_>) -> Result<String, RuleError> {
    if name.trim().is_empty() {
        let what = "the name of a process, as in /proc/<pid>/comm";
        return Err(RuleError::Empty { option: speaker.calls("process"), what });
    }
    if name.contains('/') {
        let option = speaker.calls("process");
        return Err(RuleError::ProcessIsPath { option, name: discreet(name) });
    }
    Ok(name.to_owned())
}

fn actions(said: &RuleArgs, speaker: Speaker<'_>) -> Result<Vec<Action>, RuleError> {
    let RuleArgs { exec, signal, post, restart, actions, .. } = said;
    let exec = exec.clone().map(ActionArgs::Exec);
    let signal = signal.clone().map(ActionArgs::Signal);
    let post = post.clone().map(ActionArgs::Post);
    // What nobody asked for is false as an option.
    let restart = restart.filter(|&is_meant| is_meant).map(ActionArgs::Restart);
    let mut listed: Vec<_> = [exec, signal, post, restart].into_iter().flatten().collect();
    if let Some(actions) = actions {
        if let Some(first) = listed.first() {
            let (first, second) = (speaker.calls("actions"), speaker.calls(id(first)));
            return Err(RuleError::Both { first, second, what: "what to do" });
        }
        if actions.is_empty() {
            let what = "at least one of exec, signal, post and restart";
            return Err(RuleError::Empty { option: speaker.calls("actions"), what });
        }
        listed.clone_from(actions);
    }
    if listed.is_empty() {
        return Ok(vec![Action::Signal(SignalNumber::HUP)]);
    }
    listed.iter().map(|action| self::action(action, speaker)).collect()
}

/// The name of the field that says the same.
fn id(action: &ActionArgs) -> &'static str {
    match action {
        ActionArgs::Exec(_) => "exec",
        ActionArgs::Signal(_) => "signal",
        ActionArgs::Post(_) => "post",
        ActionArgs::Restart(_) => "restart",
    }
}

fn action(said: &ActionArgs, speaker: Speaker<'_>) -> Result<Action, RuleError> {
    let option = speaker.calls(id(said));
    match said {
        ActionArgs::Exec(command) => Ok(Action::Exec(self::command(command, option)?)),
        ActionArgs::Signal(signal) => {
            let signal = signal.parse().map_err(|error| RuleError::Signal { option, error })?;
            Ok(Action::Signal(signal))
        }
        ActionArgs::Post(url) => {
            let endpoint: Result<Endpoint, _> = url.parse();
            Ok(Action::Post(endpoint.map_err(|error| RuleError::Post { option, error })?))
        }
        ActionArgs::Restart(true) => Ok(Action::Restart),
        ActionArgs::Restart(false) => Err(RuleError::False { option }),
    }
}

fn command(said: &Texts, option: String) -> Result<CommandLine, RuleError> {
    let command: Result<_, CommandError> = match said {
        Texts::One(text) => text.parse(),
        Texts::Many(words) => CommandLine::new(words.clone()),
    };
    command.map_err(|error| RuleError::Command { option, error })
}

fn check(said: &RuleArgs, speaker: Speaker<'_>) -> Result<Option<Check>, RuleError> {
    let Some(check) = &said.check else {
        return Ok(None);
    };
    let place = match said.check_in {
        None => CheckIn::default(),
        Some(CheckPlace::Agent) => CheckIn::Agent,
        Some(CheckPlace::Target) => CheckIn::Target,
    };
    let timeout = said.check_timeout.unwrap_or(cli::CHECK_TIMEOUT);
    Ok(Some(Check { command: command(check, speaker.calls("check"))?, place, timeout }))
}

/// When, and how carefully.
pub(super) fn pace(said: &RuleArgs, speaker: Speaker<'_>) -> Result<Pace, RuleError> {
    let settle = said.settle.unwrap_or(cli::SETTLE);
    let most = said.settle_max.unwrap_or(cli::SETTLE_MAX);
    if settle > most {
        let (option, other) = (speaker.calls("settle"), speaker.calls("settle_max"));
        return Err(RuleError::LongSettle { option, settle, other, most });
    }
    Ok(Pace {
        limits: Limits { quiet: settle, max: most, volume: VOLUME_TIMEOUT },
        caution: Caution {
            is_forced: said.force.unwrap_or_default(),
            handler_timeout: said.handler_timeout.unwrap_or(cli::HANDLER_TIMEOUT),
        },
        min_interval: said.min_interval.unwrap_or(cli::MIN_INTERVAL),
        confirm_timeout: said.confirm_timeout.unwrap_or(cli::CONFIRM_TIMEOUT),
        on_start: match said.on_start {
            None => OnStart::default(),
            Some(StartChoice::Skip) => OnStart::Skip,
            Some(StartChoice::Reload) => OnStart::Reload,
        },
    })
}

/// The path from the root; symlinks stay, for they are what is watched.
pub(super) fn absolute(path: &Path, id: &str, speaker: Speaker<'_>) -> Result<PathBuf, RuleError> {
    if path.as_os_str().is_empty() {
        let what = match id {
            "watch" => "the path of a file or directory",
            "state_dir" => "the path of a directory",
            _ => "the path of a file",
        };
        return Err(RuleError::Empty { option: speaker.calls(id), what });
    }
    match speaker {
        Speaker::Options(_) => std::path::absolute(path)
            .map_err(|source| RuleError::Relative { path: path.to_owned(), source }),
        Speaker::File | Speaker::Annotations if path.is_absolute() => Ok(path.to_owned()),
        Speaker::File | Speaker::Annotations => {
            let path = discreet(&path.to_string_lossy()).into();
            Err(RuleError::NotAbsolute { option: speaker.calls(id), path })
        }
    }
}
