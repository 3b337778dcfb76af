//! From an inode to the place that it is watched as.

use reload_ebpf::{Key, superblock_slot};

use crate::{
    maps::{PLACES, SUPERBLOCKS},
    offsets::{OFF_INODE_INO, OFF_INODE_SB, OFF_SB_DEV, member},
};

/// The number of the place, if the inode is watched.
///
/// Nearly every inode of the machine ends here: pipes, sockets, devices and whole filesystems after three
/// loads and one bit, for nobody watches anything on their superblock; those beside a watched one, the
/// root's among them, after one look into a hash table.
///
/// # Safety
///
/// `inode` is a `struct inode`, as the verifier knows it.
#[inline]
pub(crate) unsafe fn of(inode: *const u8) -> Option<u32> {
    // SAFETY: the caller says what it is.
    let superblock = unsafe { member::<*const u8>(inode, &OFF_INODE_SB) };
    // SAFETY: `superblock` is the pointer that was just read from the inode.
    let device = unsafe { member::<u32>(superblock, &OFF_SB_DEV) };
    if !is_watched_on(device) {
        return None;
    }
    // SAFETY: as above.
    let key = Key { inode: unsafe { member::<u64>(inode, &OFF_INODE_INO) }, device: device.into() };
    by_key(key)
}

/// Whether anything is watched on the superblock of that device, or of another with the same bit.
#[inline]
fn is_watched_on(device: u32) -> bool {
    let (word, bit) = superblock_slot(device);
    SUPERBLOCKS.get(word).is_some_and(|bits| bits & bit != 0)
}

/// The number of the place, if an inode with that key is watched.
#[inline]
pub(crate) fn by_key(key: Key) -> Option<u32> {
    // SAFETY: the value is copied at once. Numbers are handed out again and entries reused, so it
    // may be that of another place: then that one is looked at in vain.
    unsafe { PLACES.get(key) }.copied()
}
