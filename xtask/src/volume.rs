//! A volume of a `ConfigMap`, written as the kubelet writes it.
//!
//! The steps and their order are those that `strace` shows of a kubelet of Kubernetes 1.32: a new
//! directory with a timestamp for its name, `..data` swapped to it, then the names of added keys,
//! then those of removed keys, and last the removal of the old directory. Programs see the keys
//! through two links: `site.conf -> ..data/site.conf`, `..data -> ..<timestamp>`.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    thread,
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};

/// What the kernel calls whoever writes the volume: it cuts names to 15 bytes.
pub(crate) const WRITER: &str = "demo-kubelet";

/// The volume.
#[derive(Debug)]
pub(crate) struct Volume {
    folder: PathBuf,
    keys: BTreeMap<String, String>,
    generation: u32,
}

/// A step that programs can see, and when it was begun.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// When.
    pub(crate) at: SystemTime,
    /// What.
    pub(crate) what: String,
}

impl Volume {
    /// Makes a volume with one key.
    ///
    /// # Errors
    ///
    /// Fails where the folder cannot be written, and names it.
    pub(crate) fn new(folder: PathBuf, key: &str, value: &str) -> Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut volume = Self { folder, keys: BTreeMap::new(), generation: 0 };
        volume.set(key, Some(value))?;
        Ok(volume)
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives a key another value, or removes it, and tells the visible steps.
    ///
    /// # Errors
    ///
    /// Fails where the folder cannot be written, and names it.
    pub(crate) fn set(&mut self, key: &str, value: Option<&str>) -> Result<Vec<Step>> {
        let mut keys = self.keys.clone();
        match value {
            Some(value) => keys.insert(key.to_owned(), value.to_owned()),
            None => keys.remove(key),
        };
        self.generation += 1;
        // A thread of its own, so that the kernel has a name for the writer.
        let written = thread::scope(|scope| {
            let writer = thread::Builder::new().name(WRITER.to_owned());
            let work = || self.write(&keys);
            writer.spawn_scoped(scope, work).map(thread::ScopedJoinHandle::join)
        });
        let steps = match written {
            Ok(Ok(steps)) => steps,
            Ok(Err(_panic)) => bail!("the writer of the volume panicked"),
            Err(error) => return Err(error).context("cannot start a thread"),
        };
        let steps = steps.with_context(|| format!("cannot write {}", self.folder.display()))?;
        self.keys = keys;
        Ok(steps)
    }

    fn write(&self, keys: &BTreeMap<String, String>) -> io::Result<Vec<Step>> {
        let data = self.folder.join("..data");
        let old = fs::read_link(&data).ok();
        let new = format!("..2026_11_23_11_50_00.{:09}", self.generation);
        let payload = self.folder.join(&new);
        fs::create_dir(&payload)?;
        fs::set_permissions(&payload, Permissions::from_mode(0o755))?;
        for (key, value) in keys {
            let file = payload.join(key);
            fs::write(&file, value)?;
            fs::set_permissions(&file, Permissions::from_mode(0o644))?;
        }
        let draft = self.folder.join("..data_tmp");
        symlink(&new, &draft)?;

        let mut steps = Vec::new();
        let mut step = |what: String| steps.push(Step { at: SystemTime::now(), what });
        step("the kubelet swaps `..data` to the new directory".to_owned());
        fs::rename(draft, data)?;
        for added in keys.keys().filter(|key| !self.keys.contains_key(*key)) {
            step(format!("the kubelet links {added}"));
            symlink(Path::new("..data").join(added), self.folder.join(added))?;
        }
        for removed in self.keys.keys().filter(|key| !keys.contains_key(*key)) {
            step(format!("the kubelet unlinks {removed}"));
            fs::remove_file(self.folder.join(removed))?;
        }
        if let Some(old) = old {
            step("the kubelet removes the old directory: complete".to_owned());
            fs::remove_dir_all(self.folder.join(old))?;
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(volume: &Volume) -> Vec<String> {
        let names = fs::read_dir(volume.folder()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn keys_are_read_through_links() {
        let home = tempfile::tempdir().unwrap();
        let mut volume = Volume::new(home.path().join("volume"), "a", "1").unwrap();
        let read = |key: &str| fs::read_to_string(home.path().join("volume").join(key));
        assert_eq!(read("a").unwrap(), "1");
        assert_eq!(shown(&volume), ["..2026_11_23_11_50_00.000000001", "..data", "a"]);

        volume.set("b", Some("2")).unwrap();
        assert_eq!((read("a").unwrap(), read("b").unwrap()), ("1".to_owned(), "2".to_owned()));
        assert_eq!(shown(&volume), ["..2026_11_23_11_50_00.000000002", "..data", "a", "b"]);

        volume.set("a", None).unwrap();
        assert_eq!(shown(&volume), ["..2026_11_23_11_50_00.000000003", "..data", "b"]);
    }

    #[test]
    fn the_removal_of_the_old_directory_is_the_last_step() {
        let home = tempfile::tempdir().unwrap();
        let mut volume = Volume::new(home.path().join("volume"), "a", "1").unwrap();
        let steps = volume.set("b", Some("2")).unwrap();
        let expected = [
            "the kubelet swaps `..data` to the new directory",
            "the kubelet links b",
            "the kubelet removes the old directory: complete",
        ];
        assert_eq!(steps.into_iter().map(|step| step.what).collect::<Vec<_>>(), expected);
    }
}
