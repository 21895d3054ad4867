//! Telling tools that nobody waits for their work any more (T5, E9).

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, join_all, select};
use runtime_core::{
    CallId, CanonicalEncoder, Classified, Clock, ErrorClass, ExecutionScope, Reserve, WireError,
};
use runtime_tools::{CompletionKeys, Delegates, ToolContext};
use runtime_turn::AbandonedCall;

use crate::Agent;
use crate::environment::LiveTools;

/// How long a tool may take to stop its work.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// What tools are told with when a turn ends without them.
#[derive(Debug, Clone, Copy)]
pub struct Farewell<'a> {
    /// The agent of the turn.
    pub agent: &'a Agent,
    /// The scope of the turn.
    pub scope: &'a ExecutionScope,
    /// The time.
    pub clock: &'a dyn Clock,
    /// As in [`TurnRun`](crate::TurnRun).
    pub completions: Option<&'a Arc<dyn CompletionKeys>>,
    /// As in [`TurnRun`](crate::TurnRun).
    pub delegates: Option<&'a Arc<dyn Delegates>>,
}

/// Tells the tools of these calls that nobody waits for them any more; returns what could not be
/// told, and why. Do it before the end of the turn is committed: after a crash in between it is
/// done again.
///
/// # Cancel safety
/// Dropping the future leaves calls untold.
pub async fn cancel_calls(
    farewell: Farewell<'_>,
    calls: Vec<AbandonedCall>,
) -> Vec<(CallId, WireError)> {
    let tools = LiveTools::new(farewell.agent);
    let told = calls.into_iter().map(|call| tell(farewell, &tools, call));
    join_all(told).await.into_iter().flatten().collect()
}

async fn tell(
    farewell: Farewell<'_>,
    tools: &LiveTools<'_>,
    abandoned: AbandonedCall,
) -> Option<(CallId, WireError)> {
    let id = abandoned.call.clone();
    let telling = AssertUnwindSafe(cancel(farewell, tools, abandoned)).catch_unwind();
    let patience = farewell.clock.sleep(CANCEL_TIMEOUT);
    let error = match select(pin!(telling), patience).await {
        Either::Left((Ok(Ok(())), _)) => return None,
        Either::Left((Ok(Err(error)), _)) => error,
        Either::Left((Err(_), _)) => WireError::new(
            "effect_panicked",
            ErrorClass::Indeterminate,
            "the tool panicked while it stopped its work",
        ),
        Either::Right(_) => WireError::new(
            "effect_attempt_timed_out",
            ErrorClass::TimedOut,
            "the tool did not stop its work in time",
        ),
    };
    Some((id, error))
}

async fn cancel(
    farewell: Farewell<'_>,
    tools: &LiveTools<'_>,
    abandoned: AbandonedCall,
) -> Result<(), WireError> {
    let tool = tools.tool(&abandoned.tool).await;
    let tool = tool.map_err(|error| error.to_wire())?;
    let key = CanonicalEncoder::new("cancel-call")
        .text(farewell.scope.scope_id().as_str())
        .text(abandoned.call.as_str())
        .digest();
    let context = ToolContext {
        scope: farewell.scope.clone(),
        call: abandoned.call,
        idempotency_key: key.to_string(),
        attempt: 1,
        fencing_token: 0,
        deadline: farewell.clock.now().after(CANCEL_TIMEOUT),
        completions: farewell.completions.cloned(),
        delegates: farewell.delegates.cloned(),
        triggers: None,
        budget: Reserve::default(),
    };
    let cancelled = tool.cancel(abandoned.arguments, abandoned.handle, context);
    cancelled.await.map_err(|error| error.to_wire())
}
