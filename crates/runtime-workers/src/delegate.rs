//! Sub-agents: workers of their own, started for a call of another worker's turn.
//!
//! The answer reaches that turn by an outbox: the commit that ends the sub-agent's turn puts a
//! report, which is removed once the promise of the call is resolved. So a crash in between loses
//! no answer, and repeating it changes nothing.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use runtime_core::{
    CallId, CallReport, CanonicalEncoder, Classified, ErrorClass, ExecutionScope, Reserve,
    Resolution, Spent, SubmissionId, WaitIdentity, WireError, WorkerId,
};
use runtime_effects::ResolveAnswer;
use runtime_store::{Guard, Page, RowChange, RowKey, RowQuery};
use runtime_tools::{Delegates, Delegation};
use runtime_turn::{TurnBudgets, TurnEnd};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::instance::Instance;
use crate::session::Wake;
use crate::turn::TurnRecord;
use crate::worker::worker_scope;
use crate::{
    CreateWorker, RuntimeError, WhenBusy, WorkerIntent, WorkerProfile, WorkerRecord, WorkerStatus,
};

/// The space of answers that their turns have not heard yet.
const REPORT_SPACE: &str = "sub_agent_report";

/// The longest answer of a sub-agent that its caller hears, in bytes.
const ANSWER_BYTES_MAX: usize = 200 * 1024;

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

/// An answer on its way to the turn that waits for it.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    scope: ExecutionScope,
    call: CallId,
    resolution: Resolution,
}

/// Starts sub-agents as workers of this runtime.
#[derive(Debug)]
pub(crate) struct SubAgents(pub(crate) Weak<Instance>);

#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    worker: WorkerId,
}

#[async_trait]
impl Delegates for SubAgents {
    async fn start(&self, delegation: Delegation) -> Result<Value, WireError> {
        let instance = self.0.upgrade().ok_or(RuntimeError::Closed);
        let instance = instance.map_err(|error| error.to_wire())?;
        let started = instance.start_sub_agent(delegation).await;
        let worker = started.map_err(|error| error.to_wire())?;
        Ok(json!(Handle { worker }))
    }

    async fn cancel(&self, handle: &Value) -> Result<(), WireError> {
        let instance = self.0.upgrade().ok_or(RuntimeError::Closed);
        let instance = instance.map_err(|error| error.to_wire())?;
        let Handle { worker } = Handle::deserialize(handle)
            .map_err(|error| WireError::new("sub_agent_handle", ErrorClass::Invalid, error))?;
        let reason = Some("whoever asked for it does not wait any more".to_owned());
        let cancelled = instance
            .change_status(&worker, WorkerStatus::Cancelled, &reason, None, false)
            .await;
        cancelled.map(|_| ()).map_err(|error| error.to_wire())
    }
}

impl Instance {
    /// Creates the worker of a call and gives it its task; doing so again changes nothing.
    async fn start_sub_agent(
        self: &Arc<Self>,
        delegation: Delegation,
    ) -> Result<WorkerId, RuntimeError> {
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
        let caller = match scope.session() {
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
        let submission: SubmissionId = "task".parse()?;
        self.accept(&worker, submission, &task, WhenBusy::Queue, None)
            .await?;
        self.wake(&worker, Wake::News);
        Ok(worker)
    }

    /// The report that the end of a turn puts, if the turn is a sub-agent's task.
    pub(crate) fn report(
        &self,
        state: &WorkerRecord,
        record: &TurnRecord,
        end: Option<&TurnEnd>,
    ) -> Option<RowChange> {
        let parent = state.request.parent.as_ref()?;
        // Its first input is the task; what is said to it later is nobody's call.
        if record.number != 1 {
            return None;
        }
        let report = Report {
            scope: parent.scope.clone(),
            call: parent.call.clone(),
            resolution: resolution(end),
        };
        let body = serde_json::to_vec(&report).expect("a report is plain data");
        self.reports_due();
        Some(RowChange::put(report_key(&record.worker), body))
    }

    /// Resolves the calls that sub-agents have answered, and wakes their turns.
    pub(crate) async fn deliver_reports(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let mut after = None;
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let query = RowQuery::space(REPORT_SPACE);
            let page = self.store.rows(query, Page::after(after, limit)).await?;
            for row in &page.rows {
                let report: Report = crate::view::decode(row)?;
                let identity = WaitIdentity::ToolCompletion { call: report.call };
                let scope = &report.scope;
                let answer = self
                    .promises
                    .resolve_identity(scope, &identity, report.resolution, None)
                    .await
                    .map_err(|error| error.to_wire())?;
                let commit = self
                    .new_commit(None)
                    .guard(Guard::Version(row.key.clone(), row.version))
                    .row(RowChange::Delete(row.key.clone()));
                self.contend(commit).await?;
                // Whoever is gone, or has its answer, is not woken.
                if answer == ResolveAnswer::Accepted {
                    self.wake_scope(scope);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

fn report_key(worker: &WorkerId) -> RowKey {
    RowKey::new(REPORT_SPACE, worker_scope(worker), "")
}

/// What the caller hears of an end; none is that the sub-agent was cancelled.
fn resolution(end: Option<&TurnEnd>) -> Resolution {
    let outcome = match end {
        Some(TurnEnd::Completed {
            message,
            usage,
            account,
            ..
        }) => CallReport {
            text: message.plain_text(),
            is_error: false,
            spent: Spent {
                usage: *usage,
                cost: account.cost,
            },
        },
        Some(TurnEnd::Failed {
            error,
            usage,
            account,
            ..
        }) => CallReport {
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
