//! Who is there, and what each of them has.

use nix::unistd::Pid;

use super::{
    Agent,
    crew::{Crew, CrewId, Roll, latest_start},
    recall::{key, remember},
    reloader::{Reloader, RuleId},
};
use crate::{
    clock::{self, Boot, Effort},
    delivery::Receiver,
    ledger::Ledger,
    rule::Action,
    source::Source,
    target::{Census, Target, TargetError, Whereabouts},
    watch::Reach,
};

/// How many times as long as they have taken it is until all processes of the machine are looked at
/// again for rules about pods, unless somebody is about to be signalled.
const CENSUS_REST: u32 = 20;

impl<S: Source> Agent<S> {
    /// Looks for the targets of these crews. For all that are about pods the processes of the machine are
    /// looked at once.
    pub(super) fn call_rolls_of(&mut self, ids: &[CrewId]) {
        let effort = Effort::begin();
        let mut census = Census::default();
        for &id in ids {
            if let Err(error) = self.call_roll(id, &mut census) {
                self.tell_of_roll_call(id, error);
            }
        }
        if census.is_taken() {
            self.census_at = clock::now().after(effort.so_far() * CENSUS_REST);
        }
    }

    /// When to look for the targets of a crew, if ever.
    ///
    /// A pod that starts processes all the time must not keep the agent busy with looking at everybody's.
    pub(super) fn roll_call_at(&self, crew: &Crew) -> Option<Boot> {
        let at = crew.roll_call_at()?;
        Some(if crew.is_about_a_pod() { at.max(self.census_at) } else { at })
    }

    /// Looks for the targets of a crew. Those that are new and started since the content became what
    /// it is have read it; while a change is under way, nobody knows what they have read.
    fn call_roll(&mut self, id: CrewId, census: &mut Census) -> Result<(), TargetError> {
        let now = clock::now();
        let Some(crew) = self.crews.get_mut(&id) else { return Ok(()) };
        let Roll { joined, left } = crew.call_roll(&self.procfs, census, now)?;
        for reloader in self.reloaders.values_mut().filter(|it| it.crew == Some(id)) {
            for &target in &left {
                reloader.delivery.leave(target);
            }
            let wanted = reloader.delivery.wanted();
            let is_settled = reloader.is_idle(now);
            // A rule that is new may be about targets that are not.
            let known = crew.targets().filter(|target| !joined.contains(target));
            let new_here = known.filter(|&target| !reloader.delivery.knows(target));
            let joined: Vec<_> = joined.iter().copied().chain(new_here).collect();
            let steps = 0..reloader.rule.actions().len();
            let since: Vec<_> = steps.map(|step| reloader.delivery.readable_since(step)).collect();
            for &target in &joined {
                let read_at = crew.read_at(&self.procfs, target);
                let (ledger, rule) = (&self.ledger, &reloader.rule);
                // In place of one that was ended for this content: doubt would end it as well.
                let ends = |step| rule.actions().get(step).is_some_and(Action::ends);
                let ended = reloader.ended_for;
                let is_successor =
                    |step| ends(step) && ended.is_some_and(|(digest, _)| digest == wanted.digest);
                let latest = read_at.max(latest_start(target));
                let read_at = |step| if is_successor(step) { latest } else { read_at };
                let has_read = |step| {
                    let since = since.get(step).copied().flatten();
                    is_settled && since.is_some_and(|since| read_at(step) >= since)
                };
                let applied = |step| {
                    ledger.as_ref()?.applied(&rule.identity(), &key(rule, step), Some(target))
                };
                // What it was last sent it has, whatever it has read before; only another program in
                // it has read what is there since.
                let is_anew = crew.has_started_program(target);
                let has = |step| {
                    let read = has_read(step).then_some(wanted.digest);
                    let applied = applied(step).filter(|_| !is_anew || read.is_none());
                    let is_first = reloader.new_steps.contains(&step);
                    applied.or(read).or_else(|| is_first.then_some(wanted.digest))
                };
                reloader.delivery.join(target, has);
                // Whoever takes the place of one that was ended is not ended again at once.
                if let Some((_, at)) = ended {
                    let until = at.after(reloader.rule.pace().min_interval);
                    reloader.delivery.spare(target, until);
                }
            }
            for receiver in reloader.delivery.receivers().filter(|_| !joined.is_empty()) {
                self.ledger.as_mut().into_iter().for_each(|it| remember(it, reloader, receiver));
            }
        }
        if !left.is_empty() {
            self.forget_the_dead();
        }
        Ok(())
    }

    /// Notes that a process has started a program, which therefore reads what is there now.
    pub(super) fn started(&mut self, pid: Pid, at: Boot) {
        let is_any_about_a_pod = self.crews.values().any(Crew::is_about_a_pod);
        let whereabouts =
            if is_any_about_a_pod { self.procfs.whereabouts(pid) } else { Whereabouts::Outside };
        for (&id, crew) in &mut self.crews {
            let Some(target) = crew.started(pid, at, whereabouts) else { continue };
            for reloader in self.reloaders.values_mut().filter(|it| it.crew == Some(id)) {
                credit(reloader, target, at, &mut self.ledger);
            }
        }
    }

    /// Notes who of the targets of a rule has started since the content became what it is, where that is found
    /// out late: the kubelet has swapped a volume long before the update is known to be complete, and a
    /// container may have started in between.
    pub(super) fn credit_the_new(&mut self, id: RuleId) {
        let Self { reloaders, crews, procfs, ledger, .. } = self;
        // Elsewhere the content is what it is since it was read.
        let reloader = reloaders.get_mut(&id).filter(|it| it.rule.reach() == Reach::Beneath);
        let Some(reloader) = reloader else { return };
        let Some(crew) = reloader.crew.and_then(|crew| crews.get(&crew)) else { return };
        for target in reloader.delivery.targets().collect::<Vec<_>>() {
            credit(reloader, target, crew.read_at(procfs, target), ledger);
        }
    }

    /// Notes that a process has ended.
    pub(super) fn ended(&mut self, pid: Pid, now: Boot) {
        self.crews.values_mut().for_each(|crew| crew.ended(pid, now));
    }
}

/// Notes what a target has that has read its configuration at that moment.
fn credit(reloader: &mut Reloader, target: Target, read_at: Boot, ledger: &mut Option<Ledger>) {
    for step in 0..reloader.rule.actions().len() {
        if reloader.delivery.readable_since(step).is_some_and(|since| read_at >= since) {
            let receiver = Receiver { step, target: Some(target) };
            reloader.delivery.has_got(receiver, Boot::ZERO);
            ledger.as_mut().into_iter().for_each(|it| remember(it, reloader, receiver));
        }
    }
}
