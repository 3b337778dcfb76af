//! Deadlines and pauses, and numbers to make them of.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// How many seconds are patience enough on most machines.
const USUAL: u64 = 20;

/// How long a test waits for what must come. Machines are noisy; a test that passes waits for none
/// of it. One whose processor is emulated says in `RELOAD_TEST_PATIENCE` how many seconds it wants.
pub(crate) static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("RELOAD_TEST_PATIENCE").map_or(USUAL, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
});

/// How long a test waits before it asks again: what it waits for wants the processor, too.
const PACE: Duration = Duration::from_millis(1);

/// Now, in nanoseconds since boot: the clock of the target's lines.
pub(crate) fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// Waits, as a part of what is being tested: a writer that takes its time.
#[expect(
    clippy::disallowed_methods,
    reason = "the pause is the input of the test, or between two questions"
)]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Waits as long as `duration` is on a machine that needs no more patience than usual.
pub(crate) fn pause_here(duration: Duration) {
    pause(here(duration));
}

/// What corresponds here to `duration` on a machine that needs no more patience than usual.
pub(crate) fn here(duration: Duration) -> Duration {
    duration * u32::try_from(PATIENCE.as_secs().div_ceil(USUAL)).unwrap()
}

/// Asks until the answer is `Some`, and panics with `what` where that takes too long.
#[track_caller]
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + *PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {:?}: {what}", *PATIENCE);
        pause(PACE);
    }
}

/// Numbers that look random, from a seed that is printed.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new() -> Self {
        let seed = boot_ns() | 1;
        println!("seed {seed}");
        Self(seed)
    }

    /// A number from 0 to `end`, which it never is.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
