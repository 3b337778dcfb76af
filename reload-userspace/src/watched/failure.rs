//! What of a path cannot be had, and whether that has been told.

use std::{mem, path::PathBuf};

use crate::source::WatchError;

/// Whether there is something that cannot be watched or read.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is not.
    None,
    /// There is, and it is yet to be told.
    News(String),
    /// There still is.
    Told,
}

impl Failure {
    pub(super) fn is_news(&self) -> bool {
        matches!(self, Self::News(_))
    }

    /// What it is, if that is news.
    pub(super) fn take(&mut self) -> Option<String> {
        match mem::replace(self, Self::Told) {
            Self::News(reason) => Some(reason),
            Self::Told => None,
            Self::None => {
                *self = Self::None;
                None
            }
        }
    }

    /// Keeps one sentence of all that cannot be watched: there may be thousands, for one reason.
    pub(super) fn note(&mut self, failures: Vec<(PathBuf, WatchError)>) {
        let others = failures.len().saturating_sub(1);
        let Some((path, error)) = failures.into_iter().next() else {
            *self = Self::None;
            return;
        };
        let others = if others == 0 { String::new() } else { format!(" and {others} others") };
        let error = anyhow::Error::new(error);
        self.fail(format!("cannot watch {}{others}: {error:#}", path.display()));
    }

    pub(super) fn fail(&mut self, reason: String) {
        if matches!(self, Self::None) {
            *self = Self::News(reason);
        }
    }
}
