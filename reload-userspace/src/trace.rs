//! Where does the time of a change go? The same events, told as a timeline of each update.
//!
//! It only looks: it signals nobody, and so shows every other reloader, too.
//!
//! **Invariant:** its memory does not grow with the number of updates (`trace/summary.rs`), nor with the
//! length of one (`trace/update.rs`).

mod living;
mod opening;
mod output;
mod queue;
mod record;
mod sight;
mod step;
mod story;
mod summary;
mod update;
mod who;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    future::Future,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use self::{
    queue::Queues,
    record::Sight,
    step::{Stage, Step, Who},
    summary::Summary,
    update::{Gap, Update},
};

pub use self::output::{Format, Output, create};

use crate::{
    cli::{SETTLE, SETTLE_MAX},
    clock::{self, Boot},
    confirm::Ticket,
    event::{Event, Operation, PlaceId},
    places::{Index, Places},
    settle::Limits,
    source::{Interest, Source, Tells},
    target::{Procfs, Selector},
    watch::{Obstacle, Reach},
    watched::Watched,
    witness::Witness,
};

/// How long after its last step an update is over, once it has settled.
const TAIL: Duration = Duration::from_secs(1);

/// The same where children that were there before have not ended yet, or nobody has reacted yet.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long what somebody did may come to nothing before it is forgotten.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many of such deeds are kept, the latest: as many as are taken at a time. Of others it is told how many
/// there were.
const MOST_DEEDS: usize = MOST_EVENTS;

/// How long a pause may be between two deeds that are of one update.
const COHERENCE: Duration = Duration::from_millis(500);

/// How long a signal takes at most to end a process that it ends, on a busy machine.
const DEATH: Duration = Duration::from_secs(2);

/// How many processes are known at a time: a name may be anybody's.
const MOST_LIVING: usize = 4096;

/// How long after an event the source is asked for losses.
const LOSS_DELAY: Duration = Duration::from_millis(50);

/// How often it is without any.
const LOSS_PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked again for what has been done since the look before, and is told of as one update.
const MOST_LOOKS: usize = 4;

/// How many events are taken before what is due is done.
const MOST_EVENTS: usize = 4096;

/// What to look at, and for how long.
#[derive(Clone, Debug)]
pub struct Question {
    /// The files and directories.
    pub paths: Vec<PathBuf>,
    /// The names of the processes that read them.
    pub names: Vec<String>,
    /// How many updates are enough.
    pub count: Option<u64>,
    /// How long is.
    pub span: Option<Duration>,
}

/// A change of a place that may be part of an update.
struct Deed {
    place: PlaceId,
    is_file: bool,
    interest: Interest,
    at: Boot,
    operation: Operation,
    who: Who,
}

/// Somebody has opened what may be a watched file: that is known once the paths were looked at.
struct Opening {
    place: PlaceId,
    inode: Option<u64>,
    pid: Pid,
    at: Boot,
}

/// The trace of some paths.
pub struct Trace<S> {
    question: Question,
    source: S,
    witness: Witness,
    tickets: Vec<Ticket>,
    output: Output,
    summary: Summary,
    sight: Sight,
    procfs: Procfs,
    places: Places,
    queues: Queues,
    /// Whether it is told of processes.
    tells: Tells,
    watched: BTreeMap<Index, Watched>,
    /// What may be part of an update, until it is known.
    deeds: VecDeque<Deed>,
    /// How many deeds there was no room for, and how many steps that are of no stage.
    untold: u64,
    more: u64,
    opens: Vec<Opening>,
    /// What processes have done since, which may be a part of it.
    aside: VecDeque<Step>,
    update: Option<Update>,
    /// When the paths were last looked at and found to be other than before.
    looked: Boot,
    /// When the last update was over: what was before belongs to none.
    over: Boot,
    /// The processes that bear the names, and since when they are known.
    living: HashMap<Pid, Boot>,
    /// The last signal that each of them was sent and has not taken yet, and when.
    sent: HashMap<Pid, (i32, Boot)>,
    /// What was lost while no update was under way.
    lost: Vec<Gap>,
    /// Of which files it is told who opens them.
    expected: BTreeSet<PathBuf>,
    /// How many updates there have been.
    count: u64,
    losses_at: Boot,
}

impl<S: Source> Trace<S> {
    /// Watches the paths: every change from here on is seen.
    ///
    /// # Errors
    ///
    /// Fails where a path cannot be watched, or processes cannot be listed.
    pub fn new(
        question: Question,
        mut source: S,
        witness: Witness,
        output: Output,
    ) -> Result<Self> {
        let procfs = Procfs::default();
        procfs.verify().context("processes cannot be found safely")?;
        let tells = source.follow(&question.names).context("cannot follow processes")?;
        let limits = Limits { quiet: SETTLE, max: SETTLE_MAX, volume: Duration::from_millis(200) };
        let mut places = Places::new();
        let mut watched = BTreeMap::new();
        for (index, path) in (0..).zip(&question.paths) {
            let mut it =
                Watched::new(index, path, Reach::Anywhere, limits, &mut places, &mut source);
            match it.news_of_obstacle() {
                None | Some(Obstacle::Missing(_)) => {}
                Some(obstacle) => bail!(
                    "cannot watch {}: {obstacle}; give --watch a file or directory that can be read",
                    path.display()
                ),
            }
            watched.insert(index, it);
        }
        let mut trace = Self {
            sight: Sight {
                source: source.name().to_string(),
                strategy: source.strategy(),
                hidden: Vec::new(),
            },
            question,
            source,
            witness,
            tickets: Vec::new(),
            output,
            summary: Summary::default(),
            queues: Queues::find(&procfs, &places),
            tells,
            procfs,
            places,
            watched,
            deeds: VecDeque::new(),
            untold: 0,
            more: 0,
            opens: Vec::new(),
            aside: VecDeque::new(),
            update: None,
            looked: clock::now(),
            over: clock::now(),
            living: HashMap::new(),
            sent: HashMap::new(),
            lost: Vec::new(),
            expected: BTreeSet::new(),
            count: 0,
            losses_at: clock::now().after(LOSS_PAUSE),
        };
        trace.find_living();
        trace.expect_opens();
        let hidden = trace.hidden(tells);
        trace.sight.hidden.extend(hidden);
        Ok(trace)
    }

    /// What there is to be told before the first update: where events come from, and what is not visible.
    #[must_use]
    pub fn preface(&mut self) -> Vec<String> {
        let strategy = self.sight.strategy.map(|it| format!(", strategy {it}"));
        let mut lines =
            vec![format!("source {}{}", self.sight.source, strategy.unwrap_or_default())];
        let obstacles = self.watched.values().filter_map(Watched::obstacle);
        lines.extend(obstacles.map(|it| format!("{it} yet")));
        let troubles = self.source.troubles();
        lines.extend(troubles.into_iter().map(|it| format!("{}: {}", it.source, it.reason)));
        lines.extend(
            self.sight
                .hidden
                .iter()
                .map(|it| format!("{} is not visible: {}", it.stage.words(), it.reason)),
        );
        if self.source.tells_reads() == Tells::Yes {
            lines.push(self.holders());
        }
        for name in &self.question.names {
            let pids = self.procfs.resolve(&Selector::process(name)).unwrap_or_default();
            let pids: Vec<_> = pids.iter().map(|it| it.target().pid.to_string()).collect();
            lines.push(match pids.as_slice() {
                [] => format!("no process is called {name} yet"),
                pids => format!("{name} is pid {}", pids.join(", ")),
            });
        }
        // What a line goes on with is indented.
        let lines = lines.iter().map(|line| output::wrap(line, 78).join("\n  "));
        lines.flat_map(|it| it.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Tells of each update until there were enough of them, or until `stop`.
    ///
    /// # Errors
    ///
    /// Fails where the source breaks, or nothing can be written.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = std::pin::pin!(stop);
        let end = self.question.span.map(|span| clock::now().after(span));
        loop {
            let deadline = self.step(false)?;
            if self.is_enough() || end.is_some_and(|end| end <= clock::now()) {
                break;
            }
            let deadline = end.map_or(deadline, |end| end.min(deadline));
            let pause = tokio::time::sleep(deadline.since(clock::now()));
            tokio::select! {
                biased;
                () = &mut stop => {
                    self.step(true)?;
                    break;
                }
                event = self.source.next() => {
                    self.take(event.with_context(|| format!("source {} broke", self.source.name()))?);
                }
                Some(opened) = self.witness.next() => self.opened(opened.pid, None, clock::now()),
                () = pause => {}
            }
        }
        self.take_all()?;
        self.finish()?;
        self.lost.drain(..).for_each(|gap| self.summary.lose(gap.count));
        self.output.end(&self.summary).context("cannot write the summary")
    }

    /// Whether there were as many updates as are wanted.
    fn is_enough(&self) -> bool {
        self.question.count.is_some_and(|most| self.count >= most)
    }

    /// Does everything that is due, or that there is to do, and says when the next thing is.
    fn step(&mut self, is_last: bool) -> Result<Boot> {
        self.take_all()?;
        let now = clock::now();
        if self.losses_at <= now {
            self.ask_for_losses();
        }
        self.queues.look(&self.places);
        if !self.opens.is_empty() {
            // Of each file only so many openings are told until more are wanted.
            self.expect_opens();
        }
        // What was opened may have been replaced since, or may be what a look is yet to find.
        let mut opens = self.sort_opens();
        let latest = self.look(now, is_last)?;
        if self.is_enough() {
            // What has put an end to the last update begins another, which nobody wants.
            self.update = None;
            return Ok(now);
        }
        opens.append(&mut self.opens);
        self.opens = opens;
        self.sort_opens();
        self.settle(now, latest);
        if self.over_at().is_some_and(|at| at <= now) {
            self.finish()?;
        }
        self.deeds.retain(|deed| now.since(deed.at) < PATIENCE);
        self.aside.retain(|step| now.since(step.at) < PATIENCE);
        for gap in self.lost.extract_if(.., |gap| now.since(gap.at) >= PATIENCE) {
            self.summary.lose(gap.count);
        }
        self.places.sweep(&mut self.source);
        let looks = self.watched.values().filter_map(|it| it.look_at(now));
        Ok(looks.chain(self.over_at()).chain(self.places.peek_at()).fold(self.losses_at, Boot::min))
    }

    fn take_all(&mut self) -> Result<()> {
        for _ in 0..MOST_EVENTS {
            let event = self.source.try_next();
            match event.with_context(|| format!("source {} broke", self.source.name()))? {
                Some(event) => self.take(event),
                None => break,
            }
        }
        while let Some(opened) = self.witness.try_next() {
            self.opened(opened.pid, None, clock::now());
        }
        Ok(())
    }

    /// Notes what an event means.
    fn take(&mut self, event: Event) {
        let now = clock::now();
        self.losses_at = self.losses_at.min(now.after(LOSS_DELAY));
        match event {
            Event::Changed { place, at, by } => {
                let touched = self.places.fired(place, now, at, &by);
                let Some(interest) = touched.iter().map(|it| it.interest).max() else { return };
                if self.places.is_left(place) {
                    // The number of a file that was replaced may be somebody else's by now.
                    return;
                }
                self.touch(touched);
                let who = who::who(&self.procfs, by.pid.map(Pid::from_raw), by.comm);
                let is_file = self.places.is_file(place);
                let deed = Deed { place, is_file, interest, at, operation: by.operation, who };
                if self.deeds.len() == MOST_DEEDS {
                    self.deeds.pop_front();
                    self.untold += 1;
                }
                self.deeds.push_back(deed);
            }
            Event::Due { place } => {
                for index in self.places.due(place) {
                    if let Some(watched) = self.watched.get_mut(&index) {
                        watched.verify(now);
                    }
                }
            }
            Event::Mounted { points } => {
                for index in self.places.mounted(&points) {
                    if let Some(watched) = self.watched.get_mut(&index) {
                        watched.verify(now);
                    }
                }
            }
            Event::Opened { place, inode, pid, at } => {
                self.opens.push(Opening { place, inode, pid, at });
            }
            Event::Started { pid, at } => {
                self.note_living(pid, at);
                self.note(pid, at, None, "starts a program".to_owned());
            }
            Event::Ended { pid, comm, at } => {
                let born = self.living.remove(&pid).unwrap_or(at);
                self.sent.remove(&pid);
                let who = who::who(&self.procfs, Some(pid), Some(comm));
                self.note_step(Step::end(at, born, who));
            }
            Event::Forked { parent, child, at } => {
                let child_name = child.map_or_else(|| "a child".to_owned(), |it| it.to_string());
                if let Some(child) = child {
                    // Whoever had its number is gone, whether or not that was told.
                    self.living.remove(&child);
                    self.note_living(child, at);
                }
                self.note(parent, at, Some(Stage::Forked), format!("forks {child_name}"));
            }
            Event::Signalled { .. } => self.signalled(&event),
            Event::Delivered { .. } => self.delivered(&event),
            Event::Read { pid, comm, descriptor, ref news, at } => {
                self.read((pid, comm), descriptor, news, at);
            }
            Event::Watched { pid: Some(pid), comm, descriptor, watch } => {
                let holder = || who::who(&self.procfs, Some(pid), Some(comm));
                self.queues.add(pid, holder, descriptor, watch);
            }
            // Where he is not visible nothing can be looked up.
            Event::Watched { pid: None, .. } => {}
            Event::Lost { reason, hook, count, .. } => {
                self.lose(now, count, format!("{reason} ({hook})"));
            }
        }
    }
}
