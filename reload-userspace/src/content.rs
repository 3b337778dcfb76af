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

use rustix::fs::{Mode, OFlags, open};
use sha2::{Digest as _, Sha256};

use crate::watch::{FileState, View};

/// How large a file may be to be read, in bytes. Configuration is smaller; a log is not.
const MOST_READ: u64 = 64 * 1024 * 1024;

/// A SHA-256: of a file's content, or of all the files of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
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
    /// The files whose content cannot be read, or is too large, so that their identity stands for it.
    pub unreadable: Vec<PathBuf>,
    /// The files whose content cannot be had for now, and why: what they contained before still
    /// stands, and where nothing is known of that, nothing does.
    pub unknown: BTreeMap<PathBuf, String>,
    /// Whether a file was another one, or in another state, when it had been read than when it was
    /// looked at: then this is no content that there ever was.
    pub is_torn: bool,
}

impl Content {
    /// That of a path that leads nowhere.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            files: BTreeMap::new(),
            unreadable: Vec::new(),
            unknown: BTreeMap::new(),
            is_torn: false,
        }
    }

    /// Reads the files of a view.
    ///
    /// A file that has vanished since the view was taken is left out: the source tells of that. One
    /// that may not be read, or is larger than 64 MiB, is stood for by its inode, size and times, or
    /// by what it contained `before` if it is as it was then.
    #[must_use]
    pub fn read(view: &View, before: &Self, states: &BTreeMap<PathBuf, FileState>) -> Self {
        let mut content = Self::nothing();
        for (path, state) in &view.files {
            let known = before.files.get(path).copied();
            let error = match digest_of(path, state) {
                Ok(Some((digest, is_torn))) => {
                    content.files.insert(path.clone(), digest);
                    content.is_torn |= is_torn;
                    continue;
                }
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => error,
            };
            let stand_in = if is_lasting(&error) {
                content.unreadable.push(path.clone());
                let is_same = states.get(path).is_some_and(|before| before.is_as_written(state));
                known.filter(|_| is_same).or_else(|| Some(stand_in(state)))
            } else {
                content.unknown.insert(path.clone(), error.to_string());
                known
            };
            content.files.extend(stand_in.map(|digest| (path.clone(), digest)));
        }
        content
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

/// The digest of a file's content and whether that is torn, or `None` where it is no regular file (any
/// more).
fn digest_of(path: &Path, state: &FileState) -> io::Result<Option<(Digest, bool)>> {
    // Without waiting: a FIFO in the file's place would otherwise hold us for ever.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    if metadata.len() > MOST_READ {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // However fast it grows meanwhile.
    let mut file = file.take(MOST_READ);
    let mut hash = Sha256::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => {
                let is_torn = !state.is_that_of(file.get_ref().as_fd());
                return Ok(Some((Digest(hash.finalize().into()), is_torn)));
            }
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the file will be as unreadable the next time.
fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind::{
        FileTooLarge, InvalidFilename, InvalidInput, PermissionDenied, Unsupported,
    };
    matches!(
        error.kind(),
        FileTooLarge | InvalidFilename | InvalidInput | PermissionDenied | Unsupported
    )
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
    use super::*;
    use crate::watch::Identity;

    /// That of no file.
    const STATE: FileState = FileState {
        identity: Identity { device: 0, inode: 0 },
        size: 0,
        modified: (0, 0),
        changed: (0, 0),
        is_linked: false,
    };

    fn content(files: &[(&str, &str)]) -> Content {
        let digest = |text: &str| Digest(Sha256::digest(text).into());
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), digest(text)));
        Content { files: files.collect(), ..Content::nothing() }
    }

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
        let digest = |files: &[(&str, &str)]| Content::digest(&[&content(files)]);
        let one = digest(&[("a", "1"), ("b", "2")]);
        assert_eq!(one, digest(&[("b", "2"), ("a", "1")]));
        assert_ne!(one, digest(&[("a", "1"), ("b", "3")]));
        assert_ne!(one, digest(&[("a", "1"), ("c", "2")]));
        assert_ne!(one, digest(&[("a", "1")]));
    }

    #[test]
    fn changes_are_named() {
        let before = content(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let after = content(&[("a", "1"), ("b", "9"), ("d", "4")]);
        let expected = ["b", "c", "d"].map(PathBuf::from);
        assert_eq!(after.changes_since(&before), expected);
        assert_eq!(before.changes_since(&before), [] as [PathBuf; 0]);
    }

    #[test]
    fn a_fifo_does_not_hold_the_reader() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(digest_of(&fifo, &STATE).unwrap(), None);
    }

    #[test]
    fn what_is_not_as_it_was_when_it_was_looked_at_is_torn() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (_digest, is_torn) = digest_of(file.path(), &STATE).unwrap().unwrap();
        assert!(is_torn);
    }
}
