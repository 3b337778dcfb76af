//! Who somebody is: his name, and the container or pod that he runs in.

use std::fs;

use nix::unistd::Pid;

use super::step::Who;
use crate::target::Procfs;

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
