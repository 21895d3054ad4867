//! Carrying out commands: inputs, answers to what waits, cancelling.

use std::sync::Arc;

use runtime_core::{
    Classified, CommitId, ContentPart, EffectKind, EffectOutcome, EffectOutput, ErrorClass,
    ExecutionScope, Resolution, ToolCallOutput, ToolResult, WireError, WorkerId, check_schema,
};
use runtime_effects::{
    PendingEffect, PendingKind, PendingPromise, ResolveAnswer, Ruling, RulingAnswer, RulingError,
    StoreEffectHost,
};
use runtime_turn::ApprovalDecision;
use serde::Deserialize;
use serde_json::Value;

use crate::details::TurnCalls;
use crate::instance::Instance;
use crate::session::Wake;
use crate::view::pending_effects;
use crate::{
    Command, CommandAnswer, ConflictRuling, InDoubtRuling, RuntimeError, WhenBusy, WorkerStatus,
};

impl Instance {
    /// Carries out a command. `id` names it when it came from another process: the commit that
    /// carries it out has that id, so it is carried out once.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        command: Command,
        id: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        self.accepting()?;
        match command {
            Command::Input {
                worker,
                submission,
                text,
            } => {
                let receipt = self
                    .accept(&worker, submission, &text, WhenBusy::Queue, id)
                    .await?;
                self.wake(&worker, Wake::News);
                Ok(CommandAnswer::InputAccepted {
                    turn: receipt.turn,
                    repeated: receipt.repeated,
                })
            }
            Command::SystemInput {
                worker,
                submission,
                text,
            } => {
                let receipt = self.accept_system(&worker, submission, &text, id).await?;
                Ok(done_unless(receipt.repeated))
            }
            Command::StopWorker { worker, reason } => {
                self.command_status(&worker, WorkerStatus::Stopped, &reason, id)
                    .await
            }
            Command::ResumeWorker { worker } => {
                self.command_status(&worker, WorkerStatus::Running, &None, id)
                    .await
            }
            Command::CancelWorker { worker, reason } => {
                self.command_status(&worker, WorkerStatus::Cancelled, &reason, id)
                    .await
            }
            Command::DeleteWorker { worker, reason } => {
                self.command_status(&worker, WorkerStatus::Deleted, &reason, id)
                    .await
            }
            Command::PurgeWorker { worker } => Ok(done_unless(!self.purge(&worker, id).await?)),
            Command::StopRuntime { reason } => {
                let receipt = self.stop_runtime(reason, id).await?;
                Ok(done_unless(receipt.repeated))
            }
            Command::ReopenRuntime => {
                let receipt = self.reopen_runtime(id).await?;
                Ok(done_unless(receipt.repeated))
            }
            Command::CancelProcess { process, reason } => {
                self.check_changing().await?;
                self.cancel_process(&process, reason, id).await
            }
            Command::SignalProcess {
                process,
                name,
                ordinal,
                value,
            } => {
                self.check_changing().await?;
                self.signal_process(&process, &name, ordinal, value, id)
                    .await
            }
            Command::Host { name, body } => {
                self.check_changing().await?;
                self.carry_out(id, &name, body).await
            }
            Command::Decide { target, decision } => {
                self.check_changing().await?;
                self.decide(&target, &decision, id).await
            }
            Command::Resolve { token, resolution } => {
                self.check_changing().await?;
                self.resolve_token(&token, resolution, id).await
            }
            Command::RuleInDoubt { call, ruling } => {
                self.check_changing().await?;
                self.rule(&call, ruling, id).await
            }
            Command::RuleConflict { effect, ruling } => {
                self.check_changing().await?;
                self.rule_conflict(&effect, ruling, id).await
            }
        }
    }

    async fn command_status(
        self: &Arc<Self>,
        worker: &WorkerId,
        to: WorkerStatus,
        reason: &Option<String>,
        id: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        let receipt = self.change_status(worker, to, reason, id, false).await?;
        if receipt.status == to {
            return Ok(done_unless(receipt.repeated));
        }
        // Another change has won for good.
        Err(RuntimeError::WorkerStatus {
            worker: worker.clone(),
            status: receipt.status,
        })
    }

    /// Answers an approval that is named by its call or by its token.
    async fn decide(
        self: &Arc<Self>,
        target: &str,
        decision: &ApprovalDecision,
        id: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        let resolution = decision.to_resolution();
        match approval_named(&self.host, target).await? {
            None => {
                let verified = self.promises.verify(target).await;
                let verified = verified.map_err(|error| error.to_wire())?;
                let promise = PendingPromise {
                    kind: PendingKind::Approval,
                    identity: verified.identity,
                    call: None,
                    tool: None,
                    asks: None,
                };
                self.check_decision(&verified.scope, promise, decision)
                    .await?;
                self.resolve_token(target, resolution, id).await
            }
            Some((effect, promise)) => {
                let scope = &effect.scope;
                self.check_decision(scope, promise.clone(), decision)
                    .await?;
                let answer = self
                    .promises
                    .resolve_identity(scope, &promise.identity, resolution.clone(), id)
                    .await;
                let answer = answer.map_err(|error| error.to_wire())?;
                self.resolved(scope, answer, &resolution)
            }
        }
    }

    /// Refuses a decision that nobody would hear any more, and an edit that does not fit the tool.
    async fn check_decision(
        &self,
        scope: &ExecutionScope,
        mut promise: PendingPromise,
        decision: &ApprovalDecision,
    ) -> Result<(), RuntimeError> {
        // Whoever answers again is told so; whoever answers for a turn that is over, too.
        if self.promises.is_settled(scope, &promise.identity).await? {
            return Ok(());
        }
        let Some(session) = scope.session() else {
            return Ok(());
        };
        let history = self.history(&WorkerId::from(session)).await?;
        let conversation = &history.conversation;
        if conversation.open_turn().map(|start| &start.turn) == scope.turn()
            && !conversation.awaits(&promise.identity)
        {
            return Err(RuntimeError::ApprovalNotPending);
        }
        let ApprovalDecision::Edit { arguments } = decision else {
            return Ok(());
        };
        let calls = TurnCalls::read(&*self.store, scope).await?;
        if promise.call.is_none() {
            promise.call = conversation.call_of(&promise.identity);
        }
        let call = calls.promised(&promise);
        let Some(definition) = call.and_then(|call| calls.definition(&call.name)) else {
            return Ok(());
        };
        check_schema(&definition.input_schema, arguments)
            .map_err(|violation| RuntimeError::ApprovalArguments { violation })
    }

    async fn resolve_token(
        self: &Arc<Self>,
        token: &str,
        resolution: Resolution,
        id: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        let verified = self
            .promises
            .verify(token)
            .await
            .map_err(|error| error.to_wire())?;
        let answer = self.promises.resolve(token, resolution.clone(), id).await;
        let answer = answer.map_err(|error| error.to_wire())?;
        self.resolved(&verified.scope, answer, &resolution)
    }

    fn resolved(
        self: &Arc<Self>,
        scope: &ExecutionScope,
        answer: ResolveAnswer,
        given: &Resolution,
    ) -> Result<CommandAnswer, RuntimeError> {
        match answer {
            ResolveAnswer::Accepted => {
                self.wake_scope(scope);
                Ok(CommandAnswer::Done)
            }
            // Repeating an answer is harmless; whoever gave another must not believe in it.
            ResolveAnswer::AlreadyResolved {
                winner: Some(winner),
            } if winner != *given => Err(RuntimeError::AnsweredOtherwise {
                how: how_settled(&winner),
            }),
            ResolveAnswer::AlreadyResolved { .. } => Ok(CommandAnswer::AlreadyDone),
            ResolveAnswer::UnknownOrRevoked => {
                let message = "nothing waits for this token any more";
                Err(WireError::new("token_refused", ErrorClass::Invalid, message).into())
            }
        }
    }

    async fn rule(
        self: &Arc<Self>,
        call: &str,
        ruling: InDoubtRuling,
        id: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        let effect = ruled_named(&self.host, PendingKind::InDoubt, call).await?;
        let ruling = match ruling {
            InDoubtRuling::RunAgain => Ruling::RunAgain,
            InDoubtRuling::Done { value } => Ruling::RecordOutcome(outcome_of(&effect, value)?),
            InDoubtRuling::Fail => Ruling::Fail(WireError::new(
                "ruled_failed",
                ErrorClass::Terminal,
                "it was unknown whether this happened; a person ruled that it failed",
            )),
        };
        let scope = effect.scope.scope_id();
        let ruled = self
            .host
            .rule_in_doubt(&scope, &effect.key, ruling, id)
            .await;
        self.ruled(&effect.scope, ruled)
    }

    async fn rule_conflict(
        self: &Arc<Self>,
        effect: &str,
        ruling: ConflictRuling,
        id: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        let effect = ruled_named(&self.host, PendingKind::Conflict, effect).await?;
        let ruling = match ruling {
            ConflictRuling::AcceptRecorded => runtime_effects::ConflictRuling::AcceptRecorded,
            ConflictRuling::Fork => runtime_effects::ConflictRuling::Fork,
            ConflictRuling::Fail => runtime_effects::ConflictRuling::Fail(WireError::new(
                "ruled_failed",
                ErrorClass::Terminal,
                "it is not what was recorded; a person ruled that it failed",
            )),
        };
        let scope = effect.scope.scope_id();
        let ruled = self
            .host
            .rule_conflict(&scope, &effect.key, ruling, id)
            .await;
        self.ruled(&effect.scope, ruled)
    }

    fn ruled(
        self: &Arc<Self>,
        scope: &ExecutionScope,
        ruled: Result<RulingAnswer, RulingError>,
    ) -> Result<CommandAnswer, RuntimeError> {
        match ruled.map_err(|error| error.to_wire())? {
            RulingAnswer::Ruled => {
                // Whoever rules has looked at the turn: it goes on also where something else has
                // parked it meanwhile, such as the processes that died in another of its calls.
                if let Some(session) = scope.session() {
                    self.wake(&WorkerId::from(session), Wake::Insist);
                }
                Ok(CommandAnswer::Done)
            }
            RulingAnswer::AlreadyRuled => Ok(CommandAnswer::AlreadyDone),
        }
    }

    pub(crate) fn wake_scope(self: &Arc<Self>, scope: &ExecutionScope) {
        if let Some(session) = scope.session() {
            self.wake(&WorkerId::from(session), Wake::News);
        }
    }
}

/// How a promise was settled, in a word; never with its value.
fn how_settled(winner: &Resolution) -> &'static str {
    match winner {
        Resolution::Ok { value } => match ApprovalDecision::deserialize(value) {
            Ok(ApprovalDecision::Approve) => "approved",
            Ok(ApprovalDecision::Edit { .. }) => "approved with other arguments",
            Ok(ApprovalDecision::Deny { .. }) => "denied",
            _ => "resolved with another value",
        },
        Resolution::Timeout => "given up when its time was over",
        Resolution::Cancelled => "withdrawn",
        _ => "resolved with another error",
    }
}

const fn done_unless(repeated: bool) -> CommandAnswer {
    match repeated {
        true => CommandAnswer::AlreadyDone,
        false => CommandAnswer::Done,
    }
}

/// Finds the approval that hangs on a call; none if the target must be a token.
pub(crate) async fn approval_named(
    host: &StoreEffectHost,
    target: &str,
) -> Result<Option<(PendingEffect, PendingPromise)>, RuntimeError> {
    let mut named = Vec::new();
    for effect in pending_effects(host).await? {
        let of_call = |promise: &&PendingPromise| {
            promise.kind == PendingKind::Approval
                && promise
                    .call
                    .as_ref()
                    .is_some_and(|call| call.as_str() == target)
        };
        if let Some(promise) = effect.promises.iter().find(of_call).cloned() {
            named.push((effect, promise));
        }
    }
    if named.is_empty() && looks_like_token(target) {
        return Ok(None);
    }
    only(named, target).map(Some)
}

/// Finds the effect of which a ruling speaks: by its call, its replay key, or `SCOPE#KEY`.
pub(crate) async fn ruled_named(
    host: &StoreEffectHost,
    kind: PendingKind,
    target: &str,
) -> Result<PendingEffect, RuntimeError> {
    let mut named = pending_effects(host).await?;
    named.retain(|effect| {
        let of_call = effect
            .call
            .as_ref()
            .is_some_and(|call| call.as_str() == target);
        let is_named = effect.key.as_str() == target
            || target.split_once('#').is_some_and(|(scope, key)| {
                effect.key.as_str() == key && effect.scope.scope_id().as_str() == scope
            });
        effect.kind == kind && (of_call || is_named)
    });
    only(named, target)
}

fn only<T>(mut named: Vec<T>, target: &str) -> Result<T, RuntimeError> {
    match named.len() {
        0 => Err(RuntimeError::NothingPending {
            target: target.to_owned(),
        }),
        1 => Ok(named.swap_remove(0)),
        count => Err(RuntimeError::Ambiguous {
            target: target.to_owned(),
            count,
        }),
    }
}

/// What a person's value means as the outcome of an effect.
fn outcome_of(effect: &PendingEffect, value: Value) -> Result<EffectOutcome, RuntimeError> {
    let output = match (effect.effect, &effect.call) {
        (EffectKind::ToolCall, Some(call)) => {
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let content = vec![ContentPart::Text { text }];
            let result = ToolResult {
                call: call.clone(),
                content,
                is_error: false,
            };
            EffectOutput::ToolCall(ToolCallOutput::Finished {
                result,
                spent: None,
            })
        }
        (EffectKind::DurableStep, _) => EffectOutput::DurableStep { value },
        (kind, _) => {
            let message =
                format!("a {kind} has no value that a person could know; use run-again or fail");
            return Err(
                WireError::new("ruling_wrong_outcome", ErrorClass::Invalid, message).into(),
            );
        }
    };
    Ok(EffectOutcome::Completed(output))
}

/// A token is long, URL-safe text; the ids of calls are shorter, and named in `pending`.
fn looks_like_token(target: &str) -> bool {
    target.len() >= TOKEN_CHARS_MIN
        && target
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Shorter than any token: its MAC alone has 43 characters.
const TOKEN_CHARS_MIN: usize = 43;
