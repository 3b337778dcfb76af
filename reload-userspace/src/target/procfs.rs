//! What `/proc` tells of processes (`proc(5)`).

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

use super::{Held, Selector, Target, TargetError};

/// How many bytes of a task's name the kernel keeps (`TASK_COMM_LEN` without the zero).
const COMM_BYTES: usize = 15;

/// How large the files of a process usually are, in bytes.
const USUAL_BYTES: usize = 4096;

/// How much of one is read: `status` lists every supplementary group, `cmdline` every argument.
const MOST_READ: u64 = 1024 * 1024;

/// A procfs: the machine's own, or one that a test has made up.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
}

impl Default for Procfs {
    fn default() -> Self {
        Self { root: PathBuf::from("/proc") }
    }
}

/// What a process does with its signals; bit n − 1 stands for signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSets {
    /// Caught by a handler (`SigCgt`).
    pub caught: u64,
    /// Ignored (`SigIgn`).
    pub ignored: u64,
    /// Whether the process has ended and only waits to be reaped.
    pub is_zombie: bool,
}

/// What is in `/proc/<pid>/stat`, as far as we need it.
struct Stat {
    parent: i32,
    session: i32,
    started: u64,
    state: u8,
}

impl Procfs {
    /// A procfs that is mounted at `root`.
    #[cfg(test)]
    fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes sure that the numbers in this procfs are those that signals go by.
    ///
    /// # Errors
    ///
    /// Fails where it is of another pid namespace: a number in it may mean any process.
    pub fn verify(&self) -> Result<(), TargetError> {
        let me = Pid::this();
        let it = fs::read_link(self.root.join("self"));
        if it.is_ok_and(|it| it == Path::new(&me.to_string())) {
            return Ok(());
        }
        Err(TargetError::Foreign { root: self.root.clone() })
    }

    /// Who has this pid now, or `None` where nobody has.
    #[must_use]
    pub fn target(&self, pid: Pid) -> Option<Target> {
        let stat = self.stat(pid)?;
        Some(Target { pid, started: stat.started })
    }

    /// Holds the processes that `selector` means: of each process tree the topmost.
    ///
    /// The agent itself is never one of them. A process that goes away while we look is left out:
    /// that is no error.
    ///
    /// # Errors
    ///
    /// Fails where processes cannot be listed or held.
    pub fn resolve(&self, selector: &Selector) -> Result<Vec<Held>, TargetError> {
        let list = |source: io::Error| TargetError::List { root: self.root.clone(), source };
        let pids = fs::read_dir(&self.root)
            .map_err(list)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw));
        let matching: HashMap<Pid, Stat> = pids
            .filter(|&pid| pid != Pid::this() && self.matches(pid, selector))
            .filter_map(|pid| Some((pid, self.stat(pid).filter(Stat::is_running)?)))
            .collect();
        let mut topmost: Vec<_> =
            matching.iter().filter(|(_, stat)| !self.is_below(stat, &matching)).collect();
        topmost.sort_by_key(|&(&pid, _)| pid);
        topmost.into_iter().filter_map(|(&pid, _)| Held::open(self, pid).transpose()).collect()
    }

    /// Whether the process bears the selector's name, now.
    ///
    /// The kernel cuts a task's name to 15 bytes: a longer name must also be that of the executable,
    /// of `argv[0]`, or of the script that an interpreter runs (`argv[1]`).
    #[must_use]
    pub fn matches(&self, pid: Pid, selector: &Selector) -> bool {
        let Some(name) = selector.name().map(str::as_bytes) else {
            return false;
        };
        let comm = self.read(pid, "comm").unwrap_or_default();
        let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
        if comm == name && name.len() <= COMM_BYTES {
            return true;
        }
        if self.executable(pid).as_deref() == Some(name) {
            return true;
        }
        let arguments = self.read(pid, "cmdline").unwrap_or_default();
        let mut arguments = arguments.split(|&byte| byte == 0).map(base_name);
        if arguments.next() == Some(name) {
            return true;
        }
        let is_cut = name.len() > COMM_BYTES && comm == &name[..COMM_BYTES];
        is_cut && arguments.next() == Some(name)
    }

    /// Whether the process was forked by one of another name, so that it has read nothing before.
    ///
    /// A daemon has left its parent, and what the kernel names instead is whoever adopts orphans. It
    /// has also left its session (`daemon(3)`), so a parent of the same session is the true one; and
    /// a parent outside the pid namespace is no ancestor of that name.
    #[must_use]
    pub fn is_forked_by_stranger(&self, pid: Pid, selector: &Selector) -> bool {
        let Some(stat) = self.stat(pid) else {
            return false;
        };
        let parent = Pid::from_raw(stat.parent);
        let is_of_session = |parent: Stat| parent.session == stat.session;
        stat.parent == 0
            || (stat.parent > 1
                && self.stat(parent).is_some_and(is_of_session)
                && !self.matches(parent, selector))
    }

    /// What the process does with its signals, or `None` where it is gone.
    #[must_use]
    pub fn signal_sets(&self, pid: Pid) -> Option<SignalSets> {
        parse_status(&String::from_utf8_lossy(&self.read(pid, "status")?))
    }

    /// The base name of the executable. Only visible to its owner and to root.
    fn executable(&self, pid: Pid) -> Option<Vec<u8>> {
        let path = fs::read_link(self.file(pid, "exe")).ok()?;
        let name = base_name(path.as_os_str().as_bytes());
        // What the kernel appends when the file has been replaced or removed.
        Some(name.strip_suffix(b" (deleted)").unwrap_or(name).to_owned())
    }

    /// Whether one of the ancestors is in `others`.
    fn is_below(&self, stat: &Stat, others: &HashMap<Pid, Stat>) -> bool {
        let mut parent = Pid::from_raw(stat.parent);
        // Bounded, for the tree may change while we climb it.
        for _ in 0..others.len() + 1024 {
            if others.contains_key(&parent) {
                return true;
            }
            let Some(stat) = self.stat(parent).filter(|_| parent.as_raw() > 1) else {
                return false;
            };
            parent = Pid::from_raw(stat.parent);
        }
        false
    }

    fn stat(&self, pid: Pid) -> Option<Stat> {
        // The name in it may be of any bytes.
        parse_stat(&String::from_utf8_lossy(&self.read(pid, "stat")?))
    }

    /// A file of a process.
    fn read(&self, pid: Pid, name: &str) -> Option<Vec<u8>> {
        // Nearly all fit, so that one read gives one state of the process.
        let mut text = Vec::with_capacity(USUAL_BYTES);
        let file = File::open(self.file(pid, name)).ok()?;
        file.take(MOST_READ).read_to_end(&mut text).ok()?;
        Some(text)
    }

    fn file(&self, pid: Pid, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }
}

impl Stat {
    fn is_running(&self) -> bool {
        !matches!(self.state, b'Z' | b'X')
    }
}

/// What is behind the last slash.
fn base_name(path: &[u8]) -> &[u8] {
    Path::new(OsStr::from_bytes(path)).file_name().map_or(path, OsStr::as_bytes)
}

/// Takes the state, the parent, the session and the start time, fields 3, 4, 6 and 22, from `/proc/<pid>/stat`.
///
/// Field 2 is the name of the process in parentheses. A name may hold spaces and parentheses, so the
/// fields are counted from the *last* `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    Some(Stat { parent, session, started, state })
}

/// Takes the signal sets from `/proc/<pid>/status`.
fn parse_status(text: &str) -> Option<SignalSets> {
    // The first line is the name, in which a newline is escaped: no line can be forged.
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let set = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
    Some(SignalSets {
        caught: set("SigCgt:")?,
        ignored: set("SigIgn:")?,
        is_zombie: field("State:")?.starts_with(['Z', 'X']),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A process to make up.
    struct Made {
        pid: i32,
        parent: i32,
        comm: &'static str,
        exe: &'static str,
        arguments: &'static [&'static str],
    }

    fn procfs(processes: &[Made]) -> (TempDir, Procfs) {
        let root = tempfile::tempdir().unwrap();
        for made in processes {
            let dir = root.path().join(made.pid.to_string());
            fs::create_dir(&dir).unwrap();
            symlink(made.exe, dir.join("exe")).unwrap();
            fs::write(dir.join("comm"), format!("{}\n", made.comm)).unwrap();
            fs::write(dir.join("cmdline"), made.arguments.join("\0")).unwrap();
            fs::write(dir.join("stat"), stat(&format!("({})", made.comm), made.parent, 7)).unwrap();
        }
        let procfs = Procfs::new(root.path());
        (root, procfs)
    }

    fn stat(name: &str, parent: i32, start: u64) -> String {
        format!("7 {name} S {parent} 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 1")
    }

    fn selector(process: &str) -> Selector {
        Selector::process(process)
    }

    #[test]
    fn a_name_is_that_of_the_task_the_executable_or_the_first_argument() {
        let long = "a-name-of-more-than-fifteen-bytes";
        let (_root, procfs) = procfs(&[
            Made { pid: 4, parent: 1, comm: "nginx", exe: "/opt/x", arguments: &["y"] },
            Made { pid: 5, parent: 1, comm: "x", exe: "/usr/sbin/nginx", arguments: &["y"] },
            Made { pid: 6, parent: 1, comm: "x", exe: "/opt/x", arguments: &["/bin/nginx", "-g"] },
            Made {
                pid: 7,
                parent: 1,
                comm: "nginx-debug",
                exe: "/opt/nginx-debug",
                arguments: &[],
            },
            Made { pid: 8, parent: 1, comm: "x", exe: "/nginx (deleted)", arguments: &[] },
            Made {
                pid: 9,
                parent: 1,
                comm: "a-name-of-more-",
                exe: "/opt/other",
                arguments: &["x"],
            },
            Made {
                pid: 10,
                parent: 1,
                comm: "a-name-of-more-",
                exe: "/usr/bin/python3",
                arguments: &["python3", "/opt/a-name-of-more-than-fifteen-bytes", "x"],
            },
        ]);
        let check = |pid: i32, name: &str, expected: bool| {
            let matches = procfs.matches(Pid::from_raw(pid), &selector(name));
            assert_eq!(matches, expected, "for pid {pid} and {name}");
        };
        check(4, "nginx", true);
        check(5, "nginx", true);
        check(6, "nginx", true);
        check(7, "nginx", false);
        check(8, "nginx", true);
        check(9, long, false);
        check(9, "a-name-of-more-", true);
        check(10, long, true);
        check(99, "nginx", false);
    }

    #[test]
    fn what_is_below_another_match_is_no_topmost() {
        let made = |pid, parent, comm| Made { pid, parent, comm, exe: "/x", arguments: &[] };
        let (_root, procfs) = procfs(&[
            made(10, 1, "nginx"),
            made(11, 10, "nginx"),
            made(12, 11, "sh"),
            made(13, 12, "nginx"),
            made(20, 1, "sh"),
            made(21, 20, "nginx"),
        ]);
        let matching: HashMap<_, _> = [10, 11, 13, 21]
            .map(|pid| (Pid::from_raw(pid), procfs.stat(Pid::from_raw(pid)).unwrap()))
            .into();
        let mut topmost: Vec<_> = matching
            .iter()
            .filter(|(_, stat)| !procfs.is_below(stat, &matching))
            .map(|(pid, _)| pid.as_raw())
            .collect();
        topmost.sort_unstable();
        assert_eq!(topmost, [10, 21]);
    }

    #[test]
    fn the_fields_are_found_behind_any_name() {
        fn check(name: &str) {
            let stat = parse_stat(&stat(name, 3, 991)).unwrap();
            let found = (stat.parent, stat.session, stat.started, stat.state);
            assert_eq!(found, (3, 7, 991, b'S'), "for {name}");
        }
        check("(nginx)");
        check("(tmux: server)");
        check("(a) S 1 (b)");
        check("()");
    }

    #[test]
    fn a_process_whose_parent_is_a_stranger_has_read_nothing_before() {
        let made = |pid, parent, comm| Made { pid, parent, comm, exe: "/x", arguments: &[] };
        let (_root, procfs) = procfs(&[
            made(1, 0, "nginx"),
            made(2, 1, "nginx"),
            made(3, 1, "sh"),
            made(4, 3, "nginx"),
            made(5, 4, "nginx"),
            made(6, 99, "nginx"),
            made(8, 3, "nginx"),
        ]);
        // A session of its own, as a daemon has that somebody has adopted.
        let daemon = stat("(nginx)", 3, 7).replacen(" 7 7 0", " 8 8 0", 1);
        fs::write(procfs.file(Pid::from_raw(8), "stat"), daemon).unwrap();
        let selector = Selector::process("nginx");
        let strangers: Vec<_> = (1..=8)
            .filter(|&pid| procfs.is_forked_by_stranger(Pid::from_raw(pid), &selector))
            .collect();
        // Of 3 nobody asks.
        assert_eq!(strangers, [1, 4]);
    }

    #[test]
    fn a_truncated_stat_is_no_process() {
        assert!(parse_stat("7 (name) S 1 7").is_none());
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn the_signal_sets_are_read() {
        let text = "Name:\tx\nState:\tS (sleeping)\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n";
        let sets = SignalSets { caught: 1, ignored: 0x1000, is_zombie: false };
        assert_eq!(parse_status(text), Some(sets));
        assert!(parse_status(&text.replace("S (sl", "Z (zo")).unwrap().is_zombie);
        assert_eq!(parse_status("Name:\tx\n"), None);
    }
}
