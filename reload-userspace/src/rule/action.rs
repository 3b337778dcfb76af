//! What is done when the content has changed.

use std::fmt;

use super::{CommandLine, Endpoint, SignalNumber};
use crate::preflight::is_meant_to_end;

/// What is done when the content has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Each target is sent a signal.
    Signal(SignalNumber),
    /// Each target is ended with TERM, and whoever looks after it starts it anew.
    Restart,
    /// A command is run, without a shell.
    Exec(CommandLine),
    /// An HTTP server is told.
    Post(Endpoint),
}

impl Action {
    /// The signal that each target is sent, or `None` where the action is about no process.
    #[must_use]
    pub fn signal(&self) -> Option<SignalNumber> {
        match self {
            Self::Signal(signal) => Some(*signal),
            Self::Restart => Some(SignalNumber::TERM),
            Self::Exec(_) | Self::Post(_) => None,
        }
    }

    /// Whether the targets are to end, for others to be started in their place.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.signal().is_some_and(|signal| is_meant_to_end(signal.get()))
    }
}

impl fmt::Display for Action {
    /// In words for people and for keys of the ledger: never with a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Restart => f.write_str("restart"),
            Self::Exec(command) => write!(f, "exec {command}"),
            Self::Post(endpoint) => write!(f, "post {endpoint}"),
        }
    }
}
