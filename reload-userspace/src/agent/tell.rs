//! What the agent tells, and when it is news.

use std::{collections::HashSet, io};

use super::{Agent, crew::Outcome};
use crate::{
    clock::{self, Boot},
    mount::Mounts,
    report::{ActionName, Awaited, Decision},
    source::{Source, Trouble},
    target::TargetError,
    watch::Obstacle,
};

impl<S: Source> Agent<S> {
    pub(super) fn tell_of_outcome(&self, outcome: Outcome) {
        let rule = self.rule.name().to_owned();
        self.log.tell(&match outcome {
            Outcome::Reloaded { pid, at } => Decision::Reloaded {
                rule,
                action: ActionName::Signal,
                pid: Some(pid.as_raw()),
                signal: Some(self.crew.signal().to_string()),
                object: None,
                change_to_signal: at.since(self.wanted.changed),
                dry_run: self.settings.is_dry,
            },
            Outcome::Refused { pid, reason } => {
                let remedy = reason.remedy();
                let pid = Some(pid.as_raw());
                Decision::Refused { rule, pid, reason, remedy, detail: None }
            }
            Outcome::Failed { pid, error } => {
                Decision::Failed { rule, pid: Some(pid.as_raw()), reason: explain(error) }
            }
        });
    }

    /// Tells what works less well than it should, and which source there is if that is news.
    pub(super) fn tell_of_source(&mut self, since: Boot) {
        for Trouble { source, reason } in self.source.troubles() {
            self.log.tell(&Decision::Degraded { source, reason });
        }
        let source = self.source.name();
        if self.told_source.replace(source) != Some(source) {
            self.log.tell(&Decision::Ready {
                source,
                strategy: self.source.strategy(),
                rules: vec![self.rule.name().to_owned()],
                watches: self.watches.len(),
                targets: self.crew.len(),
                after: clock::now().since(since),
            });
        }
    }

    pub(super) fn tell_whether_anybody_is_there(&mut self) {
        if self.crew.is_empty() && !self.has_told_waiting {
            let rule = self.rule.name().to_owned();
            let object = self.rule.selector().map(ToString::to_string).unwrap_or_default();
            self.log.tell(&Decision::Waiting { rule, what: Awaited::Target, object });
        }
        self.has_told_waiting = self.crew.is_empty();
    }

    pub(super) fn tell_of_obstacles(&mut self) {
        for watched in &mut self.watches {
            match watched.news_of_obstacle() {
                None => {}
                Some(Obstacle::Missing(path)) => {
                    let rule = self.rule.name().to_owned();
                    let object = path.to_string_lossy().into_owned();
                    self.log.tell(&Decision::Waiting { rule, what: Awaited::Path, object });
                }
                Some(obstacle) => {
                    let reason = format!("{obstacle}; keeping what was read before");
                    self.log.tell(&Decision::Degraded { source: self.source.name(), reason });
                }
            }
        }
    }

    pub(super) fn tell_of_failures(&self, failures: Vec<String>) {
        for reason in failures {
            self.log.tell(&Decision::Degraded { source: self.source.name(), reason });
        }
    }

    /// Tells of mounts through which changes cannot be seen, or not any more.
    pub(super) fn tell_of_pins(&mut self) {
        let files = self.watches.iter().flat_map(|watched| watched.content().paths());
        let paths = self.rule.watches().iter().chain(files);
        for pin in Mounts::read().unwrap_or_default().pins(paths) {
            let reason = format!("{pin}; {}", pin.remedy());
            if self.pinned.insert(reason.clone()) {
                self.log.tell(&Decision::Degraded { source: self.source.name(), reason });
            }
        }
    }

    pub(super) fn tell_of_unreadable(&mut self) {
        let now: HashSet<_> =
            self.watches.iter().flat_map(|watched| &watched.content().unreadable).collect();
        self.unreadable.retain(|path| now.contains(path));
        for path in self.watches.iter().flat_map(|watched| &watched.content().unreadable) {
            if self.unreadable.insert(path.clone()) {
                let reason = format!(
                    "the content of {} is not compared, for it cannot be read or is larger than \
                     64 MiB: its inode, size and time stand for it",
                    path.display()
                );
                self.log.tell(&Decision::Degraded { source: self.source.name(), reason });
            }
        }
    }
}

/// Why a signal was not sent, and what to do about it.
fn explain(error: TargetError) -> String {
    let is_forbidden = matches!(&error, TargetError::Signal { source, .. }
        if source.kind() == io::ErrorKind::PermissionDenied);
    let text = format!("{:#}", anyhow::Error::new(error));
    if is_forbidden {
        text + "; run the agent as the uid of that process, or give it CAP_KILL as an effective \
                capability"
    } else {
        text
    }
}
