//! What `/proc` tells of processes (`proc(5)`).
//!
//! **Invariant:** that a file cannot be read for want of a resource (`EMFILE`, `ENOMEM`) is an error and
//! never a "no": otherwise a target would be forgotten. What the agent may not read
//! (`hidepid=`, another user's `exe`) is not there for it.

mod kin;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use nix::unistd::Pid;
use rustix::io::Errno;

use super::{
    By, Census, Held, Scope, Selector, Target, TargetError, Which, look::Look, stat::Stat,
};

pub use self::kin::Child;

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

impl Procfs {
    /// A procfs that is mounted at `root`.
    #[cfg(test)]
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
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

    /// The tick at which a process has started, from what its `stat` says.
    #[must_use]
    pub fn start_tick(stat: &[u8]) -> Option<u64> {
        Stat::parse(stat).map(|stat| stat.started)
    }

    /// Who has this pid now, or `None` where nobody has.
    ///
    /// # Errors
    ///
    /// Fails where `/proc` cannot be read.
    pub fn target(&self, pid: Pid) -> Result<Option<Target>, TargetError> {
        Ok(self.stat(pid)?.map(|stat| Target { pid, started: stat.started }))
    }

    /// Holds the processes that `selector` means.
    ///
    /// The agent itself is never one of them, and neither is a thread, a zombie or a thread of the
    /// kernel. A process that goes away while we look is left out: that is no error.
    ///
    /// # Errors
    ///
    /// Fails where processes cannot be listed, read or held, and where a pid file is not to be relied
    /// on. Who was found before is then as good as ever.
    pub fn resolve(&self, selector: &Selector) -> Result<Vec<Held>, TargetError> {
        self.resolve_by(selector, &mut Census::default())
    }

    /// The same, where the census says who is in which pod; it is taken if it has not been.
    ///
    /// It only saves looking at all processes for each pod: of those whom it names each is asked again.
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`].
    pub fn resolve_by(
        &self,
        selector: &Selector,
        census: &mut Census,
    ) -> Result<Vec<Held>, TargetError> {
        let look = Look::of(self, selector)?;
        let candidates = match (&look, &selector.scope) {
            (Look::Pid(pid), _) => pid.iter().copied().collect(),
            (_, Scope::Anywhere) => self.list()?,
            (_, Scope::Pod { uid, .. }) => census.pids_in(*uid, self)?.to_vec(),
        };
        let mut matching = HashMap::new();
        for pid in candidates {
            if pid != Pid::this()
                && let Some(stat) = self.stat(pid)?
                && look.means(self, pid, &stat)?
                && self.is_within(pid, &stat, &selector.scope)?
            {
                matching.insert(pid, stat);
            }
        }
        let mut chosen = Vec::new();
        for (&pid, stat) in &matching {
            if selector.which == Which::All || !self.is_below(stat, &matching)? {
                chosen.push(pid);
            }
        }
        chosen.sort();
        let held = chosen.into_iter().map(|pid| self.hold(pid, &selector.scope));
        held.filter_map(Result::transpose).collect()
    }

    /// Holds a process, if the one that is held is within the scope.
    fn hold(&self, pid: Pid, scope: &Scope) -> Result<Option<Held>, TargetError> {
        let Some(held) = Held::open(self, pid)? else { return Ok(None) };
        if scope.is_anywhere() {
            return Ok(Some(held));
        }
        // Asked when the handle is open; and if its process lives then, it was the one that was asked.
        let stat = self.stat(pid)?;
        let is_within = stat.map_or(Ok(false), |stat| self.is_within(pid, &stat, scope))?;
        Ok((is_within && held.is_alive(self)).then_some(held))
    }

    /// Whether the selector means this process, or one below it, now.
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`]. A process that is gone is no match.
    pub fn matches(&self, pid: Pid, selector: &Selector) -> Result<bool, TargetError> {
        let Some(stat) = self.stat(pid)? else {
            return Ok(false);
        };
        // Where it is comes last: that is what it must not be wrong about.
        Ok(Look::of(self, selector)?.means(self, pid, &stat)?
            && self.is_within(pid, &stat, &selector.scope)?)
    }

    /// Whether the process was forked by one of another name, so that it has read nothing before.
    ///
    /// A daemon has left its parent, and what the kernel names instead is whoever adopts orphans. It
    /// has also left its session (`daemon(3)`), so a parent of the same session is the true one; and
    /// a parent outside the pid namespace is no ancestor of that name. Where that cannot be told, it
    /// was not.
    #[must_use]
    pub fn is_forked_by_stranger(&self, pid: Pid, selector: &Selector) -> bool {
        let Ok(Some(stat)) = self.stat(pid) else {
            return false;
        };
        let parent = Pid::from_raw(stat.parent);
        if stat.parent <= 1 {
            return stat.parent == 0;
        }
        let Ok(Some(above)) = self.stat(parent) else {
            return false;
        };
        let is_kin = match selector.by {
            // A number is no name: that of the task stands for it.
            By::PidFile(_) => above.comm == stat.comm,
            By::Process(_) | By::Exe(_) => self.matches(parent, selector).unwrap_or(true),
        };
        above.session == stat.session && !is_kin
    }

    /// Whether one of the ancestors is in `others`.
    fn is_below(&self, stat: &Stat, others: &HashMap<Pid, Stat>) -> Result<bool, TargetError> {
        let mut parent = Pid::from_raw(stat.parent);
        // Bounded, for the tree may change while we climb it.
        for _ in 0..others.len() + 1024 {
            if others.contains_key(&parent) {
                return Ok(true);
            }
            if parent.as_raw() <= 1 {
                break;
            }
            let Some(above) = self.stat(parent)? else {
                break;
            };
            parent = Pid::from_raw(above.parent);
        }
        Ok(false)
    }

    pub(super) fn list(&self) -> Result<Vec<Pid>, TargetError> {
        let failed = |source| TargetError::List { root: self.root.clone(), source };
        let mut pids = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            pids.extend(name.to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw));
        }
        Ok(pids)
    }

    pub(super) fn stat(&self, pid: Pid) -> Result<Option<Stat>, TargetError> {
        stat_in(&self.home(pid))
    }

    /// The directory of a process.
    pub(super) fn home(&self, pid: Pid) -> PathBuf {
        self.root.join(pid.to_string())
    }

    /// The directory of a thread of the process that still has its program.
    pub(super) fn living_home(&self, pid: Pid, stat: &Stat) -> Result<PathBuf, TargetError> {
        let home = self.home(pid);
        if stat.is_headless() {
            for task in tasks(&home)? {
                if stat_in(&task)?.is_some_and(|stat| !stat.has_ended()) {
                    return Ok(task);
                }
            }
        }
        Ok(home)
    }

    /// In which mount namespace the agent is.
    pub(super) fn own_mount_namespace(&self) -> Option<PathBuf> {
        fs::read_link(self.own_home().join("ns/mnt")).ok()
    }

    /// The directory of the agent.
    pub(super) fn own_home(&self) -> PathBuf {
        self.root.join("self")
    }
}

fn stat_in(home: &Path) -> Result<Option<Stat>, TargetError> {
    Ok(read(&home.join("stat"))?.and_then(|text| Stat::parse(&text)))
}

/// The directories of the threads of the process whose directory `home` is.
pub(super) fn tasks(home: &Path) -> Result<Vec<PathBuf>, TargetError> {
    entries(&home.join("task"))
}

/// What is in a directory of procfs; nothing where it is not there for us.
pub(super) fn entries(path: &Path) -> Result<Vec<PathBuf>, TargetError> {
    let listed = || fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect();
    Ok(if_there(path, listed())?.unwrap_or_default())
}

/// What is in a file of procfs, or `None` where it is not there for us.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, TargetError> {
    let read = || {
        // Nearly all fit, so that one read gives one state of the process.
        let mut text = Vec::with_capacity(USUAL_BYTES);
        File::open(path)?.take(MOST_READ).read_to_end(&mut text)?;
        Ok(text)
    };
    if_there(path, read())
}

/// Tells what is not there, or not for us, from what could not be looked at.
pub(super) fn if_there<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, TargetError> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(None)
        }
        Err(source) => Err(TargetError::Read { path: path.to_owned(), source }),
    }
}

/// A process that ends while its file is open leaves `ESRCH`.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use crate::target::made::{Machine, plain, stat};

    use super::*;

    fn pid(raw: i32) -> Pid {
        Pid::from_raw(raw)
    }

    #[test]
    fn what_is_below_another_match_is_no_topmost() {
        let machine = Machine::new(&[
            plain(10, 1, "nginx"),
            plain(11, 10, "nginx"),
            plain(12, 11, "sh"),
            plain(13, 12, "nginx"),
            plain(20, 1, "sh"),
            plain(21, 20, "nginx"),
        ]);
        let procfs = &machine.procfs;
        let matching: HashMap<_, _> =
            [10, 11, 13, 21].map(|raw| (pid(raw), procfs.stat(pid(raw)).unwrap().unwrap())).into();
        let mut topmost: Vec<_> = matching
            .iter()
            .filter(|(_, stat)| !procfs.is_below(stat, &matching).unwrap())
            .map(|(pid, _)| pid.as_raw())
            .collect();
        topmost.sort_unstable();
        assert_eq!(topmost, [10, 21]);
    }

    #[test]
    fn a_process_whose_parent_is_a_stranger_has_read_nothing_before() {
        let machine = Machine::new(&[
            plain(1, 0, "nginx"),
            plain(2, 1, "nginx"),
            plain(3, 1, "sh"),
            plain(4, 3, "nginx"),
            plain(5, 4, "nginx"),
            plain(6, 99, "nginx"),
            plain(8, 3, "nginx"),
        ]);
        // A session of its own, as a daemon has that somebody has adopted.
        machine.set_stat(8, &stat("nginx", 3).replacen(" 7 7 0", " 8 8 0", 1));
        let check = |selector: &Selector| {
            let is_stranger = |&raw: &i32| machine.procfs.is_forked_by_stranger(pid(raw), selector);
            let strangers: Vec<_> = (1..=8).filter(is_stranger).collect();
            // Of 3 nobody asks.
            assert_eq!(strangers, [1, 4], "for {selector:?}");
        };
        check(&Selector::process("nginx"));
        let by = By::PidFile("/nobody".into());
        check(&Selector { by, ..Selector::process("") });
    }

    #[test]
    fn what_is_not_there_is_told_from_what_cannot_be_looked_at() {
        fn check(errno: Errno, is_there: bool) {
            let result = if_there::<()>(Path::new("/proc/7/stat"), Err(errno.into()));
            assert_eq!(result.is_err(), is_there, "for {errno}");
        }
        check(Errno::NOENT, false);
        check(Errno::SRCH, false);
        check(Errno::ACCESS, false);
        check(Errno::PERM, false);
        check(Errno::MFILE, true);
        check(Errno::NFILE, true);
        check(Errno::NOMEM, true);
        check(Errno::IO, true);
    }

    #[test]
    fn a_process_that_cannot_be_looked_at_is_not_taken_for_another() {
        let machine = Machine::new(&[plain(4, 1, "nginx")]);
        // Reading a directory fails with EISDIR, whoever asks.
        fs::remove_file(machine.home(4).join("stat")).unwrap();
        fs::create_dir(machine.home(4).join("stat")).unwrap();
        let nginx = Selector::process("nginx");
        let error = machine.procfs.resolve(&nginx).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.ends_with("/4/stat"), "{error}");
        assert!(machine.procfs.matches(pid(4), &nginx).is_err());
        assert!(machine.procfs.target(pid(4)).is_err());
    }

    #[test]
    fn the_agent_itself_is_nobody_s_target() {
        let procfs = Procfs::default();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        let own = Selector { which: Which::All, ..Selector::process(name.trim()) };
        assert!(procfs.matches(Pid::this(), &own).unwrap());
        let found = procfs.resolve(&own).unwrap();
        assert!(found.iter().all(|held| held.target().pid != Pid::this()));
    }
}
