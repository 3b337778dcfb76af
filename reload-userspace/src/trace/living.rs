//! The processes that are traced, and those that come from them.

use nix::unistd::Pid;

use super::{MOST_LIVING, Trace, update::Update};
use crate::{
    clock::{self, Boot},
    source::Source,
    target::Selector,
};

impl<S: Source> Trace<S> {
    /// The children that were there before an update and have not ended. A master, whenever he has started,
    /// comes from none of them, and stays.
    pub(super) fn old_children(&self, update: &Update) -> impl Iterator<Item = Pid> {
        let has_elder = |pid| self.procfs.line(pid).skip(1).any(|it| self.living.contains_key(&it));
        let began = update.began;
        let old = self.living.iter().filter(move |&(_, &since)| since < began);
        old.map(|(&pid, _)| pid).filter(move |&pid| self.bears_a_name(pid) && has_elder(pid))
    }

    /// Notes that a process is one of those that are traced, since then if it was not known. One that was not
    /// seen to start its program has been there, and has got its name later.
    pub(super) fn note_living(&mut self, pid: Pid, since: Boot) {
        if self.living.len() >= MOST_LIVING {
            // The end of a child that has become another program is not told.
            let Self { living, procfs, .. } = self;
            living.retain(|&pid, _| procfs.name(pid).is_some());
        }
        if self.living.len() < MOST_LIVING {
            self.living.entry(pid).or_insert(since);
        }
    }

    /// Notes that a process was sent a signal.
    pub(super) fn note_sent(&mut self, pid: Pid, signal: i32) {
        if self.sent.len() >= MOST_LIVING {
            self.sent.clear();
        }
        self.sent.insert(pid, signal);
    }

    /// Whether a process is there and called as one of those that are traced: of no other's end is told.
    pub(super) fn bears_a_name(&self, pid: Pid) -> bool {
        /// How many bytes of a task's name the kernel keeps.
        const COMM_BYTES: usize = 15;
        let name = self.procfs.name(pid);
        let names = self.question.names.iter().map(String::as_bytes);
        name.is_some_and(|name| {
            names.map(|it| &it[..it.len().min(COMM_BYTES)]).any(|it| it == name)
        })
    }

    /// Finds the processes that bear the names now, and those that come from them.
    pub(super) fn find_living(&mut self) {
        let now = clock::now();
        for name in &self.question.names {
            for held in self.procfs.resolve(&Selector::process(name)).unwrap_or_default() {
                let pid = held.target().pid;
                let children = self.procfs.children(pid).into_iter().map(|it| it.target.pid);
                self.living.extend(children.chain([pid]).map(|pid| (pid, now)));
            }
        }
    }
}
