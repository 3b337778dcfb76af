//! `doctor` says what a watched path leads to, and which changes cannot be seen there; of mounts that
//! hide changes `run` tells as well.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    agent::{AGENT, Agent, PATIENT, command},
    doctor::{Diagnosis, as_nobody, public},
    filesystem::Filesystem,
    process::run,
    source::Source,
    target::Recipe,
};

/// A mount that goes away with the test.
struct Bound(PathBuf);

impl Bound {
    /// Mounts the file or directory `from` at `to`.
    fn new(from: &Path, to: &Path) -> Self {
        run(Command::new("mount").arg("--bind").args([from, to]));
        Self(to.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

fn look_at(path: &Path) -> Diagnosis {
    Diagnosis::by(&mut command(), &["--watch", path.to_str().unwrap()])
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_file_that_is_mounted_by_itself_is_told() {
    let dir = tempfile::tempdir().unwrap();
    // The kernel escapes what is in this name.
    let [outer, inner] = ["outer.conf", "in ner\\.conf"].map(|name| dir.path().join(name));
    fs::write(&outer, "0").unwrap();
    fs::write(&inner, "").unwrap();
    look_at(&inner).assert_none("mount");

    let _bound = Bound::new(&outer, &inner);
    let found = look_at(&inner);
    assert_eq!(found.status, 0);
    let (status, detail, remedy) = found.only("mount");
    assert_eq!(status, "note");
    let file = format!("a single file is mounted at {}: ", inner.display());
    assert!(detail.starts_with(&file), "{detail}");
    assert!(remedy.contains("-v DIRECTORY:DIRECTORY"), "{remedy}");
    // Also where it is only one of the files of a directory, or behind a symlink.
    assert_eq!(look_at(dir.path()).only("mount").1, detail);
    let link = dir.path().join("link");
    symlink(&inner, &link).unwrap();
    assert_eq!(look_at(&link).only("mount").1, detail);

    // As an editor does: from now on nothing that is written there can be seen.
    fs::write(dir.path().join("draft"), "1").unwrap();
    fs::rename(dir.path().join("draft"), &outer).unwrap();
    let found = look_at(&inner);
    assert_eq!((found.status, found.bad()), (1, vec!["mount"]));
    let (_, detail, remedy) = found.only("mount");
    assert!(detail.contains("has been removed or replaced where it comes from"), "{detail}");
    assert!(remedy.starts_with("restart the container"), "{remedy}");
}

/// A file of a volume, mounted with `subPath`, and the volume itself.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_subpath_never_changes() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    let state = volume.join("..2024_05_01_10_00_00.123456789");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("key"), "0").unwrap();
    symlink(state.file_name().unwrap(), volume.join("..data")).unwrap();
    symlink("..data/key", volume.join("key")).unwrap();
    let [file, whole] = ["app.conf", "config"].map(|name| dir.path().join(name));
    fs::write(&file, "").unwrap();
    fs::create_dir(&whole).unwrap();

    let _whole = Bound::new(&volume, &whole);
    let found = look_at(&whole);
    assert_eq!(found.status, 0);
    found.assert_none("mount");
    found.assert_none("subdirectories");
    assert_eq!(found.all("link").len(), 2);

    let _file = Bound::new(&volume.join("key"), &file);
    let found = look_at(&file);
    assert_eq!((found.status, found.bad()), (1, vec!["mount"]));
    let (_, detail, remedy) = found.only("mount");
    assert!(detail.contains("(subPath): it is never updated"), "{detail}");
    assert_eq!(remedy, "mount the whole volume, as a directory and without subPath");
}

promise!(run_tells_of_a_mount_that_hides_changes);
/// It is watched all the same, and told of once.
fn run_tells_of_a_mount_that_hides_changes(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let [outer, inner] = ["outer.conf", "inner.conf"].map(|name| dir.path().join(name));
    fs::write(&outer, "0").unwrap();
    fs::write(&inner, "").unwrap();
    let _bound = Bound::new(&outer, &inner);
    let recipe = Recipe::new().reading(&inner);
    let mut target = recipe.start();
    let mut agent = Agent::with(source, &inner, recipe.name(), &PATIENT);
    // As it says, what is written in place is seen.
    fs::write(&outer, "1").unwrap();
    let events = agent.events_until("reloaded");
    let degraded: Vec<_> = events.iter().filter(|it| it.name() == "degraded").collect();
    assert_eq!(degraded.len(), 1, "{events:?}");
    let file = format!("a single file is mounted at {}: ", inner.display());
    assert!(degraded[0].text("reason").starts_with(&file), "{events:?}");
    assert_eq!(target.signal().content, "1");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_directory_that_is_gone_on_its_other_side_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let [outer, inner] = ["outer", "inner"].map(|name| dir.path().join(name));
    fs::create_dir(&outer).unwrap();
    fs::create_dir(&inner).unwrap();
    let _bound = Bound::new(&outer, &inner);
    look_at(&inner).assert_none("mount");
    fs::remove_dir(&outer).unwrap();
    let found = look_at(&inner);
    assert_eq!((found.status, found.bad()), (1, vec!["mount"]));
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_filesystem_is_named() {
    for (filesystem, name) in
        [(Filesystem::Ext4, "ext4"), (Filesystem::Tmpfs, "tmpfs"), (Filesystem::Overlay, "overlay")]
    {
        let mounted = filesystem.mount_with(&[("app.conf", "0")]);
        let found = look_at(&mounted.dir.join("app.conf"));
        assert_eq!(found.only("filesystem"), ("ok", format!("{name}, read-write").as_str(), ""));
        // What is yet to come will be there, too.
        let found = look_at(&mounted.dir.join("none/app.conf"));
        assert_eq!(found.only("filesystem").1, format!("{name}, read-write"));
    }
    let mounted = Filesystem::Tmpfs.mount_with(&[("app.conf", "0")]);
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(&mounted.dir));
    assert_eq!(look_at(&mounted.dir).only("filesystem").1, "tmpfs, read-only");
}

#[test]
fn subdirectories_are_told_unless_they_are_watched() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["conf.d", "sites"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("app.conf"), "0").unwrap();
    let found = look_at(dir.path());
    assert_eq!(found.only("watch").1, "a directory with 1 file: app.conf");
    let (status, detail, remedy) = found.only("subdirectories");
    assert_eq!(status, "note");
    assert!(detail.starts_with("2 are not watched"), "{detail}");
    assert!(detail.ends_with(": conf.d, sites"), "{detail}");
    let first = dir.path().join("conf.d");
    let expected = format!("--watch {} as well, if it is configuration", first.display());
    assert_eq!(remedy, expected);

    let both = [dir.path().to_str().unwrap(), first.to_str().unwrap()];
    let found = Diagnosis::by(&mut command(), &["--watch", both[0], "--watch", both[1]]);
    assert!(found.only("subdirectories").1.ends_with(": sites"));
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_file_that_cannot_be_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let path = dir.path().join("secret.conf");
    fs::write(&path, "0").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = as_nobody(&agent, "+bpf,+perfmon", &[]);
    let found = Diagnosis::by(&mut command, &["--watch", path.to_str().unwrap()]);
    assert_eq!(found.status, 0);
    let (status, detail, remedy) = found.only("unreadable");
    assert_eq!(status, "note");
    assert!(detail.contains("secret.conf the first (permission denied)"), "{detail}");
    assert!(remedy.ends_with("CAP_DAC_READ_SEARCH"), "{remedy}");
    look_at(&path).assert_none("unreadable");
}
