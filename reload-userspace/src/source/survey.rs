//! Which sources work here, and why not the others.

use super::{
    Choice, Ladder, Source as _,
    ladder::{KERNEL_DRIVEN, explain},
};
use crate::event::SourceName;

/// What each source says when it is asked whether it works here, best first: how, or why not.
#[must_use]
pub fn survey() -> Vec<(SourceName, Result<Option<&'static str>, String>)> {
    let all = KERNEL_DRIVEN.into_iter().chain([SourceName::Poll]);
    all.map(|name| {
        let ladder = Ladder::open(Choice::Only(name), false);
        (name, ladder.map(|ladder| ladder.strategy()).map_err(|error| explain(&error.source)))
    })
    .collect()
}
