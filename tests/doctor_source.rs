//! `doctor` says which source `run` would take, which one each path would get, and why no better one.

#![cfg(test)]

mod support;

use std::{fs, path::Path, process::Command};

use crate::support::{
    agent::{AGENT, clean, command},
    doctor::{Diagnosis, as_nobody, public},
    filesystem::Filesystem,
    program::REFUSE,
};

/// The agent in a user namespace with limits of its own, for on the machine others would go without.
fn limited(limits: &[(&str, u32)]) -> Command {
    let set = |(name, value): &(&str, u32)| format!("echo {value} > /proc/sys/user/{name};");
    let script = limits.iter().map(set).collect::<String>() + "exec \"$@\"";
    let mut command = clean(Command::new("unshare"));
    command.args(["--user", "--map-root-user", "sh", "-c", &script, "sh", AGENT]);
    command
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_best_that_works_is_taken_and_the_others_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let watch = ["--watch", dir.path().to_str().unwrap()];
    let found = Diagnosis::by(&mut as_nobody(&agent, "-all", &[]), &watch);
    assert_eq!(found.status, 0);
    let (status, detail) = found.of("source", "ebpf");
    assert_eq!(status, "note");
    assert!(detail.starts_with("passed over: eBPF needs CAP_BPF and CAP_PERFMON; grant it"));
    let taken = "it works (strategy unprivileged), and `run` would take it";
    assert_eq!(found.of("source", "fanotify"), ("ok", taken));
    let spare = "it works, for what the better ones cannot watch";
    assert_eq!(found.of("source", "inotify"), ("ok", spare));
    assert_eq!(found.of("source", "poll"), ("ok", spare));
    // That eBPF is passed over is said above.
    assert_eq!(found.only("watched_by"), ("ok", "fanotify", ""));

    let refuse = public(dir.path(), &REFUSE.path());
    let mut command = as_nobody(&refuse, "-all", &[]);
    let found = Diagnosis::by(command.args(["fanotify_init", "--"]).arg(&agent), &watch);
    assert_eq!(found.status, 0);
    let (status, detail) = found.of("source", "fanotify");
    assert_eq!(status, "note");
    assert!(detail.starts_with("passed over: fanotify is refused"), "{detail}");
    assert_eq!(found.of("source", "inotify").1, "it works, and `run` would take it");
    assert_eq!(found.only("watched_by"), ("ok", "inotify", ""));
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_source_that_is_insisted_on_must_work() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let watch = dir.path().to_str().unwrap();
    let insist = |source: &str| {
        let arguments = ["--watch", watch, "--source", source];
        Diagnosis::by(&mut as_nobody(&agent, "-all", &[]), &arguments)
    };
    let found = insist("ebpf");
    assert_eq!((found.status, found.bad()), (1, vec!["source"]));
    assert_eq!(found.of("source", "ebpf").0, "bad");
    found.assert_none("watched_by");
    for source in ["fanotify", "inotify", "poll"] {
        let found = insist(source);
        assert_eq!(found.status, 0, "{source}");
        assert!(found.of("source", source).1.ends_with(", and `run` would take it"), "{source}");
        assert_eq!(found.only("watched_by"), ("ok", source, ""));
    }
}

/// A filesystem that does not announce its changes is polled besides, and by `--source` it is refused.
#[test]
fn what_is_not_announced_is_polled() {
    let watch = ["--watch", "/proc/self/limits"];
    let found = Diagnosis::by(&mut command(), &watch);
    assert_eq!(found.status, 0);
    let (status, detail, _) = found.only("watched_by");
    assert_eq!(status, "note");
    let (sources, reason) = detail.split_once("; ").unwrap();
    assert!(sources.ends_with(", poll"), "{detail}");
    assert!(reason.contains("it lies on proc, whose content is made up"), "{detail}");
    assert_eq!(found.only("filesystem").0, "note");

    let insisted = [&watch[..], &["--source", "inotify"]].concat();
    let found = Diagnosis::by(&mut command(), &insisted);
    assert_eq!((found.status, found.bad()), (1, vec!["watched_by"]));
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn limits_that_are_used_up_are_told() {
    // The best is told of where it is enough.
    let found = Diagnosis::by(&mut limited(&[("max_inotify_instances", 0)]), &[]);
    assert_eq!(found.status, 0);
    assert!(found.of("source", "fanotify").1.ends_with(", and `run` would take it"));
    found.assert_none("inotify_instances");

    let none = [("max_inotify_instances", 0), ("max_fanotify_groups", 0)];
    let found = Diagnosis::by(&mut limited(&none), &["--watch", "/etc/passwd"]);
    assert_eq!(found.status, 0);
    assert_eq!(found.of("source", "poll").1, "it works, and `run` would take it");
    assert_eq!(found.only("watched_by").1, "poll");
    for (id, sysctl) in [
        ("fanotify_groups", "fs.fanotify.max_user_groups"),
        ("inotify_instances", "fs.inotify.max_user_instances"),
    ] {
        let (status, detail, remedy) = found.only(id);
        assert_eq!(status, "note");
        let expected = format!("{sysctl} allows 0 to this uid, counted across all containers");
        assert!(detail.contains(&expected), "{detail}");
        assert!(remedy.starts_with(&format!("sysctl {sysctl}=512 ")), "{remedy}");
    }
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn limits_that_the_paths_exceed_are_told() {
    let few = [("max_inotify_watches", 1), ("max_fanotify_marks", 1)];
    let check = |source: &str, id: &str, sysctl: &str| {
        let watch = ["--watch", "/etc/passwd", "--source", source];
        let found = Diagnosis::by(&mut limited(&few), &watch);
        assert_eq!((found.status, found.bad()), (1, vec!["watched_by"]));
        let (status, detail, _) = found.only(id);
        let expected =
            format!("{sysctl} allows 1 to this uid across all containers, and these paths need 3");
        assert_eq!((status, detail), ("note", expected.as_str()));
    };
    check("inotify", "inotify_watches", "fs.inotify.max_user_watches");
    check("fanotify", "fanotify_marks", "fs.fanotify.max_user_marks");

    // Without insisting, what is over the limit falls to the next.
    let found = Diagnosis::by(&mut limited(&few), &["--watch", "/etc/passwd"]);
    assert_eq!(found.status, 0);
    let (status, detail, _) = found.only("watched_by");
    assert_eq!(status, "note");
    assert!(detail.starts_with("fanotify, inotify, poll; "), "{detail}");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_doctor_leaves_nothing_behind() {
    let mounted = Filesystem::Tmpfs.mount_with(&[("app.conf", "0")]);
    let before = fs::metadata(&mounted.dir).unwrap().modified().unwrap();
    let found = Diagnosis::by(&mut command(), &["--watch", mounted.dir.to_str().unwrap()]);
    assert_eq!(found.status, 0);
    let names: Vec<_> =
        fs::read_dir(&mounted.dir).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["app.conf"]);
    assert_eq!(fs::metadata(&mounted.dir).unwrap().modified().unwrap(), before);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_low_limit_of_open_files_is_told() {
    let mut command = clean(Command::new("sh"));
    command.args(["-c", "ulimit -n 63; exec \"$@\"", "sh", AGENT]);
    let found = Diagnosis::by(&mut command, &[]);
    let (status, detail, _) = found.only("open_files");
    assert_eq!(status, "note");
    assert!(detail.starts_with("63 are allowed"), "{detail}");
}

/// As `run` does: a path is not given what another one has used up.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn several_paths_share_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a.conf", "b.conf", "c.conf"].map(|name| dir.path().join(name));
    for path in &paths {
        fs::write(path, "0").unwrap();
    }
    let watch = paths.each_ref().map(|path| ["--watch", path.to_str().unwrap()]);
    let found = Diagnosis::by(&mut command(), watch.as_flattened());
    let watchers = |found: &Diagnosis| -> Vec<_> {
        let text = |field: &serde_json::Value| field.as_str().unwrap().to_owned();
        let all = found.all("watched_by");
        all.iter().map(|it| (text(&it["status"]), text(&it["detail"]))).collect()
    };
    assert_eq!(watchers(&found), vec![("ok".to_owned(), "ebpf".to_owned()); 3]);

    // Enough for the directories on the way and one file.
    let enough = u32::try_from(paths[0].canonicalize().unwrap().ancestors().count()).unwrap();
    let limits = [("max_fanotify_groups", 0), ("max_inotify_watches", enough)];
    let found = Diagnosis::by(&mut limited(&limits), watch.as_flattened());
    let [first, second, third] = watchers(&found).try_into().unwrap();
    assert_eq!(first, ("ok".to_owned(), "inotify".to_owned()));
    let why = format!("inotify, poll; inotify: not enough for {}: ", paths[1].display());
    assert_eq!(second.0, "note");
    assert!(second.1.starts_with(&why), "{}", second.1);
    let above = "inotify, poll; why is told of a path above".to_owned();
    assert_eq!(third, ("note".to_owned(), above));
}
