//! Landing: what a fetch brought is put away, and those who waited are told (M1, M5, M6).

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified as _, WireError};

use super::Inner;
use crate::error::bounded;
use crate::flight::{Standing, Ticket};
use crate::policy::{Moment, Record};
use crate::shelf::{Entry, Gone, Held};
use crate::{
    Answer, CacheKey, CacheValue, CatalogueChanged, DiscoveryError, FetchError, Hints, State,
    UncachedReason,
};

/// What a fetch brought, measured while no lock is held.
pub(super) struct Weighed<V> {
    pub(super) held: Held<V>,
    pub(super) tools: usize,
    hints: Hints,
}

/// Why a fetch brought nothing.
pub(super) enum Failure {
    Refused(WireError),
    Failed(WireError),
    /// The cache is closing; this says nothing about the server.
    Closed,
}

pub(super) type Outcome<V> = Result<Weighed<V>, Failure>;

/// What is to be done after a landing, outside the lock.
struct Landed<V> {
    gone: Option<Gone<V>>,
    /// The same content came again; the copy is not needed.
    spare: Option<Held<V>>,
    changed: Option<(Held<V>, Held<V>)>,
}

impl<V> Default for Landed<V> {
    fn default() -> Self {
        Self {
            gone: None,
            spare: None,
            changed: None,
        }
    }
}

impl<V: CacheValue> Inner<V> {
    /// Puts away what a fetch brought; says what changed by it.
    pub(super) fn land(
        &self,
        ticket: Ticket<CacheKey, Answer<V>>,
        started: Moment,
        outcome: Outcome<V>,
    ) -> Option<CatalogueChanged> {
        let key = ticket.key.clone();
        let number = ticket.number;
        let fraction = self.fraction();
        if outcome.is_err() {
            self.counters.failures.add(1);
        }
        let landed = self.flights.land(ticket, |standing| {
            let now = self.now();
            match (standing, outcome) {
                (_, Err(Failure::Closed)) => {
                    (self.unstored(&DiscoveryError::Closed), Landed::default())
                }
                (Standing::Superseded, outcome) => {
                    self.counters.discarded.add(1);
                    (superseded(outcome), Landed::default())
                }
                (standing, Ok(weighed))
                    if self.config.is_kept(weighed.held.bytes, weighed.tools) =>
                {
                    let outdated = standing == Standing::Outdated;
                    self.keep(&key, number, weighed, |record, ttl| {
                        record.succeeded(started, now, ttl(fraction), outdated)
                    })
                }
                (_, Ok(weighed)) => self.keep_not(&key, number, weighed, |record| {
                    record.failed(&self.config, started, now, fraction, true)
                }),
                // The credential was replaced, or the list changed, after this fetch had asked: do
                // not block on it, but serve nothing old either.
                (Standing::Outdated, Err(Failure::Refused(error))) => {
                    self.keep_failure(&key, number, Failure::Failed(error), now, |record| {
                        let record = Record {
                            life: None,
                            ..record
                        };
                        record.failed(&self.config, started, now, fraction, false)
                    })
                }
                (_, Err(failure)) => self.keep_failure(&key, number, failure, now, |record| {
                    record.failed(&self.config, started, now, fraction, false)
                }),
            }
        });
        // A host's value may be dropped only here, outside the lock.
        if let Some(gone) = landed.gone {
            drop(gone.replaced);
            for (key, _) in gone.evicted {
                self.mark_unkept(key, Vec::new());
            }
        }
        drop(landed.spare);
        let (before, after) = landed.changed?;
        Some(self.tell(key, &before, &after, number))
    }

    /// What was kept of the key, to be carried over into the next entry.
    fn kept(&self, key: &CacheKey) -> (Record, Option<Held<V>>) {
        let entry = self.shelf.entries.get(key);
        entry.map_or((Record::NEW, None), |entry| {
            (entry.record, entry.held.clone())
        })
    }

    fn keep(
        &self,
        key: &CacheKey,
        number: u64,
        weighed: Weighed<V>,
        next: impl FnOnce(Record, &dyn Fn(f64) -> Duration) -> Record,
    ) -> (Answer<V>, Landed<V>) {
        let (record, before) = self.kept(key);
        let record = next(record, &|fraction| {
            weighed.hints.ttl(&self.config, fraction)
        });
        // Unchanged content keeps the same `Arc`: what hangs on it, prompt caches included, stays.
        let mut landed = Landed::default();
        let held = match before {
            Some(before) if before.digest == weighed.held.digest => {
                self.counters.unchanged.add(1);
                landed.spare = Some(weighed.held);
                before
            }
            Some(before) => {
                self.counters.changed.add(1);
                landed.changed = Some((before, weighed.held.clone()));
                weighed.held
            }
            None => weighed.held,
        };
        let answer = Answer {
            state: State::Cold,
            value: Some(Arc::clone(&held.value)),
            age: Duration::ZERO,
            error: None,
            next_retry: None,
        };
        landed.gone = Some(self.put(key, Entry::new(record, Some(held), None, number)));
        (answer, landed)
    }

    fn put(&self, key: &CacheKey, entry: Entry<V>) -> Gone<V> {
        let gone = self.shelf.put(key, entry);
        self.counters.evicted.add(gone.evicted.len() as u64);
        gone
    }

    fn keep_not(
        &self,
        key: &CacheKey,
        number: u64,
        weighed: Weighed<V>,
        next: impl FnOnce(Record) -> Record,
    ) -> (Answer<V>, Landed<V>) {
        let (record, before) = self.kept(key);
        let gone = self.put(key, Entry::new(next(record), before, None, number));
        let (kept, _) = self.look(key, self.now(), false);
        let answer = Answer {
            state: State::Uncached(UncachedReason::TooLarge),
            value: Some(weighed.held.value),
            age: Duration::ZERO,
            error: None,
            next_retry: kept.and_then(|answer| answer.next_retry),
        };
        (
            answer,
            Landed {
                gone: Some(gone),
                ..Landed::default()
            },
        )
    }

    fn keep_failure(
        &self,
        key: &CacheKey,
        number: u64,
        failure: Failure,
        now: Moment,
        next: impl FnOnce(Record) -> Record,
    ) -> (Answer<V>, Landed<V>) {
        let (record, before) = self.kept(key);
        let (record, error) = match failure {
            Failure::Refused(error) => (record.refused(now), error),
            Failure::Failed(error) => (next(record), error),
            Failure::Closed => (record, DiscoveryError::Closed.to_wire()),
        };
        let error = Arc::new(bounded(error));
        let entry = Entry::new(record, before, Some(Arc::clone(&error)), number);
        let gone = self.put(key, entry);
        let (answer, _) = self.look(key, now, false);
        let answer = answer.unwrap_or_else(|| Answer {
            error: Some(error),
            ..self.unstored(&DiscoveryError::Closed)
        });
        (
            answer,
            Landed {
                gone: Some(gone),
                ..Landed::default()
            },
        )
    }

    fn tell(
        &self,
        key: CacheKey,
        before: &Held<V>,
        after: &Held<V>,
        number: u64,
    ) -> CatalogueChanged {
        tracing::info!(server = key.server(), digest = %after.digest, "the tool list changed");
        let event = CatalogueChanged {
            key,
            fetch: number,
            previous: before.digest,
            current: after.digest,
            changes: after.value.changes_since(&before.value),
        };
        if let Some(observer) = &self.observer {
            observer.catalogue_changed(event.clone());
        }
        event
    }
}

/// The value was not stored; those who waited for it still get it.
fn superseded<V>(outcome: Outcome<V>) -> Answer<V> {
    let (value, error) = match outcome {
        Ok(weighed) => (Some(weighed.held.value), None),
        Err(Failure::Refused(error) | Failure::Failed(error)) => (None, Some(bounded(error))),
        Err(Failure::Closed) => (None, Some(DiscoveryError::Closed.to_wire())),
    };
    Answer {
        state: match value {
            Some(_) => State::Uncached(UncachedReason::Superseded),
            None => State::Negative,
        },
        value,
        age: Duration::ZERO,
        error: error.map(Arc::new),
        next_retry: None,
    }
}

pub(super) fn weigh<V: CacheValue>(fetched: crate::Fetched<V>) -> Weighed<V> {
    let value = Arc::new(fetched.value);
    Weighed {
        tools: value.tools(),
        hints: fetched.hints,
        held: Held {
            digest: value.digest(),
            bytes: value.bytes(),
            value,
        },
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Refused(error) => Self::Refused(error),
            FetchError::Failed(error) => Self::Failed(error),
            FetchError::TooLarge { reason } => DiscoveryError::TooLarge(reason).into(),
        }
    }
}

impl From<DiscoveryError> for Failure {
    fn from(error: DiscoveryError) -> Self {
        Self::Failed(error.to_wire())
    }
}
