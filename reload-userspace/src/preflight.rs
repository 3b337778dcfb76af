//! Is a signal safe? What is not caught kills, and what is ignored is lost.

use std::{fmt, time::Duration};

use rustix::process::Signal;
use serde::Serialize;

use crate::target::{Disposition, Held, Procfs, Selector, Sent, Status, TargetError};

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
    /// The target has no handler: the signal would stop it.
    Stops,
    /// The target blocks the signal, and nobody is seen to wait for it.
    Blocked,
    /// The target ignores the signal, or has no handler for one that is ignored then: it would be lost.
    Ignored,
    /// The target has no handler and is the first process of its pid namespace: the signal would be
    /// lost.
    DroppedByInit,
    /// The target has ended and only waits to be reaped.
    Zombie,
    /// The content did not pass the check.
    CheckFailed,
    /// Nobody knows whether the content would pass the check: that cannot be run, or comes to no end.
    Unchecked,
    /// The content of another rule about the same process did not pass its check.
    OtherCheckFailed,
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
            Self::Stops => {
                "it would stand still until somebody sends it CONT; \
                 set --signal to one that the program reloads on, or --force to send it all the same"
            }
            Self::Blocked => {
                "it may end the process when it is let through; if the program waits for it, let the \
                 agent see that (run it as the uid of the process, or with CAP_SYS_PTRACE), \
                 or --force to send it all the same"
            }
            Self::Ignored => "it would be lost; set --signal to one that the program reloads on",
            Self::DroppedByInit => {
                "the kernel keeps from pid 1 what it does not catch; set --signal to one that the \
                 program catches, or start it below an init (docker run --init, tini, or Kubernetes: \
                 shareProcessNamespace: true)"
            }
            Self::Zombie => "the process has ended; its parent must reap it",
            Self::CheckFailed => "mend the content: good content goes through at once",
            Self::Unchecked => {
                "see that the check can be run; what it has to say of the content is not known"
            }
            Self::OtherCheckFailed => {
                "mend the content of that rule: the signal would have the process read it"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotCaught => "the process has no handler for the signal",
            Self::Stops => "the signal would stop the process",
            Self::Blocked => "the process blocks the signal, and is not seen to wait for it",
            Self::DroppedByInit => {
                "the process is pid 1 of its namespace and has no handler for the signal"
            }
            Self::Ignored => "the process ignores the signal",
            Self::Zombie => "the process is a zombie",
            Self::CheckFailed => "the content did not pass the check",
            Self::Unchecked => "the content could not be checked",
            Self::OtherCheckFailed => {
                "the content of another rule about the process has not passed its check"
            }
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

/// Judges whether `signal` may go to a process that would do this with it, and has this age.
#[must_use]
pub fn judge(signal: Signal, disposition: Disposition, age: Duration, caution: Caution) -> Verdict {
    let refusal = match disposition {
        Disposition::Zombie => return Verdict::Refused(Refusal::Zombie),
        Disposition::Caught | Disposition::Awaited => return Verdict::Go,
        _ if caution.is_forced => return Verdict::Go,
        Disposition::Ends | Disposition::Blocked if is_meant_to_end(signal) => return Verdict::Go,
        Disposition::Ends => Refusal::NotCaught,
        Disposition::Stops => Refusal::Stops,
        Disposition::Blocked => Refusal::Blocked,
        Disposition::Ignored => Refusal::Ignored,
        Disposition::DroppedByInit => Refusal::DroppedByInit,
    };
    let can_be_caught = ![Signal::KILL, Signal::STOP].contains(&signal);
    if can_be_caught && age < caution.handler_timeout {
        return Verdict::NotYet;
    }
    Verdict::Refused(refusal)
}

/// Whether whoever sends the signal wants the process to end.
#[must_use]
pub fn is_meant_to_end(signal: Signal) -> bool {
    [Signal::TERM, Signal::KILL, Signal::QUIT, Signal::INT].contains(&signal)
}

/// A signal for whoever a selector means.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Where processes are looked at.
    pub procfs: &'a Procfs,
    /// Who may have it.
    pub selector: &'a Selector,
    /// What is sent.
    pub signal: Signal,
    /// How much is dared.
    pub caution: Caution,
    /// Whether everything is done but the last step.
    pub is_dry: bool,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// The kernel took the signal, or would have been given it.
    Delivered,
    /// The process is gone, or has become another program.
    Gone,
    /// It is young and may yet install its handler: try again soon.
    NotYet,
    /// It must not have the signal.
    Refused(Refusal),
}

impl Attempt<'_> {
    /// Judges at the last moment, and sends if all is well.
    ///
    /// The order matters: who the process is, then what it would do with the signal, then the signal. The
    /// kernel may answer the first two in one reading, in this order. What happens in between is not taken
    /// wrongly. A process that has ended is told by its handle. One that has become another program since it was
    /// last asked who it is has lost its handlers with that, which is seen. What remains are the microseconds
    /// between the last answer and the signal, in which a process can take its handler away or start another
    /// program: the kernel knows no signal that is bound to a program.
    ///
    /// # Errors
    ///
    /// Fails where `/proc` cannot be read, a pid file is not to be relied on, or the signal is not
    /// allowed.
    pub fn on(&self, held: &Held, age: Duration) -> Result<Attempted, TargetError> {
        let Some(status) = self.status_of_meant(held)? else {
            return Ok(Attempted::Gone);
        };
        let pid = held.target().pid;
        let disposition = self.procfs.disposition_of(pid, &status, self.signal)?;
        match judge(self.signal, disposition, age, self.caution) {
            Verdict::NotYet => Ok(Attempted::NotYet),
            Verdict::Refused(reason) => Ok(Attempted::Refused(reason)),
            Verdict::Go if self.is_dry => Ok(Attempted::Delivered),
            Verdict::Go => held.send(self.procfs, self.signal).map(|sent| match sent {
                Sent::Delivered => Attempted::Delivered,
                Sent::Gone => Attempted::Gone,
            }),
        }
    }

    /// The status of the process, if the selector means it; no older than the answer to that.
    fn status_of_meant(&self, held: &Held) -> Result<Option<Status>, TargetError> {
        if let Some(name) = self.selector.plain_name()
            && let Some(status) = held.status(self.procfs)?
            && status.is_named(name)
        {
            return Ok(Some(status));
        }
        let pid = held.target().pid;
        let is_meant = self.procfs.matches(pid, self.selector)?;
        if is_meant { self.procfs.status(pid) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Duration = Duration::from_mins(1);
    const YOUNG: Duration = Duration::from_millis(100);
    const CAREFUL: Caution = Caution { is_forced: false, handler_timeout: Duration::from_secs(2) };
    const FORCED: Caution = Caution { is_forced: true, ..CAREFUL };

    fn check(signal: Signal, disposition: Disposition, age: Duration, expected: Verdict) {
        let verdict = judge(signal, disposition, age, CAREFUL);
        assert_eq!(verdict, expected, "for {signal:?}, {disposition:?}, {age:?}");
    }

    #[test]
    fn only_what_arrives_and_does_no_harm_goes_out() {
        use Disposition::{Awaited, Blocked, Caught, DroppedByInit, Ends, Ignored, Stops, Zombie};
        let refused = Verdict::Refused;
        check(Signal::HUP, Caught, OLD, Verdict::Go);
        check(Signal::HUP, Caught, YOUNG, Verdict::Go);
        check(Signal::HUP, Awaited, OLD, Verdict::Go);
        check(Signal::HUP, Ends, OLD, refused(Refusal::NotCaught));
        check(Signal::HUP, Blocked, OLD, refused(Refusal::Blocked));
        check(Signal::HUP, Ignored, OLD, refused(Refusal::Ignored));
        check(Signal::HUP, DroppedByInit, OLD, refused(Refusal::DroppedByInit));
        check(Signal::TSTP, Stops, OLD, refused(Refusal::Stops));
        check(Signal::WINCH, Ignored, OLD, refused(Refusal::Ignored));
        check(Signal::HUP, Zombie, YOUNG, refused(Refusal::Zombie));
    }

    #[test]
    fn a_young_process_may_yet_install_a_handler() {
        use Disposition::{Blocked, DroppedByInit, Ends, Ignored, Stops};
        for disposition in [Ends, Blocked, Ignored, DroppedByInit] {
            check(Signal::HUP, disposition, YOUNG, Verdict::NotYet);
        }
        check(Signal::TSTP, Stops, YOUNG, Verdict::NotYet);
        // Nobody can.
        check(Signal::STOP, Stops, YOUNG, Verdict::Refused(Refusal::Stops));
    }

    #[test]
    fn what_is_meant_to_end_a_process_goes_out_unless_it_would_be_lost() {
        use Disposition::{Blocked, DroppedByInit, Ends, Ignored};
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            check(signal, Ends, YOUNG, Verdict::Go);
            check(signal, Blocked, OLD, Verdict::Go);
            check(signal, Ignored, OLD, Verdict::Refused(Refusal::Ignored));
            check(signal, DroppedByInit, OLD, Verdict::Refused(Refusal::DroppedByInit));
        }
        check(Signal::KILL, Ends, YOUNG, Verdict::Go);
        check(Signal::KILL, DroppedByInit, YOUNG, Verdict::Refused(Refusal::DroppedByInit));
    }

    #[test]
    fn force_sends_to_all_but_the_dead() {
        use Disposition::{Blocked, DroppedByInit, Ends, Ignored, Stops, Zombie};
        for disposition in [Ends, Stops, Blocked, Ignored, DroppedByInit] {
            assert_eq!(judge(Signal::HUP, disposition, YOUNG, FORCED), Verdict::Go);
        }
        let zombie = judge(Signal::HUP, Zombie, OLD, FORCED);
        assert_eq!(zombie, Verdict::Refused(Refusal::Zombie));
    }
}
