//! What to do with an entry at a given moment (M1, M4): pure, no clock, no locks.

use std::time::Duration;

use crate::CacheConfig;

/// A moment of the monotonic clock, moved by [`PAST`] so that what was fetched before this
/// process started (a restored entry) has one too.
pub(crate) type Moment = Duration;

/// How far before the start of the process a moment may lie.
pub(crate) const PAST: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// The times of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) life: Option<Life>,
    pub(crate) trouble: Trouble,
    /// Failures in a row.
    pub(crate) attempts: u32,
    /// When the last refresh of a value that was there took off; it paces the next one.
    pub(crate) refreshed_at: Option<Moment>,
}

/// The times of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) fetched_at: Moment,
    pub(crate) stale_at: Moment,
}

/// What went wrong last, if that is not yet made good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    Failed { at: Moment, retry_at: Moment },
    TooLarge { at: Moment, retry_at: Moment },
    Blocked { at: Moment },
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Serve the value; ask nobody.
    Fresh { age: Duration },
    /// Serve the value; if `refresh`, fetch a new one beside it, else not before `retry_at`.
    Stale {
        age: Duration,
        refresh: bool,
        retry_at: Option<Moment>,
    },
    /// Wait for a fetch.
    Cold,
    /// Serve the failure.
    Negative { age: Duration, retry_at: Moment },
    /// Serve the refusal until somebody unblocks it.
    Blocked { age: Duration },
    /// Serve neither: the value is too large to keep, and asking again must wait.
    TooLarge { age: Duration, retry_at: Moment },
}

/// Decides what an entry is worth now.
pub(crate) fn decide(record: &Record, config: &CacheConfig, now: Moment) -> Decision {
    if let Trouble::Blocked { at } = record.trouble {
        return Decision::Blocked {
            age: now.saturating_sub(at),
        };
    }
    if let Some(life) = record.life {
        let age = now.saturating_sub(life.fetched_at);
        if now < life.stale_at {
            return Decision::Fresh { age };
        }
        if now < life.stale_at.saturating_add(config.stale_window) {
            let retry_at = record.refresh_at(config).filter(|&at| now < at);
            return Decision::Stale {
                age,
                refresh: retry_at.is_none(),
                retry_at,
            };
        }
    }
    match record.trouble {
        Trouble::Failed { at, retry_at } if now < retry_at => Decision::Negative {
            age: now.saturating_sub(at),
            retry_at,
        },
        Trouble::TooLarge { at, retry_at } if now < retry_at => Decision::TooLarge {
            age: now.saturating_sub(at),
            retry_at,
        },
        _ => Decision::Cold,
    }
}

impl Record {
    /// An entry of which nothing is known.
    pub(crate) const NEW: Self = Self {
        life: None,
        trouble: Trouble::None,
        attempts: 0,
        refreshed_at: None,
    };

    /// Returns the age of a value that is fresh, and that nothing is wrong with.
    #[inline]
    pub(crate) fn fresh_age(&self, now: Moment) -> Option<Duration> {
        let life = self.life?;
        let fresh = now < life.stale_at && self.trouble == Trouble::None;
        fresh.then(|| now.saturating_sub(life.fetched_at))
    }

    /// Returns when a stale value may be fetched anew, if that must wait at all.
    fn refresh_at(&self, config: &CacheConfig) -> Option<Moment> {
        let after_failure = match self.trouble {
            Trouble::Failed { retry_at, .. } | Trouble::TooLarge { retry_at, .. } => Some(retry_at),
            Trouble::None | Trouble::Blocked { .. } => None,
        };
        let after_refresh = self
            .refreshed_at
            .map(|at| at.saturating_add(config.refresh_interval_min));
        after_failure.max(after_refresh)
    }

    /// A fetch that took off at `started` brought a value. Its age counts from the take-off: a
    /// change on the server during the fetch may be missing from it.
    pub(crate) fn succeeded(
        self,
        started: Moment,
        now: Moment,
        ttl: Duration,
        outdated: bool,
    ) -> Self {
        let expires = started.saturating_add(ttl);
        Self {
            life: Some(Life {
                fetched_at: started,
                stale_at: if outdated { expires.min(now) } else { expires },
            }),
            trouble: Trouble::None,
            attempts: 0,
            refreshed_at: self.life.map(|_| started),
        }
    }

    /// A fetch brought a failure, or a value too large to keep.
    pub(crate) fn failed(
        self,
        config: &CacheConfig,
        started: Moment,
        now: Moment,
        fraction: f64,
        too_large: bool,
    ) -> Self {
        let attempts = self.attempts.saturating_add(1);
        let retry_at = now.saturating_add(backoff(config, attempts, fraction));
        let trouble = if too_large {
            Trouble::TooLarge { at: now, retry_at }
        } else {
            Trouble::Failed { at: now, retry_at }
        };
        Self {
            trouble,
            attempts,
            refreshed_at: self.life.map(|_| started),
            ..self
        }
    }

    /// The credential was refused: fail closed.
    pub(crate) fn refused(self, now: Moment) -> Self {
        Self {
            trouble: Trouble::Blocked { at: now },
            attempts: self.attempts.saturating_add(1),
            ..self
        }
    }

    /// The value is no longer the newest.
    pub(crate) fn marked_stale(self, now: Moment) -> Self {
        let life = self.life.map(|life| Life {
            stale_at: life.stale_at.min(now),
            ..life
        });
        Self { life, ..self }
    }

    /// Forgets failures, refusals and pacing: the next caller may ask at once.
    pub(crate) fn pardoned(self) -> Self {
        Self {
            trouble: Trouble::None,
            attempts: 0,
            refreshed_at: None,
            ..self
        }
    }
}

/// Returns the wait after that many failures in a row: doubling, at most `retry_max`, between
/// half and the whole of it at random (`fraction` in 0..1), so that clients part ways.
pub(crate) fn backoff(config: &CacheConfig, attempts: u32, fraction: f64) -> Duration {
    let doubled = 2_u32
        .checked_pow(attempts.saturating_sub(1))
        .and_then(|factor| config.retry_base.checked_mul(factor))
        .unwrap_or(config.retry_max)
        .min(config.retry_max);
    scaled(doubled, 0.5 + fraction.clamp(0.0, 1.0) / 2.0)
}

/// Multiplies a duration; the longest one there is stands for all that are longer.
pub(crate) fn scaled(duration: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Moment {
        PAST + Duration::from_secs(seconds)
    }

    fn config() -> CacheConfig {
        CacheConfig {
            stale_window: Duration::from_secs(100),
            ..CacheConfig::default()
        }
    }

    fn fetched() -> Record {
        Record::NEW.succeeded(at(0), at(1), 10 * SECOND, false)
    }

    #[test]
    fn m1_a_value_is_fresh_then_stale_then_cold() {
        assert_eq!(fetched().fresh_age(at(9)), Some(9 * SECOND));
        assert_eq!(fetched().fresh_age(at(10)), None);
        let decide = |now| decide(&fetched(), &config(), now);
        assert_eq!(decide(at(9)), Decision::Fresh { age: 9 * SECOND });
        let stale = |age, refresh| Decision::Stale {
            age,
            refresh,
            retry_at: None,
        };
        assert_eq!(decide(at(10)), stale(10 * SECOND, true));
        assert_eq!(decide(at(109)), stale(109 * SECOND, true));
        assert_eq!(decide(at(110)), Decision::Cold);
    }

    #[test]
    fn m4_a_ttl_of_zero_is_stale_at_once_and_refreshed_at_a_bounded_pace() {
        let first = Record::NEW.succeeded(at(0), at(0), Duration::ZERO, false);
        let refreshing = |record: &Record, now| match decide(record, &config(), now) {
            Decision::Stale { refresh, .. } => refresh,
            other => panic!("{other:?}"),
        };
        assert!(refreshing(&first, at(0)));
        let second = first.succeeded(at(0), at(0), Duration::ZERO, false);
        assert!(!refreshing(&second, at(0)));
        assert!(refreshing(&second, at(1)));
    }

    #[test]
    fn m1_a_failure_beside_a_stale_value_paces_the_refresh_and_keeps_the_value() {
        let failed = fetched().failed(&config(), at(20), at(20), 0.0, false);
        let retry_at = at(20) + SECOND;
        assert_eq!(
            decide(&failed, &config(), at(20)),
            Decision::Stale {
                age: 20 * SECOND,
                refresh: false,
                retry_at: Some(retry_at)
            }
        );
        assert!(matches!(
            decide(&failed, &config(), retry_at),
            Decision::Stale { refresh: true, .. }
        ));
    }

    #[test]
    fn m1_a_failure_without_a_value_is_negative_until_its_retry() {
        let failed = Record::NEW.failed(&config(), at(0), at(0), 1.0, false);
        let retry_at = at(1);
        assert_eq!(
            decide(&failed, &config(), at(0)),
            Decision::Negative {
                age: Duration::ZERO,
                retry_at
            }
        );
        assert_eq!(decide(&failed, &config(), retry_at), Decision::Cold);
    }

    #[test]
    fn m1_a_refused_credential_blocks_even_a_fresh_value_for_ever() {
        let refused = fetched().refused(at(2));
        assert_eq!(refused.fresh_age(at(3)), None);
        for now in [2, 5, 1_000_000] {
            assert!(matches!(
                decide(&refused, &config(), at(now)),
                Decision::Blocked { .. }
            ));
        }
        assert!(matches!(
            decide(&refused.pardoned(), &config(), at(3)),
            Decision::Fresh { .. }
        ));
    }

    #[test]
    fn m1_the_wait_doubles_within_its_jitter_up_to_its_bound() {
        let config = config();
        for attempts in 1..100 {
            let least = backoff(&config, attempts, 0.0);
            let most = backoff(&config, attempts, 1.0);
            assert_eq!(most, least * 2);
            assert!(most <= config.retry_max);
            let expected = SECOND * 2_u32.saturating_pow(attempts - 1).min(300);
            assert_eq!(most, expected);
        }
        assert_eq!(backoff(&config, u32::MAX, 1.0), config.retry_max);
    }

    #[test]
    fn m1_no_duration_of_a_host_overflows() {
        assert_eq!(scaled(Duration::MAX, 1.1), Duration::MAX);
        assert_eq!(scaled(SECOND, 0.5), SECOND / 2);
        let config = CacheConfig {
            retry_base: Duration::MAX,
            retry_max: Duration::MAX,
            ..config()
        };
        assert!(backoff(&config, 3, 1.0) > Duration::MAX / 2);
    }

    #[test]
    fn m4_marking_stale_never_makes_a_value_younger() {
        let marked = fetched().marked_stale(at(5));
        assert_eq!(marked.life.map(|life| life.stale_at), Some(at(5)));
        let again = marked.marked_stale(at(8));
        assert_eq!(again, marked);
        // The fetch that was under way when the change was announced may lack the change.
        let landed = Record::NEW.succeeded(at(0), at(1), 10 * SECOND, true);
        assert!(matches!(
            decide(&landed, &config(), at(1)),
            Decision::Stale { refresh: true, .. }
        ));
    }
}
