//! One line of `/proc/<pid>/stat` (`proc_pid_stat(5)`), as far as we need it.

/// `PF_KTHREAD` of the kernel: it runs no program.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What the kernel notes of one that is about to end (`PF_EXITING`).
const EXITING: u64 = 0x4;

/// What the kernel tells of a process, or of one of its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// The name of the task, as it is (`comm`).
    pub(super) comm: Vec<u8>,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// In clock ticks since boot.
    pub(super) started: u64,
    /// As `wait(2)` tells it; 0 as well where the agent may not look into the process.
    pub(super) exit_code: Option<i32>,
    state: u8,
    flags: u64,
    threads: u64,
}

impl Stat {
    /// Takes the line apart, or gives `None` where it is none.
    ///
    /// Field 2 is the name of the task in parentheses. A name may be of any bytes, so the fields are
    /// counted from the *last* parenthesis.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')').filter(|&close| close > open)?;
        let mut fields = str::from_utf8(&text[close + 1..]).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let flags = fields.nth(2)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        let exit_code = fields.nth(29).and_then(|field| field.parse().ok());
        let comm = text[open + 1..close].to_owned();
        Some(Self { comm, parent, session, started, exit_code, state, flags, threads })
    }

    /// Whether it is a process that runs a program. A zombie has ended, and a kernel thread has none.
    pub(super) fn is_running(&self) -> bool {
        self.flags & KERNEL_THREAD == 0 && (!self.has_ended() || self.is_headless())
    }

    /// Whether only the first thread of the process has ended: it looks like a zombie, and is none.
    pub(super) fn is_headless(&self) -> bool {
        self.has_ended() && self.threads > 1
    }

    /// Whether this thread has ended, or is about to.
    pub(super) fn is_ending(&self) -> bool {
        self.flags & EXITING != 0 || self.has_ended()
    }

    /// Whether this thread has ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        fn check(name: &[u8]) {
            let mut line = b"7 (".to_vec();
            line.extend(name);
            line.extend(b") S 3 5 6 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 2 0 991 1 1\n");
            let stat = Stat::parse(&line).unwrap();
            let expected = Stat {
                exit_code: None,
                comm: name.to_owned(),
                parent: 3,
                session: 6,
                started: 991,
                state: b'S',
                flags: 4_194_560,
                threads: 2,
            };
            assert_eq!(stat, expected);
        }
        check(b"nginx");
        check(b"tmux: server");
        check(b"a) S 1 (b");
        check(b"");
        check(b"\xff\n(");
    }

    #[test]
    fn a_truncated_line_is_no_process() {
        fn check(line: &[u8]) {
            assert_eq!(Stat::parse(line), None);
        }
        check(b"7 (name) S 1 7");
        check(b"7 )name( S 3 5 6 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 2 0 991");
        check(b"");
    }

    #[test]
    fn who_is_about_to_end_is_known_before_he_has() {
        fn check(state: char, flags: u64, is_ending: bool) {
            let line = format!("7 (x) {state} 3 5 6 0 -1 {flags} 1 0 0 0 0 0 0 0 20 0 1 0 991 1 1");
            let stat = Stat::parse(line.as_bytes()).unwrap();
            assert_eq!(stat.is_ending(), is_ending, "for {line}");
        }
        check('S', 0x40_0100, false);
        check('R', 0x40_0104, true);
        check('Z', 0x40_0104, true);
        check('Z', 0x40_0100, true);
    }

    #[test]
    fn who_has_ended_and_who_runs_no_program_is_told_apart() {
        fn check(state: char, flags: u64, threads: u64, is_running: bool) {
            let line = format!(
                "7 (x) {state} 3 5 6 0 -1 {flags} 1 0 0 0 0 0 0 0 20 0 {threads} 0 991 1 1"
            );
            let stat = Stat::parse(line.as_bytes()).unwrap();
            assert_eq!(stat.is_running(), is_running, "for {line}");
        }
        check('S', 0x40_0100, 1, true);
        check('D', 0x40_0100, 9, true);
        check('Z', 0x40_0100, 1, false);
        check('X', 0x40_0100, 1, false);
        // The first thread has called pthread_exit(3).
        check('Z', 0x40_0100, 2, true);
        check('I', 0x20_8040, 1, false);
    }
}
