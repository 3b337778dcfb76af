//! The processes that a selector means: who is there, since when, and how to reach them.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    time::Duration,
};

use nix::unistd::Pid;

use crate::{
    child,
    clock::Boot,
    confirm::Evidence,
    preflight::{Attempt, Attempted, Caution, Refusal},
    rule::SignalNumber,
    source::Tells,
    target::{Census, Held, Procfs, Selector, Target, TargetError, Whereabouts},
};

/// How long until a young target is asked again whether it has its handler.
const HANDLER_POLL: Duration = Duration::from_millis(10);

/// How long after a process started or ended the others are looked for: they come in bursts.
const ROLL_CALL_DELAY: Duration = Duration::from_millis(20);

/// How exactly the start of a process is known: `USER_HZ` is 100 on every architecture.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// How long before it forks a daemon may have read its configuration.
const DAEMON_START: Duration = Duration::from_secs(5);

/// For how long the start of a program is remembered for a process that has not been found yet.
const START_MEMORY: Duration = Duration::from_mins(1);

/// The number of a crew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CrewId(pub(super) u64);

/// The processes that a selector means.
#[derive(Debug)]
pub(super) struct Crew {
    selector: Selector,
    /// Whether the starts and ends of processes are announced.
    follows: Tells,
    /// Since when.
    since: Boot,
    members: HashMap<Target, Rc<Held>>,
    /// When processes were seen to start a program.
    started: HashMap<Pid, Boot>,
    /// Those that were there, and whose handler was waited for.
    awaited: HashSet<Target>,
    /// The longest that evidence of their reloads has ever taken.
    longest_proofs: HashMap<Target, Duration>,
    /// When to look for targets, if there is a reason to.
    roll_call: Option<Boot>,
    /// Whether a process was seen to start or end since they were last looked for.
    is_stale: bool,
    /// What has been told of why they cannot be looked for.
    pub(super) told: Option<String>,
}

/// Who has come and gone.
#[derive(Debug, Default)]
pub(super) struct Roll {
    pub(super) joined: Vec<Target>,
    pub(super) left: Vec<Target>,
}

/// What came of the attempt to signal a target.
#[derive(Debug)]
pub(super) enum Signalled {
    /// The kernel took it, or would have.
    Sent,
    /// It is too early: ask again at that moment.
    NotYet(Boot),
    /// It is not what it was: another roll call finds who is there instead.
    Gone,
    /// The signal was withheld.
    Refused(Refusal),
    /// The signal was not allowed.
    Failed(TargetError),
}

/// Whether a signal is sent, or only told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earnest {
    Real,
    Dry,
}

/// The latest moment at which a process can have started.
pub(super) fn latest_start(target: Target) -> Boot {
    target.start().after(TICK)
}

impl Crew {
    pub(super) fn new(selector: Selector, follows: Tells, now: Boot) -> Self {
        Self {
            selector,
            follows,
            since: now,
            members: HashMap::new(),
            started: HashMap::new(),
            awaited: HashSet::new(),
            longest_proofs: HashMap::new(),
            roll_call: None,
            is_stale: false,
            told: None,
        }
    }

    pub(super) fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Whether it is of one pod only.
    pub(super) fn is_about_a_pod(&self) -> bool {
        !self.selector.scope.is_anywhere()
    }

    /// Notes how long evidence of a reload has taken. That a target is alive is none, and is only said when the
    /// time is up; and what ends is no target any more.
    pub(super) fn note_proof(&mut self, target: Target, evidence: Evidence, after: Duration) {
        if matches!(evidence, Evidence::Reopened | Evidence::Workers) {
            let longest = self.longest_proofs.entry(target).or_default();
            *longest = after.max(*longest);
        }
    }

    /// The longest that evidence of a reload of a target has ever taken, if there has been any.
    pub(super) fn longest_proof(&self, target: Target) -> Option<Duration> {
        self.longest_proofs.get(&target).copied()
    }

    /// A member that is held.
    pub(super) fn held(&self, target: Target) -> Option<Rc<Held>> {
        self.members.get(&target).cloned()
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.members.keys().copied()
    }

    /// Whether a target has ended; if so, others are looked for.
    pub(super) fn miss(&mut self, target: Target, procfs: &Procfs, now: Boot) -> bool {
        let is_gone = self.members.get(&target).is_none_or(|held| !held.is_alive(procfs));
        if is_gone {
            self.expect_change(now);
        }
        is_gone
    }

    /// Has a process looked for that is about to start, where nobody tells of it.
    pub(super) fn await_another(&mut self, now: Boot) {
        if self.follows == Tells::No {
            self.look_around(now);
        }
    }

    /// Notes that a process there has started a program, and gives the member that it is, if it is one.
    pub(super) fn started(
        &mut self,
        pid: Pid,
        at: Boot,
        whereabouts: Whereabouts,
    ) -> Option<Target> {
        if !whereabouts.may_be_in(&self.selector.scope) {
            return None;
        }
        self.expect_change(at);
        let member = self.member(pid);
        // One that was in no pod that anybody knows has ended, maybe because it has forked the one that goes
        // on. It is remembered where it was known, for there may be many such.
        if member.is_some() || whereabouts != Whereabouts::Unknown || !self.is_about_a_pod() {
            self.started.insert(pid, at);
        }
        member
    }

    /// Notes that a process has ended. If it is about one pod only, it is only concerned if it knew that
    /// process: where others were nobody can say any more.
    pub(super) fn ended(&mut self, pid: Pid, at: Boot) {
        if !self.is_about_a_pod() || self.member(pid).is_some() {
            self.expect_change(at);
        }
    }

    fn member(&self, pid: Pid) -> Option<Target> {
        self.members.keys().copied().find(|target| target.pid == pid)
    }

    /// Whether it was seen that the process started a program.
    pub(super) fn has_started_program(&self, target: Target) -> bool {
        self.started.contains_key(&target.pid)
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
    pub(super) fn is_stale(&self, procfs: &Procfs) -> bool {
        let is_known =
            !self.members.is_empty() && self.members.values().all(|held| held.is_alive(procfs));
        self.is_stale || (self.follows == Tells::No && !is_known)
    }

    /// When to look for the targets, if ever.
    pub(super) fn roll_call_at(&self) -> Option<Boot> {
        self.roll_call
    }

    /// Looks for the targets, and says who has come and gone.
    pub(super) fn call_roll(
        &mut self,
        procfs: &Procfs,
        census: &mut Census,
        now: Boot,
    ) -> Result<Roll, TargetError> {
        self.roll_call = None;
        let mut found = procfs.resolve_by(&self.selector, census)?;
        let helpers = child::helpers();
        found.retain(|held| {
            let pid = held.target().pid;
            !helpers.iter().any(|&helper| procfs.comes_from(pid, helper))
        });
        self.is_stale = false;
        self.told = None;
        let mut known = std::mem::take(&mut self.members);
        let mut roll = Roll::default();
        for held in found {
            let target = held.target();
            // Another may have its pid, and even its tick.
            let same = known.remove(&target).filter(|known| known.is_alive(procfs));
            if same.is_none() {
                roll.joined.push(target);
            }
            self.members.insert(target, same.unwrap_or_else(|| Rc::new(held)));
        }
        // One that has ended may have been followed by one with its pid and tick.
        roll.left = known.into_keys().chain(roll.joined.iter().copied()).collect();
        let members = &self.members;
        self.awaited.retain(|target| members.contains_key(target));
        self.longest_proofs.retain(|target, _| members.contains_key(target));
        self.started.retain(|&pid, &mut at| {
            now.since(at) < START_MEMORY || members.keys().any(|target| target.pid == pid)
        });
        Ok(roll)
    }

    /// Sends `signal` to a target if that is safe.
    ///
    /// Whether it is is asked at the last moment, the more important last: the process may have become
    /// another program, or be gone.
    pub(super) fn signal(
        &mut self,
        procfs: &Procfs,
        target: Target,
        signal: SignalNumber,
        caution: Caution,
        now: Boot,
        earnest: Earnest,
    ) -> Signalled {
        let Some(held) = self.members.get(&target) else {
            return self.dismiss(now);
        };
        let age = now.since(self.start(target));
        let Self { selector, .. } = self;
        let is_dry = earnest == Earnest::Dry;
        let attempt = Attempt { procfs, selector, signal: signal.get(), caution, is_dry };
        match attempt.on(held, age) {
            Ok(Attempted::Delivered) => Signalled::Sent,
            Ok(Attempted::NotYet) => {
                self.awaited.insert(target);
                Signalled::NotYet(now.after(HANDLER_POLL))
            }
            Ok(Attempted::Gone) => self.dismiss(now),
            // It has ended meanwhile, maybe because it has forked the one that goes on.
            Ok(Attempted::Refused(Refusal::Zombie)) if self.awaited.contains(&target) => {
                self.dismiss(now)
            }
            Ok(Attempted::Refused(reason)) => Signalled::Refused(reason),
            Err(error) => Signalled::Failed(error),
        }
    }

    /// A member is not what it was: another roll call finds who is there instead.
    fn dismiss(&mut self, now: Boot) -> Signalled {
        self.expect_change(now);
        Signalled::Gone
    }

    /// When the process started its program, or the process itself where that was not seen.
    fn start(&self, target: Target) -> Boot {
        let exec = self.started.get(&target.pid).copied();
        exec.map_or(target.start(), |exec| exec.max(target.start()))
    }

    /// The earliest moment at which the process can have read its configuration.
    ///
    /// Only the start of a program proves that it was read later. A process that was merely forked, as
    /// a daemon is, has what its parent has read: its parent is the last of that name that started a
    /// program before, or one that started before anybody looked. Where starts are not announced, or
    /// were not yet, a process that may be a daemon is given less credit.
    pub(super) fn read_at(&self, procfs: &Procfs, target: Target) -> Boot {
        if let Some(&exec) = self.started.get(&target.pid) {
            return exec;
        }
        // The first of a container: whoever forked it is outside, and of another name.
        if procfs.is_first_of_its_namespace(target.pid) {
            return target.start();
        }
        if self.follows == Tells::No || target.start() < self.since {
            let is_own = procfs.is_forked_by_stranger(target.pid, &self.selector);
            let before = if is_own { Duration::ZERO } else { DAEMON_START };
            return Boot(target.start().0.saturating_sub(before));
        }
        let forked = latest_start(target);
        let parents = self.started.values().copied().filter(|&exec| exec <= forked);
        parents.max().unwrap_or(Boot::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use crate::target::{Container, Scope};

    use super::*;

    const A: &str = "1c5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b11";
    const B: &str = "2d5f1a63-6d1e-4c8e-9d3c-0f5a3e3a9b22";
    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A crew that knows one process, this one.
    fn crew(scope: Scope) -> Crew {
        let selector = Selector { scope, ..Selector::process("x") };
        let mut crew = Crew::new(selector, Tells::Yes, Boot::ZERO);
        let held = Held::open(&Procfs::default(), Pid::this()).unwrap().unwrap();
        crew.members.insert(held.target(), Rc::new(held));
        crew
    }

    fn within(pod: &str) -> Whereabouts {
        Whereabouts::In(Container { pod: pod.parse().unwrap(), id: ID.parse().unwrap() })
    }

    #[test]
    fn a_start_concerns_those_whom_it_may_be_about() {
        #[track_caller]
        fn check(scope: &Scope, whereabouts: Whereabouts, is_concerned: bool, is_noted: bool) {
            for pid in [Pid::from_raw(1), Pid::this()] {
                let mut crew = crew(scope.clone());
                let member = crew.started(pid, Boot::ZERO, whereabouts);
                let is_known = pid == Pid::this();
                assert_eq!(member.is_some(), is_known && is_concerned, "for {pid}");
                assert_eq!(crew.roll_call_at().is_some(), is_concerned, "for {pid}");
                let is_noted = is_noted || (is_known && is_concerned);
                assert_eq!(crew.started.contains_key(&pid), is_noted, "for {pid}");
            }
        }
        let pod = Scope::pod(A, None).unwrap();
        check(&pod, within(A), true, true);
        check(&pod, within(B), false, false);
        check(&pod, Whereabouts::Outside, false, false);
        // Nobody knows where it was: it may have forked one that is looked for, but is none.
        check(&pod, Whereabouts::Unknown, true, false);
        for whereabouts in [within(A), Whereabouts::Outside, Whereabouts::Unknown] {
            check(&Scope::Anywhere, whereabouts, true, true);
        }
    }

    #[test]
    fn the_longest_proof_of_a_target_is_remembered() {
        let mut crew = crew(Scope::Anywhere);
        let target = crew.targets().next().unwrap();
        let millis = Duration::from_millis;
        for evidence in [Evidence::Alive, Evidence::Restarted, Evidence::Accepted] {
            crew.note_proof(target, evidence, millis(9));
        }
        assert_eq!(crew.longest_proof(target), None);
        for (evidence, after) in
            [(Evidence::Reopened, 2), (Evidence::Workers, 3), (Evidence::Reopened, 1)]
        {
            crew.note_proof(target, evidence, millis(after));
        }
        assert_eq!(crew.longest_proof(target), Some(millis(3)));
        // This test is not called so, and so is nobody's target any more.
        crew.call_roll(&Procfs::default(), &mut Census::default(), Boot::ZERO).unwrap();
        assert_eq!(crew.longest_proof(target), None);
    }

    #[test]
    fn an_end_concerns_those_who_knew_him() {
        #[track_caller]
        fn check(scope: Scope, pid: Pid, is_concerned: bool) {
            let mut crew = crew(scope);
            crew.ended(pid, Boot::ZERO);
            assert_eq!(crew.roll_call_at().is_some(), is_concerned, "for {pid}");
        }
        let stranger = Pid::from_raw(1);
        check(Scope::pod(A, None).unwrap(), Pid::this(), true);
        check(Scope::pod(A, None).unwrap(), stranger, false);
        check(Scope::Anywhere, Pid::this(), true);
        check(Scope::Anywhere, stranger, true);
    }
}
