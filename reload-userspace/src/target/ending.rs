//! How a target has ended.

use std::process::ExitStatus;

use super::{Held, Procfs};
use crate::sys::pidfd;

impl Held {
    /// How the process has ended, or `None` where it has not, or nobody tells.
    ///
    /// It is not ours to wait for, so the kernel tells only from Linux 6.15 on; before, and while it is
    /// not reaped yet, whoever may look into it reads it in `/proc`.
    #[must_use]
    pub fn exit_status(&self, procfs: &Procfs) -> Option<ExitStatus> {
        let told = self.handle().and_then(|handle| pidfd::exit_status(handle));
        told.or_else(|| procfs.exit_status(self.target()))
    }
}
