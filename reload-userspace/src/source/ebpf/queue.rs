//! How the kernel side knows a queue of notifications when it sees one.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::maps::Array;
use reload_ebpf::{Armed, NO_PLACE, Queue};
use rustix::fs::inotify::{self, CreateFlags};

use super::{EbpfSource, Unavailable, take};
use crate::{
    source::ladder::explain,
    sys::fanotify::{GROUP, group},
};

impl EbpfSource {
    /// Has it know what the kernel does with such a file, from one of each kind of ours. What cannot be made
    /// here is not seen, which is a trouble to be told of.
    pub(super) fn learn_queues(&mut self) -> Result<(), Unavailable> {
        let mut queues: Array<_, u64> = take(&mut self.ebpf, "QUEUES", Array::try_from)?;
        let mut note = |queue: Queue, one: io::Result<BorrowedFd<'_>>| {
            let answer = self.learn(one?, NO_PLACE, Armed::Silent).map_err(io::Error::other)?;
            queues.set(queue as u32, answer.operations, 0).map_err(io::Error::other)
        };
        let inotify = inotify::init(CreateFlags::CLOEXEC);
        let inotify =
            note(Queue::Inotify, inotify.as_ref().map(|it| it.as_fd()).map_err(|&it| it.into()));
        let fanotify = group(GROUP);
        let fanotify =
            note(Queue::Fanotify, fanotify.as_ref().map(|it| it.as_fd()).map_err(|&it| it.into()));
        self.tells_reads = inotify.is_ok();
        for (name, learned) in [("inotify", inotify), ("fanotify", fanotify)] {
            if let Err(error) = learned {
                let reason = explain(&error);
                self.blind.push(format!("it is not seen who reads from {name}: {reason}"));
            }
        }
        Ok(())
    }
}
