//! The page that `reload-agent trace --format html` writes shows in a browser what it has as JSON.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    source::Source,
    target::Recipe,
    trace::{Trace, os},
    writer::replace,
};

promise!(a_browser_shows_the_numbers_of_the_json: ebpf);
fn a_browser_shows_the_numbers_of_the_json(source: Source) {
    let dir = tempfile::tempdir().unwrap();
    let (path, page) = (dir.path().join("<i>app.conf"), dir.path().join("page.html"));
    fs::write(&path, "0").unwrap();
    let recipe = Recipe::new().reading(&path);
    let mut target = recipe.start();
    let arguments = os(&["--format", "html", "--process", recipe.name()]);
    let arguments = arguments.iter().map(AsRef::as_ref);
    let rest = ["--watch".as_ref(), path.as_os_str(), "--output".as_ref(), page.as_os_str()];
    let trace = Trace::start(source, &arguments.chain(rest).collect::<Vec<_>>());
    for n in ["1", "2"] {
        replace(&path, n);
        kill_process(Pid::from_raw(target.pid).unwrap(), Signal::HUP).unwrap();
        target.signals_until(n);
    }
    let (status, _) = trace.end(Some(Signal::INT));
    assert!(status.success());

    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let (dom, said) = (browser.stdout, String::from_utf8_lossy(&browser.stderr).into_owned());
    assert!(browser.status.success(), "{said}");
    assert!(!said.contains("CONSOLE"), "{said}");
    let dom = String::from_utf8(dom).unwrap();
    assert!(!dom.contains("<i>"), "{dom}");
    let data = between(&dom, "id=\"data\">", "</script>").next().expect("the page has its data");
    let data: Value = serde_json::from_str(data).unwrap();

    let mut expected = Vec::new();
    for row in data["summary"]["stages"].as_array().unwrap() {
        expected
            .extend(["p50_us", "p90_us", "p99_us", "max_us"].map(|it| row[it].as_f64().unwrap()));
    }
    for update in data["updates"].as_array().unwrap() {
        for stage in update["stages"].as_array().unwrap() {
            expected
                .extend([&stage["at_us"], &stage["took_us"]].into_iter().filter_map(Value::as_f64));
        }
        let steps = update["steps"].as_array().unwrap();
        expected.extend(steps.iter().map(|it| it["at_us"].as_f64().unwrap()));
    }
    assert!(expected.len() > 20, "{expected:?}");
    let cells: Vec<_> = between(&dom, "data-us=\"", "</td>").collect();
    let shown: Vec<_> = cells.iter().map(|it| it.split_once("\">").unwrap()).collect();
    let numbers: Vec<f64> = shown.iter().map(|(number, _)| number.parse().unwrap()).collect();
    assert_eq!(numbers, expected);
    for (micros, (_, text)) in expected.iter().zip(&shown) {
        let (number, unit) = text.split_once(' ').unwrap();
        let unit = match unit {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            other => panic!("{other}"),
        };
        let error = (number.parse::<f64>().unwrap() * unit - micros).abs();
        assert!(error <= unit * 0.051, "{text} is shown for {micros}");
    }
}

/// What stands between these texts, wherever it does.
fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |it| Some(it.split_once(end)?.0))
}
