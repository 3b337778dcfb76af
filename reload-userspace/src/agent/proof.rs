//! Did the reloads take? From a signal that is out to what is told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    rc::Rc,
};

use nix::unistd::Pid;

use super::{
    Agent,
    reloader::{Reloader, RuleId},
};
use crate::{
    clock::{self, Boot},
    confirm::{Aim, Confirm, Deed, Evidence, MOST_FILES, Opened, Ticket, Verdict, ending},
    content::Digest,
    delivery::{Receiver, Then},
    event::PlaceId,
    report::{Decision, Failure},
    rule::Action,
    source::Source,
    target::{Held, Target},
    witness::{Sight, Watching},
};

/// How many openings of files are looked at before what is due is done.
const MOST_OPENS: usize = 256;

/// A signal that is out, and of which it is yet to be seen whether it took.
#[derive(Debug)]
pub(super) struct Proof {
    confirm: Confirm,
    held: Rc<Held>,
    /// Whom it was for.
    serves: Vec<Served>,
    /// The files of which it would be seen that they are opened.
    ticket: Option<Ticket>,
}

/// A rule that a signal was for, and the content that it wanted.
#[derive(Clone, Copy, Debug)]
struct Served {
    rule: RuleId,
    receiver: Receiver<Target>,
    digest: Digest,
}

impl Proof {
    /// Lets what is newer go out, unless there is still something to wait for.
    fn release_unless_expecting(&self, reloaders: &mut BTreeMap<RuleId, Reloader>) {
        if self.confirm.is_expecting() {
            return;
        }
        for served in &self.serves {
            if let Some(reloader) = reloaders.get_mut(&served.rule) {
                reloader.delivery.release(served.receiver);
            }
        }
    }
}

impl Proof {
    /// Nobody has looked from one moment to the other.
    pub(super) fn put_off(&mut self, from: Boot, to: Boot) {
        self.confirm.put_off(from, to);
    }
}

impl<S: Source> Agent<S> {
    /// Has it told who opens the content that a rule is about to have read.
    pub(super) fn expect_opens(&mut self, id: RuleId) -> Option<Ticket> {
        let reloader = self.reloaders.get(&id)?;
        if reloader.rule.pace().confirm_timeout.is_zero() || self.settings.is_dry {
            return None;
        }
        let mut paths: Vec<_> = reloader.changed.iter().take(MOST_FILES).collect();
        if paths.is_empty() {
            // At the start nobody knows which of them have changed.
            let all = reloader.watches().flat_map(|it| it.content().paths());
            paths.extend(all.take(MOST_FILES));
        }
        let spots = paths.into_iter().map(|path| reloader.spot(path)).collect();
        let Self { witness, source, places, .. } = self;
        witness.watch(spots, &mut Watching { source, places })
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
            self.forget_opens(ticket);
            return Then::Rest;
        };
        let aim = if action.ends() { Aim::End } else { Aim::Reload };
        let longest = crew.and_then(|crew| crew.longest_proof(held.target()));
        let deed = Deed { sent, aim, timeout, sees_opens: ticket.is_some(), longest };
        let mut confirm = Confirm::new(&held, &self.procfs, deed);
        let digest = reloader.delivery.wanted().digest;
        let serves = vec![Served { rule: id, receiver, digest }];
        // What the last one was to prove nobody will know, but that the target lives.
        let is_last = |it: &Proof| it.held.target() == held.target();
        while let Some(index) = self.proofs.iter().position(is_last) {
            if let Some(verdict) = self.proofs.get(index).and_then(|it| it.confirm.give_up(sent)) {
                self.conclude(index, &verdict);
            }
            let last = self.proofs.remove(index);
            self.forget_opens(last.ticket);
        }
        let Self { witness, source, places, .. } = self;
        // What has taken the place of the content since it was marked may have been opened already.
        if witness.follow(ticket, &mut Watching { source, places }) != Sight::Steady {
            confirm.lose_sight();
        }
        let then = if confirm.is_expecting() { Then::Confirm } else { Then::Rest };
        self.proofs.push(Proof { confirm, held, serves, ticket });
        then
    }

    /// A rule is served by a signal that was sent for another.
    pub(super) fn join_proof(&mut self, id: RuleId, receiver: Receiver<Target>) {
        let Some(reloader) = self.reloaders.get(&id) else { return };
        let digest = reloader.delivery.wanted().digest;
        let of_target = |it: &&mut Proof| Some(it.held.target()) == receiver.target;
        if let Some(proof) = self.proofs.iter_mut().rev().find(of_target) {
            proof.serves.push(Served { rule: id, receiver, digest });
        }
    }

    /// Another rule takes the place of one: what was sent for that was sent for this, as far as it has
    /// the step, too.
    pub(super) fn hand_on_proofs(
        &mut self,
        from: RuleId,
        to: RuleId,
        step: impl Fn(usize) -> Option<usize>,
    ) {
        for proof in &mut self.proofs {
            proof.serves = mem::take(&mut proof.serves)
                .into_iter()
                .filter_map(|served| {
                    let Served { rule, receiver, digest } = served;
                    if rule != from {
                        return Some(served);
                    }
                    let receiver = Receiver { step: step(receiver.step)?, ..receiver };
                    Some(Served { rule: to, receiver, digest })
                })
                .collect();
        }
    }

    /// When to look next whether a reload took.
    pub(super) fn proof_at(&self) -> Option<Boot> {
        self.proofs.iter().map(|proof| proof.confirm.next_at()).min()
    }

    /// Looks whether the reloads took.
    pub(super) fn prove(&mut self, now: Boot) {
        if self.proofs.is_empty() {
            return;
        }
        if self.witness.take_loss() {
            let Self { proofs, reloaders, .. } = self;
            let seen = proofs.iter_mut().filter(|it| it.ticket.is_some() && it.confirm.is_open());
            for proof in seen {
                proof.confirm.lose_sight();
                proof.release_unless_expecting(reloaders);
            }
        }
        self.follow_opens_of(|proof| proof.confirm.next_at() <= now);
        for _ in 0..MOST_OPENS {
            let Some(opened) = self.witness.try_next() else { break };
            self.opened(&opened);
        }
        let Self { proofs, procfs, crews, reloaders, .. } = self;
        let mut verdicts = Vec::new();
        for (index, proof) in proofs.iter_mut().enumerate() {
            for served in &proof.serves {
                let crew = reloaders.get(&served.rule).and_then(|it| crews.get_mut(&it.crew?));
                let Some(crew) = crew else { continue };
                let others = crew.targets().filter(|it| *it != proof.held.target());
                others.for_each(|it| proof.confirm.replaced(it));
                if proof.confirm.misses_another(now) {
                    crew.await_another(now);
                }
            }
            let verdict = proof.confirm.poll(now, &proof.held, procfs);
            verdicts.extend(verdict.map(|verdict| (index, verdict)));
            if proof.confirm.has_waited_enough(now) {
                proof.release_unless_expecting(reloaders);
            }
        }
        for (index, verdict) in verdicts {
            self.conclude(index, &verdict);
        }
        let Self { proofs, witness, source, places, .. } = self;
        proofs.retain(|proof| {
            if proof.confirm.is_over() {
                witness.forget(proof.ticket, &mut Watching { source, places });
            }
            !proof.confirm.is_over()
        });
    }

    /// Somebody has opened a file of which it is told.
    pub(super) fn opened(&mut self, opened: &Opened) {
        let now = clock::now();
        let Self { proofs, procfs, .. } = self;
        let mut verdicts = Vec::new();
        for (index, proof) in proofs.iter_mut().enumerate() {
            if proof.ticket.is_some_and(|ticket| opened.tickets.contains(&ticket)) {
                let verdict = proof.confirm.opened(opened.pid, now, &proof.held, procfs);
                verdicts.extend(verdict.map(|verdict| (index, verdict)));
            }
        }
        for (index, verdict) in verdicts {
            self.conclude(index, &verdict);
            // Nothing that is opened is news any more.
            let ticket = self.proofs.get_mut(index).and_then(|proof| proof.ticket.take());
            self.forget_opens(ticket);
        }
    }

    /// The source tells that somebody has opened a file.
    pub(super) fn opened_at(&mut self, place: PlaceId, pid: Pid, at: Boot) {
        let opened = self.witness.opened_at(place, pid, at);
        self.opened(&opened);
    }

    /// Does not look at the files of that any more.
    pub(super) fn forget_opens(&mut self, ticket: Option<Ticket>) {
        let Self { witness, source, places, .. } = self;
        witness.forget(ticket, &mut Watching { source, places });
    }

    /// Has those that a rule's signals were for looked at now, for its content may be moving.
    pub(super) fn follow_opens(&mut self, id: RuleId) {
        self.follow_opens_of(|proof| proof.serves.iter().any(|it| it.rule == id));
    }

    /// Has looked at where the content is now of which it is to be seen who opens it.
    ///
    /// Nobody looks at a rule that waits for the end of its reload, but for this: a new directory is only
    /// watched once somebody has looked.
    fn follow_opens_of(&mut self, is_meant: impl Fn(&Proof) -> bool) {
        let now = clock::now();
        let unseen = self.follow_once(&is_meant);
        for &id in &unseen {
            self.look(id, now);
        }
        if !unseen.is_empty() {
            self.follow_once(&is_meant);
        }
    }

    /// Follows the content of these proofs, and gives the rules where it is not seen who opens it.
    fn follow_once(&mut self, is_meant: impl Fn(&Proof) -> bool) -> BTreeSet<RuleId> {
        let Self { proofs, witness, source, places, .. } = self;
        let mut unseen = BTreeSet::new();
        for proof in proofs.iter_mut().filter(|it| it.confirm.is_open() && is_meant(it)) {
            let sight = witness.follow(proof.ticket, &mut Watching { source, places });
            if sight != Sight::Steady {
                proof.confirm.moved();
            }
            if sight == Sight::Lost {
                unseen.extend(proof.serves.iter().map(|served| served.rule));
            }
        }
        unseen
    }

    /// Tells what came of a reload.
    fn conclude(&mut self, index: usize, verdict: &Verdict) {
        let Some(Proof { held, serves, confirm, .. }) = self.proofs.get(index) else { return };
        let pid = Some(held.target().pid.as_raw());
        for &Served { rule: id, receiver, digest } in serves {
            let Some(reloader) = self.reloaders.get_mut(&id) else { continue };
            reloader.delivery.release(receiver);
            let rule = reloader.name().to_owned();
            let decision = match *verdict {
                // That it is gone is told by whoever looks for it.
                Verdict::Stopped => continue,
                Verdict::Confirmed(evidence, after) => {
                    Decision::Confirmed { rule, pid, evidence, after }
                }
                Verdict::Unconfirmed(reason, after) => {
                    Decision::Unconfirmed { rule, pid, reason: reason.to_owned(), after }
                }
                Verdict::Died(status) => {
                    let reason = format!("after the reload {}", ending(status));
                    Decision::Failed { rule, pid, what: Failure::Ended, reason, retry: None }
                }
            };
            let is_confirmed = matches!(decision, Decision::Confirmed { .. });
            if is_confirmed && reloader.delivery.wanted().digest == digest {
                self.teller.measure(|metrics| metrics.set_content(reloader.name(), &digest));
            }
            // It may be that the signal itself is yet to be told of.
            if reloader.untold.is_empty() {
                self.teller.tell(&decision);
            } else {
                reloader.untold.push(decision);
            }
            let crew = reloader.crew.and_then(|crew| self.crews.get_mut(&crew));
            if let (Verdict::Confirmed(evidence, after), Some(crew)) = (verdict, crew) {
                crew.note_proof(held.target(), *evidence, confirm.seen_of(*after));
            }
        }
        let is_gone = matches!(
            verdict,
            Verdict::Died(_) | Verdict::Stopped | Verdict::Confirmed(Evidence::Restarted, _)
        );
        if is_gone {
            let now = clock::now();
            let rules = serves.iter().filter_map(|served| self.reloaders.get(&served.rule));
            let crews: BTreeSet<_> = rules.filter_map(|reloader| reloader.crew).collect();
            for (id, crew) in &mut self.crews {
                if !crew.is_about_a_pod() || crews.contains(id) {
                    crew.expect_change(now);
                }
            }
        }
    }
}
