//! Who opens the content: a fanotify group of its own, for as long as reloads are being confirmed.
//!
//! It is told who, and so needs `CAP_SYS_ADMIN`; without it there is less evidence, and nothing else.
//!
//! A target that takes its time may find other files than those that were there when it was signalled.
//! They are known by their names, in the same directories or where symlinks lead meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
};

use nix::{
    sys::fanotify::{Fanotify, InitFlags, MarkFlags, MaskFlags},
    unistd::Pid,
};
use rustix::io::{Errno, read};
use tokio::io::unix::AsyncFd;

use crate::{
    reach::{self, Spot},
    sys::{
        self, FileHandle,
        fanotify::{GROUP, NAMES, Record, group, mark, records, unmark},
    },
};

/// How many files of one reload are watched: a mark takes some microseconds, just before the signal.
pub const MOST_FILES: usize = 32;

/// How much is read at once, in bytes: a hundred events or so.
const BUFFER: usize = 8192;

/// How often is read what has been opened before somebody else's files are marked.
const MOST_READINGS: usize = 16;

/// A group that hears of opens.
#[derive(Debug)]
pub struct Opens {
    ready: AsyncFd<OwnedFd>,
    group: Fanotify,
    marks: HashMap<FileHandle, Mark>,
    /// What each reload is about.
    tickets: HashMap<Ticket, Vec<Spot>>,
    next: u64,
    heard: Heard,
}

/// What has been read, and not been asked for yet.
#[derive(Debug, Default)]
struct Heard {
    opened: VecDeque<Opened>,
    /// Whether the queue was full, so that somebody may have opened a file unseen.
    has_lost: bool,
}

/// A mark of ours, on a file or a directory.
#[derive(Debug)]
struct Mark {
    hold: Hold,
    mask: MaskFlags,
    /// On whose behalf, and for a directory for which name in it.
    wanted: Vec<(Ticket, Option<Vec<u8>>)>,
}

/// Where the inode was when it was marked: a mark is only taken away from a file at hand.
#[derive(Debug)]
enum Hold {
    /// It is at hand, for there was no time yet to ask for its path. Not for long: its filesystem cannot be
    /// unmounted.
    Open(OwnedFd),
    At(PathBuf),
}

/// The files that are watched for one reload, by whoever tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Somebody has opened a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who.
    pub pid: Pid,
    /// For whom the file is watched.
    pub tickets: Vec<Ticket>,
}

impl Opens {
    /// Makes the group.
    ///
    /// # Errors
    ///
    /// Fails where the agent lacks `CAP_SYS_ADMIN` (`EPERM`) or there are too many groups: reloads are
    /// then confirmed by lesser evidence.
    pub fn open() -> io::Result<Self> {
        // Only a privileged group may have so many marks, and only it is told who did it.
        let group = group(GROUP | NAMES | InitFlags::FAN_UNLIMITED_MARKS)?;
        Ok(Self {
            ready: sys::readable(&group)?,
            group,
            marks: HashMap::new(),
            tickets: HashMap::new(),
            next: 0,
            heard: Heard::default(),
        })
    }

    /// Watches the files that these paths lead to now, the first 32 of them; `None` where that cannot
    /// be done for any. To be called just before the signal is sent.
    pub fn watch(&mut self, spots: impl IntoIterator<Item = impl Into<Spot>>) -> Option<Ticket> {
        // What was opened by now was opened before the signal, and is nothing to the new ticket.
        for _ in 0..MOST_READINGS {
            if !self.read() {
                break;
            }
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let spots: Vec<_> = spots.into_iter().take(MOST_FILES).map(Into::into).collect();
        let marked = spots.iter().filter(|spot| {
            let done = spot.open();
            let done = done.and_then(|file| self.mark(file, MaskFlags::FAN_OPEN, (ticket, None)));
            if let Err(error) = &done {
                tracing::debug!(path = %spot.path.display(), %error, "cannot see who opens it");
            }
            done.is_ok()
        });
        let is_any = marked.count() > 0;
        is_any.then(|| {
            self.tickets.insert(ticket, spots);
            ticket
        })
    }

    /// Watches also what may take the place of the files, by their names in the directories in which
    /// they are now, and says whether one of them may have been opened there already, unseen. To be called
    /// when the signal is out, and from time to time, for a symlink may lead elsewhere.
    pub fn follow(&mut self, ticket: Ticket) -> bool {
        let mut may_be_opened = false;
        for spot in self.tickets.get(&ticket).cloned().unwrap_or_default() {
            // One that is not there any more is not opened either.
            let Ok(path) = spot.real() else { continue };
            let Some((directory, name)) = path.parent().zip(path.file_name()) else { continue };
            let mask = MaskFlags::FAN_OPEN | MaskFlags::FAN_EVENT_ON_CHILD;
            let wanted = (ticket, Some(name.as_bytes().to_vec()));
            let done = reach::open_real(directory).map_err(Into::into);
            let done = done.and_then(|it| self.mark(it, mask, wanted));
            may_be_opened |= match done {
                Ok(is_new) => is_new && !self.is_marked(&spot, ticket),
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "cannot see who opens it next");
                    true
                }
            };
        }
        self.let_go();
        may_be_opened
    }

    /// Watches the files no longer, unless somebody else needs it.
    pub fn forget(&mut self, ticket: Ticket) {
        if self.tickets.remove(&ticket).is_none() {
            return;
        }
        self.let_go();
        let group = &self.group;
        self.marks.retain(|id, mark| {
            mark.wanted.retain(|(it, _)| *it != ticket);
            if mark.wanted.is_empty()
                && let Hold::At(path) = &mark.hold
                && let Ok(file) = reach::open_real(path)
            {
                unmark(group, mark.mask, file.as_fd(), id);
            }
            !mark.wanted.is_empty()
        });
    }

    /// Who has opened one of the files, without waiting for it.
    pub fn try_next(&mut self) -> Option<Opened> {
        while self.heard.opened.is_empty() && self.read() {}
        self.heard.opened.pop_front()
    }

    /// Whether somebody may have opened a file since the last time and it was not told.
    pub fn take_loss(&mut self) -> bool {
        mem::take(&mut self.heard.has_lost)
    }

    /// Waits until somebody opens one of the files. Nothing is lost where the wait is given up.
    ///
    /// # Errors
    ///
    /// Fails where the runtime goes away.
    pub async fn next(&mut self) -> io::Result<Opened> {
        loop {
            if let Some(opened) = self.heard.opened.pop_front() {
                return Ok(opened);
            }
            let mut ready = self.ready.readable().await?;
            if !read_group(&self.group, &self.marks, &mut self.heard) {
                ready.clear_ready();
            }
        }
    }

    /// Says whether it is news that this is wanted.
    fn mark(
        &mut self,
        file: OwnedFd,
        mask: MaskFlags,
        wanted: (Ticket, Option<Vec<u8>>),
    ) -> io::Result<bool> {
        let id = sys::file_handle(file.as_fd())?;
        let known = self.marks.get(&id);
        // Two paths may lead to one file.
        if known.is_some_and(|mark| mark.wanted.contains(&wanted)) {
            return Ok(false);
        }
        // Added also where it is there: the kernel takes all marks away when it unmounts.
        mark(&self.group, MarkFlags::FAN_MARK_ADD, mask, file.as_fd())?;
        let new = || Mark { hold: Hold::Open(file), mask, wanted: Vec::new() };
        let marked = self.marks.entry(id).or_insert_with(new);
        marked.mask |= mask;
        marked.wanted.push(wanted);
        Ok(true)
    }

    /// Whether the file that is there now is one that a ticket has had watched.
    fn is_marked(&self, spot: &Spot, ticket: Ticket) -> bool {
        let id = spot.open().ok().and_then(|file| sys::file_handle(file.as_fd()).ok());
        let mark = id.and_then(|id| self.marks.get(&id));
        mark.is_some_and(|mark| mark.wanted.contains(&(ticket, None)))
    }

    /// Keeps the paths of the files, and not the files.
    fn let_go(&mut self) {
        for mark in self.marks.values_mut() {
            if let Hold::Open(file) = &mark.hold {
                mark.hold = Hold::At(reach::path_of(file.as_fd()).unwrap_or_default());
            }
        }
    }

    fn read(&mut self) -> bool {
        read_group(&self.group, &self.marks, &mut self.heard)
    }
}

/// Reads what fits into the buffer, and says whether there was anything.
fn read_group(group: &Fanotify, marks: &HashMap<FileHandle, Mark>, heard: &mut Heard) -> bool {
    let mut buffer = [0; BUFFER];
    let length = match read(group, &mut buffer) {
        Ok(length) => length,
        Err(Errno::AGAIN | Errno::INTR) => return false,
        Err(errno) => {
            tracing::debug!(%errno, "cannot read who has opened what");
            return false;
        }
    };
    for record in records(&buffer[..length]).flatten() {
        heard.has_lost |= record.mask.contains(MaskFlags::FAN_Q_OVERFLOW);
        heard.opened.extend(opened(&record, marks));
    }
    true
}

/// What a record says, unless it is of nobody that we know, of ourselves, or of a file that is not
/// watched any more.
fn opened(record: &Record, marks: &HashMap<FileHandle, Mark>) -> Option<Opened> {
    let pid = Pid::from_raw(record.pid);
    if record.pid <= 0 || pid == Pid::this() {
        return None;
    }
    let wanted = |id: Option<&FileHandle>| id.and_then(|id| marks.get(id)).map(|mark| &mark.wanted);
    let (directory, name) = match &record.entry {
        Some((directory, name)) => (Some(directory), Some(name)),
        None => (None, None),
    };
    let itself = wanted(record.id.as_ref()).into_iter().flatten();
    let by_name = wanted(directory).into_iter().flatten();
    let mut tickets: Vec<_> = itself
        .filter(|(_, of)| of.is_none())
        .chain(by_name.filter(|(_, of)| of.is_some() && of.as_ref() == name))
        .map(|&(ticket, _)| ticket)
        .collect();
    tickets.sort_unstable();
    tickets.dedup();
    (!tickets.is_empty()).then_some(Opened { pid, tickets })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::Path,
        process::{Command, Stdio},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    /// Has another process open the file, and gives its pid.
    fn open_elsewhere(path: &Path) -> Pid {
        let mut child = Command::new("head").arg(path).stdout(Stdio::null()).spawn().unwrap();
        child.wait().unwrap();
        Pid::from_raw(i32::try_from(child.id()).unwrap())
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn whoever_opens_the_content_is_named_to_those_who_wait_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| directory.path().join(name));
        fs::write(&a, "").unwrap();
        fs::write(&b, "").unwrap();
        symlink(&b, &c).unwrap();
        let mut opens = Opens::open().unwrap();
        assert_eq!(opens.watch([Path::new("/nowhere")]), None);
        let first = opens.watch([&*a, &*b, &*c]).unwrap();
        let second = opens.watch([&*b]).unwrap();

        drop(fs::read(&a).unwrap());
        assert_eq!(opens.try_next(), None, "what the agent opens itself counts for nothing");
        let pid = open_elsewhere(&a);
        assert_eq!(opens.try_next(), Some(Opened { pid, tickets: vec![first] }));
        let pid = open_elsewhere(&b);
        let waited = timeout(Duration::from_secs(5), opens.next()).await.unwrap().unwrap();
        assert_eq!(waited, Opened { pid, tickets: vec![first, second] });

        // What was opened before somebody asked is nothing to him.
        let pid = open_elsewhere(&c);
        let third = opens.watch([&*b]).unwrap();
        assert_eq!(opens.try_next(), Some(Opened { pid, tickets: vec![first, second] }));

        opens.forget(first);
        open_elsewhere(&a);
        assert_eq!(opens.try_next(), None);
        opens.forget(second);
        // Another file in its place is another file.
        fs::write(&a, "").unwrap();
        fs::rename(&a, &b).unwrap();
        open_elsewhere(&b);
        assert_eq!(opens.try_next(), None);
        opens.forget(third);
        assert!(opens.marks.is_empty());

        // What was opened before is nothing to whoever asks then, also where nobody was told of it.
        let fourth = opens.watch([&*b]).unwrap();
        open_elsewhere(&c);
        opens.forget(fourth);
        opens.watch([&*b]).unwrap();
        assert_eq!(opens.try_next(), None);
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn what_takes_the_place_of_a_file_is_known_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        let [old, new, link, draft] =
            ["old", "new", "link", "draft"].map(|name| root.path().join(name));
        for directory in [&old, &new] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("a"), "").unwrap();
            fs::write(directory.join("b"), "").unwrap();
        }
        symlink("old", &link).unwrap();
        let mut opens = Opens::open().unwrap();
        let ticket = opens.watch([link.join("a")]).unwrap();
        assert!(!opens.follow(ticket), "it is the file that is watched");
        assert!(!opens.follow(ticket));
        let expected = |pid| Some(Opened { pid, tickets: vec![ticket] });

        fs::write(&draft, "").unwrap();
        fs::rename(&draft, link.join("a")).unwrap();
        let pid = open_elsewhere(&link.join("a"));
        assert_eq!(opens.try_next(), expected(pid));
        open_elsewhere(&link.join("b"));
        assert_eq!(opens.try_next(), None);
        assert!(!opens.follow(ticket), "who opens it is seen by its name");

        symlink("new", &draft).unwrap();
        fs::rename(&draft, &link).unwrap();
        assert!(opens.follow(ticket), "it may have been opened before anybody looked");
        assert!(!opens.follow(ticket));
        let pid = open_elsewhere(&link.join("a"));
        assert_eq!(opens.try_next(), expected(pid));
        opens.forget(ticket);
        open_elsewhere(&link.join("a"));
        assert_eq!(opens.try_next(), None);
        assert!(opens.marks.is_empty() && opens.tickets.is_empty());
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn what_was_replaced_before_its_name_was_watched_may_have_been_opened() {
        let root = tempfile::tempdir().unwrap();
        let [file, draft] = ["file", "draft"].map(|name| root.path().join(name));
        fs::write(&file, "").unwrap();
        let mut opens = Opens::open().unwrap();
        let ticket = opens.watch([&*file]).unwrap();

        fs::write(&draft, "").unwrap();
        fs::rename(&draft, &file).unwrap();
        assert!(opens.follow(ticket));
        assert!(!opens.follow(ticket), "from here on it is seen");
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn a_full_queue_is_a_loss_that_is_told_once() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let mut opens = Opens::open().unwrap();
        let ticket = opens.watch([&*file]).unwrap();
        opens.follow(ticket);
        assert_eq!(opens.try_next(), None);
        assert!(!opens.take_loss());

        let most = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
        // Each of another name, for those of one become one.
        for number in 0..=most.trim().parse::<u32>().unwrap() {
            fs::write(root.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(opens.try_next(), None);
        assert!(opens.take_loss());
        assert!(!opens.take_loss());
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn what_leads_out_of_a_volume_is_not_watched() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("volume");
        fs::create_dir(&root).unwrap();
        fs::write(home.path().join("secret"), "").unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink("file", root.join("in")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        let spot = |name: &str| Spot { path: root.join(name), root: Some(root.clone()) };
        let mut opens = Opens::open().unwrap();
        assert_eq!(opens.watch([spot("out")]), None);
        let ticket = opens.watch([spot("in"), spot("out")]).unwrap();
        opens.follow(ticket);
        assert_eq!(opens.marks.len(), 2, "the file and its directory");
        let pid = open_elsewhere(&root.join("in"));
        assert_eq!(opens.try_next(), Some(Opened { pid, tickets: vec![ticket] }));
        open_elsewhere(&root.join("out"));
        assert_eq!(opens.try_next(), None);
        opens.forget(ticket);
        assert!(opens.marks.is_empty());
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn a_reload_of_very_many_files_is_not_held_up() {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> =
            (0..100).map(|number| directory.path().join(number.to_string())).collect();
        for path in &paths {
            fs::write(path, "").unwrap();
        }
        let mut opens = Opens::open().unwrap();
        let ticket = opens.watch(paths.iter().map(PathBuf::as_path)).unwrap();
        assert_eq!(opens.marks.len(), MOST_FILES);
        opens.forget(ticket);
        assert!(opens.marks.is_empty());
    }
}
