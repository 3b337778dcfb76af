//! What of an update cannot be seen with a source, and who else looks.

use super::{Trace, record::Hidden, step::Stage};
use crate::{
    event::SourceName,
    source::{Source, Tells},
};

impl<S: Source> Trace<S> {
    /// What cannot be seen here, and why.
    pub(super) fn hidden(&self, tells: Tells) -> Vec<Hidden> {
        let mut hidden = Vec::new();
        let mut hide = |stages: &[Stage], reason: &str| {
            hidden.extend(stages.iter().map(|&stage| Hidden { stage, reason: reason.to_owned() }));
        };
        let name = self.source.name();
        if matches!(name, SourceName::Poll) {
            hide(
                &[Stage::FirstWrite, Stage::LastWrite, Stage::Swapped],
                "polling only compares the content; --source ebpf sees each step",
            );
        }
        if self.source.strategy() == Some("tracepoint") {
            hide(&[Stage::Closed], "the strategy tracepoint has no hook for it; trampoline has");
        } else if name == SourceName::Poll {
            hide(&[Stage::Closed], "polling only compares the content");
        } else if name != SourceName::Ebpf {
            let reason = format!("the source {name} does not tell it from a write; ebpf may");
            hide(&[Stage::Closed], &reason);
        }
        if self.source.tells_reads() == Tells::No {
            let reason =
                format!("the source {name} does not tell who reads of a change; ebpf does");
            hide(&[Stage::Noticed], &format!("{reason}; {}", self.holders()));
        }
        let processes = [Stage::Signalled, Stage::Delivered, Stage::Forked, Stage::Exited];
        if self.question.names.is_empty() {
            hide(&processes, "no process is named; give --process NAME");
        } else if tells == Tells::No {
            let reason = format!("the source {name} tells nothing of processes; ebpf does");
            hide(&processes, &reason);
        }
        // Where there is no file yet nobody has been asked.
        let is_asked = self.watched.values().any(|it| it.files().next().is_some());
        if self.tickets.is_empty() && (is_asked || !self.witness.can_tell()) {
            hide(&[Stage::Opened], "nobody tells who opens a file; eBPF or CAP_SYS_ADMIN would");
        } else if name == SourceName::Poll {
            hide(&[Stage::Opened], "polling may find the file only when it has been opened");
        }
        hidden
    }

    /// Who has an inotify watch on what is watched, or its directories.
    pub(super) fn holders(&self) -> String {
        let holders =
            self.queues.holders(&self.identities().chain(self.near_identities()).collect());
        match holders.as_slice() {
            [] => "nobody has an inotify watch there".to_owned(),
            holders => format!("an inotify watch there is held by {}", holders.join(", ")),
        }
    }
}
