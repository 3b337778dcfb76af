//! The superblocks on which anything is watched.

use std::collections::HashMap;

use aya::maps::{Array, MapData};
use reload_ebpf::{Key, superblock_slot};

use super::{WatchError, refused};

/// The superblocks on which anything is watched, for the kernel side.
pub(super) struct Superblocks {
    map: Array<MapData, u64>,
    bits: Bits,
}

/// Where a superblock has its bit: the word, and the bit in it.
type Slot = (u32, u64);

/// How many places have each bit that is set.
#[derive(Default)]
struct Bits(HashMap<Slot, u32>);

impl Superblocks {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self { map, bits: Bits::default() }
    }

    pub(super) fn add(&mut self, key: Key) -> Result<(), WatchError> {
        let slot = slot(key);
        let word = self.bits.add(slot);
        self.map.set(slot.0, word, 0).map_err(refused).inspect_err(|_| self.remove(key))
    }

    pub(super) fn remove(&mut self, key: Key) {
        let slot = slot(key);
        if let Some(word) = self.bits.remove(slot) {
            // A bit too many costs others some time, and loses nothing.
            drop(self.map.set(slot.0, word, 0));
        }
    }
}

impl Bits {
    /// Counts one more place, and gives the word with its bit.
    fn add(&mut self, slot: Slot) -> u64 {
        *self.0.entry(slot).or_insert(0) += 1;
        self.word(slot.0)
    }

    /// Counts one place less, and gives the word where the bit was its alone.
    fn remove(&mut self, slot: Slot) -> Option<u64> {
        let count = self.0.get_mut(&slot)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.0.remove(&slot);
        Some(self.word(slot.0))
    }

    fn word(&self, word: u32) -> u64 {
        let bits = self.0.keys().filter(|(of, _)| *of == word).map(|(_, bit)| bit);
        bits.fold(0, |all, bit| all | bit)
    }
}

/// The device is a number of 32 bits in the kernel.
fn slot(key: Key) -> Slot {
    superblock_slot(u32::try_from(key.device).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_bit_is_set_as_long_as_anything_has_it() {
        let mut bits = Bits::default();
        assert_eq!(bits.add((0, 1)), 0b1);
        assert_eq!(bits.add((0, 4)), 0b101);
        assert_eq!(bits.add((7, 2)), 0b10);
        assert_eq!(bits.add((0, 4)), 0b101);
        assert_eq!(bits.remove((0, 4)), None);
        assert_eq!(bits.remove((0, 4)), Some(0b1));
        assert_eq!(bits.remove((0, 4)), None);
        assert_eq!(bits.remove((7, 2)), Some(0));
        assert_eq!(bits.remove((0, 1)), Some(0));
    }

    #[test]
    fn superblocks_in_a_row_have_bits_of_their_own() {
        let slot_of = |major: u64, minor: u64| slot(Key { inode: 2, device: major << 20 | minor });
        assert_eq!((slot_of(0, 1), slot_of(0, 65)), ((0, 0b10), (1, 0b10)));
        let minors = (0..1000).map(|minor| slot_of(0, minor));
        assert_eq!(minors.collect::<HashSet<_>>().len(), 1000);
        assert_ne!(slot_of(8, 0), slot_of(8, 1));
        // Others may share one: then the hash table decides.
        assert_eq!(slot_of(8, 1), slot_of(0, 9));
    }
}
