//! A file in which a program has written its pid.
//!
//! Whose it is and how old it is nobody can be sure of, so what it says is doubted.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::unistd::Pid;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    process::geteuid,
};

use super::{Procfs, look::is_process};
use crate::clock::Boot;

/// How much of the file is read, in bytes: no pid is as long.
const MOST_READ: u64 = 64;

/// By how much a process may seem to have started after it wrote its file: a tick, and a second for
/// filesystems that keep no more than seconds.
const SLACK: Duration = Duration::from_millis(1010);

/// What is wrong with a pid file, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PidFileFault {
    /// It cannot be read.
    #[error("it cannot be read; let the user that the agent runs as read it")]
    Unreadable(#[source] io::Error),
    /// It is a FIFO, a socket, a device, a directory, or symlinks without an end.
    #[error("it is no regular file; give the file that the program writes its pid to")]
    NoFile,
    /// Others than its owner and his group may write to it.
    #[error(
        "everybody may write to it, and so could have any process signalled; take that right from \
         others (chmod o-w)"
    )]
    Writable,
    /// Its first line is no number, or that of no process.
    #[error(
        "it begins with {found:?}, which is no pid; give the file that the program writes its pid to"
    )]
    NoPid {
        /// The first line, as far as it was read.
        found: String,
    },
    /// It names the first process of a pid namespace.
    #[error(
        "it names pid 1, as a program in a pid namespace of its own does, and here that is another \
         process; name the program in place of the file (--process, --exe)"
    )]
    Init,
    /// It names the agent.
    #[error(
        "it names pid {0}, which is this agent, so it was written in another pid namespace or long \
         ago; name the program in place of the file (--process, --exe)"
    )]
    Own(Pid),
    /// Somebody else has written the file.
    #[error(
        "it is owned by uid {owner}, and pid {pid} is a process of uid {user}: whoever owns the file \
         could have any process signalled; have it owned by root, or by the user of the process"
    )]
    Foreign {
        /// The process that it names.
        pid: Pid,
        /// The owner of the file.
        owner: u32,
        /// The user of the process.
        user: u32,
    },
    /// The process is younger than the file.
    #[error(
        "it names pid {pid}, and that process started {} s after the file was written, so it is \
         another one; remove the file, or have the program write it anew",
        after.as_secs()
    )]
    Reused {
        /// The process that has the pid now.
        pid: Pid,
        /// How long after the file was written it started.
        after: Duration,
    },
}

/// What is in a pid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: Pid,
    written: SystemTime,
    owner: u32,
}

impl Entry {
    /// Reads the file, or gives `None` where there is none or nothing has been written to it yet.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, PidFileFault> {
        // Without waiting: it may be a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match open(path, flags, Mode::empty()).map_err(io::Error::from) {
            Ok(file) => File::from(file),
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) if is_no_file(&error) => return Err(PidFileFault::NoFile),
            Err(error) => return Err(PidFileFault::Unreadable(error)),
        };
        let metadata = file.metadata().map_err(PidFileFault::Unreadable)?;
        if !metadata.is_file() {
            return Err(PidFileFault::NoFile);
        }
        if Mode::from_raw_mode(metadata.mode()).contains(Mode::WOTH) {
            return Err(PidFileFault::Writable);
        }
        let mut text = Vec::new();
        file.take(MOST_READ).read_to_end(&mut text).map_err(PidFileFault::Unreadable)?;
        let written = metadata.modified().map_err(PidFileFault::Unreadable)?;
        let owner = metadata.uid();
        Ok(parse(&text)?.map(|pid| Self { pid, written, owner }))
    }

    /// Makes sure that a process that started then can have written the file.
    ///
    /// The times are of two clocks. If the one on the wall was set forward in between, a process that
    /// did write the file is taken for another, and nothing is sent: the safe side.
    pub(super) fn verify(
        &self,
        started: Boot,
        user: u32,
        now: (Boot, SystemTime),
    ) -> Result<(), PidFileFault> {
        // Root's are root's, and our own are what we were told to rely on.
        if ![0, geteuid().as_raw(), user].contains(&self.owner) {
            return Err(PidFileFault::Foreign { pid: self.pid, owner: self.owner, user });
        }
        let age = now.0.since(started);
        let after = (now.1.checked_sub(age)).and_then(|it| it.duration_since(self.written).ok());
        match after {
            Some(after) if after > SLACK => Err(PidFileFault::Reused { pid: self.pid, after }),
            _ => Ok(()),
        }
    }
}

/// Why a pid file names nobody, where that is neither told as a fault nor a matter of the process.
pub(super) fn lack(procfs: &Procfs, path: &Path) -> Option<String> {
    match Entry::read(path).ok()? {
        None if path.exists() => Some("the file is empty".to_owned()),
        None => Some("there is no such file".to_owned()),
        Some(Entry { pid, .. }) => {
            let is_process = is_process(procfs, pid).ok()?;
            (!is_process).then(|| format!("it names pid {pid}, which is no process here"))
        }
    }
}

/// Whether a socket is at a path, or symlinks without an end.
fn is_no_file(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NXIO | Errno::LOOP))
}

/// Whether there is nothing at a path.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Takes the pid from the first line; some programs write more below it (`postmaster.pid`).
fn parse(text: &[u8]) -> Result<Option<Pid>, PidFileFault> {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    // A sign is none of a pid's: a negative number would be a whole process group.
    let digits = str::from_utf8(line).ok().filter(|it| it.bytes().all(|it| it.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        None | Some(0) => {
            Err(PidFileFault::NoPid { found: String::from_utf8_lossy(line).into_owned() })
        }
        Some(1) => Err(PidFileFault::Init),
        Some(number) if Pid::from_raw(number) == Pid::this() => Err(PidFileFault::Own(Pid::this())),
        Some(number) => Ok(Some(Pid::from_raw(number))),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use nix::{sys::stat, unistd::mkfifo};

    use super::*;

    #[test]
    fn the_first_line_is_the_pid() {
        fn check(text: &[u8], expected: Option<i32>) {
            let pid = parse(text).unwrap();
            assert_eq!(pid.map(Pid::as_raw), expected, "for {:?}", String::from_utf8_lossy(text));
        }
        check(b"123\n", Some(123));
        check(b"123", Some(123));
        check(b" 123 \r\n", Some(123));
        check(b"4194304\n", Some(4_194_304));
        check(b"123\n/var/lib/postgresql\n1700000000\n5432\n", Some(123));
        // It is being written.
        check(b"", None);
        check(b"\n", None);
    }

    #[test]
    fn what_is_no_pid_is_refused_and_said_why() {
        fn check(text: &[u8], expected: &str) {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.starts_with(expected), "for {text:?}: {fault}");
        }
        check(b"nginx\n", "it begins with \"nginx\", which is no pid; give");
        check(b"-5\n", "it begins with \"-5\", which is no pid");
        check(b"+5\n", "it begins with \"+5\", which is no pid");
        check(b"0\n", "it begins with \"0\", which is no pid");
        check(b"1 2\n", "it begins with \"1 2\", which is no pid");
        check(b"\n123\n", "it begins with \"\", which is no pid");
        check(b"\0\0\0\0", "it begins with \"\\0\\0\\0\\0\", which is no pid");
        check(b"99999999999\n", "it begins with \"99999999999\", which is no pid");
        check(&[b'9'; 64], "it begins with \"9999");
        check(b"\xff\x1b[2J\n", "it begins with \"\u{fffd}\\u{1b}[2J\", which is no pid");
        check(b"1\n", "it names pid 1, as a program in a pid namespace of its own does");
        let me = Pid::this();
        let expected =
            format!("it names pid {me}, which is this agent, so it was written in another");
        check(format!("{me}\n").as_bytes(), &expected);
    }

    #[test]
    fn only_a_regular_file_is_read_and_nobody_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        mkfifo(&path("fifo"), stat::Mode::S_IRWXU).unwrap();
        fs::write(path("file"), "77\n").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("nowhere", path("broken")).unwrap();
        symlink("loop", path("loop")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        fs::write(path("open"), "77\n").unwrap();
        fs::set_permissions(path("open"), fs::Permissions::from_mode(0o666)).unwrap();

        let fault = |name: &str| Entry::read(&path(name)).unwrap_err();
        assert!(matches!(fault("fifo"), PidFileFault::NoFile));
        assert!(matches!(fault("."), PidFileFault::NoFile));
        assert!(matches!(fault("loop"), PidFileFault::NoFile));
        assert!(matches!(fault("socket"), PidFileFault::NoFile));
        assert!(matches!(fault("open"), PidFileFault::Writable));
        let entry = |name: &str| Entry::read(&path(name)).unwrap();
        assert_eq!(entry("file").unwrap().pid, Pid::from_raw(77));
        assert_eq!(entry("link").unwrap().pid, Pid::from_raw(77));
        assert_eq!(entry("broken"), None);
        assert_eq!(entry("missing"), None);
        assert_eq!(entry("file/below"), None);
    }

    #[test]
    fn who_is_waited_for_is_told_what_is_the_matter_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        let procfs = Procfs::default();
        let check = |expected: Option<&str>| assert_eq!(lack(&procfs, &path).as_deref(), expected);
        check(Some("there is no such file"));
        fs::write(&path, "\n").unwrap();
        check(Some("the file is empty"));
        // More than the kernel hands out (`PID_MAX_LIMIT`).
        fs::write(&path, "4194305\n").unwrap();
        check(Some("it names pid 4194305, which is no process here"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let thread = nix::unistd::gettid();
                fs::write(&path, format!("{thread}\n")).unwrap();
                check(Some(&format!("it names pid {thread}, which is no process here")));
            });
        });
        // What is wrong with these is told by whoever looks for the process.
        fs::write(&path, "nginx\n").unwrap();
        check(None);
        fs::write(&path, format!("{}\n", Pid::parent())).unwrap();
        check(None);
    }

    #[test]
    fn a_process_that_is_younger_than_the_file_has_not_written_it() {
        fn check(started_ms: u64, is_reused: bool) {
            let second = Duration::from_secs;
            let boot = SystemTime::UNIX_EPOCH + second(1_000_000);
            let now = (Boot(second(90)), boot + second(90));
            let entry = Entry { pid: Pid::from_raw(7), written: boot + second(50), owner: 0 };
            let verified = entry.verify(Boot(Duration::from_millis(started_ms)), 0, now);
            assert_eq!(verified.is_err(), is_reused, "for {started_ms} ms");
        }
        check(0, false);
        check(50_000, false);
        check(51_000, false);
        check(51_010, false);
        check(51_020, true);
        check(90_000, true);
    }

    /// Whoever may write to the file could have any process signalled by the agent.
    #[test]
    fn only_root_the_agent_and_the_process_may_own_the_file() {
        fn check(owner: u32, user: u32, is_foreign: bool) {
            let entry = Entry { pid: Pid::from_raw(7), written: SystemTime::now(), owner };
            let verified = entry.verify(Boot::ZERO, user, (Boot::ZERO, SystemTime::now()));
            assert_eq!(
                verified.is_err(),
                is_foreign,
                "for a file of {owner} and a process of {user}"
            );
        }
        check(0, 0, false);
        check(0, 4242, false);
        check(4242, 4242, false);
        check(4243, 4242, true);
        check(4243, 0, true);
    }

    #[test]
    fn how_much_younger_is_said() {
        let fault =
            PidFileFault::Reused { pid: Pid::from_raw(7), after: Duration::from_millis(40_900) };
        assert_eq!(
            fault.to_string(),
            "it names pid 7, and that process started 40 s after the file was written, so it is \
             another one; remove the file, or have the program write it anew"
        );
    }
}
