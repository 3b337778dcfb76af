//! Nothing that the kernel does with inodes and mounts makes the agent deaf.
//!
//! In a directory where others do nothing: there an event of theirs would have the agent look, and
//! find what it has not heard.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs, io::Write as _, os::unix::fs::symlink, path::PathBuf, process::Command, time::Duration,
};

use tempfile::TempDir;

use crate::support::{
    agent::{AGENT, Agent, arguments, clean, command, count},
    process::run,
    source::Source,
    target::Recipe,
    time::pause,
    writer::replace,
};

const SLOWLY: [&str; 2] = ["--reconcile", "1h"];

/// A quiet directory with a configuration in it.
fn config() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/opt").unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    (dir, path)
}

/// A mount that goes away with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(dir: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&dir));
        Self(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

promise!(a_new_file_with_the_inode_of_an_old_one_is_heard);
/// ext4 hands the number of an inode out again at once, while the agent waits for the interval.
fn a_new_file_with_the_inode_of_an_old_one_is_heard(source: Source) {
    // One of its own, for others would take the number.
    let (dir, image) = config();
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let mounted = Mounted(dir.path().join("mounted"));
    fs::create_dir(&mounted.0).unwrap();
    run(Command::new("mount").args(["-o", "loop"]).args([&image, &mounted.0]));
    let path = mounted.0.join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut command = command();
    command.args(["run", "--log-format", "json", "--min-interval", "1s", "--watch"]).arg(&path);
    command.args(["--process", recipe.name()]).args(source.arguments()).args(SLOWLY);
    let mut agent = Agent::spawn(&mut command);
    agent.wait_for("ready");
    replace(&path, "1");
    agent.wait_for("reloaded");
    replace(&path, "2");
    replace(&path, "3");
    agent.wait_for("reloaded");
    for text in ["4", "5"] {
        // Beyond the interval, and the look that the agent takes once more after a reload.
        pause(Duration::from_millis(1500));
        fs::write(&path, text).unwrap();
        agent.wait_for("reloaded");
    }
    target.signals_until("5");
}

promise!(a_filesystem_in_the_place_of_another_is_heard);
/// The kernel may give it the numbers of the old one, so that the mount table is as it was before.
fn a_filesystem_in_the_place_of_another_is_heard(source: Source) {
    let dir = tempfile::tempdir_in("/opt").unwrap();
    let mounted = Mounted::tmpfs(dir.path().join("mounted"));
    let elsewhere = Mounted::tmpfs(dir.path().join("elsewhere"));
    let path = mounted.0.join("app.conf");
    fs::write(&path, "0").unwrap();
    let draft = dir.path().join("draft");
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &path, recipe.name(), &SLOWLY);
    for n in 1..=3 {
        let [remounted, written] = ["remounted", "written"].map(|how| format!("{how}-{n}"));
        fs::write(&draft, &remounted).unwrap();
        // The first of it has the agent read the table; the rest comes while it leaves it alone.
        // Whoever reads the file at that moment is in the way of an unmounting.
        let script = "umount \"$2\"; mount -t tmpfs tmpfs \"$2\"; \
                      until umount \"$1\"; do :; done; \
                      mount -t tmpfs tmpfs \"$1\" && cp \"$3\" \"$1/app.conf\"";
        let mut shell = Command::new("sh");
        run(shell.args(["-c", script, "sh"]).args([&mounted.0, &elsewhere.0, &draft]));
        target.signals_until(&remounted);
        fs::write(&path, &written).unwrap();
        target.signals_until(&written);
        agent.wait_for("reloaded");
    }
}

promise!(a_mount_behind_a_symlink_is_heard);
/// Mounts are named by where they are, and watched paths by how one gets there.
fn a_mount_behind_a_symlink_is_heard(source: Source) {
    let (dir, path) = config();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::rename(&path, real.join("app.conf")).unwrap();
    let link = dir.path().join("link");
    symlink("real", &link).unwrap();
    fs::write(dir.path().join("other"), "1").unwrap();
    let recipe = Recipe::new().reading(&link);
    let mut target = recipe.start();
    let _agent = Agent::with(source, &link, recipe.name(), &SLOWLY);
    let over = Mounted(real.join("app.conf"));
    run(Command::new("mount").arg("--bind").args([&dir.path().join("other"), &over.0]));
    target.signals_until("app.conf=1;");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_better_source_is_not_tried_at_the_cost_of_what_is_known() {
    let (_dir, path) = config();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let mut command = clean(Command::new("unshare"));
    let script = "echo 0 > /proc/sys/user/max_fanotify_marks && exec \"$0\" \"$@\"";
    command.args(["--user", "--map-root-user", "sh", "-c", script, AGENT]);
    command.args(arguments(&path, recipe.name())).args(SLOWLY).args(["--settle-max", "1m"]);
    let mut agent = Agent::spawn(&mut command);
    assert_eq!(agent.wait_for("ready").text("source"), "inotify");
    // Until the better source is due to be tried again.
    pause(Duration::from_secs(6));
    let mut file = fs::File::create(&path).unwrap();
    for part in ["one", "-two", "-three"] {
        file.write_all(part.as_bytes()).unwrap();
        pause(Duration::from_millis(300));
    }
    drop(file);
    let events = agent.events_until("reloaded");
    assert_eq!(count(&events, "changed"), 1, "{events:?}");
    assert_eq!(target.signal().content, "one-two-three");
}
