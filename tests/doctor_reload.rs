//! `doctor` says whether what is asked for around a reload can be had: a check, evidence, a state
//! directory, an address.

#![cfg(test)]

mod support;

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path};

use crate::support::{
    agent::{AGENT, Agent, arguments, command},
    doctor::{Diagnosis, as_nobody, public},
    target::Recipe,
    writer::config,
};

#[test]
fn a_state_directory_is_tried_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("there")).unwrap();
    fs::write(at("file"), "").unwrap();
    let look = |name: &str| {
        let found = Diagnosis::by(&mut command(), &["--state-dir", at(name).to_str().unwrap()]);
        let (status, detail, _) = found.only("state_dir");
        (status.to_owned(), detail.to_owned(), found.bad().contains(&"state_dir"))
    };
    let told = |status: &str, detail: &str| (status.to_owned(), detail.to_owned(), status == "bad");
    assert_eq!(look("there"), told("ok", "it can be written"));
    assert_eq!(look("a/b"), told("ok", "it does not exist; it would be made"));
    assert_eq!(look("file"), told("bad", "it is no directory"));
    let detail = format!("it does not exist, and cannot be made in {}", at("file").display());
    let (status, said, _) = look("file/below");
    assert!(
        status == "bad" && (said.starts_with(&detail) || said.starts_with("it cannot be looked")),
        "{said}"
    );
    assert_eq!(fs::read_dir(at("there")).unwrap().count(), 0);
    assert!(!at("a").exists());
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_state_directory_of_another_user_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let at = |name: &str| dir.path().join(name);
    for (name, mode) in [("closed", 0o700), ("read-only", 0o755)] {
        fs::create_dir(at(name)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let look = |name: &str| {
        let mut stranger = as_nobody(&agent, "-all", &[]);
        let found = Diagnosis::by(&mut stranger, &["--state-dir", at(name).to_str().unwrap()]);
        let (status, detail, remedy) = found.only("state_dir");
        assert!(remedy.contains("--state-dir"), "{remedy}");
        (status.to_owned(), detail.to_owned())
    };
    let told = |status: &str, detail: &str| (status.to_owned(), detail.to_owned());
    let denied = "Permission denied (os error 13)";
    assert_eq!(look("closed"), told("bad", &format!("it cannot be opened: {denied}")));
    let detail = format!("nothing would be remembered, for it cannot be written: {denied}");
    assert_eq!(look("read-only"), told("note", &detail));
    let detail =
        format!("it does not exist, and cannot be made in {}: {denied}", dir.path().display());
    assert_eq!(look("none"), told("bad", &detail));
}

/// As the health check of the image does, every minute.
#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_doctor_beside_the_agent_is_content() {
    let (dir, path) = config();
    let state = dir.path().join("state");
    let state = state.to_str().unwrap();
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let options = ["--state-dir", state, "--listen", &free];
    assert_eq!(Diagnosis::by(&mut command(), &options).only("listen").0, "ok");
    let mut agent =
        Agent::spawn(command().args(arguments(&path, "nobody-is-called-so")).args(options));
    agent.wait_for("ready");

    let look = |expected: [(&str, &str); 2], more: &[&str]| {
        let found = Diagnosis::by(&mut command(), &[&options[..], more].concat());
        assert_eq!(found.of("state_dir", state), expected[0]);
        assert_eq!(found.of("listen", &free), expected[1]);
    };
    let it = format!("the agent that runs with these options (pid {})", agent.pid());
    let (uses, answers) = (format!("{it} is using it"), format!("{it} answers there"));
    look([("ok", &uses), ("ok", &answers)], &[]);
    look([("ok", &uses), ("ok", &answers)], &["--watch", path.to_str().unwrap()]);
    // It is not asked about that one, and the next would not start.
    let uses = "another agent is using it: this one would not start";
    let answers = "another agent answers there: this one would not start";
    look([("bad", uses), ("bad", answers)], &["--process", "somebody-else"]);
    assert!(agent.lives());
}

#[test]
fn an_address_that_is_taken_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let found = Diagnosis::by(&mut command(), &["--listen", &address]);
    assert!(found.bad().contains(&"listen"));
    let (_, detail, remedy) = found.only("listen");
    assert!(detail.starts_with(&format!("cannot listen on {address}; ")), "{detail}");
    assert_eq!(remedy, "stop who listens there, or give --listen another port");
}

#[test]
fn the_program_of_a_check_must_be_there() {
    let look = |check: &str| {
        let found = Diagnosis::by(&mut command(), &["--check", check]);
        let (status, detail, _) = found.only("check");
        assert_eq!(status == "bad", found.bad().contains(&"check"));
        format!("{status}: {detail}")
    };
    assert_eq!(look("/bin/sh -c true"), "ok: /bin/sh is run");
    assert!(look("sh -c 'exit 1'").starts_with("ok: "), "it is not run");
    assert_eq!(
        look("no-such-checker -t"),
        "bad: there is no program no-such-checker where the agent is: every reload would be withheld"
    );
}

#[test]
fn the_program_of_a_command_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "").unwrap();
    let plain = plain.to_str().unwrap();
    let look = |exec: &str| {
        let found = Diagnosis::by(&mut command(), &["--exec", exec]);
        let (status, detail, remedy) = found.only("exec");
        assert_eq!(status == "bad", found.bad().contains(&"exec"));
        format!("{status}: {detail}; {remedy}")
    };
    assert!(look("sh -c 'exit 1'").starts_with("ok: "), "it is not run");
    assert_eq!(
        look("no-such-command -t"),
        "bad: there is no program no-such-command where the agent is: it could not be run; install \
         it there or give its path"
    );
    assert_eq!(
        look(plain),
        format!(
            "bad: {plain} is not executable for the agent: it could not be run; make it so (chmod \
             +x) or give its path"
        )
    );
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn a_check_in_the_place_of_the_target_wants_rights() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let recipe = Recipe::new();
    let target = recipe.start();
    let look = |command: &mut std::process::Command, check: &str| {
        let options = ["--process", recipe.name(), "--check-in", "target", "--check", check];
        let found = Diagnosis::by(command, &options);
        let (status, detail, _) = found.only("check");
        format!("{status}: {detail}")
    };
    let pid = target.pid;
    let expected = format!("ok: /bin/sh is run in the place of pid {pid}");
    assert_eq!(look(&mut command(), "/bin/sh -c true"), expected);
    let expected = format!(
        "bad: there is no program /no/checker where pid {pid} is: every reload would be withheld"
    );
    assert_eq!(look(&mut command(), "/no/checker"), expected);
    let expected = format!(
        "bad: the place of pid {pid} cannot be entered without CAP_SYS_ADMIN, CAP_SYS_CHROOT, \
         CAP_SYS_PTRACE, CAP_SETUID, CAP_SETGID, CAP_DAC_READ_SEARCH"
    );
    assert_eq!(look(&mut as_nobody(&agent, "-all", &[]), "/bin/sh -c true"), expected);
}

#[test]
#[ignore = "needs root; `cargo xtask test` runs it"]
fn what_evidence_there_would_be_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let agent = public(dir.path(), Path::new(AGENT));
    let options = ["--process", "nobody-is-called-so"];
    let found = Diagnosis::by(&mut command(), &options);
    assert_eq!(found.only("confirmation"), ("ok", "it is seen who opens the new content", ""));

    let found = Diagnosis::by(&mut as_nobody(&agent, "-all", &[]), &options);
    let (status, _, remedy) = found.only("confirmation");
    assert_eq!(status, "note");
    assert_eq!(
        remedy,
        "none where that is enough; otherwise CAP_SYS_ADMIN, or eBPF by strategy trampoline"
    );

    let found =
        Diagnosis::by(&mut command(), &[&options[..], &["--confirm-timeout", "0"]].concat());
    found.assert_none("confirmation");
}
