//! Did the reloads take? From a signal that is out to what is told of it.

use std::{future, rc::Rc};

use super::{Agent, crew::Crew, reloader::RuleId};
use crate::{
    clock::{self, Boot},
    confirm::{Aim, Confirm, Deed, Evidence, Opened, Opens, Ticket, Verdict, ending},
    content::Digest,
    delivery::{Receiver, Then},
    preflight::is_meant_to_end,
    report::Decision,
    rule::Action,
    source::Source,
    target::{Held, Target},
};

/// A signal that is out, and of which it is yet to be seen whether it took.
#[derive(Debug)]
pub(super) struct Proof {
    confirm: Confirm,
    held: Rc<Held>,
    /// The rules that it was for, and the content that each of them wanted.
    serves: Vec<(RuleId, Receiver<Target>, Digest)>,
    /// The files of which it would be seen that they are opened.
    ticket: Option<Ticket>,
}

/// What tells that somebody opens a file, if anything can.
#[derive(Debug, Default)]
pub(super) enum Witness {
    /// It has not been asked for.
    #[default]
    Untried,
    /// It cannot be had here.
    None,
    There(Opens),
}

impl Witness {
    /// The next file that somebody opens.
    pub(super) async fn next(&mut self) -> Option<Opened> {
        match self {
            Self::There(opens) => opens.next().await.ok(),
            Self::Untried | Self::None => future::pending().await,
        }
    }

    fn get(&mut self) -> Option<&mut Opens> {
        if matches!(self, Self::Untried) {
            *self = Opens::open().map_or_else(
                |error| {
                    tracing::debug!(%error, "nobody tells who opens a file");
                    Self::None
                },
                Self::There,
            );
        }
        match self {
            Self::There(opens) => Some(opens),
            Self::Untried | Self::None => None,
        }
    }
}

impl<S: Source> Agent<S> {
    /// Has it told who opens the content that a rule is about to have read.
    pub(super) fn expect_opens(&mut self, id: RuleId) -> Option<Ticket> {
        let reloader = self.reloaders.get(&id)?;
        if reloader.rule.pace().confirm_timeout.is_zero() || self.settings.is_dry {
            return None;
        }
        let opens = self.witness.get()?;
        // At the start nobody knows which of them have changed.
        let is_known = !reloader.changed.is_empty();
        let all = || reloader.watches().values().flat_map(|it| it.content().paths());
        let all = all().filter(|_| !is_known);
        opens.watch(reloader.changed.iter().chain(all))
    }

    /// Begins to look whether a signal that has just been sent has taken, and says whether the next one
    /// should wait for that.
    pub(super) fn begin_proof(
        &mut self,
        id: RuleId,
        receiver: Receiver<Target>,
        action: &Action,
        sent: Boot,
        ticket: Option<Ticket>,
    ) -> Then {
        let Some(reloader) = self.reloaders.get(&id) else { return Then::Rest };
        let timeout = reloader.rule.pace().confirm_timeout;
        let crew = reloader.crew.and_then(|crew| self.crews.get(&crew));
        let held = receiver.target.and_then(|target| crew.and_then(|crew| crew.held(target)));
        let Some(held) = held.filter(|_| !timeout.is_zero() && !self.settings.is_dry) else {
            return Then::Rest;
        };
        let is_end = action.signal().is_some_and(|it| is_meant_to_end(it.get()));
        let aim = if is_end { Aim::End } else { Aim::Reload };
        let deed = Deed { sent, aim, timeout, sees_opens: ticket.is_some() };
        let confirm = Confirm::new(&held, &self.procfs, deed);
        let then = if confirm.is_expecting() { Then::Confirm } else { Then::Rest };
        let digest = reloader.delivery.wanted().digest;
        let serves = vec![(id, receiver, digest)];
        // What the last one was to prove nobody will know.
        self.proofs.retain(|it| it.held.target() != held.target());
        self.proofs.push(Proof { confirm, held, serves, ticket });
        then
    }

    /// A rule is served by a signal that was sent for another.
    pub(super) fn join_proof(&mut self, id: RuleId, receiver: Receiver<Target>) {
        let Some(reloader) = self.reloaders.get(&id) else { return };
        let digest = reloader.delivery.wanted().digest;
        let of_target = |it: &&mut Proof| Some(it.held.target()) == receiver.target;
        if let Some(proof) = self.proofs.iter_mut().rev().find(of_target) {
            proof.serves.push((id, receiver, digest));
        }
    }

    /// When to look next whether a reload took.
    pub(super) fn proof_at(&self) -> Option<Boot> {
        self.proofs.iter().map(|proof| proof.confirm.next_at()).min()
    }

    /// Looks whether the reloads took.
    pub(super) fn prove(&mut self) {
        if self.proofs.is_empty() {
            return;
        }
        let now = clock::now();
        while let Witness::There(opens) = &mut self.witness
            && let Some(opened) = opens.try_next()
        {
            self.opened(&opened);
        }
        let Self { proofs, procfs, crews, reloaders, .. } = self;
        let mut ended = Vec::new();
        for (index, proof) in proofs.iter_mut().enumerate() {
            let crew = |id: &RuleId| crews.get(&reloaders.get(id)?.crew?);
            let others =
                proof.serves.iter().filter_map(|(id, ..)| crew(id)).flat_map(Crew::targets);
            let held = &proof.held;
            others.filter(|it| *it != held.target()).for_each(|it| proof.confirm.replaced(it));
            let verdict = proof.confirm.poll(now, &proof.held, procfs);
            ended.extend(verdict.map(|verdict| (index, verdict)));
        }
        for (index, verdict) in ended.into_iter().rev() {
            let proof = self.proofs.remove(index);
            self.conclude(proof, &verdict);
        }
    }

    /// Somebody has opened a file of which it is told.
    pub(super) fn opened(&mut self, opened: &Opened) {
        let now = clock::now();
        let Self { proofs, procfs, .. } = self;
        let found = proofs.iter_mut().enumerate().find_map(|(index, proof)| {
            let is_about = proof.ticket.is_some_and(|ticket| opened.tickets.contains(&ticket));
            let by = opened.pid;
            let verdict =
                is_about.then(|| proof.confirm.opened(by, now, &proof.held, procfs))??;
            Some((index, verdict))
        });
        if let Some((index, verdict)) = found {
            let proof = self.proofs.remove(index);
            self.conclude(proof, &verdict);
        }
    }

    /// Tells what came of a reload.
    fn conclude(&mut self, proof: Proof, verdict: &Verdict) {
        let Proof { held, serves, ticket, .. } = proof;
        if let (Some(ticket), Witness::There(opens)) = (ticket, &mut self.witness) {
            opens.forget(ticket);
        }
        let pid = Some(held.target().pid.as_raw());
        for (id, receiver, digest) in serves {
            let Some(reloader) = self.reloaders.get_mut(&id) else { continue };
            reloader.delivery.confirmed(receiver);
            let rule = reloader.name().to_owned();
            let decision = match *verdict {
                Verdict::Confirmed(evidence, after) => {
                    Decision::Confirmed { rule, pid, evidence, after }
                }
                Verdict::Unconfirmed(reason, after) => {
                    Decision::Unconfirmed { rule, pid, reason: reason.to_owned(), after }
                }
                Verdict::Died(status) => {
                    let reason = format!("after the reload {}", ending(status));
                    Decision::Failed { rule, pid, reason }
                }
            };
            self.teller.tell(&decision);
            let is_confirmed = matches!(decision, Decision::Confirmed { .. });
            if is_confirmed && reloader.delivery.wanted().digest == digest {
                self.teller.measure(|metrics| metrics.set_content(reloader.name(), &digest));
            }
        }
        if let Verdict::Died(_) | Verdict::Confirmed(Evidence::Restarted, _) = verdict {
            let now = clock::now();
            self.crews.values_mut().for_each(|crew| crew.expect_change(now));
        }
    }
}
