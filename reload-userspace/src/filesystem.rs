//! Which filesystem something lies on, and whether it announces every change.

use std::{fmt, os::fd::BorrowedFd};

use rustix::fs::fstatfs;

/// A kind of filesystem, by the magic number of `statfs(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filesystem {
    magic: u64,
}

/// What is known of a kind of filesystem.
struct Known {
    magic: u64,
    name: &'static str,
    changes: Changes,
}

/// Where the changes of a filesystem are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// All of them by this kernel, which announces them.
    Here,
    /// Others by machines or programs that this kernel does not ask: those are not announced.
    Elsewhere,
    /// Nowhere: the kernel makes up the content whenever it is read.
    MadeUp,
}

use Changes::{Elsewhere, Here, MadeUp};

/// The magic numbers of `statfs(2)` and `linux/magic.h`.
const KNOWN: &[Known] = &[
    known(0xef53, "ext4", Here),
    known(0x0102_1994, "tmpfs", Here),
    known(0x8584_58f6, "ramfs", Here),
    known(0x794c_7630, "overlayfs", Here),
    known(0x5846_5342, "xfs", Here),
    known(0x9123_683e, "btrfs", Here),
    known(0xf2f5_2010, "f2fs", Here),
    known(0x2fc1_2fc1, "zfs", Here),
    known(0x7371_7368, "squashfs", Here),
    known(0x6969, "nfs", Elsewhere),
    // virtiofs has the number of FUSE.
    known(0x6573_5546, "fuse", Elsewhere),
    known(0x0102_1997, "9p", Elsewhere),
    known(0xff53_4d42, "cifs", Elsewhere),
    known(0xfe53_4d42, "smb", Elsewhere),
    known(0x517b, "smbfs", Elsewhere),
    known(0x00c3_6400, "ceph", Elsewhere),
    known(0x5346_414f, "afs", Elsewhere),
    known(0x6b41_4653, "afs", Elsewhere),
    known(0x7375_7245, "coda", Elsewhere),
    known(0x0bd0_0bd0, "lustre", Elsewhere),
    known(0x4750_4653, "gpfs", Elsewhere),
    known(0x7461_636f, "ocfs2", Elsewhere),
    known(0x0116_1970, "gfs2", Elsewhere),
    known(0x2003_0528, "orangefs", Elsewhere),
    known(0x786f_4256, "vboxsf", Elsewhere),
    known(0x9fa0, "proc", MadeUp),
    known(0x6265_6572, "sysfs", MadeUp),
    known(0x0027_e0eb, "cgroup", MadeUp),
    known(0x6367_7270, "cgroup2", MadeUp),
    known(0x6462_6720, "debugfs", MadeUp),
    known(0x7472_6163, "tracefs", MadeUp),
    known(0x7363_6673, "securityfs", MadeUp),
];

const fn known(magic: u64, name: &'static str, changes: Changes) -> Known {
    Known { magic, name, changes }
}

impl Filesystem {
    /// The filesystem of the file or directory behind `handle` (`O_PATH` will do), or `None` where the
    /// kernel does not say.
    #[must_use]
    pub fn of(handle: BorrowedFd<'_>) -> Option<Self> {
        let magic = fstatfs(handle).ok()?.f_type;
        // The kernel's numbers have 32 bits; some architectures widen them as if they were signed.
        Some(Self { magic: u64::from_ne_bytes(magic.to_ne_bytes()) & 0xffff_ffff })
    }

    /// Where its changes are made. What is not known is taken for a filesystem of this machine.
    #[must_use]
    pub fn changes(self) -> Changes {
        self.known().map_or(Here, |known| known.changes)
    }

    fn known(self) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.magic == self.magic)
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(known) => f.write_str(known.name),
            None => write!(f, "a filesystem of type {:#x}", self.magic),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _};

    use super::*;

    #[test]
    fn proc_is_made_up() {
        let proc = File::open("/proc").unwrap();
        let filesystem = Filesystem::of(proc.as_fd()).unwrap();
        assert_eq!(filesystem.to_string(), "proc");
        assert_eq!(filesystem.changes(), MadeUp);
    }

    #[test]
    fn a_stranger_is_called_by_its_number() {
        let filesystem = Filesystem { magic: 0x1234 };
        assert_eq!(filesystem.to_string(), "a filesystem of type 0x1234");
        assert_eq!(filesystem.changes(), Here);
    }

    #[test]
    fn no_number_is_listed_twice() {
        for (index, known) in KNOWN.iter().enumerate() {
            assert!(KNOWN[index + 1..].iter().all(|other| other.magic != known.magic));
        }
    }
}
