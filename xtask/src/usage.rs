//! What `/proc` tells of what processes take.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// What a process, or a group of them, has taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) rss_kib: u64,
    /// The same, with what is shared divided among those who share it.
    pub(crate) pss_kib: u64,
    pub(crate) peak_kib: u64,
    /// How often it went to sleep, which is how often it was woken; of those that have ended nobody knows.
    pub(crate) sleeps: u64,
    /// On a processor, in steps of 10 ms, with those that have ended and were waited for.
    pub(crate) ran: Duration,
    /// The same to the nanosecond, without those.
    pub(crate) ran_ns: u64,
}

impl Usage {
    /// That of one process.
    ///
    /// # Errors
    ///
    /// Fails where it has ended.
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        let mut usage = Self::default();
        let read =
            |path: String| fs::read_to_string(&path).with_context(|| format!("cannot read {path}"));
        let status = read(format!("/proc/{pid}/status"))?;
        usage.rss_kib = field(&status, "VmRSS:");
        usage.peak_kib = field(&status, "VmHWM:");
        usage.pss_kib = field(&read(format!("/proc/{pid}/smaps_rollup"))?, "Pss:");
        usage.ran = ticks(&read(format!("/proc/{pid}/stat"))?);
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
            let task = task.with_context(|| format!("cannot list {tasks}"))?.path();
            let status = read(format!("{}/status", task.display()))?;
            usage.sleeps += field(&status, "voluntary_ctxt_switches:");
            // The first number is the time on a processor, Documentation/scheduler/sched-stats.rst.
            let stat = read(format!("{}/schedstat", task.display()))?;
            let ran = stat.split(' ').next().and_then(|number| number.parse::<u64>().ok());
            usage.ran_ns += ran.unwrap_or_default();
        }
        Ok(usage)
    }

    /// That of a process group; who ends meanwhile is left out.
    ///
    /// # Errors
    ///
    /// Fails where nobody is in it.
    pub(crate) fn of_group(group_id: u32) -> Result<Self> {
        let all = group(group_id);
        let mut known = all.iter().filter_map(|&pid| Self::of_process(pid).ok()).peekable();
        known.peek().context("nobody of it runs any more")?;
        Ok(known.fold(Self::default(), |sum, one| Self {
            rss_kib: sum.rss_kib + one.rss_kib,
            pss_kib: sum.pss_kib + one.pss_kib,
            peak_kib: sum.peak_kib + one.peak_kib,
            sleeps: sum.sleeps + one.sleeps,
            ran: sum.ran + one.ran,
            ran_ns: sum.ran_ns + one.ran_ns,
        }))
    }
}

/// The processes of a group.
pub(crate) fn group(group: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let is_in = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The third after the name, which may have anything in it.
        after_name(&stat).nth(2).is_some_and(|it| it == group.to_string())
    };
    pids.filter(is_in).collect()
}

fn after_name(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

/// `utime`, `stime`, `cutime` and `cstime` of `proc_pid_stat(5)`, in a hundredth of a second each
/// (`USER_HZ`).
fn ticks(stat: &str) -> Duration {
    let ticks = after_name(stat).skip(11).take(4).filter_map(|it| it.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_status() {
        let status = "Name:\ta\nVmHWM:\t    5044 kB\nVmRSS:\t    4988 kB\n\
                      voluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n";
        let numbers = ["VmRSS:", "VmHWM:", "voluntary_ctxt_switches:", "VmNope:"];
        assert_eq!(numbers.map(|name| field(status, name)), [4988, 5044, 17, 0]);
    }

    #[test]
    fn a_name_with_a_parenthesis_shifts_nothing() {
        let stat = "7 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        assert_eq!(after_name(stat).nth(2), Some("42"));
        assert_eq!(ticks(stat), Duration::from_secs(1));
    }

    #[test]
    fn whoever_runs_is_in_a_group() {
        let own = std::process::id();
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let id = after_name(&stat).nth(2).unwrap().parse().unwrap();
        assert!(group(id).contains(&own));
        assert!(Usage::of_group(id).unwrap().rss_kib > 0);
    }
}
