//! Two signals to one process are never closer than `--min-interval`, and the last state is always
//! delivered.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, time::Duration};

use rustix::process::Signal;

use crate::support::{
    agent::{Agent, count},
    source::Source,
    target::{Handled, Recipe, Running},
    time::{Dice, boot_ns, pause, poll},
    writer::{config, replace},
};

/// Moments when a target waited for a signal and none was on its way to it: each that it has handled later
/// was sent later.
#[derive(Default)]
struct Quiet(Vec<(u64, u64)>);

impl Quiet {
    /// Looks at the target: it waited at some moment between the two of a pair.
    fn look(&mut self, target: &Running) {
        let begin = boot_ns();
        let status = fs::read_to_string(format!("/proc/{}/status", target.pid)).unwrap();
        let field = |name| status.lines().find_map(|line: &str| line.strip_prefix(name)).unwrap();
        let has_hup = |name| u64::from_str_radix(field(name).trim(), 16).unwrap() & 1 != 0;
        // It blocks the signal unless it waits for it.
        let is_busy = ["SigPnd:", "ShdPnd:", "SigBlk:"].into_iter().any(has_hup);
        if field("State:").trim().starts_with('S') && !is_busy {
            self.0.push((begin, boot_ns()));
        }
    }

    /// The last moment that is known to be earlier than the sending of a signal that was handled then.
    fn before(&self, handled_ns: u64) -> Option<u64> {
        let earlier = self.0.iter().filter(|(_, end)| *end < handled_ns);
        earlier.map(|(begin, _)| *begin).max()
    }

    /// Checks the pauses between signals, of which `first_ns` was before the first. Gives how many may have
    /// been sent at most: one that is sent while another is on its way to the target is one with it.
    #[track_caller]
    fn check(&self, signals: &[Handled], first_ns: u64, interval: Duration) -> u64 {
        let interval = u64::try_from(interval.as_nanos()).unwrap();
        let mut earliest = first_ns;
        let mut most = 0;
        for signal in signals {
            assert!(signal.at_ns >= earliest, "{signal:?} before {earliest}: {signals:?}");
            let sent = self.before(signal.at_ns).map_or(earliest, |quiet| quiet.max(earliest));
            most += 1 + (signal.at_ns - sent) / interval;
            earliest = sent + interval;
        }
        most
    }
}

promise!(a_hundred_changes_in_random_spacing);
/// With and without a confirmation on the way.
fn a_hundred_changes_in_random_spacing(source: Source) {
    for timeout in ["0", "5s"] {
        let interval = Duration::from_millis(300);
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let options =
            ["--min-interval", "300ms", "--confirm-timeout", timeout, "--reconcile", "1h"];
        let agent = Agent::with(source, &path, recipe.name(), &options);
        let mut dice = Dice::new();
        let mut quiet = Quiet::default();
        let mut signals = Vec::new();
        let first_ns = boot_ns();
        for n in 1..=100 {
            if dice.below(2) == 0 {
                replace(&path, &n.to_string());
            } else {
                fs::write(&path, n.to_string()).unwrap();
            }
            // Mostly bursts, and now and then a rest that is about as long as the interval.
            let rest = match dice.below(10) {
                0..=6 => dice.below(20),
                7 | 8 => dice.below(100),
                _ => 250 + dice.below(100),
            };
            let until = boot_ns() + rest * 1_000_000;
            while boot_ns() < until {
                quiet.look(&target);
                pause(Duration::from_millis(1));
            }
        }
        let mut wait_for = |content: &str| {
            poll(content, || {
                quiet.look(&target);
                signals.extend(target.signals_at_hand());
                signals.last().filter(|signal: &&Handled| signal.content == content).map(drop)
            });
        };
        wait_for("100");
        replace(&path, "the-end");
        wait_for("the-end");
        let (_, events) = agent.stop(Signal::TERM);
        let most = quiet.check(&signals, first_ns, interval);
        let handled = u64::try_from(signals.len()).unwrap();
        let reloaded = u64::try_from(count(&events, "reloaded")).unwrap();
        assert!((handled..=most).contains(&reloaded), "{handled} handled, {reloaded} sent");
        println!("{handled} signals");
    }
}
