//! The filesystems on which a promise must hold, mounted for one test.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::process::run;

/// A kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filesystem {
    /// Where host configuration and `ConfigMap`s lie.
    Ext4,
    /// Where `Secret`s and projected volumes lie.
    Tmpfs,
    /// What containers write to.
    Overlay,
    /// What some hosts have in place of ext4.
    Xfs,
    /// The same.
    Btrfs,
    /// A part of one, which looks like a device of its own.
    Subvolume,
}

impl Filesystem {
    /// All that docs/coverage.md has a column for.
    pub(crate) const ALL: [Self; 6] =
        [Self::Ext4, Self::Tmpfs, Self::Overlay, Self::Xfs, Self::Btrfs, Self::Subvolume];

    /// Those that every kernel has, and that most configuration lies on.
    pub(crate) const USUAL: [Self; 3] = [Self::Ext4, Self::Tmpfs, Self::Overlay];

    /// Whether this kernel has it.
    pub(crate) fn is_there(self) -> bool {
        let kind = self.kind();
        let is_listed = || {
            let list = fs::read_to_string("/proc/filesystems").unwrap();
            list.lines().any(|line| line.split_whitespace().next_back() == Some(kind))
        };
        let load = || Command::new("modprobe").arg(kind).stderr(Stdio::null()).status();
        // What is a module is listed once it is loaded, and where there is none it is not.
        is_listed() || (load().is_ok() && is_listed())
    }

    /// What the kernel calls it.
    fn kind(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Tmpfs => "tmpfs",
            Self::Overlay => "overlay",
            Self::Xfs => "xfs",
            Self::Btrfs | Self::Subvolume => "btrfs",
        }
    }

    /// Gives an empty filesystem of this kind.
    pub(crate) fn mount(self) -> Mounted {
        self.mount_with(&[])
    }

    /// Gives a filesystem that holds these files (on overlayfs in its lower layer, so that the first
    /// write copies them up).
    pub(crate) fn mount_with(self, files: &[(&str, &str)]) -> Mounted {
        self.mount_in(&std::env::temp_dir(), files)
    }

    /// The same, somewhere in the directory `place`.
    pub(crate) fn mount_in(self, place: &Path, files: &[(&str, &str)]) -> Mounted {
        let home = tempfile::tempdir_in(place).unwrap();
        let dir = home.path().join("mounted");
        fs::create_dir(&dir).unwrap();
        // Not in that place, which may have no room. A loop device needs no name for its image.
        let store = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mut layers = None;
        match self {
            Self::Ext4 if is_ext4(&dir) => return Mounted::new(dir, home, false, None).fill(files),
            Self::Ext4 | Self::Xfs | Self::Btrfs | Self::Subvolume => {
                // mkfs.xfs makes none that is smaller than 300 MiB. Most of the file is a hole.
                let image = store.path().join("image");
                fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
                run(Command::new(format!("mkfs.{}", self.kind())).arg("-q").arg(&image));
                mount.args(["-o", "loop"]).arg(&image);
            }
            Self::Tmpfs => {
                mount.args(["-t", "tmpfs", "tmpfs"]);
            }
            Self::Overlay => {
                // Not where the temporary directory is, for that may be an overlay itself.
                let below = Self::Ext4.mount();
                let [lower, upper, work] =
                    ["lower", "upper", "work"].map(|layer| below.dir.join(layer));
                for layer in [&lower, &upper, &work] {
                    fs::create_dir(layer).unwrap();
                }
                create(&lower, files);
                let options = format!(
                    "lowerdir={},upperdir={},workdir={}",
                    lower.display(),
                    upper.display(),
                    work.display()
                );
                mount.args(["-t", "overlay", "overlay", "-o", &options]);
                layers = Some(Box::new(below));
            }
        }
        run(mount.arg(&dir));
        if self == Self::Subvolume {
            let whole = Mounted::new(dir, home, true, None);
            let dir = whole.dir.join("subvolume");
            run(Command::new("btrfs")
                .args(["subvolume", "create"])
                .arg(&dir)
                .stdout(Stdio::null()));
            return Mounted::inside(whole, dir).fill(files);
        }
        // Of a new ext4, which is no file of the test's.
        drop(fs::remove_dir(dir.join("lost+found")));
        let mounted = Mounted::new(dir, home, true, layers);
        if self == Self::Overlay { mounted } else { mounted.fill(files) }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlayfs",
            Self::Subvolume => "btrfs subvolume",
            _ => self.kind(),
        })
    }
}

/// Gives this thread, and those that it starts, a mount namespace of their own, and in it a directory where
/// nobody else makes anything.
///
/// Agents look when something is mounted, or happens in a directory above what they watch. What others
/// mount is not seen there; what is mounted there is seen by nobody else, and goes with the last process.
pub(crate) fn place_apart() -> &'static Path {
    const PLACE: &str = "/media";
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    run(Command::new("mount").args(["--make-rprivate", "/"]));
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", PLACE]));
    Path::new(PLACE)
}

/// Does `check` with each of `items`, with all at the same time: most of a test is waiting.
pub(crate) fn with_each<T: Send>(items: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for item in items {
            scope.spawn(|| check(item));
        }
    });
}

fn is_ext4(dir: &Path) -> bool {
    const EXT4_SUPER_MAGIC: i64 = 0xef53;
    rustix::fs::statfs(dir).unwrap().f_type == EXT4_SUPER_MAGIC
}

fn create(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A filesystem that is unmounted when it is dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Its root.
    pub(crate) dir: PathBuf,
    is_mount: bool,
    // In the order in which they may go.
    _layers: Option<Box<Mounted>>,
    _home: Option<TempDir>,
}

impl Mounted {
    fn new(dir: PathBuf, home: TempDir, is_mount: bool, layers: Option<Box<Self>>) -> Self {
        Self { dir, is_mount, _layers: layers, _home: Some(home) }
    }

    /// A directory of what is mounted.
    fn inside(whole: Self, dir: PathBuf) -> Self {
        Self { dir, is_mount: false, _layers: Some(Box::new(whole)), _home: None }
    }

    fn fill(self, files: &[(&str, &str)]) -> Self {
        create(&self.dir, files);
        self
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mount {
            // Lazily, for a test that fails may leave somebody in there.
            drop(Command::new("umount").arg("--lazy").arg(&self.dir).status());
        }
    }
}
