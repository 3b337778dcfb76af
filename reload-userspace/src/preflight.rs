//! Is a signal safe? What is not caught kills, and what is ignored is lost.

use std::{fmt, time::Duration};

use rustix::process::Signal;
use serde::Serialize;

use crate::target::SignalSets;

/// Whether a signal may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Go,
    /// The target is young and may yet install its handler: ask again soon.
    NotYet,
    /// It must not.
    Refused(Refusal),
}

/// Why a signal is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The target has no handler: the signal would end it.
    NotCaught,
    /// The target ignores the signal: it would be lost.
    Ignored,
    /// The target has ended and only waits to be reaped.
    Zombie,
    /// The content did not pass the check.
    CheckFailed,
}

impl Refusal {
    /// What to do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NotCaught => {
                "most signals end a process that does not catch them; \
                 set --signal to one that the program reloads on, or --force to send it all the same"
            }
            Self::Ignored => "it would be lost; set --signal to one that the program reloads on",
            Self::Zombie => "the process has ended; its parent must reap it",
            Self::CheckFailed => "mend the content: good content goes through at once",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotCaught => "the process has no handler for the signal",
            Self::Ignored => "the process ignores the signal",
            Self::Zombie => "the process is a zombie",
            Self::CheckFailed => "the content did not pass the check",
        })
    }
}

/// What the operator has said about caution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caution {
    /// Signals go out whatever the target does with them.
    pub is_forced: bool,
    /// How long a process that just started is given to install its handler.
    pub handler_timeout: Duration,
}

/// Judges whether `signal` may go to a process with these signal sets and this age.
#[must_use]
pub fn judge(signal: Signal, sets: SignalSets, age: Duration, caution: Caution) -> Verdict {
    if sets.is_zombie {
        return Verdict::Refused(Refusal::Zombie);
    }
    let bit = 1 << (signal.as_raw() - 1);
    if sets.caught & bit != 0 || caution.is_forced || is_meant_to_end(signal) {
        return Verdict::Go;
    }
    if age < caution.handler_timeout {
        return Verdict::NotYet;
    }
    let is_ignored = sets.ignored & bit != 0;
    Verdict::Refused(if is_ignored { Refusal::Ignored } else { Refusal::NotCaught })
}

/// Whether whoever sends the signal wants the process to end.
fn is_meant_to_end(signal: Signal) -> bool {
    [Signal::TERM, Signal::KILL, Signal::QUIT, Signal::INT].contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUP: u64 = 1;
    const OLD: Duration = Duration::from_mins(1);
    const YOUNG: Duration = Duration::from_millis(100);

    fn sets(caught: u64, ignored: u64) -> SignalSets {
        SignalSets { caught, ignored, is_zombie: false }
    }

    fn caution(is_forced: bool) -> Caution {
        Caution { is_forced, handler_timeout: Duration::from_secs(2) }
    }

    #[test]
    fn only_what_is_caught_or_meant_to_end_goes_out() {
        fn check(signal: Signal, sets: SignalSets, age: Duration, forced: bool, expected: Verdict) {
            let verdict = judge(signal, sets, age, caution(forced));
            assert_eq!(verdict, expected, "for {signal:?}, {sets:?}, {age:?}, forced: {forced}");
        }
        let not_caught = Verdict::Refused(Refusal::NotCaught);
        let ignored = Verdict::Refused(Refusal::Ignored);
        check(Signal::HUP, sets(HUP, 0), OLD, false, Verdict::Go);
        check(Signal::HUP, sets(HUP, 0), YOUNG, false, Verdict::Go);
        check(Signal::HUP, sets(0, 0), OLD, false, not_caught);
        check(Signal::HUP, sets(0, 0), YOUNG, false, Verdict::NotYet);
        check(Signal::HUP, sets(0, 0), OLD, true, Verdict::Go);
        check(Signal::HUP, sets(0, HUP), OLD, false, ignored);
        check(Signal::USR2, sets(HUP, 0), OLD, false, not_caught);
        check(Signal::TERM, sets(0, 0), OLD, false, Verdict::Go);
        let zombie = SignalSets { is_zombie: true, ..sets(HUP, 0) };
        check(Signal::HUP, zombie, OLD, true, Verdict::Refused(Refusal::Zombie));
    }
}
