//! `/proc/<pid>/status` (`proc_pid_status(5)`), as far as we need it.

use std::path::Path;

use super::{TargetError, procfs::read};

/// What it is called in the directory of a process.
pub(super) const FILE: &str = "status";

/// What the kernel tells of a process, or of one of its threads; in a set, bit n − 1 stands for signal n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The name of the task, in which a newline and a backslash are escaped.
    comm: Vec<u8>,
    pub(super) has_ended: bool,
    threads: u64,
    /// The pid in the innermost pid namespace.
    pub(super) innermost: i32,
    pub(super) blocked: u64,
    pub(super) ignored: u64,
    pub(super) caught: u64,
}

impl Status {
    /// Reads that of the process or thread whose directory `home` is; `None` where it is gone.
    pub(super) fn read_in(home: &Path) -> Result<Option<Self>, TargetError> {
        Ok(read(&home.join(FILE))?.and_then(|text| Self::parse(&text)))
    }

    /// Takes it apart, or gives `None` where something is missing.
    ///
    /// The first line is the name of the task, in which a newline is escaped: no line can be forged.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|&byte| byte == b'\n')?;
        let comm = text[..end].strip_prefix(b"Name:\t")?.to_owned();
        let (mut state, mut pid, mut innermost, mut threads) = (None, None, None, None);
        let (mut blocked, mut ignored, mut caught) = (None, None, None);
        for line in str::from_utf8(&text[end + 1..]).ok()?.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            match name {
                "State" => state = Some(value.trim_start()),
                "Pid" => pid = Some(value),
                "NSpid" => innermost = Some(value),
                "Threads" => threads = value.trim().parse().ok(),
                "SigBlk" => blocked = signals(value),
                "SigIgn" => ignored = signals(value),
                "SigCgt" => caught = signals(value),
                _ => {}
            }
        }
        // Linux 4.1; before, nobody can be told to be the first but the first of all.
        let innermost = innermost.or(pid)?.split_ascii_whitespace().last()?;
        Some(Self {
            comm,
            has_ended: state?.starts_with(['Z', 'X']),
            threads: threads?,
            innermost: innermost.parse().ok()?,
            blocked: blocked?,
            ignored: ignored?,
            caught: caught?,
        })
    }

    /// Whether the process has ended; where only its first thread has it has not.
    pub(super) fn is_zombie(&self) -> bool {
        self.has_ended && self.threads <= 1
    }

    /// Whether the task runs a program and has this name, in which nothing is escaped.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        !self.is_zombie() && self.comm == name.as_bytes()
    }
}

/// The set that a line of procfs says.
pub(super) fn signals(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(comm: &[u8], state: &str, threads: u32) -> Status {
        let rest = format!(
            "State:\t{state}\nPid:\t4\nThreads:\t{threads}\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t1\n"
        );
        Status::parse(&[b"Name:\t", comm, b"\nUmask:\t0022\n", rest.as_bytes()].concat()).unwrap()
    }

    #[test]
    fn a_name_is_the_whole_of_it_as_it_is() {
        let bears = |comm: &[u8], name| named(comm, "S (sleeping)", 1).is_named(name);
        assert!(bears(b"nginx", "nginx"));
        assert!(bears(b"a: b", "a: b"));
        for other in [&b"nginx "[..], b" nginx", b"nginx-debug", b"ngin", b"", b"\xff"] {
            assert!(!bears(other, "nginx"), "{other:?}");
        }
        assert!(!bears(b"\xff", "\u{fffd}"));
    }

    #[test]
    fn who_has_ended_has_no_name_any_more_unless_other_threads_go_on() {
        assert!(!named(b"x", "Z (zombie)", 1).is_named("x"));
        assert!(named(b"x", "Z (zombie)", 2).is_named("x"));
    }

    #[test]
    fn what_is_cut_off_is_no_status() {
        let whole =
            b"Name:\tx\nState:\tS\nPid:\t4\nThreads:\t1\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n";
        assert!(Status::parse(whole).is_some());
        for length in 0..whole.len() - "0\n".len() {
            assert_eq!(Status::parse(&whole[..length]), None, "of {length} bytes");
        }
    }
}
