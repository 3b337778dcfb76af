//! Whoever asks over HTTP is told what the agent does, and how it is, without being in its way.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    agent::{Agent, Event, arguments, command, run_to_end, unhurried_arguments},
    http::{Scrape, connect, get, try_get},
    lines::Lines,
    process::Process,
    program::HALT,
    rules::Home,
    source::Source,
    target::Recipe,
    time::poll,
    writer::{config, replace},
};

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

const CHECK: &str = "check: [sh, -c, '! grep -q bad \"$RELOAD_CHANGED\"']";

/// An agent with these rules, where it listens, and what it said when it was ready.
fn listening(source: Source, config: &Path) -> (Agent, SocketAddr, Event) {
    let mut command = command();
    command.args(["run", "--log-format", "json", "--min-interval", "0", "--reconcile", "1h"]);
    command.arg("--config").arg(config).args(source.arguments()).args(LISTEN);
    let mut agent = Agent::spawn(&mut command);
    let ready = agent.wait_for("ready");
    (agent, ready.text("listen").parse().unwrap(), ready)
}

promise!(every_metric_is_there_and_moves);
fn every_metric_is_there_and_moves(source: Source) {
    let home = Home::new(&["web", "dead", "post"]);
    let recipe = Recipe::new().reading(&home.file("web"));
    let deaf = Recipe::new().handler("none");
    let flag = home.file("flag");
    let rules = [
        home.rule("web", "web", recipe.name(), &[CHECK, "confirmTimeout: 5s"]),
        home.rule("deaf", "dead", deaf.name(), &["handlerTimeout: 0s"]),
        format!(
            "name: post, watch: {}, exec: [test, -e, {}]",
            home.file("post").display(),
            flag.display()
        ),
    ];
    let config = home.write(&rules);
    let mut target = recipe.start();
    let _deaf = deaf.start();
    let (mut agent, address, ready) = listening(source, &config);

    let scrape = Scrape::of(address);
    let check = |scrape: &Scrape, series: &str, expected: Option<f64>| {
        assert_eq!(scrape.get(series), expected, "for {series} in {scrape:#?}");
    };
    for result in ["confirmed", "sent", "unconfirmed", "refused", "failed", "dry_run"] {
        check(&scrape, &format!("reloads_total{{rule=\"web\",result=\"{result}\"}}"), Some(0.0));
    }
    for (series, expected) in [
        ("targets{rule=\"web\"}", Some(1.0)),
        ("targets{rule=\"post\"}", None),
        ("watches{rule=\"web\"}", Some(1.0)),
        ("content_hash{rule=\"web\"}", None),
        ("last_reload_successful{rule=\"web\"}", None),
        ("check_failures_total{rule=\"web\"}", Some(0.0)),
        ("rules_last_load_successful", Some(1.0)),
        ("rules_loads_total{result=\"applied\"}", Some(1.0)),
        ("rules_loads_total{result=\"refused\"}", Some(0.0)),
    ] {
        check(&scrape, series, expected);
    }
    let strategy = ready.field("strategy").as_str().unwrap_or_default();
    let info = format!("source_info{{source=\"{source}\",strategy=\"{strategy}\"}}");
    check(&scrape, &info, Some(1.0));
    assert_eq!(scrape.with("reload_agent_build_info{version=\"").len(), 1);
    assert_eq!(scrape.with(config.to_str().unwrap()), [""; 0], "it is no rule");

    // A reload that is confirmed.
    replace(&home.file("web"), "1");
    target.signal();
    agent.wait_for("confirmed");
    let scrape = Scrape::of(address);
    check(&scrape, "reloads_total{rule=\"web\",result=\"confirmed\"}", Some(1.0));
    check(&scrape, "last_reload_successful{rule=\"web\"}", Some(1.0));
    check(&scrape, "change_to_signal_seconds_count{rule=\"web\"}", Some(1.0));
    let at = scrape.get("last_reload_success_timestamp_seconds{rule=\"web\"}").unwrap();
    assert!(at > 1.7e9, "{at}");
    let hash = scrape.get("content_hash{rule=\"web\"}");
    assert!(hash.is_some(), "{scrape:#?}");
    let events = scrape.with(&format!("reload_agent_events_total{{source=\"{source}\",kind="));
    assert_ne!(events, [""; 0], "{scrape:#?}");

    // Content that is bad: nobody has it.
    replace(&home.file("web"), "bad");
    agent.wait_for("refused");
    let scrape = Scrape::of(address);
    check(&scrape, "check_failures_total{rule=\"web\"}", Some(1.0));
    check(&scrape, "refusals_total{rule=\"web\",reason=\"check_failed\"}", Some(1.0));
    check(&scrape, "last_reload_successful{rule=\"web\"}", Some(0.0));
    check(&scrape, "content_hash{rule=\"web\"}", hash);

    // A process that does not catch the signal, and a command that fails at first.
    replace(&home.file("dead"), "1");
    agent.wait_for("refused");
    replace(&home.file("post"), "1");
    agent.wait_for("failed");
    let scrape = Scrape::of(address);
    check(&scrape, "reloads_total{rule=\"deaf\",result=\"refused\"}", Some(1.0));
    check(&scrape, "refusals_total{rule=\"deaf\",reason=\"not_caught\"}", Some(1.0));
    check(&scrape, "reloads_total{rule=\"post\",result=\"failed\"}", Some(1.0));
    check(&scrape, "last_reload_successful{rule=\"post\"}", Some(0.0));
    fs::write(&flag, "").unwrap();
    agent.wait_for("confirmed");
    let scrape = Scrape::of(address);
    check(&scrape, "reloads_total{rule=\"post\",result=\"confirmed\"}", Some(1.0));
    check(&scrape, "last_reload_successful{rule=\"post\"}", Some(1.0));
    assert!(scrape.get("content_hash{rule=\"post\"}").is_some(), "{scrape:#?}");

    check_all_that_is_asked_for(&scrape);

    // The rules.
    fs::write(&config, "rules: 5").unwrap();
    agent.wait_for("rules");
    let scrape = Scrape::of(address);
    check(&scrape, "rules_last_load_successful", Some(0.0));
    check(&scrape, "rules_loads_total{result=\"refused\"}", Some(1.0));
    home.write(&[&rules[1..2], &[home.rule("new", "web", recipe.name(), &[])]].concat());
    agent.heeds_rules();
    let scrape = Scrape::of(address);
    check(&scrape, "rules_last_load_successful", Some(1.0));
    check(&scrape, "rules_loads_total{result=\"applied\"}", Some(2.0));
    for gone in ["web", "post"] {
        assert_eq!(scrape.with(&format!("rule=\"{gone}\"")), [""; 0]);
    }
    check(&scrape, "refusals_total{rule=\"deaf\",reason=\"not_caught\"}", Some(1.0));
    check(&scrape, "targets{rule=\"new\"}", Some(1.0));
    check(&scrape, "watches{rule=\"new\"}", Some(1.0));
}

promise!(the_content_is_told_of_when_it_is_confirmed: inotify);
fn the_content_is_told_of_when_it_is_confirmed(source: Source) {
    let home = Home::new(&["a"]);
    // It opens nothing, so it takes the whole time to confirm.
    let recipe = Recipe::new();
    let config = home.write(&[home.rule("a", "a", recipe.name(), &["confirmTimeout: 10s"])]);
    let mut target = recipe.start();
    let (mut agent, address, _) = listening(source, &config);
    replace(&home.file("a"), "1");
    target.signal();
    agent.wait_for("reloaded");
    let scrape = Scrape::of(address);
    assert_eq!(scrape.get("content_hash{rule=\"a\"}"), None);
    assert_eq!(scrape.get("reloads_total{rule=\"a\",result=\"confirmed\"}"), Some(0.0));
    let end =
        agent.until("the end of it", |event| ["confirmed", "unconfirmed"].contains(&event.name()));
    let is_confirmed = end.last().unwrap().name() == "confirmed";
    let scrape = Scrape::of(address);
    assert_eq!(scrape.get("content_hash{rule=\"a\"}").is_some(), is_confirmed, "{end:?}");
}

/// Checks that there is all that the dashboard and the alerts ask for.
#[track_caller]
fn check_all_that_is_asked_for(scrape: &Scrape) {
    // They have no series before there is a reason for one.
    const RARE: [&str; 2] = ["reload_agent_events_lost_total", "reload_agent_degraded_total"];
    let types = scrape.types();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let mut asked = BTreeSet::new();
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = fs::read_to_string(deploy.join(file)).unwrap();
        let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
        asked.extend(words.filter(|word| word.starts_with("reload_agent_")).map(str::to_owned));
    }
    assert!(asked.len() > RARE.len(), "{asked:?}");
    for name in asked.iter().map(String::as_str).filter(|name| !RARE.contains(name)) {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let is_there = types
            .iter()
            .any(|(known, kind)| *known == name || (*kind == "histogram" && Some(*known) == base));
        assert!(is_there, "{name} is not in {types:?}");
    }
}

promise!(it_is_well_when_its_canary_is_heard);
fn it_is_well_when_its_canary_is_heard(source: Source) {
    let home = Home::new(&["a"]);
    let recipe = Recipe::new();
    let config = home.write(&[home.rule("a", "a", recipe.name(), &[])]);
    let (mut agent, address, _) = listening(source, &config);
    let well = (200, "ok\n".to_owned());
    poll("it is well", || Some(get(address, "/healthz")).filter(|it| *it == well));

    // The loop stands still: the other thread says so.
    let mut halt = Command::new(HALT.path());
    halt.arg(agent.pid().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut halt = Process::spawn(&mut halt);
    let mut said = Lines::of("halt", halt.stdout.take().unwrap());
    said.until("halted", |line| (line == "halted").then_some(()));
    let ill = poll("it is ill", || Some(get(address, "/healthz")).filter(|it| it.0 == 503));
    assert_eq!(ill.1, "the agent's loop has not heard its canary within 2 s\n");
    assert!(Scrape::of(address).get("targets{rule=\"a\"}").is_some());
    drop(halt);
    poll("it is well again", || Some(get(address, "/healthz")).filter(|it| it.0 == 200));

    // Nothing was lost over it.
    let mut target = recipe.start();
    replace(&home.file("a"), "1");
    agent.wait_for("reloaded");
    target.signal();
}

promise!(it_is_ready_when_all_is_watched);
fn it_is_ready_when_all_is_watched(source: Source) {
    let home = Home::new(&["a"]);
    let rule = |name: &str, file: &str| home.rule(name, file, "nobody-is-called-so", &[]);
    let (a, late) = (rule("a", "a"), rule("late", "late/app.conf"));
    let config = home.write(&[a.clone(), late.clone()]);
    let (mut agent, address, _) = listening(source, &config);
    let missing = |name: &str| (503, format!("{} does not exist\n", home.file(name).display()));
    let is_ready = || (get(address, "/readyz") == (200, "ok\n".to_owned())).then_some(());
    assert_eq!(get(address, "/readyz"), missing("late"));
    assert_eq!(Scrape::of(address).get("watches{rule=\"late\"}"), Some(0.0));

    fs::create_dir(home.file("late")).unwrap();
    fs::write(home.file("late/app.conf"), "0").unwrap();
    poll("it is ready", is_ready);
    assert_eq!(Scrape::of(address).get("watches{rule=\"late\"}"), Some(1.0));

    fs::remove_dir_all(home.file("late")).unwrap();
    poll("it is not", || (get(address, "/readyz").0 == 503).then_some(()));
    // It is ready when nobody names that any more.
    home.write(std::slice::from_ref(&a));
    agent.heeds_rules();
    assert_eq!(get(address, "/readyz"), (200, "ok\n".to_owned()));
    home.write(&[a, late]);
    agent.heeds_rules();
    assert_eq!(get(address, "/readyz"), missing("late"));
}

promise!(no_client_delays_a_reload: ebpf, inotify);
fn no_client_delays_a_reload(source: Source) {
    let home = Home::new(&["a"]);
    let recipe = Recipe::new().reading(&home.file("a"));
    let config = home.write(&[home.rule("a", "a", recipe.name(), &["confirmTimeout: 0s"])]);
    let mut target = recipe.start();
    let (mut agent, address, _) = listening(source, &config);

    // Some say nothing, some say half of it, some do not read the answer.
    let words = ["", "GET /metrics HTT", "GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n"];
    let clients: Vec<_> = (0..1000)
        .map(|n| {
            let mut stream = connect(address);
            // Who is one too many may be cut off already.
            drop(stream.write_all(words[n % words.len()].as_bytes()));
            stream
        })
        .collect();
    for round in 1..=source.rounds(20) {
        replace(&home.file("a"), &round.to_string());
        agent.wait_for("reloaded");
        assert_eq!(target.signal().content, round.to_string());
    }
    drop(clients);
    let (status, _) = poll("there is room again", || try_get(address, "/metrics"));
    assert_eq!(status, 200);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (_dir, path) = config();
    let mut command = command();
    command.args(arguments(&path, "nobody-is-called-so")).args(["--listen", &address]);
    let (status, said) = run_to_end(&mut command);
    let expected = format!(
        "reload-agent: cannot listen on {address}; give --listen an address of this machine and a \
         free port: Address already in use (os error 98)"
    );
    assert_eq!((status, said), (Some(1), expected));
}

promise!(without_it_nobody_listens: inotify);
fn without_it_nobody_listens(source: Source) {
    let (_dir, path) = config();
    let mut command = command();
    command.args(unhurried_arguments(&path, "nobody-is-called-so")).args(source.arguments());
    let mut agent = Agent::spawn(&mut command);
    assert!(agent.wait_for("ready").field("listen").is_null());
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().count();
    assert_eq!(threads, 1);
}
