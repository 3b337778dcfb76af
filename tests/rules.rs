//! A change of the file with rules is applied without a restart, and nothing is lost over it.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    collections::BTreeSet, fs, io::Write as _, os::unix::fs::MetadataExt as _, path::Path,
    process::Command,
};

use rustix::process::Signal;

use crate::support::{
    agent::{Agent, Event, command, count, names, rules_arguments, run_to_end},
    kubelet::{Order, Volume, keys},
    process::run,
    rules::{Home, inotify_inodes, text},
    source::Source,
    target::{Recipe, Running},
    time::poll,
    writer::{printed, replace},
};

const SIGUSR1: i32 = 10;

/// The source looks at nothing that it has no reason to look at.
const QUIET: [&str; 2] = ["--reconcile", "1h"];

fn is(event: &Event, name: &str, rule: &str) -> bool {
    event.name() == name && event.text("rule") == rule
}

/// The names of the rules that are in force.
fn in_force(event: &Event) -> Vec<&str> {
    event.field("rules").as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

promise!(each_rule_reloads_its_own);
fn each_rule_reloads_its_own(source: Source) {
    let home = Home::new(&["a", "b"]);
    let recipes = ["a", "b"].map(|file| Recipe::new().reading(&home.file(file)));
    let rules = home.write(&[
        home.rule("a", "a", recipes[0].name(), &[]),
        home.rule("b", "b", recipes[1].name(), &[]),
    ]);
    let mut targets = recipes.each_ref().map(Recipe::start);
    let mut agent = Agent::with_rules(source, &rules, &QUIET);
    for (file, target) in ["a", "b"].into_iter().zip(&mut targets) {
        replace(&home.file(file), "1");
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        assert!(is(&events[1], "reloaded", file) && events[1].pid() == target.pid, "{events:?}");
        assert_eq!(target.signal().content, "1");
    }
    let others = targets.each_mut().map(Running::signals_at_hand);
    assert_eq!(others, [[], []]);
}

promise!(every_way_to_edit_the_file_is_heeded);
fn every_way_to_edit_the_file_is_heeded(source: Source) {
    type Way = (&'static str, fn(&Path, &str));
    let ways: [Way; 4] = [
        ("in place", |path, text| fs::write(path, text).unwrap()),
        ("renamed over it", replace),
        ("sed -i", |path, text| {
            // A line of the old text, as it is in all of them.
            let text = text.strip_prefix("rules:\n").unwrap().trim_end().replace('\n', "\\n");
            let script = format!("1s|$|\n{text}|;2,$d");
            let script = script.replacen('\n', "\\n", 1);
            run(Command::new("sed").args(["-i", "-e", &script]).arg(path));
        }),
        ("removed and made anew", |path, text| {
            fs::remove_file(path).unwrap();
            fs::write(path, text).unwrap();
        }),
    ];
    let home = Home::new(&["a", "b"]);
    let recipe = Recipe::new();
    let rules = [home.rule("a", "a", recipe.name(), &[]), home.rule("b", "b", recipe.name(), &[])];
    let config = home.write(&rules[..1]);
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    let mut round = 0;
    for (what, edit) in ways {
        println!("--- {what}");
        for (rules, expected) in [(&rules[..], &["a", "b"][..]), (&rules[..1], &["a"])] {
            edit(&config, &text(rules));
            agent.until(what, |event| {
                event.name() == "rules"
                    && event.field("error").is_null()
                    && in_force(event) == expected
            });
            round += 1;
            for file in expected {
                replace(&home.file(file), &round.to_string());
                agent.until(file, |event| is(event, "reloaded", file));
                target.signal();
            }
        }
    }
}

// The others cannot tell that a file which was made before they watched it is still being written.
promise!(rules_are_heeded_when_they_are_complete: ebpf);
/// Whoever makes the file anew is waited for, whatever rules there are in the first half of it.
fn rules_are_heeded_when_they_are_complete(source: Source) {
    let home = Home::new(&["a", "b", "c"]);
    let recipe = Recipe::new();
    let rules = ["a", "b", "c"].map(|name| home.rule(name, name, recipe.name(), &[]));
    let config = home.write(&rules[..2]);
    let mut target = recipe.start();
    // Whoever writes is waited for, however long a busy machine takes.
    let options = [&QUIET[..], &["--settle-max", "1m"]].concat();
    let mut agent = Agent::with_rules(source, &config, &options);
    for round in 1..=source.rounds(5) {
        for rules in [&rules[..], &rules[..2]] {
            fs::remove_file(&config).unwrap();
            let mut file = fs::File::create_new(&config).unwrap();
            let (first, rest) = (text(&rules[..1]), text(rules));
            file.write_all(first.as_bytes()).unwrap();
            // The agent has seen that much.
            replace(&home.file("b"), &format!("{round} of {}", rules.len()));
            agent.until("b", |event| is(event, "reloaded", "b"));
            target.signal();
            file.write_all(rest.strip_prefix(&first).unwrap().as_bytes()).unwrap();
            drop(file);
            let events = agent.heeds_rules();
            assert_eq!(names(&events), ["rules"], "it is read once: {events:?}");
            assert_eq!(in_force(&events[0]).len(), rules.len());
        }
    }
}

promise!(rules_in_a_volume_are_heeded);
/// The file with rules is itself mounted of a `ConfigMap`.
fn rules_in_a_volume_are_heeded(source: Source) {
    let home = Home::new(&["a", "b"]);
    let recipe = Recipe::new();
    let rules = [home.rule("a", "a", recipe.name(), &[]), home.rule("b", "b", recipe.name(), &[])];
    let dir = home.file("volume");
    fs::create_dir(&dir).unwrap();
    let in_volume = |rules: &[String]| keys(&[("rules.yaml", &text(rules)), ("else", "0")]);
    let mut volume = Volume::mount(&dir, Order::NamesLast, in_volume(&rules[..1]));
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &dir.join("rules.yaml"), &QUIET);
    for round in 1..=source.rounds(5) {
        for (rules, expected) in [(&rules[..], &["a", "b"][..]), (&rules[..1], &["a"])] {
            volume.update(in_volume(rules));
            let events = agent.heeds_rules();
            assert_eq!(names(&events), ["rules"], "it is read once: {events:?}");
            assert_eq!(in_force(&events[0]), expected);
            for file in expected {
                replace(&home.file(file), &format!("{round} of {}", expected.len()));
                agent.until(file, |event| is(event, "reloaded", file));
                target.signal();
            }
        }
    }
}

promise!(a_rule_that_is_gone_signals_nobody_and_watches_nothing: inotify);
/// What a process watches by inotify, everybody can see. How much that is changes by itself: directories
/// above are watched for one event at a time.
fn a_rule_that_is_gone_signals_nobody_and_watches_nothing(source: Source) {
    let home = Home::new(&["a", "b"]);
    let many = (0..20).map(|n| home.file(&format!("dir-{n}")));
    let many: Vec<_> = many.map(|dir| dir.to_str().unwrap().to_owned()).collect();
    for dir in &many {
        fs::create_dir(dir).unwrap();
        fs::write(Path::new(dir).join("x"), "0").unwrap();
    }
    let recipe = Recipe::new();
    let stays = home.rule("a", "a", recipe.name(), &[]);
    let goes = format!("name: many, watch: [{}], process: {}", many.join(", "), recipe.name());
    let config = home.write(std::slice::from_ref(&stays));
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let dirs: BTreeSet<_> = many.iter().map(|dir| inode(Path::new(dir))).collect();
    let files = many.iter().map(|dir| inode(&Path::new(dir).join("x")));
    let all: BTreeSet<_> = files.chain(dirs.iter().copied()).collect();
    assert!(inotify_inodes(agent.pid()).is_disjoint(&all));

    for _ in 0..3 {
        home.write(&[stays.clone(), goes.clone()]);
        agent.heeds_rules();
        let with_many = inotify_inodes(agent.pid());
        assert!(with_many.is_superset(&dirs), "{with_many:?} are watched, and not all of {dirs:?}");
        home.write(std::slice::from_ref(&stays));
        agent.heeds_rules();
        poll("the watches are released", || {
            inotify_inodes(agent.pid()).is_disjoint(&all).then_some(())
        });
    }
    for dir in &many {
        replace(&Path::new(dir).join("x"), "1");
    }
    replace(&home.file("a"), "1");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
    target.signal();
    assert_eq!(target.signals_at_hand(), []);
}

promise!(another_watch_is_watched_from_then_on);
fn another_watch_is_watched_from_then_on(source: Source) {
    let home = Home::new(&["a", "b"]);
    let recipe = Recipe::new().reading(&home.file("b"));
    let config = home.write(&[home.rule("x", "a", recipe.name(), &[])]);
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    replace(&home.file("a"), "1");
    agent.wait_for("reloaded");
    target.signal();

    home.write(&[home.rule("x", "b", recipe.name(), &[])]);
    let events = agent.heeds_rules();
    assert_eq!(count(&events, "reloaded"), 0, "{events:?}");
    replace(&home.file("a"), "2");
    replace(&home.file("b"), "2");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "an edit is no change: {events:?}");
    assert_eq!(events[0].paths(), [home.file("b").to_str().unwrap()]);
    assert_eq!(target.signal().content, "2");
    assert_eq!(target.signals_at_hand(), []);
}

/// A target of a rule `x` with these keys, and the agent.
fn scene(source: Source, recipe: Recipe, keys: &[&str]) -> (Home, Recipe, Running, Agent) {
    let home = Home::new(&["a"]);
    let recipe = recipe.reading(&home.file("a"));
    let config = home.write(&[home.rule("x", "a", recipe.name(), keys)]);
    let target = recipe.start();
    (home, recipe, target, Agent::with_rules(source, &config, &QUIET))
}

promise!(two_rules_in_the_place_of_one_both_reload: inotify);
/// On the same path: only one of them can take over what is watched for it already.
fn two_rules_in_the_place_of_one_both_reload(source: Source) {
    let home = Home::new(&["a"]);
    let recipes = [Recipe::new(), Recipe::new()];
    let mut targets = recipes.each_ref().map(Recipe::start);
    let config = home.write(&[home.rule("one", "a", recipes[0].name(), &[])]);
    let mut agent = Agent::with_rules(source, &config, &QUIET);

    let rules = [("two", &recipes[0]), ("three", &recipes[1])];
    let rules = rules.map(|(name, recipe)| home.rule(name, "a", recipe.name(), &[]));
    replace(&config, &text(&rules));
    agent.heeds_rules();
    replace(&home.file("a"), "1");

    for target in &mut targets {
        target.signal();
    }
}

promise!(another_signal_is_for_the_next_change);
/// What a process has been given by one signal it is not given again by another.
fn another_signal_is_for_the_next_change(source: Source) {
    let (home, recipe, mut target, mut agent) =
        scene(source, Recipe::new().other_signal(SIGUSR1), &[]);
    replace(&home.file("a"), "1");
    agent.wait_for("reloaded");
    target.signal();

    home.write(&[home.rule("x", "a", recipe.name(), &["signal: USR1"])]);
    agent.heeds_rules();
    replace(&home.file("a"), "2");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
    assert_eq!(events[1].text("signal"), "USR1");
    assert_eq!(target.signal().content, "2");
    assert_eq!(target.signals_at_hand(), []);
}

promise!(what_was_refused_is_given_by_another_signal);
/// The remedy for a signal that a process does not catch is another one, which it gets at once.
fn what_was_refused_is_given_by_another_signal(source: Source) {
    let (home, recipe, mut target, mut agent) =
        scene(source, Recipe::new().signal(SIGUSR1), &["handlerTimeout: 0s"]);
    replace(&home.file("a"), "1");
    agent.wait_for("refused");

    home.write(&[home.rule("x", "a", recipe.name(), &["signal: USR1"])]);
    agent.heeds_rules();
    assert_eq!(agent.wait_for("reloaded").text("signal"), "USR1");
    assert_eq!(target.signal().content, "1");
}

promise!(what_has_failed_is_still_owed);
fn what_has_failed_is_still_owed(source: Source) {
    let home = Home::new(&["a"]);
    let flag = home.file("flag");
    let watch = format!("name: x, watch: {}", home.file("a").display());
    let exec = |flag: &Path| format!("{watch}, exec: [test, -e, {}]", flag.display());
    let config = home.write(&[exec(&flag)]);
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    replace(&home.file("a"), "1");
    agent.wait_for("failed");
    // The same action.
    home.write(&[exec(&flag) + ", settle: 50ms"]);
    agent.heeds_rules();
    agent.wait_for("failed");
    // Another one.
    home.write(&[exec(&home.file("a"))]);
    agent.heeds_rules();
    agent.wait_for("reloaded");
    // And nothing is owed any more.
    home.write(&[exec(&home.file("rules"))]);
    agent.heeds_rules();
    replace(&home.file("a"), "2");
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
}

promise!(an_interval_goes_on_over_an_edit);
/// What waits for the end of an interval waits on, unless it is the interval that is edited.
fn an_interval_goes_on_over_an_edit(source: Source) {
    let home = Home::new(&["a", "fence"]);
    let recipe = Recipe::new().reading(&home.file("a"));
    let fence = Recipe::new();
    let write = |keys: &[&str]| {
        home.write(&[
            home.rule("x", "a", recipe.name(), keys),
            home.rule("fence", "fence", fence.name(), &[]),
        ])
    };
    let config = write(&["minInterval: 1h"]);
    let mut targets = [recipe.start(), fence.start()];
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    replace(&home.file("a"), "1");
    agent.wait_for("reloaded");
    targets[0].signal();
    replace(&home.file("a"), "2");

    write(&["minInterval: 1h", "settle: 50ms"]);
    agent.heeds_rules();
    for round in ["1", "2"] {
        replace(&home.file("fence"), round);
        let events = agent.until("fence", |event| is(event, "reloaded", "fence"));
        assert_eq!(count(&events, "reloaded"), 1, "{events:?}");
        source.let_look();
    }
    assert_eq!(targets[0].signals_at_hand(), []);

    write(&[]);
    agent.heeds_rules();
    agent.until("x", |event| is(event, "reloaded", "x"));
    assert_eq!(targets[0].signal().content, "2");
}

promise!(a_reload_is_confirmed_over_an_edit);
fn a_reload_is_confirmed_over_an_edit(source: Source) {
    let home = Home::new(&["a"]);
    let recipe = Recipe::new();
    let write = |keys: &[&str]| home.write(&[home.rule("x", "a", recipe.name(), keys)]);
    let config = write(&["confirmTimeout: 1h"]);
    let target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    replace(&home.file("a"), "1");
    agent.wait_for("reloaded");
    write(&["confirmTimeout: 1h", "settle: 50ms"]);
    agent.heeds_rules();
    target.kill();
    let failed = agent.wait_for("failed");
    assert!(failed.text("reason").starts_with("after the reload"), "{failed}");
    assert_eq!((failed.text("what"), failed.field("retry_ms").is_null()), ("ended", true));
}

promise!(a_bad_file_is_told_of_and_the_rules_stay);
fn a_bad_file_is_told_of_and_the_rules_stay(source: Source) {
    let home = Home::new(&["a", "b"]);
    let recipe = Recipe::new();
    let good = home.rule("a", "a", recipe.name(), &[]);
    let other = home.rule("b", "b", recipe.name(), &[]);
    let config = home.write(std::slice::from_ref(&good));
    let file = home.file("a");
    symlink_loop(&home.file("loop"));
    let bad = [
        ("rules: [\n".to_owned(), "{rules}:1:8: unclosed bracket"),
        (text(&[good.clone() + ", signl: HUP"]), "{rules}:2:"),
        (
            text(&[other.clone(), good.clone(), good.clone()]),
            "{rules}:4:3: rule a: the rule on line 3",
        ),
        (
            text(&[good.clone(), home.rule("b", "loop", recipe.name(), &[])]),
            "cannot watch {dir}/loop: ",
        ),
        (String::new(), "there are no rules in {rules}; give at least one, below `rules:`"),
        ("\0".to_owned(), "{rules}:1:1: "),
        (
            text(&[good.clone() + ", signal: HUPP"]),
            "{rules}:2:3: rule a: signal \"HUPP\" is no signal",
        ),
    ];
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    let mut round = 0;
    for (bad, expected) in bad {
        println!("--- {bad:?}");
        fs::write(&config, &bad).unwrap();
        let rules = agent.wait_for("rules");
        let expected = expected
            .replace("{rules}", config.to_str().unwrap())
            .replace("{dir}", file.parent().unwrap().to_str().unwrap());
        assert!(rules.text("error").starts_with(&expected), "{rules}, not {expected}");
        assert_eq!(rules.text("level"), "warn");
        assert_eq!(in_force(&rules), ["a"]);
        // They still work.
        round += 1;
        replace(&file, &round.to_string());
        let events = agent.events_until("reloaded");
        assert_eq!(names(&events), ["changed", "reloaded"], "{events:?}");
        target.signal();
        // The next good one is heeded.
        fs::write(&config, text(&[good.clone(), other.clone()])).unwrap();
        assert_eq!(in_force(agent.heeds_rules().last().unwrap()), ["a", "b"]);
        fs::write(&config, text(std::slice::from_ref(&good))).unwrap();
        assert_eq!(in_force(agent.heeds_rules().last().unwrap()), ["a"]);
    }
}

/// Makes a path that leads nowhere.
fn symlink_loop(path: &Path) {
    std::os::unix::fs::symlink(path, path).unwrap();
}

promise!(a_file_that_comes_back_as_it_was_is_told_of);
fn a_file_that_comes_back_as_it_was_is_told_of(source: Source) {
    let home = Home::new(&["a"]);
    let recipe = Recipe::new();
    let config = home.write(&[home.rule("a", "a", recipe.name(), &[])]);
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    let aside = home.file("aside");
    fs::rename(&config, &aside).unwrap();
    assert!(!agent.wait_for("rules").field("error").is_null());
    fs::rename(&aside, &config).unwrap();
    let events = agent.heeds_rules();
    assert_eq!(in_force(events.last().unwrap()), ["a"]);
    replace(&home.file("a"), "1");
    agent.wait_for("reloaded");
    target.signal();
}

promise!(a_hangup_reads_the_rules_again);
/// Whoever sends one is told what came of it, also where the rules are what they were.
fn a_hangup_reads_the_rules_again(source: Source) {
    let home = Home::new(&["a"]);
    let recipe = Recipe::new();
    let config = home.write(&[home.rule("a", "a", recipe.name(), &[])]);
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    for _ in 0..2 {
        agent.hang_up();
        let rules = agent.wait_for("rules");
        assert_eq!(rules.text("path"), config.to_str().unwrap());
        assert!(rules.field("error").is_null(), "{rules}");
        assert_eq!(in_force(&rules), ["a"]);
    }

    let mut agent = Agent::with(source, &home.file("a"), recipe.name(), &QUIET);
    agent.hang_up();
    let rules = agent.wait_for("rules");
    assert!(rules.field("path").is_null() && rules.field("error").is_null(), "{rules}");
    assert_eq!((rules.text("level"), in_force(&rules)), ("info", vec![recipe.name()]));
    let (status, _events) = agent.stop(Signal::TERM);
    assert_eq!(status.code(), Some(0));
}

promise!(a_file_that_goes_and_comes_back_is_heeded);
fn a_file_that_goes_and_comes_back_is_heeded(source: Source) {
    let home = Home::new(&["a", "b"]);
    let recipe = Recipe::new();
    let rules = [home.rule("a", "a", recipe.name(), &[]), home.rule("b", "b", recipe.name(), &[])];
    let config = home.write(&rules[..1]);
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    for round in 1..=source.rounds(5) {
        fs::remove_file(&config).unwrap();
        let missing = agent.wait_for("rules");
        let expected = format!("cannot read the rules in {}: No such file", config.display());
        assert!(missing.text("error").starts_with(&expected), "{missing}");
        assert_eq!((missing.text("level"), in_force(&missing)), ("warn", vec!["a"]));
        replace(&home.file("a"), &format!("{round} without"));
        agent.until("a", |event| is(event, "reloaded", "a"));
        target.signal();
        // The same, and others.
        home.write(&rules);
        agent.until("both", |event| {
            event.name() == "rules" && event.field("error").is_null() && in_force(event).len() == 2
        });
        replace(&home.file("b"), &format!("{round} with"));
        agent.until("b", |event| is(event, "reloaded", "b"));
        target.signal();
        home.write(&rules[..1]);
        agent.heeds_rules();
    }
}

promise!(a_change_at_the_moment_of_an_edit_is_not_lost);
fn a_change_at_the_moment_of_an_edit_is_not_lost(source: Source) {
    let home = Home::new(&["a", "b"]);
    let recipe = Recipe::new().reading(&home.file("a"));
    let other = home.rule("b", "b", recipe.name(), &[]);
    let keys: [&[&str]; 4] =
        [&[], &["settle: 50ms"], &["handlerTimeout: 3s"], &["minInterval: 10ms"]];
    let config = home.write(&[home.rule("a", "a", recipe.name(), &[])]);
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    for round in 1..=source.rounds(100) {
        let mut rules = vec![home.rule("a", "a", recipe.name(), keys[round as usize % keys.len()])];
        if round % 3 == 0 {
            rules.push(other.clone());
        }
        let content = format!("round {round}");
        let edit = || replace(&config, &text(&rules));
        let change = || match round % 5 {
            0 => fs::write(home.file("a"), &content).unwrap(),
            _ => replace(&home.file("a"), &content),
        };
        match round % 2 {
            0 => (edit(), change()),
            _ => (change(), edit()),
        };
        target.signals_until(&printed(content.as_bytes()));
        agent.heeds_rules();
    }
}

promise!(as_many_rules_as_a_node_has_pods: ebpf, fanotify, inotify);
fn as_many_rules_as_a_node_has_pods(source: Source) {
    const MANY: usize = 250;
    let names: Vec<_> = (0..MANY).map(|n| format!("file-{n}")).collect();
    let home = Home::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let recipe = Recipe::new();
    let rule = |n: usize, keys: &[&str]| {
        let process =
            if n.is_multiple_of(50) { recipe.name().to_owned() } else { format!("nobody-{n}") };
        home.rule(&format!("rule-{n}"), &names[n], &process, keys)
    };
    let config = home.write(&(0..MANY).map(|n| rule(n, &[])).collect::<Vec<_>>());
    let mut target = recipe.start();
    let mut agent = Agent::with_rules(source, &config, &QUIET);
    for keys in [&[][..], &["settle: 50ms"]] {
        home.write(&(0..MANY).map(|n| rule(n, keys)).collect::<Vec<_>>());
        if !keys.is_empty() {
            agent.heeds_rules();
        }
        for n in (0..MANY).step_by(50) {
            replace(&home.file(&names[n]), &format!("{}", keys.len() + 1));
            agent.until("reloaded", |event| is(event, "reloaded", &format!("rule-{n}")));
            target.signal();
        }
    }
}

#[test]
fn a_file_that_cannot_be_had_is_named() {
    let home = Home::new(&[]);
    let path = home.rules();
    let run = |path: &Path| run_to_end(command().args(rules_arguments(path)));
    let (status, said) = run(&path);
    let expected = format!(
        "reload-agent: cannot read the rules in {}: No such file or directory (os error 2); make \
         it, or give --config another",
        path.display()
    );
    assert_eq!((status, said), (Some(2), expected));
    // A directory is none either, and of a relative path the whole is told.
    let dir = path.parent().unwrap();
    let (status, said) =
        run_to_end(command().current_dir(dir).args(rules_arguments(Path::new("."))));
    assert_eq!(status, Some(2));
    assert!(said.contains(dir.to_str().unwrap()), "{said}");
}

promise!(a_relative_path_stays_the_file_that_it_was: inotify);
fn a_relative_path_stays_the_file_that_it_was(source: Source) {
    let home = Home::new(&["a"]);
    let recipe = Recipe::new();
    let config = home.write(&[home.rule("a", "a", recipe.name(), &[])]);
    let mut target = recipe.start();
    let mut command = command();
    command.current_dir(config.parent().unwrap());
    command.args(rules_arguments(Path::new("rules.yaml"))).args(source.arguments());
    let mut agent = Agent::spawn(&mut command);
    agent.wait_for("ready");
    home.write(&[home.rule("b", "a", recipe.name(), &[])]);
    let events = agent.heeds_rules();
    assert_eq!(events[0].text("path"), config.to_str().unwrap());
    replace(&home.file("a"), "1");
    agent.until("b", |event| is(event, "reloaded", "b"));
    target.signal();
}

promise!(a_check_does_not_hold_up_the_end: inotify);
/// Neither the agent nor what it has started is left.
fn a_check_does_not_hold_up_the_end(source: Source) {
    let home = Home::new(&["a"]);
    let recipe = Recipe::new();
    let pid = home.file("pid");
    let check = format!("check: [sh, -c, 'echo $$ > {}; exec sleep 1h']", pid.display());
    let keys = [check.as_str(), "checkTimeout: 1h"];
    let config = home.write(&[home.rule("a", "a", recipe.name(), &keys)]);
    let mut target = recipe.start();
    let agent = Agent::with_rules(source, &config, &QUIET);
    replace(&home.file("a"), "1");
    let pid: i32 =
        poll("the check runs", || fs::read_to_string(&pid).ok()?.strip_suffix('\n')?.parse().ok());
    let (status, events) = agent.stop(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(names(&events).last(), Some(&"stopped"), "{events:?}");
    poll("the check is gone", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    assert_eq!(target.signals_at_hand(), []);
}
