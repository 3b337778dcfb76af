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
    target::Recipe,
    time::{Dice, pause},
    writer::{config, replace},
};

promise!(a_hundred_changes_in_random_spacing);
/// With and without a confirmation on the way.
fn a_hundred_changes_in_random_spacing(source: Source) {
    /// How much later a handler may run than its signal was sent: by so much less may two be apart.
    const TOLERANCE: Duration = Duration::from_millis(100);
    for timeout in ["0", "5s"] {
        let interval = Duration::from_millis(300);
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let options =
            ["--min-interval", "300ms", "--confirm-timeout", timeout, "--reconcile", "1h"];
        let agent = Agent::with(source, &path, recipe.name(), &options);
        let mut dice = Dice::new();
        for n in 1..=100 {
            if dice.below(2) == 0 {
                replace(&path, &n.to_string());
            } else {
                fs::write(&path, n.to_string()).unwrap();
            }
            // Mostly bursts, and now and then a rest that is about as long as the interval.
            pause(Duration::from_millis(match dice.below(10) {
                0..=6 => dice.below(20),
                7 | 8 => dice.below(100),
                _ => 250 + dice.below(100),
            }));
        }
        let mut signals = target.signals_until("100");
        replace(&path, "the-end");
        signals.extend(target.signals_until("the-end"));
        let (_, events) = agent.stop(Signal::TERM);
        assert_eq!(count(&events, "reloaded"), signals.len(), "each was handled by itself");
        for pair in signals.windows(2) {
            let apart = Duration::from_nanos(pair[1].at_ns - pair[0].at_ns);
            assert!(apart + TOLERANCE >= interval, "{apart:?} between {pair:?}");
        }
        // What a late handler takes from one pause it gives to the next, so that all of them together
        // are as exact as one.
        let all = Duration::from_nanos(signals.last().unwrap().at_ns - signals[0].at_ns);
        let pauses = u32::try_from(signals.len() - 1).unwrap();
        assert!(all + TOLERANCE >= interval * pauses, "{pauses} pauses within {all:?}");
        println!("{} signals", signals.len());
    }
}
