//! A real nginx serves what its configuration says now, and only its master is signalled.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, path::Path, process::Command};

use rustix::process::Signal;

use crate::support::{
    agent::{Agent, command, count, unhurried_arguments},
    filesystem::with_each,
    kubelet::{Order, Slow, Volume, keys, until_quick},
    nginx::{Nginx, WORKERS, server},
    process::run,
    source::Source,
    time::poll,
    writer::replace,
};

/// Waits until nginx serves `revision` by new workers, and checks who was signalled on the way.
fn check_reload(agent: &mut Agent, nginx: &Nginx, before: &[i32], revision: &str) {
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "changed"), 1, "{events:?}");
    let reloaded = events.last().unwrap();
    assert_eq!(reloaded.pid(), nginx.pid(), "the master is signalled: {reloaded}");
    assert_eq!(reloaded.text("signal"), "HUP");

    poll("nginx serves the new revision", || nginx.get().filter(|body| body == revision));
    poll("nginx has new workers, and no old ones", || {
        let workers = nginx.workers();
        let is_new = workers.iter().all(|worker| !before.contains(worker));
        (is_new && workers.len() == WORKERS).then_some(())
    });
}

promise!(the_kubelet_s_updates_are_served);
fn the_kubelet_s_updates_are_served(source: Source) {
    with_each(Order::ALL, |order| until_quick(|| updates_are_served(source, order)));
}

fn updates_are_served(source: Source, order: Order) -> Result<(), Slow> {
    let dir = tempfile::tempdir().unwrap();
    let servers = dir.path().join("servers");
    fs::create_dir(&servers).unwrap();
    let state = |n: u32| server(&servers, &format!("revision {n}"));
    let mut volume = Volume::mount(&servers, order, keys(&[("app.conf", &state(1))]));
    let mut nginx = Nginx::start(&servers);
    let mut agent = Agent::on(source, &servers, nginx.name());

    for n in 2..=4 {
        let before = nginx.workers();
        // Every update has another file name, so that the include must be complete.
        volume.update(keys(&[(&format!("app{n}.conf"), &state(n))]));
        volume.quick()?;
        check_reload(&mut agent, &nginx, &before, &format!("revision {n}"));
    }

    assert!(nginx.lives());
    let (status, events) = agent.stop(Signal::TERM);
    assert!(status.success());
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    Ok(())
}

/// A way to change a file with the means of a host.
type Edit = fn(&Path, from: &str, to: &str);

const EDITS: &[(&str, Edit)] = &[
    ("sed -i", |path, from, to| {
        run(Command::new("sed").arg("-i").arg(format!("s/{from}/{to}/")).arg(path));
    }),
    ("cp over it", |path, from, to| {
        let draft = path.with_extension("draft");
        fs::write(&draft, fs::read_to_string(path).unwrap().replace(from, to)).unwrap();
        run(Command::new("cp").args([draft.as_path(), path]));
    }),
    ("a shell's redirection", |path, from, to| {
        let text = fs::read_to_string(path).unwrap().replace(from, to);
        let script = r#"printf %s "$1" > "$2""#;
        run(Command::new("sh").args(["-c", script, "sh", &text]).arg(path));
    }),
];

promise!(edits_on_a_host_are_served);
fn edits_on_a_host_are_served(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let servers = dir.path().join("servers");
    fs::create_dir(&servers).unwrap();
    let path = servers.join("app.conf");
    fs::write(&path, server(&servers, "revision 0")).unwrap();
    let mut nginx = Nginx::start(&servers);
    // Whoever writes in place may be stopped in the midst of it.
    let mut agent = Agent::with(source, &path, nginx.name(), &["--settle-max", "1m"]);

    for ((name, edit), n) in EDITS.iter().zip(1..) {
        println!("--- {name}");
        let before = nginx.workers();
        let revision = format!("revision {n}");
        edit(&path, &format!("revision {}", n - 1), &revision);
        check_reload(&mut agent, &nginx, &before, &revision);
    }
    assert!(nginx.lives());
}

promise!(what_nginx_would_not_take_is_withheld_with_its_own_words);
/// And what is good again goes through, with evidence that it took.
fn what_nginx_would_not_take_is_withheld_with_its_own_words(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let servers = dir.path().join("servers");
    fs::create_dir(&servers).unwrap();
    let path = servers.join("app.conf");
    let good = |n: u32| server(&servers, &format!("revision {n}"));
    fs::write(&path, good(1)).unwrap();
    let mut nginx = Nginx::start(&servers);
    let mut command = command();
    command.args(unhurried_arguments(&path, nginx.name())).args(source.arguments());
    let check = nginx.check().to_owned();
    command.args(["--min-interval", "0", "--confirm-timeout", "10s", "--check", &check]);
    let mut agent = Agent::spawn(&mut command);
    agent.wait_for("ready");

    for n in 2..=3 {
        replace(&path, &good(n).replace("return", "retrun"));
        let events = agent.events_until("refused");
        assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
        let refused = events.last().unwrap();
        assert_eq!(refused.text("reason"), "check_failed");
        let words = "unknown directive \"retrun\" in ";
        assert!(refused.text("detail").contains(words), "{refused}");
        assert_eq!(nginx.get().as_deref(), Some(&*format!("revision {}", n - 1)));

        let before = nginx.workers();
        replace(&path, &good(n));
        check_reload(&mut agent, &nginx, &before, &format!("revision {n}"));
        let confirmed = agent.wait_for("confirmed");
        assert_eq!(confirmed.pid(), nginx.pid());
        let evidence = confirmed.text("evidence");
        assert!(["reopened", "workers"].contains(&evidence), "{confirmed}");
    }
    assert!(nginx.lives());
}
