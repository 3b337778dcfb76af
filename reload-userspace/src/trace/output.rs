//! How updates are told: as they come, or all of them at the end.

mod chrome;
mod html;
mod json;
mod outlet;
mod text;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use self::outlet::Outlet;

pub(super) use self::text::wrap;

use super::{record::Record, summary::Summary};
use crate::watch::Identity;

/// A way to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: a timeline for each update.
    Text {
        /// Whether the slowest is coloured.
        has_colour: bool,
    },
    /// One object for each update, a line each, and one for all.
    Json,
    /// Trace events, as Perfetto and `chrome://tracing` load them.
    Chrome,
    /// One page, at the end.
    Html,
}

/// Makes a file to tell in, or empties it, unless that would be an update of what is watched.
///
/// # Errors
///
/// Fails where it would be, or where the file cannot be written.
pub fn create(path: &Path, watched: &[PathBuf]) -> Result<File> {
    let shown = path.display();
    let path = std::path::absolute(path).with_context(|| format!("cannot write to {shown}"))?;
    for watched in watched {
        if is_same(&path, watched) {
            bail!("--output {shown} is watched itself; give it another file");
        }
        let names = fs::read_dir(watched).into_iter().flatten().flatten();
        let is_within =
            place(&path).is_some_and(|(directory, _)| Identity::at(watched) == Some(directory));
        if is_within || names.into_iter().any(|it| is_same(&path, &it.path())) {
            bail!(
                "--output {shown} is in {}, which is watched, so that what is told would be an update; give it \
                 a file elsewhere",
                watched.display()
            );
        }
    }
    File::create(&path).with_context(|| format!("cannot write to {shown}"))
}

/// Whether two paths lead to one file, or will where there is none yet.
fn is_same(one: &Path, other: &Path) -> bool {
    match (Identity::at(one), Identity::at(other)) {
        (None, None) => place(one).is_some_and(|it| Some(it) == place(other)),
        (one, other) => one == other,
    }
}

/// The directory that a path names something in, and the name.
fn place(path: &Path) -> Option<(Identity, &OsStr)> {
    Some((Identity::at(path.parent()?)?, path.file_name()?))
}

/// Where it is told.
pub struct Output {
    format: Format,
    to: Outlet,
    has_begun: bool,
}

impl Output {
    /// Tells in that format.
    #[must_use]
    pub fn new(format: Format, to: Box<dyn Write + Send>) -> Self {
        Self { format, to: Outlet::new(to), has_begun: false }
    }

    /// Tells of an update.
    ///
    /// # Errors
    ///
    /// Fails where nothing can be written.
    pub(crate) fn tell(&mut self, record: &Record) -> io::Result<()> {
        match self.format {
            Format::Text { has_colour } => text::tell(&mut self.to, record, has_colour)?,
            Format::Json => json::tell(&mut self.to, record)?,
            Format::Chrome => chrome::tell(&mut self.to, record, self.has_begun)?,
            Format::Html => {}
        }
        self.has_begun = true;
        self.to.flush()
    }

    /// Tells of all updates, at the end.
    ///
    /// # Errors
    ///
    /// As [`Output::tell`].
    pub(crate) fn end(&mut self, summary: &Summary) -> io::Result<()> {
        match self.format {
            Format::Text { .. } => text::end(&mut self.to, &summary.told())?,
            Format::Json => json::end(&mut self.to, &summary.told())?,
            Format::Chrome => chrome::end(&mut self.to, self.has_begun)?,
            Format::Html => html::write(&mut self.to, summary)?,
        }
        self.to.end()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_watched_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (file, within, elsewhere) = (at("app.conf"), at("conf.d"), at("elsewhere"));
        for directory in [&within, &elsewhere] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(&file, "kept").unwrap();
        fs::hard_link(&file, at("linked")).unwrap();
        symlink(&file, at("link")).unwrap();
        symlink("../elsewhere/a.conf", within.join("a.conf")).unwrap();
        fs::write(elsewhere.join("a.conf"), "kept").unwrap();
        let watched = [file.clone(), within.clone(), at("later")];
        for name in ["app.conf", "link", "linked", "later", "elsewhere/../later"] {
            let error = create(&at(name), &watched).unwrap_err().to_string();
            assert!(error.ends_with("is watched itself; give it another file"), "{name}: {error}");
        }
        for name in ["conf.d/new", "elsewhere/a.conf"] {
            let error = create(&at(name), &watched).unwrap_err().to_string();
            assert!(error.contains("conf.d, which is watched, so that"), "{name}: {error}");
        }
        for kept in [&file, &elsewhere.join("a.conf")] {
            assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
        }
        assert!(!at("later").exists() && !within.join("new").exists());
        create(&at("told"), &watched).unwrap();
        assert!(at("told").exists());
    }
}
