//! A change that comes while the agent starts is in the target in the end.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::time::Duration;

use crate::support::{
    agent::{Agent, arguments, command, count},
    source::Source,
    target::Recipe,
    time::pause,
    writer::{config, replace},
};

promise!(whenever_it_comes);
/// Before the agent has looked, while it arms its watches, or just after: `--on-start reload` leaves no
/// gap.
fn whenever_it_comes(source: Source) {
    let rounds = source.rounds(12);
    for delay in (0..rounds).map(|round| u64::from(round * 24 / rounds)) {
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut command = command();
        command.args(arguments(&path, recipe.name())).args(source.arguments());
        let mut agent = Agent::spawn(command.args(["--on-start", "reload", "--reconcile", "1h"]));
        pause(Duration::from_millis(delay));
        replace(&path, "new");

        let mut signals = target.signals_until("new");
        agent.events_until("ready");
        source.let_look();
        // The fence: all that came before is in the lines now.
        replace(&path, "end");
        signals.extend(target.signals_until("end"));
        // The one at the start may find what the other is for.
        assert!(signals.len() <= 3, "{delay} ms: at the start, a change, a change: {signals:?}");
    }
}

promise!(a_target_that_is_older_than_the_agent_is_left_alone_unless_that_is_wanted);
fn a_target_that_is_older_than_the_agent_is_left_alone_unless_that_is_wanted(source: Source) {
    for (on_start, reloads) in [("skip", 0), ("reload", 1)] {
        let (_dir, path) = config();
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut agent = Agent::with(source, &path, recipe.name(), &["--on-start", on_start]);
        for _ in 0..reloads {
            assert_eq!(agent.wait_for("reloaded").pid(), target.pid);
            assert_eq!(target.signal().content, "0");
        }
        replace(&path, "1");
        let events = agent.events_until("reloaded");
        assert_eq!(count(&events, "reloaded"), 1, "{on_start}: {events:?}");
        assert_eq!(target.signal().content, "1", "{on_start}");
    }
}
