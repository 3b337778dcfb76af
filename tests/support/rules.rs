//! Files with rules, and what is watched by them.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A file with these rules, each a map in one line.
pub(crate) fn text(rules: &[String]) -> String {
    let mut text = "rules:\n".to_owned();
    for rule in rules {
        writeln!(text, "- {{{rule}}}").unwrap();
    }
    text
}

/// A directory with a file of rules and files that they are about.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    /// A directory with the files `names`, which contain `0`.
    pub(crate) fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(dir.path().join(name), "0").unwrap();
        }
        Self { dir }
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The file with rules.
    pub(crate) fn rules(&self) -> PathBuf {
        // A directory of its own: what happens to it is nothing to the other files.
        let dir = self.file("rules");
        fs::create_dir_all(&dir).unwrap();
        dir.join("rules.yaml")
    }

    /// Writes the file with rules in place, and gives its path.
    pub(crate) fn write(&self, rules: &[String]) -> PathBuf {
        let path = self.rules();
        fs::write(&path, text(rules)).unwrap();
        path
    }

    /// A rule of that name that reloads `process` when `file` has changed, with other keys.
    pub(crate) fn rule(&self, name: &str, file: &str, process: &str, more: &[&str]) -> String {
        let watch = self.file(file);
        let own = [
            format!("name: {name}"),
            format!("watch: {}", watch.display()),
            format!("process: {process}"),
        ];
        own.into_iter().chain(more.iter().map(|&key| key.to_owned())).collect::<Vec<_>>().join(", ")
    }
}

/// The inodes of the files and directories that a process watches by inotify.
pub(crate) fn inotify_inodes(pid: i32) -> BTreeSet<u64> {
    let infos = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo")).unwrap();
    let infos = infos.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let inode = |line: &str| {
        let words = line.strip_prefix("inotify ")?;
        let inode = words.split(' ').find_map(|word| word.strip_prefix("ino:")).unwrap();
        Some(u64::from_str_radix(inode, 16).unwrap())
    };
    infos.flat_map(|info| info.lines().filter_map(inode).collect::<Vec<_>>()).collect()
}
