//! The lines that a process prints, as they come.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use super::time::PATIENCE;

/// The lines of one stream, each taken once.
///
/// All lines are printed as well, so that a test that fails shows, in order, what everybody said.
#[derive(Debug)]
pub(crate) struct Lines {
    speaker: String,
    received: Receiver<String>,
}

impl Lines {
    /// Starts to read `stream`.
    pub(crate) fn of(speaker: &str, stream: impl Read + Send + 'static) -> Self {
        let (sender, received) = channel();
        let speaker = speaker.to_owned();
        let name = speaker.clone();
        // The thread ends with the stream. Nobody waits for it: what was said is in the channel.
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                println!("{name}: {line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { speaker, received }
    }

    /// Takes the next line, or gives `None` where the stream has ended.
    ///
    /// # Panics
    ///
    /// Where there is neither in time: `what` says what was waited for.
    #[track_caller]
    pub(crate) fn next(&mut self, what: &str, deadline: Instant) -> Option<String> {
        match self.received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!(
                    "{} did not say within {:?}: {what}; all lines are above",
                    self.speaker, *PATIENCE
                )
            }
        }
    }

    /// Takes lines up to the first of which `pick` makes something.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + *PATIENCE;
        loop {
            let Some(line) = self.next(what, deadline) else {
                panic!("{} ended without saying: {what}; all lines are above", self.speaker);
            };
            if let Some(picked) = pick(&line) {
                return picked;
            }
        }
    }

    /// The same, or `None` where there is no such line in time.
    pub(crate) fn within<T>(
        &mut self,
        time: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.received.recv_timeout(left).ok()?;
            if let Some(picked) = pick(&line) {
                return Some(picked);
            }
        }
    }

    /// Takes all lines that are left, once the stream has ended.
    #[track_caller]
    pub(crate) fn rest(mut self) -> Vec<String> {
        let deadline = Instant::now() + *PATIENCE;
        std::iter::from_fn(|| self.next("the end of its output", deadline)).collect()
    }

    /// Takes the lines that are there, without waiting for more.
    pub(crate) fn at_hand(&mut self) -> Vec<String> {
        self.received.try_iter().collect()
    }
}
