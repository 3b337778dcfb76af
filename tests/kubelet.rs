//! One update of a volume by the kubelet is one reload, when it is complete.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{path::Path, time::Duration};

use crate::support::{
    agent::{Agent, count, names},
    filesystem::{
        Filesystem::{self, Ext4, Tmpfs},
        with_each,
    },
    kubelet::{Keys, Old, Order, Slow, Volume, keys, printed_keys, until_quick},
    source::Source,
    target::Recipe,
};

/// The filesystems of volumes: `ConfigMap`s lie on the node's disk, `Secret`s on tmpfs.
const FILESYSTEMS: [Filesystem; 2] = [Ext4, Tmpfs];

/// Slower than the kubelet by far, and still quicker than the 200 ms after which an update counts as
/// complete where the old directory does not go.
const PACE: Duration = Duration::from_millis(5);

/// The states of a volume, one after the other.
fn states() -> Vec<(&'static str, Keys)> {
    vec![
        ("at first", keys(&[("a.conf", "a1"), ("b.conf", "b1")])),
        ("one key is changed", keys(&[("a.conf", "a2"), ("b.conf", "b1")])),
        ("both are changed", keys(&[("a.conf", "a3"), ("b.conf", "b3")])),
        ("a key is added", keys(&[("a.conf", "a3"), ("b.conf", "b3"), ("c.conf", "c4")])),
        ("a key is removed", keys(&[("a.conf", "a3"), ("c.conf", "c4")])),
        (
            "two are added, one is changed, one removed",
            keys(&[("a.conf", "a6"), ("d.conf", "d6"), ("e.conf", "e6")]),
        ),
        ("nothing is left but one", keys(&[("e.conf", "e6")])),
    ]
}

fn for_each_kind(check: impl Fn(&Path, Order) -> Result<(), Slow> + Sync) {
    let kinds = FILESYSTEMS.iter().flat_map(|&kind| Order::ALL.map(|order| (kind, order)));
    with_each(kinds, |(filesystem, order)| {
        until_quick(|| {
            let mounted = filesystem.mount();
            println!("--- {filesystem}, {order:?}: {}", mounted.dir.display());
            check(&mounted.dir, order)
        });
    });
}

promise!(a_watched_volume_is_reloaded_once_for_each_update);
fn a_watched_volume_is_reloaded_once_for_each_update(source: Source) {
    for_each_kind(|dir, order| {
        let mut states = states().into_iter();
        let mut volume = Volume::mount(dir, order, states.next().unwrap().1);
        volume.pace(PACE);
        let recipe = Recipe::new().reading(dir);
        let mut target = recipe.start();
        let mut agent = Agent::on(source, dir, recipe.name());

        for (what, state) in states {
            let complete_ns = volume.update(state);
            volume.quick()?;
            let events = agent.events_until("reloaded");
            assert_eq!(count(&events, "changed"), 1, "{what}: {events:?}");
            assert_eq!(events.last().unwrap().pid(), target.pid, "{what}");
            // One by one, so that a reload too many would be compared with the next state.
            let signal = target.signal();
            assert_eq!(signal.content, printed_keys(volume.keys()), "{what}");
            assert!(signal.at_ns > complete_ns, "{what}: signalled before it was complete");
        }
        Ok(())
    });
}

promise!(the_log_names_the_keys_that_changed);
fn the_log_names_the_keys_that_changed(source: Source) {
    for_each_kind(|dir, order| {
        let first = keys(&[("a.conf", "a1"), ("b.conf", "b1"), ("c.conf", "c1")]);
        let mut volume = Volume::mount(dir, order, first);
        let recipe = Recipe::new();
        let _target = recipe.start();
        let mut agent = Agent::on(source, dir, recipe.name());

        volume.update(keys(&[("a.conf", "a2"), ("c.conf", "c1"), ("d.conf", "d2")]));
        volume.quick()?;
        let changed = agent.wait_for("changed");
        let mut paths = changed.paths();
        paths.sort_unstable();
        let expected = ["a.conf", "b.conf", "d.conf"].map(|key| dir.join(key));
        assert_eq!(paths, expected.each_ref().map(|path| path.to_str().unwrap()), "{changed}");
        agent.wait_for("reloaded");
        Ok(())
    });
}

promise!(a_watched_key_is_reloaded_only_when_it_changes);
fn a_watched_key_is_reloaded_only_when_it_changes(source: Source) {
    for_each_kind(|dir, order| {
        let mut volume = Volume::mount(dir, order, keys(&[("a.conf", "a1"), ("b.conf", "b1")]));
        volume.pace(PACE);
        let path = dir.join("a.conf");
        let recipe = Recipe::new().reading(&path);
        let mut target = recipe.start();
        let mut agent = Agent::on(source, &path, recipe.name());

        volume.update(keys(&[("a.conf", "a1"), ("b.conf", "b2")]));
        volume.update(keys(&[("a.conf", "a1"), ("b.conf", "b2"), ("c.conf", "c3")]));
        volume.update(keys(&[("a.conf", "a1")]));
        let complete_ns = volume.update(keys(&[("a.conf", "a5"), ("d.conf", "d5")]));
        volume.quick()?;

        let events = agent.events_until("reloaded");
        assert_eq!(count(&events, "changed"), 1, "{events:?}");
        let changed = events.iter().find(|event| event.name() == "changed").unwrap();
        assert_eq!(changed.paths(), [path.to_str().unwrap()]);
        let signal = target.signal();
        assert_eq!(signal.content, "a5");
        assert!(signal.at_ns > complete_ns, "signalled before it was complete");

        // The fence for the one before.
        volume.update(keys(&[("a.conf", "a6")]));
        assert_eq!(names(&agent.events_until("reloaded")).last(), Some(&"reloaded"));
        assert_eq!(target.signal().content, "a6");
        Ok(())
    });
}

promise!(a_key_in_a_directory_of_the_volume_is_seen);
fn a_key_in_a_directory_of_the_volume_is_seen(source: Source) {
    for_each_kind(|dir, order| {
        let mut volume = Volume::mount(dir, order, keys(&[("conf.d/a.conf", "a1")]));
        volume.pace(PACE);
        let servers = dir.join("conf.d");
        let recipe = Recipe::new().reading(&servers);
        let mut target = recipe.start();
        let mut agent = Agent::on(source, &servers, recipe.name());

        let states: [&[_]; 3] = [
            &[("conf.d/a.conf", "a2")],
            &[("conf.d/a.conf", "a2"), ("conf.d/b.conf", "b3")],
            &[("conf.d/b.conf", "b3"), ("top.conf", "t4")],
        ];
        for (state, expected) in
            states.into_iter().zip(["a.conf=a2;", "a.conf=a2;b.conf=b3;", "b.conf=b3;"])
        {
            volume.update(keys(state));
            assert_eq!(count(&agent.events_until("reloaded"), "changed"), 1);
            assert_eq!(target.signal().content, expected);
        }
        Ok(())
    });
}

promise!(an_update_whose_old_directory_stays_is_complete_after_a_while);
/// A kubelet that is killed in the middle leaves the old directory behind.
fn an_update_whose_old_directory_stays_is_complete_after_a_while(source: Source) {
    for_each_kind(|dir, order| {
        let mut volume = Volume::mount(dir, order, keys(&[("a.conf", "a1")]));
        let recipe = Recipe::new().reading(dir);
        let mut target = recipe.start();
        let mut agent = Agent::on(source, dir, recipe.name());

        for state in [keys(&[("a.conf", "a2"), ("b.conf", "b2")]), keys(&[("b.conf", "b3")])] {
            volume.sync(state, Old::Left);
            volume.quick()?;
            assert_eq!(count(&agent.events_until("reloaded"), "changed"), 1);
            assert_eq!(target.signal().content, printed_keys(volume.keys()));
        }
        Ok(())
    });
}

promise!(a_sync_that_changes_nothing_is_not_even_noticed);
/// The kubelet reads a volume at each of its syncs, and writes nothing where nothing has changed.
fn a_sync_that_changes_nothing_is_not_even_noticed(source: Source) {
    for_each_kind(|dir, order| {
        let first = keys(&[("a.conf", "a1"), ("b.conf", "b1")]);
        let mut volume = Volume::mount(dir, order, first.clone());
        let recipe = Recipe::new().reading(dir);
        let mut target = recipe.start();
        let mut agent = Agent::on(source, dir, recipe.name());

        for _ in 0..10 {
            volume.update(first.clone());
        }

        volume.update(keys(&[("a.conf", "a2"), ("b.conf", "b1")]));
        let events = agent.events_until("reloaded");
        assert_eq!(count(&events, "changed"), 1, "{events:?}");
        assert_eq!(target.signal().content, printed_keys(volume.keys()));
        Ok(())
    });
}

promise!(updates_in_a_row_end_in_the_last_one_and_are_never_seen_half_done);
fn updates_in_a_row_end_in_the_last_one_and_are_never_seen_half_done(source: Source) {
    for_each_kind(|dir, order| {
        let state = |n: usize| -> Keys {
            // Each state has a key that the one before had not, and lacks one that it had.
            keys(&[
                ("all.conf", &format!("all{n}")),
                (&format!("only{}.conf", n % 7), &n.to_string()),
            ])
        };
        let mut volume = Volume::mount(dir, order, state(0));
        let recipe = Recipe::new().reading(dir);
        let mut target = recipe.start();
        let _agent = Agent::on(source, dir, recipe.name());

        for n in 1..=100 {
            volume.update(state(n));
            volume.quick()?;
        }

        // What the target reads may change under its eyes; in the end it has all of the last.
        let signals = target.signals_until(&printed_keys(volume.keys()));
        assert!(signals.len() <= 100, "{} signals for 100 updates", signals.len());
        Ok(())
    });
}
