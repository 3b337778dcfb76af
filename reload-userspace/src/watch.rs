//! A path and the chain of directories and symlinks behind it.
//!
//! A [`look`] walks from the root to what the path means *now*, one component at a time, and shows
//! every directory and file on the way to a [`Visitor`] **before** it reads it. A visitor that arms
//! what it is shown therefore misses no later change, and the walk needs no second pass.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FileType, Mode, OFlags, RawDir, Stat, fstat, lstat, open, openat, readlinkat},
    io::{Errno, fcntl_dupfd_cloexec},
};

use crate::{event::Writers, source::Interest};

/// The name of the symlink that the kubelet swaps to update a volume.
const VOLUME_LINK: &str = "..data";

/// How many symlinks the kernel follows in one path (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// STUB
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// a
    #[default]
    Anywhere,
    /// b
    Beneath,
}

/// A file or directory for as long as it exists: its device and inode, as `stat(2)` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

impl Identity {
    /// That of what a path leads to now, if anything.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        rustix::fs::stat(path).ok().map(|stat| identity(&stat))
    }
}

/// One state of a file, as far as it shows without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileState {
    /// Which file it is.
    pub identity: Identity,
    /// Its size in bytes.
    pub size: u64,
    /// When its content was changed, in seconds and nanoseconds since 1970.
    pub modified: (i64, u64),
    /// When its inode was changed, likewise.
    pub changed: (i64, u64),
    /// Whether the path leads to it through a symlink.
    pub is_linked: bool,
}

/// What a name in a directory leads to, as far as it takes to know whether that is still so.
///
/// An inode number is handed out again. Of a file or directory that was put in the place of another
/// its own events tell; a symlink has none, so its time is a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    identity: Identity,
    made: Option<(i64, u64)>,
}

impl Child {
    fn of(stat: &Stat) -> Self {
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let made = is_link.then_some((stat.st_ctime, stat.st_ctime_nsec));
        Self { identity: identity(stat), made }
    }

    /// What `path` leads to now, or `None` where that cannot be seen.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        lstat(path).ok().as_ref().map(Self::of)
    }
}

/// Opens the directory that is at `path`, if it is still the one that is meant.
#[must_use]
pub fn open_again(path: &Path, meant: Identity) -> Option<OwnedFd> {
    let handle = open(path, PATH_ONLY, Mode::empty()).ok()?;
    let stat = fstat(&handle).ok()?;
    (identity(&stat) == meant).then_some(handle)
}

impl FileState {
    /// Whether it is the same file, and nobody has written to it since this state.
    #[must_use]
    pub fn is_as_written(&self, other: &Self) -> bool {
        let written = |state: &Self| (state.identity, state.size, state.modified);
        written(self) == written(other)
    }

    /// Whether the file behind `handle` is this one, and still in this state.
    #[must_use]
    pub fn is_that_of(&self, handle: BorrowedFd<'_>) -> bool {
        fstat(handle).is_ok_and(|stat| state(&stat, self.is_linked) == *self)
    }
}

/// What a path means at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The files that the path stands for: itself or, of a directory, those in it; each under the
    /// path that its reader would use.
    pub files: BTreeMap<PathBuf, FileState>,
    /// The kubelet's volumes on the way: each `..data`, and the directory that it leads to.
    pub volumes: BTreeMap<PathBuf, PathBuf>,
    /// Why there is nothing, if so.
    pub obstacle: Option<Obstacle>,
    /// Whether somebody has one of the files open for writing.
    pub writers: Option<Writers>,
    /// The latest change time of all files, links and directories on the way, as time since 1970:
    /// since then the path has meant what it means.
    pub latest_change: Duration,
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Nothing is there yet, or no longer.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is no directory, though the path goes on.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// It is a FIFO, a device or a socket.
    #[error("{} is neither a regular file nor a directory", .0.display())]
    WrongKind(PathBuf),
    /// It cannot be entered or listed.
    #[error("{} cannot be read: {}", .0.display(), io::Error::from_raw_os_error(*.1))]
    Denied(PathBuf, i32),
    /// Too many symlinks.
    #[error("{} leads through more than {MAX_LINKS} symlinks", .0.display())]
    Loop(PathBuf),
}

impl Obstacle {
    /// Whether it may go away without any event of a file: a server comes back, descriptors are given
    /// back.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Denied(_, errno) if !is_forbidden(*errno))
    }
}

/// Is shown everything that a path depends on.
pub trait Visitor {
    /// A directory in which a name is about to be looked up.
    ///
    /// Where there is no such name, the directory is shown again, with more interest, and the name
    /// looked up again.
    fn directory(
        &mut self,
        handle: BorrowedFd<'_>,
        identity: Identity,
        path: &Path,
        interest: Interest,
    );

    /// What a path below a directory that was shown has led to.
    fn child(&mut self, _directory: Identity, _path: &Path, _child: Child) {}

    /// A symlink on the way, and what it says.
    fn link(&mut self, _path: &Path, _target: &Path) {}

    /// A file that the path stands for. Its times are asked for after this.
    fn file(&mut self, handle: BorrowedFd<'_>, identity: Identity, path: &Path);

    /// Whether somebody may still write to the file in this state.
    fn writers(&mut self, handle: BorrowedFd<'_>, path: &Path, state: &FileState) -> Writers;
}

/// Walks to what `path`, which is absolute, means now.
///
/// # Errors
///
/// None: what is in the way is [`View::obstacle`]; what vanishes meanwhile is not there.
pub fn look(path: &Path, visitor: &mut impl Visitor) -> View {
    let mut walk = Walk { visitor, view: View::default(), links: 0 };
    if let Err(obstacle) = walk.all(path) {
        walk.view.obstacle = Some(obstacle);
    }
    walk.view
}

/// Whether an editor or a tool has made this file for its own use, so that it is no configuration.
///
/// Vim's swap files and its probe `4913`, Emacs' locks and autosaves, and backups.
fn is_scratch(name: &[u8]) -> bool {
    let is_swap = name.starts_with(b".")
        && [".swp", ".swo", ".swx"].iter().any(|end| name.ends_with(end.as_bytes()));
    let is_autosave = name.starts_with(b"#") && name.ends_with(b"#");
    is_swap || is_autosave || name.ends_with(b"~") || name.starts_with(b".#") || name == b"4913"
}

/// A walk under way.
struct Walk<'a, V> {
    visitor: &'a mut V,
    view: View,
    links: usize,
}

/// Where a walk has arrived.
struct Arrival {
    handle: OwnedFd,
    stat: Stat,
    /// Its path without symlinks.
    path: PathBuf,
}

impl<V: Visitor> Walk<'_, V> {
    fn all(&mut self, path: &Path) -> Result<(), Obstacle> {
        let root = Path::new("/");
        let handle = open(root, PATH_ONLY, Mode::empty()).map_err(|errno| denied(root, errno))?;
        let found = self.walk(handle, PathBuf::from("/"), path)?;
        match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::RegularFile => self.file(&found, path),
            FileType::Directory => self.directory(&found, path)?,
            _ => return Err(Obstacle::WrongKind(path.to_owned())),
        }
        Ok(())
    }

    /// Tells `path` from the directory `at`, whose own path is `here`.
    fn walk(
        &mut self,
        mut at: OwnedFd,
        mut here: PathBuf,
        path: &Path,
    ) -> Result<Arrival, Obstacle> {
        self.links = 0;
        let mut stat = fstat(&at).map_err(|errno| denied(&here, errno))?;
        let mut rest: VecDeque<OsString> = names(path).collect();
        while let Some(name) = rest.pop_front() {
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(Obstacle::NotDirectory(here));
            }
            let next = here.join(&name);
            let handle = self.look_up(&at, identity(&stat), &here, &name)?;
            let found = fstat(&handle).map_err(|errno| denied(&next, errno))?;
            self.view.latest_change = self.view.latest_change.max(changed_at(&found));
            self.visitor.child(identity(&stat), &next, Child::of(&found));
            if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
                (at, stat) = (handle, found);
                // What `..` leads to has a name of its own, which we need not find out.
                here = if name == ".." { parent(&here) } else { next };
                continue;
            }
            self.links += 1;
            if self.links > MAX_LINKS {
                return Err(Obstacle::Loop(next));
            }
            let link = readlinkat(&handle, "", Vec::new()).map_err(|errno| denied(&next, errno))?;
            let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
            self.visitor.link(&next, &link);
            if name == VOLUME_LINK {
                self.view.volumes.insert(next, here.join(&link));
            }
            if link.is_absolute() {
                here = PathBuf::from("/");
                at = open(&here, PATH_ONLY, Mode::empty()).map_err(|errno| denied(&here, errno))?;
                stat = fstat(&at).map_err(|errno| denied(&here, errno))?;
            }
            for name in names(&link).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(Arrival { handle: at, stat, path: here })
    }

    /// Opens what a name means in a directory.
    fn look_up(
        &mut self,
        at: &OwnedFd,
        identity: Identity,
        here: &Path,
        name: &OsStr,
    ) -> Result<OwnedFd, Obstacle> {
        for interest in [Interest::Replacement, Interest::Any] {
            self.visitor.directory(at.as_fd(), identity, here, interest);
            if interest == Interest::Any {
                // A name that was being made before this was of interest is not announced.
                wait_for_changes(at.as_fd());
            }
            match openat(at, name, PATH_ONLY, Mode::empty()) {
                Ok(handle) => return Ok(handle),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(denied(&here.join(name), errno)),
            }
        }
        Err(Obstacle::Missing(here.join(name)))
    }

    /// Takes the files of a directory, whatever symlinks they are behind; not those of its
    /// subdirectories.
    fn directory(&mut self, found: &Arrival, path: &Path) -> Result<(), Obstacle> {
        let here = identity(&found.stat);
        self.visitor.directory(found.handle.as_fd(), here, &found.path, Interest::Any);
        // A log that the agent writes would be the next change, for ever.
        let own_log = fstat(io::stderr()).ok().map(|stat| identity(&stat));
        for name in entries(found.handle.as_fd()).map_err(|errno| denied(path, errno))? {
            let at = fcntl_dupfd_cloexec(&found.handle, 0).map_err(|errno| denied(path, errno))?;
            match self.walk(at, found.path.clone(), Path::new(&name)) {
                Ok(found) if is_configuration(&found.stat, own_log.as_ref()) => {
                    self.file(&found, &path.join(&name));
                }
                // We are short of something: what we do not see is not gone.
                Err(Obstacle::Denied(path, errno)) if !is_forbidden(errno) => {
                    return Err(Obstacle::Denied(path, errno));
                }
                // Not there any more, dangling, or no file: nothing that a reader could read.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, found: &Arrival, path: &Path) {
        let handle = found.handle.as_fd();
        self.visitor.file(handle, identity(&found.stat), path);
        // Asked for only now: from here on the next write gets a time of its own (multigrain
        // timestamps, Linux 6.13), and is therefore announced even within a tick of the clock.
        let Ok(stat) = fstat(handle) else {
            return;
        };
        let state = state(&stat, self.links > 0);
        let writers = self.visitor.writers(handle, path, &state);
        self.view.writers = Some(self.view.writers.map_or(writers, |others| others.or(writers)));
        self.view.files.insert(path.to_owned(), state);
    }
}

/// Whether this is a file that somebody may read for its configuration.
fn is_configuration(stat: &Stat, own_log: Option<&Identity>) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && own_log != Some(&identity(stat))
}

/// Whether the error is about what we may, not about what we have.
fn is_forbidden(errno: i32) -> bool {
    [Errno::ACCESS, Errno::PERM].iter().any(|forbidden| forbidden.raw_os_error() == errno)
}

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The names in a directory that may be configuration, in the order of their bytes.
///
/// Reading a directory takes its lock, so that a rename that is being carried out is waited for.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    const BUFFER: usize = 8192;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = openat(directory, ".", flags, Mode::empty())?;
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; BUFFER];
    let mut listing = RawDir::new(readable, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        // `.`, `..`, and what the kubelet keeps beside the keys of a volume.
        let is_internal = name == b"." || name.starts_with(b"..");
        let is_directory = entry.file_type() == FileType::Directory;
        if !is_internal && !is_directory && !is_scratch(name) {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Waits until no change of a directory is being carried out any more.
///
/// Reading a directory takes its lock (`iterate_dir` of the kernel), which every change of it holds
/// until the new entry can be seen. Where the directory cannot be read there is no such wait; the
/// agent looks again a little later in any case.
pub fn wait_for_changes(directory: BorrowedFd<'_>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(readable) = openat(directory, ".", flags, Mode::empty()) else {
        return;
    };
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; 512];
    let mut listing = RawDir::new(readable, &mut buffer);
    // What is in it does not matter, nor whether it can be read: where not, there is no wait.
    let _is_read = listing.next().is_some();
}

/// The components of a path as the kernel resolves them: `..` stays, for it may follow a symlink.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn denied(path: &Path, errno: Errno) -> Obstacle {
    match errno {
        Errno::NOENT => Obstacle::Missing(path.to_owned()),
        Errno::NOTDIR => Obstacle::NotDirectory(path.to_owned()),
        errno => Obstacle::Denied(path.to_owned(), errno.raw_os_error()),
    }
}

/// When the inode was last changed: written to, given another name, or a name in it.
fn changed_at(stat: &Stat) -> Duration {
    let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
    Duration::new(seconds, u32::try_from(stat.st_ctime_nsec).unwrap_or(0))
}

fn identity(stat: &Stat) -> Identity {
    Identity { device: stat.st_dev, inode: stat.st_ino }
}

fn state(stat: &Stat, is_linked: bool) -> FileState {
    FileState {
        identity: identity(stat),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        changed: (stat.st_ctime, stat.st_ctime_nsec),
        is_linked,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    /// Writes down what it is shown.
    #[derive(Default)]
    struct Notes {
        directories: Vec<PathBuf>,
        files: Vec<PathBuf>,
    }

    impl Visitor for Notes {
        fn directory(&mut self, _: BorrowedFd<'_>, _: Identity, path: &Path, _: Interest) {
            self.directories.push(path.to_owned());
        }

        fn file(&mut self, _: BorrowedFd<'_>, _: Identity, path: &Path) {
            self.files.push(path.to_owned());
        }

        fn writers(&mut self, _: BorrowedFd<'_>, _: &Path, _: &FileState) -> Writers {
            Writers::None
        }
    }

    /// A temporary directory without symlinks in its own path.
    fn temporary() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path)
    }

    fn files(view: &View) -> Vec<&Path> {
        view.files.keys().map(PathBuf::as_path).collect()
    }

    #[test]
    fn every_directory_of_a_chain_is_shown() {
        let (_directory, root) = temporary();
        fs::create_dir_all(root.join("releases/1")).unwrap();
        fs::write(root.join("releases/1/app.conf"), "x").unwrap();
        symlink("releases/1", root.join("current")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        symlink(root.join("current/app.conf"), root.join("etc/app.conf")).unwrap();

        let mut notes = Notes::default();
        let view = look(&root.join("etc/app.conf"), &mut notes);

        assert_eq!(files(&view), [root.join("etc/app.conf")]);
        for wanted in ["etc", "", "releases", "releases/1"] {
            let wanted = root.join(wanted);
            assert!(notes.directories.contains(&wanted), "{wanted:?} in {:?}", notes.directories);
        }
    }

    #[test]
    fn a_volume_is_known_by_its_link() {
        let (_directory, root) = temporary();
        fs::create_dir(root.join("..2024")).unwrap();
        fs::write(root.join("..2024/b.conf"), "b").unwrap();
        symlink("..2024", root.join("..data")).unwrap();
        symlink("..data/b.conf", root.join("b.conf")).unwrap();
        symlink("..data/gone.conf", root.join("gone.conf")).unwrap();

        let view = look(&root, &mut Notes::default());

        assert_eq!(files(&view), [root.join("b.conf")]);
        let expected = BTreeMap::from([(root.join("..data"), root.join("..2024"))]);
        assert_eq!(view.volumes, expected);
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let (_directory, root) = temporary();
        fs::write(root.join("file"), "x").unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fifo = root.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let check = |path: &str, expected: Obstacle| {
            let view = look(&root.join(path), &mut Notes::default());
            assert_eq!(view.obstacle, Some(expected), "for {path}");
        };
        check("nothing/at/all", Obstacle::Missing(root.join("nothing")));
        check("file/below", Obstacle::NotDirectory(root.join("file")));
        check("fifo", Obstacle::WrongKind(fifo.clone()));
        check("loop", Obstacle::Loop(root.join("loop")));
    }

    #[test]
    fn scratch_files_are_no_configuration() {
        fn check(name: &str, expected: bool) {
            assert_eq!(is_scratch(name.as_bytes()), expected, "for {name}");
        }
        check("app.conf", false);
        check(".env", false);
        check("swp", false);
        check(".app.conf.swp", true);
        check("app.conf~", true);
        check("#app.conf#", true);
        check(".#app.conf", true);
        check("4913", true);
    }
}
