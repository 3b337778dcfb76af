//! How many of a thing there may be. Nothing is said of what there is enough of.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use rustix::{
    fs::inotify,
    io::Errno,
    process::{Resource, getrlimit},
};

use super::{
    finding::{Finding, Id},
    report::Report,
    status::Standing,
};

/// How many files the agent has open at most while it starts, beside one for each target.
const OPEN_FILES: u64 = 64;

/// Looks at what `places` watched directories and files need.
pub(super) fn examine(report: &mut Report, me: &Standing, places: usize) {
    report.findings.extend(open_files(getrlimit(Resource::Nofile).current));
    let is_used_up = matches!(inotify::init(inotify::CreateFlags::CLOEXEC), Err(Errno::MFILE));
    if is_used_up && let Some(limit) = limit("instances") {
        report.add(instances(limit, &holders(me.uid)));
    }
    if let Some(limit) = limit("watches") {
        report.findings.extend(watches(limit, places));
    }
}

/// How many of an inotify thing a uid may have: on the machine, and in its user namespace.
fn limit(what: &str) -> Option<u64> {
    let paths = [
        format!("/proc/sys/fs/inotify/max_user_{what}"),
        format!("/proc/sys/user/max_inotify_{what}"),
    ];
    let read = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
    paths.into_iter().filter_map(read).min()
}

fn open_files(limit: Option<u64>) -> Option<Finding> {
    let limit = limit.filter(|&limit| limit < OPEN_FILES)?;
    let detail = format!("{limit} are allowed; eBPF and the targets need about {OPEN_FILES}");
    let remedy = "raise the limit (ulimit -n, LimitNOFILE=, docker --ulimit nofile=)";
    Some(Finding::note(Id::OpenFiles, detail).remedy(remedy))
}

fn instances(limit: u64, holders: &BTreeMap<String, usize>) -> Finding {
    let seen: usize = holders.values().sum();
    let most = holders.iter().max_by_key(|&(_, count)| count);
    let most = most.map(|(name, count)| format!(", {count} of them by {name}")).unwrap_or_default();
    let detail = format!(
        "no instance is to be had: this uid may have {limit}, counted across all containers; /proc \
         shows {seen} in use here{most}"
    );
    let remedy = format!(
        "sysctl fs.inotify.max_user_instances={} on the machine, or run the agent as another uid",
        limit.saturating_mul(4)
    );
    Finding::note(Id::InotifyInstances, detail).remedy(remedy)
}

/// Who of this uid has inotify instances, as far as `/proc` shows: by the name of the process.
fn holders(uid: u32) -> BTreeMap<String, usize> {
    let mut holders = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    for process in processes.filter(|it| it.metadata().is_ok_and(|it| it.uid() == uid)) {
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten();
        let is_instance = |link: &std::path::PathBuf| link.as_os_str() == "anon_inode:inotify";
        let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let count = links.filter(is_instance).count();
        if count > 0 {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            *holders.entry(name.trim_end().to_owned()).or_default() += count;
        }
    }
    holders
}

fn watches(limit: u64, places: usize) -> Option<Finding> {
    let places = u64::try_from(places).unwrap_or(u64::MAX);
    let detail = format!(
        "{limit} watches are allowed to this uid across all containers, and these paths need \
         {places}"
    );
    let remedy = format!(
        "sysctl fs.inotify.max_user_watches={} on the machine, or watch narrower paths",
        places.saturating_mul(2).max(8192)
    );
    (places > limit).then(|| Finding::note(Id::InotifyWatches, detail).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_short_is_told() {
        assert_eq!(open_files(None), None);
        assert_eq!(open_files(Some(64)), None);
        assert!(open_files(Some(63)).is_some());
        assert_eq!(watches(100, 100), None);
        assert!(watches(100, 101).is_some());
    }

    #[test]
    fn who_uses_most_is_named() {
        let holders = BTreeMap::from([("a".to_owned(), 2), ("systemd".to_owned(), 9)]);
        let expected = "no instance is to be had: this uid may have 128, counted across all \
                        containers; /proc shows 11 in use here, 9 of them by systemd";
        assert_eq!(instances(128, &holders).detail, expected);
    }
}
