//! What the ledger remembers, and what it is told.

use std::time::{Duration, SystemTime};

use super::{
    Agent,
    reloader::{Reloader, RuleId},
};
use crate::{
    clock::{self, Boot},
    delivery::{Receiver, Wanted},
    ledger::{self, Draft, Ledger},
    report::{Change, Decision},
    rule::{Action, OnStart, Rule},
    source::Source,
    target::Target,
};

impl<S: Source> Agent<S> {
    /// Opens the ledger, if there is to be one. A dry run applies nothing, and has nothing to remember.
    pub(super) fn open_ledger(&mut self) -> anyhow::Result<()> {
        let Some(directory) = self.settings.state_dir.as_ref().filter(|_| !self.settings.is_dry)
        else {
            return Ok(());
        };
        let (ledger, bad) = Ledger::open(directory)?;
        self.ledger = Some(ledger);
        if let Some(reason) = bad {
            self.teller.tell(&Decision::Degraded { source: self.source.name(), reason });
        }
        self.tell_of_ledger();
        Ok(())
    }

    /// Notes that a receiver has what is wanted.
    pub(super) fn remember_applied(&mut self, id: RuleId, receiver: Receiver<Target>) {
        let Self { reloaders, ledger: Some(ledger), .. } = self else { return };
        if let Some(reloader) = reloaders.get(&id) {
            remember(ledger, reloader, receiver);
        }
    }

    /// Writes down that a receiver has got what is wanted, for when it has.
    pub(super) fn draft_wanted(&self, id: RuleId, receiver: Receiver<Target>) -> Option<Draft> {
        let reloader = self.ledger.as_ref().and(self.reloaders.get(&id))?;
        let action = key(&reloader.rule, receiver.step);
        let digest = reloader.delivery.wanted().digest;
        Some(ledger::draft(&reloader.rule.identity(), &action, receiver.target, digest))
    }

    /// Forgets whoever has ended.
    pub(super) fn forget_the_dead(&mut self) {
        let Self { ledger: Some(ledger), procfs, .. } = self else { return };
        ledger
            .retain(|target| !matches!(procfs.target(target.pid), Ok(now) if now != Some(target)));
    }

    /// Notes what the files of a rule contain, and who has that.
    pub(super) fn remember(&mut self, id: RuleId) {
        let receivers =
            self.reloaders.get(&id).map(|it| it.delivery.receivers().collect::<Vec<_>>());
        for receiver in receivers.unwrap_or_default() {
            self.remember_applied(id, receiver);
        }
        self.remember_content(id);
    }

    /// Notes what the files of a rule contain.
    pub(super) fn remember_content(&mut self, id: RuleId) {
        let Self { reloaders, ledger: Some(ledger), .. } = self else { return };
        let reloader = reloaders.get(&id).filter(|it| !it.rule.is_about_rules());
        if let Some(reloader) = reloader {
            let Wanted { digest, since, .. } = reloader.delivery.wanted();
            ledger.note_content(&reloader.rule.identity(), digest, since);
        }
    }

    /// Tells what is wrong with the ledger, if that is news.
    pub(super) fn tell_of_ledger(&mut self) {
        if let Some(reason) = self.ledger.as_mut().and_then(Ledger::trouble) {
            self.teller.tell(&Decision::Degraded { source: self.source.name(), reason });
        }
    }
}

/// Notes what a receiver has.
pub(super) fn remember(ledger: &mut Ledger, reloader: &Reloader, receiver: Receiver<Target>) {
    if let Some(digest) = reloader.delivery.has(receiver) {
        let action = key(&reloader.rule, receiver.step);
        ledger.note_applied(&reloader.rule.identity(), &action, receiver.target, digest);
    }
}

/// What the ledger calls a step. Two actions may look alike, for what is secret of them is not shown.
pub(super) fn key(rule: &Rule, step: usize) -> String {
    let name = |it: &Action| it.to_string();
    let shown = rule.actions().get(step).map(name).unwrap_or_default();
    let alike = rule.actions().iter().take(step).filter(|it| name(it) == shown).count();
    if alike == 0 { shown } else { format!("{shown} ({alike})") }
}

/// Finds out since when a rule that is put to work has its content, and who has that.
///
/// - The ledger knows the content, and it is the same: since when is known.
/// - It is another: it has changed while nobody looked, at the latest when the last file, link or
///   directory on the way did.
/// - It knows nothing of the rule: then the operator decides.
pub(super) fn recall(ledger: Option<&Ledger>, reloader: &mut Reloader) {
    let now = clock::now();
    let wanted = reloader.delivery.wanted();
    let known = ledger.and_then(|ledger| ledger.content(&reloader.rule.identity()));
    let since = match (known, reloader.rule.pace().on_start) {
        (Some((digest, since)), _) if digest == wanted.digest => {
            // It may have been another in between.
            since.max(since_boot(reloader.latest_change(), now))
        }
        (Some(_), _) => since_boot(reloader.latest_change(), now),
        (None, OnStart::Skip) => Boot::ZERO,
        (None, OnStart::Reload) => now,
    };
    reloader.delivery.want(Wanted { changed: None, since, ..wanted });
    let is_owed = known.is_some() || since == now;
    let is_same = known.is_some_and(|(digest, _)| digest == wanted.digest);
    reloader.new_steps = (0..reloader.rule.actions().len())
        .filter(|&step| {
            let action = key(&reloader.rule, step);
            is_same && ledger.is_some_and(|it| !it.knows(&reloader.rule.identity(), &action))
        })
        .collect();
    if known.is_some_and(|(digest, _)| digest != wanted.digest) {
        // Which of them it was nobody has noted.
        let files = reloader.watches().flat_map(|watched| watched.content().paths());
        reloader.changed = files.cloned().collect();
        let (rule, paths) = (reloader.name().to_owned(), Vec::new().into());
        let changed = Decision::Changed { rule, paths, by: None, when: Change::Away };
        reloader.untold.push(changed);
    }
    for receiver in reloader.delivery.receivers().collect::<Vec<_>>() {
        let action = key(&reloader.rule, receiver.step);
        let applied =
            ledger.and_then(|it| it.applied(&reloader.rule.identity(), &action, receiver.target));
        let is_new = reloader.new_steps.contains(&receiver.step);
        if is_owed && applied != Some(wanted.digest) && !is_new {
            reloader.delivery.doubt(receiver);
        }
    }
}

/// A time since 1970, by which a file has changed, as one since boot: rather too late than too early.
pub(super) fn since_boot(time: Duration, now: Boot) -> Boot {
    /// By how much the times of files may be behind: a tick of the slowest clock that is usual.
    const BEHIND: Duration = Duration::from_millis(10);
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The clock may have been set: then nobody knows. Asked for after the other, it errs on the late side.
    let ago = wall.checked_sub(time);
    ago.map_or(now, |ago| Boot(clock::now().0.saturating_sub(ago)).after(BEHIND))
}
