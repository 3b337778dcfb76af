//! What `/proc/<pid>/status` tells of a process's rights (`proc(5)`).

use std::fs;

use nix::unistd::Pid;
use rustix::thread::CapabilitySet;

/// What a process is, and its rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The name of its task, as `/proc` escapes it.
    pub(crate) name: String,
    /// Whose child it is; 0 where that one is in another pid namespace.
    pub(crate) parent: i32,
    /// The real uid.
    pub(crate) uid: u32,
    /// The uid that rights go by.
    pub(crate) effective_uid: u32,
    /// The uid that it may go back to.
    pub(crate) saved_uid: u32,
    /// The gid that rights go by.
    pub(crate) gid: u32,
    /// The capabilities that count.
    pub(crate) effective: CapabilitySet,
    /// Those that it may make effective.
    pub(crate) permitted: CapabilitySet,
    /// Those that it could get by running a program that gives them.
    pub(crate) bounding: CapabilitySet,
    /// Whether running a program can give it nothing.
    pub(crate) no_new_privs: bool,
    /// Whether system calls are filtered.
    pub(crate) is_filtered: bool,
}

impl Standing {
    /// The agent's own.
    pub(crate) fn own() -> Option<Self> {
        Self::read("self")
    }

    /// That of another process.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        Self::read(&pid.to_string())
    }

    fn read(pid: &str) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/status")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Option<Self> {
        // The first line is the name, in which a newline is escaped: no line can be forged.
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let ids = |name: &str| {
            let ids: Option<Vec<u32>> =
                field(name)?.split_ascii_whitespace().map(|id| id.parse().ok()).collect();
            <[u32; 4]>::try_from(ids?).ok()
        };
        let set = |name: &str| {
            let bits = u64::from_str_radix(field(name)?, 16).ok()?;
            Some(CapabilitySet::from_bits_retain(bits))
        };
        let [uid, effective_uid, saved_uid, _] = ids("Uid")?;
        let [_, gid, _, _] = ids("Gid")?;
        Some(Self {
            name: field("Name")?.to_owned(),
            parent: field("PPid")?.parse().ok()?,
            uid,
            effective_uid,
            saved_uid,
            gid,
            effective: set("CapEff")?,
            permitted: set("CapPrm")?,
            bounding: set("CapBnd")?,
            // Neither is there where the kernel is built without it.
            no_new_privs: field("NoNewPrivs") == Some("1"),
            is_filtered: field("Seccomp").is_some_and(|mode| mode != "0"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tx\\nUid:\t7\n\
                        PPid:\t3\n\
                        Uid:\t1000\t1001\t1002\t1003\n\
                        Gid:\t50\t51\t52\t53\n\
                        CapInh:\t0000000000000000\n\
                        CapPrm:\t0000000000000021\n\
                        CapEff:\t0000000000000020\n\
                        CapBnd:\t000001ffffffffff\n\
                        NoNewPrivs:\t1\n\
                        Seccomp:\t2\n\
                        Seccomp_filters:\t1\n";

    #[test]
    fn every_field_is_found() {
        let expected = Standing {
            name: "x\\nUid:\t7".to_owned(),
            parent: 3,
            uid: 1000,
            effective_uid: 1001,
            saved_uid: 1002,
            gid: 51,
            effective: CapabilitySet::KILL,
            permitted: CapabilitySet::KILL | CapabilitySet::CHOWN,
            bounding: CapabilitySet::from_bits_retain(0x1ff_ffff_ffff),
            no_new_privs: true,
            is_filtered: true,
        };
        assert_eq!(Standing::parse(TEXT), Some(expected));
    }

    #[test]
    fn a_kernel_without_filters_filters_nothing() {
        let (text, _) = TEXT.split_once("NoNewPrivs").unwrap();
        let standing = Standing::parse(text).unwrap();
        assert!(!standing.no_new_privs && !standing.is_filtered);
    }

    #[test]
    fn half_a_status_is_none() {
        assert_eq!(Standing::parse("Name:\tx\nPPid:\t1\nUid:\t1\t1\t1\t1\n"), None);
        assert_eq!(Standing::parse(&TEXT.replace("CapEff:\t00", "CapEff:\tzz")), None);
        assert_eq!(Standing::parse(&TEXT.replace("\t1003", "")), None);
    }
}
