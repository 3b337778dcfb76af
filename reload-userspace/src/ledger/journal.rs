//! The file: appended to at once, made durable by somebody else, replaced as a whole.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, renameat, unlinkat};

use super::scribe::{News, Scribe};

/// The name of the ledger in its directory.
pub(super) const NAME: &str = "ledger";

/// The name of the one that is about to replace it.
pub(super) const HEIR: &str = "ledger.new";

/// How many set-aside ledgers are kept.
const MOST_SET_ASIDE: usize = 3;

/// How large a ledger may be to be read, in bytes: ours are a thousand times smaller.
const MOST_READ: u64 = 16 * 1024 * 1024;

/// From what size on a ledger is written anew where most of it is history, in bytes.
const LARGE: usize = 64 * 1024;

/// How many times as many facts as it takes make it history.
const MOSTLY_HISTORY: usize = 4;

/// The open ledger.
///
/// While its heir is being made durable every fact goes to both, so that it matters to nobody when
/// the one takes the other's name.
#[derive(Debug)]
pub(super) struct Journal {
    directory: OwnedFd,
    /// Nothing where it cannot be written to: then it ends in the middle of a line, maybe.
    current: Option<Volume>,
    heir: Option<Volume>,
    scribe: Scribe,
}

/// A file that facts are appended to.
#[derive(Debug)]
struct Volume {
    file: File,
    bytes: usize,
    lines: usize,
}

impl Journal {
    /// That in `directory`, which is yet to be written.
    ///
    /// # Errors
    ///
    /// Fails where the process is out of descriptors or threads.
    pub(super) fn new(directory: OwnedFd) -> io::Result<Self> {
        let scribe = Scribe::start(directory.try_clone()?)?;
        Ok(Self { directory, current: None, heir: None, scribe })
    }

    /// Whether it can be appended to.
    pub(super) fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Whether it is large and could be much smaller with as many lines as it takes.
    pub(super) fn is_overgrown(&self, lines: usize) -> bool {
        self.heir.is_none()
            && self.current.as_ref().is_some_and(|current| {
                current.bytes > LARGE && current.lines > MOSTLY_HISTORY * lines
            })
    }

    /// Appends a line. It is in the file when this returns, and durable some time later.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be written, and from then on until it has been replaced.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let mut open = self.current.iter_mut().chain(&mut self.heir);
        let appended = open.try_for_each(|volume| volume.append(line));
        if appended.is_err() {
            // What lacks a line, or ends in the middle of one, is never appended to again.
            (self.current, self.heir) = (None, None);
        } else {
            self.scribe.sync();
        }
        appended
    }

    /// Begins to replace the whole by `lines`, unless that is under way.
    ///
    /// # Errors
    ///
    /// Fails where they cannot be written: the ledger is what it was.
    pub(super) fn replace(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        if self.scribe.is_busy() {
            return Ok(());
        }
        // What is left of an earlier attempt, if anything is.
        let _left = unlinkat(&self.directory, HEIR, AtFlags::empty());
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, HEIR, flags, Mode::RUSR | Mode::WUSR)?);
        let mut heir = Volume { file, bytes: 0, lines: 0 };
        heir.append(&lines.concat())?;
        heir.lines = lines.len();
        self.scribe.enthrone(heir.file.try_clone()?);
        self.heir = Some(heir);
        Ok(())
    }

    /// Takes note of what has become durable, without waiting for it.
    ///
    /// # Errors
    ///
    /// Fails where the disk has refused it; nothing is appended from then on until it is replaced.
    pub(super) fn attend(&mut self) -> io::Result<()> {
        while let Some(news) = self.scribe.try_news() {
            self.heed(news)?;
        }
        Ok(())
    }

    /// Waits until what is being replaced is.
    ///
    /// # Errors
    ///
    /// As [`Self::attend`].
    pub(super) fn wait(&mut self) -> io::Result<()> {
        while self.scribe.is_busy() {
            let news = self.scribe.news()?;
            self.heed(news)?;
        }
        Ok(())
    }

    fn heed(&mut self, news: News) -> io::Result<()> {
        match news {
            // Where a fact did not fit into the heir meanwhile there is none, and the ledger has to
            // be written once more.
            News::Enthroned => self.current = self.heir.take(),
            News::Failed(error) => {
                (self.current, self.heir) = (None, None);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends when all is durable.
    ///
    /// # Errors
    ///
    /// As [`Self::attend`].
    pub(super) fn close(mut self) -> io::Result<()> {
        let waited = self.wait();
        waited.and(self.scribe.finish())
    }
}

impl Volume {
    /// Appends with one `write(2)`, so that whoever is killed leaves a whole line or none.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let written = loop {
            match self.file.write(text) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written?,
            }
        };
        if written < text.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes += written;
        self.lines += 1;
        Ok(())
    }
}

/// What is in the ledger, or nothing where there is none.
///
/// # Errors
///
/// Fails where what has its name is no file of ours: nobody is followed or waited for.
pub(super) fn read(directory: &OwnedFd) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, NAME, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a symlink")),
        Err(errno) => return Err(errno.into()),
    };
    if FileType::from_raw_mode(fstat(file.as_fd())?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::from(file).take(MOST_READ + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_READ {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Gives what has the ledger's name another one, and says which.
///
/// # Errors
///
/// Fails where the directory does not allow it.
pub(super) fn set_aside(directory: &OwnedFd, seconds: u64) -> io::Result<String> {
    let prefix = format!("{NAME}.bad-");
    let name = format!("{prefix}{seconds}");
    renameat(directory, NAME, directory, name.as_str())?;
    let mut others: Vec<u64> = rustix::fs::Dir::read_from(directory)?
        .filter_map(|entry| {
            entry.ok()?.file_name().to_str().ok()?.strip_prefix(&prefix)?.parse().ok()
        })
        .collect();
    others.sort_unstable_by(|a, b| b.cmp(a));
    for other in others.into_iter().skip(MOST_SET_ASIDE) {
        // What cannot be removed, as a directory, is not worth a word.
        let _removed = unlinkat(directory, format!("{prefix}{other}").as_str(), AtFlags::empty());
    }
    Ok(name)
}
