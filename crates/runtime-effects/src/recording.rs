//! What is committed of an effect: each step as one commit, derived from the effect alone. No I/O.
//!
//! Ids are derived, never random (E5), so that a commit of unknown fate can be asked for and
//! repeated.

use runtime_core::{
    CanonicalEncoder, CommitId, Digest, EffectEnvelope, EffectOutcome, EventDraft, EventId,
    EventKind, ReplayKey, ScopeId, Timestamp, WireError,
};
use runtime_store::{Commit, Epoch, NewEvent, RowChange, RowKey};
use serde_json::{Value, json};

use crate::journal::{EffectRow, EffectState};
use crate::pending::{PendingEffect, pending_key};
use crate::promise::waited_key;
use crate::{Mismatch, Projection, Projector};

/// The space of effect rows.
pub(crate) const EFFECT_SPACE: &str = "effect";

pub(crate) fn effect_key(scope: &ScopeId, key: &ReplayKey) -> RowKey {
    RowKey::new(EFFECT_SPACE, scope.clone(), key.as_str())
}

/// An effect as it is recorded: its envelope with what is derived from it once.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) envelope: EffectEnvelope,
    pub(crate) scope: ScopeId,
    pub(crate) identity: Value,
    pub(crate) digest: Digest,
    /// The digest of the last ruling on it, carried from row to row.
    pub(crate) ruling: Option<Digest>,
    /// How often its record was set aside, carried from row to row.
    pub(crate) revision: u32,
}

impl Subject {
    pub(crate) fn new(envelope: EffectEnvelope) -> Self {
        let identity = envelope.identity();
        Self {
            scope: envelope.scope().scope_id(),
            digest: EffectEnvelope::identity_digest(&identity),
            identity,
            ruling: None,
            revision: 0,
            envelope,
        }
    }

    pub(crate) const fn key(&self) -> &ReplayKey {
        self.envelope.key()
    }

    fn encoder(&self, domain: &str, phase: &str, number: u32) -> CanonicalEncoder {
        let encoder = CanonicalEncoder::new(domain)
            .text(self.scope.as_str())
            .text(self.key().as_str())
            .text(phase)
            .unsigned(u64::from(number));
        match self.revision {
            // Absent is not encoded (C2).
            0 => encoder,
            revision => encoder.unsigned(u64::from(revision)),
        }
    }

    fn commit_id(&self, phase: &str, number: u32) -> CommitId {
        CommitId::derived(self.encoder("effect-commit", phase, number))
    }

    /// The row, carried by the event at `event`.
    fn put(
        &self,
        attempts: u32,
        state: EffectState,
        event: usize,
        due: Option<Timestamp>,
    ) -> RowChange {
        let row = EffectRow::new(self.digest, attempts, state)
            .with_ruling(self.ruling)
            .with_revision(self.revision);
        RowChange::Put {
            key: effect_key(&self.scope, self.key()),
            body: row.to_bytes().into(),
            event: Some(event),
            due,
        }
    }

    fn event(&self, phase: &str, number: u32, index: usize, draft: &EventDraft) -> NewEvent {
        let id = self
            .encoder("effect-event", phase, number)
            .unsigned(index as u64);
        NewEvent::from_draft(EventId::derived(id), draft)
    }

    /// Appends the events of a projection; the carrier comes first and gets the payload.
    fn told(
        &self,
        mut commit: Commit,
        phase: &str,
        number: u32,
        projection: Projection,
        payload: Value,
    ) -> Commit {
        let carrier = projection.carrier.with_payload(payload);
        commit = commit.event(self.event(phase, number, 0, &carrier));
        for (index, draft) in projection.further.iter().enumerate() {
            commit = commit.event(self.event(phase, number, index + 1, draft));
        }
        commit
    }

    fn draft(&self, kind: EventKind) -> Projection {
        Projection {
            carrier: EventDraft::new(kind).in_scope(self.envelope.scope()),
            further: Vec::new(),
        }
    }
}

/// Writes the commits of one opening of a scope.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    pub(crate) projector: &'a dyn Projector,
    pub(crate) scope: &'a ScopeId,
    pub(crate) epoch: Epoch,
    pub(crate) now: Timestamp,
}

impl Recorder<'_> {
    fn start(&self, id: CommitId) -> Commit {
        Commit::new(id, self.now).owned_by(self.scope.clone(), self.epoch)
    }

    /// The intents of attempts that are about to start, in one commit.
    pub(crate) fn intents(&self, subjects: &[(&Subject, u32)]) -> Commit {
        let id = match subjects {
            [(subject, attempt)] => subject.commit_id("intent", *attempt),
            _ => {
                let mut all = CanonicalEncoder::new("effect-intents").text(self.scope.as_str());
                for (subject, attempt) in subjects {
                    all = all
                        .text(subject.key().as_str())
                        .unsigned(u64::from(*attempt));
                    if subject.revision > 0 {
                        all = all.text("revision").unsigned(u64::from(subject.revision));
                    }
                }
                CommitId::derived(all)
            }
        };
        let mut commit = self.start(id);
        for (subject, attempt) in subjects {
            let state = EffectState::Started { epoch: self.epoch };
            let row = subject.put(*attempt, state, commit.events.len(), None);
            let projection = self.projector.started(&subject.envelope);
            let payload = json!({ "identity": subject.identity, "attempt": attempt });
            commit = subject
                .told(commit, "intent", *attempt, projection, payload)
                .row(row);
        }
        commit
    }

    /// An outcome: the end of an effect.
    pub(crate) fn outcome(
        &self,
        subject: &Subject,
        attempts: u32,
        outcome: &EffectOutcome,
    ) -> Commit {
        let projection = self.projector.outcome(&subject.envelope, outcome);
        let payload = json!({ "identity": subject.identity, "outcome": outcome });
        let mut commit = self.start(subject.commit_id("outcome", 0));
        if let EffectOutcome::Completed(output) = outcome {
            commit.attachments = output.attachments();
        }
        let row = subject.put(attempts, EffectState::Done, 0, None);
        subject
            .told(commit, "outcome", 0, projection, payload)
            .row(row)
    }

    /// An attempt that failed and may be repeated at `due`.
    pub(crate) fn attempt_failed(
        &self,
        subject: &Subject,
        attempt: u32,
        error: &WireError,
        due: Timestamp,
    ) -> Commit {
        let phase = "attempt_failed";
        let commit = self.start(subject.commit_id(phase, attempt));
        let row = subject.put(attempt, EffectState::Retrying { due }, 0, Some(due));
        let payload = json!({
            "identity": subject.identity, "attempt": attempt, "error": error, "next_due": due,
        });
        let projection = subject.draft(EventKind::EffectAttemptFailed);
        subject
            .told(commit, phase, attempt, projection, payload)
            .row(row)
    }

    /// An attempt of which nobody knows whether it happened (E7).
    pub(crate) fn in_doubt(&self, subject: &Subject, attempt: u32, reason: WireError) -> Commit {
        let phase = "in_doubt";
        let commit = self.start(subject.commit_id(phase, attempt));
        let row = subject.put(attempt, EffectState::InDoubt, 0, None);
        let payload = json!({
            "identity": subject.identity, "attempt": attempt, "reason": reason,
        });
        let pending = PendingEffect::in_doubt(&subject.envelope, self.now, reason);
        let index = pending_key(&subject.scope, subject.key());
        let projection = subject.draft(EventKind::EffectInDoubt);
        subject
            .told(commit, phase, attempt, projection, payload)
            .row(row)
            .row(RowChange::put(index, pending.to_bytes()))
    }

    /// That an effect is not the one recorded; `note` is where whoever rules finds it.
    pub(crate) fn conflict(
        &self,
        subject: &Subject,
        mismatch: &Mismatch,
        note: RowChange,
    ) -> Commit {
        let id = subject
            .encoder("effect-commit", "conflict", 0)
            .unsigned(self.epoch.0)
            .bytes(mismatch.recorded.as_bytes())
            .bytes(mismatch.requested.as_bytes());
        self.start(CommitId::derived(id)).row(note)
    }

    /// A wait that begins; `due` has one entry for each source, `promises` the public names.
    pub(crate) fn wait_begun(
        &self,
        subject: &Subject,
        due: &[Option<Timestamp>],
        promises: &[String],
    ) -> Commit {
        let commit = self.start(subject.commit_id("wait", 0));
        let earliest = due.iter().flatten().min().copied();
        let pending = PendingEffect::waiting(&subject.envelope, self.now, earliest);
        let payload = json!({
            "identity": subject.identity, "since": self.now, "due": earliest,
            "call": pending.call, "tool": pending.tool, "promises": promises,
        });
        let state = EffectState::Waiting {
            since: self.now,
            due: due.to_vec(),
        };
        let row = subject.put(0, state, 0, earliest);
        let index = pending_key(&subject.scope, subject.key());
        let projection = self.projector.started(&subject.envelope);
        let mut commit = subject
            .told(commit, "wait", 0, projection, payload)
            .row(row)
            .row(RowChange::put(index, pending.to_bytes()));
        for name in promises {
            commit = commit.row(RowChange::put(waited_key(self.scope, name), Vec::new()));
        }
        commit
    }
}

/// A ruling on an effect in doubt: the row it leads to, the event that tells of it.
pub(crate) fn ruling_event(
    id: CommitId,
    scope: &runtime_core::ExecutionScope,
    payload: Value,
    caused_by: Option<CommitId>,
) -> NewEvent {
    let mut draft = EventDraft::new(EventKind::InDoubtRuled)
        .in_scope(scope)
        .with_payload(payload);
    draft.caused_by = caused_by.map(|command| command.to_string());
    let event = CanonicalEncoder::new("effect-ruling-event").bytes(id.as_uuid().as_bytes());
    NewEvent::from_draft(EventId::derived(event), &draft)
}

/// The identity of a ruling that came without one.
pub(crate) fn ruling_id(
    scope: &ScopeId,
    key: &ReplayKey,
    attempt: u32,
    ruling: &Digest,
) -> CommitId {
    CommitId::derived(
        CanonicalEncoder::new("effect-ruling")
            .text(scope.as_str())
            .text(key.as_str())
            .unsigned(u64::from(attempt))
            .bytes(ruling.as_bytes()),
    )
}
