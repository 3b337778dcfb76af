//! What works here, what does not, why, and what to grant.

mod finding;
mod report;

mod environment;
mod keep;
mod kernel;
mod limits;
mod reload;
mod rights;
mod source;
mod status;
mod target;
mod twin;
mod watch;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use self::{source::Sources, watch::Seen};
use crate::{mount::Mounts, rule::Sketch, source::Choice};

pub(crate) use self::{
    status::Standing,
    target::whether_signalled,
    watch::{filesystem, whether_watched},
};

pub use self::{
    finding::{Finding, Group, Id, Status},
    report::Report,
};

/// What `run` would be asked to do, as far as it is known.
#[derive(Clone, Debug)]
pub struct Question {
    /// What to watch and whom to reload, as far as it was said.
    pub rules: Vec<Sketch>,
    /// Which sources may be used.
    pub choice: Choice,
    /// Where it would be remembered what was applied.
    pub state_dir: Option<PathBuf>,
    /// Where metrics and health would be served.
    pub listen: Option<SocketAddr>,
    /// The environment variables that look like options and are none.
    pub unknown_variables: Vec<String>,
}

impl Question {
    /// The paths to watch, each once.
    fn paths(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = Vec::new();
        for path in self.rules.iter().flat_map(|rule| &rule.watches) {
            if !paths.contains(&path.as_path()) {
                paths.push(path);
            }
        }
        paths
    }
}

/// Looks at everything that `run` depends on, in the order of the pipeline.
#[must_use]
pub fn examine(question: &Question) -> Report {
    let mut report = Report::default();
    for name in &question.unknown_variables {
        report.add(
            Finding::note(Id::UnknownVariable, "no option of the agent is called so")
                .of(name)
                .remedy("see `reload-agent run --help` for their names, or unset it"),
        );
    }
    keep::examine(&mut report, question.state_dir.as_deref(), question.listen);
    kernel::examine(&mut report);
    let me = Standing::own();
    let Some(me) = me else {
        let detail = "/proc/self/status cannot be read: neither rights nor processes can be told";
        report.add(Finding::bad(Id::Procfs, detail).remedy("mount -t proc proc /proc"));
        return report;
    };
    rights::examine(&mut report, &me);

    let sources = Sources::ask(question.choice);
    sources.examine(&mut report);

    // What the paths need is known when they have been looked at, and told before.
    let mounts = Mounts::read().unwrap_or_default();
    let mut seen = Seen::default();
    let mut watches = Report::default();
    let mut climb = None;
    let paths = question.paths();
    for path in &paths {
        let climb = climb.get_or_insert_with(|| sources.climb());
        watch::examine(&mut watches, path, &paths, climb, &mounts, &mut seen);
    }
    // What it holds would count among what is used up.
    drop(climb);
    limits::examine(&mut report, &me, &sources, seen.places.len());
    report.findings.append(&mut watches.findings);

    for rule in &question.rules {
        if let Some(selector) = &rule.selector {
            target::examine(&mut report, rule, selector, &me, &mounts, &seen.files);
        }
    }
    reload::examine(&mut report, &question.rules, &me, &sources);
    report
}
