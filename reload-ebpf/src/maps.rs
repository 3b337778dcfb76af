//! The maps that the eBPF program shares with the agent.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use reload_ebpf::{
    Answer, Begun, COMM_LEN, Hook, Key, MAX_BEGUN, MAX_EXPECTED_NAMES, MAX_NAMES, MAX_PLACES, Name,
    Observer, Queue, SUPERBLOCK_WORDS, SYSCALLS,
};

/// The size of the ring in bytes: 4,000 records, where a place has at most one at a time.
pub(crate) const RING_BYTES: u32 = 256 * 1024;

/// Records on their way to the agent.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// The inodes that are watched, and the number of the place that each belongs to.
///
/// Never an LRU map: one that forgets would lose changes in silence. Entries are allocated one by
/// one, always by `learn` in the agent's own context: a sidecar with ten of them should not pay for
/// all.
#[map]
pub(crate) static PLACES: HashMap<Key, u32> =
    HashMap::with_max_entries(MAX_PLACES, BPF_F_NO_PREALLOC);

/// The superblocks on which anything is watched: a bit for each, at its [`reload_ebpf::superblock_slot`].
///
/// Two superblocks may share a bit, for there are more of them than bits: then the hash table decides.
#[map]
pub(crate) static SUPERBLOCKS: Array<u64> = Array::with_max_entries(SUPERBLOCK_WORDS, 0);

/// Which change of a place is to be recorded next, by the place's number: an [`Armed`].
///
/// The agent sets it before it looks at the place; the first change after that clears it and is
/// recorded. So a storm of writes costs one record, and a place can never fill the ring.
#[map]
pub(crate) static ARMED: Array<u32> = Array::with_max_entries(MAX_PLACES, 0);

/// How many openings of a place are yet to be told of, by the place's number.
///
/// The agent sets it anew from time to time, so that whoever opens a file all the time fills no ring.
#[map]
pub(crate) static EXPECTED: Array<u32> = Array::with_max_entries(MAX_PLACES, 0);

/// The names of which it is told who opens what bears them, and the place that each stands for.
#[map]
pub(crate) static EXPECTED_NAMES: HashMap<Name, u32> =
    HashMap::with_max_entries(MAX_EXPECTED_NAMES, BPF_F_NO_PREALLOC);

/// Whether a system call only ever adds names to a directory, by its number: 1 or 0.
#[map]
pub(crate) static CREATING: Array<u32> = Array::with_max_entries(SYSCALLS, 0);

/// Whether a system call opens a file, and returns its descriptor, by its number: 1 or 0.
#[map]
pub(crate) static OPENING: Array<u32> = Array::with_max_entries(SYSCALLS, 0);

/// What the kernel does with the files that queues of notifications are (`file.f_op`), by [`Queue`]; 0 where
/// that is not known.
#[map]
pub(crate) static QUEUES: Array<u64> = Array::with_max_entries(Queue::COUNT, 0);

/// When what tasks are about to do began, in nanoseconds since boot.
///
/// One that forgets will do: what is forgotten is dated by its end. Only of this size where the agent traces.
#[map]
pub(crate) static BEGUN: LruHashMap<Begun, u64> = LruHashMap::with_max_entries(MAX_BEGUN, 0);

/// The task names whose execs and exits are recorded.
#[map]
pub(crate) static NAMES: HashMap<[u8; COMM_LEN], u8> = HashMap::with_max_entries(MAX_NAMES, 0);

/// Records that found no room in the ring, by [`Hook`].
#[map]
pub(crate) static DROPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(Hook::COUNT, 0);

/// Who the agent is, once `learn` has run.
#[map]
pub(crate) static OBSERVER: Array<Observer> = Array::with_max_entries(1, 0);

/// What `learn` was last asked for.
#[map]
pub(crate) static ANSWER: Array<Answer> = Array::with_max_entries(1, 0);
