//! How many files may be open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to what this process may have without asking, and gives the limit
/// that it had.
///
/// Who runs another program gives it the former one: programs that use `select(2)` cannot deal with
/// descriptors above 1023, and some close every one that they might have.
pub fn raise_open_files() -> Rlimit {
    let former = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: former.maximum, maximum: former.maximum };
    // The kernel does not refuse what is below the hard limit. If it did, the limit is what it was.
    let _refused = setrlimit(Resource::Nofile, raised);
    former
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_hard_one_afterwards() {
        let former = raise_open_files();
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, now.maximum), (former.maximum, former.maximum));
    }
}
