//! Another process that changes a file, in one of the ways of `tests/programs/writer.c`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::program::WRITER;

/// How a writer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has done what it should.
    Done {
        /// The process that did it.
        pid: i32,
    },
    /// The filesystem or the kernel cannot do it.
    Unsupported,
}

/// Changes `path` in `way`, with what is prepared for it lying in the directory `stage`.
#[track_caller]
pub(crate) fn change(way: &str, path: &Path, stage: &Path, text: &str) -> Outcome {
    /// The exit status of the program where a way is not supported.
    const UNSUPPORTED: i32 = 3;
    let output =
        Command::new(WRITER.path()).arg(way).args([path, stage]).arg(text).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => {
            let pid = said.lines().last().and_then(|line| line.strip_prefix("pid "));
            Outcome::Done { pid: pid.unwrap().parse().unwrap() }
        }
        Some(UNSUPPORTED) => Outcome::Unsupported,
        _ => panic!("writer {way}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
    }
}

/// Puts `text` at `path` in one step: a new file, renamed over it.
#[track_caller]
pub(crate) fn replace(path: &Path, text: &str) {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, path).unwrap();
}

/// The same where the directory of `path` is watched: the new file is made beside that directory and not in
/// it, where it would be configuration as well, as soon as somebody takes his time to rename it.
#[track_caller]
pub(crate) fn bring(path: &Path, text: &str) {
    let beside = path.parent().unwrap().parent().unwrap();
    let home = tempfile::tempdir_in(beside).unwrap();
    let draft = home.path().join("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, path).unwrap();
}

/// `bytes` as the target prints them.
pub(crate) fn printed(bytes: &[u8]) -> String {
    let print = |&byte: &u8| match byte {
        b'\\' => format!("\\x{byte:02x}"),
        byte if byte.is_ascii_graphic() => char::from(byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(print).collect()
}

/// A directory with a configuration file in it.
pub(crate) fn config() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.conf");
    fs::write(&path, "0").unwrap();
    (dir, path)
}
