//! Is the agent well, and is it ready? The loop itself is asked, for a constant proves nothing.

use std::{
    future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    time::{Instant, timeout},
};

/// How long the loop may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an answer holds for everybody who asks.
const FRESH: Duration = Duration::from_secs(1);

/// What the loop answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// A canary was heard through the source in use.
    Well,
    /// It was not, and why.
    Ill(String),
}

/// The question whether the source in use still hears what happens.
#[derive(Debug)]
pub struct Probe {
    reply: oneshot::Sender<Health>,
}

impl Probe {
    /// Answers it. One that is not answered within 2 s, or dropped, counts as ill.
    pub fn answer(self, health: Health) {
        // Nobody waits any more where the answer has come too late.
        drop(self.reply.send(health));
    }
}

/// The questions to the loop.
#[derive(Debug)]
pub struct Probes(mpsc::Receiver<Probe>);

impl Probes {
    /// Nobody asks.
    #[must_use]
    pub fn none() -> Self {
        Self(mpsc::channel(1).1)
    }

    /// Waits for the next question; for ever where nobody asks. At most one comes each second.
    ///
    /// Dropping the future loses no question.
    pub async fn next(&mut self) -> Probe {
        match self.0.recv().await {
            Some(probe) => probe,
            None => future::pending().await,
        }
    }
}

/// Who asks the loop, and remembers what it said.
#[derive(Debug)]
pub(super) struct Doctor {
    ask: mpsc::Sender<Probe>,
    last: AsyncMutex<Option<(Instant, Health)>>,
}

impl Doctor {
    /// One who asks, and whom he asks.
    pub(super) fn new() -> (Self, Probes) {
        let (ask, asked) = mpsc::channel(1);
        (Self { ask, last: AsyncMutex::new(None) }, Probes(asked))
    }

    /// How the loop is: of all who ask within a second, one really does.
    pub(super) async fn examine(&self) -> Health {
        let mut last = self.last.lock().await;
        if let Some((at, health)) = &*last
            && at.elapsed() < FRESH
        {
            return health.clone();
        }
        let health = match timeout(PATIENCE, self.ask()).await {
            Ok(health) => health,
            Err(_elapsed) => Health::Ill(format!(
                "the agent's loop has not heard its canary within {} s",
                PATIENCE.as_secs()
            )),
        };
        *last = Some((Instant::now(), health.clone()));
        health
    }

    async fn ask(&self) -> Health {
        let (reply, answer) = oneshot::channel();
        if self.ask.send(Probe { reply }).await.is_err() {
            return Health::Ill("the agent's loop has ended".to_owned());
        }
        let unanswered = |_| Health::Ill("the agent's loop has not answered".to_owned());
        answer.await.unwrap_or_else(unanswered)
    }
}

/// Whether everything that the rules name is watched: the loop says so, and the server reads it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Option<Vec<String>>>>);

impl Readiness {
    /// Says what is still missing, as in "nginx: /etc/nginx does not exist"; nothing means ready.
    ///
    /// Until it is called for the first time, the agent is starting.
    pub fn set(&self, missing: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
    }

    /// What is missing, one thing each; nothing means ready.
    pub(super) fn missing(&self) -> Vec<String> {
        let missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        missing.clone().unwrap_or_else(|| vec!["the agent is starting".to_owned()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_questions_within_a_second_are_one() {
        let (doctor, mut probes) = Doctor::new();
        let answers = async {
            let all = tokio::join!(doctor.examine(), doctor.examine(), doctor.examine());
            tokio::time::advance(FRESH).await;
            (all, doctor.examine().await)
        };
        let agent = async {
            probes.next().await.answer(Health::Well);
            probes.next().await.answer(Health::Ill("deaf".to_owned()));
            probes.next().await
        };
        tokio::select! {
            (all, later) = answers => {
                assert_eq!(all, (Health::Well, Health::Well, Health::Well));
                assert_eq!(later, Health::Ill("deaf".to_owned()));
            }
            probe = agent => panic!("it was asked once more: {probe:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_answer_is_ill() {
        #[track_caller]
        fn check(health: &Health, expected: &str) {
            assert_eq!(*health, Health::Ill(expected.to_owned()));
        }
        let late = "the agent's loop has not heard its canary within 2 s";
        let (doctor, mut probes) = Doctor::new();
        check(&doctor.examine().await, late);
        let held = probes.next().await;
        tokio::time::advance(FRESH).await;
        check(&doctor.examine().await, late);
        // Too late for the one who asked.
        held.answer(Health::Well);

        tokio::time::advance(FRESH).await;
        // The one before is still waiting to be asked.
        let dropped = async {
            drop(probes.next().await);
            drop(probes.next().await);
        };
        let (health, ()) = tokio::join!(doctor.examine(), dropped);
        check(&health, "the agent's loop has not answered");

        let (doctor, probes) = Doctor::new();
        drop(probes);
        check(&doctor.examine().await, "the agent's loop has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_asks_nothing_ever_comes() {
        let mut probes = Probes::none();
        assert!(timeout(Duration::from_hours(1), probes.next()).await.is_err());
    }
}
