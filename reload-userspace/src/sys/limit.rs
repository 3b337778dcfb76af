//! How many files may be open at once.

use std::{io, os::unix::process::CommandExt as _, process::Command, sync::OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that this process was started with, once it is another.
static FORMER: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of open files to what this process may have without asking.
pub fn raise_open_files() {
    let former = FORMER.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = Rlimit { current: former.maximum, maximum: former.maximum };
    // The kernel does not refuse what is below the hard limit. If it did, the limit is what it was.
    let _refused = setrlimit(Resource::Nofile, raised);
}

/// Has a command started with the limit that this process was started with.
///
/// Programs that use `select(2)` cannot deal with descriptors above 1023, and some close every
/// descriptor that they might have.
pub fn give_back_open_files(command: &mut Command) {
    let Some(former) = FORMER.get().copied() else {
        return;
    };
    let give_back = move || setrlimit(Resource::Nofile, former).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call, on memory of its own, and
    // nothing else: no lock, no allocation.
    let _itself = unsafe { command.pre_exec(give_back) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_for_the_agent_and_not_for_what_it_runs() {
        let limit_of = |mut command: Command| {
            give_back_open_files(&mut command);
            let said = command.args(["-c", "ulimit -Sn; ulimit -Hn"]).output().unwrap().stdout;
            String::from_utf8(said).unwrap()
        };
        let before = limit_of(Command::new("sh"));
        raise_open_files();
        raise_open_files();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(limit_of(Command::new("sh")), before);
    }
}
