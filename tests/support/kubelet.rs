//! How the kubelet writes a volume: its system calls, in its orders.
//!
//! Taken from traces of a kubelet of 1.20 and one of 1.32, with the pauses that they show made longer,
//! so that an agent that does not wait is caught.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    time::{boot_ns, pause},
    writer::printed,
};

/// When the names of added keys appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// After the swap of `..data`: Kubernetes 1.23 and later.
    NamesLast,
    /// Before it, where they dangle until the swap.
    NamesFirst,
}

impl Order {
    pub(crate) const ALL: [Self; 2] = [Self::NamesLast, Self::NamesFirst];
}

/// What becomes of the directory that the volume no longer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    /// It is removed, which is the end of the update.
    Removed,
    /// It stays, as where a kubelet is killed in the middle.
    Left,
}

/// The keys of a volume and their values. A key may lie in a directory.
pub(crate) type Keys = BTreeMap<String, String>;

/// Makes keys out of pairs.
pub(crate) fn keys(pairs: &[(&str, &str)]) -> Keys {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Keys as the target prints the directory that holds them.
pub(crate) fn printed_keys(keys: &Keys) -> String {
    let pairs =
        keys.iter().map(|(key, value)| [key, "=", &printed(value.as_bytes()), ";"].concat());
    pairs.collect()
}

/// How long after the swap of `..data` an agent takes an update of which it sees no end for one that was left
/// half-done.
const HALF_DONE: Duration = Duration::from_millis(200);

/// An update took as long as no kubelet does: the agent may have taken it for two.
#[derive(Debug)]
pub(crate) struct Slow;

/// Does `check` anew as long as an update of it was slow, which says nothing of the agent.
#[track_caller]
pub(crate) fn until_quick(mut check: impl FnMut() -> Result<(), Slow>) {
    const TRIES: usize = 10;
    let is_done = (0..TRIES).any(|_| check().is_ok());
    assert!(
        is_done,
        "this machine is too slow for an update of the kubelet, {TRIES} times in a row"
    );
}

/// A volume of a pod.
#[derive(Debug)]
pub(crate) struct Volume {
    dir: PathBuf,
    order: Order,
    keys: Keys,
    generation: u32,
    pace: Duration,
    /// How long the last update took from its swap on.
    took: Duration,
}

impl Volume {
    /// Mounts a volume with these keys in the empty directory `dir`.
    pub(crate) fn mount(dir: &Path, order: Order, keys: Keys) -> Self {
        let mut volume = Self {
            dir: dir.to_owned(),
            order,
            keys: Keys::new(),
            generation: 0,
            pace: Duration::ZERO,
            took: Duration::ZERO,
        };
        volume.update(keys);
        volume
    }

    /// Takes over a volume that has these keys, in the place of the kubelet that wrote it.
    pub(crate) fn taken_over(dir: &Path, order: Order, keys: Keys) -> Self {
        let (pace, took) = (Duration::ZERO, Duration::ZERO);
        Self { dir: dir.to_owned(), order, keys, generation: 0, pace, took }
    }

    /// Takes this long for each step from now on.
    pub(crate) fn pace(&mut self, pace: Duration) {
        self.pace = pace;
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Syncs the volume, and gives the moment before the last step: no reload may come earlier.
    pub(crate) fn update(&mut self, keys: Keys) -> u64 {
        self.sync(keys, Old::Removed)
    }

    /// Syncs the volume.
    ///
    /// Where nothing has changed the kubelet only reads.
    pub(crate) fn sync(&mut self, keys: Keys, old: Old) -> u64 {
        for key in self.keys.keys() {
            fs::read(self.dir.join(key)).unwrap();
        }
        if keys == self.keys {
            return boot_ns();
        }
        let data = self.dir.join("..data");
        let old_dir = fs::read_link(&data).ok().map(|name| self.dir.join(name));
        let new_name = self.write_payload(&keys);
        let draft = self.dir.join("..data_tmp");
        symlink(new_name, &draft).unwrap();
        self.rest();

        let (added, removed) = (names(&keys, &self.keys), names(&self.keys, &keys));
        self.keys = keys;
        if self.order == Order::NamesFirst {
            self.add(&added);
        }
        let before = boot_ns();
        fs::rename(&draft, &data).unwrap();
        let mut last_step = boot_ns();
        self.rest();
        if self.order == Order::NamesLast {
            self.add(&added);
        }
        for name in removed {
            fs::remove_file(self.dir.join(name)).unwrap();
            self.rest();
        }
        if let (Some(old_dir), Old::Removed) = (old_dir, old) {
            last_step = boot_ns();
            fs::remove_dir_all(old_dir).unwrap();
        }
        self.took = Duration::from_nanos(boot_ns() - before);
        last_step
    }

    /// Says whether the last update was slow.
    pub(crate) fn quick(&self) -> Result<(), Slow> {
        if self.took < HALF_DONE { Ok(()) } else { Err(Slow) }
    }

    /// Writes the values into a new directory, and gives its name.
    fn write_payload(&mut self, keys: &Keys) -> String {
        self.generation += 1;
        let name = format!("..2026_11_23_11_50_00.{:09}", self.generation);
        let dir = self.dir.join(&name);
        make_dir(&dir);
        self.rest();
        // The kubelet goes through a map, in no order: backwards every other time is one.
        let mut pairs: Vec<_> = keys.iter().collect();
        if self.generation.is_multiple_of(2) {
            pairs.reverse();
        }
        for (key, value) in pairs {
            let path = dir.join(key);
            let parent = path.parent().unwrap();
            if !parent.exists() {
                make_dir(parent);
            }
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o644);
            let mut file = options.open(&path).unwrap();
            file.write_all(value.as_bytes()).unwrap();
            drop(file);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            self.rest();
        }
        name
    }

    fn add(&self, names: &[String]) {
        for name in names {
            symlink(Path::new("..data").join(name), self.dir.join(name)).unwrap();
            self.rest();
        }
    }

    fn rest(&self) {
        if !self.pace.is_zero() {
            pause(self.pace);
        }
    }
}

/// The names at the top of a volume that `keys` needs and `others` does not.
fn names(keys: &Keys, others: &Keys) -> Vec<String> {
    let top = |keys: &Keys| -> Vec<String> {
        let mut names: Vec<_> =
            keys.keys().map(|key| key.split('/').next().unwrap().to_owned()).collect();
        names.dedup();
        names
    };
    let others = top(others);
    top(keys).into_iter().filter(|name| !others.contains(name)).collect()
}

/// Makes a directory as the kubelet does: private first, then readable.
fn make_dir(dir: &Path) {
    let private = fs::Permissions::from_mode(0o700);
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, private).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}
