//! Operations on processes as effects (E3): recorded once, answered from the record.

use runtime_core::{
    CanonicalEncoder, Classified, CommitId, EffectCommand, EffectEnvelope, EffectKind,
    EffectOutcome, EffectOutput, ExecutionScope, ProcessAnswer, ProcessCommand, ProcessId,
    ProcessRegistration, ReplayKey, SessionId, Timestamp,
};
use serde_json::Value;

use super::{CancelAnswer, ProcessError, Processes, SignalAnswer};
use crate::{Applied, EffectController, ExecutorError, Interrupt, LocalExecutor};

/// An operation on a process, with the values that its command names by digest.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ProcessOperation {
    /// Registers a process, grants it to a session, schedules it.
    Start {
        /// The process.
        registration: ProcessRegistration,
        /// The session that holds it.
        owner: Option<SessionId>,
    },
    /// Lists what a session holds.
    List {
        /// The session.
        session: SessionId,
    },
    /// Gives a session's grant to another one.
    Transfer {
        /// The process.
        process: ProcessId,
        /// The session that holds it.
        from: SessionId,
        /// The session that will.
        to: SessionId,
    },
    /// Revokes every grant of a session.
    DeleteSession {
        /// The session.
        session: SessionId,
    },
    /// Waits for the end of a process.
    Await {
        /// The process.
        process: ProcessId,
        /// When waiting ends, if ever.
        until: Option<Timestamp>,
    },
    /// Asks a process to end.
    Cancel {
        /// The process.
        process: ProcessId,
        /// Why.
        reason: String,
    },
    /// Sends a process a signal.
    Signal {
        /// The process.
        process: ProcessId,
        /// The signal.
        name: String,
        /// Which of that name, from 1.
        ordinal: u64,
        /// Its value.
        value: Value,
    },
}

impl ProcessOperation {
    /// Returns the command: what identifies the operation.
    #[must_use]
    pub fn command(&self) -> ProcessCommand {
        match self.clone() {
            Self::Start {
                registration,
                owner,
            } => ProcessCommand::Start {
                registration: registration.digest(),
                process: registration.process,
                owner,
            },
            Self::List { session } => ProcessCommand::List { session },
            Self::Transfer { process, from, to } => ProcessCommand::Transfer { process, from, to },
            Self::DeleteSession { session } => ProcessCommand::DeleteSession { session },
            Self::Await { process, until } => ProcessCommand::Await { process, until },
            Self::Cancel { process, reason } => ProcessCommand::Cancel { process, reason },
            Self::Signal {
                process,
                name,
                ordinal,
                value,
            } => ProcessCommand::Signal {
                process,
                name,
                ordinal,
                value: CanonicalEncoder::new("process-signal")
                    .json(&value)
                    .digest(),
            },
        }
    }
}

impl Processes {
    /// Runs an operation as an effect of a scope. All of them are idempotent, so one that was cut
    /// off runs again; awaiting parks like any other wait.
    ///
    /// # Errors
    /// [`Interrupt`]: the driver must unwind.
    pub async fn execute(
        &self,
        controller: &dyn EffectController,
        scope: &ExecutionScope,
        key: ReplayKey,
        operation: ProcessOperation,
    ) -> Result<EffectOutcome, Interrupt> {
        let command = EffectCommand::Process {
            command: operation.command(),
        };
        let envelope = EffectEnvelope::new(scope.clone(), key, command);
        let envelope = envelope.map_err(|error| Interrupt::Terminal(error.to_wire()))?;
        if let ProcessOperation::Await { .. } = operation {
            return controller.wait_any(envelope).await;
        }
        let executor = LocalExecutor::new(EffectKind::Process, |attempt| {
            let operation = operation.clone();
            async move {
                let answer = self.operate(operation, &attempt.idempotency_key).await;
                let answer = answer.map_err(|error| ExecutorError {
                    error: error.to_wire(),
                    // Repeating it does no harm, so nothing is ever unknown about it.
                    applied: Applied::No,
                })?;
                Ok(EffectOutput::Process(answer))
            }
        });
        controller
            .execute_effect(envelope.retry_safe(true), executor)
            .await
    }

    async fn operate(
        &self,
        operation: ProcessOperation,
        idempotency_key: &str,
    ) -> Result<ProcessAnswer, ProcessError> {
        Ok(match operation {
            ProcessOperation::Start {
                registration,
                owner,
            } => {
                self.start(&registration, owner.as_ref()).await?;
                let process = registration.process;
                ProcessAnswer::Started { process }
            }
            ProcessOperation::List { session } => ProcessAnswer::Listed {
                processes: self.held_by(&session).await?,
            },
            ProcessOperation::Transfer { process, from, to } => {
                self.transfer(&process, &from, &to).await?;
                ProcessAnswer::Transferred
            }
            ProcessOperation::DeleteSession { session } => ProcessAnswer::SessionDeleted {
                report: self.delete_session(&session).await?,
            },
            ProcessOperation::Cancel { process, reason } => {
                match self.cancel(&process, &reason, None).await? {
                    CancelAnswer::Requested => ProcessAnswer::CancelRequested { reason },
                    CancelAnswer::AlreadyRequested { reason } => {
                        ProcessAnswer::CancelRequested { reason }
                    }
                    CancelAnswer::AlreadyEnded { outcome } => {
                        ProcessAnswer::AlreadyEnded { outcome }
                    }
                }
            }
            ProcessOperation::Signal {
                process,
                name,
                ordinal,
                value,
            } => {
                // An identity of its own, so that an attempt that was cut off knows itself again.
                let command = CanonicalEncoder::new("process-signal-effect").text(idempotency_key);
                let command = Some(CommitId::derived(command));
                let answer = self
                    .signal(&process, &name, ordinal, value, command)
                    .await?;
                ProcessAnswer::Signalled {
                    accepted: answer == SignalAnswer::Accepted,
                }
            }
            ProcessOperation::Await { process, .. } => ProcessAnswer::Ended {
                outcome: self.ended(&process, None, std::future::pending()).await?,
            },
        })
    }
}
