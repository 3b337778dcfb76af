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

/// A median, and how far half of the samples lie around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) median: f64,
    /// Half of the distance between the quartiles.
    pub(crate) around: f64,
}

impl Spread {
    /// `None` where there is no sample.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let (low, high) = (percentile(&sorted, 25)?, percentile(&sorted, 75)?);
        Some(Self { median: median(samples)?, around: (high - low) / 2.0 })
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

    #[test]
    fn the_spread_is_that_of_the_middle_half() {
        let samples = [0.0, 10.0, 20.0, 30.0, 1000.0];
        assert_eq!(Spread::of(&samples), Some(Spread { median: 20.0, around: 10.0 }));
    }
}
