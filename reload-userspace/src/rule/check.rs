//! What content must pass before it is applied.

use std::time::Duration;

use super::CommandLine;

/// What content must pass before it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// It exits with 0 where the content is good.
    pub command: CommandLine,
    /// Where it runs.
    pub place: CheckIn,
    /// How long it may take; then it is killed and counts as failed.
    pub timeout: Duration,
}

/// Where a check runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckIn {
    /// Where the agent runs, as the agent.
    #[default]
    Agent,
    /// In the namespaces of the target, as the target's user.
    Target,
}
