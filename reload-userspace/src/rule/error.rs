//! Why rules cannot be carried out, in words that name what was said and the remedy.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use humantime::format_duration;

use super::{CommandError, EndpointError, SignalError};
use crate::cli::{self, Variables};

/// Why the command line or a file with rules cannot be carried out.
///
/// `option` is what was said as whoever said it calls it: `--settle`, `RELOAD_SETTLE`, `settle`.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// There is no path.
    #[error("there is nothing to watch; {remedy}")]
    NoWatch {
        /// What to say.
        remedy: String,
    },
    /// There is no selector, and an action is about processes.
    #[error("there is nobody to reload; {remedy}")]
    Nobody {
        /// What to say.
        remedy: String,
    },
    /// An option is about the processes to reload, and none are named.
    #[error("{option} is about the process to reload, and none is named; {remedy}")]
    AboutNobody {
        /// What was said.
        option: String,
        /// What to say.
        remedy: String,
    },
    /// Nothing was said.
    #[error("{option} is empty; give {what}")]
    Empty {
        /// What was said.
        option: String,
        /// What should have been.
        what: &'static str,
    },
    /// A process is named by a path.
    #[error("{option} {name:?} has a slash in it; give the name without its directories")]
    ProcessIsPath {
        /// What was said.
        option: String,
        /// The name.
        name: String,
    },
    /// The current directory, from which a relative path starts, is not known.
    #[error("cannot make {} absolute; give an absolute path", path.display())]
    Relative {
        /// The path as the user gave it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A path in a file is relative.
    #[error("{option} {} is relative; give it from the root, for the agent has no directory of its own", path.display())]
    NotAbsolute {
        /// What was said.
        option: String,
        /// The path.
        path: PathBuf,
    },
    /// Two options exclude each other.
    #[error("{first} and {second} both say {what}; give one of them")]
    Both {
        /// What was said.
        first: String,
        /// And what beside it.
        second: String,
        /// What they are about.
        what: &'static str,
    },
    /// There is no such signal.
    #[error("{option} {error}")]
    Signal {
        /// What was said.
        option: String,
        /// What is wrong with it.
        error: SignalError,
    },
    /// A text is no command.
    #[error("{option} {error}")]
    Command {
        /// What was said.
        option: String,
        /// What is wrong with it.
        error: CommandError,
    },
    /// A text is no URL.
    #[error("{option} {}", error.to_string().trim_start_matches("--post "))]
    Post {
        /// What was said.
        option: String,
        /// What is wrong with it.
        error: EndpointError,
    },
    /// An action says that it is none.
    #[error("{option} is false; give true, or leave it out")]
    False {
        /// What was said.
        option: String,
    },
    /// A change is given less time than quiet needs.
    #[error(
        "{option} is {}, more than {other}, which is {}; give a shorter {option} or a longer {other}",
        format_duration(*settle),
        format_duration(*most)
    )]
    LongSettle {
        /// What was said.
        option: String,
        /// How long must be quiet.
        settle: Duration,
        /// And what beside it.
        other: String,
        /// How long is waited at most.
        most: Duration,
    },
    /// A duration is too short.
    #[error("{option} is less than 1s; give at least that, for it is how often every file is read")]
    ShortReconcile {
        /// What was said.
        option: String,
    },
    /// What a rule says is said beside the file with rules.
    #[error("{option} is about one rule, and {config} names a file with rules; say it there")]
    BesideFile {
        /// What was said.
        option: String,
        /// And what beside it.
        config: String,
    },
    /// What a rule says is said to an agent for the pods of a node.
    #[error(
        "{option} is about one rule; the pods of a node say it, by annotations, or the file of --config"
    )]
    OfPods {
        /// What was said.
        option: String,
    },
    /// A pod names what it has not got.
    #[error("{option} {name:?}: the pod has no such {what}; it has {has}")]
    NotOfPod {
        /// What was said.
        option: String,
        /// What is not there.
        name: String,
        /// What kind of thing it is.
        what: &'static str,
        /// What is there.
        has: String,
    },
    /// There is no annotation of that name.
    #[error("there is no annotation {name}; the annotations are {known}")]
    Annotation {
        /// Its name.
        name: String,
        /// What there is.
        known: String,
    },
    /// There is no action of that name.
    #[error("{option} {given:?} is no action; give signal or restart")]
    NoAction {
        /// What was said.
        option: String,
        /// The name.
        given: String,
    },
    /// A rule of the node's file does not say for which pods it is.
    #[error(
        "it does not say for which pods it is; say `pods: {{namespace: NAME, labels: {{KEY: VALUE}}}}`, or `pods: {{}}` for all"
    )]
    NoPods,
    /// The annotation of a pod says that it is about others.
    #[error("`pods` is for the node's file; the annotation of a pod is about that pod")]
    ForeignPods,
    /// A check of a pod would keep others waiting.
    #[error("{option} is longer than the minute that a check of a pod may take; give less")]
    LongCheck {
        /// What was said.
        option: String,
    },
    /// A pod wants too much watched.
    #[error(
        "the rules of the pod watch more than {most} volumes together; name those that matter with `volumes`"
    )]
    TooManyVolumes {
        /// How many there may be.
        most: usize,
    },
    /// A list is too long.
    #[error("{option} has more than {most} {what}; give fewer")]
    LongList {
        /// What was said.
        option: String,
        /// How many there may be.
        most: usize,
        /// Of what.
        what: &'static str,
    },
    /// Two rules of a pod have the same name.
    #[error("two rules of the pod are called {name:?}; give each its own with `name:`")]
    SameNameInPod {
        /// The name.
        name: String,
    },
    /// A rule of the pod cannot be carried out.
    #[error("rule {rule}")]
    RuleOfPod {
        /// Its name, or its number.
        rule: String,
        /// What is wrong with it.
        source: Box<RuleError>,
    },
    /// A name cannot be one.
    #[error("name {name:?} is not of 1 to 63 characters, none a control character; give another")]
    Name {
        /// The name.
        name: String,
    },
    /// Two rules have the same name.
    #[error("the rule on line {line} has that name too; give each its own with `name:`")]
    SameName {
        /// Where the first one is.
        line: u64,
    },
    /// The file with rules cannot be read.
    #[error("cannot read the rules in {}: {error}; {}", path.display(), remedy(error))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is to hold the rules is no file.
    #[error("{} is no regular file; give --config one", path.display())]
    NoFile {
        /// Where.
        path: PathBuf,
    },
    /// The file with rules is too large to be one.
    #[error("{} is larger than 1 MiB; give a file with rules", path.display())]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// There are no rules in the file.
    #[error("there are no rules in {}; give at least one, below `rules:`", path.display())]
    NoRules {
        /// The file.
        path: PathBuf,
    },
    /// The file is not made as one with rules is.
    #[error("{}: {problem}", place(path, *line, *column))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1, or 0 where none is known.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What is wrong, and what to do about it.
        problem: String,
    },
    /// A rule of a file cannot be carried out.
    #[error("{}: rule {rule}", place(path, *line, *column))]
    Rule {
        /// The file.
        path: PathBuf,
        /// The line where the rule begins, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// The name of the rule, or its number.
        rule: String,
        /// What is wrong with it.
        source: Box<RuleError>,
    },
}

/// What to do where a file with rules cannot be read.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make it, or give --config another",
        io::ErrorKind::PermissionDenied => "let the agent read it",
        io::ErrorKind::InvalidData => "save it as UTF-8",
        _ => "see that it can be read",
    }
}

/// A place in a file as compilers write it.
fn place(path: &Path, line: u64, column: u64) -> String {
    match line {
        0 => path.display().to_string(),
        _ => format!("{}:{line}:{column}", path.display()),
    }
}

/// What the names of all annotations begin with.
pub const ANNOTATION: &str = "reload-agent.dev/";

/// Who says what is judged. It decides how options are called, and where relative paths start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Speaker<'a> {
    /// The command line, or the environment in its place.
    Options(&'a Variables),
    /// A file with rules, or a list of them.
    File,
    /// The annotations of a pod.
    Annotations,
}

impl Speaker<'_> {
    /// How an option is called, by the name of its field.
    pub(super) fn calls(self, id: &str) -> String {
        match self {
            Self::Options(variables) => {
                let variable = variables.get(id).cloned();
                variable.unwrap_or_else(|| format!("--{}", id.replace('_', "-")))
            }
            Self::Annotations => format!("{ANNOTATION}{}", id.replace('_', "-")),
            Self::File => {
                let mut words = id.split('_');
                let first = words.next().unwrap_or_default().to_owned();
                words.fold(first, |key, word| {
                    let (initial, rest) = word.split_at(1);
                    key + &initial.to_ascii_uppercase() + rest
                })
            }
        }
    }

    pub(super) fn no_watch(self) -> RuleError {
        let remedy = match self {
            Self::Options(_) => {
                format!("give --watch PATH, or set {}", cli::WATCH_VARIABLES.join(", "))
            }
            Self::File => "say `watch: PATH`".to_owned(),
            Self::Annotations => {
                "mount a ConfigMap, Secret, projected or downwardAPI volume".to_owned()
            }
        };
        RuleError::NoWatch { remedy }
    }

    pub(super) fn nobody(self) -> RuleError {
        let remedy = match self {
            Self::Options(_) => {
                format!("give --process NAME, or set {}", cli::PROCESS_VARIABLES.join(", "))
            }
            Self::File => "say `process: NAME`, or what else to do: post or exec".to_owned(),
            Self::Annotations => format!("set {ANNOTATION}process"),
        };
        RuleError::Nobody { remedy }
    }

    pub(super) fn about_nobody(self, id: &str) -> RuleError {
        let names = ["process", "exe", "pid_file"].map(|id| match self {
            Self::Options(_) => format!("--{}", id.replace('_', "-")),
            Self::File | Self::Annotations => self.calls(id),
        });
        let remedy = format!("give {}", names.join(" or "));
        RuleError::AboutNobody { option: self.calls(id), remedy }
    }
}
