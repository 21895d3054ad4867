//! The decisions of the harness: no I/O, no clock.

use super::{Bar, Target};

/// Above this a distribution of ratios says nothing.
pub const SPREAD_MAX: f64 = 0.25;

/// Values in order.
#[derive(Debug, Clone)]
pub struct Distribution(Vec<f64>);

impl Distribution {
    /// # Panics
    /// Without any value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(!values.is_empty(), "there is at least one round");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The nearest value at or below that share of them.
    fn quantile(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize]
    }

    pub fn lower_quartile(&self) -> f64 {
        self.quantile(0.25)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The distance of the quartiles, as a share of the median. Not that of the extremes: one
    /// round that something else has disturbed is no reason to throw the others away.
    pub fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.lower_quartile()) / self.median()
    }
}

/// Ratios of the rates of the same rounds.
pub fn paired(rates: &[f64], others: &[f64]) -> Distribution {
    assert_eq!(rates.len(), others.len(), "both ran in every round");
    Distribution::of(rates.iter().zip(others).map(|(rate, other)| rate / other))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    /// The rounds differ too much from each other.
    NoResult,
}

/// What became of a target.
#[derive(Debug, Clone)]
pub struct Ruling {
    pub target: Target,
    /// Of the ratios, or of the rates where the bar is a rate.
    pub reached: Distribution,
    pub verdict: Verdict,
}

impl Ruling {
    pub fn is_met(&self) -> bool {
        self.verdict == Verdict::Met
    }

    pub fn is_no_result(&self) -> bool {
        self.verdict == Verdict::NoResult
    }
}

/// Holds the rates of a contender against its target. `others` are the rates of the contender that
/// the target names, if it names one.
pub fn rule(target: &Target, rates: &[f64], others: Option<&[f64]>) -> Ruling {
    let (reached, at_least) = match (&target.at_least, others) {
        (Bar::Times(factor, _), Some(others)) => (paired(rates, others), *factor),
        (Bar::Times(factor, _), None) => (Distribution::of([0.0]), *factor),
        (Bar::PerSecond(rate), _) => (Distribution::of(rates.iter().copied()), *rate),
    };
    let verdict = judge(&reached, at_least);
    Ruling {
        target: target.clone(),
        reached,
        verdict,
    }
}

fn judge(reached: &Distribution, at_least: f64) -> Verdict {
    // What is not a number is not steady either.
    let is_steady = reached.spread() <= SPREAD_MAX;
    if !is_steady {
        return Verdict::NoResult;
    }
    match reached.lower_quartile() >= at_least {
        true => Verdict::Met,
        false => Verdict::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(at_least: Bar) -> Target {
        Target {
            of: "ours".to_owned(),
            at_least,
        }
    }

    #[test]
    fn quartiles_are_values_that_were_measured() {
        let nine = Distribution::of([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]);
        assert_eq!(nine.lower_quartile(), 3.0);
        assert_eq!(nine.median(), 5.0);
        assert_eq!(nine.spread(), 4.0 / 5.0);
        let one = Distribution::of([2.0]);
        assert_eq!((one.lower_quartile(), one.spread()), (2.0, 0.0));
    }

    #[test]
    fn a_ratio_is_of_the_same_round() {
        // The machine was ten times as busy in the second round; the ratio did not change.
        let ratios = paired(&[200.0, 20.0, 100.0], &[100.0, 10.0, 50.0]);
        assert_eq!((ratios.median(), ratios.spread()), (2.0, 0.0));
    }

    #[test]
    fn the_lower_quartile_is_held_against_the_target() {
        let others = [100.0; 5];
        let twice = target(Bar::Times(2.0, "theirs".to_owned()));
        // The median is above the target, the lower quartile is not.
        let rates = [198.0, 199.0, 205.0, 210.0, 211.0];
        let missed = rule(&twice, &rates, Some(&others));
        assert_eq!(missed.verdict, Verdict::Missed);
        assert_eq!(missed.reached.median(), 2.05);
        let rates = [198.0, 200.0, 205.0, 210.0, 211.0];
        assert_eq!(rule(&twice, &rates, Some(&others)).verdict, Verdict::Met);
    }

    #[test]
    fn too_much_spread_is_no_result_however_good_it_looks() {
        let twice = target(Bar::Times(2.0, "theirs".to_owned()));
        let rates = [400.0, 500.0, 600.0, 700.0, 900.0];
        let ruling = rule(&twice, &rates, Some(&[100.0; 5]));
        assert_eq!(ruling.verdict, Verdict::NoResult);
        assert!(!ruling.is_met());
    }

    #[test]
    fn one_disturbed_round_of_nine_changes_nothing() {
        let mut rates = [210.0; 9];
        rates[4] = 20.0;
        let rate = target(Bar::PerSecond(200.0));
        assert_eq!(rule(&rate, &rates, None).verdict, Verdict::Met);
    }

    #[test]
    fn a_rate_that_is_not_a_number_is_no_result() {
        let rate = target(Bar::PerSecond(1.0));
        assert_eq!(rule(&rate, &[f64::NAN], None).verdict, Verdict::NoResult);
    }

    #[test]
    fn without_the_other_side_nothing_is_met() {
        let twice = target(Bar::Times(2.0, "theirs".to_owned()));
        assert!(!rule(&twice, &[1e9], None).is_met());
    }
}
