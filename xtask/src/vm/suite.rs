//! What is run in the virtual machines: which tests, and how.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::disk::Load;
use crate::{
    build::OBJECT_VARIABLE,
    exec,
    place::{Place, host_cargo, printed},
    quote, show,
};

/// Files of `tests/` with promises that a kernel may break, what stands first being what it breaks soonest.
///
/// Not here: what runs in Docker or in a browser, for these are not there (image, manifests, sidecar,
/// `trace_page`); what runs the agent in a pid namespace, where Linux 6.1 does not allow trampolines
/// (namespace); and what is about options, rules, checks, the ledger, metrics, the doctor and the memory
/// that ten thousand updates take (`trace_memory`), for no kernel makes a difference to it, and an emulated
/// processor is twenty times slower than this one.
const FILES: &[&str] = &[
    COVERAGE,
    VERIFIER,
    "records",
    "traced",
    "reaction",
    "noticed",
    "leftover",
    "privileges",
    "writes",
    "symlinks",
    "kubelet",
    "directory",
    "missing_path",
    "unchanged",
    "settle",
    "bursts",
    "deaf",
    "start",
    "restart",
    "current",
    "refusal",
    "confirm",
    "nginx",
    "trace",
];

/// The tests of these files that are run where nobody says which: those of the source that a kernel makes a
/// difference to, and the one that is about its rights.
const NAMES: [&str; 2] = ["::ebpf", "ebpf_wants_bpf"];

/// The file of tests that measures all ways to change a file, and what that is called in a report.
pub(crate) const COVERAGE: &str = "coverage";

/// The one that asks the kernel about the programs.
pub(crate) const VERIFIER: &str = "verifier";

/// What the tests are told: where to write what they measure, how many seconds to wait for what must come,
/// and to be more than there are processors, for most of a test is waiting.
const ENVIRONMENT: &str = "RELOAD_COVERAGE=/report/coverage RELOAD_VERIFIER=/report/verifier \
                           RELOAD_TEST_PATIENCE=60 RUST_TEST_THREADS=4";

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that makes sense there.
    All,
    /// What docs/coverage.md is made of.
    Coverage,
    /// What docs/verifier.md is made of.
    Verifier,
}

/// Compiled tests, and how they are called.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Where cargo runs them.
    folder: PathBuf,
    /// Where the tests look for the agent.
    agent: PathBuf,
    /// The agent that is to be found there.
    optimised: PathBuf,
    tests: Vec<PathBuf>,
    arguments: Vec<String>,
}

impl Suite {
    /// Compiles the tests, and where no optimised agent is given one with this eBPF object.
    ///
    /// With a filter, those run whose names contain a part of it, whatever their source; without, those
    /// under the source ebpf.
    ///
    /// # Errors
    ///
    /// Fails where they do not compile; cargo has then said why.
    pub(crate) fn compile(
        place: &Place,
        object: &Path,
        agent: Option<&Path>,
        extent: Extent,
        filter: &[String],
    ) -> Result<Self> {
        let files = match extent {
            Extent::All => FILES,
            Extent::Coverage => &[COVERAGE],
            Extent::Verifier => &[VERIFIER],
        };
        let mut cargo = host_cargo();
        cargo.args(["test", "--no-run", "--locked", "--message-format=json-render-diagnostics"]);
        cargo
            .arg("--package=reload-userspace")
            .args(files.iter().map(|file| format!("--test={file}")));
        cargo.env(OBJECT_VARIABLE, object).current_dir(&place.root);
        println!("$ {}", show(&cargo));
        let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        ensure!(output.status.success(), "the tests do not compile: {}", output.status);
        let built = String::from_utf8_lossy(&output.stdout);
        let mut executables: Vec<_> = built.lines().filter_map(Executable::parse).collect();
        let looked_for =
            executables.iter().position(|one| !one.is_test && one.name == "reload-agent");
        let looked_for = looked_for.context("cargo built no agent for the tests")?;
        let looked_for = executables.swap_remove(looked_for).path;
        let optimised = match agent {
            Some(agent) => agent.to_owned(),
            None => build_agent(place, object)?,
        };
        let test = |file: &&str| {
            let found = executables.iter().find(|one| one.is_test && one.name == **file);
            found.map(|one| one.path.clone()).with_context(|| format!("cargo built no test {file}"))
        };
        let is_named = filter.iter().any(|word| !word.starts_with('-'));
        let names = NAMES.iter().filter(|_| !is_named).map(|name| (*name).to_owned());
        let arguments = ["--include-ignored".to_owned()].into_iter();
        let arguments: Vec<_> = arguments.chain(names).chain(filter.iter().cloned()).collect();
        let tests = files.iter().map(test).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            folder: place.root.join("reload-userspace"),
            agent: looked_for,
            optimised,
            tests: those_meant(&tests, &arguments)?,
            arguments,
        })
    }

    /// What a machine needs for it.
    pub(crate) fn load(&self) -> Load {
        let tests = self.tests.iter().map(|test| (test.clone(), test.clone()));
        let programs = [(self.agent.clone(), self.optimised.clone())].into_iter().chain(tests);
        Load { folder: self.folder.clone(), programs: programs.collect(), job: self.job() }
    }

    /// The script that runs it: all of it, whatever fails.
    fn job(&self) -> String {
        let word = |path: &Path| quote(&path.to_string_lossy());
        let mut lines = vec![
            "failed=0".to_owned(),
            format!("cd {}", word(&self.folder)),
            format!("export {ENVIRONMENT}"),
        ];
        let arguments: Vec<_> = self.arguments.iter().map(|argument| quote(argument)).collect();
        for test in &self.tests {
            lines.push(format!("echo 'Running {}'", name(test)));
            lines.push(format!("{} {} || failed=1", word(test), arguments.join(" ")));
        }
        lines.push("exit $failed\n".to_owned());
        lines.join("\n")
    }
}

/// The compiled tests that have any with such a name.
///
/// # Errors
///
/// Fails where none has.
fn those_meant(tests: &[PathBuf], arguments: &[String]) -> Result<Vec<PathBuf>> {
    let mut meant = Vec::new();
    for test in tests {
        let list = printed(Command::new(test).args(arguments).arg("--list"));
        let list = list.with_context(|| format!("{} does not list its tests", test.display()))?;
        if list.lines().any(|line| line.ends_with(": test")) {
            meant.push(test.clone());
        }
    }
    ensure!(!meant.is_empty(), "no test for virtual machines has such a name");
    Ok(meant)
}

/// Builds an agent for a slow processor: most of what one that is not optimised does is to read the
/// kernel's types, and every test starts some.
fn build_agent(place: &Place, object: &Path) -> Result<PathBuf> {
    const PROFILE: &str = "emulated";
    let mut cargo = host_cargo();
    cargo.args(["build", "--locked", "--profile", PROFILE, "--package=reload-userspace"]);
    cargo.args(["--bin=reload-agent"]).env(OBJECT_VARIABLE, object).current_dir(&place.root);
    exec(&mut cargo)?;
    Ok(place.target.join(PROFILE).join("reload-agent"))
}

/// What a test is called, without cargo's hash.
fn name(test: &Path) -> String {
    let name = test.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-').map_or(&*name, |(name, _)| name).to_owned()
}

/// Something that cargo has built, and that can be run.
#[derive(Debug, PartialEq, Eq)]
struct Executable {
    name: String,
    path: PathBuf,
    is_test: bool,
}

impl Executable {
    /// Reads a message of cargo's; `None` where it is about something else.
    fn parse(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(Self {
            name: message["target"]["name"].as_str()?.to_owned(),
            path: message["executable"].as_str()?.into(),
            is_test: message["profile"]["test"].as_bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_has_built_is_read_from_its_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"writes"},
            "profile":{"test":true},"executable":"/t/writes-1f"}"#;
        let expected =
            Executable { name: "writes".to_owned(), path: "/t/writes-1f".into(), is_test: true };
        assert_eq!(Executable::parse(line), Some(expected));
        let library = r#"{"target":{"name":"aya"},"profile":{"test":false},"executable":null}"#;
        assert_eq!(Executable::parse(library), None);
        assert_eq!(Executable::parse(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn a_job_runs_everything_and_fails_where_something_did() {
        let suite = Suite {
            folder: "/a b".into(),
            agent: "/agent".into(),
            optimised: "/fast/agent".into(),
            tests: vec!["/t/missing_path-1f".into(), "/t/writes-2e".into()],
            arguments: vec!["--include-ignored".to_owned(), "it's".to_owned()],
        };
        let expected = r"failed=0
cd '/a b'
export RELOAD_COVERAGE=/report/coverage RELOAD_VERIFIER=/report/verifier RELOAD_TEST_PATIENCE=60 RUST_TEST_THREADS=4
echo 'Running missing_path'
/t/missing_path-1f --include-ignored 'it'\''s' || failed=1
echo 'Running writes'
/t/writes-2e --include-ignored 'it'\''s' || failed=1
exit $failed
";
        assert_eq!(suite.job(), expected);
        let programs = suite.load().programs;
        let programs: Vec<_> = programs.iter().map(|(there, _)| there.as_path()).collect();
        assert_eq!(programs, ["/agent", "/t/missing_path-1f", "/t/writes-2e"].map(Path::new));
    }
}
