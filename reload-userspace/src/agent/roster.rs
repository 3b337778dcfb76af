//! Who is there, and what each of them has.

use nix::unistd::Pid;

use super::{
    Agent,
    crew::{CrewId, Roll, latest_start},
    recall::{key, remember},
    reloader::Reloader,
};
use crate::{
    clock::{self, Boot},
    delivery::Receiver,
    rule::Action,
    source::Source,
    target::{Target, TargetError},
};

impl<S: Source> Agent<S> {
    /// Looks for the targets of a crew. Those that are new and started since the content became what
    /// it is have read it; while a change is under way, nobody knows what they have read.
    pub(super) fn call_roll(&mut self, id: CrewId) -> Result<(), TargetError> {
        let now = clock::now();
        let Some(crew) = self.crews.get_mut(&id) else { return Ok(()) };
        let Roll { joined, left } = crew.call_roll(&self.procfs, now)?;
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
            for &target in &joined {
                let read_at = crew.read_at(&self.procfs, target);
                let (ledger, rule) = (&self.ledger, &reloader.rule);
                // In place of one that was ended for this content: doubt would end it as well.
                let ends = |step| rule.actions().get(step).is_some_and(Action::ends);
                let is_successor = |step| ends(step) && reloader.ended_for == Some(wanted.digest);
                let latest = read_at.max(latest_start(target));
                let read_at = |step| if is_successor(step) { latest } else { read_at };
                let has_read = |step| is_settled && read_at(step) >= wanted.since;
                let applied =
                    |step| ledger.as_ref()?.applied(rule.name(), &key(rule, step), Some(target));
                let has = |step| has_read(step).then_some(wanted.digest).or_else(|| applied(step));
                reloader.delivery.join(target, has);
            }
            for receiver in reloader.delivery.receivers().filter(|_| !joined.is_empty()) {
                self.ledger.as_mut().into_iter().for_each(|it| remember(it, reloader, receiver));
            }
        }
        Ok(())
    }

    /// Notes that a process has started a program, which therefore reads what is there now.
    pub(super) fn started(&mut self, pid: Pid, at: Boot) {
        for (&id, crew) in &mut self.crews {
            let Some(target) = crew.started(pid, at) else { continue };
            let of_crew = self.reloaders.values_mut().filter(|it| it.crew == Some(id));
            of_crew.filter(|it| at >= it.delivery.wanted().since).for_each(|it| it.has_got(target));
        }
    }
}

impl Reloader {
    /// A target has what is wanted, and not from us.
    pub(super) fn has_got(&mut self, target: Target) {
        for step in 0..self.rule.actions().len() {
            self.delivery.has_got(Receiver { step, target: Some(target) }, Boot::ZERO);
        }
    }
}
