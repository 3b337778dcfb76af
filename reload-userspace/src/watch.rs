//! A path and the chain of directories and symlinks behind it.
//!
//! A [`look`] walks to what the path means *now*, one component at a time, from the root or from the last
//! directory that a [`Visitor`] vouches for, and shows every directory and file on the way to it **before**
//! it reads it. A visitor that arms what it is shown therefore misses no later change, and the walk needs
//! no second pass.

mod walk;

use std::{
    collections::BTreeMap,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, statat},
    io::Errno,
};

use self::walk::{MAX_LINKS, MOST_NAMES, Walk};
use crate::{event::Writers, reach, source::Interest};

pub use crate::reach::Reach;

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

    /// That of what is behind a handle.
    #[must_use]
    pub fn of(handle: BorrowedFd<'_>) -> Option<Self> {
        fstat(handle).ok().map(|stat| identity(&stat))
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

    /// What the name at the end of `path` means in the directory there now, or `None` where that cannot
    /// be seen.
    #[must_use]
    pub fn at(directory: BorrowedFd<'_>, path: &Path) -> Option<Self> {
        // Also where that is `..`.
        let name = path.components().next_back()?;
        let stat = statat(directory, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW);
        stat.ok().as_ref().map(Self::of)
    }
}

/// How far a way leads without symlinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Straight {
    /// The last directory of it.
    pub path: PathBuf,
    identity: Identity,
    /// The latest change time of the directories on the way, as time since 1970.
    latest_change: Duration,
}

impl Straight {
    /// The same no further than a directory on the way.
    #[must_use]
    pub fn up_to(&self, path: &Path, directory: Child) -> Self {
        let identity = directory.identity;
        Self { path: path.to_owned(), identity, latest_change: self.latest_change }
    }
}

/// Opens the directory that is at `path`, without symlinks, if it is still the one that is meant.
#[must_use]
pub fn open_again(path: &Path, meant: Identity) -> Option<(OwnedFd, Stat)> {
    let handle = reach::open_real(path).ok()?;
    let stat = fstat(&handle).ok()?;
    (identity(&stat) == meant).then_some((handle, stat))
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
    /// path that its reader would use. Shared with whoever remembers them.
    pub files: Arc<BTreeMap<PathBuf, FileState>>,
    /// The kubelet's volumes on the way: each `..data`, and the directory that it leads to.
    pub volumes: BTreeMap<PathBuf, PathBuf>,
    /// The directory that nothing has led out of, by the path that is watched, if it was looked at so.
    pub root: Option<PathBuf>,
    /// Why there is nothing, if so.
    pub obstacle: Option<Obstacle>,
    /// Whether somebody has one of the files open for writing.
    pub writers: Option<Writers>,
    /// The latest change time of all files, links and directories on the way, as time since 1970:
    /// since then the path has meant what it means.
    pub latest_change: Duration,
    /// The same without what is above the volume that nothing may lead out of; zero where there is none.
    pub changed_within: Duration,
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
    /// It leads out of the volume that it is in. Of a name in it nothing is told: it is not there.
    #[error("{} leads out of its volume", .0.display())]
    Outside(PathBuf),
    /// There are more names in a volume than anybody keeps there.
    #[error("{} has more than {MOST_NAMES} names in it", .0.display())]
    Crowded(PathBuf),
    /// The names and links in a volume make for a longer way than anybody lays out.
    #[error("{}: its symlinks and directories lead further than is followed", .0.display())]
    Tangled(PathBuf),
    /// It cannot be made sure that nothing leads out of a volume.
    #[error(
        "{} cannot be read safely: openat2(2) is missing (Linux 5.6), or a seccomp profile forbids it",
        .0.display()
    )]
    Unconfined(PathBuf),
}

impl Obstacle {
    /// Whether it may go away without any event of a file: a server comes back, descriptors are given
    /// back.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Denied(_, errno) if !is_forbidden(*errno))
    }
}

/// Is shown everything that a path depends on, but for what it vouches for.
pub trait Visitor {
    /// How far the visitor vouches for the way: there the last walk found it straight, and nothing has happened
    /// since in the directories that were shown.
    fn vouched(&mut self) -> Option<Straight> {
        None
    }

    /// The walk begins there, for that directory is where it was: what is before it still counts as shown.
    fn begins_at(&mut self, _straight: &Straight) {}

    /// How far the way was straight; `None` where there is something in the way.
    fn was_straight(&mut self, _straight: Option<Straight>) {}

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

/// Walks to what `path`, which is absolute, means now, and no further than it may reach.
///
/// # Errors
///
/// None: what is in the way is [`View::obstacle`]; what vanishes meanwhile is not there.
pub fn look(path: &Path, reach: Reach, visitor: &mut impl Visitor) -> View {
    Walk::to(path, reach, visitor)
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

/// Whether the error is about what we may, not about what we have.
fn is_forbidden(errno: i32) -> bool {
    [Errno::ACCESS, Errno::PERM].iter().any(|forbidden| forbidden.raw_os_error() == errno)
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
        let view = look(&root.join("etc/app.conf"), Reach::Anywhere, &mut notes);

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

        let view = look(&root, Reach::Anywhere, &mut Notes::default());

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
            let view = look(&root.join(path), Reach::Anywhere, &mut Notes::default());
            assert_eq!(view.obstacle, Some(expected), "for {path}");
        };
        check("nothing/at/all", Obstacle::Missing(root.join("nothing")));
        check("file/below", Obstacle::NotDirectory(root.join("file")));
        check("fifo", Obstacle::WrongKind(fifo.clone()));
        check("loop", Obstacle::Loop(root.join("loop")));
    }

    #[test]
    fn scratch_files_are_no_configuration() {
        use super::walk::is_scratch;

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
