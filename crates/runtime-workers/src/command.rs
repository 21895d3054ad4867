//! Commands: what may reach a runtime from another process through the inbox (S8).

use runtime_core::{ProcessId, Resolution, SubmissionId, TurnId, WorkerId};
use runtime_turn::ApprovalDecision;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A person's ruling on an effect in doubt (E7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ruling", rename_all = "snake_case")]
#[non_exhaustive]
pub enum InDoubtRuling {
    /// It did not happen, or may happen again: run it.
    RunAgain,
    /// It happened, and gave this.
    Done {
        /// What the model reads: a text, or any JSON.
        value: Value,
    },
    /// Treat it as failed.
    Fail,
}

/// A person's ruling on an effect that is not the one recorded under its key (E4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ruling", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConflictRuling {
    /// The recorded outcome is the outcome of what is asked for now.
    AcceptRecorded,
    /// What is recorded from that effect on is set aside, and runs anew.
    Fork,
    /// What is asked for now is taken as failed.
    Fail,
}

/// A command. Its id is the id of the commit that carries it out, so it is carried out once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// Send an input to a worker.
    Input {
        /// The worker.
        worker: WorkerId,
        /// The input as its sender names it.
        submission: SubmissionId,
        /// What is said.
        text: String,
    },
    /// Answer a request for approval.
    Decide {
        /// The token, or the id of the call.
        target: String,
        /// The answer.
        decision: ApprovalDecision,
    },
    /// Resolve a promise.
    Resolve {
        /// The token.
        token: String,
        /// How.
        resolution: Resolution,
    },
    /// Rule on an effect in doubt.
    RuleInDoubt {
        /// The id of the call, or the effect: its replay key, or `SCOPE#KEY` where several scopes
        /// have such a key.
        call: String,
        /// The ruling.
        ruling: InDoubtRuling,
    },
    /// Rule on an effect that is not the one recorded under its key.
    RuleConflict {
        /// The id of the call, or the effect: its replay key, or `SCOPE#KEY` where several scopes
        /// have such a key.
        effect: String,
        /// The ruling.
        ruling: ConflictRuling,
    },
    /// Give a worker a System input: it joins the conversation before the next turn.
    SystemInput {
        /// The worker.
        worker: WorkerId,
        /// The input as its sender names it.
        submission: SubmissionId,
        /// What is said.
        text: String,
    },
    /// Stop a worker: it takes no inputs, and its turns stay where they are, until it is resumed.
    StopWorker {
        /// The worker.
        worker: WorkerId,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Let a stopped worker go on, in a new run generation.
    ResumeWorker {
        /// The worker.
        worker: WorkerId,
    },
    /// Delete a worker: what it does is cancelled, and only its history stays.
    DeleteWorker {
        /// The worker.
        worker: WorkerId,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Erase what a deleted worker and its users have said.
    PurgeWorker {
        /// The worker.
        worker: WorkerId,
    },
    /// Stop the runtime and all its workers: it takes no changes until it is reopened.
    StopRuntime {
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Let a stopped runtime take changes again; its workers are resumed one by one.
    ReopenRuntime,
    /// Something of the host's own, which its [`AgentResolver`](crate::AgentResolver) carries out:
    /// the approval of a tool definition, say.
    Host {
        /// What is to be done.
        name: String,
        /// With what.
        #[serde(default)]
        body: Value,
    },
    /// Ask a process to end; the first reason stands.
    CancelProcess {
        /// The process.
        process: ProcessId,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Send a process a signal.
    SignalProcess {
        /// The process.
        process: ProcessId,
        /// The name of the signal.
        name: String,
        /// Which of that name, from 1; the next one, without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ordinal: Option<u64>,
        /// Its value.
        #[serde(default)]
        value: Value,
    },
    /// Cancel a worker and what it does.
    CancelWorker {
        /// The worker.
        worker: WorkerId,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CommandAnswer {
    /// An input was accepted.
    InputAccepted {
        /// The turn that works on it.
        turn: TurnId,
        /// It had been accepted before.
        repeated: bool,
    },
    /// It was done.
    Done,
    /// It had been done before, by this command or another; nothing changed.
    AlreadyDone,
}
