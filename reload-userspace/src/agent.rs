//! The loop: from events to looks, from looks to changes, from changes to reloads.

mod crew;
mod deliver;
mod feed;
mod heritage;
mod proof;
mod recall;
mod reloader;
mod roster;
mod setup;
mod share;
mod stall;
mod summary;
mod tell;
#[cfg(test)]
mod tests;
mod work;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::Signal,
    task::{JoinError, JoinSet},
};

use self::{
    crew::{Crew, CrewId},
    proof::Proof,
    reloader::{Conclusion, Reloader, RuleId},
    stall::Stall,
    work::Done,
};

pub use self::feed::{Feed, Feeder, Reread, Rules, feed};

use crate::{
    clock::{self, Boot},
    confirm::Opened,
    event::{Event, SourceName},
    ledger::Ledger,
    places::{Index, Places, Touched},
    report::Decision,
    rule::{Rule, Settings},
    source::{Source, SourceError},
    target::Procfs,
    telemetry::{Health, Probe, Probes, Readiness, Teller},
    watch::Reach,
    witness::Witness,
};

/// How long after an event the source is asked for losses.
const LOSS_DELAY: Duration = Duration::from_millis(50);

/// How long after everything was looked at it is not, for a loss, looked at again, where there are files
/// of others: they may cause losses as often as they like.
const LOSS_REST: Duration = Duration::from_secs(1);

/// How many events are taken before what is due is done: as many as a full ring holds.
const MOST_EVENTS: usize = 4096;

/// What the agent is made of, and where it tells of itself.
pub struct Agent<S> {
    source: S,
    /// The source that has been told of.
    told_source: Option<SourceName>,
    settings: Settings,
    outlets: Outlets,
    teller: Teller,
    places: Places,
    reloaders: BTreeMap<RuleId, Reloader>,
    /// The one that is about the rules themselves, if they come from a file.
    rules_file: Option<RuleId>,
    /// Where rules come from while it runs.
    feed: Feed,
    /// Why the rules in it are not heeded, if so.
    rules_fault: Option<String>,
    /// Whether the operator wants to be told what they are, although they may be the same.
    is_asked_for_rules: bool,
    /// Whose path it is.
    owners: HashMap<Index, RuleId>,
    crews: BTreeMap<CrewId, Crew>,
    procfs: Procfs,
    /// When to look at all processes again for rules about pods, unless it is urgent.
    census_at: Boot,
    /// What was applied to whom, if it is remembered.
    ledger: Option<Ledger>,
    /// What is under way beside the loop.
    work: JoinSet<Done>,
    /// The signals of which it is yet to be seen whether they took.
    proofs: Vec<Proof>,
    witness: Witness,
    /// The next number of whatever wants one.
    next: u64,
    /// What has been told of mounts that hide changes, and of checks that cannot be run.
    warned: HashSet<String>,
    /// When to do without any event what events are for.
    reconcile_at: Boot,
    /// Until when the next loss may wait.
    rests_until: Boot,
    /// When to ask the source for losses.
    losses_at: Option<Boot>,
    /// Whether the loop was stopped.
    stall: Stall,
}

/// What wakes the loop.
enum Call {
    Stop(&'static str),
    HangUp,
    Event(Result<Event, SourceError>),
    Done(Result<Done, JoinError>),
    Opened(Opened),
    Rules(Option<Arc<Vec<Rule>>>),
    Probe(Probe),
    /// It is time for something.
    Nobody,
}

/// Whom the agent tells how it is.
#[derive(Debug)]
pub struct Outlets {
    /// The log and the metrics.
    pub teller: Teller,
    /// Those who ask whether it is well.
    pub probes: Probes,
    /// Where they ask, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Whether it is ready, for those who ask.
    pub readiness: Readiness,
}

impl<S: Source> Agent<S> {
    /// Watches what the rules name and finds whom they mean: every change from here on is seen.
    /// What the `witness` does not tell is not seen: who opens the content.
    ///
    /// # Errors
    ///
    /// Fails where a path cannot be watched at all, or processes cannot be listed. A path that does
    /// not exist yet is waited for.
    pub fn new(
        source: S,
        witness: Witness,
        rules: Rules,
        settings: Settings,
        outlets: Outlets,
    ) -> Result<Self> {
        let now = clock::now();
        let procfs = Procfs::default();
        procfs.verify().context("processes cannot be found safely")?;
        let (rules, feed) = match rules {
            Rules::Given(rules) => (rules, Feed::none()),
            Rules::Fed(feed) => (Vec::new(), feed),
        };
        let mut agent = Self {
            source,
            told_source: None,
            reconcile_at: now.after(settings.reconcile),
            settings,
            teller: outlets.teller.clone(),
            outlets,
            places: Places::new(),
            reloaders: BTreeMap::new(),
            rules_file: None,
            feed,
            rules_fault: None,
            is_asked_for_rules: false,
            owners: HashMap::new(),
            crews: BTreeMap::new(),
            procfs,
            census_at: Boot::ZERO,
            ledger: None,
            work: JoinSet::new(),
            proofs: Vec::new(),
            witness,
            next: 0,
            warned: HashSet::new(),
            rests_until: Boot::ZERO,
            losses_at: None,
            stall: Stall::new(),
        };
        // It waits for the disk, so it comes before anything is watched.
        agent.open_ledger()?;
        let rules = agent.watch_rules_file(rules)?;
        agent.set_up(rules)?;
        Ok(agent)
    }

    /// Reloads until `stop` says why not to go on; at a `hangup` everything is looked at, the rules too.
    ///
    /// # Errors
    ///
    /// Fails where the source breaks.
    pub async fn run(
        mut self,
        started: Boot,
        stop: impl Future<Output = &'static str>,
        mut hangup: Signal,
    ) -> Result<()> {
        self.stall.begin(clock::now());
        // Whoever reads that it is ready may ask.
        self.tell_of_readiness();
        self.tell_of_source(started);
        self.tell_of_rules();
        let mut stop = std::pin::pin!(stop);
        loop {
            let deadline = self.step()?;
            let now = clock::now();
            self.stall.sleep(now, deadline);
            let pause = tokio::time::sleep(deadline.since(now));
            let call = tokio::select! {
                biased;
                reason = &mut stop => Call::Stop(reason),
                Some(()) = hangup.recv() => Call::HangUp,
                event = self.source.next() => Call::Event(event),
                Some(done) = self.work.join_next() => Call::Done(done),
                Some(opened) = self.witness.next() => Call::Opened(opened),
                rules = self.feed.next() => Call::Rules(rules),
                probe = self.outlets.probes.next() => Call::Probe(probe),
                () = pause => Call::Nobody,
            };
            // Whatever it is, it is judged by how long was really waited.
            let woke = clock::now();
            if let Some(since) = self.stall.wake(woke) {
                self.put_off(since, woke);
            }
            match call {
                Call::Stop(reason) => {
                    self.close(reason);
                    return Ok(());
                }
                Call::HangUp => self.hang_up(),
                Call::Event(event) => {
                    self.take(
                        event.with_context(|| format!("source {} broke", self.source.name()))?,
                    );
                }
                Call::Done(Ok(done)) => self.finish(done)?,
                Call::Opened(opened) => self.opened(&opened),
                Call::Rules(Some(rules)) => self.adopt(&rules, started),
                Call::Rules(None) => bail!("nobody says any more which pods there are"),
                Call::Probe(probe) => probe.answer(self.health()),
                // One that was given up has nothing to say.
                Call::Done(Err(_)) | Call::Nobody => {}
            }
        }
    }

    /// The agent was stopped from one moment to the other, and so were those whom it waits for, maybe.
    fn put_off(&mut self, from: Boot, to: Boot) {
        // One that is held is put off when it no longer is.
        let waiting = self.reloaders.values_mut().filter(|reloader| !reloader.is_held());
        waiting.for_each(|reloader| reloader.put_off(from, to));
        self.proofs.iter_mut().for_each(|proof| proof.put_off(from, to));
    }

    /// Looks at everything, as the operator wants, and at the rules first of all.
    fn hang_up(&mut self) {
        self.reconcile_at = clock::now();
        if self.rules_file.is_some() {
            self.is_asked_for_rules = true;
        } else {
            let rules = self.rule_names();
            self.teller.tell(&Decision::Rules { path: None, rules, error: None });
        }
    }

    /// Notes what an event means; what is due is done by [`Agent::step`].
    fn take(&mut self, event: Event) {
        let now = clock::now();
        self.losses_at.get_or_insert(now.after(LOSS_DELAY));
        self.teller.measure(|metrics| metrics.event(self.source.name(), event.kind()));
        match event {
            Event::Changed { place, at, by } => {
                let touched = self.places.fired(place, now, at, &by);
                self.touch(touched);
            }
            Event::Due { place } => {
                for index in self.places.due(place) {
                    if let Some(watched) = self.reloader_of(index).and_then(|it| it.watch(index)) {
                        watched.verify(now);
                    }
                }
            }
            Event::Mounted { points } => {
                for index in self.places.mounted(&points) {
                    if let Some(reloader) = self.reloader_of(index) {
                        reloader.touch_quietly(index, now);
                    }
                }
            }
            Event::Opened { place, pid, at, .. } => self.opened_at(place, pid, at),
            Event::Started { pid, at } => self.started(pid, at),
            Event::Ended { pid, .. } => self.ended(pid, now),
            // Nobody reloads because of them: they are for `Purpose::Trace`.
            Event::Forked { .. }
            | Event::Signalled { .. }
            | Event::Delivered { .. }
            | Event::Read { .. }
            | Event::Watched { .. } => {}
            Event::Lost { source, reason, hook, count } => {
                self.teller.tell(&Decision::Lost { source, reason, hook, count });
                self.witness.source_has_lost();
                self.reconcile_at = self.reconcile_at.min(now.max(self.rests_until));
            }
        }
    }

    fn reloader_of(&mut self, index: Index) -> Option<&mut Reloader> {
        self.reloaders.get_mut(self.owners.get(&index)?)
    }

    fn touch(&mut self, touched: Vec<Touched>) {
        for touched in touched {
            let Some(&id) = self.owners.get(&touched.index) else { continue };
            let Some(reloader) = self.reloaders.get_mut(&id) else { continue };
            reloader.touch(touched);
            // Where somebody else says how often anything happens, it is followed from time to time only.
            if reloader.rule.reach() == Reach::Anywhere {
                self.follow_opens(id);
            }
        }
    }

    /// Finds out whom the events in crowded places are about.
    fn peek(&mut self, now: Boot) {
        let touched = self.places.peek(&mut self.source, now);
        self.touch(touched);
    }

    /// Takes the events that are there, but not more than so many: whoever makes them all the time must
    /// not keep the agent from what is due.
    fn take_all(&mut self) -> Result<()> {
        for _ in 0..MOST_EVENTS {
            let event = self.source.try_next();
            match event.with_context(|| format!("source {} broke", self.source.name()))? {
                Some(event) => self.take(event),
                None => break,
            }
        }
        Ok(())
    }

    /// Does everything that is due, and says when the next thing is.
    fn step(&mut self) -> Result<Boot> {
        // What is done because it is time for it takes into account what has happened before.
        self.take_all()?;
        let now = clock::now();
        if let Some(since) = self.stall.judge(now) {
            self.put_off(since, now);
        }
        if self.losses_at.is_some_and(|at| at <= now) {
            self.losses_at = None;
            for loss in self.source.losses() {
                self.take(loss);
            }
        }
        if self.reconcile_at <= now {
            self.reconcile(now);
        }
        let mut completed = HashSet::new();
        // While nobody may be reloaded yet, changes wait and become one: nothing is armed meanwhile,
        // so the busiest writer costs nothing.
        let open = self.reloaders.iter_mut().filter_map(|(&id, it)| it.is_open(now).then_some(id));
        let open: Vec<_> = open.collect();
        if !open.is_empty() {
            self.peek(now);
        }
        for id in open {
            self.look(id, now);
            if self.reloaders.get(&id).is_some_and(|it| it.is_complete(now))
                && self.complete(id, now)?
            {
                completed.insert(id);
            }
            self.tell_of_obstacles_of(id);
        }
        self.prove(now);
        self.deliver(completed)?;
        self.tell_of_ledger();
        self.reloaders.values_mut().for_each(|reloader| reloader.rest(now));
        self.places.sweep(&mut self.source);
        self.tell_of_source(now);
        Ok(self.deadline(now))
    }

    /// Does without any event what events are for.
    fn reconcile(&mut self, now: Boot) {
        self.reconcile_at = now.after(self.settings.reconcile);
        if self.reloaders.values().any(|it| it.rule.reach() == Reach::Beneath) {
            self.rests_until = now.after(LOSS_REST);
        }
        for reloader in self.reloaders.values_mut() {
            reloader.verify(now);
            reloader.delivery.forgive();
        }
        self.losses_at = Some(now);
        self.crews.values_mut().for_each(|crew| crew.expect_change(now));
        self.places.distrust();
    }

    /// When something is due although nothing happens.
    fn deadline(&self, now: Boot) -> Boot {
        let mut deadline = self.reconcile_at;
        let mut is_open = false;
        for (&id, reloader) in &self.reloaders {
            let held = reloader.delivery.held_until(now);
            is_open |= held.is_none();
            if let Some(at) = reloader.look_at(now) {
                deadline = deadline.min(held.unwrap_or(at));
            }
            if reloader.is_idle(now) {
                deadline =
                    deadline.min(self.next_at(id, &HashSet::new(), now).unwrap_or(Boot::MAX));
            }
        }
        let peek = self.places.peek_at().filter(|_| is_open);
        let roll_calls = self.crews.values().filter_map(|crew| self.roll_call_at(crew));
        roll_calls
            .chain(peek)
            .chain(self.losses_at)
            .chain(self.proof_at())
            .fold(deadline, Boot::min)
    }

    /// Looks at the paths of a rule that there is a reason to look at.
    fn look(&mut self, id: RuleId, now: Boot) {
        let Self { reloaders, places, source, .. } = self;
        let failures = reloaders.get_mut(&id).map(|it| it.look(now, places, source));
        self.tell_of_failures(failures.unwrap_or_default());
    }

    /// Reads the content of a rule and, if nothing happened meanwhile, wants everybody to have it.
    ///
    /// Says whether that is so.
    fn complete(&mut self, id: RuleId, now: Boot) -> Result<bool> {
        // Before the content: it is the text of that, unless more happens meanwhile.
        let rules_text = self.rules_text(id);
        let Some(reloader) = self.reloaders.get_mut(&id) else { return Ok(false) };
        let (reading, failures) = reloader.read(now);
        self.tell_of_failures(failures);
        // What was read is a state that there was only if nothing happened while it was read.
        self.take_all()?;
        let read = clock::now();
        self.peek(read);
        let Self { reloaders, places, source, .. } = self;
        let Some(reloader) = reloaders.get_mut(&id) else { return Ok(false) };
        let has_more_happened = !reloader.look_again(read, places, source).is_empty();
        let conclusion = reloader.conclude(reading, has_more_happened, now);
        let crew = reloader.crew;
        if let Some(text) = rules_text {
            reloader.untold.clear();
            if conclusion == Conclusion::NotYet {
                return Ok(false);
            }
            // Also where it contains what it did: what forbade them may be gone.
            self.heed_rules(text);
            return Ok(true);
        }
        match conclusion {
            Conclusion::NotYet => return Ok(false),
            Conclusion::Changed => {
                self.credit_the_new(id);
                let Some(reloader) = self.reloaders.get_mut(&id) else { return Ok(false) };
                if reloader.delivery.is_everybody_served() {
                    self.teller.measure(|metrics| metrics.set_settled(reloader.name()));
                }
                if let Some(crew) = crew.and_then(|crew| self.crews.get_mut(&crew)) {
                    crew.look_around(now);
                }
            }
            // It may be so for ever, for what is mounted here was replaced on the other side.
            Conclusion::Same { was_announced: true }
                if reloader.rule.reach() == Reach::Anywhere =>
            {
                self.tell_of_pins();
            }
            Conclusion::Same { .. } => {}
        }
        Ok(true)
    }

    /// Whether what happens is heard, of which a canary is made to sing.
    fn health(&mut self) -> Health {
        match self.source.prove() {
            Ok(()) => Health::Well,
            Err(reason) => Health::Ill(reason),
        }
    }

    /// Ends: what was applied is durable when it is told.
    fn close(&mut self, reason: &'static str) {
        if let Some(reason) = self.ledger.take().and_then(Ledger::close) {
            self.teller.tell(&Decision::Degraded { source: self.source.name(), reason });
        }
        self.teller.tell(&Decision::Stopped { reason });
    }
}
