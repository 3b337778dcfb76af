//! What works here, what does not, why, and what to grant.

mod finding;
mod report;

mod environment;
mod kernel;
mod limits;
mod rights;
mod source;
mod status;
mod target;
mod watch;

use std::path::PathBuf;

use self::{source::Sources, status::Standing, watch::Seen};
use crate::{mount::Mounts, rule::SignalNumber, source::Choice, target::Selector};

pub use self::{
    finding::{Finding, Group, Id, Status},
    report::Report,
};

/// What `run` would be asked to do, as far as it is known.
#[derive(Clone, Debug)]
pub struct Question {
    /// The paths to watch, all absolute.
    pub watches: Vec<PathBuf>,
    /// Whom to reload.
    pub selector: Option<Selector>,
    /// What to send.
    pub signal: SignalNumber,
    /// Whether it is sent whatever the process does with it.
    pub is_forced: bool,
    /// Which sources may be used.
    pub choice: Choice,
    /// The environment variables that look like options and are none.
    pub unknown_variables: Vec<String>,
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
    for path in &question.watches {
        let climb = climb.get_or_insert_with(|| sources.climb());
        watch::examine(&mut watches, path, question, climb, &mounts, &mut seen);
    }
    // What it holds would count among what is used up.
    drop(climb);
    limits::examine(&mut report, &me, &sources, seen.places.len());
    report.findings.append(&mut watches.findings);

    if let Some(selector) = &question.selector {
        target::examine(&mut report, question, selector, &me, &mounts, &seen.files);
    }
    report
}
