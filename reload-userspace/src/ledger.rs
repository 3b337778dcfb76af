//! What was last applied to which target, so that whoever starts after us knows it.
//!
//! **Invariant:** a fact is in the file when the call that notes it returns, so a process that is
//! killed loses nothing; it is durable some milliseconds later. Whatever is in the file, the agent
//! starts; whatever the disk does, it goes on from memory.
//!
//! Moments are those of this machine's `CLOCK_BOOTTIME`: that of another time namespace may be ahead
//! or behind (`time_namespaces(7)`), which no container runtime makes use of.

mod fact;
mod journal;
mod memory;
mod scribe;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::{FlockOperation, flock};

use self::{
    fact::{Fact, Here},
    journal::Journal,
    memory::Memory,
};
use crate::{clock::Boot, content::Digest, target::Target};

/// What was last applied to which target, in a file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    here: Here,
    memory: Memory,
    journal: Journal,
    /// Kept for its lock.
    _directory: OwnedFd,
    /// Why it cannot be written, if so.
    trouble: Option<String>,
    /// Whether that has been told.
    is_told: bool,
}

/// A fact that is not one yet.
#[derive(Debug)]
pub struct Draft {
    fact: Fact,
    line: Vec<u8>,
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The directory cannot be had.
    #[error(
        "cannot use {} as the state directory; give --state-dir a directory that the agent may \
         write to",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error(
        "state directory {} is in use by another agent; stop that one, or give each its own",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It is not known which boot and which pid namespace this is.
    #[error(
        "cannot read {path}, without which nobody knows which processes the ledger speaks of; mount /proc"
    )]
    Here {
        /// What cannot be read.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Ledger {
    /// Opens the ledger in `directory`, which is made if it is not there, and says what was wrong with
    /// the one that was found, if it had to be set aside.
    ///
    /// It waits for the disk, so it is called before anything is watched.
    ///
    /// # Errors
    ///
    /// Fails where the directory cannot be had or another agent has it: the agent must end. A disk
    /// that is full or read-only is none, but [trouble](Self::trouble).
    pub fn open(directory: &Path) -> Result<(Self, Option<String>), LedgerError> {
        let unusable = |source| LedgerError::Directory { path: directory.to_owned(), source };
        let here = Here::find()?;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let handle = OwnedFd::from(File::open(directory).map_err(unusable)?);
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LedgerError::InUse { path: directory.to_owned() });
            }
            // Filesystems such as NFS know no lock of a directory.
            Err(errno) => tracing::debug!(%errno, "the state directory cannot be locked"),
        }
        let path = directory.join(journal::NAME);
        let (memory, bad) = match recall(&handle, &here) {
            Ok(memory) => (memory, None),
            Err(fault) => (Memory::default(), Some(set_aside(&handle, &path, &fault))),
        };
        let journal = handle.try_clone().and_then(Journal::new).map_err(unusable)?;
        let mut ledger =
            Self { path, here, memory, journal, _directory: handle, trouble: None, is_told: false };
        let written = ledger.replace().and_then(|()| ledger.journal.wait());
        ledger.judge(written);
        Ok((ledger, bad))
    }

    /// What the files of a rule contained, and since when.
    #[must_use]
    pub fn content(&self, rule: &str) -> Option<(Digest, Boot)> {
        self.memory.content(rule)
    }

    /// Whether anything is known of an action of a rule.
    #[must_use]
    pub fn knows(&self, rule: &str, action: &str) -> bool {
        self.memory.knows(rule, action)
    }

    /// What a target has, or without one what the receiver of the action itself has.
    #[must_use]
    pub fn applied(&self, rule: &str, action: &str, target: Option<Target>) -> Option<Digest> {
        self.memory.applied(rule, action, target)
    }

    /// Notes that the files of a rule contain this since then.
    pub fn note_content(&mut self, rule: &str, digest: Digest, since: Boot) {
        self.note(Fact::Content { rule: rule.to_owned(), digest, since });
    }

    /// Notes that a target, or the receiver of the action itself, has this content.
    pub fn note_applied(
        &mut self,
        rule: &str,
        action: &str,
        target: Option<Target>,
        digest: Digest,
    ) {
        self.note_draft(draft(rule, action, target, digest));
    }

    /// Notes what was written before.
    pub fn note_draft(&mut self, draft: Draft) {
        let Draft { fact, line } = draft;
        self.append(fact, &line);
    }

    /// Forgets the targets that no longer live.
    pub fn retain(&mut self, is_alive: impl FnMut(Target) -> bool) {
        // The file needs no line for that: whoever reads it asks who lives.
        self.memory.retain(is_alive);
    }

    /// Forgets the rules that are not among these.
    pub fn retain_rules(&mut self, rules: &[&str]) {
        let gone: Vec<_> =
            self.memory.rules().filter(|rule| !rules.contains(rule)).map(str::to_owned).collect();
        for rule in gone {
            self.note(Fact::Dropped { rule });
        }
    }

    /// What is new about the disk: that it cannot be written, why and what to do about it, or that it
    /// can be again.
    pub fn trouble(&mut self) -> Option<String> {
        let attended = self.journal.attend();
        self.judge(attended);
        if self.trouble.is_some() == self.is_told {
            return None;
        }
        self.is_told = self.trouble.is_some();
        let path = self.path.display();
        Some(self.trouble.as_ref().map_or_else(
            || format!("{path} is written again: what was applied will outlive the agent"),
            |error| {
                format!(
                    "cannot write {path}: {error}; the agent goes on, but what it applies from here \
                     on will be forgotten when it ends: make room, or mend the disk"
                )
            },
        ))
    }

    /// Ends when all that is known is durable, and gives the last of [trouble](Self::trouble).
    #[must_use]
    pub fn close(mut self) -> Option<String> {
        let waited = self.journal.wait();
        self.judge(waited);
        if !self.journal.is_open() {
            let done = self.replace().and_then(|()| self.journal.wait());
            self.judge(done);
        }
        let news = self.trouble();
        let closed = self.journal.close();
        news.or_else(|| Some(format!("cannot write {}: {}", self.path.display(), closed.err()?)))
    }

    fn note(&mut self, fact: Fact) {
        let line = fact::line(&fact);
        self.append(fact, &line);
    }

    fn append(&mut self, fact: Fact, line: &[u8]) {
        if !self.memory.learn(fact) {
            return;
        }
        let attended = self.journal.attend();
        self.judge(attended);
        let done = self.journal.append(line);
        self.judge(done);
        if !self.journal.is_open() || self.journal.is_overgrown(self.memory.len()) {
            let done = self.replace();
            self.judge(done);
        }
    }

    /// Writes all that is known anew.
    fn replace(&mut self) -> io::Result<()> {
        let facts = self.memory.facts().map(|fact| fact::line(&fact));
        let lines: Vec<_> = std::iter::once(fact::header(&self.here)).chain(facts).collect();
        self.journal.replace(&lines)
    }

    /// Remembers what is wrong, as long as it is.
    fn judge(&mut self, done: io::Result<()>) {
        match done {
            Err(error) => self.trouble = Some(error.to_string()),
            Ok(()) if self.journal.is_open() => self.trouble = None,
            Ok(()) => {}
        }
    }
}

/// Writes down that a target, or the receiver of the action itself, has this content, before that is so:
/// between a signal and what is noted of it there is no time to lose.
#[must_use]
pub fn draft(rule: &str, action: &str, target: Option<Target>, digest: Digest) -> Draft {
    let (rule, action, to) = (rule.to_owned(), action.to_owned(), target.map(Into::into));
    let fact = Fact::Applied { rule, action, to, digest };
    Draft { line: fact::line(&fact), fact }
}

impl Here {
    fn find() -> Result<Self, LedgerError> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        const PID_NAMESPACE: &str = "/proc/self/ns/pid";
        let boot =
            fs::read_to_string(BOOT).map_err(|source| LedgerError::Here { path: BOOT, source })?;
        let namespace = fs::metadata(PID_NAMESPACE)
            .map_err(|source| LedgerError::Here { path: PID_NAMESPACE, source })?;
        Ok(Self { boot: boot.trim().to_owned(), pid_namespace: namespace.ino() })
    }
}

/// What the file in the directory says, or why it says nothing.
fn recall(directory: &OwnedFd, here: &Here) -> Result<Memory, String> {
    let bytes = journal::read(directory).map_err(|error| error.to_string())?;
    let read = fact::read(&bytes).map_err(|fault| fault.to_string())?;
    Ok(read.map_or_else(Memory::default, |(there, facts)| Memory::recall(facts, &there, here)))
}

/// Puts a ledger that cannot be used out of the way, and says so.
fn set_aside(directory: &OwnedFd, path: &Path, fault: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let path = path.display();
    match journal::set_aside(directory, now.as_secs()) {
        Ok(name) => format!(
            "{path} is no ledger that can be used: {fault}; it was set aside as {name}, and what was \
             applied before is not known; remove it when you have looked at it"
        ),
        Err(error) => format!(
            "{path} is no ledger that can be used: {fault}; it cannot be set aside either ({error}), \
             and what was applied before is not known; remove it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead as _, BufReader, Write as _},
        os::unix::fs::{PermissionsExt as _, symlink},
        process::{Command, Stdio},
        time::Duration,
    };

    use nix::unistd::Pid;

    use super::*;

    /// A digest that is easily told from others.
    fn digest(byte: u8) -> Digest {
        format!("{byte:02x}").repeat(32).parse().unwrap()
    }

    fn nanos(number: u64) -> Boot {
        Boot(Duration::from_nanos(number))
    }

    /// Opens a ledger with which nothing is wrong.
    ///
    /// A process that another test starts has its lock, too, between its fork and its program.
    #[track_caller]
    fn open(directory: &Path) -> Ledger {
        let deadline = std::time::Instant::now() + Duration::from_mins(1);
        let opened = loop {
            match Ledger::open(directory) {
                Err(LedgerError::InUse { .. }) if std::time::Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                opened => break opened,
            }
        };
        let (mut ledger, bad) = opened.unwrap();
        assert_eq!((bad, ledger.trouble()), (None, None));
        ledger
    }

    #[test]
    fn what_was_noted_is_known_to_the_next() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/b");
        let target = Target { pid: Pid::from_raw(7), started: 991 };
        let mut ledger = open(&directory);
        ledger.note_content("a\n", digest(1), nanos(9));
        ledger.note_applied("a\n", "signal HUP", Some(target), digest(1));
        ledger.note_applied("a\n", "exec x", None, digest(2));
        ledger.note_applied("b", "restart", Some(target), digest(2));
        ledger.retain_rules(&["a\n"]);
        assert_eq!(ledger.close(), None);

        let mut ledger = open(&directory);
        assert_eq!(ledger.content("a\n"), Some((digest(1), nanos(9))));
        assert_eq!(ledger.applied("a\n", "signal HUP", Some(target)), Some(digest(1)));
        assert_eq!(ledger.applied("a\n", "exec x", None), Some(digest(2)));
        assert_eq!(ledger.applied("b", "restart", Some(target)), None);
        assert_eq!(ledger.applied("a\n", "restart", Some(target)), None);
        ledger.retain(|_target| false);
        assert_eq!(ledger.applied("a\n", "signal HUP", Some(target)), None);
        assert_eq!(ledger.applied("a\n", "exec x", None), Some(digest(2)));

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("ledger")), 0o600);
    }

    #[test]
    fn a_second_agent_is_told_that_the_directory_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path());
        let error = Ledger::open(directory.path()).unwrap_err();
        let expected = format!(
            "state directory {} is in use by another agent; stop that one, or give each its own",
            directory.path().display()
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(first.close(), None);
        open(directory.path());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Ledger::open(Path::new("/proc/self/nowhere")).unwrap_err();
        let expected = "cannot use /proc/self/nowhere as the state directory; give --state-dir a \
                        directory that the agent may write to";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_is_no_ledger_is_set_aside_and_the_agent_starts() {
        #[track_caller]
        fn check(make: impl FnOnce(&Path), expected: &str) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("ledger");
            make(&path);
            let (mut ledger, bad) = Ledger::open(directory.path()).unwrap();
            let bad = bad.unwrap();
            let beginning =
                format!("{} is no ledger that can be used: {expected}; it was", path.display());
            assert!(bad.starts_with(&beginning), "{bad}");
            let name = bad.split([' ', ',']).find(|word| word.starts_with("ledger.bad-")).unwrap();
            assert!(directory.path().join(name).symlink_metadata().is_ok());
            assert_eq!(ledger.trouble(), None);
            assert_eq!(ledger.close(), None);
            open(directory.path());
        }
        let link = tempfile::NamedTempFile::new().unwrap();
        fs::write(link.path(), "precious").unwrap();
        check(|path| fs::write(path, "x\n").unwrap(), "it does not begin as a ledger does");
        check(
            |path| fs::write(path, "{\"version\":9}\n").unwrap(),
            "its format is version 9, and this agent knows version 1",
        );
        check(|path| symlink(link.path(), path).unwrap(), "it is a symlink");
        check(|path| fs::create_dir(path).unwrap(), "it is no regular file");
        check(
            |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "it is no regular file",
        );
        assert_eq!(fs::read_to_string(link.path()).unwrap(), "precious");
    }

    #[test]
    fn only_the_last_of_what_was_set_aside_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        for number in 1..9 {
            fs::write(directory.path().join(format!("ledger.bad-{number}")), "").unwrap();
        }
        fs::write(directory.path().join("ledger.bad-x"), "of somebody else").unwrap();
        fs::write(directory.path().join("ledger"), "x\n").unwrap();
        let (_ledger, bad) = Ledger::open(directory.path()).unwrap();
        let new =
            bad.unwrap().split([' ', ',']).find(|it| it.contains(".bad-")).unwrap().to_owned();
        let left = fs::read_dir(directory.path()).unwrap();
        let mut left: Vec<_> =
            left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["ledger", &new, "ledger.bad-7", "ledger.bad-8", "ledger.bad-x"]);
    }

    #[test]
    fn a_line_that_was_cut_off_is_no_fault() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = open(directory.path());
        ledger.note_content("a", digest(1), nanos(1));
        ledger.note_content("b", digest(1), nanos(1));
        assert_eq!(ledger.close(), None);
        let path = directory.path().join("ledger");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut ledger = open(directory.path());
        let known = ["a", "b"].map(|rule| ledger.content(rule).is_some());
        assert!(known == [true, false] || known == [false, true], "{known:?}");
        // And what comes next is on a line of its own.
        ledger.note_content("c", digest(1), nanos(1));
        assert_eq!(ledger.close(), None);
        assert!(open(directory.path()).content("c").is_some());
    }

    #[test]
    fn a_ledger_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = open(directory.path());
        for number in 0..5000 {
            ledger.note_content("a", digest(1), nanos(number));
        }
        assert_eq!(ledger.close(), None);
        let ledger = open(directory.path());
        assert_eq!(ledger.content("a"), Some((digest(1), nanos(4999))));
        assert_eq!(ledger.journal.close().ok(), Some(()));
        let bytes = fs::metadata(directory.path().join("ledger")).unwrap().len();
        assert!(bytes < 1000, "{bytes} bytes for one fact");
    }

    /// It plays two parts: the agent that is killed is this test once more, told by a variable where to
    /// write to.
    #[test]
    fn whoever_is_killed_loses_nothing_that_was_noted() {
        const VARIABLE: &str = "RELOAD_TEST_LEDGER";
        if let Some(directory) = env::var_os(VARIABLE) {
            let mut ledger = open(Path::new(&directory));
            let first = ledger.content("a").map_or(0, |(_, Boot(since))| since.as_nanos());
            for number in u64::try_from(first).unwrap() + 1.. {
                ledger.note_content("a", digest(1), nanos(number));
                writeln!(io::stdout(), "{number}").unwrap();
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let name = "ledger::tests::whoever_is_killed_loses_nothing_that_was_noted";
        // From 500 lines on or so the file is replaced meanwhile.
        for count in [1, 2, 500, 520, 540, 560, 580, 600, 700, 1500] {
            let mut child = Command::new(env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(VARIABLE, directory.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut numbers = lines.filter_map(|line| line.ok()?.parse::<u64>().ok());
            let early = numbers.by_ref().take(count).last();
            child.kill().unwrap();
            child.wait().unwrap();
            let last = numbers.last().or(early).unwrap();
            let ledger = open(directory.path());
            let (_digest, Boot(since)) = ledger.content("a").unwrap();
            // The one after the last may have been noted and not yet been said.
            let noted = since.as_nanos();
            assert!(noted >= u128::from(last), "{noted} is known, and {last} was noted");
            assert_eq!(ledger.close(), None);
        }
    }

    /// A small filesystem.
    struct Tmpfs(tempfile::TempDir);

    impl Tmpfs {
        fn mount(size: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let options = format!("size={size}");
            let mount = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "none"])
                .arg(directory.path())
                .status();
            assert!(mount.unwrap().success());
            Self(directory)
        }
    }

    impl Drop for Tmpfs {
        fn drop(&mut self) {
            let umount = Command::new("umount").arg("-l").arg(self.0.path()).status();
            assert!(umount.unwrap().success());
        }
    }

    #[test]
    #[ignore = "needs root, to mount; `cargo xtask test` runs it"]
    fn a_full_disk_is_told_of_once_and_so_is_its_end() {
        let tmpfs = Tmpfs::mount("64k");
        let directory = tmpfs.0.path();
        let mut ledger = open(directory);
        let filler = directory.join("filler");
        let full = fs::write(&filler, vec![0; 1024 * 1024]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        for number in 0..100 {
            ledger.note_content("a", digest(1), nanos(number));
        }
        let news = ledger.trouble().unwrap();
        let path = directory.join("ledger");
        let expected = format!(
            "cannot write {}: No space left on device (os error 28); the agent goes on, but what it \
             applies from here on will be forgotten when it ends: make room, or mend the disk",
            path.display()
        );
        assert_eq!(news, expected);
        ledger.note_content("b", digest(2), nanos(1));
        assert_eq!(ledger.trouble(), None);
        assert_eq!(ledger.content("b"), Some((digest(2), nanos(1))));

        fs::remove_file(filler).unwrap();
        ledger.note_content("c", digest(3), nanos(1));
        ledger.journal.wait().unwrap();
        let expected =
            format!("{} is written again: what was applied will outlive the agent", path.display());
        assert_eq!(ledger.trouble(), Some(expected));
        assert_eq!(ledger.close(), None);
        let ledger = open(directory);
        let all =
            [(1, 99), (2, 1), (3, 1)].map(|(byte, number)| Some((digest(byte), nanos(number))));
        assert_eq!(["a", "b", "c"].map(|rule| ledger.content(rule)), all);
        assert_eq!(ledger.close(), None);
    }
}
