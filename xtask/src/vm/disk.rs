//! What a virtual machine has in place of a disk: an archive that its kernel unpacks into memory.
//!
//! It holds our init, the modules, the compiled tests with what they run, and the libraries of all these
//! programs: nothing of this machine is shared with it, and nothing of it is left.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::{archive::Archive, kernel::Kernel};
use crate::{
    exec,
    place::{Place, printed},
};

/// What init, the tests and the scripts in them run.
const PROGRAMS: &[&str] = &[
    "sh",
    "cat",
    "chmod",
    "cp",
    "dmesg",
    "env",
    "head",
    "ip",
    "kill",
    "ln",
    "mkdir",
    "mkfifo",
    "mkfs.btrfs",
    "mkfs.ext4",
    "mkfs.xfs",
    "btrfs",
    "modprobe",
    "mount",
    "mv",
    "nginx",
    "nsenter",
    "printf",
    "rm",
    "sed",
    "setpriv",
    "setsid",
    "sleep",
    "stty",
    "touch",
    "umount",
    "unshare",
];

/// What the kernel needs for init and for the filesystems of the tests; with each comes what it needs.
const MODULES: &[&str] = &["loop", "overlay", "xfs", "btrfs", "crc32c_generic", "xxhash_generic"];

/// Files of the system that programs read, where they are there.
const FILES: &[&str] = &["/etc/group", "/etc/mke2fs.conf", "/etc/nsswitch.conf", "/etc/passwd"];

/// Folders that every system has.
const FOLDERS: &[&str] = &[
    "/dev",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/sys",
    "/tmp",
    "/var/log/nginx",
    "/var/tmp",
];

/// Where a system that has merged its folders has symlinks.
const MERGED: [&str; 4] = ["/bin", "/sbin", "/lib", "/lib64"];

const INIT: &str = include_str!("init.sh");

/// What is to be done in a virtual machine.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Where it begins.
    pub(crate) folder: PathBuf,
    /// The programs that it needs besides those of the system: where each is to be found there, and where it
    /// is here.
    pub(crate) programs: Vec<(PathBuf, PathBuf)>,
    /// The script that does it, and puts what is to be known afterwards into files in `/report`.
    pub(crate) job: String,
}

/// Packs what a kernel needs to carry out `load` into the file `path`.
///
/// # Errors
///
/// Fails where something is missing here, and names it.
pub(crate) fn pack(place: &Place, kernel: &Kernel, load: &Load, path: &Path) -> Result<()> {
    let slim = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut disk = Disk { archive: Archive::create(path)?, slim };
    for merged in MERGED.map(Path::new) {
        if let Ok(target) = fs::read_link(merged) {
            disk.archive.link(merged, &target)?;
        }
    }
    for folder in FOLDERS {
        disk.archive.directory(Path::new(folder))?;
    }
    for name in PROGRAMS {
        disk.program(&find(name)?)?;
    }
    for file in FILES.iter().map(Path::new).filter(|file| file.is_file()) {
        disk.archive.copy(file, file)?;
    }
    disk.modules(kernel)?;
    disk.load(place, load)?;
    disk.archive.content(Path::new("/init"), 0o755, INIT.as_bytes())?;
    disk.archive.content(Path::new("/job"), 0o644, load.job.as_bytes())?;
    disk.archive.finish().map(drop)
}

/// The archive, while it is filled.
#[derive(Debug)]
struct Disk {
    archive: Archive<BufWriter<File>>,
    /// Where programs without what debuggers need are put.
    slim: TempDir,
}

impl Disk {
    /// Adds a program of the system, under the name that it was found by, and its libraries.
    fn program(&mut self, path: &Path) -> Result<()> {
        self.real(path)?;
        self.libraries(path)
    }

    /// Adds a file of the system where it is, and, where it is found by a symlink, that as well.
    fn real(&mut self, path: &Path) -> Result<()> {
        let real = canonical(path)?;
        self.archive.copy(&real, &real)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let named = canonical(parent)?.join(name);
        if named == real { Ok(()) } else { self.archive.link(&named, &real) }
    }

    /// Adds the libraries of a program, and the program that loads them, as ldd(1) lists them.
    fn libraries(&mut self, program: &Path) -> Result<()> {
        // Scripts and static programs have none.
        let listed = printed(Command::new("ldd").arg(program)).unwrap_or_default();
        libraries(&listed).into_iter().try_for_each(|library| self.real(Path::new(library)))
    }

    fn modules(&mut self, kernel: &Kernel) -> Result<()> {
        let there = Path::new("/usr/lib/modules").join(&kernel.release);
        let here = kernel.modules();
        let entries =
            fs::read_dir(&here).with_context(|| format!("cannot list {}", here.display()))?;
        // The lists that modprobe(8) reads.
        for entry in entries.filter_map(Result::ok).filter(|entry| entry.path().is_file()) {
            self.archive.copy(&there.join(entry.file_name()), &entry.path())?;
        }
        for module in MODULES {
            for file in kernel.files_of(module)? {
                let name = file
                    .strip_prefix(&here)
                    .with_context(|| format!("{} is not in {}", file.display(), here.display()))?;
                self.archive.copy(&there.join(name), &file)?;
            }
        }
        Ok(())
    }

    /// Adds its programs, and those that tests run, where they are: their paths are compiled in.
    fn load(&mut self, place: &Place, load: &Load) -> Result<()> {
        self.archive.directory(&load.folder)?;
        for (there, program) in &load.programs {
            let slim = self.slim.path().join("slim");
            // With it the tests alone are half a gigabyte, in memory, twice.
            let mut strip = Command::new("strip");
            exec(strip.arg("--strip-debug").arg("-o").arg(&slim).arg(program))?;
            self.archive.copy(there, &slim)?;
            self.libraries(program)?;
        }
        let scratch = place.target.join("tmp");
        for folder in list(&scratch)?.into_iter().filter(|folder| folder.is_dir()) {
            for program in list(&folder)?.into_iter().filter(|file| file.is_file()) {
                self.archive.copy(&program, &program)?;
                self.libraries(&program)?;
            }
        }
        Ok(())
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
}

/// Finds a program of the system.
fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = ["/usr/sbin", "/usr/bin"].map(PathBuf::from);
    let found = folders
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    let found = found.with_context(|| format!("there is no {name} here"))?;
    ensure!(found.is_absolute(), "{} on PATH is no absolute path", found.display());
    Ok(found)
}

/// Takes the paths from what ldd(1) prints: `libc.so.6 => /lib/libc.so.6 (0x…)`, and
/// `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn libraries(listed: &str) -> Vec<&str> {
    let paths = listed.lines().map(|line| line.get(line.find('/')?..line.rfind(" (0x")?));
    paths.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        const LISTED: &str = "\
\tlinux-vdso.so.1 (0x00007ffd4f3d2000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6f8a000000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f6f8a3c2000)
";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(LISTED), expected);
        assert_eq!(libraries("\tstatically linked\n"), [] as [&str; 0]);
    }
}
