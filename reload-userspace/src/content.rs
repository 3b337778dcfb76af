//! What the files of a rule contain, as far as one needs to know whether it is the same.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use crate::{
    reach::{Volume, leads_out},
    watch::{FileState, View},
};

/// How large a file may be to be read, in bytes. Configuration is smaller; a log is not.
const MOST_READ: u64 = 64 * MIB;

/// How large one may be in a volume that nothing leads out of, whose files are somebody else's.
///
/// A file of the kubelet comes from one `ConfigMap` or Secret, which holds 1 MiB at most.
const MOST_READ_BENEATH: u64 = 2 * MIB;

/// How much is read of all the files of such a volume together. A projected one joins several; more than
/// eight full ones are not read to the end.
const MOST_READ_OF_VOLUME: u64 = 8 * MIB;

const MIB: u64 = 1024 * 1024;

/// A SHA-256: of a file's content, or of all the files of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// That of these digests, in their order.
    #[must_use]
    pub fn of_all(digests: &[Self]) -> Self {
        let mut hash = Sha256::new();
        for digest in digests {
            hash.update(digest.0);
        }
        Self(hash.finalize().into())
    }

    /// Its first 48 bits: as many as every program that reads numbers keeps exactly.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.0.iter().take(6).fold(0, |prefix, byte| prefix << 8 | u64::from(*byte))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Digest {
    /// In 64 hexadecimal digits, as `sha256sum(1)` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text is no digest.
#[derive(Debug, thiserror::Error)]
#[error("a digest has 64 hexadecimal digits in lower case")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    /// Takes what [`fmt::Display`] writes, and nothing else.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut digest = Self([0; 32]);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != digest.0.len() || !rest.is_empty() {
            return Err(DigestError);
        }
        for (byte, &[high, low]) in digest.0.iter_mut().zip(pairs) {
            *byte = nibble(high)? << 4 | nibble(low)?;
        }
        Ok(digest)
    }
}

/// What a hexadecimal digit stands for.
fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError),
    }
}

/// The digests of a rule's files, each under the path that its reader would use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    files: BTreeMap<PathBuf, Digest>,
    /// The files whose content is not read, so that their identity stands for it, and why.
    pub unreadable: BTreeMap<PathBuf, Unread>,
    /// The files whose content cannot be had for now, and why: what they contained before still
    /// stands, and where nothing is known of that, nothing does.
    pub unknown: BTreeMap<PathBuf, String>,
    /// Whether a file was another one, or in another state, when it had been read than when it was
    /// looked at: then this is no content that there ever was.
    pub is_torn: bool,
}

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is too large.
    #[error("is larger than {} MiB", .0 / MIB)]
    TooLarge(u64),
    /// There is too much beside it.
    #[error("is in a volume of more than {} MiB", MOST_READ_OF_VOLUME / MIB)]
    TooMuch,
    /// The kernel says no.
    #[error("cannot be read: {}", io::Error::from_raw_os_error(*.0))]
    Refused(i32),
}

impl Content {
    /// That of a path that leads nowhere.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            files: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            unknown: BTreeMap::new(),
            is_torn: false,
        }
    }

    /// Reads the files of a view.
    ///
    /// A file that has vanished since the view was taken is left out, and so is one that leads out of a
    /// volume by now: the source tells of that. One that may not be read, or is too large, is stood for
    /// by its inode, size and times, or by what it contained `before` if it is as it was then.
    #[must_use]
    pub fn read(view: &View, before: &Self, states: &BTreeMap<PathBuf, FileState>) -> Self {
        let mut content = Self::nothing();
        let mut reader = Reader::new(view.root.as_deref());
        for (path, state) in view.files.iter() {
            let known = before.files.get(path).copied();
            let stand_in = match reader.digest_of(path, state) {
                Ok(Read::Digest(digest, is_torn)) => {
                    content.files.insert(path.clone(), digest);
                    content.is_torn |= is_torn;
                    continue;
                }
                Ok(Read::NoFile) => continue,
                Ok(Read::Not(why)) => {
                    content.unreadable.insert(path.clone(), why);
                    let is_same =
                        states.get(path).is_some_and(|before| before.is_as_written(state));
                    known.filter(|_| is_same).or_else(|| Some(stand_in(state)))
                }
                Err(error) => {
                    content.unknown.insert(path.clone(), error.to_string());
                    known
                }
            };
            content.files.extend(stand_in.map(|digest| (path.clone(), digest)));
        }
        content
    }

    /// That of files that contain these texts.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| (path.into(), Digest::of(text.as_bytes())));
        Self { files: files.collect(), ..Self::nothing() }
    }

    /// The files that there were.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Whether there was a file under this path.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// One digest of several contents: the names of the files and what is in them.
    #[must_use]
    pub fn digest(contents: &[&Self]) -> Digest {
        let mut hash = Sha256::new();
        for (path, Digest(digest)) in contents.iter().flat_map(|content| &content.files) {
            let name = path.as_os_str().as_bytes();
            hash.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(name);
            hash.update(digest);
        }
        Digest(hash.finalize().into())
    }

    /// The files that differ from those of `before`: changed, added or removed.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<PathBuf> {
        // What was not known before is no change when it is.
        let differs = |path: &&PathBuf| {
            self.files.get(*path) != before.files.get(*path) && !before.unknown.contains_key(*path)
        };
        let mut paths: Vec<_> = self
            .files
            .keys()
            .chain(before.files.keys().filter(|path| !self.files.contains_key(*path)))
            .filter(differs)
            .cloned()
            .collect();
        paths.sort_unstable();
        paths
    }
}

/// What came of reading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// The digest of its content, and whether that is torn.
    Digest(Digest, bool),
    /// It is no regular file (any more).
    NoFile,
    /// It is not read, and will not be the next time.
    Not(Unread),
}

/// Reads the files of one view.
struct Reader<'a> {
    /// What they are below, if nothing may lead out of that.
    volume: Option<io::Result<Volume<'a>>>,
    /// How large each may be.
    most: u64,
    /// How much more is read of all of them.
    left: u64,
}

impl<'a> Reader<'a> {
    fn new(root: Option<&'a Path>) -> Self {
        let (most, left) = match root {
            None => (MOST_READ, u64::MAX),
            Some(_) => (MOST_READ_BENEATH, MOST_READ_OF_VOLUME),
        };
        Self { volume: root.map(Volume::open), most, left }
    }

    /// Opens a regular file, and gives its size with it.
    fn open(&self, path: &Path) -> io::Result<Option<(File, u64)>> {
        let file = match &self.volume {
            Some(Ok(volume)) => volume.file(path)?,
            Some(Err(error)) => {
                let errno = error.raw_os_error().map(io::Error::from_raw_os_error);
                return Err(errno.unwrap_or_else(|| error.kind().into()));
            }
            None => {
                // Without waiting: a FIFO in the file's place would otherwise hold us for ever.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                Some(File::from(open(path, flags, Mode::empty())?))
            }
        };
        let Some(file) = file else { return Ok(None) };
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then_some((file, metadata.len())))
    }

    fn digest_of(&mut self, path: &Path, state: &FileState) -> io::Result<Read> {
        match self.try_digest_of(path, state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Read::NoFile),
            Err(error) => match error.raw_os_error() {
                Some(errno)
                    if self.volume.is_some() && leads_out(Errno::from_raw_os_error(errno)) =>
                {
                    Ok(Read::NoFile)
                }
                Some(errno) if is_lasting(&error) => Ok(Read::Not(Unread::Refused(errno))),
                _ => Err(error),
            },
            done => done,
        }
    }

    fn try_digest_of(&mut self, path: &Path, state: &FileState) -> io::Result<Read> {
        let Some((file, size)) = self.open(path)? else { return Ok(Read::NoFile) };
        if size > self.most {
            return Ok(Read::Not(Unread::TooLarge(self.most)));
        }
        if size > self.left {
            return Ok(Read::Not(Unread::TooMuch));
        }
        // However fast it grows meanwhile.
        let mut file = file.take(self.most.min(self.left));
        let mut hash = Sha256::new();
        let mut buffer = [0; 16 * 1024];
        let mut length = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(part) => {
                    hash.update(&buffer[..part]);
                    let part = u64::try_from(part).unwrap_or(u64::MAX);
                    self.left = self.left.saturating_sub(part);
                    length += part;
                    // If there is more by now its state is another.
                    if length == size {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_torn = !state.is_that_of(file.get_ref().as_fd());
        Ok(Read::Digest(Digest(hash.finalize().into()), is_torn))
    }
}

/// Whether the file will be as unreadable the next time.
fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind::{
        FileTooLarge, InvalidFilename, InvalidInput, PermissionDenied, Unsupported,
    };
    let kind = error.kind();
    matches!(kind, FileTooLarge | InvalidFilename | InvalidInput | PermissionDenied | Unsupported)
}

/// What stands for the content of a file that may not be read.
fn stand_in(state: &FileState) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"unreadable");
    hash.update(state.identity.device.to_le_bytes());
    hash.update(state.identity.inode.to_le_bytes());
    hash.update(state.size.to_le_bytes());
    hash.update(state.modified.0.to_le_bytes());
    hash.update(state.modified.1.to_le_bytes());
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{fd::BorrowedFd, unix::fs::symlink},
    };

    use super::*;
    use crate::{
        event::Writers,
        source::Interest,
        watch::{self, Identity, Reach, Visitor},
    };

    /// That of no file.
    const STATE: FileState = FileState {
        identity: Identity { device: 0, inode: 0 },
        size: 0,
        modified: (0, 0),
        changed: (0, 0),
        is_linked: false,
    };

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest(Sha256::digest("x").into());
        let text = digest.to_string();
        assert_eq!(text, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        let check = |text: &str| assert!(text.parse::<Digest>().is_err(), "for {text:?}");
        check("");
        check(&text[1..]);
        check(&text[2..]);
        check(&format!("{text}00"));
        check(&text.to_uppercase());
        check(&text.replace('2', "+"));
        check(&text.replace("2d", "\u{e9}"));
    }

    #[test]
    fn the_digest_is_of_names_and_contents() {
        let digest = |files: &[(&str, &str)]| Content::digest(&[&Content::of(files)]);
        let one = digest(&[("a", "1"), ("b", "2")]);
        assert_eq!(one, digest(&[("b", "2"), ("a", "1")]));
        assert_ne!(one, digest(&[("a", "1"), ("b", "3")]));
        assert_ne!(one, digest(&[("a", "1"), ("c", "2")]));
        assert_ne!(one, digest(&[("a", "1")]));
    }

    #[test]
    fn changes_are_named() {
        let before = Content::of(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let after = Content::of(&[("a", "1"), ("b", "9"), ("d", "4")]);
        let expected = ["b", "c", "d"].map(PathBuf::from);
        assert_eq!(after.changes_since(&before), expected);
        assert_eq!(before.changes_since(&before), [] as [PathBuf; 0]);
    }

    #[test]
    fn a_fifo_does_not_hold_the_reader() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(Reader::new(None).digest_of(&fifo, &STATE).unwrap(), Read::NoFile);
    }

    /// Looks at a volume that nothing leads out of.
    fn look(path: &Path) -> View {
        struct Blind;
        impl Visitor for Blind {
            fn directory(&mut self, _: BorrowedFd<'_>, _: Identity, _: &Path, _: Interest) {}
            fn file(&mut self, _: BorrowedFd<'_>, _: Identity, _: &Path) {}
            fn writers(&mut self, _: BorrowedFd<'_>, _: &Path, _: &FileState) -> Writers {
                Writers::None
            }
        }
        watch::look(path, Reach::Beneath, &mut Blind)
    }

    fn read(view: &View) -> Content {
        Content::read(view, &Content::nothing(), &BTreeMap::new())
    }

    #[test]
    fn what_has_come_to_lead_out_since_it_was_looked_at_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        let [root, secret] = ["volume", "secret"].map(|name| home.path().join(name));
        for directory in [&root, &root.join("..1"), &secret] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(root.join("..1/a"), "a").unwrap();
        fs::write(secret.join("a"), "secret").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/a", root.join("a")).unwrap();
        let view = look(&root);
        assert_eq!(read(&view).files, BTreeMap::from([(root.join("a"), Digest::of(b"a"))]));
        for target in [&secret, Path::new("../secret"), Path::new("/proc/self/cwd")] {
            fs::remove_file(root.join("..data")).unwrap();
            symlink(target, root.join("..data")).unwrap();
            assert_eq!(read(&view), Content::nothing(), "for {}", target.display());
        }
        fs::remove_file(root.join("..data")).unwrap();
        fs::remove_file(root.join("..1/a")).unwrap();
        symlink("..1", root.join("..data")).unwrap();
        nix::unistd::mkfifo(&root.join("..1/a"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&view), Content::nothing());
    }

    #[test]
    fn not_more_is_read_of_a_volume_than_there_should_be() {
        let home = tempfile::tempdir().unwrap();
        let large = home.path().join("0");
        File::create(&large).unwrap().set_len(MOST_READ_BENEATH + 1).unwrap();
        for name in ["1", "2", "3", "4", "5"] {
            let file = File::create(home.path().join(name)).unwrap();
            file.set_len(MOST_READ_BENEATH).unwrap();
        }
        fs::write(home.path().join("6"), "6").unwrap();
        let content = read(&look(home.path()));
        let fifth = home.path().join("5");
        let expected = [
            (large.clone(), Unread::TooLarge(MOST_READ_BENEATH)),
            (fifth.clone(), Unread::TooMuch),
            (home.path().join("6"), Unread::TooMuch),
        ];
        assert_eq!(content.unreadable, BTreeMap::from(expected));
        assert_eq!(content.files.len(), 7);
        assert_eq!(Unread::TooLarge(MOST_READ_BENEATH).to_string(), "is larger than 2 MiB");
        assert_eq!(Unread::TooMuch.to_string(), "is in a volume of more than 8 MiB");
        // What is not read is another one when it is written to.
        File::options().write(true).open(&fifth).unwrap().set_len(1).unwrap();
        assert_eq!(read(&look(home.path())).changes_since(&content), [fifth]);
    }

    #[test]
    fn what_is_not_as_it_was_when_it_was_looked_at_is_torn() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = Reader::new(None).digest_of(file.path(), &STATE).unwrap();
        assert!(matches!(read, Read::Digest(_, true)), "{read:?}");
    }
}
