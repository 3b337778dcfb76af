//! Waiting for something to become true: with a deadline, and until Ctrl-C.
//!
//! **Invariant:** a chore that starts processes waits only here, so that a signal to stop becomes an
//! error, which is returned like any other and drops, and so ends, whatever the chore has started.

use std::{
    fmt,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

/// Somebody asked us to stop.
#[derive(Debug)]
pub(crate) struct Interrupted(Signal);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by {}; what was started is ended and removed", self.0.as_str())
    }
}

impl std::error::Error for Interrupted {}

/// Waits, and listens for signals to stop meanwhile.
#[derive(Debug)]
pub(crate) struct Patience {
    interrupts: Receiver<Signal>,
}

impl Patience {
    /// Turns SIGINT, SIGTERM and SIGHUP into errors of [`Patience::until`].
    ///
    /// To be called before other threads are started, for they inherit what this one blocks.
    /// Processes do not: the standard library gives them an empty signal mask.
    ///
    /// # Errors
    ///
    /// Fails where the kernel refuses to block signals.
    pub(crate) fn new() -> Result<Self> {
        let signals: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        let (sender, interrupts) = mpsc::channel();
        thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        });
        Ok(Self { interrupts })
    }

    /// Asks `look` again and again, `pace` apart, until it gives something; `None` where it has not
    /// by the time `limit` is over.
    ///
    /// # Errors
    ///
    /// Fails where `look` does, and with [`Interrupted`] where we were asked to stop.
    pub(crate) fn until<T>(
        &self,
        pace: Duration,
        limit: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            let found = look()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if found.is_some() || left.is_zero() {
                return Ok(found);
            }
            self.pause(pace.min(left))?;
        }
    }

    /// Lets `time` pass.
    ///
    /// # Errors
    ///
    /// Fails with [`Interrupted`] where we were asked to stop.
    pub(crate) fn pause(&self, time: Duration) -> Result<()> {
        match self.interrupts.recv_timeout(time) {
            Ok(signal) => Err(Interrupted(signal).into()),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                anyhow::bail!("nobody listens for Ctrl-C any more")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    /// A patience without signals, which would be the test runner's.
    fn patience() -> (mpsc::Sender<Signal>, Patience) {
        let (sender, interrupts) = mpsc::channel();
        (sender, Patience { interrupts })
    }

    #[test]
    fn what_becomes_true_is_waited_for() {
        let (_sender, patience) = patience();
        let mut looks = 0;
        let found = patience.until(SHORT, Duration::from_secs(9), || {
            looks += 1;
            Ok((looks == 3).then_some("found"))
        });
        assert_eq!((found.unwrap(), looks), (Some("found"), 3));
    }

    #[test]
    fn what_never_becomes_true_is_given_up() {
        let (_sender, patience) = patience();
        let found = patience.until(SHORT, SHORT * 5, || Ok(None::<()>));
        assert_eq!(found.unwrap(), None);
    }

    #[test]
    fn a_signal_ends_the_wait() {
        let (sender, patience) = patience();
        sender.send(Signal::SIGINT).unwrap();
        let error = patience.until(SHORT, Duration::from_secs(9), || Ok(None::<()>)).unwrap_err();
        let expected = "stopped by SIGINT; what was started is ended and removed";
        assert_eq!(format!("{error:#}"), expected);
    }
}
