//! The sources under which the promises must hold.

use std::{fmt, time::Duration};

use super::{agent::Event, time::pause_here};

/// Where the agent under test takes its events from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Ebpf,
    Fanotify,
    Inotify,
    /// It looks once a second, and so what happens between two of its looks is one change.
    Poll,
}

/// Whether a source knows who has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    Known,
    /// As far as the agent can see the writer, and only its pid where it does not run any more.
    PerhapsKnown,
    Unknown,
}

impl Source {
    pub(crate) const ALL: [Self; 4] = [Self::Ebpf, Self::Fanotify, Self::Inotify, Self::Poll];

    /// Its name for `--source`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
            Self::Poll => "poll",
        }
    }

    /// What makes the agent take it and no other.
    pub(crate) fn arguments(self) -> [&'static str; 2] {
        ["--source", self.name()]
    }

    /// The source of this name.
    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|source| source.name() == name).unwrap()
    }

    /// How many rounds of a test there are to be, where `rounds` are no trouble for a source that
    /// needs milliseconds for each.
    pub(crate) fn rounds(self, rounds: u32) -> u32 {
        if self == Self::Poll { rounds.min(3) } else { rounds }
    }

    /// Gives the agent the time to have looked at what is there now, so that it cannot take it for one
    /// change with what comes next.
    pub(crate) fn let_look(self) {
        pause_here(match self {
            Self::Poll => Duration::from_millis(1500),
            Self::Ebpf | Self::Fanotify | Self::Inotify => Duration::from_millis(60),
        });
    }

    fn author(self) -> Author {
        match self {
            Self::Ebpf => Author::Known,
            Self::Fanotify => Author::PerhapsKnown,
            Self::Inotify | Self::Poll => Author::Unknown,
        }
    }

    /// Checks that `event` names the process that has written as well as this source can.
    #[track_caller]
    pub(crate) fn check_author(self, event: &Event, pid: i32, is_it: impl Fn(&str) -> bool) {
        let by = event.field("by");
        let is_named = by["comm"].as_str().is_some_and(is_it);
        let is_fine = match self.author() {
            Author::Known => by["pid"] == pid && is_named,
            Author::PerhapsKnown => {
                by.is_null() || (by["pid"] == pid && (is_named || by["comm"].is_null()))
            }
            Author::Unknown => by.is_null(),
        };
        assert!(is_fine, "{self}: {event}");
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
