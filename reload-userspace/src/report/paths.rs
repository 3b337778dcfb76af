//! The paths of one change: as many as fit into a line of the log.

use std::path::PathBuf;

use serde::Serialize;

use super::lossy;

/// How long they are together at most, in bytes: lines up to `PIPE_BUF` are never torn (`pipe(7)`).
const MOST_BYTES: usize = 2048;

/// The files that differ, some of them if they are many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// Those that are told; none where nobody knows which.
    #[serde(serialize_with = "lossy")]
    pub(super) paths: Vec<PathBuf>,
    /// How many others there are.
    pub(super) others: usize,
}

impl Paths {
    /// Those that are told.
    pub fn told(&self) -> impl Iterator<Item = &PathBuf> {
        self.paths.iter()
    }
}

impl From<Vec<PathBuf>> for Paths {
    fn from(mut paths: Vec<PathBuf>) -> Self {
        let mut bytes = 0;
        let fitting = paths.iter().take_while(|path| {
            bytes += path.as_os_str().len();
            bytes <= MOST_BYTES
        });
        let told = fitting.count().max(1).min(paths.len());
        let others = paths.split_off(told).len();
        Self { paths, others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_fit_are_told_but_one_at_least() {
        fn check(count: usize, length: usize, expected: (usize, usize)) {
            let paths = Paths::from(vec![PathBuf::from("x".repeat(length)); count]);
            assert_eq!((paths.paths.len(), paths.others), expected, "{count} of {length} bytes");
        }
        check(0, 0, (0, 0));
        check(3, 10, (3, 0));
        check(6000, 20, (102, 5898));
        check(2, 4095, (1, 1));
    }
}
