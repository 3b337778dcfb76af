//! What is told of an update: what happened, when, and by whom.

use serde::Serialize;

use crate::{
    clock::Boot,
    event::{Event, Fate, Handling, Operation},
    rule::SignalNumber,
};

/// A milestone on the way of an update, in the order in which they are usually passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Somebody begins to write to a watched file.
    FirstWrite,
    /// Somebody writes to it for the last time.
    LastWrite,
    /// Whoever has written closes it.
    Closed,
    /// A name is moved over another: a file, a directory, the symlink `..data`.
    Swapped,
    /// Nothing more comes: the content is complete.
    Settled,
    /// Somebody who watches the files with inotify or fanotify has read that they changed.
    Noticed,
    /// A process sends the target a signal.
    Signalled,
    /// The target takes one that was so sent.
    Delivered,
    /// The target, or who comes from it, opens the content.
    Opened,
    /// The target makes new children.
    Forked,
    /// Those it had before end.
    Exited,
}

impl Stage {
    /// All, in order.
    pub(crate) const ALL: [Self; 11] = [
        Self::FirstWrite,
        Self::LastWrite,
        Self::Closed,
        Self::Swapped,
        Self::Settled,
        Self::Noticed,
        Self::Signalled,
        Self::Delivered,
        Self::Opened,
        Self::Forked,
        Self::Exited,
    ];

    /// For people.
    #[must_use]
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::FirstWrite => "first write",
            Self::LastWrite => "last write",
            Self::Closed => "closed",
            Self::Swapped => "swapped",
            Self::Settled => "settled",
            Self::Noticed => "noticed",
            Self::Signalled => "signalled",
            Self::Delivered => "delivered",
            Self::Opened => "opened",
            Self::Forked => "new children",
            Self::Exited => "old ended",
        }
    }
}

/// Who did something, or to whom it was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Who {
    /// The process in the pid namespace of the agent; none where it is not visible there.
    pub(crate) pid: Option<i32>,
    /// The name of its task.
    pub(crate) comm: Option<String>,
    /// The container or pod, as far as its control group tells.
    pub(crate) container: Option<String>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// When, for the first time in a row.
    pub(crate) at: Boot,
    /// And for the last.
    pub(crate) until: Boot,
    /// How often in a row.
    pub(crate) count: u64,
    /// The milestone that it may be, if any.
    pub(crate) stage: Option<Stage>,
    /// By whom.
    pub(crate) who: Who,
    /// What, in words.
    pub(crate) what: String,
    /// Since when there was the process that ends, if one does.
    pub(crate) born: Option<Boot>,
    /// Since when there is whoever opens the content, where another of that name has been there for longer.
    pub(crate) joined: Option<Boot>,
    /// Which stage it may be, and what is not known of it, if it is of none for all that is known.
    pub(crate) may_be: Option<(Stage, &'static str)>,
    /// The signal that it is about, if it is about one, after the process that it is for.
    pub(crate) signal: Option<(i32, i32)>,
}

impl Step {
    /// Something that happened once.
    #[must_use]
    pub(crate) fn new(at: Boot, stage: Option<Stage>, who: Who, what: String) -> Self {
        let (born, joined, may_be, signal) = (None, None, None, None);
        Self { at, until: at, count: 1, stage, who, what, born, joined, may_be, signal }
    }

    /// The end of a process that there was since then.
    #[must_use]
    pub(crate) fn end(at: Boot, born: Boot, who: Who) -> Self {
        Self { born: Some(born), ..Self::new(at, None, who, "ends".to_owned()) }
    }

    /// The same as a part of an update that began then: only what was there before is a milestone.
    #[must_use]
    pub(crate) fn since(mut self, began: Boot) -> Self {
        if self.born.is_some_and(|born| born < began) {
            self.stage = Some(Stage::Exited);
            "ends, which was there before".clone_into(&mut self.what);
        }
        if self.joined.is_some_and(|joined| joined >= began) {
            self.stage = None;
            self.joined = None;
            self.what.push_str("; it has started since, beside one that runs");
        }
        self
    }

    /// Takes in another if it is the same once more.
    #[must_use]
    pub(crate) fn takes_in(&mut self, other: &Self) -> bool {
        let is_same = (self.stage, &self.who, &self.what) == (other.stage, &other.who, &other.what);
        if is_same {
            self.until = self.until.max(other.until);
            self.count += other.count;
        }
        is_same
    }
}

/// What a process has told of, in words.
#[must_use]
pub(crate) fn words(event: &Event) -> String {
    match event {
        Event::Signalled { signal, fate, .. } => {
            let fate = match fate {
                Fate::Queued => "queued",
                Fate::Ignored => "ignored",
                Fate::AlreadyPending => "already pending",
                Fate::Overflown => "lost, for too many wait",
                Fate::InfoLost => "queued without what was sent along",
            };
            format!("{}, {fate}", name(*signal))
        }
        Event::Delivered { signal, handling, .. } => {
            let handling = match handling {
                Handling::Default => "by default, which ends most programs",
                Handling::Ignore => "and ignores it",
                Handling::Handler => "to its handler",
            };
            format!("{} {handling}", name(*signal))
        }
        _ => String::new(),
    }
}

/// The name of a signal, or its number where it has none.
#[must_use]
pub(crate) fn name(signal: i32) -> String {
    let known = signal.to_string().parse::<SignalNumber>();
    known.map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}

/// Which milestone a change of a file is.
#[must_use]
pub(crate) fn of_file(operation: Operation) -> Option<Stage> {
    match operation {
        Operation::Write | Operation::Truncate | Operation::Open | Operation::Change => {
            Some(Stage::FirstWrite)
        }
        Operation::Close => Some(Stage::Closed),
        _ => None,
    }
}

/// Which milestone a change of a directory is.
#[must_use]
pub(crate) fn of_directory(operation: Operation) -> Option<Stage> {
    (operation == Operation::Rename).then_some(Stage::Swapped)
}
