//! Who has read from inotify or fanotify that a watched path changed.
//!
//! The source tells who reads from which queue, and of inotify also which watch has fired and for which name.
//! What a watch is on stands in `/proc/<pid>/fdinfo` (`proc(5)`), but no longer than it is there: it goes with
//! its file, and its holder may end as soon as it has read. So it is looked up when it is added, which the
//! source tells as well, and remembered.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use nix::{libc, unistd::Pid};
use rustix::fs::makedev;

use super::{
    Trace,
    step::{Stage, Step, Who},
    who,
};
use crate::{
    clock::Boot,
    event::{Heard, News},
    places::Places,
    source::Source,
    target::Procfs,
    watch::Identity,
};

/// How many queues are remembered.
const MOST_QUEUES: usize = 256;

/// How many watches of each.
const MOST_WATCHES: usize = 1024;

/// How much of what `/proc` has of a queue is read, in bytes: some hundred watches, the newest first.
const MOST_BYTES: u64 = 64 * 1024;

/// The queues of inotify of which something is known, by their holders and descriptors.
#[derive(Debug, Default)]
pub(super) struct Queues(HashMap<(Pid, i32), Queue>);

#[derive(Debug)]
struct Queue {
    holder: Who,
    /// Whether watches were added since it was looked at.
    is_stale: bool,
    /// Whether it has more watches than were read.
    is_cut: bool,
    watches: HashMap<i32, On>,
}

/// What a watch is on.
#[derive(Clone, Copy, Debug)]
struct On {
    it: Identity,
    /// Whether the trace has ever watched it, too: what was replaced it does not know any more.
    is_ours: bool,
}

/// What somebody has read of, most telling first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// A watched path, or what it leads through, by its name if it is in a directory.
    Path(String),
    /// Another name in a directory that one leads through.
    Beside(String, Identity),
    /// Nobody knows.
    Unknown,
    /// Something else.
    Other,
}

impl Queues {
    /// Those that there are now with a watch on anything of these places.
    #[must_use]
    pub(super) fn find(procfs: &Procfs, places: &Places) -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids =
            entries.filter_map(|it| it.file_name().to_str()?.parse().ok().map(Pid::from_raw));
        let all = pids.filter(|&pid| pid != Pid::this()).flat_map(|pid| {
            queues_of(pid).into_iter().filter_map(move |descriptor| {
                let mut queue = Queue::new(who::who(procfs, Some(pid), None));
                queue.look(pid, descriptor, places);
                let is_there = queue.watches.values().any(|on| on.is_ours);
                is_there.then_some(((pid, descriptor), queue))
            })
        });
        Self(all.take(MOST_QUEUES).collect())
    }

    /// Who has a watch on one of these, as `name (pid)`.
    #[must_use]
    pub(super) fn holders(&self, these: &HashSet<Identity>) -> Vec<String> {
        let watches = |queue: &Queue| queue.watches.values().any(|on| these.contains(&on.it));
        let holders = self.0.iter().filter(|(_, queue)| watches(queue)).map(|((pid, _), queue)| {
            format!("{} ({pid})", queue.holder.comm.as_deref().unwrap_or_default())
        });
        let mut holders: Vec<_> = holders.collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Notes that a watch was added.
    pub(super) fn add(
        &mut self,
        pid: Pid,
        holder: impl FnOnce() -> Who,
        descriptor: i32,
        watch: i32,
    ) {
        if self.0.len() >= MOST_QUEUES && !self.0.contains_key(&(pid, descriptor)) {
            self.0.retain(|(pid, _), _| Path::new("/proc").join(pid.to_string()).exists());
            if self.0.len() >= MOST_QUEUES {
                self.0.clear();
            }
        }
        let queue = self.0.entry((pid, descriptor)).or_insert_with(|| Queue::new(holder()));
        // A number of an earlier queue may have been another's.
        queue.watches.remove(&watch);
        queue.is_stale = true;
    }

    /// Looks at those to which watches were added.
    pub(super) fn look(&mut self, places: &Places) {
        for (&(pid, descriptor), queue) in self.0.iter_mut().filter(|(_, it)| it.is_stale) {
            queue.look(pid, descriptor, places);
        }
    }

    /// Notes which of what is watched by others these places are.
    pub(super) fn recognize(&mut self, places: &Places) {
        for on in self.0.values_mut().flat_map(|queue| queue.watches.values_mut()) {
            on.is_ours |= places.of(on.it).is_some();
        }
    }

    /// What somebody has read of by inotify, and who he was when he added the watch.
    fn about(
        &mut self,
        (pid, descriptor): (Pid, i32),
        heard: &[Heard],
        is_whole: bool,
        places: &Places,
    ) -> (About, Option<Who>) {
        let mut fresh = None;
        let queue = match self.0.get_mut(&(pid, descriptor)) {
            Some(queue) => queue,
            // What is not known to add watches is not remembered.
            None => fresh.insert(Queue::new(Who::default())),
        };
        let is_known = heard.iter().all(|it| it.watch < 0 || queue.watches.contains_key(&it.watch));
        if queue.is_stale || !is_known {
            queue.look(pid, descriptor, places);
        }
        let about = heard.iter().filter(|it| is_change(it.mask)).map(|it| queue.about(it, places));
        let rest = (!is_whole).then(|| queue.unknown());
        let about = about.chain(rest).min().unwrap_or(About::Other);
        (about, self.0.get(&(pid, descriptor)).map(|it| it.holder.clone()))
    }
}

impl Queue {
    fn new(holder: Who) -> Self {
        Self { holder, is_stale: true, is_cut: false, watches: HashMap::new() }
    }

    /// Finds out what its watches are on, as long as it is there.
    fn look(&mut self, pid: Pid, descriptor: i32, places: &Places) {
        self.is_stale = false;
        if self.watches.len() > MOST_WATCHES {
            self.watches.clear();
        }
        let info = info(pid, descriptor);
        self.is_cut |= info.len() as u64 >= MOST_BYTES;
        for (watch, it) in info.lines().filter_map(watch) {
            let is_ours = places.of(it).is_some();
            let before = self.watches.insert(watch, On { it, is_ours });
            if let Some(before) = before.filter(|before| before.it == it && before.is_ours) {
                self.watches.insert(watch, before);
            }
        }
    }

    /// What somebody has read of who does not say which watch it was.
    fn unknown(&self) -> About {
        let may_be_ours = self.is_cut || self.watches.values().any(|on| on.is_ours);
        if may_be_ours { About::Unknown } else { About::Other }
    }

    fn about(&self, heard: &Heard, places: &Places) -> About {
        let name = || heard.name.to_string_lossy().into_owned();
        match self.watches.get(&heard.watch) {
            // It has overflown.
            None if heard.watch < 0 => self.unknown(),
            None => About::Unknown,
            Some(on) => match places.matters(on.it, &heard.name) {
                Some(true) => About::Path(name()),
                Some(false) => About::Beside(name(), on.it),
                None if on.is_ours => About::Path(name()),
                None => About::Other,
            },
        }
    }
}

impl<S: Source> Trace<S> {
    /// Notes that somebody has read from a queue, if that may be about a watched path.
    pub(super) fn read(
        &mut self,
        (pid, comm): (Option<Pid>, String),
        descriptor: i32,
        news: &News,
        at: Boot,
    ) {
        let (about, holder) = match (pid, news) {
            (Some(pid), News::Inotify { heard, is_whole }) => {
                self.queues.about((pid, descriptor), heard, *is_whole, &self.places)
            }
            (Some(pid), News::Fanotify) => {
                (by_fanotify(&info(pid, descriptor), &self.places), None)
            }
            (None, _) => (About::Unknown, None),
        };
        let queue = match news {
            News::Inotify { .. } => "inotify",
            News::Fanotify => "fanotify",
        };
        let (stage, what) = match &about {
            About::Path(name) if name.is_empty() => {
                (Some(Stage::Noticed), format!("reads it from {queue}"))
            }
            About::Path(name) => (Some(Stage::Noticed), format!("reads of {name} from {queue}")),
            // Far up the path many things happen that are of no concern.
            About::Beside(_, it) if !self.near_identities().any(|near| near == *it) => return,
            About::Beside(name, _) => (None, format!("reads of {name} from {queue}, beside it")),
            About::Unknown => (None, format!("reads from {queue}; of what is not known")),
            About::Other => return,
        };
        let mut who = who::who(&self.procfs, pid, Some(comm));
        // Where he runs is not told any more once he has ended.
        who.container = who.container.or_else(|| holder?.container);
        let doubt = (Stage::Noticed, "somebody has read of a change, and of which is not known");
        let may_be = matches!(about, About::Unknown).then_some(doubt);
        self.note_step(Step { may_be, ..Step::new(at, stage, who, what) });
    }
}

/// What a queue of fanotify is about. Which of its marks an event is for is not told, so only one that has no
/// others tells of a watched path.
fn by_fanotify(info: &str, places: &Places) -> About {
    let marks =
        || info.lines().filter(|line| line.starts_with("fanotify ") && !line.contains(" flags:"));
    let is_ours = |line: &str| identity(line).is_some_and(|it| places.of(it).is_some());
    let is_of_inode = |line: &str| line.starts_with("fanotify ino:");
    match marks().next() {
        None => About::Unknown,
        Some(_) if marks().all(is_ours) => About::Path(String::new()),
        Some(_) if marks().any(|line| is_ours(line) || !is_of_inode(line)) => About::Unknown,
        Some(_) => About::Other,
    }
}

/// Whether an event is about a change, and not about who reads, or the watch itself.
const fn is_change(mask: u32) -> bool {
    const LOOKS: u32 = libc::IN_ACCESS | libc::IN_OPEN | libc::IN_CLOSE_NOWRITE | libc::IN_IGNORED;
    mask & !(LOOKS | libc::IN_ISDIR) != 0
}

/// The descriptors of a process that are queues of inotify.
fn queues_of(pid: Pid) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let queues = entries.filter(|it| {
        fs::read_link(it.path()).is_ok_and(|it| it == Path::new("anon_inode:inotify"))
    });
    queues.filter_map(|it| it.file_name().to_str()?.parse().ok()).collect()
}

/// What `/proc` has of a descriptor, or nothing where it is not there or not shown.
fn info(pid: Pid, descriptor: i32) -> String {
    let path: PathBuf = format!("/proc/{pid}/fdinfo/{descriptor}").into();
    let mut text = Vec::new();
    // What was read until it failed will do.
    drop(File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut text)));
    String::from_utf8_lossy(&text).into_owned()
}

/// A watch and what it is on, by its line.
fn watch(line: &str) -> Option<(i32, Identity)> {
    let number = line.strip_prefix("inotify ")?;
    Some((i32::try_from(hex(number, "wd:")?).ok()?, identity(line)?))
}

/// The inode that a line is about.
fn identity(line: &str) -> Option<Identity> {
    let device = u32::try_from(hex(line, "sdev:")?).ok()?;
    // As the kernel itself keeps it: twenty bits for the minor number.
    let device = makedev(device >> 20, device & 0xf_ffff);
    Some(Identity { device, inode: hex(line, "ino:")? })
}

fn hex(line: &str, key: &str) -> Option<u64> {
    let word = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key))?;
    u64::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_known_by_its_line() {
        let line = "inotify wd:1f ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8";
        let expected = Identity { device: makedev(8, 19), inode: 0x9e7e };
        assert_eq!(watch(line), Some((31, expected)));
        assert_eq!(watch("pos:\t0"), None);
        assert_eq!(watch("inotify wd:1 ino:9e7e"), None);
        assert_eq!(watch("inotify wd:1 ino:x sdev:1"), None);
    }

    #[test]
    fn who_only_looks_changes_nothing() {
        assert!(is_change(libc::IN_MOVED_TO));
        assert!(is_change(libc::IN_CREATE | libc::IN_ISDIR));
        assert!(!is_change(libc::IN_OPEN | libc::IN_ISDIR));
        assert!(!is_change(libc::IN_IGNORED));
    }

    #[test]
    fn a_queue_of_fanotify_that_has_other_marks_tells_nothing_for_sure() {
        let check = |info: &str, expected: &About| {
            assert_eq!(&by_fanotify(info, &Places::new()), expected, "for {info}");
        };
        let head = "pos:\t0\nfanotify flags:10 event-flags:8000\n";
        check("", &About::Unknown);
        check(head, &About::Unknown);
        let elsewhere = format!("{head}fanotify ino:2 sdev:1 mflags:0 mask:3b ignored_mask:0\n");
        check(&elsewhere, &About::Other);
        check(&format!("{elsewhere}fanotify sdev:1 mflags:0 mask:3b\n"), &About::Unknown);
    }
}
