//! The loop: from events to looks, from looks to changes, from changes to reloads.

mod crew;
mod places;
mod tell;
mod watched;

use std::{collections::HashSet, future::Future, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};

use self::{
    crew::{Crew, Manner, Wanted},
    places::{Patience, Places, Touched},
    watched::Watched,
};
use crate::{
    clock::{self, Boot},
    content::{Content, Digest},
    event::{Event, SourceName},
    report::{Decision, Log},
    rule::{Action, Pace, Rule, Settings, SignalNumber},
    settle::Next,
    source::{Interest, Source},
    target::Procfs,
    watch::Obstacle,
};

/// How long after a reload the content is compared once more.
///
/// It catches what a kernel lock or a clock tick may have hidden from the look that led to it: a
/// write within the same tick on a filesystem without multigrain timestamps.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// How long after an event the source is asked for losses.
const LOSS_DELAY: Duration = Duration::from_millis(50);

/// What the agent is made of, and where it tells of itself.
pub struct Agent<S> {
    source: S,
    /// The source that has been told of.
    told_source: Option<SourceName>,
    rule: Rule,
    pace: Pace,
    settings: Settings,
    log: Log,
    places: Places,
    watches: Vec<Watched>,
    crew: Crew,
    wanted: Wanted,
    /// What has been decided and will be told when the signals are out.
    untold: Vec<Decision>,
    /// Whether it has been told that there is nobody to reload.
    has_told_waiting: bool,
    /// What cannot be read, as far as it has been told.
    unreadable: HashSet<PathBuf>,
    /// The mounts that hide changes, as they have been told of.
    pinned: HashSet<String>,
    /// When to do without any event what events are for.
    reconcile_at: Boot,
    /// When to ask the source for losses.
    losses_at: Option<Boot>,
    /// When somebody may be reloaded again, if nobody may be now.
    held_until: Option<Boot>,
    /// When the change under way began, if what was read of it was out of date at once.
    began: Option<Boot>,
}

impl<S: Source> Agent<S> {
    /// Watches what the rule names and finds whom it means: every change from here on is seen.
    ///
    /// # Errors
    ///
    /// Fails where a path cannot be watched at all, or processes cannot be listed. A path that does
    /// not exist yet is waited for.
    pub fn new(mut source: S, rule: Rule, settings: Settings, log: Log) -> Result<Self> {
        let now = clock::now();
        let pace = rule.pace();
        let selector = rule.selector().cloned().context("there is nobody to reload")?;
        let signal = rule.actions().iter().find_map(Action::signal).unwrap_or(SignalNumber::HUP);
        let follows = source
            .follow(&selector.name().map(str::to_owned).into_iter().collect::<Vec<_>>())
            .context("cannot follow the process")?;
        let mut places = Places::new();
        let mut watches = Vec::new();
        for (index, path) in rule.watches().iter().enumerate() {
            let mut one = Watched::new(index, path, pace.limits, &mut places, &mut source);
            match one.obstacle() {
                None | Some(Obstacle::Missing(_)) => {}
                Some(obstacle) => bail!(
                    "cannot watch {}: {obstacle}; give --watch a file or directory that can be read",
                    path.display()
                ),
            }
            if let Some(reason) = one.take_failure() {
                bail!(reason);
            }
            watches.push(one);
        }
        let wanted = Wanted {
            digest: digest(&watches),
            changed: Boot(Duration::ZERO),
            since: Boot(Duration::ZERO),
        };
        let procfs = Procfs::default();
        procfs.verify().context("processes cannot be found safely")?;
        let mut crew = Crew::new(procfs, selector, signal, follows);
        crew.call_roll(now, wanted, true).context("cannot find the process to reload")?;
        Ok(Self {
            source,
            told_source: None,
            rule,
            pace,
            reconcile_at: now.after(settings.reconcile),
            settings,
            log,
            places,
            watches,
            crew,
            wanted,
            untold: Vec::new(),
            has_told_waiting: false,
            unreadable: HashSet::new(),
            pinned: HashSet::new(),
            losses_at: None,
            held_until: None,
            began: None,
        })
    }

    /// Reloads until `stop` says why not to go on.
    ///
    /// # Errors
    ///
    /// Fails where the source breaks.
    pub async fn run(
        mut self,
        started: Boot,
        stop: impl Future<Output = &'static str>,
    ) -> Result<()> {
        self.tell_of_source(started);
        self.tell_of_obstacles();
        self.tell_of_unreadable();
        self.tell_of_pins();
        self.tell_whether_anybody_is_there();
        let mut stop = std::pin::pin!(stop);
        loop {
            let deadline = self.step()?;
            let pause = tokio::time::sleep(deadline.since(clock::now()));
            tokio::select! {
                biased;
                reason = &mut stop => {
                    self.log.tell(&Decision::Stopped { reason });
                    return Ok(());
                }
                event = self.source.next() => {
                    self.take(event.with_context(|| format!("source {} broke", self.source.name()))?);
                }
                () = pause => {}
            }
        }
    }

    /// Notes what an event means; what is due is done by [`Agent::step`].
    fn take(&mut self, event: Event) {
        let now = clock::now();
        self.losses_at.get_or_insert(now.after(LOSS_DELAY));
        match event {
            Event::Changed { place, at, by } => {
                let touched = self.places.fired(place, now, at, &by);
                self.touch(touched);
            }
            Event::Due { place } => {
                for index in self.places.due(place) {
                    self.watches[index].verify(now);
                }
            }
            Event::Mounted { points } => {
                for index in self.places.mounted(&points) {
                    self.watches[index].touch(now, None, Interest::Replacement);
                }
            }
            Event::Started { pid, at } => self.crew.started(pid, at, self.wanted),
            Event::Ended { .. } => self.crew.expect_change(now),
            Event::Lost { source, reason, hook, count } => {
                self.log.tell(&Decision::Lost { source, reason, hook, count });
                self.reconcile_at = now;
            }
        }
    }

    fn touch(&mut self, touched: Vec<Touched>) {
        for Touched { index, interest, at, by } in touched {
            self.watches[index].touch(at, by, interest);
        }
    }

    /// Finds out whom the events in crowded places are about.
    fn peek(&mut self, now: Boot) {
        let touched = self.places.peek(&mut self.source, now);
        self.touch(touched);
    }

    /// Takes the events that are there.
    fn take_all(&mut self) -> Result<()> {
        while let Some(event) = self
            .source
            .try_next()
            .with_context(|| format!("source {} broke", self.source.name()))?
        {
            self.take(event);
        }
        Ok(())
    }

    /// Takes the events that are there, looks at what they are of, and says whether it is new.
    fn has_more_happened(&mut self, now: Boot) -> Result<bool> {
        self.take_all()?;
        self.peek(clock::now());
        let mut is_new = false;
        for watched in self.watches.iter_mut().filter(|watched| watched.is_out_of_date()) {
            is_new |= watched.look(now, &mut self.places, &mut self.source, Patience::Hasty);
        }
        Ok(is_new)
    }

    /// Does everything that is due, and says when the next thing is.
    fn step(&mut self) -> Result<Boot> {
        // What is done because it is time for it takes into account what has happened before.
        self.take_all()?;
        let now = clock::now();
        if self.losses_at.is_some_and(|at| at <= now) {
            self.losses_at = None;
            for loss in self.source.losses() {
                self.take(loss);
            }
        }
        if self.reconcile_at <= now {
            self.reconcile_at = now.after(self.settings.reconcile);
            self.watches.iter_mut().for_each(|watched| watched.verify(now));
            self.losses_at = Some(now);
            self.crew.forgive();
            self.crew.expect_change(now);
            self.places.distrust();
        }
        // While nobody may be reloaded yet, changes wait and become one: nothing is armed meanwhile,
        // so the busiest writer costs nothing.
        self.held_until = self.crew.held_until(now);
        let mut has_completed = false;
        if self.held_until.is_none() {
            self.peek(now);
            self.look(now);
            if self.is_complete(now) {
                has_completed = self.complete(now)?;
            }
        }
        self.reload(has_completed);
        self.places.sweep(&mut self.source);
        self.tell_of_source(now);
        Ok(self.deadline(now))
    }

    /// When something is due although nothing happens.
    fn deadline(&self, now: Boot) -> Boot {
        let looks = self.watches.iter().filter_map(|watched| watched.look_at(now));
        let looks = looks.chain(self.places.peek_at());
        let looks = looks.map(|at| self.held_until.unwrap_or(at));
        let reload_at = self.crew.reload_at(self.wanted).filter(|_| self.is_idle(now));
        let others = [self.losses_at, self.crew.roll_call_at(), reload_at];
        looks.chain(others.into_iter().flatten()).fold(self.reconcile_at, Boot::min)
    }

    /// Looks at the paths that there is a reason to look at.
    fn look(&mut self, now: Boot) {
        let mut failures = Vec::new();
        for watched in &mut self.watches {
            watched.look_if_due(now, &mut self.places, &mut self.source);
            failures.extend(watched.take_failure());
        }
        self.tell_of_failures(failures);
        self.tell_of_obstacles();
    }

    /// Whether no change is under way.
    fn is_idle(&self, now: Boot) -> bool {
        self.watches.iter().all(|watched| watched.next(now) == Next::Idle)
    }

    /// Whether there is something to compare, and no change under way in any path.
    fn is_complete(&self, now: Boot) -> bool {
        let mut changes = self.watches.iter().map(|watched| watched.next(now));
        self.watches.iter().any(|watched| watched.is_to_compare(now))
            && changes.all(|next| !matches!(next, Next::Look(_)))
    }

    /// Reads the content and, if nothing happened meanwhile, wants everybody to have it.
    ///
    /// Says whether it did.
    fn complete(&mut self, now: Boot) -> Result<bool> {
        let last = self.watches.iter().filter_map(Watched::last).max();
        let dated = self.watches.iter().filter_map(Watched::dated).max();
        let began = self.began.or(self.watches.iter().filter_map(Watched::since).min());
        let (mut contents, mut failures) = (Vec::new(), Vec::new());
        let to_compare = self.watches.iter_mut().enumerate();
        for (index, watched) in to_compare.filter(|(_, watched)| watched.is_to_compare(now)) {
            let content = watched.read();
            watched.finish();
            if content.as_ref().is_some_and(|content| content.is_torn) {
                // It may not have been announced yet: the kernel announces some changes afterwards.
                watched.touch(clock::now(), None, Interest::Any);
            }
            failures.extend(watched.take_failure());
            contents.push((index, content));
        }
        self.tell_of_failures(failures);
        // What was read is a state that there was only if nothing happened while it was read.
        let has_more_happened = self.has_more_happened(now)?;
        if has_more_happened || last.is_some() {
            for (index, _) in &contents {
                self.watches[*index].verify(now.after(SECOND_LOOK));
            }
        }
        // A writer without end is not waited for without end.
        let is_overdue = began.is_some_and(|began| now.since(began) >= self.pace.limits.max);
        self.began = began.filter(|_| has_more_happened && !is_overdue);
        if has_more_happened && !is_overdue {
            return Ok(false);
        }
        let mut paths = Vec::new();
        let mut by = None;
        let has_read = contents.iter().any(|(_, content)| content.is_some());
        for (index, content) in contents {
            let watched = &mut self.watches[index];
            by = watched.take_by().or(by);
            paths.extend(content.map(|content| watched.accept(content)).unwrap_or_default());
        }
        // Two watches may be of the same file.
        paths.sort_unstable();
        paths.dedup();
        if !paths.is_empty() {
            self.wanted = Wanted {
                digest: digest(&self.watches),
                changed: dated.or(last).unwrap_or(now),
                since: clock::now(),
            };
            let rule = self.rule.name().to_owned();
            self.untold.push(Decision::Changed { rule, paths, by });
            self.crew.look_around(now);
        } else if last.is_some() && has_read {
            self.log.tell(&Decision::Unchanged { rule: self.rule.name().to_owned(), by });
            // It may be so for ever, for what is mounted here was replaced on the other side.
            self.tell_of_pins();
        }
        Ok(true)
    }

    /// Reloads whoever is owed it, unless a change is under way that has not just been completed: then
    /// that is what they will be owed.
    fn reload(&mut self, has_completed: bool) {
        let now = clock::now();
        let is_settled = has_completed || self.is_idle(now);
        // At once where somebody is about to be signalled, and otherwise when the burst is over.
        let is_urgent = is_settled
            && self.crew.is_stale()
            && self.crew.reload_at(self.wanted).is_some_and(|at| at <= now);
        let is_due = self.crew.roll_call_at().is_some_and(|at| at <= now || is_urgent);
        if is_due && let Err(error) = self.crew.call_roll(now, self.wanted, is_settled) {
            // It may be short of descriptors, or of memory: the next reconcile tries again.
            let rule = self.rule.name().to_owned();
            let reason = format!("cannot find the process: {:#}", anyhow::Error::new(error));
            self.log.tell(&Decision::Failed { rule, pid: None, reason });
        }
        let manner = Manner {
            caution: self.pace.caution,
            min_interval: self.pace.min_interval,
            is_dry: self.settings.is_dry,
        };
        let outcomes =
            if is_settled { self.crew.reload(now, self.wanted, manner) } else { Vec::new() };
        // The log is written when the signals are out: it is the slower of the two.
        if !self.untold.is_empty() {
            self.untold.drain(..).for_each(|decision| self.log.tell(&decision));
            self.tell_of_unreadable();
        }
        for outcome in outcomes {
            self.tell_of_outcome(outcome);
        }
        if is_due {
            self.tell_whether_anybody_is_there();
        }
    }
}

/// One digest of all that is watched.
fn digest(watches: &[Watched]) -> Digest {
    Content::digest(&watches.iter().map(Watched::content).collect::<Vec<_>>())
}
