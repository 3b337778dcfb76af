//! How far a watch reaches, and how a path is opened whose end may be somebody else's.
//!
//! A volume of a pod is written to by the kubelet, and by the pod where it is mounted for that. So
//! whatever is in it may be a link to anywhere, a FIFO or a device, and any of it may be replaced while
//! it is looked at. **Invariant:** no path of [`Reach::Beneath`] is opened but with `openat2(2)` (Linux
//! 5.6), which the kernel keeps below the volume. Where there is no such call, nothing below it is
//! opened at all: it is never made up for by looking first and opening later.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
    sync::LazyLock,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, readlink},
    io::Errno,
};

use crate::sys::link_of;

/// How often a path with `..` in it is tried again, because the kernel cannot tell whether it has led
/// out: something was renamed meanwhile, anywhere on the machine.
const MOST_TRIES: usize = 16;

/// A handle that reads nothing: what is opened so may be a device or a FIFO, and nobody notices.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// What keeps a path below the directory that it starts from: it does not leave by a symlink or by `..`,
/// nor through `/proc`, nor into another mount.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// How far the watches of a rule reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// To wherever a path leads.
    #[default]
    Anywhere,
    /// The path is that of a directory, and trusted; nothing leads out of that directory. What would is
    /// not there, and what is in it is bounded.
    Beneath,
}

/// A file by the path that its reader would use, and the directory that nothing leads out of, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The path.
    pub path: PathBuf,
    /// A beginning of it.
    pub root: Option<PathBuf>,
}

impl<P: Into<PathBuf>> From<P> for Spot {
    /// Wherever it leads.
    fn from(path: P) -> Self {
        Self { path: path.into(), root: None }
    }
}

impl Spot {
    /// Opens what is there, as a handle that reads nothing.
    ///
    /// # Errors
    ///
    /// Fails where nothing is there, or where it leads out.
    pub fn open(&self) -> io::Result<OwnedFd> {
        match &self.root {
            None => Ok(open(&self.path, PATH_ONLY, Mode::empty())?),
            Some(root) => Volume::open(root)?.find(&self.path),
        }
    }

    /// The path of what is there, without symlinks.
    ///
    /// # Errors
    ///
    /// As [`Spot::open`].
    pub fn real(&self) -> io::Result<PathBuf> {
        if self.root.is_none() {
            return fs::canonicalize(&self.path);
        }
        let found = self.open()?;
        if fstat(&found)?.st_nlink == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        path_of(found.as_fd())
    }
}

/// A directory that nothing leads out of.
#[derive(Debug)]
pub struct Volume<'a> {
    path: &'a Path,
    directory: OwnedFd,
}

impl<'a> Volume<'a> {
    /// Opens the directory at a trusted path.
    ///
    /// # Errors
    ///
    /// Fails where there is none.
    pub fn open(path: &'a Path) -> io::Result<Self> {
        let directory = open(path, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { path, directory })
    }

    /// Opens what `path`, which begins with that of the directory, leads to, as a handle that reads
    /// nothing.
    ///
    /// # Errors
    ///
    /// Fails where nothing is there, or where it leads out ([`leads_out`]).
    pub fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        let rest = path.strip_prefix(self.path).map_err(|_outside| Errno::XDEV)?;
        for _ in 0..MOST_TRIES {
            match openat2(&self.directory, rest, PATH_ONLY, Mode::empty(), CONFINED) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                found => return Ok(found?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Opens the regular file that `path` leads to, to be read; `None` where it is of another kind.
    ///
    /// A FIFO or a device is not even opened: that alone may do something.
    ///
    /// # Errors
    ///
    /// As [`Volume::find`], and where it may not be read.
    pub fn file(&self, path: &Path) -> io::Result<Option<fs::File>> {
        let found = self.find(path)?;
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        // The link of our own leads to that very inode, whatever is at the path by now.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(Some(open(link_of(found.as_fd()), flags, Mode::empty())?.into()))
    }
}

/// Opens what a name in a directory means, be it a symlink, as a handle that reads nothing.
///
/// # Errors
///
/// Fails where there is nothing by that name, and where it is not in the directory: another mount, `..`.
pub fn step(directory: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat2(directory, name, PATH_ONLY | OFlags::NOFOLLOW, Mode::empty(), CONFINED)
}

/// Opens what is at a path that had no symlinks in it when it was found; one that has come since is not
/// followed, for it may be a trap.
///
/// Where the kernel cannot be asked for that it is opened all the same: then there is no path of
/// [`Reach::Beneath`] either, and the others may lead anywhere.
///
/// # Errors
///
/// Fails where nothing is there, or not by that path.
pub fn open_real(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = PATH_ONLY | OFlags::NOFOLLOW;
    if is_confinable() {
        openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    } else {
        open(path, flags, Mode::empty())
    }
}

/// Whether the kernel lets a path be confined: it is new enough, and no seccomp profile forbids it.
#[must_use]
pub fn is_confinable() -> bool {
    static ANSWER: LazyLock<bool> = LazyLock::new(|| {
        openat2(CWD, "/", PATH_ONLY, Mode::empty(), ResolveFlags::NO_SYMLINKS).is_ok()
    });
    *ANSWER
}

/// Whether an error says that a path leads out of where it is to stay: by a symlink, `..` or a mount
/// (`EXDEV`), or by a link of `/proc` (`ELOOP`).
#[must_use]
pub fn leads_out(errno: Errno) -> bool {
    matches!(errno, Errno::XDEV | Errno::LOOP)
}

/// The path of what is behind a handle.
///
/// # Errors
///
/// Fails without `/proc`.
pub fn path_of(handle: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let path = readlink(link_of(handle), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::symlink};

    use super::*;

    /// A volume with a way out of every kind, beside a file that nobody in it may reach.
    fn volume() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let volume = home.path().canonicalize().unwrap().join("volume");
        fs::create_dir_all(volume.join("..1/sub")).unwrap();
        fs::write(home.path().join("secret"), "secret").unwrap();
        fs::write(volume.join("..1/a"), "a").unwrap();
        let link = |target: &str, name: &str| symlink(target, volume.join(name)).unwrap();
        link("..1", "..data");
        link("..data/a", "a");
        link("..data/sub/../a", "detour");
        link("../secret", "up");
        link("..data/sub/../../../secret", "up-and-up");
        link("/etc/passwd", "absolute");
        link("/proc/self/fd/0", "descriptor");
        link("/proc/self/root", "root");
        link("loop", "loop");
        nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        (home, volume)
    }

    #[test]
    fn what_is_in_a_volume_is_read_and_what_is_not_is_not() {
        let (_home, root) = volume();
        let volume = Volume::open(&root).unwrap();
        let read = |name: &str| {
            let mut text = String::new();
            volume.file(&root.join(name)).unwrap().unwrap().read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!([read("a"), read("detour")], ["a", "a"]);
        for name in ["up", "up-and-up", "absolute", "descriptor", "root", "root/etc", "loop"] {
            let error = volume.file(&root.join(name)).unwrap_err();
            let errno = Errno::from_io_error(&error).unwrap();
            assert!(leads_out(errno), "{name}: {error}");
        }
        assert!(volume.file(&root.join("fifo")).unwrap().is_none());
        assert!(volume.file(&root.join("..data/sub")).unwrap().is_none());
        assert!(volume.file(&root.join("../secret")).is_err());
        assert!(volume.file(Path::new("/etc/passwd")).is_err());
    }

    #[test]
    fn a_spot_is_as_confined_as_its_root_says() {
        let (home, root) = volume();
        let spot = |name: &str| Spot { path: root.join(name), root: Some(root.clone()) };
        assert_eq!(spot("a").real().unwrap(), root.join("..1/a"));
        assert!(spot("up").open().is_err() && spot("up").real().is_err());
        let secret = home.path().canonicalize().unwrap().join("secret");
        assert_eq!(Spot::from(root.join("up")).real().unwrap(), secret);
    }

    #[test]
    fn a_directory_that_has_become_a_link_is_not_entered() {
        let (home, root) = volume();
        let path = root.join("..1/a");
        assert!(open_real(&path).is_ok());
        assert!(open_real(&root.join("..data")).is_ok(), "the last part may be a link");
        fs::rename(root.join("..1"), home.path().join("moved")).unwrap();
        symlink("../moved", root.join("..1")).unwrap();
        assert_eq!(open_real(&path).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_step_goes_one_way() {
        let (_home, root) = volume();
        let volume = open(&root, PATH_ONLY, Mode::empty()).unwrap();
        assert!(step(volume.as_fd(), OsStr::new("up")).is_ok(), "the link itself");
        assert!(step(volume.as_fd(), OsStr::new("..")).is_err());
        assert!(step(volume.as_fd(), OsStr::new("/etc")).is_err());
    }
}
