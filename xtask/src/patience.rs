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
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::signal_name,
};

/// Somebody asked us to stop.
#[derive(Debug)]
pub(crate) struct Interrupted(i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = signal_name(self.0).unwrap_or("a signal");
        write!(f, "stopped by {signal}; what was started is ended and removed")
    }
}

impl std::error::Error for Interrupted {}

/// Waits, and listens for signals to stop meanwhile.
#[derive(Debug)]
pub(crate) struct Patience {
    interrupts: Receiver<i32>,
}

impl Patience {
    /// Turns SIGINT, SIGTERM and SIGHUP into errors of [`Patience::until`].
    ///
    /// By handlers, for children would inherit blocked signals.
    ///
    /// # Errors
    ///
    /// Fails where the kernel refuses to install a handler.
    pub(crate) fn new() -> Result<Self> {
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for Ctrl-C")?;
        let (sender, interrupts) = mpsc::channel();
        thread::spawn(move || {
            for signal in signals.forever() {
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
    fn patience() -> (mpsc::Sender<i32>, Patience) {
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
        sender.send(SIGINT).unwrap();
        let error = patience.until(SHORT, Duration::from_secs(9), || Ok(None::<()>)).unwrap_err();
        let expected = "stopped by SIGINT; what was started is ended and removed";
        assert_eq!(format!("{error:#}"), expected);
    }
}
