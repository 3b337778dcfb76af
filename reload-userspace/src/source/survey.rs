//! Which sources work here, and why not the others.

use super::{
    Choice, Ladder, Purpose, Source as _, Tells,
    ladder::{KERNEL_DRIVEN, explain},
};
use crate::event::SourceName;

/// How a source works here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Working {
    /// How it does its work, where there is more than one way.
    pub strategy: Option<&'static str>,
    /// Why it does not do it in a better way.
    pub passed_over: Option<String>,
    /// Whether it can tell who opens a file.
    pub tells_opens: bool,
}

/// What each source says when it is asked whether it works here, best first: how, or why not.
#[must_use]
pub fn survey() -> Vec<(SourceName, Result<Working, String>)> {
    let all = KERNEL_DRIVEN.into_iter().chain([SourceName::Poll]);
    all.map(|name| {
        let working = |mut ladder: Ladder| Working {
            strategy: ladder.strategy(),
            passed_over: ladder.passed_over().map(str::to_owned),
            tells_opens: ladder.tell_opens() == Tells::Yes,
        };
        let ladder = Ladder::open(Choice::Only(name), Purpose::Reload, false);
        (name, ladder.map(working).map_err(|error| explain(&error.source)))
    })
    .collect()
}
