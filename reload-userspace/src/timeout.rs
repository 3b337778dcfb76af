//! How long something may take, where a stop is no time that it was given.

use std::time::Duration;

use tokio::time::sleep;

/// By how much of a limit a stop is taken for time that was waited, at most.
const NAP: Duration = Duration::from_millis(250);

/// How long whoever was stopped is given to hear of what has come in time: `epoll_wait(2)` tells him that he
/// was interrupted (EINTR), and of all else when it is called again. Twice, for he may be stopped in the first.
const TURN: Duration = Duration::from_millis(10);

/// Gives what the work comes to, or `None` where it has not come to its end within the limit and is dropped.
///
/// While the process is stopped or frozen it hears of nothing, and whoever does the work may stand still as
/// well. So each stop costs the limit 250 ms at most, and what has come in time counts though it is heard of
/// late.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = awake(limit) => None,
    }
}

/// Waits for so long without the stops.
async fn awake(limit: Duration) {
    let mut left = limit;
    while !left.is_zero() {
        let nap = left.min(NAP);
        sleep(nap).await;
        left -= nap;
    }
    for _ in 0..2 {
        sleep(TURN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        sync::oneshot,
        task::yield_now,
        time::{Instant, advance},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_is_not_stopped_is_given_the_limit() {
        let began = Instant::now();
        let limit = Duration::from_millis(2900);
        assert_eq!(within(limit, pending::<()>()).await, None);
        // The runtime's clock has steps of a millisecond.
        let over = began.elapsed().saturating_sub(limit);
        assert!(over <= 3 * TURN, "{over:?}");
        assert_eq!(within(limit, sleep(limit)).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_costs_a_nap_whenever_it_is() {
        const NAPS: u32 = 4;
        // The last stop is in the turn after the last nap.
        for before in 0..=NAPS {
            let (sender, answer) = oneshot::channel();
            let work = tokio::spawn(within(NAP * NAPS, answer));
            yield_now().await;
            for _ in 0..before {
                advance(NAP).await;
            }
            // A stop: all timers are found to be over at once.
            advance(Duration::from_hours(1)).await;
            sender.send("late").unwrap();
            assert_eq!(work.await.unwrap(), Some(Ok("late")), "after {before} naps");
        }
    }
}
