//! Who is in which container: one look at all processes serves all pods.

use std::collections::HashMap;

use nix::unistd::Pid;

use super::{
    Container, ContainerId, PodUid, Procfs, Scope, TargetError, group, procfs::read, stat::Stat,
};

/// Which processes were in which pod when it was taken; nobody relies on that alone.
#[derive(Debug, Default)]
pub struct Census {
    pods: Option<HashMap<PodUid, Vec<Pid>>>,
}

/// Where a process is, as far as that is of any concern to rules that are about pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It has gone, or cannot be looked at: it may have been anywhere.
    Unknown,
    /// In no container of a pod, or in none that can be told.
    Outside,
    /// There.
    In(Container),
}

impl Whereabouts {
    /// Whether somebody there may be of concern to whoever looks for processes in this scope.
    #[must_use]
    pub fn may_be_in(&self, scope: &Scope) -> bool {
        match self {
            Self::Unknown => true,
            Self::Outside => scope.is_anywhere(),
            Self::In(container) => scope.holds(Some(container)),
        }
    }
}

impl Census {
    /// Whether everybody has been looked at.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.pods.is_some()
    }

    /// Those that were in a pod when everybody was looked at, which is now if it has not been done.
    pub(super) fn pids_in(&mut self, pod: PodUid, procfs: &Procfs) -> Result<&[Pid], TargetError> {
        let pods = match self.pods.take() {
            Some(pods) => pods,
            None => procfs.pids_by_pod()?,
        };
        let pods = self.pods.insert(pods);
        Ok(pods.get(&pod).map_or(&[], Vec::as_slice))
    }
}

impl Procfs {
    /// Where a process is now.
    #[must_use]
    pub fn whereabouts(&self, pid: Pid) -> Whereabouts {
        let Ok(Some(stat)) = self.stat(pid) else { return Whereabouts::Unknown };
        let container = self.own_groups().and_then(|own| self.container(pid, &stat, &own));
        // Asked afterwards, for the kernel takes whoever ends out of the groups of version 1.
        let is_there = || self.stat(pid).is_ok_and(|stat| stat.is_some_and(|it| !it.is_ending()));
        match container {
            Ok(Some(container)) => Whereabouts::In(container),
            Ok(None) if is_there() => Whereabouts::Outside,
            Ok(None) | Err(_) => Whereabouts::Unknown,
        }
    }

    /// The pod and the container that the control groups of a process name, for people: whoever makes
    /// control groups may call them as he likes.
    #[must_use]
    pub fn named_container(&self, pid: Pid) -> Option<(Option<PodUid>, Option<ContainerId>)> {
        group::hint(&read(&self.home(pid).join("cgroup")).ok()??)
    }

    /// Whether a process is within a scope at this moment.
    pub(super) fn is_within(
        &self,
        pid: Pid,
        stat: &Stat,
        scope: &Scope,
    ) -> Result<bool, TargetError> {
        if scope.is_anywhere() {
            return Ok(true);
        }
        let own = self.own_groups()?;
        Ok(scope.holds(self.container(pid, stat, &own)?.as_ref()))
    }

    fn pids_by_pod(&self) -> Result<HashMap<PodUid, Vec<Pid>>, TargetError> {
        let own = self.own_groups()?;
        let mut pods: HashMap<_, Vec<_>> = HashMap::new();
        for pid in self.list()? {
            let groups = match read(&self.home(pid).join("cgroup")) {
                // One process must not keep all others from being found.
                Err(error) if !error.is_shortage() => continue,
                groups => groups?,
            };
            let mut container = groups.and_then(|groups| group::container(&groups, &own));
            // The kernel takes a thread that has ended out of the groups of version 1.
            if container.is_none()
                && let Some(stat) = self.stat(pid)?
                && stat.is_headless()
            {
                container = self.container(pid, &stat, &own)?;
            }
            if let Some(Container { pod, .. }) = container {
                pods.entry(pod).or_default().push(pid);
            }
        }
        Ok(pods)
    }

    /// The container of a process; one whose first thread has ended is where another is.
    fn container(
        &self,
        pid: Pid,
        stat: &Stat,
        own: &[u8],
    ) -> Result<Option<Container>, TargetError> {
        let groups = read(&self.living_home(pid, stat)?.join("cgroup"))?;
        Ok(groups.and_then(|groups| group::container(&groups, own)))
    }

    /// The agent's own control groups.
    fn own_groups(&self) -> Result<Vec<u8>, TargetError> {
        Ok(read(&self.own_home().join("cgroup"))?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use std::fs;

    use crate::target::{
        Selector,
        made::{Machine, plain, stat},
    };

    use super::*;

    const A: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";
    const B: &str = "2d5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b22";
    const ONE: &str = "1111456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const TWO: &str = "2222456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn groups(pod: &str, id: &str) -> String {
        format!("8:pids:/kubepods/burstable/pod{pod}/{id}\n0::/\n")
    }

    fn pods(procfs: &Procfs, pod: &str) -> Vec<i32> {
        let mut census = Census::default();
        let pids = census.pids_in(pod.parse().unwrap(), procfs).unwrap();
        let mut pids: Vec<_> = pids.iter().map(|pid| pid.as_raw()).collect();
        pids.sort_unstable();
        pids
    }

    fn selector(pod: &str, containers: Option<&str>) -> Selector {
        let scope = Scope::pod(pod, containers).unwrap();
        Selector { scope, ..Selector::process("nginx") }
    }

    /// One pod of two containers, another of one, and a process of the node.
    fn node() -> Machine {
        let pids = [10, 11, 20, 30, 40];
        let machine = Machine::new(&pids.map(|pid| plain(pid, 1, "nginx")));
        machine.set_groups("10", &groups(A, ONE));
        machine.set_groups("11", &groups(A, TWO));
        machine.set_groups("20", &groups(B, ONE));
        machine.set_groups("30", "8:pids:/system.slice/nginx.service\n0::/\n");
        // Of 40 nothing is told.
        machine
    }

    #[test]
    fn everybody_is_counted_to_the_pod_that_he_is_in() {
        let machine = node();
        assert_eq!(pods(&machine.procfs, A), [10, 11]);
        assert_eq!(pods(&machine.procfs, B), [20]);
        assert!(pods(&machine.procfs, &A.replace('1', "7")).is_empty());
    }

    #[test]
    fn everybody_is_looked_at_once_until_there_is_another_census() {
        let machine = node();
        let mut census = Census::default();
        assert!(!census.is_taken());
        let pod: PodUid = A.parse().unwrap();
        assert_eq!(census.pids_in(pod, &machine.procfs).unwrap().len(), 2);
        assert!(census.is_taken());
        machine.set_groups("20", &groups(A, ONE));
        assert_eq!(census.pids_in(pod, &machine.procfs).unwrap().len(), 2);
        assert_eq!(pods(&machine.procfs, A), [10, 11, 20]);
    }

    #[test]
    fn one_process_that_cannot_be_asked_hides_no_other_and_is_in_no_pod() {
        let machine = node();
        // Reading a directory fails with EISDIR, whoever asks.
        machine.write(50, "cgroup/x", "");
        let mut census = Census::default();
        let pod: PodUid = A.parse().unwrap();
        assert_eq!(census.pids_in(pod, &machine.procfs).unwrap().len(), 2);
        let short = |errno: Errno| {
            let error = TargetError::Read { path: "/proc/1/cgroup".into(), source: errno.into() };
            error.is_shortage()
        };
        assert!(short(Errno::MFILE) && short(Errno::NOMEM) && !short(Errno::NAMETOOLONG));
        machine.set_stat(50, &stat("nginx", 1));
        let fifty = Pid::from_raw(50);
        assert_eq!(machine.procfs.whereabouts(fifty), Whereabouts::Unknown);
        assert!(machine.procfs.matches(fifty, &selector(A, None)).is_err());
    }

    #[test]
    fn a_name_matches_in_the_pod_and_nowhere_else() {
        let machine = node();
        let check = |selector: &Selector, expected: &[i32]| {
            let matches =
                |pid: &i32| machine.procfs.matches(Pid::from_raw(*pid), selector).unwrap();
            let matching: Vec<_> = [10, 11, 20, 30, 40].into_iter().filter(matches).collect();
            assert_eq!(matching, expected, "for {selector:?}");
        };
        check(&Selector::process("nginx"), &[10, 11, 20, 30, 40]);
        check(&selector(A, None), &[10, 11]);
        check(&selector(A, Some(ONE)), &[10]);
        check(&selector(A, Some("")), &[]);
        check(&selector(B, None), &[20]);
        check(&selector(B, Some(TWO)), &[]);
        // Asked again at each time.
        machine.set_groups("10", &groups(B, TWO));
        check(&selector(A, None), &[11]);
        check(&selector(B, Some(TWO)), &[10]);
        // And so is where the agent is: whose the containers beside its own are is not told.
        machine.set_groups("self", &groups(B, ONE));
        check(&selector(A, None), &[11]);
        check(&selector(B, None), &[]);
    }

    #[test]
    fn who_has_lost_only_the_first_thread_is_where_another_is() {
        let machine = node();
        machine.set_groups("10", "8:pids:/\n0::/\n");
        let ended = stat("nginx", 1).replacen(" S ", " Z ", 1);
        machine.set_stat(10, &ended.replacen(" 20 0 1 ", " 20 0 2 ", 1));
        machine.write(10, "task/10/stat", ended);
        machine.write(10, "task/12/stat", stat("nginx", 1));
        machine.write(10, "task/12/cgroup", groups(A, ONE));
        assert_eq!(pods(&machine.procfs, A), [10, 11]);
        let container = Container { pod: A.parse().unwrap(), id: ONE.parse().unwrap() };
        assert_eq!(machine.procfs.whereabouts(Pid::from_raw(10)), Whereabouts::In(container));
    }

    #[test]
    fn an_event_concerns_those_whom_it_may_be_about() {
        let machine = node();
        // In the middle of its end.
        machine.set_stat(40, &stat("nginx", 1).replacen(" 4194560 ", " 4194564 ", 1));
        let check = |pid: i32, scope: &Scope, expected: bool| {
            let whereabouts = machine.procfs.whereabouts(Pid::from_raw(pid));
            assert_eq!(whereabouts.may_be_in(scope), expected, "for {pid} and {scope:?}");
        };
        for pid in [10, 11, 20, 30, 40, 99] {
            check(pid, &Scope::Anywhere, true);
        }
        let scope = |containers| Scope::pod(A, containers).unwrap();
        check(10, &scope(None), true);
        check(10, &scope(Some(ONE)), true);
        check(11, &scope(Some(ONE)), false);
        check(20, &scope(None), false);
        check(30, &scope(None), false);
        // They end or have ended, so nobody knows.
        check(40, &scope(None), true);
        check(99, &scope(Some(ONE)), true);
    }

    #[test]
    fn people_are_told_what_the_groups_are_called() {
        let machine = node();
        let named = |pid| machine.procfs.named_container(Pid::from_raw(pid));
        assert_eq!(named(10), Some((Some(A.parse().unwrap()), Some(ONE.parse().unwrap()))));
        assert_eq!(named(30), None);
        assert_eq!(named(40), None);
        fs::remove_dir_all(machine.home(10)).unwrap();
        assert_eq!(named(10), None);
    }
}
