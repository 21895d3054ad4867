//! The bounds of the cache (G3), and how the environment sets them (G4).

use std::time::Duration;

use runtime_core::{Classified, ErrorClass};

/// How long a generation may be leased anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// For this long after it was built or seeded; at most the cap.
    After(Duration),
    /// For ever. Only who says so gets it: no override and no cap turns into it.
    Never,
}

impl Ttl {
    pub(crate) fn capped(self, cap: Duration) -> Option<Duration> {
        match self {
            Self::After(ttl) => Some(ttl.min(cap)),
            Self::Never => None,
        }
    }
}

/// The bounds of an [`AgentCache`](crate::AgentCache).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCacheConfig {
    /// The number of objects alive at once: cached, being built for a new key, or retired and
    /// still leased. Swapping a version may pass it for as long as the old one is leased.
    pub entries_max: usize,
    /// How long an object may be leased anew, unless a call says otherwise.
    pub ttl: Ttl,
    /// The longest time that a configuration or a call may ask for.
    pub ttl_max: Duration,
    /// How long a build may take.
    pub build_timeout: Duration,
    /// The number of builds under way.
    pub builds_max: usize,
    /// How long a disposal may take before it is given up and counted.
    pub disposal_timeout: Duration,
    /// How long `close` waits for leases and disposals.
    pub close_timeout: Duration,
    /// How often the sweeper looks for expired objects.
    pub sweep_interval: Duration,
    /// The wait after a first failed rebuild; it doubles with each further one.
    pub retry_base: Duration,
    /// The longest wait after a failed rebuild.
    pub retry_max: Duration,
    /// Objects are kept and counted but never served: every call builds its own (shadow mode).
    pub shadow: bool,
}

/// The number of entries by default, and the most that the environment may set.
const ENTRIES: usize = 64;
/// The time to live by default, and the longest that the environment may set.
const TTL: Duration = Duration::from_millis(300_000);

impl Default for AgentCacheConfig {
    fn default() -> Self {
        Self {
            entries_max: ENTRIES,
            ttl: Ttl::After(TTL),
            ttl_max: TTL,
            build_timeout: Duration::from_secs(60),
            builds_max: ENTRIES,
            disposal_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(60),
            sweep_interval: Duration::from_secs(30),
            retry_base: Duration::from_secs(1),
            retry_max: Duration::from_secs(300),
            shadow: false,
        }
    }
}

/// The settings as the environment gives them; who reads the environment is the host's business.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EnvironmentSettings<'a> {
    /// `AGENT_RUNTIME_CACHE_MAX_ENTRIES`.
    pub max_entries: Option<&'a str>,
    /// `AGENT_RUNTIME_CACHE_TTL_MS`; goes before the seconds.
    pub ttl_ms: Option<&'a str>,
    /// `AGENT_RUNTIME_CACHE_TTL_SECONDS`; looked at only without the milliseconds.
    pub ttl_seconds: Option<&'a str>,
}

/// A setting that is not a positive whole number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found:?}; give a whole number from 1 on, digits only")]
pub struct SettingError {
    /// The name of the variable.
    pub name: &'static str,
    /// What it holds.
    pub found: String,
}

impl Classified for SettingError {
    fn code(&self) -> &'static str {
        "agent_cache_setting"
    }

    fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

/// A setting over its cap; the cap holds instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingCapped {
    /// The name of the variable.
    pub name: &'static str,
    /// What it asks for.
    pub asked: u64,
    /// What holds.
    pub cap: u64,
}

impl AgentCacheConfig {
    /// Applies the settings; the entries and the longest time to live of `self` are the caps.
    /// What had to be capped is logged as a warning and returned.
    ///
    /// # Errors
    /// [`SettingError`] for anything but a positive whole number.
    pub fn with_settings(
        mut self,
        settings: EnvironmentSettings<'_>,
    ) -> Result<(Self, Vec<SettingCapped>), SettingError> {
        let mut capped = Vec::new();
        if let Some(text) = settings.max_entries {
            const NAME: &str = "AGENT_RUNTIME_CACHE_MAX_ENTRIES";
            let cap = u64::try_from(self.entries_max).unwrap_or(u64::MAX);
            let entries = cap_of(NAME, positive(NAME, text)?, cap, &mut capped);
            self.entries_max = usize::try_from(entries).unwrap_or(self.entries_max);
        }
        let ttl = match (settings.ttl_ms, settings.ttl_seconds) {
            (Some(text), _) => Some(("AGENT_RUNTIME_CACHE_TTL_MS", text, 1)),
            (None, Some(text)) => Some(("AGENT_RUNTIME_CACHE_TTL_SECONDS", text, 1_000)),
            (None, None) => None,
        };
        if let Some((name, text, unit)) = ttl {
            let millis = positive(name, text)?.saturating_mul(unit);
            let cap = u64::try_from(self.ttl_max.as_millis()).unwrap_or(u64::MAX);
            let millis = cap_of(name, millis, cap, &mut capped);
            self.ttl = Ttl::After(Duration::from_millis(millis));
        }
        Ok((self, capped))
    }
}

fn positive(name: &'static str, text: &str) -> Result<u64, SettingError> {
    // `parse` alone takes a leading plus.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number
        .filter(|&number| number > 0)
        .ok_or_else(|| SettingError {
            name,
            found: text.chars().take(64).collect(),
        })
}

fn cap_of(name: &'static str, asked: u64, cap: u64, capped: &mut Vec<SettingCapped>) -> u64 {
    if asked > cap {
        tracing::warn!(
            name,
            asked,
            cap,
            "the setting is over its cap; the cap holds"
        );
        capped.push(SettingCapped { name, asked, cap });
    }
    asked.min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(settings: EnvironmentSettings<'_>) -> Result<(usize, Ttl, usize), SettingError> {
        let (config, capped) = AgentCacheConfig::default().with_settings(settings)?;
        Ok((config.entries_max, config.ttl, capped.len()))
    }

    #[test]
    fn g4_nothing_set_is_the_default() {
        let expected = (64, Ttl::After(Duration::from_millis(300_000)), 0);
        assert_eq!(apply(EnvironmentSettings::default()), Ok(expected));
    }

    #[test]
    fn g4_milliseconds_go_before_seconds() {
        let mut settings = EnvironmentSettings {
            max_entries: Some("3"),
            ttl_ms: Some("1500"),
            ttl_seconds: Some("9"),
        };
        let ttl = |millis| Ttl::After(Duration::from_millis(millis));
        assert_eq!(apply(settings), Ok((3, ttl(1_500), 0)));
        settings.ttl_ms = None;
        assert_eq!(apply(settings), Ok((3, ttl(9_000), 0)));
    }

    #[test]
    fn g4_what_is_not_a_positive_number_is_an_error() {
        for text in [
            "12abc",
            "0",
            "-1",
            "",
            " 5",
            "5 ",
            "+5",
            "1.5",
            "0x10",
            "99999999999999999999",
        ] {
            let entries = EnvironmentSettings {
                max_entries: Some(text),
                ..EnvironmentSettings::default()
            };
            assert_eq!(apply(entries).unwrap_err().found, text);
            let millis = EnvironmentSettings {
                ttl_ms: Some(text),
                ..EnvironmentSettings::default()
            };
            assert!(apply(millis).is_err(), "{text:?}");
            let seconds = EnvironmentSettings {
                ttl_seconds: Some(text),
                ..EnvironmentSettings::default()
            };
            assert!(apply(seconds).is_err(), "{text:?}");
        }
    }

    #[test]
    fn g4_what_is_over_its_cap_is_capped_with_a_warning() {
        let settings = EnvironmentSettings {
            max_entries: Some("65"),
            ttl_ms: None,
            ttl_seconds: Some("18446744073709551615"),
        };
        let ttl = Ttl::After(Duration::from_millis(300_000));
        assert_eq!(apply(settings), Ok((64, ttl, 2)));
    }
}
