//! Who is owed what, and what to do next? Pure: time is an argument, and nothing is asked of the
//! machine.
//!
//! A rule's actions are *steps*, and whoever a step reaches is a *receiver*: each of the targets, or
//! the one server or command. A [`Delivery`] knows what each receiver has and hands out one [`Task`]
//! after the other; whoever carries it out tells what came of it.
//!
//! **Invariants**, which the property tests in `delivery/tests.rs` check:
//!
//! - At rest every receiver has the content that is wanted, unless it was refused to it.
//! - No receiver is handed content that it has, nor anything before a check has passed on it, nor
//!   while its last reload is being carried out or evidence of it is awaited, nor before its time.
//! - No receiver is reached by a step before all receivers of the steps before have the content.

mod entry;

use std::time::Duration;

use self::entry::{Entry, Phase, backoff};
use crate::{clock::Boot, content::Digest};

/// How long after a failure the action is tried again, the first time; then it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The longest time between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How long after a check has failed it is tried again on the same content: what it asks of the
/// machine may have been amiss, and not the content. Then it doubles.
const FIRST_RECHECK: Duration = Duration::from_secs(30);

/// How often in a row the files are touched while they are checked until that is told.
const MOST_RESTLESS: u32 = 3;

/// The longest time between two checks of the same content.
const LAST_RECHECK: Duration = Duration::from_mins(10);

/// The content that the receivers are to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its digest.
    pub digest: Digest,
    /// When the last event of the change was, if that is known.
    pub changed: Option<Boot>,
    /// When the content was seen to be complete: a process that started later has it.
    pub since: Boot,
}

/// How a rule's actions are to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whom each action reaches, in the order in which they are carried out.
    pub steps: Vec<Reach>,
    /// Whether content must pass a check first.
    pub is_checked: bool,
    /// The shortest time between two reloads of one receiver.
    pub min_interval: Duration,
}

/// Whom an action reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Each of the targets.
    Targets,
    /// One server, or one command.
    One,
}

/// Somebody who is reached by a step: a target, or the only one there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receiver<K> {
    /// The number of the step.
    pub step: usize,
    /// The target, if the step reaches targets.
    pub target: Option<K>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task<K> {
    /// Check the content that is wanted, and tell by [`Delivery::checked`].
    Check,
    /// Carry out a step for a receiver, and tell by [`Delivery::acted`].
    Act(Receiver<K>),
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It was carried out. The next waits for evidence of it, or at least for the interval.
    Applied(Then),
    /// It cannot be carried out yet: ask again at that moment.
    NotYet(Boot),
    /// It must not be carried out.
    Refused,
    /// It went wrong: it is tried again, later each time.
    Failed,
}

/// What follows when a step was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing is waited for.
    Rest,
    /// Evidence is awaited, until [`Delivery::release`].
    Confirm,
}

/// How far a rule's content has come.
#[derive(Clone, Debug)]
pub struct Delivery<K> {
    plan: Plan,
    wanted: Wanted,
    check: Check,
    /// The content that has last failed the check, and how often.
    failed_check: Option<(Digest, u32)>,
    /// How often in a row a check was of no use, for the files were touched meanwhile.
    restless: u32,
    /// No check before that, for the last ones were of no use.
    check_rests_until: Boot,
    entries: Vec<Entry<K>>,
}

/// Why a target must not be reloaded for another rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// It is being reloaded, or evidence of the last reload is awaited.
    Busy,
    /// It would read content that has not been checked yet.
    Unchecked,
    /// It would read content that did not pass the check.
    Bad,
}

/// Whether a failure has been told of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It has not.
    New,
    /// It has, of the same content.
    Old,
}

/// How far the check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Not begun.
    None,
    Running(Digest),
    /// Running, and what it says is of no use: the content was another meanwhile.
    Stale,
    Passed(Digest),
    /// Not to be tried again on the same content before that moment.
    Failed(Digest, Boot),
}

impl<K: Copy + Eq> Delivery<K> {
    /// Nobody is there yet but the one receiver of each step that has one, which has `has`.
    #[must_use]
    pub fn new(plan: Plan, wanted: Wanted, has: impl Fn(usize) -> Option<Digest>) -> Self {
        let one = |(step, reach): (usize, &Reach)| {
            let receiver = Receiver { step, target: None };
            (*reach == Reach::One).then(|| Entry::new(receiver, has(step)))
        };
        let entries = plan.steps.iter().enumerate().filter_map(one).collect();
        Self {
            plan,
            wanted,
            check: Check::None,
            failed_check: None,
            restless: 0,
            check_rests_until: Boot::ZERO,
            entries,
        }
    }

    /// The content that everybody is to have.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Wants everybody to have this content. What has failed with other content is forgotten.
    pub fn want(&mut self, wanted: Wanted) {
        if wanted.digest != self.wanted.digest {
            for entry in &mut self.entries {
                entry.failures = 0;
                entry.retry_at = Boot::ZERO;
            }
            self.failed_check = None;
            self.doubt_check();
            if matches!(self.check, Check::Failed(..)) {
                self.check = Check::None;
            }
        }
        self.wanted = wanted;
    }

    /// The content may have been another for a moment: a check that runs may have seen that one.
    pub fn doubt_check(&mut self) {
        if matches!(self.check, Check::Running(_)) {
            self.check = Check::Stale;
        }
    }

    /// A check was not carried out, and says nothing: it may begin anew.
    pub fn retract_check(&mut self) {
        if matches!(self.check, Check::Running(_) | Check::Stale) {
            self.check = Check::None;
        }
    }

    /// Whether a check has to pass before anything else is done.
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        self.plan.is_checked && self.check != Check::Passed(self.wanted.digest)
    }

    /// A target is there, of which each step has brought `has` to it. One that is known is left as it
    /// is.
    pub fn join(&mut self, target: K, has: impl Fn(usize) -> Option<Digest>) {
        for (step, reach) in self.plan.steps.iter().enumerate() {
            let receiver = Receiver { step, target: Some(target) };
            let is_known = self.entries.iter().any(|entry| entry.receiver == receiver);
            if *reach == Reach::Targets && !is_known {
                self.entries.push(Entry::new(receiver, has(step)));
            }
        }
    }

    /// A target is not there any more.
    pub fn leave(&mut self, target: K) {
        self.entries.retain(|entry| entry.receiver.target != Some(target));
    }

    /// The targets that are known.
    pub fn targets(&self) -> impl Iterator<Item = K> + '_ {
        // Of each step they are the same.
        let first = self.plan.steps.iter().position(|reach| *reach == Reach::Targets);
        let of_first =
            move |entry: &&Entry<K>| Some(entry.receiver.step) == first && first.is_some();
        self.entries.iter().filter(of_first).filter_map(|entry| entry.receiver.target)
    }

    /// Whether a target is known.
    #[must_use]
    pub fn knows(&self, target: K) -> bool {
        self.entries.iter().any(|entry| entry.receiver.target == Some(target))
    }

    /// Since when whoever reads anew has what a step would have him read: since the content is what it is
    /// and the steps before are done. `None` where they are not.
    #[must_use]
    pub fn readable_since(&self, step: usize) -> Option<Boot> {
        let digest = self.wanted.digest;
        let mut before = self.entries.iter().filter(|entry| entry.receiver.step < step);
        before.try_fold(self.wanted.since, |since, entry| {
            let is_done = entry.has == Some(digest) && entry.phase == Phase::Rest;
            is_done.then(|| since.max(entry.applied_at))
        })
    }

    /// Everybody who is reached by any step.
    pub fn receivers(&self) -> impl Iterator<Item = Receiver<K>> + '_ {
        self.entries.iter().map(|entry| entry.receiver)
    }

    /// What a receiver has.
    #[must_use]
    pub fn has(&self, receiver: Receiver<K>) -> Option<Digest> {
        self.entry(receiver).and_then(|entry| entry.has)
    }

    /// A receiver has got the content that is wanted, but not from us: it has started since, or another
    /// rule has had it reloaded. Its next reload is not before `rests_until`.
    pub fn has_got(&mut self, receiver: Receiver<K>, rests_until: Boot) {
        let digest = self.wanted.digest;
        if let Some(entry) = self.entry_mut(receiver) {
            entry.has = Some(digest);
            entry.rests_until = entry.rests_until.max(rests_until);
        }
    }

    /// A receiver takes the place of one of another rule: it has what is wanted if that has had what was
    /// wanted there, it is at rest as long, and what is being confirmed still is. What was refused or
    /// has failed may be tried again at once.
    pub fn succeed(&mut self, receiver: Receiver<K>, other: &Self, predecessor: Receiver<K>) {
        let (digest, interval) = (self.wanted.digest, self.plan.min_interval);
        let Some(old) = other.entry(predecessor) else { return };
        let Some(entry) = self.entry_mut(receiver) else { return };
        entry.has = (old.has == Some(other.wanted.digest)).then_some(digest);
        if old.rests_until != Boot::ZERO {
            let last = old.rests_until.0.saturating_sub(other.plan.min_interval);
            entry.rests_until = Boot(last).after(interval);
        }
        if old.phase == Phase::Confirming {
            entry.phase = Phase::Confirming;
        }
    }

    /// Nobody knows what a receiver has: it is owed what is wanted.
    pub fn doubt(&mut self, receiver: Receiver<K>) {
        if let Some(entry) = self.entry_mut(receiver) {
            entry.has = None;
        }
    }

    /// A target is not to be reloaded before that, for another rule has just had it reloaded.
    pub fn spare(&mut self, target: K, until: Boot) {
        for entry in &mut self.entries {
            if entry.receiver.target == Some(target) {
                entry.rests_until = entry.rests_until.max(until);
            }
        }
    }

    /// What was refused may be tried again.
    pub fn forgive(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.denied = None);
    }

    /// The receivers that are owed the content that is wanted, at whatever time.
    pub fn owed(&self) -> impl Iterator<Item = Receiver<K>> + '_ {
        let digest = self.wanted.digest;
        self.entries.iter().filter(move |entry| entry.is_owed(digest)).map(|entry| entry.receiver)
    }

    /// Whether there is anybody, and nobody is owed anything.
    #[must_use]
    pub fn is_everybody_served(&self) -> bool {
        !self.entries.is_empty() && self.owed().next().is_none()
    }

    /// A target is owed the content that is wanted at `now`, and others keep it. Says whether that is
    /// news.
    pub fn withheld(&mut self, target: K, now: Boot) -> bool {
        let digest = self.wanted.digest;
        let is_it = |entry: &Entry<K>| entry.receiver.target == Some(target);
        let is_due = |entry: &Entry<K>| entry.is_owed(digest) && entry.ready_at() <= now;
        let mut due = self.entries.iter_mut().filter(|it| is_it(it) && is_due(it));
        due.next().is_some_and(|it| it.told_kept.replace(digest) != Some(digest))
    }

    /// Whether a target must not be reloaded by others now, for they would have it read content that
    /// has not passed the check, or it is being reloaded.
    #[must_use]
    pub fn withholds(&self, target: K) -> Option<Withheld> {
        let mut entries = self.entries.iter().filter(|it| it.receiver.target == Some(target));
        let is_owed = entries.clone().any(|entry| entry.has != Some(self.wanted.digest));
        if entries.any(|entry| entry.phase != Phase::Rest) {
            return Some(Withheld::Busy);
        }
        match self.check {
            _ if !self.plan.is_checked || !is_owed => None,
            Check::Passed(digest) if digest == self.wanted.digest => None,
            Check::Failed(digest, _) if digest == self.wanted.digest => Some(Withheld::Bad),
            _ => Some(Withheld::Unchecked),
        }
    }

    /// What to do at `now`, of which each is to be told of when it is done; `is_free` says whether a
    /// target may be reloaded as far as others are concerned. A check waits for nobody: two rules would
    /// wait for each other's.
    pub fn next(&mut self, now: Boot, is_free: impl Fn(K) -> bool) -> Option<Task<K>> {
        let digest = self.wanted.digest;
        let ready = |entry: &Entry<K>| {
            entry.is_owed(digest) && self.is_at_rest(entry) && entry.ready_at() <= now
        };
        let due: Vec<_> = self.candidates().filter(|&index| ready(&self.entries[index])).collect();
        if self.is_unchecked() {
            // It is no matter of others: two rules would wait for each other's check.
            return (!due.is_empty() && self.is_check_due(now)).then(|| {
                self.check = Check::Running(digest);
                Task::Check
            });
        }
        let is_free = |&index: &usize| self.entries[index].receiver.target.is_none_or(&is_free);
        let index = due.into_iter().find(is_free)?;
        let entry = &mut self.entries[index];
        entry.phase = Phase::Busy(digest);
        Some(Task::Act(entry.receiver))
    }

    /// When there will be something to do although nothing happens, if ever, with `is_free` as in
    /// [`Delivery::next`].
    #[must_use]
    pub fn next_at(&self, is_free: impl Fn(K) -> bool) -> Option<Boot> {
        let digest = self.wanted.digest;
        let check = match self.check {
            Check::Failed(failed, again) if failed == digest => again,
            Check::Running(_) | Check::Stale if self.plan.is_checked => return None,
            _ => Boot::ZERO,
        };
        let entries = self.candidates().map(|index| &self.entries[index]);
        let owed = entries.filter(|it| it.is_owed(digest) && self.is_at_rest(it));
        let is_to_be_checked = self.is_unchecked();
        let owed = owed.filter(|it| is_to_be_checked || it.receiver.target.is_none_or(&is_free));
        let check = if is_to_be_checked { check.max(self.check_rests_until) } else { check };
        owed.map(|entry| entry.ready_at().max(check)).min()
    }

    /// The first moment at which any receiver may be reloaded, if none may be at `now`: until then
    /// changes wait and become one. `Boot::MAX` where that is not known yet.
    #[must_use]
    pub fn held_until(&self, now: Boot) -> Option<Boot> {
        let free_at = |entry: &Entry<K>| match entry.phase {
            Phase::Rest => entry.rests_until,
            Phase::Busy(_) | Phase::Confirming => Boot::MAX,
        };
        // While content is being checked, whether it changes must be known.
        let is_checking = matches!(self.check, Check::Running(_) | Check::Stale);
        let first = self.entries.iter().map(free_at).min();
        first.filter(|&first| first > now && !is_checking)
    }

    /// Tells what the check has said of the content that was wanted when it began; `None` where it
    /// has nothing to say, for the files were touched meanwhile. Says whether it is to be told that the
    /// check has failed, or never comes to an end in peace, and whether that is news.
    pub fn checked(&mut self, has_passed: Option<bool>, now: Boot) -> Option<News> {
        let (digest, has_passed) = match self.check {
            Check::Running(digest) => (digest, has_passed),
            Check::Stale => (self.wanted.digest, None),
            Check::None | Check::Passed(_) | Check::Failed(..) => return None,
        };
        let before = self.failed_check.filter(|(failed, _)| *failed == digest);
        self.restless = if has_passed.is_some() { 0 } else { self.restless.saturating_add(1) };
        self.check = match has_passed {
            None if self.restless <= 1 => Check::None,
            // It may be the check itself that touches the files: then it would have no end.
            None => {
                let pause = backoff(FIRST_RETRY, LAST_RETRY, self.restless - 1);
                self.check_rests_until = now.after(pause);
                self.check = Check::None;
                return (self.restless == MOST_RESTLESS).then_some(News::New);
            }
            Some(true) => Check::Passed(digest),
            Some(false) => {
                let times = before.map_or(1, |(_, times)| times.saturating_add(1));
                self.failed_check = Some((digest, times));
                Check::Failed(digest, now.after(backoff(FIRST_RECHECK, LAST_RECHECK, times)))
            }
        };
        let news = if before.is_none() { News::New } else { News::Old };
        matches!(self.check, Check::Failed(..)).then_some(news)
    }

    /// Tells what came of a step. Says whether a refusal or failure is news.
    pub fn acted(&mut self, receiver: Receiver<K>, acted: Acted, now: Boot) -> bool {
        let min_interval = self.plan.min_interval;
        let Some(entry) = self.entry_mut(receiver) else {
            return false;
        };
        let Phase::Busy(digest) = entry.phase else {
            return false;
        };
        entry.phase = Phase::Rest;
        match acted {
            Acted::Applied(then) => {
                entry.has = Some(digest);
                entry.applied_at = now;
                entry.told = None;
                entry.failures = 0;
                entry.rests_until = now.after(min_interval);
                if then == Then::Confirm {
                    entry.phase = Phase::Confirming;
                }
                false
            }
            Acted::NotYet(until) => {
                entry.retry_at = until;
                false
            }
            Acted::Refused => {
                entry.denied = Some(digest);
                entry.told.replace(digest) != Some(digest)
            }
            Acted::Failed => {
                entry.failures = entry.failures.saturating_add(1);
                entry.retry_at = now.after(backoff(FIRST_RETRY, LAST_RETRY, entry.failures));
                entry.told.replace(digest) != Some(digest)
            }
        }
    }

    /// How long after `now` a step that has failed is tried again for a receiver.
    #[must_use]
    pub fn retries_in(&self, receiver: Receiver<K>, now: Boot) -> Option<Duration> {
        self.entry(receiver).map(|entry| entry.retry_at.since(now))
    }

    /// Tells that the next reload of a receiver need not wait for evidence of the last one any more: there is
    /// some, there will be none, or it may have gone by unseen.
    pub fn release(&mut self, receiver: Receiver<K>) {
        if let Some(entry) = self.entry_mut(receiver)
            && entry.phase == Phase::Confirming
        {
            entry.phase = Phase::Rest;
        }
    }

    /// The entries of the first step that is not done: those of the later ones wait for it.
    fn candidates(&self) -> impl Iterator<Item = usize> + '_ {
        let digest = self.wanted.digest;
        let is_done = |entry: &Entry<K>| entry.has == Some(digest) && entry.phase == Phase::Rest;
        let open = self.entries.iter().filter(|entry| !is_done(entry));
        let step = open.map(|entry| entry.receiver.step).min();
        (0..self.entries.len()).filter(move |&it| Some(self.entries[it].receiver.step) == step)
    }

    fn is_check_due(&self, now: Boot) -> bool {
        match self.check {
            Check::Running(_) | Check::Stale => false,
            Check::Failed(digest, again) if digest == self.wanted.digest => again <= now,
            Check::None | Check::Passed(_) | Check::Failed(..) => self.check_rests_until <= now,
        }
    }

    /// Whether nothing is being done for whoever it is, whichever step it is about.
    fn is_at_rest(&self, entry: &Entry<K>) -> bool {
        let target = entry.receiver.target;
        let mut same = self.entries.iter().filter(|it| it.receiver.target == target);
        entry.phase == Phase::Rest && (target.is_none() || same.all(|it| it.phase == Phase::Rest))
    }

    fn entry(&self, receiver: Receiver<K>) -> Option<&Entry<K>> {
        self.entries.iter().find(|entry| entry.receiver == receiver)
    }

    fn entry_mut(&mut self, receiver: Receiver<K>) -> Option<&mut Entry<K>> {
        self.entries.iter_mut().find(|entry| entry.receiver == receiver)
    }
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;
