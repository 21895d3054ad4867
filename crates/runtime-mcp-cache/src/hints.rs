//! What a server says about how long its list holds (M4).

use std::time::Duration;

use crate::CacheConfig;
use crate::policy::scaled;

/// Which rule holds where a server gives no `ttlMs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Era {
    /// Protocols before 2026-07-28 know no hints: the configured default holds.
    #[default]
    WithoutHints,
    /// From 2026-07-28 a list without a hint is stale at once.
    WithHints,
}

/// The hints of a list, or of one page of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// The era of the server's protocol.
    pub era: Era,
    /// `ttlMs`, if it was there.
    pub ttl_ms: Option<i64>,
    /// `cacheScope` was `private`. Each entry is kept per owner, connection and authorisation
    /// (see [`CacheKey`](crate::CacheKey)), so no list is shared across authorisations, public
    /// or not.
    pub private: bool,
}

impl Hints {
    /// Joins the hints of two pages: the smallest time to live, private if any is.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        // A page without a hint counts as zero where hints are the rule, so the smallest is 0.
        let smallest = match (self.ttl_ms, other.ttl_ms) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) if self.era == Era::WithHints => one.and(two),
            (one, two) => one.or(two),
        };
        Self {
            era: self.era,
            ttl_ms: smallest,
            private: self.private || other.private,
        }
    }

    /// Returns how long the list stays fresh. `fraction` in 0..1 is the jitter, which only the
    /// configured default gets.
    pub(crate) fn ttl(self, config: &CacheConfig, fraction: f64) -> Duration {
        match (self.ttl_ms, self.era) {
            // Negative means zero.
            (Some(millis), _) => {
                Duration::from_millis(u64::try_from(millis).unwrap_or(0)).min(config.ttl_max)
            }
            (None, Era::WithHints) => Duration::ZERO,
            (None, Era::WithoutHints) => {
                let share = f64::from(config.ttl_jitter_percent.min(100)) / 100.0;
                scaled(config.ttl, 1.0 + share * (2.0 * fraction - 1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl(ttl_ms: Option<i64>, era: Era) -> Duration {
        let hints = Hints {
            era,
            ttl_ms,
            private: false,
        };
        hints.ttl(&CacheConfig::default(), 0.5)
    }

    #[test]
    fn m4_hints_stand_over_the_default() {
        for era in [Era::WithHints, Era::WithoutHints] {
            assert_eq!(ttl(Some(1_500), era), Duration::from_millis(1_500));
            assert_eq!(ttl(Some(-1), era), Duration::ZERO);
            assert_eq!(ttl(Some(i64::MAX), era), Duration::from_secs(86_400));
        }
        assert_eq!(ttl(None, Era::WithHints), Duration::ZERO);
        assert_eq!(ttl(None, Era::WithoutHints), Duration::from_secs(3_600));
    }

    #[test]
    fn m4_the_default_is_jittered_within_its_share() {
        let config = CacheConfig::default();
        let hints = Hints::default();
        assert_eq!(hints.ttl(&config, 0.0), Duration::from_secs(3_240));
        assert!(hints.ttl(&config, 0.999) > Duration::from_secs(3_950));
        assert!(hints.ttl(&config, 0.999) < Duration::from_secs(3_960));
    }

    #[test]
    fn m4_pages_join_to_the_smallest_and_the_most_private() {
        let page = |ttl_ms, private| Hints {
            era: Era::WithHints,
            ttl_ms,
            private,
        };
        let joined = page(Some(9), false).and(page(Some(4), true));
        assert_eq!((joined.ttl_ms, joined.private), (Some(4), true));
        assert_eq!(page(Some(9), false).and(page(None, false)).ttl_ms, None);
    }
}
