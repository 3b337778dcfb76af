//! As a sidecar the agent takes the best source that its container is granted, says why not a better
//! one, and reloads; where it may not signal, it says so once for each content.

#![cfg(test)]

mod support;

use rustix::process::Signal;

use crate::support::{
    agent::{Event, count, names},
    docker::{IMAGE, ask, docker},
    lines::Lines,
    pod::{Pod, Sidecar},
    process::Process,
};

/// The uid of the nginx of the pod.
const SAME_UID: &str = "--user=101:101";
const ROOT: &str = "--user=0:0";

/// Why a better source was passed over: its name, and the beginning of what is said.
type Reason = (&'static str, &'static str);

const NO_EBPF: Reason = (
    "ebpf",
    "eBPF needs CAP_BPF and CAP_PERFMON; grant it (Kubernetes: \
     securityContext.capabilities.add [BPF, PERFMON];",
);
const NO_FANOTIFY: Reason = (
    "fanotify",
    "fanotify is refused: it needs Linux 5.13 and a seccomp profile that allows fanotify_init, which \
     the default one of Docker and containerd does only for CAP_SYS_ADMIN:",
);

/// What a container is granted, and what the agent makes of it.
struct Grant {
    what: &'static str,
    options: &'static [&'static str],
    arguments: &'static [&'static str],
    source: &'static str,
    strategy: Option<&'static str>,
    passed_over: &'static [Reason],
}

const INOTIFY: Grant = Grant {
    what: "nothing",
    options: &[],
    arguments: &[],
    source: "inotify",
    strategy: None,
    passed_over: &[NO_EBPF, NO_FANOTIFY],
};
const EBPF: Grant = Grant {
    what: "SYS_ADMIN",
    options: &[],
    arguments: &[],
    source: "ebpf",
    strategy: Some("tracepoint"),
    passed_over: &[],
};

const GRANTS: &[Grant] = &[
    Grant { what: "the default seccomp profile", options: &[SAME_UID], ..INOTIFY },
    Grant {
        what: "no seccomp profile",
        options: &[SAME_UID, "--security-opt=seccomp=unconfined"],
        source: "fanotify",
        strategy: Some("unprivileged"),
        passed_over: &[NO_EBPF],
        ..INOTIFY
    },
    Grant { what: "no capability", options: &[SAME_UID, "--cap-drop=ALL"], ..INOTIFY },
    Grant {
        what: "no new privileges",
        options: &[SAME_UID, "--security-opt=no-new-privileges"],
        ..INOTIFY
    },
    Grant { what: "a read-only root", options: &[SAME_UID, "--read-only"], ..INOTIFY },
    Grant {
        what: "all of that",
        options: &[SAME_UID, "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"],
        ..INOTIFY
    },
    // The image's own user is not nginx's. KILL is what every container has, and the file of the
    // agent passes it on to those who are not root.
    Grant { what: "another uid, KILL by default", ..INOTIFY },
    Grant {
        what: "another uid, KILL and no more",
        options: &["--cap-drop=ALL", "--cap-add=KILL"],
        ..INOTIFY
    },
    Grant {
        what: "root, KILL and no more",
        options: &[ROOT, "--cap-drop=ALL", "--cap-add=KILL"],
        ..INOTIFY
    },
    Grant {
        what: "SYS_ADMIN, and eBPF is not wanted",
        options: &[ROOT, "--cap-drop=ALL", "--cap-add=SYS_ADMIN", "--cap-add=KILL"],
        arguments: &["run", "--source=fanotify"],
        source: "fanotify",
        strategy: Some("privileged"),
        passed_over: &[],
    },
    Grant {
        what: "SYS_ADMIN without tracefs",
        options: &[ROOT, "--cap-drop=ALL", "--cap-add=SYS_ADMIN", "--cap-add=KILL"],
        ..EBPF
    },
    Grant {
        what: "SYS_ADMIN with tracefs",
        options: &[
            ROOT,
            "--cap-drop=ALL",
            "--cap-add=SYS_ADMIN",
            "--cap-add=KILL",
            "--volume=/sys/kernel/tracing:/sys/kernel/tracing:ro",
        ],
        ..EBPF
    },
];

/// Checks what was said up to `ready`, and that one update is one reload, which is served.
fn check(pod: &mut Pod, grant: &Grant, revision: u32) {
    let Grant { what, options, arguments, source, strategy, passed_over } = grant;
    println!("--- {what}");
    let Sidecar { mut agent, container: _container } = pod.sidecar(options, arguments);
    let mut said = agent.events_until("ready");
    let ready = said.pop().unwrap();
    assert_eq!((ready.text("source"), ready.field("strategy").as_str()), (*source, *strategy));
    assert_eq!(ready.number("targets"), 1, "{what}: {ready}");
    assert_eq!(said.len(), passed_over.len(), "{what}: {said:?}");
    for (event, (source, reason)) in said.iter().zip(*passed_over) {
        assert_eq!((event.name(), event.text("source")), ("degraded", *source), "{what}");
        assert!(event.text("reason").starts_with(reason), "{what}: {event}");
    }

    pod.update(revision);
    let events = agent.events_until("reloaded");
    assert_eq!(names(&events), ["changed", "reloaded"], "{what}: {events:?}");
    assert_eq!(events[1].text("signal"), "HUP", "{what}");
    pod.wait_for(revision);

    let (status, events) = agent.stop(Signal::TERM);
    assert!(status.success(), "{what}: {status}");
    assert_eq!(names(&events), ["stopped"], "{what}");
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn it_takes_the_best_source_that_is_granted() {
    let mut pod = Pod::start("nginx");
    for (grant, revision) in GRANTS.iter().zip(2..) {
        check(&mut pod, grant, revision);
    }
}

/// Once for each content, and with the remedy; the target is left alone.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_signal_that_is_not_allowed_is_explained_once() {
    let mut pod = Pod::start("nginx");
    let ways: [&[&str]; 3] = [
        &["--cap-drop=KILL"],
        &["--cap-drop=ALL"],
        // Then the file of the agent passes nothing on.
        &["--security-opt=no-new-privileges"],
    ];
    for (options, revision) in ways.into_iter().zip((2..).step_by(2)) {
        println!("--- {options:?}");
        let Sidecar { mut agent, container: _container } = pod.sidecar(options, &[]);
        agent.wait_for("ready");
        for revision in [revision, revision + 1] {
            pod.update(revision);
            let events = agent.events_until("failed");
            assert_eq!(names(&events), ["changed", "failed"], "{options:?}: {events:?}");
            check_explanation(&events[1]);
        }
        let (_status, events) = agent.stop(Signal::TERM);
        assert_eq!(names(&events), ["stopped"], "{options:?}");
    }
    assert_eq!(pod.get().unwrap(), "revision 1");
}

#[track_caller]
fn check_explanation(failed: &Event) {
    let reason = failed.text("reason");
    assert!(reason.contains("Operation not permitted"), "{failed}");
    let remedy = "run the agent as the uid of that process, or give it CAP_KILL as an effective \
                  capability";
    assert!(reason.contains(remedy), "{failed}");
}

/// The manifest of an inotifywait sidecar, with the image exchanged and nothing else: no argument, no
/// user, no securityContext, and three variables.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn the_usual_environment_is_enough() {
    let mut pod = Pod::start("nginx");
    let (mut command, _container) = pod.usual_agent(&[], &[]);
    let mut agent = Process::spawn(command.stderr(std::process::Stdio::piped()));
    let mut lines = Lines::of("agent", agent.stderr.take().unwrap());
    let ready = ": source inotify, rules nginx, 1 watched, 1 to reload";
    lines.until(ready, |line| line.contains(ready).then_some(()));
    for revision in 2..=3 {
        pod.update(revision);
        let sent = "nginx: sent HUP to pid ";
        lines.until(sent, |line| line.contains(sent).then_some(()));
        pod.wait_for(revision);
    }
}

/// Whoever insists on a source is told in one line what lacks for it.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_source_that_is_not_granted_cannot_be_had() {
    for (source, reason) in [NO_EBPF, NO_FANOTIFY] {
        let source = format!("--source={source}");
        let arguments = ["run", &source, "--watch=/etc", "--process=nobody-is-called-so"];
        let output = docker(&[&["run", "--rm", IMAGE], arguments.as_slice()].concat()).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(" cannot be had: ") && said.contains(reason), "{said}");
    }
}

/// Without a namespace in common there is nobody to reload, and the agent waits for somebody.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn processes_of_other_containers_are_not_seen() {
    let pod = Pod::start("nginx");
    let Sidecar { mut agent, container } = pod.sidecar(&["--pid="], &[]);
    let events = agent.events_until("waiting");
    assert_eq!(count(&events, "ready"), 1, "{events:?}");
    assert_eq!(events.last().unwrap().text("for"), "target");
    assert_eq!(ask(&["inspect", "--format", "{{.HostConfig.PidMode}}", container.name()]), "");
}
