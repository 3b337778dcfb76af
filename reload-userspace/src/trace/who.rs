//! Who somebody is: his name, and the container or pod that he runs in.

use nix::unistd::Pid;

use super::step::Who;
use crate::target::{ContainerId, PodUid, Procfs};

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
