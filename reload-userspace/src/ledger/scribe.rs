//! Who makes durable what was written, while the loop goes on.
//!
//! It is the agent's only other thread: a disk may take a second for what a write takes a microsecond.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
};

use rustix::fs::{fsync, renameat};

use super::journal::{HEIR, NAME};

/// The thread, as it is spoken to.
#[derive(Debug)]
pub(super) struct Scribe {
    errands: Sender<Errand>,
    /// With each whether it is the end of the replacement that was asked for.
    news: Receiver<(bool, News)>,
    thread: JoinHandle<()>,
    /// Whether the ledger is being replaced.
    is_busy: bool,
}

/// What has become of an errand; one that was merely done is no news.
#[derive(Debug)]
pub(super) enum News {
    /// The heir is the ledger now, and durable.
    Enthroned,
    /// Something cannot be made durable.
    Failed(io::Error),
}

#[derive(Debug)]
enum Errand {
    /// Make what was appended durable.
    Sync,
    /// Make this file durable, and then the ledger.
    Enthrone(File),
}

impl Scribe {
    /// Starts it for the ledger in `directory`.
    ///
    /// # Errors
    ///
    /// Fails where the process may have no more threads.
    pub(super) fn start(directory: OwnedFd) -> io::Result<Self> {
        let (errands, todo) = mpsc::channel();
        let (tell, news) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || serve(&directory, &todo, &tell))?;
        Ok(Self { errands, news, thread, is_busy: false })
    }

    /// Has what was appended made durable.
    pub(super) fn sync(&self) {
        self.send(Errand::Sync);
    }

    /// Has the heir made durable, and put in the ledger's place.
    pub(super) fn enthrone(&mut self, heir: File) {
        self.is_busy = true;
        self.send(Errand::Enthrone(heir));
    }

    /// Whether the ledger is being replaced.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// What the thread has to tell, if anything.
    pub(super) fn try_news(&mut self) -> Option<News> {
        let (is_last, news) = self.news.try_recv().ok()?;
        self.is_busy &= !is_last;
        Some(news)
    }

    /// Waits for what the thread has to tell.
    ///
    /// # Errors
    ///
    /// Fails where it has died.
    pub(super) fn news(&mut self) -> io::Result<News> {
        let Ok((is_last, news)) = self.news.recv() else {
            self.is_busy = false;
            return Err(died());
        };
        self.is_busy &= !is_last;
        Ok(news)
    }

    /// Waits until all is done.
    ///
    /// # Errors
    ///
    /// Fails where one of the errands did.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.errands);
        let failed = self.news.iter().find_map(|(_, news)| match news {
            News::Enthroned => None,
            News::Failed(error) => Some(error),
        });
        self.thread.join().map_err(|_panic| died())?;
        failed.map_or(Ok(()), Err)
    }

    fn send(&self, errand: Errand) {
        // It only goes away after us.
        let _sent = self.errands.send(errand);
    }
}

/// What the thread does until nobody has an errand any more.
fn serve(directory: &OwnedFd, todo: &Receiver<Errand>, tell: &Sender<(bool, News)>) {
    let mut ledger: Option<File> = None;
    while let Ok(first) = todo.recv() {
        // One that is made durable takes all that was appended to it along.
        let heir = std::iter::once(first).chain(todo.try_iter()).fold(None, |heir, errand| {
            if let Errand::Enthrone(file) = errand { Some(file) } else { heir }
        });
        let news = if let Some(heir) = heir {
            let done = enthrone(directory, &heir);
            ledger = Some(heir);
            Some((true, done.map_or_else(News::Failed, |()| News::Enthroned)))
        } else {
            let failed = ledger.as_ref().and_then(|ledger| ledger.sync_data().err());
            failed.map(|error| (false, News::Failed(error)))
        };
        if let Some(news) = news {
            // Whoever does not listen any more does not want to know.
            let _told = tell.send(news);
        }
    }
}

fn died() -> io::Error {
    io::Error::other("the thread that makes it durable has died")
}

/// Makes a file durable, and then its name.
fn enthrone(directory: &OwnedFd, heir: &File) -> io::Result<()> {
    heir.sync_all()?;
    renameat(directory, HEIR, directory, NAME)?;
    Ok(fsync(directory.as_fd())?)
}
