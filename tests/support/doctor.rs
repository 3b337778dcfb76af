//! What `reload-agent doctor` finds.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{
    agent::{AGENT, clean},
    process::run,
};

/// The user and group `nobody`, whom no file here belongs to.
pub(crate) const NOBODY: &str = "65534";

/// What it has found, and its exit status.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    /// The exit status.
    pub(crate) status: i32,
    report: Value,
}

impl Diagnosis {
    /// Runs `command`, which ends with the agent, with more arguments.
    ///
    /// # Panics
    ///
    /// Unless the report is JSON and agrees with the exit status.
    #[track_caller]
    pub(crate) fn by(command: &mut Command, arguments: &[&str]) -> Self {
        let output = command.args(["doctor", "--format", "json"]).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        println!("{said}{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_str(&said).unwrap();
        let status = output.status.code().unwrap();
        assert_eq!(report["ok"], status == 0, "the report agrees with the status {status}");
        let is_bad = |finding: &Value| finding["status"] == "bad";
        assert_eq!(report["findings"].as_array().unwrap().iter().any(is_bad), status == 1);
        Self { status, report }
    }

    /// The findings of a kind.
    pub(crate) fn all(&self, id: &str) -> Vec<&Value> {
        let findings = self.report["findings"].as_array().unwrap();
        findings.iter().filter(|finding| finding["id"] == id).collect()
    }

    /// The only finding of a kind: its status, its detail and its remedy.
    #[track_caller]
    pub(crate) fn only(&self, id: &str) -> (&str, &str, &str) {
        let all = self.all(id);
        assert_eq!(all.len(), 1, "findings {id}: {all:?}");
        let text = |field: &str| all[0][field].as_str().unwrap_or_default();
        (text("status"), text("detail"), text("remedy"))
    }

    /// The finding of a kind that is about `object`: its status and its detail.
    #[track_caller]
    pub(crate) fn of(&self, id: &str, object: &str) -> (&str, &str) {
        let all = self.all(id);
        let one = all.iter().find(|finding| finding["object"] == object);
        let one = one.unwrap_or_else(|| panic!("no {id} of {object}: {all:?}"));
        let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap();
        (text("status"), text("detail"))
    }

    /// Whether there is no finding of this kind.
    #[track_caller]
    pub(crate) fn assert_none(&self, id: &str) {
        assert_eq!(self.all(id), Vec::<&Value>::new());
    }

    /// The ids of what would keep `run` from working.
    pub(crate) fn bad(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().unwrap().iter();
        let bad = findings.filter(|finding| finding["status"] == "bad");
        bad.map(|finding| finding["id"].as_str().unwrap()).collect()
    }

    /// The ids of all findings, in order.
    pub(crate) fn ids(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().unwrap();
        findings.iter().map(|finding| finding["id"].as_str().unwrap()).collect()
    }
}

/// A copy of a program that everybody can run, in a directory that everybody can enter.
#[track_caller]
pub(crate) fn public(dir: &Path, program: &Path) -> PathBuf {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join(program.file_name().unwrap());
    // By a process of its own: a file that this one writes cannot be run as long as a child that some
    // other test has just forked holds the descriptor (ETXTBSY).
    run(Command::new("cp").args([program, &copy]));
    copy
}

/// `program` as the user nobody with these capabilities, `-all` for none, and more options of setpriv.
pub(crate) fn as_nobody(program: &Path, capabilities: &str, options: &[&str]) -> Command {
    let mut command = clean(Command::new("setpriv"));
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
    command.args(options).arg(program);
    command
}

/// The agent in namespaces of its own.
pub(crate) fn unshared(options: &[&str]) -> Command {
    let mut command = clean(Command::new("unshare"));
    command.args(options).arg(AGENT);
    command
}
