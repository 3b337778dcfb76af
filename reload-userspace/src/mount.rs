//! Which mount a path is on, and whether what is behind it can still change (`proc(5)`, mountinfo).
//!
//! A mount holds what it was made of: the file or directory itself, and not its name. Where a single
//! file is mounted, whatever takes its name on the other side is not seen here.

use std::{
    collections::HashSet,
    ffi::OsString,
    fmt, fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// Where the kernel lists the mounts that this process sees.
pub const TABLE: &str = "/proc/self/mountinfo";

/// What the kernel appends to the root of a mount whose file or directory has been removed.
///
/// No path has two slashes in a row, so this is no part of a name.
const REMOVED: &[u8] = b"//deleted";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    parent: u64,
    /// Whether it is on no other mount of the table.
    is_top: bool,
    /// What of the filesystem is mounted, as a path from its own root.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether nothing can be written through it.
    pub is_read_only: bool,
    /// The type of the filesystem: `ext4`, `tmpfs`, `fuse.sshfs`.
    pub kind: OsString,
    /// The options of the filesystem, separated by commas.
    pub options: OsString,
}

/// All mounts, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

/// Why the content behind a mount does not follow what it was mounted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// What is mounted has been removed, or replaced, on the other side.
    Removed(PathBuf),
    /// A part of one state of a kubelet's volume is mounted, which is never written to again.
    Subpath(PathBuf),
    /// A single file is mounted.
    File(PathBuf),
}

impl Mount {
    fn is_removed(&self) -> bool {
        self.root.as_os_str().as_bytes().ends_with(REMOVED)
    }

    /// Whether the root lies in a directory such as `..2024_05_01_10_00_00.123456789`, of which the
    /// kubelet makes a new one for each update of a volume.
    fn is_of_volume_state(&self) -> bool {
        self.root.iter().any(|name| {
            name.as_bytes().strip_prefix(b"..").is_some_and(|rest| {
                rest.first().is_some_and(u8::is_ascii_digit) && rest.contains(&b'_')
            })
        })
    }
}

impl Mounts {
    /// Reads the table of the running kernel.
    ///
    /// # Errors
    ///
    /// Fails where `/proc` is not mounted.
    pub fn read() -> io::Result<Self> {
        fs::read(TABLE).map(|table| Self::parse(&table))
    }

    /// Reads a table. A line that is not as `proc(5)` says is left out.
    #[must_use]
    pub fn parse(table: &[u8]) -> Self {
        let lines = table.split(|&byte| byte == b'\n');
        let mut mounts: Vec<_> = lines.filter_map(parse_line).collect();
        let ids: HashSet<_> = mounts.iter().map(|mount| mount.id).collect();
        for mount in &mut mounts {
            mount.is_top = mount.id == mount.parent || !ids.contains(&mount.parent);
        }
        Self(mounts)
    }

    /// Where something is mounted.
    pub fn points(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|mount| mount.point.as_path())
    }

    /// The mount that `path` is on, which must be absolute and without symlinks and `..`.
    ///
    /// It goes from mount to mount as the kernel does, so what is hidden by a later mount is not
    /// found.
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let mut here = nearest(self.0.iter().filter(|mount| mount.is_top), path)?;
        // Bounded, for the table may be made up.
        for _ in 0..self.0.len() {
            let above =
                self.0.iter().filter(|mount| mount.parent == here.id && mount.id != here.id);
            let Some(next) = nearest(above, path) else {
                break;
            };
            here = next;
        }
        Some(here)
    }

    /// Why a change of `path` on the other side of its mount would not be seen here, if so.
    ///
    /// The path is as for [`Mounts::of`], and is that of a file or directory that exists.
    #[must_use]
    pub fn pin(&self, path: &Path, is_file: bool) -> Option<Pin> {
        let mount = self.of(path)?;
        let point = || mount.point.clone();
        if mount.is_removed() {
            return Some(Pin::Removed(point()));
        }
        if mount.is_of_volume_state() {
            return Some(Pin::Subpath(point()));
        }
        (is_file && mount.point == path).then(|| Pin::File(point()))
    }

    /// The pins of several paths, whatever symlinks are in them, each told once.
    ///
    /// What does not exist has none.
    #[must_use]
    pub fn pins<P: AsRef<Path>>(&self, paths: impl Iterator<Item = P>) -> Vec<Pin> {
        let mut pins = Vec::new();
        for path in paths.filter_map(|path| fs::canonicalize(path).ok()) {
            let pin = self.pin(&path, path.is_file());
            pins.extend(pin.filter(|pin| !pins.contains(pin)));
        }
        pins
    }
}

impl Pin {
    /// Whether nothing will ever change there.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Removed(_) => {
                "restart the container, and mount the directory that the file is in (Kubernetes: \
                 the whole volume, without subPath; Docker: -v DIRECTORY:DIRECTORY)"
            }
            Self::Subpath(_) => "mount the whole volume, as a directory and without subPath",
            Self::File(_) => {
                "mount the directory that the file is in (Docker: -v DIRECTORY:DIRECTORY)"
            }
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed(point) => write!(
                f,
                "what is mounted at {} has been removed or replaced where it comes from: it does \
                 not change here any more",
                point.display()
            ),
            Self::Subpath(point) => write!(
                f,
                "a part of a Kubernetes volume is mounted at {} by itself (subPath): it is never \
                 updated",
                point.display()
            ),
            Self::File(point) => write!(
                f,
                "a single file is mounted at {}: that it is written in place is seen here, that it \
                 is replaced where it comes from is not",
                point.display()
            ),
        }
    }
}

/// The mount that one meets first on the way to `path`; of several at one place, the last.
fn nearest<'a>(mounts: impl Iterator<Item = &'a Mount>, path: &Path) -> Option<&'a Mount> {
    let on_the_way = mounts.filter(|mount| path.starts_with(&mount.point));
    on_the_way.reduce(|nearest, mount| {
        let is_before = mount.point.as_os_str().len() <= nearest.point.as_os_str().len();
        if is_before { mount } else { nearest }
    })
}

/// Reads `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/root rw,errors=continue`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let number = |field: Option<&[u8]>| str::from_utf8(field?).ok()?.parse().ok();
    let id = number(fields.next())?;
    let parent = number(fields.next())?;
    let _device = fields.next()?;
    let root = path(fields.next()?)?;
    let point = path(fields.next()?)?;
    let flags = fields.next()?;
    // Any number of optional fields, and a dash behind them.
    fields.by_ref().find(|&field| field == b"-")?;
    let kind = text(fields.next()?);
    let _source = fields.next()?;
    let options = text(fields.next().unwrap_or_default());
    let is_read_only = |options: &[u8]| options.split(|&byte| byte == b',').any(|it| it == b"ro");
    Some(Mount {
        id,
        parent,
        // What the other lines say is not known yet.
        is_top: false,
        root,
        point,
        is_read_only: is_read_only(flags) || is_read_only(options.as_bytes()),
        kind,
        options,
    })
}

/// A field that is a path from a root.
fn path(field: &[u8]) -> Option<PathBuf> {
    field.starts_with(b"/").then(|| PathBuf::from(text(field)))
}

/// Undoes the kernel's escapes: a backslash and three octal digits stand for a byte.
fn text(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.first_chunk().filter(|_| byte == b'\\');
        let escaped = digits.and_then(|&digits| octal(digits));
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &behind[3..] } else { behind };
    }
    OsString::from_vec(bytes)
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let value = |digit: u8| (b'0'..=b'7').contains(&digit).then(|| u16::from(digit - b'0'));
    let [high, middle, low] = digits.map(value);
    u8::try_from(high? << 6 | middle? << 3 | low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine, and a container's mounts on it.
    const TABLE: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw,hidepid=invisible
40 27 0:30 / /mnt/with\\040space rw master:1 shared:9 - tmpfs none ro,size=64k
41 27 254:0 /srv/a.conf /etc/a.conf rw - ext4 /dev/vda rw
42 27 254:0 /srv/gone.conf//deleted /etc/gone.conf rw - ext4 /dev/vda rw
43 27 254:0 /pods/1/volumes/kubernetes.io~configmap/c/..2024_05_01_10_00_00.123/k /etc/k ro - ext4 /dev/vda rw
44 27 254:0 /pods/1/volumes/kubernetes.io~configmap/c /etc/volume ro - ext4 /dev/vda rw
45 27 254:0 /srv/old//deleted /srv/dir rw - ext4 /dev/vda rw
";

    fn of(table: &str, path: &str) -> Option<u64> {
        Mounts::parse(table.as_bytes()).of(Path::new(path)).map(|mount| mount.id)
    }

    #[test]
    fn a_line_is_taken_apart() {
        let mounts = Mounts::parse(TABLE.as_bytes());
        assert_eq!(mounts.0.len(), 8);
        let expected = Mount {
            id: 40,
            parent: 27,
            is_top: false,
            root: "/".into(),
            point: "/mnt/with space".into(),
            is_read_only: true,
            kind: "tmpfs".into(),
            options: "ro,size=64k".into(),
        };
        assert_eq!(mounts.0[2], expected);
        assert!(!mounts.0[0].is_read_only);
        assert!(mounts.0[5].is_read_only);
        let tops: Vec<_> = mounts.0.iter().filter(|it| it.is_top).map(|it| it.id).collect();
        assert_eq!(tops, [27]);
    }

    #[test]
    fn escapes_stand_for_bytes() {
        fn check(field: &str, expected: &[u8]) {
            assert_eq!(text(field.as_bytes()).as_bytes(), expected, "for {field}");
        }
        check("/plain", b"/plain");
        check("/a\\040b\\011c\\012d\\134e\\043", b"/a b\tc\nd\\e#");
        check("\\377", b"\xff");
        check("\\", b"\\");
        check("\\04", b"\\04");
        check("\\089", b"\\089");
        check("\\777", b"\\777");
        check("\\+40", b"\\+40");
        check("\\134040", b"\\040");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_left_out() {
        fn check(line: &[u8]) {
            assert_eq!(Mounts::parse(line).0, [], "for {}", String::from_utf8_lossy(line));
        }
        check(b"");
        check(b"x 27 0:30 / /mnt rw - tmpfs none rw");
        check(b"40 -1 0:30 / /mnt rw - tmpfs none rw");
        check(b"99999999999999999999 27 0:30 / /mnt rw - tmpfs none rw");
        check(b"40 27 0:30 / /mnt rw");
        check(b"40 27 0:30 / /mnt rw shared:1 tmpfs none rw");
        check(b"40 27 0:30 / /mnt rw - tmpfs");
        check(b"40 27 0:30 mnt:[4026531841] /run/ns rw");
        check(b"40 27 0:30 / relative rw - tmpfs none rw");
        check(b"\xff\xfe 27 0:30 / /mnt rw - tmpfs none rw");
        // The rest of the table still counts, and so do names that are no UTF-8.
        let mounts = Mounts::parse(b"nonsense\n40 27 0:30 / /\xff rw - tmpfs none rw\n\n");
        assert_eq!(mounts.0[0].point.as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn a_name_cannot_forge_a_mount() {
        // A directory called "x\n1 1 0:1 / /etc rw - tmpfs t rw", as the kernel writes it.
        let table = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     50 27 0:30 / /x\\0121\\0401\\0400:1\\040/\\040/etc\\040rw\\040-\\040tmpfs\\040t\\040rw rw - tmpfs none rw\n";
        assert_eq!(Mounts::parse(table.as_bytes()).0.len(), 2);
        assert_eq!(of(table, "/etc/passwd"), Some(27));
    }

    #[test]
    fn the_mount_of_a_path_is_the_one_that_is_seen_there() {
        assert_eq!(of(TABLE, "/etc/passwd"), Some(27));
        assert_eq!(of(TABLE, "/mnt/with space/file"), Some(40));
        assert_eq!(of(TABLE, "/mnt/with spaces"), Some(27));
        assert_eq!(of(TABLE, "/etc/a.conf"), Some(41));
        assert_eq!(of("", "/etc"), None);
        // A mount over another, and one below that which it hides.
        let covered = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                       50 27 0:30 / /a rw - tmpfs none rw\n\
                       51 50 0:31 / /a/b rw - tmpfs none rw\n\
                       52 50 0:32 / /a rw - tmpfs none rw\n";
        assert_eq!(of(covered, "/a/b/file"), Some(52));
        // Where the root is no mount, after chroot(2).
        let chroot = "51 50 0:31 / /a/b rw - tmpfs none rw\n52 51 0:32 / /a/b/c rw - tmpfs none rw";
        assert_eq!(of(chroot, "/a/b/c/file"), Some(52));
        assert_eq!(of(chroot, "/a"), None);
        // Parents of each other.
        let knot = "1 2 0:1 / /a rw - tmpfs none rw\n2 1 0:1 / /a rw - tmpfs none rw\n\
                    3 3 0:1 / / rw - tmpfs none rw\n4 3 0:1 / /a rw - tmpfs none rw";
        assert_eq!(of(knot, "/a/file"), Some(4));
    }

    #[test]
    fn what_cannot_change_any_more_is_told_from_what_can() {
        let mounts = Mounts::parse(TABLE.as_bytes());
        let check = |path: &str, is_file: bool, expected: Option<Pin>| {
            assert_eq!(mounts.pin(Path::new(path), is_file), expected, "for {path}");
        };
        check("/etc/passwd", true, None);
        check("/etc/a.conf", true, Some(Pin::File("/etc/a.conf".into())));
        check("/etc/gone.conf", true, Some(Pin::Removed("/etc/gone.conf".into())));
        check("/etc/k", true, Some(Pin::Subpath("/etc/k".into())));
        check("/etc/volume", false, None);
        check("/etc/volume/..2024_05_01_10_00_00.123/k", true, None);
        check("/srv/dir/x.conf", true, Some(Pin::Removed("/srv/dir".into())));
        check("/proc/self/status", true, None);
    }
}
