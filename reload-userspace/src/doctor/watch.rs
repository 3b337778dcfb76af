//! What is watched: the chain behind each path, and what cannot be seen there.

use std::{
    collections::BTreeMap,
    collections::{BTreeSet, HashSet},
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, open};

use super::{
    finding::{Finding, Id},
    report::Report,
    source::Climb,
};
use crate::{
    content::{Content, Unread},
    event::Writers,
    filesystem::{Changes, Filesystem},
    mount::Mounts,
    source::Interest,
    watch::{self, FileState, Identity, Obstacle, Reach, View, Visitor},
};

/// How many names of a kind are told; of the rest, how many there are.
const MOST_NAMES: usize = 5;

/// What the paths lead to.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The files, each under the path that its reader would use.
    pub(super) files: BTreeSet<PathBuf>,
    /// The directories and files that a source has to watch.
    pub(super) places: HashSet<Identity>,
}

/// Looks at a path.
pub(super) fn examine(
    report: &mut Report,
    path: &Path,
    paths: &[&Path],
    climb: &mut Climb<'_>,
    mounts: &Mounts,
    seen: &mut Seen,
) {
    let mut hops =
        Hops { seen, climb: &mut *climb, directories: BTreeSet::new(), links: Vec::new() };
    let view = watch::look(path, Reach::Anywhere, &mut hops);
    let Hops { directories, links, .. } = hops;
    seen.files.extend(view.files.keys().cloned());

    report.add(whether_watched(path, &view).at(path));
    tell_of_links(report, &links);
    report.findings.extend(climb.finding());
    report.add(filesystem(path, mounts));
    for pin in mounts.pins(directories.iter().chain(view.files.keys())) {
        let finding = if pin.is_final() { Finding::bad } else { Finding::note };
        report.add(finding(Id::Mount, pin.to_string()).remedy(pin.remedy()));
    }
    report.findings.extend(unreadable(&view));
    report.findings.extend(subdirectories(path, paths));
}

/// Says whether the path can be watched, and what it stands for.
pub(crate) fn whether_watched(path: &Path, view: &View) -> Finding {
    match &view.obstacle {
        None => {}
        Some(obstacle @ Obstacle::Missing(_)) => {
            return Finding::note(Id::Watch, format!("{obstacle}; it is waited for"))
                .awaiting(format!("the path {}", path.display()));
        }
        Some(obstacle) => {
            return Finding::bad(Id::Watch, obstacle.to_string())
                .remedy("give --watch a file or directory that can be read");
        }
    }
    let detail = match view.files.iter().next() {
        Some((only, state)) if only == path => format!("a file of {} bytes", state.size),
        None => "a directory without files, yet".to_owned(),
        Some(_) => {
            let names = view.files.keys().filter_map(|file| file.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            let count = counted(names.len(), "file", "files");
            format!("a directory with {count}: {}", listed(&names))
        }
    };
    Finding::ok(Id::Watch, detail)
}

fn tell_of_links(report: &mut Report, links: &[(PathBuf, PathBuf)]) {
    for (path, target) in links.iter().take(MOST_NAMES) {
        let detail = format!("{} -> {}", path.display(), target.display());
        report.add(Finding::ok(Id::Link, detail));
    }
    if let Some(rest) = links.len().checked_sub(MOST_NAMES).filter(|&rest| rest > 0) {
        report.add(Finding::ok(Id::Link, format!("and {rest} more")));
    }
}

/// Says which filesystem the path is on, and whether changes are announced there.
pub(crate) fn filesystem(path: &Path, mounts: &Mounts) -> Finding {
    // Of what does not exist yet, where it would be.
    let existing = path.ancestors().find_map(|path| fs::canonicalize(path).ok());
    let changes = existing.as_deref().and_then(changes);
    let Some(mount) = existing.and_then(|path| mounts.of(&path)) else {
        return Finding::note(Id::Filesystem, "not known: it is not in /proc/self/mountinfo");
    };
    let kind = mount.kind.to_string_lossy();
    let access = if mount.is_read_only { "read-only" } else { "read-write" };
    let silence = match changes {
        None | Some(Changes::Here) => {
            return Finding::ok(Id::Filesystem, format!("{kind}, {access}"));
        }
        Some(Changes::Elsewhere) => "what is changed elsewhere is not announced",
        Some(Changes::MadeUp) => "its content is made up when it is read",
    };
    Finding::note(Id::Filesystem, format!("{kind}, {access}: {silence}"))
}

/// Where the changes of the filesystem that `path` is on are made, if it can be asked.
fn changes(path: &Path) -> Option<Changes> {
    let handle = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Filesystem::of(handle.as_fd()).map(Filesystem::changes)
}

fn unreadable(view: &View) -> Option<Finding> {
    // What `run` reads, and as `run` reads it.
    let content = Content::read(view, &Content::nothing(), &BTreeMap::new());
    if let Some((path, error)) = content.unknown.first_key_value() {
        let detail = format!("{} cannot be read now: {error}", path.display());
        return Some(Finding::note(Id::Unreadable, detail));
    }
    let paths = content.unreadable;
    let (first, why) = paths.first_key_value()?;
    let why = match *why {
        Unread::Refused(errno) => io::Error::from_raw_os_error(errno).kind().to_string(),
        why => format!("it {why}"),
    };
    let detail = format!(
        "{} cannot be compared, {} the first ({why}): inode, size and time stand for the content, \
         so that a rewrite of the same bytes counts as a change",
        counted(paths.len(), "file", "files"),
        first.display()
    );
    let remedy = "run the agent as a user or group that may read it, or with CAP_DAC_READ_SEARCH";
    Some(Finding::note(Id::Unreadable, detail).remedy(remedy))
}

/// The subdirectories of a watched directory that are not watched themselves.
fn subdirectories(path: &Path, paths: &[&Path]) -> Option<Finding> {
    let watched: HashSet<_> = paths.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let mut names: Vec<_> = fs::read_dir(path)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        // What the kubelet keeps beside the keys of a volume.
        .filter(|name| !name.as_bytes().starts_with(b".."))
        .filter(|name| {
            let directory = fs::canonicalize(path.join(name)).ok();
            directory.is_some_and(|path| path.is_dir() && !watched.contains(&path))
        })
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let first = path.join(names.first()?);
    let are = counted(names.len(), "is", "are");
    let detail =
        format!("{are} not watched, for a directory stands for its own files: {}", listed(&names));
    let remedy = format!("--watch {} as well, if it is configuration", first.display());
    Some(Finding::note(Id::Subdirectories, detail).remedy(remedy))
}

/// Writes down the hops of a chain.
struct Hops<'a, 'b> {
    climb: &'a mut Climb<'b>,
    seen: &'a mut Seen,
    directories: BTreeSet<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
}

impl Hops<'_, '_> {
    fn place(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    ) {
        self.seen.places.insert(identity);
        self.climb.place(handle, identity, path, interest);
    }
}

impl Visitor for Hops<'_, '_> {
    fn directory(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    ) {
        self.place(handle, identity, path, interest);
        self.directories.insert(path.to_owned());
    }

    fn link(&mut self, path: &Path, target: &Path) {
        let link = (path.to_owned(), target.to_owned());
        if !self.links.contains(&link) {
            self.links.push(link);
        }
    }

    fn file(&mut self, handle: BorrowedFd<'_>, identity: Identity, path: &Path) {
        self.place(handle, identity, path, Interest::Any);
    }

    fn writers(&mut self, _: BorrowedFd<'_>, _: &Path, _: &FileState) -> Writers {
        Writers::Unknown
    }
}

/// A number with its noun.
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// The first of these names, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    let told = names.iter().take(MOST_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST_NAMES) {
        None | Some(0) => told,
        Some(rest) => format!("{told} and {rest} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(listed(&names(1)), "0");
        assert_eq!(listed(&names(5)), "0, 1, 2, 3, 4");
        assert_eq!(listed(&names(7)), "0, 1, 2, 3, 4 and 2 more");
    }

    #[test]
    fn a_subdirectory_that_is_watched_itself_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["conf.d", "other", "..2024_01_01"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("file"), "x").unwrap();
        let (conf, other) = (at("conf.d"), at("other"));
        let all = [dir.path(), &conf];
        let found = subdirectories(dir.path(), &all).unwrap();
        let expected = "1 is not watched, for a directory stands for its own files: other";
        assert_eq!(found.detail, expected);
        let all = [dir.path(), &conf, &other];
        assert_eq!(subdirectories(dir.path(), &all), None);
        assert_eq!(subdirectories(&at("file"), &all), None);
        assert_eq!(subdirectories(&at("missing"), &all), None);
    }
}
