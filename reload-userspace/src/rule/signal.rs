//! Signals by name and number.

use std::{fmt, str::FromStr};

use nix::{libc, sys::signal::Signal as Named};
use rustix::process::Signal;

use super::endpoint::discreet;
use crate::sys;

/// The first real-time signal that is not the C library's own (`signal(7)`, glibc).
const RTMIN: i32 = 34;
/// The last real-time signal.
const RTMAX: i32 = 64;

/// A signal that can be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignalNumber(Signal);

/// There is no such signal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, \
     or a number from 1 to 64"
)]
pub struct SignalError {
    given: String,
}

impl SignalNumber {
    /// What most programs reload on.
    pub const HUP: Self = Self(Signal::HUP);

    /// What asks a program to end.
    pub const TERM: Self = Self(Signal::TERM);

    /// The signal, to send it.
    #[must_use]
    pub fn get(self) -> Signal {
        self.0
    }
}

impl FromStr for SignalNumber {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        let number = number(&text.trim().to_ascii_uppercase());
        let signal = number.and_then(sys::signal).map(Self);
        signal.ok_or_else(|| SignalError { given: discreet(text) })
    }
}

fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(above) = name.strip_prefix("RTMIN") {
        return in_real_time(RTMIN.checked_add(offset(above, '+')?)?);
    }
    if let Some(below) = name.strip_prefix("RTMAX") {
        return in_real_time(RTMAX.checked_sub(offset(below, '-')?)?);
    }
    format!("SIG{name}").parse::<Named>().ok().map(|signal| signal as i32)
}

fn in_real_time(number: i32) -> Option<i32> {
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The number behind `sign`, or 0 where there is nothing.
fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?.parse().ok().filter(|&offset: &i32| offset >= 0)
}

impl fmt::Display for SignalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.as_raw();
        if number >= RTMIN {
            return write!(f, "RTMIN+{}", number - RTMIN);
        }
        match Named::try_from(number) {
            Ok(named) => f.write_str(named.as_str().trim_start_matches("SIG")),
            Err(_) => write!(f, "{number}"),
        }
    }
}

impl fmt::Debug for SignalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const _: () = assert!(libc::SIGHUP == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_signals() {
        fn check(text: &str, number: i32, name: &str) {
            let signal: SignalNumber = text.parse().unwrap();
            assert_eq!((signal.0.as_raw(), signal.to_string().as_str()), (number, name), "{text}");
        }
        check("HUP", 1, "HUP");
        check("SIGHUP", 1, "HUP");
        check("hup", 1, "HUP");
        check("1", 1, "HUP");
        check("USR1", 10, "USR1");
        check("SIGWINCH", 28, "WINCH");
        check("RTMIN", 34, "RTMIN+0");
        check("RTMIN+3", 37, "RTMIN+3");
        check("SIGRTMAX-1", 63, "RTMIN+29");
        check("64", 64, "RTMIN+30");
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        fn check(text: &str) {
            let error = text.parse::<SignalNumber>().unwrap_err();
            assert_eq!(error, SignalError { given: text.to_owned() });
        }
        for text in
            ["", "0", "-1", "32", "33", "65", "HUPP", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX+1"]
        {
            check(text);
        }
    }
}
