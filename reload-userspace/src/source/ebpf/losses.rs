//! What the kernel could not tell of, by hook.

use std::{fs, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use reload_ebpf::Hook;

use super::number;
use crate::event::{Event, LossReason, SourceName};

/// What was lost, and what of that has been told.
pub(super) struct Losses {
    map: PerCpuArray<MapData, u64>,
    dropped: [u64; Hook::ALL.len()],
    skipped: [u64; Hook::ALL.len()],
}

impl Losses {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        let none = [0; Hook::ALL.len()];
        Self { map, dropped: none, skipped: none }
    }

    /// What was lost since the last call.
    pub(super) fn news(&mut self, ebpf: &Ebpf) -> Vec<Event> {
        let mut losses = self.dropped();
        losses.extend(self.skipped(ebpf));
        losses
    }

    /// What the kernel has dropped since the last call: a full ring by hook.
    fn dropped(&mut self) -> Vec<Event> {
        let count = |hook: Hook| {
            self.map.get(&(hook as u32), 0).map_or(0, |per_processor| per_processor.iter().sum())
        };
        let counts = Hook::ALL.map(count);
        tell(&mut self.dropped, counts, LossReason::RingFull)
    }

    /// What the kernel has skipped since the last call, because the program was running already on
    /// that processor: `recursion_misses` of `/proc/self/fdinfo` (Linux 5.12).
    fn skipped(&mut self, ebpf: &Ebpf) -> Vec<Event> {
        let misses = |hook: Hook| {
            let program = ebpf.program(hook.program())?;
            let descriptor = number(program.fd().ok()?.as_fd());
            recursion_misses(&fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?)
        };
        let counts = Hook::ALL.map(|hook| misses(hook).unwrap_or(0));
        tell(&mut self.skipped, counts, LossReason::Recursion)
    }
}

/// How often the kernel has skipped a program, as `/proc/<pid>/fdinfo` tells.
fn recursion_misses(info: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?;
    line.trim().parse().ok()
}

/// Compares counts, by hook, with those that have been told, and tells the difference.
fn tell<const N: usize>(told: &mut [u64; N], counts: [u64; N], reason: LossReason) -> Vec<Event> {
    let news = told.iter().zip(counts).zip(Hook::ALL).filter_map(|((&told, count), hook)| {
        let count = count.saturating_sub(told);
        (count > 0).then_some(Event::Lost {
            source: SourceName::Ebpf,
            reason,
            hook: hook.program(),
            count,
        })
    });
    let news = news.collect();
    *told = counts;
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_skipped_is_read() {
        // Of Linux 6.12.
        let info = "pos:\t0\nflags:\t02000002\nprog_type:\t26\nprog_jited:\t1\nprog_tag:\t1f\n\
                    memlock:\t4096\nprog_id:\t17\nrun_time_ns:\t0\nrun_cnt:\t0\n\
                    recursion_misses:\t12\nverified_insns:\t310\n";
        assert_eq!(recursion_misses(info), Some(12));
        assert_eq!(recursion_misses("pos:\t0\n"), None);
    }

    #[test]
    fn a_loss_is_told_once_and_by_its_hook() {
        let mut told = [0; Hook::ALL.len()];
        let counts = |skip, exec| {
            let mut counts = [0; Hook::ALL.len()];
            counts[Hook::CtimeSkip as usize] = skip;
            counts[Hook::Exec as usize] = exec;
            counts
        };
        let lost = |hook: Hook, count| Event::Lost {
            source: SourceName::Ebpf,
            reason: LossReason::RingFull,
            hook: hook.program(),
            count,
        };
        assert_eq!(
            tell(&mut told, counts(3, 1), LossReason::RingFull),
            [lost(Hook::CtimeSkip, 3), lost(Hook::Exec, 1)]
        );
        assert_eq!(tell(&mut told, counts(3, 1), LossReason::RingFull), []);
        assert_eq!(tell(&mut told, counts(5, 1), LossReason::RingFull), [lost(Hook::CtimeSkip, 2)]);
    }
}
