//! Who somebody is: his name, and the container or pod that he runs in.

use std::{collections::HashSet, fs, path::Path};

use nix::unistd::Pid;

use rustix::fs::{major, minor};

use super::step::Who;
use crate::{
    target::{ContainerId, PodUid, Procfs},
    watch::Identity,
};

/// Names a process that may have ended by now.
#[must_use]
pub(crate) fn who(procfs: &Procfs, pid: Option<Pid>, comm: Option<String>) -> Who {
    let name = || {
        let name = procfs.name(pid?)?;
        Some(String::from_utf8_lossy(&name).into_owned())
    };
    let container = pid.and_then(|pid| container(procfs, pid));
    Who { comm: comm.or_else(name), container, pid: pid.map(Pid::as_raw) }
}

/// The container and pod that the control groups of a process name.
fn container(procfs: &Procfs, pid: Pid) -> Option<String> {
    let (pod, container) = procfs.named_container(pid)?;
    Some(called(pod, container))
}

/// A container by the first twelve of its 64 digits, as its engine shows it, and a pod by its uid.
fn called(pod: Option<PodUid>, container: Option<ContainerId>) -> String {
    let pod = pod.map(|uid| format!("pod {uid}"));
    let container = container.map(|id| format!("container {}", id.short()));
    [pod, container].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Who has an inotify watch on one of these, as `name (pid)`: `/proc/<pid>/fdinfo` tells (`proc(5)`).
#[must_use]
pub(crate) fn watchers(these: &HashSet<Identity>) -> Vec<String> {
    let procfs = Procfs::default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|it| it.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    let others = pids.filter(|&pid| pid != Pid::this() && watches(pid, these));
    let called = others.map(|pid| {
        let name = procfs.name(pid).unwrap_or_default();
        format!("{} ({pid})", String::from_utf8_lossy(&name))
    });
    called.collect()
}

fn watches(pid: Pid, these: &HashSet<Identity>) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let queues = descriptors.filter(|it| {
        fs::read_link(it.path()).is_ok_and(|it| it == Path::new("anon_inode:inotify"))
    });
    queues.into_iter().any(|it| {
        let name = it.file_name();
        let info = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(name);
        let info = fs::read_to_string(info).unwrap_or_default();
        info.lines().any(|line| these.iter().any(|it| is_on(line, *it)))
    })
}

/// Whether a line of `fdinfo` is about a watch on it.
fn is_on(line: &str, it: Identity) -> bool {
    let device = u64::from(major(it.device)) << 20 | u64::from(minor(it.device));
    let hex = |key: &str| {
        let word = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key))?;
        u64::from_str_radix(word, 16).ok()
    };
    line.starts_with("inotify ") && hex("ino:") == Some(it.inode) && hex("sdev:") == Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_pods_are_called_as_others_call_them() {
        const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        const UID: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";
        let (pod, id) = (UID.parse().unwrap(), ID.parse().unwrap());
        assert_eq!(called(None, Some(id)), "container 0123456789ab");
        assert_eq!(called(Some(pod), None), format!("pod {UID}"));
        assert_eq!(called(Some(pod), Some(id)), format!("pod {UID}, container 0123456789ab"));
    }
}
