//! What `/proc` has of one process, held open so that it is never another's.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fstat, openat, stat, statat, statx},
    io::Errno,
    process::{PidfdFlags, pidfd_open},
};

use crate::target::{Procfs, Target};

/// How much of a file is read, in bytes: an environment may have megabytes.
const MOST_READ: u64 = 1024 * 1024;

/// `/proc/<pid>` of one process, which says nothing any more once that process has gone, whoever has
/// its number then; and a handle on the process.
#[derive(Debug)]
pub(super) struct Home {
    directory: OwnedFd,
    /// Or why there is none, which only matters where it is needed.
    process: Result<OwnedFd, Errno>,
}

impl Home {
    /// Opens what `/proc` has of `target`, or gives `None` where it has gone.
    ///
    /// The directory is opened first and asked whose it is. If it still speaks after the handle has
    /// been opened, nobody else can have had the number in between.
    pub(super) fn open(target: Target) -> io::Result<Option<Self>> {
        let path = format!("/proc/{}", target.pid);
        let directory = match openat(CWD, path, folder(), Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let Some(pid) = rustix::process::Pid::from_raw(target.pid.as_raw()) else {
            return Ok(None);
        };
        let process = pidfd_open(pid, PidfdFlags::empty());
        let home = Self { directory, process };
        Ok(home.is_that_of(target).then_some(home))
    }

    /// Whether it is that of `target`, which still is.
    pub(super) fn is_that_of(&self, target: Target) -> bool {
        let stat = self.read("stat").ok();
        stat.and_then(|text| Procfs::start_tick(&text)) == Some(target.started)
    }

    /// Whose it is: the effective user's, or root's where the kernel protects the process from him.
    pub(super) fn owner(&self) -> io::Result<u32> {
        Ok(fstat(&self.directory)?.st_uid)
    }

    /// The handle on the process.
    ///
    /// # Errors
    ///
    /// Fails where the kernel (before Linux 5.3) or a seccomp profile allows none.
    pub(super) fn process(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.process.as_ref().map(OwnedFd::as_fd).map_err(|&errno| errno)
    }

    /// What is in one of its files, up to a limit.
    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(MOST_READ).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The directory that one of its links leads to.
    pub(super) fn directory(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(openat(&self.directory, name, folder(), Mode::empty())?)
    }

    /// Whether the process is in our namespace of this kind. In one that the kernel does not have,
    /// all are.
    pub(super) fn shares_namespace(&self, kind: &str) -> io::Result<bool> {
        let ours = match stat(format!("/proc/self/ns/{kind}")) {
            Err(Errno::NOENT) => return Ok(true),
            ours => ours?,
        };
        let theirs = statat(&self.directory, format!("ns/{kind}"), AtFlags::empty())?;
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    }
}

fn folder() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Whether `directory` is what we call `/`: the same directory, on the same mount.
pub(super) fn is_our_root(directory: &OwnedFd) -> io::Result<bool> {
    let (ours, theirs) = (stat("/")?, fstat(directory)?);
    if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino) {
        return Ok(false);
    }
    // Linux 5.8. Before, both are 0.
    let ours = statx(CWD, "/", AtFlags::empty(), StatxFlags::MNT_ID)?;
    let theirs = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(ours.stx_mnt_id == theirs.stx_mnt_id)
}

/// The variables of an environment as `/proc/<pid>/environ` shows it: whatever the process has left
/// there, so what is none is left out.
pub(super) fn variables(environ: &[u8]) -> Vec<(OsString, OsString)> {
    // What does not end was cut.
    let whole = environ.iter().rposition(|&byte| byte == 0).map_or(0, |end| end + 1);
    let entries = environ[..whole].split(|&byte| byte == 0);
    let pairs = entries.filter_map(|entry| {
        let middle = entry.iter().position(|&byte| byte == b'=').filter(|&at| at > 0)?;
        let (name, value) = (&entry[..middle], &entry[middle + 1..]);
        Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_taken_apart() {
        fn check(environ: &[u8], expected: &[(&str, &str)]) {
            let expected: Vec<_> =
                expected.iter().map(|(name, value)| (name.into(), value.into())).collect();
            assert_eq!(variables(environ), expected, "for {environ:?}");
        }
        check(b"", &[]);
        check(b"A=1\0B=x=y\0", &[("A", "1"), ("B", "x=y")]);
        check(b"A=\0", &[("A", "")]);
        check(b"A=1\0B=cut", &[("A", "1")]);
        check(b"nginx: master process\0\0=\0=x\0A=1\0", &[("A", "1")]);
    }

    #[test]
    fn nobody_is_at_home_where_nobody_is() {
        let me = Procfs::default().target(nix::unistd::Pid::this()).unwrap().unwrap();
        assert!(Home::open(me).unwrap().is_some());
        let other = Target { started: me.started + 1, ..me };
        assert!(Home::open(other).unwrap().is_none());
    }

    #[test]
    fn our_root_is_our_root() {
        let directory = |path: &str| openat(CWD, path, folder(), Mode::empty()).unwrap();
        assert!(is_our_root(&directory("/")).unwrap());
        assert!(!is_our_root(&directory("/proc")).unwrap());
    }
}
