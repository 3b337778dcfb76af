//! The archive that a kernel unpacks into its first filesystem: cpio's format `newc`,
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// An archive that is being written. All in it belongs to root.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    output: W,
    /// What is in it, so that nothing is twice.
    known: BTreeSet<PathBuf>,
}

/// The kinds of files, `inode(7)`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl Archive<BufWriter<File>> {
    /// Begins an archive in this file.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be created.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self::new(BufWriter::new(file)))
    }
}

impl<W: Write> Archive<W> {
    fn new(output: W) -> Self {
        Self { output, known: BTreeSet::new() }
    }

    /// Adds a directory, and those that it is in.
    ///
    /// # Errors
    ///
    /// As all of these: fails where the archive cannot be written to.
    pub(crate) fn directory(&mut self, path: &Path) -> Result<()> {
        if !is_inside(path) || self.known.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.add(path, DIRECTORY | 0o755, &[])
    }

    /// Adds a symlink.
    ///
    /// # Errors
    ///
    /// See [`Self::directory`].
    pub(crate) fn link(&mut self, path: &Path, to: &Path) -> Result<()> {
        self.parent_of(path)?;
        self.add(path, LINK | 0o777, to.as_os_str().as_bytes())
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    ///
    /// See [`Self::directory`].
    pub(crate) fn content(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.parent_of(path)?;
        self.add(path, REGULAR | mode, content)
    }

    /// Adds a file as it is here, at another path.
    ///
    /// # Errors
    ///
    /// Also fails where it cannot be read.
    pub(crate) fn copy(&mut self, path: &Path, from: &Path) -> Result<()> {
        let read = || Ok((from.metadata()?.permissions().mode() & 0o777, fs::read(from)?));
        let (mode, content) = read()
            .map_err(|error: io::Error| anyhow::Error::new(error))
            .with_context(|| format!("cannot read {}", from.display()))?;
        self.content(path, mode, &content)
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// See [`Self::directory`].
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry(b"TRAILER!!!", 0, &[])
            .and_then(|()| self.output.flush())
            .context("cannot end the archive")?;
        Ok(self.output)
    }

    fn parent_of(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |parent| self.directory(parent))
    }

    /// Adds what is not in it yet.
    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        if !self.known.insert(path.to_owned()) {
            return Ok(());
        }
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
        self.entry(name, mode, content)
            .with_context(|| format!("cannot add {} to the archive", path.display()))
    }

    fn entry(&mut self, name: &[u8], mode: u32, content: &[u8]) -> io::Result<()> {
        let number = self.known.len();
        let [size, length] = [content.len(), name.len() + 1];
        write!(self.output, "070701{number:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}", 0, 0, 1, 0)?;
        write!(self.output, "{size:08x}{:08x}{:08x}{:08x}{:08x}", 0, 0, 0, 0)?;
        write!(self.output, "{length:08x}{:08x}", 0)?;
        self.output.write_all(name)?;
        // The header has 110 bytes; names and files end at a multiple of four.
        self.output.write_all(&[0; 4][..=(4 - (110 + length) % 4) % 4])?;
        self.output.write_all(content)?;
        self.output.write_all(&[0; 4][..(4 - size % 4) % 4])
    }
}

/// Whether a path names something inside of the root.
fn is_inside(path: &Path) -> bool {
    path.components().any(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(archive: Archive<Vec<u8>>) -> String {
        String::from_utf8(archive.finish().unwrap()).unwrap()
    }

    #[test]
    fn an_entry_is_a_header_a_name_and_a_content_in_words_of_four_bytes() {
        let mut archive = Archive::new(Vec::new());
        archive.content(Path::new("/hi"), 0o755, b"there").unwrap();
        let zeros = |count| "00000000".repeat(count);
        let header = format!(
            "07070100000001000081ed{}00000001{}00000005{}00000003{}",
            zeros(2),
            zeros(1),
            zeros(4),
            zeros(1)
        );
        let expected = format!("{header}hi\0\0\0\0there\0\0\0");
        let written = text(archive);
        assert_eq!(written.find(&expected), Some(0), "{written:?}");
        assert_eq!(expected.len() % 4, 0);
        assert_eq!(written.len() % 4, 0);
        assert!(written.ends_with("TRAILER!!!\0\0\0\0"), "{written:?}");
    }

    #[test]
    fn a_file_brings_its_directories_and_nothing_comes_twice() {
        let mut archive = Archive::new(Vec::new());
        archive.link(Path::new("/etc/a/link"), Path::new("../b")).unwrap();
        archive.content(Path::new("/etc/b"), 0o644, b"").unwrap();
        archive.content(Path::new("/etc/b"), 0o644, b"again").unwrap();
        archive.directory(Path::new("/etc/a")).unwrap();
        let written = text(archive);
        let places = ["etc\0", "etc/a\0", "etc/a/link\0", "../b", "etc/b\0", "TRAILER"]
            .map(|name| written.find(name).unwrap());
        assert!(places.is_sorted(), "{written:?}");
        let entries = ["etc", "etc/a", "etc/a/link", "etc/b", "TRAILER"];
        assert_eq!(written.matches("070701").count(), entries.len());
        assert!(!written.contains("again"));
    }
}
