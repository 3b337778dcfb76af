//! From what is owed to signals.

use std::{collections::HashSet, time::Duration};

use anyhow::Result;

use super::{
    Agent,
    crew::{Earnest, Signalled},
    reloader::{Reloader, RuleId},
};
use crate::{
    clock::{self, Boot},
    delivery::{Acted, Receiver, Task},
    preflight::Refusal,
    report::{ActionName, Decision, Failure},
    rule::{Action, SignalNumber},
    source::Source,
    target::Target,
    witness::Watching,
};

/// How long a target that is not what it was is left alone, until it is known who is there instead.
const DISMISSED: Duration = Duration::from_millis(40);

impl<S: Source> Agent<S> {
    /// Reloads whoever is owed it, unless a change is under way that has not just been completed: then
    /// that is what they will be owed.
    ///
    /// # Errors
    ///
    /// Fails where the source breaks.
    pub(super) fn deliver(&mut self, completed: HashSet<RuleId>) -> Result<()> {
        let is_called = self.call_rolls(&completed);
        if is_called {
            // It takes a while, and whoever was found in the middle of its start has told of that by now.
            self.take_all()?;
        }
        // What is done for one may be what another has waited for.
        let mut still_completed = completed.clone();
        while self.deliver_what_is_due(&mut still_completed)? {}
        for id in completed {
            self.remember_content(id);
        }
        // The log is written when the signals are out: it is the slower of the two.
        self.tell_what_was_decided();
        if is_called {
            self.tell_whether_anybody_is_there();
            self.tell_of_targets();
        }
        Ok(())
    }

    /// Does for each rule what is due, and says whether anything was.
    ///
    /// # Errors
    ///
    /// Fails where the source breaks.
    fn deliver_what_is_due(&mut self, completed: &mut HashSet<RuleId>) -> Result<bool> {
        let ids: Vec<_> = self.reloaders.keys().copied().collect();
        let mut has_done = false;
        for id in ids {
            let now = clock::now();
            if !self.is_settled(id, completed, now) {
                continue;
            }
            while !self.has_outrun_its_check(id, completed, now)?
                && let Some(task) = self.next_task(id, completed, now)
            {
                has_done = true;
                match task {
                    Task::Check => self.begin_check(id),
                    Task::Act(receiver) => self.act(id, receiver, now),
                }
            }
        }
        Ok(has_done)
    }

    /// Whether what a rule's check has passed is not what is there any more, where somebody is about to be
    /// sent to read it: he would read what nobody has checked.
    ///
    /// He also reads what other rules are about, which may have a check. Where that goes on to change they
    /// keep him from this one ([`Agent::next_task`]), and so are not `completed` any more.
    ///
    /// # Errors
    ///
    /// Fails where the source breaks.
    fn has_outrun_its_check(
        &mut self,
        id: RuleId,
        completed: &mut HashSet<RuleId>,
        now: Boot,
    ) -> Result<bool> {
        let is_unchecked = self.reloaders.get(&id).is_some_and(|it| it.delivery.is_unchecked());
        if is_unchecked || self.next_at(id, completed, now).is_none_or(|at| at > now) {
            return Ok(false);
        }
        let read = self.read_at_once_with(id);
        let is_checked = |it| self.reloaders.get(it).is_some_and(|it| it.rule.check().is_some());
        if !read.iter().any(is_checked) {
            return Ok(false);
        }
        self.take_all()?;
        let now = clock::now();
        self.peek(now);
        for other in read {
            let Self { reloaders, places, source, .. } = self;
            let Some(reloader) = reloaders.get_mut(&other) else { continue };
            let news = reloader.look_again(now, places, source);
            for &index in &news {
                // Nothing else wakes the loop for what has been found so.
                reloader.watch(index).into_iter().for_each(|watched| watched.verify(now));
            }
            // One without a check has waited for its writer for long enough.
            let has_gone_on = !news.is_empty() || !reloader.is_idle(now);
            if has_gone_on && reloader.rule.check().is_some() {
                completed.remove(&other);
                if other == id {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The rules whose content is read by whoever is sent to read that of one: those that are about one of its
    /// targets, and itself, which comes last.
    fn read_at_once_with(&self, id: RuleId) -> Vec<RuleId> {
        let Some(reloader) = self.reloaders.get(&id) else { return Vec::new() };
        let is_read = |it: &Reloader| reloader.delivery.targets().any(|of| it.delivery.knows(of));
        let others = self.reloaders.iter().filter(|(other, it)| **other != id && is_read(it));
        others.map(|(&other, _)| other).chain([id]).collect()
    }

    pub(super) fn is_settled(&self, id: RuleId, completed: &HashSet<RuleId>, now: Boot) -> bool {
        completed.contains(&id) || self.reloaders.get(&id).is_some_and(|it| it.is_idle(now))
    }

    /// Has the targets looked for where there is a reason to: at once where somebody is about to be
    /// signalled, and otherwise when the burst is over.
    fn call_rolls(&mut self, completed: &HashSet<RuleId>) -> bool {
        let now = clock::now();
        let mut due = Vec::new();
        for (&id, crew) in &self.crews {
            let is_about_to_be = || {
                self.reloaders.iter().any(|(&rule, it)| {
                    it.crew == Some(id)
                        && self.is_settled(rule, completed, now)
                        && it.delivery.next_at(|_| true).is_some_and(|at| at <= now)
                })
            };
            let is_due = |at: Boot| at <= now || (crew.is_stale(&self.procfs) && is_about_to_be());
            if self.roll_call_at(crew).is_some_and(is_due) {
                due.push(id);
            }
        }
        self.call_rolls_of(&due);
        !due.is_empty()
    }

    /// Carries out a step for a receiver.
    fn act(&mut self, id: RuleId, receiver: Receiver<Target>, now: Boot) {
        let Some(reloader) = self.reloaders.get_mut(&id) else { return };
        let Some(action) = reloader.rule.actions().get(receiver.step).cloned() else { return };
        match (action.signal(), receiver.target) {
            (Some(signal), Some(target)) => {
                self.send(id, receiver, target, &action, signal, now);
            }
            _ => self.begin_action(id, receiver, action),
        }
    }

    /// Sends a signal to a target, and tells all rules of it that the same signal serves.
    fn send(
        &mut self,
        id: RuleId,
        receiver: Receiver<Target>,
        target: Target,
        action: &Action,
        signal: SignalNumber,
        now: Boot,
    ) {
        let ticket = self.expect_opens(id);
        let draft = self.draft_wanted(id, receiver);
        let Some(reloader) = self.reloaders.get_mut(&id) else { return };
        let Some(crew) = reloader.crew.and_then(|crew| self.crews.get_mut(&crew)) else { return };
        let earnest = if self.settings.is_dry { Earnest::Dry } else { Earnest::Real };
        let caution = reloader.rule.pace().caution;
        // Whatever is seen from here on may come of it: the agent may not go on at once when it is out.
        let sending = clock::now();
        let signalled = crew.signal(&self.procfs, target, signal, caution, now, earnest);
        if let (Signalled::Sent, Some(ledger), Some(draft)) = (&signalled, &mut self.ledger, draft)
        {
            // Whoever is killed between the two has the signal sent once more.
            ledger.note_draft(draft);
        }
        let at = clock::now();
        let rule = reloader.name().to_owned();
        let pid = Some(target.pid.as_raw());
        if !matches!(signalled, Signalled::Sent) {
            let Self { witness, source, places, .. } = self;
            witness.forget(ticket, &mut Watching { source, places });
        }
        match signalled {
            Signalled::Sent => {
                let then = self.begin_proof(id, receiver, action, sending, ticket);
                let Some(reloader) = self.reloaders.get_mut(&id) else { return };
                reloader.delivery.acted(receiver, Acted::Applied(then), at);
                if action.ends() {
                    reloader.ended_for = Some((reloader.delivery.wanted().digest, at));
                }
                self.tell_all_served(id, receiver, action, at);
            }
            Signalled::NotYet(until) => {
                reloader.delivery.acted(receiver, Acted::NotYet(until), at);
            }
            Signalled::Gone => {
                let until = at.after(DISMISSED);
                reloader.delivery.acted(receiver, Acted::NotYet(until), at);
            }
            Signalled::Refused(reason) => {
                // One that is busy with its last signal may wait for the next in a moment.
                let is_momentary = reason == Refusal::Blocked;
                let acted = if is_momentary { Acted::Failed } else { Acted::Refused };
                if reloader.delivery.acted(receiver, acted, at) {
                    let remedy = reason.remedy();
                    let signal = Some(signal.to_string());
                    let detail = None;
                    let decision = Decision::Refused { rule, pid, signal, reason, remedy, detail };
                    reloader.untold.push(decision);
                }
            }
            Signalled::Failed(error) => {
                if reloader.delivery.acted(receiver, Acted::Failed, at) {
                    let reason = super::tell::explain(error);
                    let retry = reloader.delivery.retries_in(receiver, at);
                    let what = Failure::NotReloaded;
                    reloader.untold.push(Decision::Failed { rule, pid, what, reason, retry });
                }
            }
        }
    }

    /// Notes for every rule that a target was sent a signal, which has it read what all of them watch.
    fn tell_all_served(
        &mut self,
        id: RuleId,
        receiver: Receiver<Target>,
        action: &Action,
        at: Boot,
    ) {
        let Some(target) = receiver.target else { return };
        let dry_run = self.settings.is_dry;
        let mut joined = Vec::new();
        for (&other, reloader) in &mut self.reloaders {
            if !reloader.delivery.knows(target) {
                continue;
            }
            let until = at.after(reloader.rule.pace().min_interval);
            reloader.delivery.spare(target, until);
            let same = (0..).zip(reloader.rule.actions());
            let same = same.filter(|(_, it)| it.signal() == action.signal());
            let same: Vec<usize> = same.map(|(step, _)| step).collect();
            for step in same {
                let served = Receiver { step, target: Some(target) };
                let is_own = other == id && step == receiver.step;
                if !is_own {
                    let is_next = reloader.delivery.readable_since(step).is_some();
                    let is_owed = reloader.delivery.owed().any(|owed| owed == served);
                    if other == id || !is_next || !is_owed {
                        continue;
                    }
                    reloader.delivery.has_got(served, until);
                    joined.push((other, served));
                }
                let changed = reloader.delivery.wanted().changed;
                reloader.untold.push(Decision::Reloaded {
                    rule: reloader.name().to_owned(),
                    action: name(action),
                    pid: Some(target.pid.as_raw()),
                    signal: action.signal().map(|signal| signal.to_string()),
                    object: None,
                    change_to_signal: changed.map(|changed| at.since(changed)),
                    dry_run,
                });
            }
        }
        for (other, served) in joined {
            self.remember_applied(other, served);
            self.join_proof(other, served);
        }
    }
}

/// An action by name.
pub(super) fn name(action: &Action) -> ActionName {
    match action {
        Action::Signal(_) => ActionName::Signal,
        Action::Restart => ActionName::Restart,
        Action::Exec(_) => ActionName::Exec,
        Action::Post(_) => ActionName::Post,
    }
}
