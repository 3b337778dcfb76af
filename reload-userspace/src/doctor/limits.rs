//! How many of a thing there may be. Nothing is said of what there is enough of, or no need for.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    libc,
    sys::fanotify::{EventFFlags, Fanotify, InitFlags},
};
use rustix::{
    fs::inotify,
    io::Errno,
    process::{Resource, getrlimit},
};

use super::{
    finding::{Finding, Id},
    report::Report,
    source::Sources,
    status::Standing,
};
use crate::event::SourceName;

/// How many files the agent has open at most while it starts, beside one for each target.
const OPEN_FILES: u64 = 64;

/// A queue of events, of which a uid may have so many, with so many marks in all.
struct Queue {
    source: SourceName,
    /// What `/proc/<pid>/fd` shows of one.
    link: &'static str,
    instances: (Id, &'static str),
    marks: (Id, &'static str),
}

const QUEUES: [Queue; 2] = [
    Queue {
        source: SourceName::Fanotify,
        link: "anon_inode:[fanotify]",
        instances: (Id::FanotifyGroups, "groups"),
        marks: (Id::FanotifyMarks, "marks"),
    },
    Queue {
        source: SourceName::Inotify,
        link: "anon_inode:inotify",
        instances: (Id::InotifyInstances, "instances"),
        marks: (Id::InotifyWatches, "watches"),
    },
];

/// Looks at what `places` watched directories and files need.
pub(super) fn examine(report: &mut Report, me: &Standing, sources: &Sources, places: usize) {
    report.findings.extend(open_files(getrlimit(Resource::Nofile).current));
    for queue in QUEUES.iter().filter(|queue| sources.is_asked_for(queue.source)) {
        let (id, what) = queue.instances;
        if queue.is_used_up()
            && let Some(limit) = queue.limit(what)
        {
            report.add(used_up(id, &queue.sysctl(what), limit, &holders(me.uid, queue.link)));
        }
    }
    let Some((chosen, strategy)) = sources.chosen() else {
        return;
    };
    let places = u64::try_from(places).unwrap_or(u64::MAX);
    for queue in QUEUES.iter().filter(|queue| queue.source == chosen) {
        let (id, what) = queue.marks;
        // A privileged group may have as many as it likes.
        let limit = if strategy == Some("privileged") { None } else { queue.limit(what) };
        report.findings.extend(marks(id, &queue.sysctl(what), limit, places));
        report.findings.extend(events(queue, places));
    }
}

impl Queue {
    /// Whether there is not one more to be had.
    fn is_used_up(&self) -> bool {
        if self.source == SourceName::Fanotify {
            let flags = InitFlags::FAN_CLOEXEC | InitFlags::from_bits_retain(libc::FAN_REPORT_FID);
            let group = Fanotify::init(flags, EventFFlags::O_CLOEXEC);
            matches!(group, Err(nix::errno::Errno::EMFILE))
        } else {
            let instance = inotify::init(inotify::CreateFlags::CLOEXEC);
            matches!(instance, Err(Errno::MFILE))
        }
    }

    fn sysctl(&self, what: &str) -> String {
        format!("fs.{}.max_user_{what}", self.source)
    }

    /// How many a uid may have: on the machine, and in its user namespace.
    fn limit(&self, what: &str) -> Option<u64> {
        let of_namespace = format!("/proc/sys/user/max_{}_{what}", self.source);
        let of_machine = format!("/proc/sys/fs/{}/max_user_{what}", self.source);
        [of_namespace, of_machine].into_iter().filter_map(number).min()
    }
}

fn number(path: String) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn open_files(limit: Option<u64>) -> Option<Finding> {
    let limit = limit.filter(|&limit| limit < OPEN_FILES)?;
    let detail = format!("{limit} are allowed; eBPF and the targets need about {OPEN_FILES}");
    let remedy = "raise the limit (ulimit -n, LimitNOFILE=, docker --ulimit nofile=)";
    Some(Finding::note(Id::OpenFiles, detail).remedy(remedy))
}

fn used_up(id: Id, sysctl: &str, limit: u64, holders: &BTreeMap<String, usize>) -> Finding {
    let seen: usize = holders.values().sum();
    let most = holders.iter().max_by_key(|&(_, count)| count);
    let most = most.map(|(name, count)| format!(", {count} of them by {name}")).unwrap_or_default();
    let detail = format!(
        "none is to be had: {sysctl} allows {limit} to this uid, counted across all containers; \
         /proc shows {seen} in use here{most}"
    );
    let raised = limit.max(128).saturating_mul(4);
    let remedy =
        format!("sysctl {sysctl}={raised} on the machine, or run the agent as another uid");
    Finding::note(id, detail).remedy(remedy)
}

/// Who of this uid has such a queue, as far as `/proc` shows: by the name of the process.
fn holders(uid: u32, link: &str) -> BTreeMap<String, usize> {
    let mut holders = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    for process in processes.filter(|it| it.metadata().is_ok_and(|it| it.uid() == uid)) {
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten();
        let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let count = links.filter(|it: &PathBuf| it == Path::new(link)).count();
        if count > 0 {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            *holders.entry(name.trim_end().to_owned()).or_default() += count;
        }
    }
    holders
}

fn marks(id: Id, sysctl: &str, limit: Option<u64>, places: u64) -> Option<Finding> {
    let limit = limit.filter(|&limit| limit < places)?;
    let detail = format!(
        "{sysctl} allows {limit} to this uid across all containers, and these paths need {places}"
    );
    let raised = places.saturating_mul(2).max(8192);
    let remedy = format!("sysctl {sysctl}={raised} on the machine, or watch narrower paths");
    Some(Finding::note(id, detail).remedy(remedy))
}

fn events(queue: &Queue, places: u64) -> Option<Finding> {
    let sysctl = format!("fs.{}.max_queued_events", queue.source);
    let limit = number(format!("/proc/sys/fs/{}/max_queued_events", queue.source))?;
    let detail = format!(
        "{sysctl} is {limit}, and these paths are {places} places: if all change at once the queue \
         overflows, and everything is compared"
    );
    let remedy = format!("sysctl {sysctl}={}", places.saturating_mul(4));
    (limit < places).then(|| Finding::note(Id::QueuedEvents, detail).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_short_is_told() {
        assert_eq!(open_files(None), None);
        assert_eq!(open_files(Some(64)), None);
        assert!(open_files(Some(63)).is_some());
        let marks = |limit, places| marks(Id::InotifyWatches, "x", limit, places).is_some();
        assert!(!marks(None, 100));
        assert!(!marks(Some(100), 100));
        assert!(marks(Some(100), 101));
        assert_eq!(events(&QUEUES[1], 1), None);
        assert!(events(&QUEUES[1], u64::MAX).is_some());
    }

    #[test]
    fn who_uses_most_is_named() {
        let holders = BTreeMap::from([("a".to_owned(), 2), ("systemd".to_owned(), 9)]);
        let sysctl = QUEUES[1].sysctl("instances");
        let finding = used_up(Id::InotifyInstances, &sysctl, 128, &holders);
        let expected = "none is to be had: fs.inotify.max_user_instances allows 128 to this uid, \
                        counted across all containers; /proc shows 11 in use here, 9 of them by \
                        systemd";
        assert_eq!(finding.detail, expected);
    }
}
