//! One thing that a doctor has looked at.

use std::path::Path;

use serde::Serialize;

use crate::report::one_line;

/// Whether something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It works.
    Ok,
    /// `run` works without it; one may want to know.
    Note,
    /// `run` would not work.
    Bad,
}

/// The steps of the pipeline, and what comes before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// What was typed or set.
    Options,
    /// What the machine has.
    Kernel,
    /// What the agent may do.
    Rights,
    /// Where events come from.
    Source,
    /// What is watched.
    Watch,
    /// Whom to reload.
    Target,
    /// What surrounds a reload.
    Reload,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Options => "options",
            Self::Kernel => "kernel",
            Self::Rights => "rights",
            Self::Source => "source",
            Self::Watch => "watch",
            Self::Target => "target",
            Self::Reload => "reload",
        }
    }
}

/// Makes the kinds of findings: for programs an id, which is a contract, and for people a label.
macro_rules! ids {
    ($($name:ident $group:ident $id:literal $label:literal;)*) => {
        /// What was looked at. `docs/doctor.md` says what each is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Id {
            $(#[doc = $label] $name,)*
        }

        impl Id {
            /// All of them, in the order of the pipeline.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// For programs.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// For people.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Which step of the pipeline it belongs to.
            #[must_use]
            pub fn group(self) -> Group {
                match self { $(Self::$name => Group::$group,)* }
            }
        }
    };
}

ids! {
    UnknownVariable Options "unknown_variable" "variable";
    StateDir Options "state_dir" "state";
    Listen Options "listen" "listen";
    Kernel Kernel "kernel" "kernel";
    Btf Kernel "btf" "BTF";
    Lockdown Kernel "lockdown" "lockdown";
    User Rights "user" "user";
    UserNamespace Rights "user_namespace" "user namespace";
    Capability Rights "capability" "capability";
    IneffectiveCapabilities Rights "ineffective_capabilities" "capabilities";
    NoNewPrivs Rights "no_new_privs" "no new privs";
    Seccomp Rights "seccomp" "seccomp";
    Source Source "source" "source";
    OpenFiles Source "open_files" "open files";
    FanotifyGroups Source "fanotify_groups" "fanotify";
    InotifyInstances Source "inotify_instances" "inotify";
    FanotifyMarks Source "fanotify_marks" "fanotify";
    InotifyWatches Source "inotify_watches" "inotify";
    QueuedEvents Source "queued_events" "queued events";
    Watch Watch "watch" "path";
    Link Watch "link" "link";
    WatchedBy Watch "watched_by" "watched by";
    Filesystem Watch "filesystem" "filesystem";
    Mount Watch "mount" "mount";
    Unreadable Watch "unreadable" "content";
    Subdirectories Watch "subdirectories" "subdirectories";
    Procfs Target "procfs" "/proc";
    PidNamespace Target "pid_namespace" "pid namespace";
    HiddenProcesses Target "hidden_processes" "hidepid";
    Process Target "process" "process";
    Environment Target "environment" "environment";
    Check Reload "check" "check";
    Exec Reload "exec" "command";
    Confirmation Reload "confirmation" "confirmation";
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub id: Id,
    /// Whether it works.
    pub status: Status,
    /// Which of several things of the kind: a path, a process, a capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What `run` would wait for, as it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awaited: Option<String>,
}

impl Finding {
    /// Something that was found.
    #[must_use]
    pub fn new(id: Id, status: Status, detail: impl AsRef<str>) -> Self {
        Self {
            id,
            status,
            object: None,
            detail: one_line(detail.as_ref()),
            remedy: None,
            awaited: None,
        }
    }

    /// Something that works.
    #[must_use]
    pub fn ok(id: Id, detail: impl AsRef<str>) -> Self {
        Self::new(id, Status::Ok, detail)
    }

    /// Something that one may want to know.
    #[must_use]
    pub fn note(id: Id, detail: impl AsRef<str>) -> Self {
        Self::new(id, Status::Note, detail)
    }

    /// Something for want of which `run` would not work.
    #[must_use]
    pub fn bad(id: Id, detail: impl AsRef<str>) -> Self {
        Self::new(id, Status::Bad, detail)
    }

    /// The same, of this one of several.
    #[must_use]
    pub fn of(self, object: impl AsRef<str>) -> Self {
        Self { object: Some(one_line(object.as_ref())), ..self }
    }

    /// The same, of this path.
    #[must_use]
    pub fn at(self, path: &Path) -> Self {
        self.of(path.to_string_lossy())
    }

    /// The same, of something that `run` would wait for.
    #[must_use]
    pub fn awaiting(self, what: impl AsRef<str>) -> Self {
        Self { awaited: Some(one_line(what.as_ref())), ..self }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl AsRef<str>) -> Self {
        Self { remedy: Some(one_line(remedy.as_ref())), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_explained() {
        let explained = include_str!("../../../docs/doctor.md");
        let rows = explained.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let known: Vec<_> = Id::ALL.iter().map(|id| id.id()).collect();
        assert_eq!(rows.collect::<Vec<_>>(), known);
    }

    #[test]
    fn a_name_cannot_end_the_line() {
        let finding = Finding::note(Id::Process, "a\nb").of("x\u{1b}[2J").remedy("c\rd");
        assert_eq!(finding.detail, "a\\nb");
        assert_eq!(finding.object.as_deref(), Some("x\\u{1b}[2J"));
        assert_eq!(finding.remedy.as_deref(), Some("c\\rd"));
    }
}
