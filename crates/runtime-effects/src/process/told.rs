//! What a process tells, and what it is told: its events and signals.

use runtime_core::{
    CanonicalEncoder, CommitId, Digest, EventKind, ProcessId, Resolution, RuntimeEvent, StreamKey,
    WaitIdentity, WireError,
};
use runtime_store::{CommitError, EventPage, Found, Guard, Page, Position, RowChange, StoredEvent};
use serde_json::{Value, json};

use super::plan;
use super::record::{
    corrupt, event_key, process_scope, recorded_registration, registration_key, told,
};
use super::schema::{check_name, check_payload, check_size};
use super::{ProcessClaim, ProcessError, Processes};
use crate::ResolveAnswer;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAnswer {
    /// It is stored.
    Appended,
    /// The same event was stored under this key before.
    AlreadyAppended,
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalAnswer {
    /// It is stored; the process gets it when it waits for it.
    Accepted,
    /// There was one of that name and ordinal.
    AlreadySignalled,
    /// The process has ended, or takes no more signals.
    Ended,
}

/// A page of the events of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessEventPage {
    /// In order; their `seq` is dense.
    pub events: Vec<RuntimeEvent>,
    /// More are stored.
    pub has_more: bool,
    /// The first is not the one after the sequence that was asked for: retention removed what was
    /// between (V9). While nothing is left, only a reader from the start can be told.
    pub gap: bool,
}

impl Processes {
    /// Appends an event of a declared type. The same event under the same key is stored once.
    ///
    /// With `claim`, in the name of whoever drives the process: a later driver fences it.
    ///
    /// # Errors
    /// [`ProcessError::EventUndeclared`], [`ProcessError::EventPayload`],
    /// [`ProcessError::EventConflict`], [`ProcessError::Ended`], [`ProcessError::TooLarge`].
    pub async fn append(
        &self,
        process: &ProcessId,
        event_type: &str,
        payload: &Value,
        key: &str,
        claim: Option<&ProcessClaim>,
    ) -> Result<AppendAnswer, ProcessError> {
        let encoded = serde_json::to_vec(payload).expect("JSON is plain data");
        check_size("event", encoded.len(), self.limits.event_bytes_max)?;
        check_size("replay key", key.len(), KEY_BYTES_MAX)?;
        let digest = CanonicalEncoder::new("process-event")
            .text(event_type)
            .json(payload)
            .digest();
        for _ in 0..self.limits.contention_tries_max {
            if let Some(answer) = self.appended(process, key, &digest).await? {
                return Ok(answer);
            }
            let found = self.versioned(process).await?;
            if found.record.status.is_ended() {
                return Err(self.ended_error(process));
            }
            let wakes = self.check_event(process, event_type, payload).await?;
            let grants = self.versioned_grants(process).await?;
            let content = json!({ "type": event_type, "key": key, "payload": payload });
            let event = told(process, EventKind::ProcessEvent, content);
            let mut commit = self
                .fresh(None)
                .guard(Guard::Absent(event_key(process, key)));
            if let Some(claim) = claim {
                commit = commit.owned_by(process_scope(process).scope_id(), claim.epoch);
            }
            commit = plan::with_event(commit, &event).row(RowChange::Put {
                key: event_key(process, key),
                body: digest.as_bytes().to_vec().into(),
                event: Some(0),
                due: None,
            });
            if wakes {
                commit = commit.guard(grants.guard(process));
                if let Some(owner) = grants.grants.owner() {
                    let title = &found.record.title;
                    let text = format!("process {process} ({title}) told {event_type}: {payload}");
                    commit = plan::with_wake(commit, owner, process, &format!("event/{key}"), text);
                }
            }
            match self.shared.commit(commit).await {
                Ok(_) => {
                    if wakes {
                        let listeners = &self.shared.registry.listeners;
                        listeners.tell(|listener| listener.session_woken());
                    }
                    return Ok(AppendAnswer::Appended);
                }
                Err(CommitError::Rejected {
                    found: Found::Closed,
                    ..
                }) => return Err(self.ended_error(process)),
                Err(CommitError::Rejected { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(self.contended(process))
    }

    async fn appended(
        &self,
        process: &ProcessId,
        key: &str,
        digest: &Digest,
    ) -> Result<Option<AppendAnswer>, ProcessError> {
        match self.shared.store.row(&event_key(process, key)).await? {
            None => Ok(None),
            Some(row) if *row.body == digest.as_bytes()[..] => {
                Ok(Some(AppendAnswer::AlreadyAppended))
            }
            Some(_) => Err(ProcessError::EventConflict {
                process: process.clone(),
                key: key.to_owned(),
            }),
        }
    }

    /// Checks an event against its declaration; says whether it wakes the owner.
    async fn check_event(
        &self,
        process: &ProcessId,
        event_type: &str,
        payload: &Value,
    ) -> Result<bool, ProcessError> {
        let key = registration_key(process);
        let row = self.shared.store.row(&key).await?;
        let row = row.ok_or_else(|| corrupt(&key, "it has no registration"))?;
        let registration = recorded_registration(&row)?;
        let declared = registration.event_type(event_type);
        let declared = declared.ok_or_else(|| ProcessError::EventUndeclared {
            process: process.clone(),
            name: event_type.to_owned(),
        })?;
        check_payload(declared, payload)?;
        Ok(declared.wakes)
    }

    fn ended_error(&self, process: &ProcessId) -> ProcessError {
        ProcessError::Ended {
            process: process.clone(),
        }
    }

    /// Sends a process the `ordinal`-th signal of a name, from 1. The first of each stands, also
    /// before the process waits for it.
    ///
    /// With `command`, the identity of a request, repeating the request does nothing.
    ///
    /// # Errors
    /// [`ProcessError::Name`], [`ProcessError::OrdinalZero`], [`ProcessError::NotFound`],
    /// [`ProcessError::Resolve`] when too many signals are early, or one is too large.
    pub async fn signal(
        &self,
        process: &ProcessId,
        name: &str,
        ordinal: u64,
        value: Value,
        command: Option<CommitId>,
    ) -> Result<SignalAnswer, ProcessError> {
        check_name("a signal", name)?;
        if ordinal == 0 {
            return Err(ProcessError::OrdinalZero);
        }
        if let Some(command) = command
            && self.shared.store.committed(&command).await?.is_some()
        {
            return Ok(SignalAnswer::Accepted);
        }
        if self.versioned(process).await?.record.status.is_ended() {
            return Ok(SignalAnswer::Ended);
        }
        let identity = signal_identity(process, name, ordinal);
        let scope = process_scope(process);
        let resolution = Resolution::Ok { value };
        let promises = &self.promises;
        let resolved = promises.resolve_identity(&scope, &identity, resolution, command);
        Ok(match resolved.await? {
            ResolveAnswer::Accepted => SignalAnswer::Accepted,
            ResolveAnswer::AlreadyResolved { .. } => SignalAnswer::AlreadySignalled,
            ResolveAnswer::UnknownOrRevoked => SignalAnswer::Ended,
        })
    }

    /// Sends a process the next signal of a name, after the ones that were sent so; returns its
    /// ordinal, or none when the process has ended.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn signal_next(
        &self,
        process: &ProcessId,
        name: &str,
        value: &Value,
        command: Option<CommitId>,
    ) -> Result<Option<u64>, ProcessError> {
        check_name("a signal", name)?;
        for _ in 0..self.limits.contention_tries_max {
            let ordinal = self.free_ordinal(process, name).await?;
            let signalled = self
                .signal(process, name, ordinal, value.clone(), command)
                .await?;
            match signalled {
                SignalAnswer::Accepted => return Ok(Some(ordinal)),
                SignalAnswer::Ended => return Ok(None),
                SignalAnswer::AlreadySignalled => {}
            }
        }
        Err(self.contended(process))
    }

    /// The first ordinal that is free, if they were taken in order: by doubling, then halving.
    async fn free_ordinal(&self, process: &ProcessId, name: &str) -> Result<u64, ProcessError> {
        let mut free = 1;
        while self.is_signalled(process, name, free).await? {
            free *= 2;
        }
        let mut taken = free / 2;
        while taken + 1 < free {
            let middle = taken + (free - taken) / 2;
            match self.is_signalled(process, name, middle).await? {
                true => taken = middle,
                false => free = middle,
            }
        }
        Ok(free)
    }

    async fn is_signalled(
        &self,
        process: &ProcessId,
        name: &str,
        ordinal: u64,
    ) -> Result<bool, WireError> {
        let identity = signal_identity(process, name, ordinal);
        let scope = process_scope(process);
        self.promises.is_settled(&scope, &identity).await
    }

    /// Reads the events of a process after a sequence, at most `limit`. Events outlive the
    /// process, so this answers for a retired one too; those that retention removed are told as a
    /// [gap](ProcessEventPage::gap).
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn events(
        &self,
        process: &ProcessId,
        after: u64,
        limit: usize,
    ) -> Result<ProcessEventPage, ProcessError> {
        let position = self.position_after(process, after).await?;
        let page = self.page(process, position, limit).await?;
        let events = page.events.iter().map(StoredEvent::decode);
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let first = page.events.first().and_then(|event| event.places.first());
        // Only the log's beginning goes, so a gap is before what is left.
        let gap = page.pruned > Position(0)
            && match first {
                Some(place) => place.seq.0 > after + 1,
                // Nothing is left: a process has had a first event, and whoever has seen some
                // learns of the others by the next one that comes.
                None => after == 0 && self.find(process).await?.is_some(),
            };
        Ok(ProcessEventPage {
            events,
            has_more: page.has_more,
            gap,
        })
    }

    /// Waits for the first event of a process after a sequence: a later one than the next, where
    /// retention removed that.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] when there is none and none can come, [`ProcessError::NotFound`].
    ///
    /// # Cancel safety
    /// Dropping it forgets the wait.
    pub async fn next_event(
        &self,
        process: &ProcessId,
        after: u64,
    ) -> Result<RuntimeEvent, ProcessError> {
        loop {
            let head = self.head().await?;
            let page = self.events(process, after, 1).await?;
            if let Some(event) = page.events.into_iter().next() {
                return Ok(event);
            }
            if self.versioned(process).await?.record.status.is_ended() {
                // It may have ended after the look.
                let page = self.events(process, after, 1).await?;
                let last = page.events.into_iter().next();
                return last.ok_or_else(|| self.ended_error(process));
            }
            self.shared.store.changed(head).await;
        }
    }

    pub(crate) async fn head(&self) -> Result<Position, ProcessError> {
        let end = self
            .shared
            .store
            .events(None, Page::after(Position(u64::MAX), 1));
        Ok(end.await?.head)
    }

    async fn page(
        &self,
        process: &ProcessId,
        after: Position,
        limit: usize,
    ) -> Result<EventPage, ProcessError> {
        let stream = StreamKey::new(process_scope(process).scope_id().as_str());
        let stream = stream.expect("a scope id is within the bounds of a stream key");
        let page = Page::after(after, limit);
        Ok(self.shared.store.events(Some(&stream), page).await?)
    }

    /// A position after which the events of a process are those after a sequence. The `n`-th
    /// event stands at position `n` or later, so it is found by halving what is left of the log.
    async fn position_after(
        &self,
        process: &ProcessId,
        after: u64,
    ) -> Result<Position, ProcessError> {
        let (mut low, mut high) = (0, self.head().await?.0);
        if after == 0 {
            return Ok(Position(0));
        }
        // The first event after `low` has at most this sequence; that after `high` a greater one.
        while low < high {
            let middle = low + (high - low) / 2;
            let page = self.page(process, Position(middle), 1).await?;
            let first = page.events.first();
            let seq = first.and_then(|event| event.places.first().map(|place| place.seq.0));
            match (seq, first) {
                (Some(seq), Some(event)) if seq <= after => low = event.position.0,
                _ => high = middle,
            }
        }
        Ok(Position(low))
    }
}

/// The longest replay key of an event, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// The promise that a signal settles.
pub(crate) fn signal_identity(process: &ProcessId, name: &str, ordinal: u64) -> WaitIdentity {
    WaitIdentity::ProcessSignal {
        process: process.clone(),
        name: name.to_owned(),
        ordinal,
    }
}
