//! The processes that are traced, and those that come from them.

use nix::{libc, unistd::Pid};

use super::{
    DEATH, MOST_LIVING, Trace,
    step::{self, Stage, Step, Who},
    update::Update,
    who,
};
use crate::{
    clock::{self, Boot},
    event::{Event, Fate, Handling, Sender},
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

    /// Notes that a signal was made for one of them.
    pub(super) fn signalled(&mut self, event: &Event) {
        let &Event::Signalled { pid, signal, by, ref comm, fate, at } = event else { return };
        let whom = who::who(&self.procfs, Some(pid), None);
        let whom = whom.comm.unwrap_or_default();
        let what = format!("{}, to {whom} ({pid})", step::words(event));
        let unseen = |comm| Who { pid: None, comm: Some(comm), container: None };
        // What the kernel sends, of timers, children and the like, it sends whatever is written; and
        // what a process sends itself is not why it reloads.
        let (is_sent, sender) = match by {
            Sender::Process(by) => {
                (by != pid, who::who(&self.procfs, Some(by), Some(comm.clone())))
            }
            Sender::Unseen => (true, unseen(comm.clone())),
            Sender::Kernel => (false, unseen("the kernel".to_owned())),
        };
        let stage = is_sent.then_some(Stage::Signalled);
        let step = Step::new(at, stage, sender, what);
        self.note_step(Step { signal: Some((pid.as_raw(), signal)), ..step });
        self.note_living(pid, Boot::ZERO);
        if matches!(fate, Fate::Queued | Fate::InfoLost) {
            self.note_sent(pid, signal, at);
        }
    }

    /// Notes that one of them takes a signal.
    pub(super) fn delivered(&mut self, event: &Event) {
        let &Event::Delivered { pid, signal, ref comm, handling, at } = event else { return };
        // The name in the record is that of the thread.
        let who = who::who(&self.procfs, Some(pid), None);
        let who = Who { comm: who.comm.or_else(|| Some(comm.clone())), ..who };
        // What ends a process the kernel delivers as KILL, whichever it was (`complete_signal`), as soon as it
        // runs.
        let sent = self.sent.remove(&pid).filter(|(_, sent)| at.since(*sent) < DEATH);
        let fatal = sent
            .map(|(sent, _)| sent)
            .filter(|_| signal == libc::SIGKILL && handling == Handling::Default);
        let (signal, what) = match fatal {
            Some(fatal) if fatal != signal => {
                (fatal, format!("takes {} by default, and ends of it", step::name(fatal)))
            }
            _ => (signal, format!("takes {}", step::words(event))),
        };
        let step = Step::new(at, Some(Stage::Delivered), who, what);
        self.note_step(Step { signal: Some((pid.as_raw(), signal)), ..step });
        if self.bears_a_name(pid) {
            self.note_living(pid, Boot::ZERO);
        }
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
    pub(super) fn note_sent(&mut self, pid: Pid, signal: i32, at: Boot) {
        if self.sent.len() >= MOST_LIVING {
            self.sent.clear();
        }
        self.sent.insert(pid, (signal, at));
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
