//! What an instance looks after by itself: commands in the inbox (S8), turns that are due.

use std::sync::Arc;

use runtime_core::{Classified, CommitId, ErrorClass, EventDraft, EventKind, WireError};
use runtime_store::{InboxCommand, Page, RowQuery};
use serde_json::json;

use crate::instance::Instance;
use crate::session::Wake;
use crate::turn::{TURN_SPACE, TurnRecord};
use crate::{CommandAnswer, RuntimeError};

impl Instance {
    pub(crate) fn start_housekeeping(self: &Arc<Self>) {
        let instance = Arc::clone(self);
        self.spawn(async move {
            let interval = instance.config.housekeeping_interval;
            while instance
                .until_closed(instance.clock.sleep(interval))
                .await
                .is_some()
            {
                // What is left in the inbox while this instance closes is for the next one.
                if instance.accepting().is_err() {
                    return;
                }
                if let Err(error) = instance.look_after().await {
                    let error = error.to_wire();
                    if !instance.is_reported(&error) {
                        instance.report_failure(None, error);
                    }
                }
            }
        });
    }

    /// Lets go by itself of what the policy no longer keeps (V9), if there is one. A failure that
    /// lasts is reported once; nothing is removed then.
    pub(crate) fn start_retention(self: &Arc<Self>) {
        let Some(policy) = self.config.retention else {
            return;
        };
        let instance = Arc::clone(self);
        self.spawn(async move {
            let interval = instance.config.retention_interval;
            while instance
                .until_closed(instance.clock.sleep(interval))
                .await
                .is_some()
            {
                let Some(retained) = instance.until_closed(instance.hub.retain(&policy)).await
                else {
                    return;
                };
                if let Err(error) = retained {
                    let error = error.to_wire();
                    if !instance.is_reported(&error) {
                        instance.report_failure(None, error);
                    }
                }
            }
        });
    }

    async fn look_after(self: &Arc<Self>) -> Result<(), RuntimeError> {
        for worker in self.sessions.take_retries(self.clock.monotonic()) {
            self.wake(&worker, Wake::News);
        }
        self.take_commands().await?;
        self.background.try_again();
        let until = self.clock.now();
        let settled = self.promises.settle_due(until, DUE_AT_ONCE).await;
        settled.map_err(|error| error.to_wire())?;
        let query = RowQuery::Due {
            space: Arc::from(TURN_SPACE),
            until,
        };
        let page = self
            .store
            .rows(query, Page::after(None, DUE_AT_ONCE))
            .await?;
        for row in &page.rows {
            let turn: TurnRecord = crate::view::decode(row)?;
            self.wake(&turn.worker, Wake::News);
        }
        Ok(())
    }

    /// Carries out what other processes left. A command is forgotten only after its commit, so a
    /// crash in between repeats it under the same commit id, which changes nothing.
    pub(crate) async fn take_commands(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let Some(inbox) = self.store.inbox() else {
            return Ok(());
        };
        for InboxCommand { id, body } in inbox.commands().await? {
            if self.store.committed(&id).await?.is_some() {
                // An instance before this one carried it out and could not forget it any more.
                inbox.forget(&id).await?;
                continue;
            }
            let answer = match serde_json::from_slice(&body) {
                Ok(command) => self.apply(command, Some(id)).await,
                Err(error) => Err(RuntimeError::Part(WireError::new(
                    "command_undecodable",
                    ErrorClass::Invalid,
                    error,
                ))),
            };
            match answer {
                // The commit under the command's id tells its sender.
                Ok(
                    CommandAnswer::Done
                    | CommandAnswer::InputAccepted {
                        repeated: false, ..
                    },
                ) => {}
                Ok(answer) => {
                    self.tell_sender(id, EventKind::Diagnostic, json!(answer))
                        .await?
                }
                // The store does not work: the command stays for the next instance.
                Err(error) if error.class() == ErrorClass::Indeterminate => return Err(error),
                Err(error) if error.class() == ErrorClass::Unavailable => return Err(error),
                Err(error) => {
                    let wire = error.to_wire();
                    self.tell_sender(id, EventKind::CommandRefused, json!({ "error": wire }))
                        .await?;
                }
            }
            inbox.forget(&id).await?;
        }
        Ok(())
    }

    /// Tells the sender of a command what became of it, where no other event does.
    async fn tell_sender(
        &self,
        id: CommitId,
        kind: EventKind,
        payload: serde_json::Value,
    ) -> Result<(), RuntimeError> {
        let mut event = EventDraft::new(kind).with_payload(payload);
        event.caused_by = Some(id.to_string());
        // The command's own id: no other commit has it, since the command did nothing.
        let commit = self.new_commit(Some(id)).event(self.new_event(&event));
        self.commit(commit).await?;
        Ok(())
    }
}

/// How many due turns are woken in one look; the next look takes the next ones.
const DUE_AT_ONCE: usize = 256;
