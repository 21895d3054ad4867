//! Sub-agents: processes of the kind `session_turn` (E15), each with a worker and a budget of its
//! own, started for a call of another worker's turn and held by that worker's session.
//!
//! One commit ends the sub-agent's turn, ends the process, and resolves the promise of the call.
//! So a crash loses no answer, and none comes twice.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use runtime_core::{
    CallId, CallReport, CanonicalEncoder, Classified, ErrorClass, ExecutionScope, ProcessId,
    ProcessInput, ProcessRegistration, Reserve, Resolution, SessionId, Spent, WaitIdentity,
    WireError, WorkerId,
};
use runtime_effects::ProcessError;
use runtime_tools::{Delegates, Delegation};
use runtime_turn::{TurnBudgets, TurnEnd};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::instance::Instance;
use crate::{CreateWorker, RuntimeError, WorkerIntent, WorkerProfile, WorkerRecord};

/// The longest answer of a process or sub-agent, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 200 * 1024;

/// Whose sub-agent a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Whose call it answers.
    pub scope: ExecutionScope,
    /// The call.
    pub call: CallId,
    /// How many sub-agents are above it, itself included.
    pub depth: u32,
    /// What it may spend in all its turns.
    #[serde(default)]
    pub reserve: Reserve,
}

impl Parent {
    /// Lowers the budgets of a turn to what is left of what was set aside.
    pub(crate) fn limit(&self, mut budgets: TurnBudgets, spent: &WorkerRecord) -> TurnBudgets {
        let left = |max: Option<u64>, reserve: Option<u64>, spent: u64| {
            let left = reserve.map(|reserve| reserve.saturating_sub(spent));
            match (max, left) {
                (Some(max), Some(left)) => Some(max.min(left)),
                (max, left) => max.or(left),
            }
        };
        let tokens = spent.usage.total();
        budgets.tokens_max = left(budgets.tokens_max, self.reserve.tokens, tokens);
        budgets.cost_max = left(budgets.cost_max, self.reserve.cost, spent.cost);
        budgets
    }
}

/// What the caller of a sub-agent hears when the turn that does the task ends.
pub(crate) struct Answer {
    /// Whose call it answers.
    pub(crate) scope: ExecutionScope,
    /// The promise of the call.
    pub(crate) identity: WaitIdentity,
    /// What it says.
    pub(crate) resolution: Resolution,
}

impl Answer {
    pub(crate) fn new(parent: &Parent, end: &TurnEnd) -> Self {
        Self {
            scope: parent.scope.clone(),
            identity: WaitIdentity::ToolCompletion {
                call: parent.call.clone(),
            },
            resolution: resolution(end),
        }
    }
}

/// Starts sub-agents as workers of this runtime.
#[derive(Debug)]
pub(crate) struct SubAgents(pub(crate) Weak<Instance>);

#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    process: ProcessId,
}

#[async_trait]
impl Delegates for SubAgents {
    async fn start(&self, delegation: Delegation) -> Result<Value, WireError> {
        let instance = self.0.upgrade().ok_or(RuntimeError::Closed);
        let instance = instance.map_err(|error| error.to_wire())?;
        let started = instance.start_sub_agent(delegation).await;
        let process = started.map_err(|error| error.to_wire())?;
        Ok(json!(Handle { process }))
    }

    async fn cancel(&self, handle: &Value) -> Result<(), WireError> {
        let instance = self.0.upgrade().ok_or(RuntimeError::Closed);
        let instance = instance.map_err(|error| error.to_wire())?;
        let Handle { process } = Handle::deserialize(handle)
            .map_err(|error| WireError::new("sub_agent_handle", ErrorClass::Invalid, error))?;
        let reason = "whoever asked for it does not wait any more";
        let processes = &instance.background.processes;
        // Recorded, and then done: what is left to do is found after a crash.
        match processes.cancel(&process, reason, None).await {
            Ok(_) | Err(ProcessError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.to_wire()),
        }
    }
}

impl Instance {
    /// Creates the worker of a call, and starts the process that is its task; doing so again changes
    /// nothing.
    async fn start_sub_agent(
        self: &Arc<Self>,
        delegation: Delegation,
    ) -> Result<ProcessId, RuntimeError> {
        let Delegation {
            scope,
            call,
            profile,
            task,
            reserve,
        } = delegation;
        let digest = CanonicalEncoder::new("sub-agent")
            .text(scope.scope_id().as_str())
            .text(call.as_str())
            .digest()
            .to_string();
        let worker: WorkerId = format!("sub-{}", &digest[..32]).parse()?;
        let process: ProcessId = worker.as_str().parse()?;
        let owner = scope.session().cloned();
        let caller = match &owner {
            Some(session) => Some(self.worker(&WorkerId::from(session)).await?.0),
            None => None,
        };
        let above = caller
            .as_ref()
            .and_then(|caller| caller.request.parent.as_ref())
            .map_or(0, |parent| parent.depth);
        let max = self.config.sub_agent_depth_max;
        if above >= max {
            return Err(RuntimeError::TooDeep { max });
        }
        let request = CreateWorker {
            intent: WorkerIntent::Task {
                objective: "answer a call of another worker".to_owned(),
            },
            profile: match profile {
                Some(name) => WorkerProfile::Named { name },
                None => WorkerProfile::default(),
            },
            tenant: caller.and_then(|caller| caller.request.tenant),
            parent: Some(Parent {
                scope,
                call,
                depth: above + 1,
                reserve,
            }),
            ..CreateWorker::assistant(worker.clone())
        };
        self.create(request).await?;
        let input = ProcessInput::SessionTurn {
            session: SessionId::from(&worker),
            text: task,
        };
        let registration = ProcessRegistration::new(process.clone(), input);
        self.begin_session_turn(&registration, owner.as_ref())
            .await?;
        Ok(process)
    }
}

/// What the caller hears of an end.
fn resolution(end: &TurnEnd) -> Resolution {
    let outcome = match end {
        TurnEnd::Completed {
            message,
            usage,
            account,
            ..
        } => CallReport {
            text: message.plain_text(),
            is_error: false,
            spent: Spent {
                usage: *usage,
                cost: account.cost,
            },
        },
        TurnEnd::Failed {
            error,
            usage,
            account,
            ..
        } => CallReport {
            text: format!("the sub-agent failed: {}: {}", error.code, error.message),
            is_error: true,
            spent: Spent {
                usage: *usage,
                cost: account.cost,
            },
        },
        _ => {
            return Resolution::Err {
                code: "sub_agent_cancelled".to_owned(),
                message: "the sub-agent was cancelled".to_owned(),
                raw: None,
            };
        }
    };
    let mut outcome = outcome;
    let end = outcome.text.floor_char_boundary(ANSWER_BYTES_MAX);
    outcome.text.truncate(end);
    Resolution::Ok {
        value: json!(outcome),
    }
}
