//! A procfs that a test has made up.

use std::{
    fs::{self, create_dir_all},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;
use tempfile::TempDir;

use super::Procfs;

/// A directory that looks like `/proc`, and goes away with it.
pub(super) struct Machine {
    root: TempDir,
    pub(super) procfs: Procfs,
}

/// A process to make up.
pub(super) struct Made<'a> {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) comm: &'a str,
    pub(super) exe: &'a str,
    pub(super) arguments: &'a [&'a str],
}

impl Machine {
    pub(super) fn new(processes: &[Made<'_>]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let machine = Self { procfs: Procfs::new(root.path()), root };
        for made in processes {
            let home = machine.home(made.pid);
            create_dir_all(&home).unwrap();
            symlink(made.exe, home.join("exe")).unwrap();
            fs::write(home.join("cmdline"), made.arguments.join("\0")).unwrap();
            machine.set_stat(made.pid, &stat(made.comm, made.parent));
            fs::write(home.join("status"), format!("Name:\tx\nTgid:\t{}\n", made.pid)).unwrap();
        }
        machine
    }

    /// Replaces what is told of a process.
    pub(super) fn set_stat(&self, pid: i32, stat: &str) {
        fs::write(self.home(pid).join("stat"), stat).unwrap();
    }

    /// Writes a file of a process, whose directories are made.
    pub(super) fn write(&self, pid: i32, name: &str, text: impl AsRef<[u8]>) {
        let path = self.home(pid).join(name);
        create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Says in which control groups a process is, `self` being the agent.
    pub(super) fn set_groups(&self, pid: &str, groups: &str) {
        let home = self.root.path().join(pid);
        create_dir_all(&home).unwrap();
        fs::write(home.join("cgroup"), groups).unwrap();
    }

    /// Makes a symlink of a process, or replaces it.
    pub(super) fn link(&self, pid: &str, name: &str, to: impl AsRef<Path>) {
        let path = self.root.path().join(pid).join(name);
        create_dir_all(path.parent().unwrap()).unwrap();
        drop(fs::remove_file(&path));
        symlink(to, path).unwrap();
    }

    pub(super) fn home(&self, pid: i32) -> PathBuf {
        self.procfs.home(Pid::from_raw(pid))
    }
}

/// A process without a program or arguments worth looking at.
pub(super) fn plain(pid: i32, parent: i32, comm: &str) -> Made<'_> {
    Made { pid, parent, comm, exe: "/x", arguments: &[] }
}

/// The `stat` of a process that runs, started in tick 7.
pub(super) fn stat(comm: &str, parent: i32) -> String {
    format!("7 ({comm}) S {parent} 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 7 1 1")
}
