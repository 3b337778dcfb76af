//! Who somebody is: his name, and the container or pod that he runs in.

use std::{collections::HashSet, fs, path::Path};

use nix::unistd::Pid;

use rustix::fs::{major, minor};

use super::step::Who;
use crate::{target::Procfs, watch::Identity};

/// How long a name of a container may be: whoever makes control groups may call them as he likes.
const MOST: usize = 64;

/// Names a process that may have ended by now.
#[must_use]
pub(crate) fn who(procfs: &Procfs, pid: Option<Pid>, comm: Option<String>) -> Who {
    let name = || {
        let name = procfs.name(pid?)?;
        Some(String::from_utf8_lossy(&name).into_owned())
    };
    Who { comm: comm.or_else(name), container: pid.and_then(container), pid: pid.map(Pid::as_raw) }
}

/// The container or pod of a process, if its control group tells of one.
fn container(pid: Pid) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(|line| named(line.rsplit_once(':')?.1))
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

/// What a control group is called after: a container by the first twelve of its 64 digits, as its engine
/// shows it, or a pod by its uid.
fn named(group: &str) -> Option<String> {
    let is_digits = |text: &str| text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit());
    let parts = || group.split(['/', '-', '.', ':']).filter(|part| !part.is_empty());
    let container = parts().rfind(|part| is_digits(part)).map(|id| id[..12].to_owned());
    let pod = group.split('/').rev().find_map(|part| {
        let (_, uid) = part.strip_suffix(".slice").unwrap_or(part).rsplit_once("pod")?;
        let is_uid =
            uid.len() >= 32 && uid.bytes().all(|it| it.is_ascii_hexdigit() || b"-_".contains(&it));
        is_uid.then(|| uid.chars().take(MOST).collect::<String>().replace('_', "-"))
    });
    match (pod, container) {
        (Some(pod), Some(container)) => Some(format!("pod {pod}, container {container}")),
        (Some(pod), None) => Some(format!("pod {pod}")),
        (None, container) => container.map(|id| format!("container {id}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_name_containers_and_pods() {
        const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        const UID: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";
        fn check(group: &str, expected: Option<&str>) {
            assert_eq!(named(group).as_deref(), expected, "for {group}");
        }
        check("/", None);
        check("/user.slice/user-0.slice/session-1.scope", None);
        check(&format!("/docker/{ID}"), Some("container 0123456789ab"));
        check(&format!("/system.slice/docker-{ID}.scope"), Some("container 0123456789ab"));
        let both = format!("pod {UID}, container 0123456789ab");
        check(&format!("/kubepods/burstable/pod{UID}/{ID}"), Some(&both));
        let slice = UID.replace('-', "_");
        check(
            &format!("/kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-{ID}.scope"),
            Some(&both),
        );
        check("/tripod/<script>", None);
    }
}
