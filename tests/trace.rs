//! `reload-agent trace` tells where the time of a change goes, truly and harmlessly.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    agent::command,
    kubelet::{Order, Volume, keys},
    nginx::{Nginx, WORKERS, server},
    process::Process,
    program::TIMER,
    source::Source,
    target::Recipe,
    time::{boot_ns, poll},
    trace::{Trace, count, moment, objects, os, renames_told},
    writer::{config, replace},
};

/// The stages are in the order of time, and each took what lies between it and the one before.
#[track_caller]
fn check_order(update: &Value) {
    let stages = update["stages"].as_array().unwrap();
    let times: Vec<_> = stages.iter().map(|it| it["at_us"].as_f64().unwrap()).collect();
    for (pair, stage) in times.windows(2).zip(&stages[1..]) {
        assert!(pair[0] <= pair[1], "{update:#}");
        // Each is rounded to a tenth.
        let took = stage["took_us"].as_f64().unwrap();
        assert!((pair[1] - pair[0] - took).abs() < 0.25, "{update:#}");
    }
    let steps = update["steps"].as_array().unwrap();
    assert!(steps.windows(2).all(|it| it[0]["at_us"].as_f64() <= it[1]["at_us"].as_f64()));
}

// The others tell nothing of processes.
promise!(each_stage_is_within_the_bounds_of_the_target_s_own_clock: ebpf);
fn each_stage_is_within_the_bounds_of_the_target_s_own_clock(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    for n in 1..=3 {
        let arguments = os(&["--format", "json", "--process", recipe.name(), "--count", "1"]);
        let arguments = arguments.iter().map(AsRef::as_ref);
        let watch = ["--watch".as_ref(), path.as_os_str()];
        let trace = Trace::start(source, &arguments.chain(watch).collect::<Vec<_>>());
        let before = boot_ns();
        replace(&path, &n.to_string());
        let swapped = boot_ns();
        kill_process(Pid::from_raw(target.pid).unwrap(), Signal::HUP).unwrap();
        let sent = boot_ns();
        let handled = target.signal();
        assert_eq!(handled.content, n.to_string());
        let (status, told) = trace.end(None);
        assert!(status.success());
        let (updates, summary) = objects(&told);
        assert_eq!((updates.len(), &summary["updates"]), (1, &1.into()));
        assert_eq!(summary["lost"], 0);

        let update = &updates[0];
        check_order(update);
        assert_eq!(update["paths"], serde_json::json!([path]));
        let swap = moment(update, "swapped");
        assert!((before..=swapped).contains(&swap), "{swap} in {before}..{swapped}: {update:#}");
        let signalled = moment(update, "signalled");
        assert!((swapped..=sent).contains(&signalled), "{swapped}..{sent}: {update:#}");
        let delivered = moment(update, "delivered");
        let handled = handled.at_ns;
        assert!((signalled..=handled).contains(&delivered), "before {handled}: {update:#}");
        assert!(moment(update, "opened") >= delivered, "{update:#}");
        let steps = update["steps"].as_array().unwrap();
        let of = |stage: &str| steps.iter().find(|it| it["stage"] == stage).unwrap();
        assert_eq!(of("signalled")["pid"], std::process::id());
        assert_eq!(of("delivered")["pid"], target.pid);
        assert_eq!(of("opened")["pid"], target.pid);
        let what = of("signalled")["what"].as_str().unwrap();
        assert!(what.starts_with("HUP, queued, to "), "{what}");
        assert!(what.ends_with(&format!(" ({})", target.pid)), "{what}");
    }
}

// Only there it is known who has it open, and so when a write is complete.
promise!(a_write_in_place_is_told_from_its_beginning_to_its_end: ebpf);
fn a_write_in_place_is_told_from_its_beginning_to_its_end(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let arguments = os(&["--format", "json", "--count", "1", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]);
    let trace = Trace::start(source, &arguments.collect::<Vec<_>>());
    let before = boot_ns();
    fs::write(&path, "1").unwrap();
    let after = boot_ns();
    let (status, told) = trace.end(None);
    assert!(status.success());
    let (updates, _) = objects(&told);
    let update = &updates[0];
    check_order(update);
    assert_eq!(update["paths"], serde_json::json!([path]));
    let mut moments = vec![before, moment(update, "first_write"), moment(update, "last_write")];
    if update["strategy"] == "trampoline" {
        moments.push(moment(update, "closed"));
    } else {
        let hidden = update["not_visible"].as_array().unwrap();
        assert!(hidden.iter().any(|it| it["stage"] == "closed"), "{update:#}");
    }
    moments.push(after);
    assert!(moments.is_sorted(), "{moments:?}: {update:#}");
}

promise!(a_real_nginx_is_followed_to_the_end_of_its_old_workers: ebpf);
fn a_real_nginx_is_followed_to_the_end_of_its_old_workers(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let servers = dir.path().join("servers");
    fs::create_dir(&servers).unwrap();
    let state = |n: u32| server(&servers, &format!("revision {n}"));
    let mut volume = Volume::mount(&servers, Order::ALL[0], keys(&[("app.conf", &state(1))]));
    let nginx = Nginx::start(&servers);
    let workers = nginx.workers();
    let path = servers.join("app.conf");
    let arguments = os(&["--format", "json", "--process", nginx.name(), "--count", "1", "--watch"]);
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]).collect();
    let trace = Trace::start(source, &arguments);

    volume.update(keys(&[("app.conf", &state(2))]));
    kill_process(Pid::from_raw(nginx.pid()).unwrap(), Signal::HUP).unwrap();
    poll("nginx serves the new revision", || nginx.get().filter(|body| body == "revision 2"));
    let (status, told) = trace.end(None);
    assert!(status.success());
    let (updates, _) = objects(&told);
    let update = &updates[0];
    check_order(update);
    let order = ["swapped", "signalled", "delivered", "opened", "forked", "exited"];
    let moments = order.map(|stage| moment(update, stage));
    assert!(moments.is_sorted(), "{update:#}");
    let steps = update["steps"].as_array().unwrap();
    let ended = steps.iter().filter(|it| it["stage"] == "exited").count();
    assert_eq!(ended, WORKERS, "{workers:?}: {update:#}");
}

promise!(updates_in_a_row_have_each_its_own_steps: ebpf);
/// Where the trace has no time between them some are told of as one; but nothing is told twice or not at all,
/// and what is done because of a change is told of with it or later.
fn updates_in_a_row_have_each_its_own_steps(source: Source) {
    /// As many as one update has room for, should all of them be told of as one.
    const UPDATES: u64 = 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let arguments = os(&["--format", "json", "--process", recipe.name()]);
    let arguments = arguments.iter().map(AsRef::as_ref);
    let watch = ["--watch".as_ref(), path.as_os_str()];
    let trace = Trace::start(source, &arguments.chain(watch).collect::<Vec<_>>());
    for n in 1..=UPDATES {
        replace(&path, &n.to_string());
        kill_process(Pid::from_raw(target.pid).unwrap(), Signal::HUP).unwrap();
        assert_eq!(target.signal().content, n.to_string());
    }
    let (status, told) = trace.end(Some(Signal::INT));
    assert!(status.success());
    let (updates, summary) = objects(&told);
    assert_eq!(summary["lost"], 0);
    let each = renames_told(&updates[0]);
    let so_far = |stage: &str, end: usize| -> u64 {
        updates[..end].iter().map(|update| count(update, stage)).sum()
    };
    for end in 1..=updates.len() {
        let [swapped, signalled, delivered] =
            ["swapped", "signalled", "delivered"].map(|stage| so_far(stage, end));
        assert!(swapped >= each * signalled && signalled >= delivered, "{:#}", updates[end - 1]);
    }
    let all = ["swapped", "signalled", "delivered"].map(|stage| so_far(stage, updates.len()));
    assert_eq!(all, [each * UPDATES, UPDATES, UPDATES], "{updates:#?}");
}

promise!(a_file_that_is_gone_is_not_told_to_be_unchanged);
fn a_file_that_is_gone_is_not_told_to_be_unchanged(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    let arguments = os(&["--format", "json", "--count", "1", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]);
    let trace = Trace::start(source, &arguments.collect::<Vec<_>>());
    fs::remove_file(&path).unwrap();
    let (status, told) = trace.end(None);
    assert!(status.success());
    let (updates, summary) = objects(&told);
    let gone = format!("{} is gone", path.display());
    assert_eq!(updates[0]["obstacles"], serde_json::json!([gone]), "{:#}", updates[0]);
    assert_eq!((&updates[0]["unchanged"], &summary["unchanged"]), (&false.into(), &0.into()));
}

promise!(it_ends_after_as_many_updates_as_are_wanted_though_the_writer_goes_on);
fn it_ends_after_as_many_updates_as_are_wanted_though_the_writer_goes_on(source: Source) {
    let (dir, path) = config();
    let output = dir.path().join("told.json");
    let arguments = os(&["--format", "json", "--count", "2", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref);
    let rest = [path.as_os_str(), "--output".as_ref(), output.as_os_str()];
    let mut trace = Trace::start(source, &arguments.chain(rest).collect::<Vec<_>>());
    let mut revision = 0;
    poll("the trace ends", || {
        revision += 1;
        replace(&path, &revision.to_string());
        (!trace.lives()).then_some(())
    });
    let (status, _) = trace.end(None);
    assert!(status.success());
    let (updates, summary) = objects(&fs::read(&output).unwrap());
    assert_eq!((updates.len(), &summary["updates"]), (2, &2.into()));
}

promise!(whoever_started_after_the_trace_is_no_old_child_that_is_waited_for: ebpf);
/// Of two changes the first makes one wait for an old child that stays. The second does not, for its target is
/// nobody's child.
fn whoever_started_after_the_trace_is_no_old_child_that_is_waited_for(source: Source) {
    let begin = |recipe: &Recipe, path: &Path| {
        let arguments = os(&["--format", "json", "--process", recipe.name(), "--count", "1"]);
        let arguments = arguments.iter().map(AsRef::as_ref);
        let watch = ["--watch".as_ref(), path.as_os_str()];
        Trace::start(source, &arguments.chain(watch).collect::<Vec<_>>())
    };
    let (_early_dir, early_path) = config();
    let early = Recipe::new().reading(&early_path).reader("child").workers(1);
    let mut early_target = early.start();
    let early_trace = begin(&early, &early_path);
    let (_late_dir, late_path) = config();
    let late = Recipe::new().reading(&late_path).reader("child");
    let late_trace = begin(&late, &late_path);
    let mut late_target = late.start();
    for (target, path) in [(&mut early_target, &early_path), (&mut late_target, &late_path)] {
        replace(path, "1");
        kill_process(Pid::from_raw(target.pid).unwrap(), Signal::HUP).unwrap();
        assert_eq!(target.signal().content, "1");
    }

    // Whoever is waited for and does not end is named; and where nobody is, it is over sooner.
    let remaining = |trace: Trace, path: &Path| {
        let (status, told) = trace.end(None);
        assert!(status.success());
        let (updates, _) = objects(&told);
        assert_eq!(updates[0]["paths"], serde_json::json!([path]));
        assert_eq!(count(&updates[0], "forked"), 1, "{:#}", updates[0]);
        let remaining = updates[0]["remaining"].as_array().unwrap().len();
        (remaining, updates[0]["followed_us"].as_f64().unwrap())
    };
    let [late, early] = [(late_trace, &late_path), (early_trace, &early_path)]
        .map(|(trace, path)| remaining(trace, path));
    assert_eq!([late.0, early.0], [0, 1]);
    assert!(late.1 < early.1, "{late:?}, {early:?}");
    assert!(early_target.lives() && late_target.lives());
}

promise!(a_file_that_is_watched_twice_is_told_of_once);
fn a_file_that_is_watched_twice_is_told_of_once(source: Source) {
    let (dir, path) = config();
    let arguments = os(&["--format", "json", "--count", "1"]);
    let arguments = arguments.iter().map(AsRef::as_ref);
    let watch = ["--watch".as_ref(), dir.path().as_os_str(), "--watch".as_ref(), path.as_os_str()];
    let trace = Trace::start(source, &arguments.chain(watch).collect::<Vec<_>>());
    fs::write(&path, "1").unwrap();
    let (status, told) = trace.end(None);
    assert!(status.success());
    let (updates, _) = objects(&told);
    assert_eq!(updates[0]["paths"], serde_json::json!([path]), "{:#}", updates[0]);
}

const FORMATS: [&str; 4] = ["text", "json", "chrome", "html"];

promise!(hostile_names_do_no_harm);
fn hostile_names_do_no_harm(source: Source) {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let name: &[u8] = b"<script>alert(1)</script>\"'&\n\x1b[31m\xff\xe2\x80\xae.conf";
        let name = name.iter().copied().filter(|&it| it != b'/').collect::<Vec<_>>();
        let path = dir.path().join(std::ffi::OsStr::from_bytes(&name));
        fs::write(&path, "0").unwrap();
        let process = PathBuf::from(dir.path()).join("<b>\n\x1b[1m");
        fs::hard_link("/bin/dash", &process)
            .or_else(|_| fs::copy("/bin/dash", &process).map(drop))
            .unwrap();
        let arguments = os(&["--format", format, "--count", "1", "--watch"]);
        let arguments: Vec<_> =
            arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]).collect();
        let trace = Trace::start(source, &arguments);
        let mut writer = Command::new(&process);
        writer.args(["-c", "echo 1 >\"$1\"; echo 22 >\"$1\"", "sh"]).arg(&path);
        support::process::run(&mut writer);
        let (status, told) = trace.end(None);
        assert!(status.success(), "{format}");
        check_harmless(format, &told);
    }
}

#[track_caller]
fn check_harmless(format: &str, told: &[u8]) {
    let text = str::from_utf8(told).expect("what is told is UTF-8");
    assert!(text.contains("script"), "the update is told: {text}");
    let is_fine = |it: char| it == '\n' || !it.is_control();
    assert!(text.chars().all(is_fine), "{format}: {text:?}");
    match format {
        "text" => assert!(!text.contains('\u{202e}'), "{text}"),
        "json" => drop(objects(told)),
        "chrome" => check_chrome(told),
        _ => {
            assert!(!text.contains("<script>"), "{text}");
            assert!(text.contains("&lt;script&gt;"), "{text}");
        }
    }
}

/// Checks what the format demands of each event.
#[track_caller]
fn check_chrome(told: &[u8]) {
    let trace: Value = serde_json::from_slice(told).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(!events.is_empty());
    for event in events {
        assert!(
            event["name"].is_string() && event["pid"].is_i64() && event["tid"].is_u64()
                || event["tid"].is_i64(),
            "{event}"
        );
        match event["ph"].as_str().unwrap() {
            "M" => assert!(event["args"]["name"].is_string(), "{event}"),
            "X" => assert!(event["ts"].is_f64() && event["dur"].as_f64() >= Some(0.0), "{event}"),
            "i" => {
                assert!(event["ts"].is_f64() && ["g", "p"].contains(&event["s"].as_str().unwrap()));
            }
            other => panic!("{other}: {event}"),
        }
    }
}

// Only there it is known who sends a signal.
promise!(a_signal_of_a_timer_is_sent_by_nobody_who_runs: ebpf);
fn a_signal_of_a_timer_is_sent_by_nobody_who_runs(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    // Somebody else runs wherever the timer interrupts.
    let busy = || Process::spawn(Command::new("sh").args(["-c", "while :; do :; done"]));
    let busy: Vec<_> =
        (0..thread::available_parallelism().unwrap().get()).map(|_| busy()).collect();
    let mut timer = Command::new(TIMER.path());
    let mut timer = Process::spawn(timer.stdin(Stdio::piped()).stdout(Stdio::piped()));
    BufReader::new(timer.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let arguments = os(&["--format", "json", "--process", "timer", "--count", "1", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]);
    let trace = Trace::start(source, &arguments.collect::<Vec<_>>());
    replace(&path, "1");
    let (status, told) = trace.end(None);
    assert!(status.success());
    drop((busy, timer));
    let (updates, _) = objects(&told);
    let steps = updates[0]["steps"].as_array().unwrap();
    let alarms = steps.iter().filter(|it| it["what"].as_str().unwrap().starts_with("ALRM,"));
    let (all, sent): (Vec<_>, Vec<_>) =
        alarms.map(|it| (it, !it["pid"].is_null() || it["stage"] == "signalled")).unzip();
    assert!(!all.is_empty(), "{:#}", updates[0]);
    assert!(!sent.contains(&true), "{all:#?}");
}

promise!(a_file_that_is_made_anew_was_written_where_nobody_could_see_it: ebpf, fanotify, inotify);
fn a_file_that_is_made_anew_was_written_where_nobody_could_see_it(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    // It keeps its number, so that the one made anew gets another.
    fs::hard_link(&path, dir.path().join("kept")).unwrap();
    let arguments = os(&["--format", "json", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref).chain([path.as_os_str()]);
    let mut trace = Trace::start(source, &arguments.collect::<Vec<_>>());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "1").unwrap();
    // That it is gone, and that it is empty, may each be told of first.
    let update = trace.update_of(&path);
    let hidden = update["not_visible"].as_array().unwrap();
    let reason = hidden.iter().find(|it| it["stage"] == "first_write").map(|it| &it["reason"]);
    let is_seen =
        update["stages"].as_array().unwrap().iter().any(|it| it["stage"] == "first_write");
    assert!(
        is_seen || reason.is_some_and(|it| it.as_str().unwrap().contains("made anew")),
        "{update:#}"
    );
}

promise!(whoever_interrupts_it_gets_the_summary);
fn whoever_interrupts_it_gets_the_summary(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let arguments = os(&["--format", "json", "--watch"]);
    let arguments = arguments.iter().map(AsRef::as_ref).chain([dir.path().as_os_str()]);
    let trace = Trace::start(source, &arguments.collect::<Vec<_>>());
    let (status, told) = trace.end(Some(Signal::INT));
    assert!(status.success());
    let (updates, summary) = objects(&told);
    assert_eq!((updates.len(), &summary["updates"]), (0, &0.into()));
}

#[test]
fn a_mistake_is_named_with_its_remedy() {
    let check = |arguments: &[&str], message: &str| {
        let output = command().arg("trace").args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, format!("reload-agent: {message}\n"), "for {arguments:?}");
    };
    check(
        &[],
        "the following required arguments were not provided: --watch <PATH>; see `reload-agent trace \
         --help`",
    );
    check(
        &["--watch", "/dev/null"],
        "cannot watch /dev/null: /dev/null is neither a regular file nor a directory; give --watch a \
         file or directory that can be read",
    );
    check(
        &["--watch", "/etc", "--output", "/nowhere/a"],
        "cannot write to /nowhere/a: No such file or directory (os error 2)",
    );
    assert!(!Path::new("/nowhere").exists());
    check(
        &["--watch", "/etc", "--process", ""],
        "--process is empty; give the name of a process, as in /proc/<pid>/comm",
    );
    check(
        &["--watch", "/etc", "--for", "0s"],
        "invalid value '0s' for '--for <DURATION>': write more than nothing, as 250ms, 2s or 1m; see \
         `reload-agent trace --help`",
    );
    check(
        &["--watch", "/etc/passwd", "--output", "/etc/../etc/passwd"],
        "--output /etc/../etc/passwd is watched itself; give it another file",
    );
}
