//! Who comes from whom, and how a child has ended.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use nix::unistd::Pid;

use super::{Procfs, read, tasks};
use crate::target::{Target, stat::Stat};

/// How far up somebody's ancestors are looked for: the tree may change while we climb it.
const MOST_ANCESTORS: usize = 1024;

/// A child of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Which process it is.
    pub target: Target,
    /// The name of its task, at most 15 bytes of any value.
    pub name: Vec<u8>,
}

impl Procfs {
    /// The children of a process that have not ended.
    ///
    /// The list may lack one that is forked, or whose elder ends, while it is read (`proc(5)`).
    #[must_use]
    pub fn children(&self, pid: Pid) -> Vec<Child> {
        let tasks = tasks(&self.home(pid)).unwrap_or_default();
        let lists = tasks.iter().map(|task| read(&task.join("children")).ok().flatten());
        let lists: Option<Vec<_>> = lists.collect();
        // The kernel may be built without such lists (CONFIG_PROC_CHILDREN).
        let mut children: Vec<_> = match lists {
            Some(lists) => lists.iter().flat_map(|list| numbers(list)).collect(),
            None => self.list().unwrap_or_default(),
        };
        children.sort_unstable();
        children.dedup();
        let child = |child| {
            let stat = self.known(child)?;
            let target = Target { pid: child, started: stat.started };
            let is_its = stat.is_running() && stat.parent == pid.as_raw();
            is_its.then_some(Child { target, name: stat.comm })
        };
        children.into_iter().filter_map(child).collect()
    }

    /// The name of the task, at most 15 bytes of any value; `None` where nobody has the pid.
    #[must_use]
    pub fn name(&self, pid: Pid) -> Option<Vec<u8>> {
        self.known(pid).map(|stat| stat.comm)
    }

    /// Whether `pid` is `ancestor`, or comes from it.
    #[must_use]
    pub fn comes_from(&self, pid: Pid, ancestor: Pid) -> bool {
        self.line(pid).any(|pid| pid == ancestor)
    }

    /// `pid`, and all that it comes from, the nearest first.
    pub(crate) fn line(&self, pid: Pid) -> impl Iterator<Item = Pid> {
        let parent = |&pid: &Pid| Some(Pid::from_raw(self.known(pid)?.parent));
        std::iter::successors(Some(pid), parent).take(MOST_ANCESTORS)
    }

    /// How a target has ended that only waits to be reaped, or `None` where that is not told.
    ///
    /// Whoever may not look into the process reads 0, so that 0 tells nothing (`proc(5)`).
    #[must_use]
    pub(in crate::target) fn exit_status(&self, target: Target) -> Option<ExitStatus> {
        let stat = self.known(target.pid).filter(|stat| stat.started == target.started)?;
        let code = stat.exit_code.filter(|&code| code != 0)?;
        (!stat.is_running()).then(|| ExitStatus::from_raw(code))
    }

    /// What is known of a process; where that cannot be read, nothing is.
    fn known(&self, pid: Pid) -> Option<Stat> {
        self.stat(pid).ok().flatten()
    }
}

/// The pids in a list.
fn numbers(list: &[u8]) -> impl Iterator<Item = Pid> + '_ {
    let words = list.split(u8::is_ascii_whitespace);
    words.filter_map(|word| str::from_utf8(word).ok()?.parse().ok().map(Pid::from_raw))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A procfs with one process for every `(pid, parent, name, state)`, and lists of children if
    /// `has_lists`.
    fn procfs(processes: &[(i32, i32, &str, char)], has_lists: bool) -> (TempDir, Procfs) {
        let root = tempfile::tempdir().unwrap();
        for &(pid, parent, name, state) in processes {
            let task = root.path().join(format!("{pid}/task/{pid}"));
            fs::create_dir_all(&task).unwrap();
            let numbers = "0 ".repeat(29);
            let stat = format!(
                "{pid} ({name}) {state} {parent} 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {pid}9 {numbers}256\n"
            );
            fs::write(root.path().join(format!("{pid}/stat")), stat).unwrap();
            if has_lists {
                let of = processes.iter().filter(|it| it.1 == pid);
                let list: Vec<_> = of.map(|it| it.0.to_string()).collect();
                fs::write(task.join("children"), list.join(" ") + " ").unwrap();
            }
        }
        let procfs = Procfs::new(root.path());
        (root, procfs)
    }

    #[test]
    fn children_are_found_with_and_without_lists() {
        let processes = [
            (10, 1, "nginx", 'S'),
            (11, 10, "nginx", 'S'),
            (12, 10, "a) S 1 (b", 'R'),
            (13, 10, "nginx", 'Z'),
            (14, 11, "nginx", 'S'),
        ];
        for has_lists in [true, false] {
            let (_root, procfs) = procfs(&processes, has_lists);
            let child = |pid: i32, started: u64, name: &str| Child {
                target: Target { pid: Pid::from_raw(pid), started },
                name: name.as_bytes().to_vec(),
            };
            let of = |pid| procfs.children(Pid::from_raw(pid));
            assert_eq!(of(10), [child(11, 119, "nginx"), child(12, 129, "a) S 1 (b")]);
            assert_eq!(of(14), []);
            assert_eq!(of(99), []);
        }
    }

    #[test]
    fn a_line_of_descent_ends_at_the_first() {
        let processes =
            [(1, 0, "init", 'S'), (10, 1, "a", 'S'), (11, 10, "b", 'S'), (12, 1, "c", 'S')];
        let (_root, procfs) = procfs(&processes, true);
        let check = |pid: i32, ancestor: i32, expected: bool| {
            let comes = procfs.comes_from(Pid::from_raw(pid), Pid::from_raw(ancestor));
            assert_eq!(comes, expected, "for {pid} and {ancestor}");
        };
        check(10, 10, true);
        check(11, 10, true);
        check(12, 10, false);
        check(10, 11, false);
        check(99, 10, false);
    }

    #[test]
    fn only_a_zombie_has_a_status_and_none_is_no_success() {
        let (root, procfs) =
            procfs(&[(10, 1, "a", 'Z'), (11, 1, "a", 'S'), (12, 1, "a", 'Z')], true);
        let hidden = root.path().join("12/stat");
        fs::write(&hidden, fs::read_to_string(&hidden).unwrap().replace(" 256", " 0")).unwrap();
        let status = |pid: i32, started| {
            procfs.exit_status(Target { pid: Pid::from_raw(pid), started })?.code()
        };
        assert_eq!(status(10, 109), Some(1));
        assert_eq!(status(10, 110), None);
        assert_eq!(status(11, 119), None);
        assert_eq!(status(12, 129), None);
    }
}
