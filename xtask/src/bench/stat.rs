//! What many samples come to.

/// Percentiles of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    /// Sorts the samples and looks; `None` where there is none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let at = |share| percentile(&sorted, share);
        Some(Self { p50: at(50)?, p90: at(90)?, p99: at(99)? })
    }

    /// The median of each over several rounds.
    pub(crate) fn median(rounds: &[Self]) -> Option<Self> {
        let of = |pick: fn(&Self) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
        Some(Self {
            p50: of(|round| round.p50)?,
            p90: of(|round| round.p90)?,
            p99: of(|round| round.p99)?,
        })
    }
}

/// A median, and between what that of very many samples would lie, in 19 of 20 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Confident {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Confident {
    /// By the ranks of a binomial distribution, which asks nothing of that of the samples; `None` where
    /// there are fewer than six, of which no interval is so sure.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        const FEWEST: usize = 6;
        if samples.len() < FEWEST {
            return None;
        }
        let sorted = sorted(samples);
        let below = below(sorted.len());
        let (low, high) = (*sorted.get(below)?, *sorted.get(sorted.len() - 1 - below)?);
        Some(Self { median: median(samples)?, low, high })
    }
}

/// How many of the lowest and of the highest of `count` samples are outside of the interval: as many as
/// a fair coin falls on one side with less than one chance in forty.
fn below(count: usize) -> usize {
    let tosses = i32::try_from(count).unwrap_or(i32::MAX);
    let mut chance = 0.5_f64.powi(tosses);
    let (mut sum, mut heads) = (chance, 0_u32);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    loop {
        chance *= f64::from(count - heads) / f64::from(heads + 1);
        sum += chance;
        if sum > 0.025 {
            return usize::try_from(heads).unwrap_or_default();
        }
        heads += 1;
    }
}

/// The middle, or the mean of the two in the middle; `None` where there is no sample.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The smallest sample that `share` per cent of all do not exceed.
fn percentile(sorted: &[f64], share: usize) -> Option<f64> {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        fn check(samples: &[f64], expected: Option<f64>) {
            assert_eq!(median(samples), expected, "for {samples:?}");
        }
        check(&[], None);
        check(&[7.0], Some(7.0));
        check(&[9.0, 1.0], Some(5.0));
        check(&[9.0, 1.0, 2.0], Some(2.0));
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<_> = (1..=200).rev().map(f64::from).collect();
        let expected = Percentiles { p50: 100.0, p90: 180.0, p99: 198.0 };
        assert_eq!(Percentiles::of(&samples), Some(expected));
        let one = Percentiles { p50: 3.0, p90: 3.0, p99: 3.0 };
        assert_eq!(Percentiles::of(&[3.0]), Some(one));
        assert_eq!(Percentiles::of(&[]), None);
    }

    /// The ranks that tables of the sign test give.
    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        fn check(count: u32, low: f64, high: f64) {
            let samples: Vec<_> = (1..=count).rev().map(f64::from).collect();
            let median = f64::midpoint(1.0, f64::from(count));
            assert_eq!(Confident::of(&samples), Some(Confident { median, low, high }));
        }
        check(6, 1.0, 6.0);
        check(10, 2.0, 9.0);
        check(20, 6.0, 15.0);
        check(40, 14.0, 27.0);
        assert_eq!(Confident::of(&[1.0; 5]), None);
    }
}
