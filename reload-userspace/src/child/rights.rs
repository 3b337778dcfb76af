//! The rights of a process, and how to have no others.

use std::io;

use rustix::{
    process::{getegid, geteuid, getgid, getgroups, getuid},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities,
        set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use crate::sys::capability::{bound, hand_on};

/// The number of a group that has none: `overflowgid` of `proc(5)`.
const NOBODY: u32 = 65534;

/// The rights of a process, as `/proc/<pid>/status` tells them to whoever has opened it: the numbers
/// are those of the reader's user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    /// The uid that rights go by.
    pub(super) uid: u32,
    /// The gid that rights go by.
    pub(super) gid: u32,
    /// The supplementary groups.
    pub(super) groups: Vec<u32>,
    /// The capabilities that it may use.
    permitted: CapabilitySet,
    /// Whether its real, effective and saved users and groups are each the same.
    is_of_one_user: bool,
}

impl Rights {
    /// Takes them from the text of `status` (`proc(5)`).
    pub(super) fn parse(text: &str) -> Option<Self> {
        // The first line is the name, in which a newline is escaped: no line can be forged.
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let numbers = |name: &str| {
            let words = field(name)?.split_ascii_whitespace();
            words.map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>()
        };
        let bits = u64::from_str_radix(field("CapPrm:")?.trim(), 16).ok()?;
        let (uids, gids) = (numbers("Uid:")?, numbers("Gid:")?);
        let is_one = |ids: &[u32]| ids.windows(2).all(|pair| pair.first() == pair.last());
        Some(Self {
            is_of_one_user: is_one(&uids) && is_one(&gids),
            // The real one comes first.
            uid: *uids.get(1)?,
            gid: *gids.get(1)?,
            groups: numbers("Groups:")?,
            permitted: CapabilitySet::from_bits_retain(bits),
        })
    }

    /// Whether whoever started the process may have fewer rights than it has: its program gave them to
    /// it (set-user-ID, capabilities of the file). Its environment is then that of somebody who must
    /// not have them. `owner` is that of its directory in `/proc`, which is root's where the kernel
    /// protects it from its user (`proc(5)`).
    pub(super) fn is_elevated(&self, owner: u32) -> bool {
        !self.is_of_one_user || (owner != self.uid && !self.permitted.is_empty())
    }

    /// Takes on the supplementary groups, but for those without a number in our user namespace, which
    /// cannot be given.
    ///
    /// # Errors
    ///
    /// `EPERM` where they differ from ours and we have no `CAP_SETGID`.
    pub(super) fn take_groups(&self) -> io::Result<()> {
        let mut groups: Vec<_> = self.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        if sorted(&getgroups()?) == sorted(&groups) {
            return Ok(());
        }
        groups.retain(|gid| gid.as_raw() != NOBODY);
        Ok(set_thread_groups(&groups)?)
    }

    /// Has no program that we run get a capability that the process has not.
    ///
    /// It needs `CAP_SETPCAP`, and is done where we have it: it is the second lock. Without new
    /// privileges ([`Rights::drop_others`]) no program gets more than is permitted when it is run.
    pub(super) fn bound(&self) {
        bound(!self.permitted);
    }

    /// Takes on the user and the group, each as real, effective and saved.
    ///
    /// # Errors
    ///
    /// `EPERM` where they differ from ours and we have neither `CAP_SETUID` nor `CAP_SETGID`;
    /// `EINVAL` where this user namespace does not know them.
    pub(super) fn take_user(&self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // The capabilities that the target has as well are to survive this; the others go after it.
        set_keep_capabilities(true)?;
        if [getgid(), getegid()] != [gid; 2] {
            set_thread_res_gid(gid, gid, gid)?;
        }
        if [getuid(), geteuid()] != [uid; 2] {
            set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    }

    /// Drops every capability that the process has not, for good and for what we run.
    ///
    /// What we run keeps the others, as it would if the process ran it with the file capabilities
    /// that it was started with: a server that may open port 80 wants to try that when it tests its
    /// configuration.
    ///
    /// # Errors
    ///
    /// Fails where the kernel does not let go of a capability, which should not occur.
    pub(super) fn drop_others(&self) -> io::Result<()> {
        let had = capabilities(None)?;
        let kept = had.permitted & self.permitted;
        let inheritable = had.inheritable & kept;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable };
        set_capabilities(None, sets)?;
        set_no_new_privs(true)?;
        hand_on(sets);
        Ok(())
    }
}

/// Has the program that takes our place get every capability that we have, and no other.
///
/// # Errors
///
/// Fails where the kernel does not tell which we have, which should not occur.
pub(super) fn hand_on_all() -> io::Result<()> {
    hand_on(capabilities(None)?);
    Ok(())
}

fn sorted(groups: &[Gid]) -> Vec<u32> {
    let mut groups: Vec<_> = groups.iter().map(|gid| gid.as_raw()).collect();
    groups.sort_unstable();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tx\\nUid:\t7\n\
                        Uid:\t1000\t1001\t1002\t1003\n\
                        Gid:\t50\t51\t52\t53\n\
                        Groups:\t4 24 1000 \n\
                        CapInh:\t0000000000000000\n\
                        CapPrm:\t0000000000000021\n\
                        CapEff:\t0000000000000020\n";

    #[test]
    fn the_rights_are_read() {
        let expected = Rights {
            uid: 1001,
            gid: 51,
            groups: vec![4, 24, 1000],
            permitted: CapabilitySet::KILL | CapabilitySet::CHOWN,
            is_of_one_user: false,
        };
        assert_eq!(Rights::parse(TEXT), Some(expected));
        let without = TEXT.replace("4 24 1000 ", "");
        assert_eq!(Rights::parse(&without).map(|it| it.groups), Some(Vec::new()));
    }

    /// `su` at its prompt has root's rights and somebody else's environment.
    #[test]
    fn what_has_rights_from_its_program_is_elevated() {
        fn check(uids: &str, permitted: &str, owner: u32, expected: bool) {
            let text = format!("Uid:\t{uids}\nGid:\t5\t5\t5\t5\nGroups:\t\nCapPrm:\t{permitted}\n");
            let rights = Rights::parse(&text).unwrap();
            assert_eq!(rights.is_elevated(owner), expected, "for {uids}, {permitted}, {owner}");
        }
        check("1000\t1000\t1000\t1000", "0", 1000, false);
        check("0\t0\t0\t0", "1ffffffffff", 0, false);
        check("1000\t0\t0\t0", "1ffffffffff", 0, true);
        check("1000\t1000\t0\t1000", "0", 0, true);
        // Capabilities of the file; and a daemon that has dropped root and all of its rights.
        check("1000\t1000\t1000\t1000", "400", 0, true);
        check("1000\t1000\t1000\t1000", "0", 0, false);
    }

    #[test]
    fn half_a_status_is_none() {
        fn check(text: &str) {
            assert_eq!(Rights::parse(text), None, "for {text:?}");
        }
        check("");
        check("Name:\tx\nUid:\t1\t1\t1\t1\n");
        check(&TEXT.replace("CapPrm:\t00", "CapPrm:\tzz"));
        check(&TEXT.replace("4 24", "4 x"));
        check(&TEXT.replace("Uid:\t1000\t1001\t1002\t1003", "Uid:\t1000"));
    }
}
