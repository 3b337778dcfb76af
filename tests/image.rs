//! The image is one small static binary, runs as nobody in particular, and says what it is.

#![cfg(test)]

mod support;

use std::{io::Read as _, process::Stdio};

use serde_json::Value;

use crate::support::{
    docker::{Container, IMAGE, SERVERS, ask, docker},
    pod::Pod,
    process::Process,
};

/// How large the image may be, in bytes.
const MAX_SIZE: u64 = 10 << 20;

/// What the engine itself puts into every container.
const OF_THE_ENGINE: &[&str] =
    &[".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"];

fn inspect() -> Value {
    let text = ask(&["image", "inspect", "--format", "{{json .}}", IMAGE]);
    serde_json::from_str(&text).unwrap()
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn it_is_small_and_runs_as_nobody_in_particular() {
    let image = inspect();
    let size = image["Size"].as_u64().unwrap();
    assert!(size <= MAX_SIZE, "{size} bytes");
    let config = &image["Config"];
    // By numbers: only so can the kubelet tell that this is not root.
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/local/bin/reload-agent"]));
    assert_eq!(config["Cmd"], serde_json::json!(["run"]));
}

/// Neither certificates nor a configuration of cargo of the machine that it was built on.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn there_is_nothing_in_it_but_the_agent() {
    let container = Container::create(&[IMAGE]);
    let mut export = docker(&["export", container.name()]);
    let mut export = Process::spawn(export.stdout(Stdio::piped()));
    let mut list = std::process::Command::new("tar");
    list.args(["--list", "--file=-"]).stdin(export.stdout.take().unwrap()).stdout(Stdio::piped());
    let mut list = Process::spawn(&mut list);
    let mut names = String::new();
    list.stdout.take().unwrap().read_to_string(&mut names).unwrap();
    assert!(list.wait().unwrap().success() && export.wait().unwrap().success());
    let is_own = |name: &&str| !name.ends_with('/') && !OF_THE_ENGINE.contains(name);
    let own: Vec<_> = names.lines().filter(is_own).collect();
    assert_eq!(own, ["usr/local/bin/reload-agent"]);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn it_says_what_it_is() {
    let labels = &inspect()["Config"]["Labels"];
    let label = |name: &str| {
        let label = labels[format!("org.opencontainers.image.{name}")].as_str();
        label.unwrap_or_else(|| panic!("no label {name}: {labels}"))
    };
    assert_eq!(label("title"), "reload-agent");
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    let version = ask(&["run", "--rm", IMAGE, "--version"]);
    let expected =
        format!("reload-agent {} (commit {})", env!("CARGO_PKG_VERSION"), label("revision"));
    assert_eq!(version, expected);
}

/// With nothing to watch it says so, in one line, and does not start.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn without_an_environment_it_says_what_is_missing() {
    let container = Container::new();
    let output = docker(&["run", "--name", container.name(), IMAGE]).output().unwrap();
    let expected = "reload-agent: there is nothing to watch; give --watch PATH, or set \
                    RELOAD_WATCH, FILE, CONFIG_DIR\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    assert_eq!(output.status.code(), Some(2));
}

/// The health check has no shell to run in, and judges by the environment of the agent.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_health_check_tells_whether_run_works() {
    let check = &inspect()["Config"]["Healthcheck"]["Test"];
    assert_eq!(*check, serde_json::json!(["CMD", "/usr/local/bin/reload-agent", "doctor"]));

    let pod = Pod::start("nginx");
    let often = "--health-interval=500ms";
    let (mut command, container) = pod.usual_agent(&[often, "--user=101:101", "--read-only"], &[]);
    let _agent = Process::spawn(command.stderr(Stdio::null()));
    container.wait_for_health("healthy");

    // Of another uid, and with no right to signal; the pod's port is the first one's.
    let options = [often, "--health-retries=1", "--health-start-period=0s", "--cap-drop=ALL"];
    let (mut command, container) = pod.usual_agent(&options, &["run", "--listen=127.0.0.1:0"]);
    let _agent = Process::spawn(command.stderr(Stdio::null()));
    let said = container.wait_for_health("unhealthy");
    assert!(said.contains("HUP is not allowed"), "{said}");
}

/// The servers' image is there for the other tests; this one says so first where it is not.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_servers_are_there() {
    let versions = ask(&["run", "--rm", SERVERS, "sh", "-c", "haproxy -v && gunicorn --version"]);
    assert!(versions.contains("HAProxy version") && versions.contains("gunicorn"), "{versions}");
}
