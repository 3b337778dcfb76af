//! The targets of one rule: which there are, what each of them has, and what it is owed.

use std::{collections::HashMap, time::Duration};

use nix::unistd::Pid;

use crate::{
    clock::{self, Boot},
    content::Digest,
    preflight::{self, Caution, Refusal, Verdict},
    rule::SignalNumber,
    source::Follows,
    target::{Held, Procfs, Selector, Sent, Target, TargetError},
};

/// How long until a young target is asked again whether it has its handler.
const HANDLER_POLL: Duration = Duration::from_millis(10);

/// How long after a process started or ended the others are looked for: they come in bursts.
const ROLL_CALL_DELAY: Duration = Duration::from_millis(20);

/// How exactly the start of a process is known: `USER_HZ` is 100 on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// How long before it forks a daemon may have read its configuration.
const DAEMON_START: Duration = Duration::from_secs(5);

/// For how long the start of a program is remembered for a process that has not been found yet.
const START_MEMORY: Duration = Duration::from_mins(1);

/// The targets of one rule.
#[derive(Debug)]
pub(super) struct Crew {
    procfs: Procfs,
    selector: Selector,
    signal: SignalNumber,
    /// Whether the starts and ends of processes are announced.
    follows: Follows,
    members: Vec<Member>,
    /// When processes were seen to start a program.
    started: HashMap<Pid, Boot>,
    /// When to look for targets, if there is a reason to.
    roll_call: Option<Boot>,
    /// Whether a process was seen to start or end since they were last looked for.
    is_stale: bool,
}

#[derive(Debug)]
struct Member {
    held: Held,
    /// The content that the process has, as far as we know.
    has: Option<Digest>,
    /// The content that could not be delivered, so that it is not tried again at once.
    denied: Option<Digest>,
    /// The content whose denial has been told.
    told: Option<Digest>,
    /// No reload before that.
    not_before: Boot,
    /// Whether it was there, and its handler was waited for.
    is_awaited: bool,
}

/// The content that the targets are to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    /// When the last event of the change was.
    pub(super) changed: Boot,
    /// When the content was seen to be complete: a process that started later has it.
    pub(super) since: Boot,
}

/// What came of the attempt to reload a target.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The signal was sent, or would have been.
    Reloaded { pid: Pid, at: Boot },
    /// The signal was withheld.
    Refused { pid: Pid, reason: Refusal },
    /// The signal was not allowed.
    Failed { pid: Pid, error: TargetError },
}

/// How to reload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) caution: Caution,
    pub(super) min_interval: Duration,
    pub(super) is_dry: bool,
}

impl Crew {
    pub(super) fn new(
        procfs: Procfs,
        selector: Selector,
        signal: SignalNumber,
        follows: Follows,
    ) -> Self {
        Self {
            procfs,
            selector,
            signal,
            follows,
            members: Vec::new(),
            started: HashMap::new(),
            roll_call: None,
            is_stale: false,
        }
    }

    pub(super) fn signal(&self) -> SignalNumber {
        self.signal
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Notes that a process has started a program, which therefore reads what is there now.
    pub(super) fn started(&mut self, pid: Pid, at: Boot, wanted: Wanted) {
        self.started.insert(pid, at);
        if let Some(member) = self.members.iter_mut().find(|member| member.pid() == pid)
            && at >= wanted.since
        {
            member.has = Some(wanted.digest);
        }
        self.expect_change(at);
    }

    /// Notes that the processes are probably not those that we know.
    pub(super) fn expect_change(&mut self, at: Boot) {
        self.is_stale = true;
        self.look_around(at);
    }

    /// Has the targets looked for soon: not every one is announced by a record, for it may have named
    /// itself later.
    pub(super) fn look_around(&mut self, at: Boot) {
        self.roll_call.get_or_insert(at.after(ROLL_CALL_DELAY));
    }

    /// Whether the processes are probably not those that we know.
    ///
    /// Where nobody announces them one that has ended tells so itself; those that have started besides
    /// the ones that we know are looked for after the signal, for that takes longer.
    pub(super) fn is_stale(&self) -> bool {
        let is_alive = |member: &Member| member.held.is_alive(&self.procfs);
        let is_known = !self.members.is_empty() && self.members.iter().all(is_alive);
        self.is_stale || (self.follows == Follows::No && !is_known)
    }

    /// When to look for the targets, if ever.
    pub(super) fn roll_call_at(&self) -> Option<Boot> {
        self.roll_call
    }

    /// Looks for the targets. Those that are new and started since the content became what it is
    /// have read it; while a change is under way, nobody knows what they have read.
    pub(super) fn call_roll(
        &mut self,
        now: Boot,
        wanted: Wanted,
        is_settled: bool,
    ) -> Result<(), TargetError> {
        self.roll_call = None;
        self.is_stale = false;
        let found = self.procfs.resolve(&self.selector)?;
        let mut known = std::mem::take(&mut self.members);
        for held in found {
            let target = held.target();
            let member = if let Some(index) =
                known.iter().position(|known| known.is(target, &self.procfs))
            {
                known.swap_remove(index)
            } else {
                let has_read = is_settled && self.read_at(&held) >= wanted.since;
                let has = has_read.then_some(wanted.digest);
                Member { held, has, denied: None, told: None, not_before: now, is_awaited: false }
            };
            self.members.push(member);
        }
        let members = &self.members;
        self.started.retain(|&pid, &mut at| {
            now.since(at) < START_MEMORY || members.iter().any(|member| member.pid() == pid)
        });
        Ok(())
    }

    /// Tries again what was denied, without telling of it again.
    pub(super) fn forgive(&mut self) {
        for member in &mut self.members {
            member.denied = None;
        }
    }

    /// Reloads every target that has not got `wanted` and may be reloaded now.
    pub(super) fn reload(&mut self, now: Boot, wanted: Wanted, manner: Manner) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for index in 0..self.members.len() {
            let member = &self.members[index];
            if member.is_owed(wanted.digest) && member.not_before <= now {
                outcomes.extend(self.reload_one(index, now, wanted, manner));
            }
        }
        outcomes
    }

    /// When somebody is owed a reload that cannot be carried out before.
    pub(super) fn reload_at(&self, wanted: Wanted) -> Option<Boot> {
        let owed = self.members.iter().filter(|member| member.is_owed(wanted.digest));
        owed.map(|member| member.not_before).min()
    }

    /// The first moment at which anybody may be reloaded, if nobody may be at `now`.
    pub(super) fn held_until(&self, now: Boot) -> Option<Boot> {
        self.members.iter().map(|member| member.not_before).min().filter(|&first| first > now)
    }

    fn reload_one(
        &mut self,
        index: usize,
        now: Boot,
        wanted: Wanted,
        manner: Manner,
    ) -> Option<Outcome> {
        let start = self.start(&self.members[index].held);
        let member = &mut self.members[index];
        let pid = member.pid();
        // Asked at the last moment, the more important last: the process may have become another
        // program, or be gone.
        if !self.procfs.matches(pid, &self.selector) {
            return self.dismiss(index, now);
        }
        let Some(sets) = self.procfs.signal_sets(pid) else {
            return self.dismiss(index, now);
        };
        let signal = self.signal.get();
        let verdict = preflight::judge(signal, sets, now.since(start), manner.caution);
        let sent = match verdict {
            Verdict::NotYet => {
                member.not_before = now.after(HANDLER_POLL);
                member.is_awaited = true;
                return None;
            }
            // It has ended meanwhile, maybe because it has forked the one that goes on.
            Verdict::Refused(Refusal::Zombie) if member.is_awaited => {
                return self.dismiss(index, now);
            }
            Verdict::Refused(reason) => {
                return member.deny(wanted.digest).then_some(Outcome::Refused { pid, reason });
            }
            Verdict::Go if manner.is_dry => Ok(Sent::Delivered),
            Verdict::Go => member.held.send(&self.procfs, signal),
        };
        match sent {
            Ok(Sent::Delivered) => {
                let at = clock::now();
                member.has = Some(wanted.digest);
                member.not_before = at.after(manner.min_interval);
                Some(Outcome::Reloaded { pid, at })
            }
            Ok(Sent::Gone) => self.dismiss(index, now),
            Err(error) => member.deny(wanted.digest).then_some(Outcome::Failed { pid, error }),
        }
    }

    /// A member is not what it was: another roll call finds who is there instead.
    fn dismiss(&mut self, index: usize, now: Boot) -> Option<Outcome> {
        self.members[index].not_before = now.after(ROLL_CALL_DELAY * 2);
        self.expect_change(now);
        None
    }

    /// When the process started its program, or the process itself where that was not seen.
    fn start(&self, held: &Held) -> Boot {
        let target = held.target();
        let exec = self.started.get(&target.pid).copied();
        exec.map_or(target.start(), |exec| exec.max(target.start()))
    }

    /// The earliest moment at which the process can have read its configuration.
    ///
    /// Only the start of a program proves that it was read later. A process that was merely forked, as
    /// a daemon is, has what its parent has read: its parent is the last of that name that started a
    /// program before, or one that started before anybody looked. Where starts are not announced a
    /// process that may be a daemon is given less credit.
    fn read_at(&self, held: &Held) -> Boot {
        let target = held.target();
        if let Some(&exec) = self.started.get(&target.pid) {
            return exec;
        }
        if self.follows == Follows::No {
            let is_own = self.procfs.is_forked_by_stranger(target.pid, &self.selector);
            let before = if is_own { Duration::ZERO } else { DAEMON_START };
            return Boot(target.start().0.saturating_sub(before));
        }
        let forked = target.start().after(TICK);
        let parents = self.started.values().copied().filter(|&exec| exec <= forked);
        parents.max().unwrap_or(Boot(Duration::ZERO))
    }
}

impl Member {
    fn pid(&self) -> Pid {
        self.held.target().pid
    }

    /// Whether it is that process, and alive: another may have its pid, and even its tick.
    fn is(&self, target: Target, procfs: &Procfs) -> bool {
        self.held.target() == target && self.held.is_alive(procfs)
    }

    fn is_owed(&self, digest: Digest) -> bool {
        self.has != Some(digest) && self.denied != Some(digest)
    }

    /// Gives up on `digest` for now, and says whether that is news.
    fn deny(&mut self, digest: Digest) -> bool {
        self.denied = Some(digest);
        self.told.replace(digest) != Some(digest)
    }
}
