//! Turns that started under another deployment than the one that is here now (E17).

use runtime_core::{ErrorClass, EventDraft, EventKind, Usage, WireError};
use runtime_effects::Lease;
use runtime_store::{Guard, Row, RowChange};
use runtime_turn::{Account, TurnEnd};
use serde_json::json;

use crate::drive::Step;
use crate::instance::Instance;
use crate::places::Place;
use crate::turn::{ParkReason, TurnRecord, TurnStatus};
use crate::{RuntimeError, WorkerRecord};

/// What becomes of an unfinished turn that started under another deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherDeployment {
    /// It goes on: where the program asks for what is recorded, nothing differs, and where it does
    /// not, the turn parks for that conflict (E4).
    #[default]
    Continue,
    /// It parks until its own deployment opens the runtime, or the policy changes.
    Park,
    /// It fails, before anything of it runs.
    Refuse,
}

/// The code of a turn that does not go on under this deployment.
const OTHER_DEPLOYMENT: &str = "turn_other_deployment";

impl Instance {
    /// Applies the policy to a turn that would be resumed; none when it may be.
    pub(crate) async fn skip(
        &self,
        state: &WorkerRecord,
        record: &TurnRecord,
        row: &Row,
        place: Place,
    ) -> Result<Option<Step>, RuntimeError> {
        let policy = self.config.other_deployment;
        if policy == OtherDeployment::Continue {
            return Ok(None);
        }
        let started = self.start_of(record).await?.deployment;
        let here = self.agent(state).await?.version.clone();
        if started.as_deref() == Some(&here) {
            return Ok(None);
        }
        let message = match &started {
            Some(started) => format!("the turn started under {started}, and {here} is here now"),
            None => format!("the turn does not say under what it started; {here} is here now"),
        };
        let error = WireError {
            details: Some(json!({ "started": started, "here": here })),
            ..WireError::new(OTHER_DEPLOYMENT, ErrorClass::Unsupported, message)
        };
        let step = match policy {
            OtherDeployment::Refuse => self.refuse(state, record, row, place, error).await?,
            _ => self.park_skipped(record, row, error).await?,
        };
        Ok(Some(step))
    }

    async fn refuse(
        &self,
        state: &WorkerRecord,
        record: &TurnRecord,
        row: &Row,
        place: Place,
        error: WireError,
    ) -> Result<Step, RuntimeError> {
        let end = TurnEnd::Failed {
            error,
            iterations: 0,
            usage: Usage::default(),
            account: Account::default(),
        };
        match self.resume_turn(record.clone(), row, place).await? {
            Some(open) => self.end(state, open, &end).await,
            // Another commit came first.
            None => Ok(Step::Again),
        }
    }

    async fn park_skipped(
        &self,
        record: &TurnRecord,
        row: &Row,
        error: WireError,
    ) -> Result<Step, RuntimeError> {
        let reason = ParkReason::OtherDeployment { error };
        if let TurnStatus::Parked { reason: known, .. } = &record.status
            && *known == reason
        {
            return Ok(Step::Rest);
        }
        let scope = record.scope();
        let opened = self.epoch_of(record).await?;
        let event = EventDraft::new(EventKind::TurnParked)
            .in_scope(&scope)
            .with_payload(json!({ "park": reason }));
        let mut parked = record.clone();
        parked.status = TurnStatus::Parked {
            reason,
            since: self.clock.now(),
        };
        let commit = parked
            .gives_place_back(self.new_commit(None))
            .guard(Guard::Version(record.key(), row.version))
            .guard(Guard::Version(opened.key.clone(), opened.version))
            .row(RowChange::put(parked.key(), parked.to_body()))
            .event(self.new_event(&event));
        let holder = Lease::holder(&opened);
        let commit = Lease::lets_go(commit, holder.as_ref(), &scope.scope_id());
        Ok(match self.contend(commit).await? {
            Some(_) => {
                self.places.look_again();
                Step::Rest
            }
            None => Step::Again,
        })
    }
}
