//! Did it take? What speaks for it that a reload did what it was for.
//!
//! The agent tells what was done and then lets it be looked at, with the time as an argument: nothing
//! waits here, and nothing is done before the signal is out. The first good evidence confirms it; what is
//! only known at the end is that the target still runs. One that dies is told of until then, for it may
//! well read its configuration first and die of it.

mod opens;
mod workers;

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};
use serde::Serialize;

use self::workers::Workers;
use crate::{
    clock::Boot,
    target::{Child, Held, Procfs, Target},
};

pub use self::opens::{MOST_FILES, Opened, Opens, Ticket};

/// How long after the signal the first look is taken.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// How far apart two looks are at most: the time doubles from one to the next.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How many times as long as it has ever taken evidence is waited for that may have gone by unseen.
const TIMES_AS_LONG: u32 = 10;

/// How long it is waited for at least: the target may be kept from its processor.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// What is said where opens are seen and none came.
const NOT_OPENED: &str = "it still runs, but has not opened the new content; see its own log";

/// What is said where a process that was to end has not.
const END_IS_LATE: &str = "it was asked to end, but still runs; see its own log";

/// What is said where there are two in the place of one.
const BOTH: &str = "another has started, but it still runs; see its own log";

/// What is said where nobody has started another.
const NO_OTHER: &str = "it has ended, and no other has started; look at who is to start it";

/// What speaks for it that a reload took, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The target, or a child of it, has opened the new content.
    Reopened,
    /// Its children were replaced.
    Workers,
    /// It has ended, and another was started in its place.
    Restarted,
    /// The server said so, or the command did.
    Accepted,
    /// It still runs.
    Alive,
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took: what speaks for it, and how long after the signal.
    Confirmed(Evidence, Duration),
    /// There should have been evidence, and none came: what is missing and what to look at, and how
    /// long after the signal.
    Unconfirmed(&'static str, Duration),
    /// It has ended the target; how, where that is known.
    Died(Option<ExitStatus>),
    /// It had taken, and then somebody has stopped the target.
    Stopped,
}

/// What the signal was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// The target reads its configuration anew, and goes on.
    Reload,
    /// The target ends, and another is started in its place.
    End,
}

/// A signal that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Deed {
    /// When.
    pub sent: Boot,
    /// What for.
    pub aim: Aim,
    /// How long evidence is waited for.
    pub timeout: Duration,
    /// Whether it would surely be seen that the target opens the content.
    pub sees_opens: bool,
    /// The longest that evidence of a reload of this target has ever taken, if there has been any.
    pub longest: Option<Duration>,
}

/// One signal to one target, until it is known what came of it.
#[derive(Debug)]
pub struct Confirm {
    deed: Deed,
    workers: Workers,
    next: Boot,
    pause: Duration,
    /// Whether another process has started in its place.
    is_replaced: bool,
    /// Whether it was seen to have ended, and nobody has said how.
    has_ended: bool,
    /// Whether what it was to open was moved elsewhere before it was seen to do so.
    is_moved: bool,
    /// In how much of the time since the signal nobody looked, and the target may have stood still.
    unseen: Duration,
    wait: Wait,
    stage: Stage,
}

/// How far a confirmation has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Evidence is waited for.
    Open,
    /// It is confirmed, and only the target's death would be news.
    Confirmed,
    /// Nothing will be news.
    Over,
}

/// What the next reload of the target waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Evidence of this one, or that there will be none.
    ForEvidence,
    /// The same, but no longer than that: evidence may have gone by unseen, and would have come by then.
    Until(Boot),
    /// Nothing any more.
    Over,
}

/// What is seen of a target at one look.
#[derive(Debug)]
enum Sight {
    /// It runs, and these are its children, if they were looked at.
    Runs(Option<Vec<Child>>),
    /// It has ended; how, where that is told.
    Ended(Option<ExitStatus>),
}

impl Confirm {
    /// Looks at the children of a target to which a signal has just been sent.
    #[must_use]
    pub fn new(held: &Held, procfs: &Procfs, deed: Deed) -> Self {
        let pid = held.target().pid;
        let workers = match deed.aim {
            Aim::Reload => {
                let children = procfs.children(pid);
                Workers::new(procfs.name(pid).as_deref(), children, deed.sent)
            }
            Aim::End => Workers::default(),
        };
        Self::with(workers, deed)
    }

    fn with(workers: Workers, deed: Deed) -> Self {
        let next = deed.sent.after(FIRST_LOOK.min(deed.timeout));
        Self {
            deed,
            workers,
            next,
            pause: FIRST_LOOK,
            is_replaced: false,
            has_ended: false,
            is_moved: false,
            unseen: Duration::ZERO,
            wait: Wait::ForEvidence,
            stage: Stage::Open,
        }
    }

    /// Looks at the target. The children are only looked at when it is [time](Self::next_at), but its
    /// end is seen whenever this is called.
    ///
    /// After [`Verdict::Confirmed`] a [`Verdict::Died`] or [`Verdict::Stopped`] may follow, until it is
    /// [over](Self::is_over).
    pub fn poll(&mut self, now: Boot, held: &Held, procfs: &Procfs) -> Option<Verdict> {
        let sight = if held.is_alive(procfs) {
            let is_wanted =
                now >= self.next && self.stage == Stage::Open && self.workers.are_there();
            Sight::Runs(is_wanted.then(|| procfs.children(held.target().pid)))
        } else {
            Sight::Ended(held.exit_status(procfs))
        };
        self.judge(now, sight)
    }

    /// Notes that somebody has opened the content.
    pub fn opened(&mut self, by: Pid, now: Boot, held: &Held, procfs: &Procfs) -> Option<Verdict> {
        // A child that has ended already is nobody's; it will not have been the one that matters.
        let is_news = self.stage == Stage::Open && self.deed.aim == Aim::Reload;
        if !is_news || !procfs.comes_from(by, held.target().pid) {
            return None;
        }
        self.stage = Stage::Confirmed;
        Some(Verdict::Confirmed(Evidence::Reopened, self.age(now)))
    }

    /// What can be said where nobody looks any longer, if nothing has been said: the target lives.
    #[must_use]
    pub fn give_up(&self, now: Boot) -> Option<Verdict> {
        let is_open = self.stage == Stage::Open && self.deed.aim == Aim::Reload;
        is_open.then(|| Verdict::Confirmed(Evidence::Alive, self.age(now)))
    }

    /// Whether there is nothing more to come, so that it may be dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Notes that there is another process that the rule means. One that was there before the signal
    /// is nobody's replacement.
    pub fn replaced(&mut self, by: Target) {
        self.is_replaced |= workers::may_have_started_since(by, self.deed.sent);
    }

    /// Notes that the content was moved elsewhere: the target may have opened it there before anybody
    /// looked, so that it says nothing if no more is seen.
    ///
    /// The next reload waits for it all the same, but no longer than ten times as long as evidence has ever
    /// taken. One that is to end is never disturbed at that: what it opens is no evidence.
    pub fn moved(&mut self) {
        self.is_moved = true;
        let Deed { sent, aim, longest, .. } = self.deed;
        if let (Wait::ForEvidence, Aim::Reload, Some(longest)) = (self.wait, aim, longest) {
            let enough = longest.saturating_mul(TIMES_AS_LONG).max(LEAST_WAIT);
            self.wait = Wait::Until(sent.after(self.unseen).after(enough));
        }
    }

    /// Notes that the target may have opened the content unseen, so that it says nothing if no more is seen,
    /// and nobody need wait for it. Its children are still waited for, no longer than where the content is
    /// [moved](Self::moved).
    pub fn lose_sight(&mut self) {
        self.moved();
        self.deed.sees_opens = false;
    }

    /// Nobody has looked from one moment to the other: that is not time that it has waited, and it is looked
    /// at once more.
    pub fn put_off(&mut self, from: Boot, to: Boot) {
        let Deed { sent, timeout, .. } = self.deed;
        let time = to.since(from.max(sent));
        self.unseen = self.unseen.saturating_add(time);
        let once_more = self.age(to).saturating_add(LONGEST_PAUSE);
        self.deed.timeout = timeout.saturating_add(time).max(once_more);
        if let Wait::Until(end) = &mut self.wait {
            *end = end.after(time);
        }
    }

    /// How much of a time since the signal somebody was there to look.
    #[must_use]
    pub fn seen_of(&self, time: Duration) -> Duration {
        time.saturating_sub(self.unseen)
    }

    /// Whether it is from now on that the next reload need not wait for this one any more.
    pub fn has_waited_enough(&mut self, now: Boot) -> bool {
        let is_over = matches!(self.wait, Wait::Until(end) if end <= now);
        if is_over {
            self.wait = Wait::Over;
        }
        is_over
    }

    /// Whether evidence is still waited for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether it is time to look for another process in its place.
    #[must_use]
    pub fn misses_another(&self, now: Boot) -> bool {
        let is_open = self.stage == Stage::Open && now >= self.next;
        is_open && self.deed.aim == Aim::End && !self.is_replaced
    }

    /// When to look next.
    #[must_use]
    pub fn next_at(&self) -> Boot {
        match self.wait {
            Wait::Until(end) => end.min(self.next),
            Wait::ForEvidence | Wait::Over => self.next,
        }
    }

    /// Whether evidence may come that is better than that the target still runs: then its next reload
    /// waits for it.
    #[must_use]
    pub fn is_expecting(&self) -> bool {
        let may_come =
            self.deed.sees_opens || self.workers.are_there() || self.deed.aim == Aim::End;
        may_come && self.stage == Stage::Open && self.wait != Wait::Over
    }

    fn judge(&mut self, now: Boot, sight: Sight) -> Option<Verdict> {
        if self.stage == Stage::Over {
            return None;
        }
        let verdict = match (self.deed.aim, sight) {
            (Aim::Reload, Sight::Runs(children)) => self.judge_reload(now, children.as_deref()),
            (Aim::Reload, Sight::Ended(status)) => {
                // The kernel tells how when the parent has heard of it, which may take a moment more.
                if status.is_none() && !std::mem::replace(&mut self.has_ended, true) {
                    self.next = now.after(FIRST_LOOK);
                    return None;
                }
                let was_stopped = self.stage == Stage::Confirmed && is_stop(status);
                Some(if was_stopped { Verdict::Stopped } else { Verdict::Died(status) })
            }
            (Aim::End, Sight::Ended(_)) if self.is_replaced => {
                Some(Verdict::Confirmed(Evidence::Restarted, self.age(now)))
            }
            (Aim::End, Sight::Ended(_)) => self.too_late(now, NO_OTHER),
            (Aim::End, Sight::Runs(_)) if self.is_replaced => self.too_late(now, BOTH),
            (Aim::End, Sight::Runs(_)) => self.too_late(now, END_IS_LATE),
        };
        self.stage = match &verdict {
            Some(Verdict::Confirmed(Evidence::Workers, _)) => Stage::Confirmed,
            Some(_) => Stage::Over,
            // What was confirmed and has not died by now has lived long enough.
            None if self.stage == Stage::Confirmed && now >= self.deadline() => Stage::Over,
            None => self.stage,
        };
        if now >= self.next {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.next = now.after(self.pause).min(self.deadline().max(now.after(FIRST_LOOK)));
        }
        verdict
    }

    fn judge_reload(&mut self, now: Boot, children: Option<&[Child]>) -> Option<Verdict> {
        if self.stage != Stage::Open {
            return None;
        }
        let sent = self.deed.sent;
        if children.is_some_and(|children| self.workers.are_replaced(children, sent)) {
            return Some(Verdict::Confirmed(Evidence::Workers, self.age(now)));
        }
        if self.deed.sees_opens && !self.is_moved {
            return self.too_late(now, NOT_OPENED);
        }
        // That its children are the same says nothing: databases keep theirs.
        (now >= self.deadline()).then(|| Verdict::Confirmed(Evidence::Alive, self.age(now)))
    }

    fn too_late(&self, now: Boot, reason: &'static str) -> Option<Verdict> {
        (now >= self.deadline()).then(|| Verdict::Unconfirmed(reason, self.age(now)))
    }

    fn deadline(&self) -> Boot {
        self.deed.sent.after(self.deed.timeout)
    }

    fn age(&self, now: Boot) -> Duration {
        now.since(self.deed.sent)
    }
}

/// Whether a target ends so when somebody stops it, as a service manager does, and hardly of what it has read.
fn is_stop(status: Option<ExitStatus>) -> bool {
    const STOPS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
    /// What shells and virtual machines add to the number of the signal.
    const BASE: i32 = 128;
    let Some(status) = status else { return false };
    let signal = status.signal().or_else(|| status.code().map(|code| code - BASE));
    status.success() || STOPS.iter().any(|&stop| signal == Some(stop as i32))
}

/// How a target has ended, as what follows its name in a sentence.
#[must_use]
pub fn ending(status: Option<ExitStatus>) -> String {
    let signal = status.and_then(|status| status.signal());
    match (status.and_then(|status| status.code()), signal) {
        (Some(code), _) => format!("it ended with exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("it was killed by {signal}"),
            Err(_) => format!("it was killed by signal {number}"),
        },
        (None, None) => "it has ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::unix::process::CommandExt as _,
        process::{self, Command, Stdio},
    };

    use nix::libc;
    use rustix::process::kill_process_group;

    use super::*;
    use crate::clock;

    /// When the signal is sent, in milliseconds.
    const SENT: u64 = 1000;

    fn at(millis: u64) -> Boot {
        Boot(Duration::from_millis(SENT + millis))
    }

    fn after(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn child(pid: i32, started: u64) -> Child {
        Child { target: Target { pid: Pid::from_raw(pid), started }, name: b"x".to_vec() }
    }

    /// A confirmation of a target with so many old children, within a second.
    fn confirm(aim: Aim, sees_opens: bool, children: i32) -> Confirm {
        let deed = Deed { sent: at(0), aim, timeout: after(1000), sees_opens, longest: None };
        let children = (1..=children).map(|pid| child(pid, 5)).collect();
        Confirm::with(Workers::new(Some(b"x"), children, deed.sent), deed)
    }

    fn runs() -> Sight {
        Sight::Runs(Some(Vec::new()))
    }

    fn new_children() -> Sight {
        Sight::Runs(Some(vec![child(7, 101), child(8, 101)]))
    }

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn the_best_evidence_ends_it() {
        #[track_caller]
        fn check(mut it: Confirm, sights: Vec<(u64, Sight)>, expected: &Verdict) {
            let verdicts: Vec<_> = sights
                .into_iter()
                .filter_map(|(millis, sight)| it.judge(at(millis), sight))
                .collect();
            assert_eq!(verdicts.iter().collect::<Vec<_>>(), [expected]);
        }
        use Evidence::{Alive, Workers};
        use Verdict::{Confirmed, Died, Unconfirmed};
        let reload = |sees_opens, children| confirm(Aim::Reload, sees_opens, children);

        check(reload(false, 0), vec![(1000, runs())], &Confirmed(Alive, after(1000)));
        check(reload(false, 2), vec![(1200, runs())], &Confirmed(Alive, after(1200)));
        check(reload(true, 0), vec![(1000, runs())], &Unconfirmed(NOT_OPENED, after(1000)));
        for sees_opens in [false, true] {
            check(
                reload(sees_opens, 2),
                vec![(5, new_children()), (15, new_children())],
                &Confirmed(Workers, after(15)),
            );
        }
        check(reload(false, 0), vec![(3, Sight::Ended(Some(exited(1))))], &Died(Some(exited(1))));
        check(
            reload(true, 2),
            vec![(3, Sight::Ended(None)), (8, Sight::Ended(Some(exited(1))))],
            &Died(Some(exited(1))),
        );
        check(
            reload(true, 2),
            vec![(5, new_children()), (7, Sight::Ended(None)), (8, Sight::Ended(None))],
            &Died(None),
        );
        check(
            reload(false, 0),
            vec![(999, Sight::Runs(None)), (1000, Sight::Ended(Some(exited(0))))],
            &Died(Some(exited(0))),
        );
    }

    #[test]
    fn whoever_is_stopped_when_it_has_taken_has_not_died_of_it() {
        #[track_caller]
        fn check(status: Option<ExitStatus>, was_stopped: bool) {
            let mut it = confirm(Aim::Reload, false, 2);
            assert_eq!(it.judge(at(5), new_children()), None);
            let taken = Verdict::Confirmed(Evidence::Workers, after(15));
            assert_eq!(it.judge(at(15), new_children()), Some(taken));
            let expected = if was_stopped { Verdict::Stopped } else { Verdict::Died(status) };
            assert_eq!(it.judge(at(20), Sight::Ended(status)), Some(expected));
            assert!(it.is_over());
        }
        let killed = |signal| Some(ExitStatus::from_raw(signal as i32));
        for stop in [killed(Signal::SIGTERM), killed(Signal::SIGINT), Some(exited(0))] {
            check(stop, true);
        }
        check(Some(exited(143)), true);
        // By whoever is short of memory, it may be.
        check(killed(Signal::SIGKILL), false);
        check(killed(Signal::SIGABRT), false);
        check(Some(exited(1)), false);
        check(Some(exited(129)), false);
    }

    #[test]
    fn an_end_that_was_asked_for_is_confirmed_by_whoever_is_there_next() {
        #[track_caller]
        fn check(replaced: Option<u64>, sight: Sight, millis: u64, expected: Option<&'static str>) {
            let mut it = confirm(Aim::End, false, 0);
            if let Some(started) = replaced {
                it.replaced(child(7, started).target);
            }
            let verdict = expected.map(|expected| match expected {
                "restarted" => Verdict::Confirmed(Evidence::Restarted, after(millis)),
                reason => Verdict::Unconfirmed(reason, after(millis)),
            });
            assert_eq!(it.judge(at(millis), sight), verdict);
        }
        let ended = || Sight::Ended(Some(exited(0)));
        check(Some(101), ended(), 3, Some("restarted"));
        check(Some(100), ended(), 1000, Some("restarted"));
        check(Some(101), Sight::Ended(None), 3, Some("restarted"));
        check(None, ended(), 999, None);
        check(None, ended(), 1000, Some(NO_OTHER));
        // It was there before.
        check(Some(98), ended(), 1000, Some(NO_OTHER));
        check(Some(101), runs(), 999, None);
        check(Some(101), runs(), 1000, Some(BOTH));
        check(None, new_children(), 1000, Some(END_IS_LATE));
    }

    /// The agent was stopped or suspended for an hour, and so was the target, maybe.
    #[test]
    fn time_in_which_nobody_looked_is_given_again() {
        const HOUR: u64 = 3_600_000;
        let stopped = |aim, from: u64| {
            let mut it = confirm(aim, true, 0);
            it.deed.longest = Some(after(1));
            it.put_off(at(from), at(from + HOUR));
            // It is time, and nothing is said.
            assert!(it.next_at() < at(1000));
            it
        };
        for (from, left) in [(300, 700), (900, LONGEST_PAUSE.as_millis().try_into().unwrap())] {
            let mut it = stopped(Aim::Reload, from);
            assert_eq!(it.judge(at(from + HOUR), runs()), None);
            assert_eq!(it.next_at(), at(from + HOUR).after(FIRST_LOOK * 2));
            let age = after(from + HOUR + left);
            assert_eq!(it.judge(at(from + HOUR + left - 1), runs()), None);
            let expected = Verdict::Unconfirmed(NOT_OPENED, age);
            assert_eq!(it.judge(at(from + HOUR + left), runs()), Some(expected));
            assert_eq!(it.seen_of(age), after(from + left));
        }
        // What was before the signal is no time of it.
        let mut it = confirm(Aim::Reload, true, 0);
        it.put_off(Boot::ZERO, at(10));
        assert_eq!((it.unseen, it.deadline()), (after(10), at(1010)));

        let mut it = stopped(Aim::Reload, 10);
        it.moved();
        assert!(!it.has_waited_enough(at(HOUR + 99)) && it.has_waited_enough(at(HOUR + 100)));
        let mut it = confirm(Aim::Reload, true, 0);
        it.deed.longest = Some(after(1));
        it.moved();
        it.put_off(at(10), at(HOUR + 10));
        assert!(!it.has_waited_enough(at(HOUR + 99)) && it.has_waited_enough(at(HOUR + 100)));

        // He who was started meanwhile is found after that look.
        let mut it = stopped(Aim::End, 990);
        assert_eq!(it.judge(at(HOUR + 990), Sight::Ended(None)), None);
        it.replaced(child(7, 101).target);
        let expected = Verdict::Confirmed(Evidence::Restarted, after(HOUR + 995));
        assert_eq!(it.judge(at(HOUR + 995), Sight::Ended(None)), Some(expected));
    }

    #[test]
    fn what_was_confirmed_may_yet_die_until_the_deadline() {
        let confirmed = || {
            let mut it = confirm(Aim::Reload, true, 2);
            assert_eq!(it.judge(at(5), new_children()), None);
            let expected = Verdict::Confirmed(Evidence::Workers, after(15));
            assert_eq!(it.judge(at(15), new_children()), Some(expected));
            assert!(!it.is_expecting() && !it.is_over());
            it
        };
        let ended = || Sight::Ended(Some(exited(1)));

        let mut it = confirmed();
        assert_eq!(it.judge(at(17), new_children()), None);
        assert_eq!(it.judge(at(999), ended()), Some(Verdict::Died(Some(exited(1)))));
        assert!(it.is_over());
        assert_eq!(it.judge(at(999), ended()), None);

        let mut it = confirmed();
        assert_eq!(it.judge(at(1000), new_children()), None);
        assert!(it.is_over());
        assert_eq!(it.judge(at(1001), ended()), None);
    }

    #[test]
    fn what_was_moved_is_waited_for_ten_times_as_long_as_it_has_ever_taken() {
        #[track_caller]
        fn check(longest: Option<u64>, children: i32, expected: Option<u64>) {
            let mut it = confirm(Aim::Reload, true, children);
            it.deed.longest = longest.map(Duration::from_millis);
            it.moved();
            assert!(it.is_expecting());
            let Some(end) = expected else {
                assert!(!it.has_waited_enough(at(999)) && it.is_expecting());
                return;
            };
            assert!(!it.has_waited_enough(at(end - 1)) && it.is_expecting());
            while it.next_at() < at(end) {
                assert_eq!(it.judge(it.next_at(), runs()), None);
            }
            assert_eq!(it.next_at(), at(end));
            assert!(it.has_waited_enough(at(end)) && !it.is_expecting());
            // It is told once, also where it moves again, and is looked at as before.
            it.moved();
            assert!(!it.has_waited_enough(at(end)) && !it.is_expecting() && it.is_open());
            assert!(it.next_at() > at(end));
        }
        check(None, 0, None);
        check(Some(1), 0, Some(100));
        check(Some(20), 0, Some(200));
        check(Some(20), 2, Some(200));

        // Its children are waited for as long.
        let mut it = confirm(Aim::Reload, true, 2);
        it.deed.longest = Some(Duration::from_millis(1));
        it.lose_sight();
        assert!(it.is_expecting() && it.has_waited_enough(at(100)) && !it.is_expecting());
        // One that ends is left to it.
        let mut it = confirm(Aim::End, true, 0);
        it.deed.longest = Some(Duration::from_millis(1));
        it.moved();
        it.lose_sight();
        assert!(!it.has_waited_enough(at(999)) && it.is_expecting());
    }

    #[test]
    fn what_was_moved_may_have_been_opened_unseen() {
        let mut it = confirm(Aim::Reload, true, 0);
        it.moved();
        assert!(it.is_expecting());
        let expected = Verdict::Confirmed(Evidence::Alive, after(1000));
        assert_eq!(it.judge(at(999), runs()), None);
        assert_eq!(it.judge(at(1000), runs()), Some(expected));
    }

    #[test]
    fn what_may_have_been_opened_unseen_is_not_waited_for() {
        let mut it = confirm(Aim::Reload, true, 0);
        assert!(it.is_expecting());
        it.lose_sight();
        assert!(!it.is_expecting());
        assert_eq!(it.judge(at(999), runs()), None);
        let expected = Verdict::Confirmed(Evidence::Alive, after(1000));
        assert_eq!(it.judge(at(1000), runs()), Some(expected));
        // But its children still are.
        let mut it = confirm(Aim::Reload, true, 2);
        it.lose_sight();
        assert!(it.is_expecting());
    }

    #[test]
    fn looks_become_rarer_and_the_last_is_at_the_deadline() {
        let mut it = confirm(Aim::Reload, false, 1);
        let mut looks = Vec::new();
        loop {
            let next = it.next_at();
            looks.push(next.since(at(0)).as_millis());
            if it.judge(next, runs()).is_some() {
                break;
            }
            // Looks in between change nothing.
            assert_eq!(it.judge(next, Sight::Runs(None)), None);
        }
        assert_eq!(looks, [5, 15, 35, 75, 155, 315, 515, 715, 915, 1000]);
    }

    #[test]
    fn only_what_better_evidence_may_come_for_is_waited_for() {
        let check = |aim, sees_opens, children, expected| {
            let is_expecting = confirm(aim, sees_opens, children).is_expecting();
            assert_eq!(is_expecting, expected, "for {aim:?}, {sees_opens}, {children}");
        };
        check(Aim::Reload, false, 0, false);
        check(Aim::Reload, true, 0, true);
        check(Aim::Reload, false, 1, true);
        check(Aim::End, false, 0, true);
    }

    #[test]
    fn an_ending_is_said_in_words() {
        let check = |raw: Option<i32>, expected: &str| {
            assert_eq!(ending(raw.map(ExitStatus::from_raw)), expected);
        };
        check(None, "it has ended");
        check(Some(0), "it ended with exit status 0");
        check(Some(1 << 8), "it ended with exit status 1");
        check(Some(libc::SIGSEGV), "it was killed by SIGSEGV");
        check(Some(libc::SIGSEGV | 0x80), "it was killed by SIGSEGV");
        check(Some(40), "it was killed by signal 40");
    }

    /// A shell that has said that it is ready, in a process group that is killed when it is dropped.
    struct Shell(process::Child);

    impl Shell {
        fn run(script: &str) -> Self {
            let mut child = Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap();
            let mut line = String::new();
            let stdout = child.stdout.take().unwrap();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            Self(child)
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }

        /// Sends HUP and waits for what comes of it.
        async fn reload(&self, timeout: Duration) -> (Held, Verdict) {
            let procfs = Procfs::default();
            let held = Held::open(&procfs, Pid::from_raw(self.pid())).unwrap().unwrap();
            held.send(&procfs, rustix::process::Signal::HUP).unwrap();
            let deed = Deed {
                sent: clock::now(),
                aim: Aim::Reload,
                timeout,
                sees_opens: false,
                longest: None,
            };
            let mut confirm = Confirm::new(&held, &procfs, deed);
            loop {
                let now = clock::now();
                if let Some(verdict) = confirm.poll(now, &held, &procfs) {
                    return (held, verdict);
                }
                tokio::time::sleep(confirm.next_at().since(now)).await;
            }
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let group = rustix::process::Pid::from_raw(self.pid()).unwrap();
            // Both fail only where all of it is gone already.
            let _gone = kill_process_group(group, rustix::process::Signal::KILL);
            drop(self.0.wait());
        }
    }

    #[tokio::test]
    async fn a_target_that_replaces_its_children_is_confirmed() {
        let shell = Shell::run(
            "start() { (sleep 60; :) & one=$!; (sleep 60; :) & two=$!; }
             trap 'kill $one $two; start' HUP
             start; echo ready; while :; do wait; done",
        );
        // It may have replaced them before anybody has looked: then nothing is seen of it, that time.
        let mut verdicts = Vec::new();
        for _ in 0..10 {
            let (_held, verdict) = shell.reload(Duration::from_secs(5)).await;
            if matches!(verdict, Verdict::Confirmed(Evidence::Workers, _)) {
                return;
            }
            verdicts.push(verdict);
        }
        panic!("never by workers: {verdicts:?}");
    }

    #[tokio::test]
    async fn a_target_that_keeps_its_children_is_alive() {
        let shell = Shell::run("trap : HUP; sleep 60 & echo ready; while :; do wait; done");
        let (_held, verdict) = shell.reload(Duration::from_millis(20)).await;
        assert!(matches!(verdict, Verdict::Confirmed(Evidence::Alive, _)), "{verdict:?}");
    }

    #[tokio::test]
    async fn how_a_target_has_died_is_known() {
        /// Whether the kernel tells of a process that is gone.
        fn is_told() -> bool {
            let release = rustix::system::uname().release().to_str().unwrap().to_owned();
            let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
            (numbers.next(), numbers.next()) >= (Some(6), Some(15))
        }
        for (death, expected) in [
            ("exit 3", Some(exited(3))),
            ("kill -SEGV $$", Some(ExitStatus::from_raw(libc::SIGSEGV))),
        ] {
            let script = format!(
                "ulimit -c 0; trap '{death}' HUP; sleep 60 & echo ready; while :; do wait; done"
            );
            let mut shell = Shell::run(&script);
            // Nobody has reaped it yet.
            let (held, verdict) = shell.reload(Duration::from_mins(1)).await;
            assert_eq!(verdict, Verdict::Died(expected));
            shell.0.wait().unwrap();
            let gone = held.exit_status(&Procfs::default());
            assert_eq!(gone, expected.filter(|_| is_told()));
        }
    }

    #[tokio::test]
    async fn what_a_child_opens_is_opened_by_its_parent() {
        let shell = Shell::run("sleep 60 & echo ready; wait");
        let procfs = Procfs::default();
        let pid = Pid::from_raw(shell.pid());
        let held = Held::open(&procfs, pid).unwrap().unwrap();
        let deed = Deed {
            sent: at(0),
            aim: Aim::Reload,
            timeout: after(1),
            sees_opens: true,
            longest: None,
        };
        let child = procfs.children(pid)[0].target.pid;
        let confirmed = Some(Verdict::Confirmed(Evidence::Reopened, after(7)));
        for (by, expected) in [(pid, &confirmed), (child, &confirmed), (Pid::this(), &None)] {
            let mut confirm = Confirm::new(&held, &procfs, deed);
            assert_eq!(confirm.opened(by, at(7), &held, &procfs), *expected, "for {by}");
            assert_eq!(confirm.opened(by, at(7), &held, &procfs), None, "for {by}");
        }
    }
}
