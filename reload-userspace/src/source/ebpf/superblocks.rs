//! The superblocks on which anything is watched.

use std::collections::HashMap;

use aya::maps::{Array, MapData};
use reload_ebpf::{Key, superblock_slot};

use super::{WatchError, refused};

/// The superblocks on which anything is watched, for the kernel side.
pub(super) struct Superblocks {
    map: Array<MapData, u64>,
    /// How many places have each bit, by its slot.
    counts: HashMap<(u32, u64), u32>,
}

impl Superblocks {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self { map, counts: HashMap::new() }
    }

    pub(super) fn add(&mut self, key: Key) -> Result<(), WatchError> {
        let slot = slot(key);
        *self.counts.entry(slot).or_insert(0) += 1;
        self.set(slot).inspect_err(|_| self.remove(key))
    }

    pub(super) fn remove(&mut self, key: Key) {
        let slot = slot(key);
        let Some(count) = self.counts.get_mut(&slot) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&slot);
            // A bit too many costs others some time, and loses nothing.
            drop(self.set(slot));
        }
    }

    /// Writes the word of a slot anew. Nobody else writes it.
    fn set(&mut self, (word, _): (u32, u64)) -> Result<(), WatchError> {
        let bits = self.counts.keys().filter(|(of, _)| *of == word).map(|(_, bit)| bit);
        self.map.set(word, bits.fold(0, |all, bit| all | bit), 0).map_err(refused)
    }
}

/// The device is a number of 32 bits in the kernel.
fn slot(key: Key) -> (u32, u64) {
    superblock_slot(u32::try_from(key.device).unwrap_or(u32::MAX))
}
