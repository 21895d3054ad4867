//! The page that leads from the specification to the code names only what exists (U5).

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../../docs/reference/upstream.md");

/// The paths of the page.
fn on_the_page() -> BTreeSet<&'static str> {
    let quoted = PAGE.split('`').skip(1).step_by(2);
    quoted
        .filter(|quoted| quoted.starts_with("runtime::") && quoted.len() > 10)
        .collect()
}

/// Types, traits, variants, functions, constants: whatever can be imported.
macro_rules! items {
    ($($path:path;)*) => {{
        $({
            #[allow(unused_imports, reason = "that it compiles is the test")]
            use $path as _;
        })*
        [$(stringify!($path)),*]
    }};
}

/// Methods of types.
macro_rules! methods {
    ($($path:path;)*) => {{
        $(let _ = $path;)*
        [$(stringify!($path)),*]
    }};
}

/// Methods of traits.
macro_rules! operations {
    ($($owner:path => $name:ident;)*) => {{
        $(let _ = <dyn $owner>::$name;)*
        [$(concat!(stringify!($owner), "::", stringify!($name))),*]
    }};
}

/// Settings of types.
macro_rules! fields {
    ($($owner:path => $name:ident;)*) => {{
        $(let _ = |value: &$owner| {
            let _ = &value.$name;
        };)*
        [$(concat!(stringify!($owner), "::", stringify!($name))),*]
    }};
}

#[test]
fn upstream_items_exist() {
    let items = items! {
        runtime::core::RuntimeId;
        runtime::core::InstanceId;
        runtime::core::WorkerId;
        runtime::core::SessionId;
        runtime::core::TurnId;
        runtime::core::SubmissionId;
        runtime::core::RequestId;
        runtime::core::ProcessId;
        runtime::core::EventId;
        runtime::core::CommitId;
        runtime::core::CallId;
        runtime::core::ScopeId;
        runtime::core::StreamKey;
        runtime::core::WorkerRef;
        runtime::core::CanonicalEncoder;
        runtime::core::ENCODING_VERSION;
        runtime::core::Digest;
        runtime::core::Classified;
        runtime::core::ErrorClass;
        runtime::core::ErrorClass::Invalid;
        runtime::core::ErrorClass::NotFound;
        runtime::core::ErrorClass::Conflict;
        runtime::core::ErrorClass::Busy;
        runtime::core::ErrorClass::Unsupported;
        runtime::core::ErrorClass::Cancelled;
        runtime::core::ErrorClass::TimedOut;
        runtime::core::ErrorClass::Unavailable;
        runtime::core::ErrorClass::Indeterminate;
        runtime::core::ErrorClass::Gap;
        runtime::core::ErrorClass::Corrupt;
        runtime::core::ErrorClass::Fenced;
        runtime::core::ErrorClass::Terminal;
        runtime::core::WireError;
        runtime::core::Clock;
        runtime::core::Random;
        runtime::core::Timestamp;
        runtime::store::SystemClock;
        runtime::store::SystemRandom;
        runtime::core::Message;
        runtime::core::ContentPart;
        runtime::core::Role;
        runtime::core::ToolDefinition;
        runtime::core::ToolHints;
        runtime::core::ToolCall;
        runtime::core::ToolResult;
        runtime::core::ModelRequest;
        runtime::core::ModelEvent;
        runtime::core::Usage;
        runtime::core::RuntimeEvent;
        runtime::core::EventDraft;
        runtime::core::ExecutionScope;
        runtime::core::EVENT_SCHEMA;
        runtime::core::Secret;
        runtime::core::Tier;
        runtime::core::Tier::Volatile;
        runtime::core::Tier::Crash;
        runtime::core::Tier::Power;
        runtime::core::Tier::Replicated;
        runtime::store::Capabilities;
        runtime::effects::EffectHost;
        runtime::effects::ScopedEffectController;
        runtime::effects::EffectController;
        runtime::effects::Concurrency::Serial;
        runtime::effects::Concurrency::Concurrent;
        runtime::effects::Addressing::Keyed;
        runtime::effects::Addressing::Ordinal;
        runtime::effects::Interrupt;
        runtime::effects::Interrupt::Suspended;
        runtime::effects::Interrupt::Cancelled;
        runtime::effects::Interrupt::Fenced;
        runtime::effects::Interrupt::Conflict;
        runtime::effects::Interrupt::InDoubt;
        runtime::effects::Interrupt::Terminal;
        runtime::core::ExecutionScope::Turn;
        runtime::core::ExecutionScope::Process;
        runtime::core::ExecutionScope::QueueDrain;
        runtime::core::ExecutionScope::SessionDelete;
        runtime::core::ExecutionScope::RuntimeOperation;
        runtime::core::EffectKind::LlmCall;
        runtime::core::EffectKind::Direct;
        runtime::core::EffectKind::ToolCall;
        runtime::core::EffectKind::Process;
        runtime::core::EffectKind::ExecCode;
        runtime::core::EffectKind::TurnCheckpoint;
        runtime::core::EffectKind::SyncExecutionEnvironment;
        runtime::core::EffectKind::Sleep;
        runtime::core::EffectKind::AwaitEvent;
        runtime::core::EffectKind::DurableStep;
        runtime::core::EffectEnvelope;
        runtime::core::ENVELOPE_BYTES_MAX;
        runtime::core::EffectCommand;
        runtime::core::EffectOutcome;
        runtime::core::EffectOutput;
        runtime::effects::LocalExecutor;
        runtime::effects::AttemptContext;
        runtime::core::ReplayKey;
        runtime::core::RetryPolicy;
        runtime::effects::Applied::No;
        runtime::effects::Applied::Unknown;
        runtime::effects::Ruling;
        runtime::workers::InDoubtRuling::RunAgain;
        runtime::workers::InDoubtRuling::Done;
        runtime::workers::InDoubtRuling::Fail;
        runtime::core::FinishReason::Stop;
        runtime::core::FinishReason::ToolUse;
        runtime::core::FinishReason::OutputLimit;
        runtime::core::FinishReason::ContextOverflow;
        runtime::core::FinishReason::ContentFilter;
        runtime::core::FinishReason::ProviderError;
        runtime::core::FinishReason::Cancelled;
        runtime::core::FinishReason::Unknown;
        runtime::effects::Lease;
        runtime::effects::LeaseConfig;
        runtime::effects::LeaseKeeper;
        runtime::core::WaitIdentity::ToolCompletion;
        runtime::core::WaitIdentity::ProcessSignal;
        runtime::core::WaitIdentity::Custom;
        runtime::effects::AwaitEvents;
        runtime::effects::ResolveAnswer::Accepted;
        runtime::effects::ResolveAnswer::AlreadyResolved;
        runtime::effects::ResolveAnswer::UnknownOrRevoked;
        runtime::core::Resolution::Ok;
        runtime::core::Resolution::Err;
        runtime::core::Resolution::Timeout;
        runtime::core::Resolution::Cancelled;
        runtime::effects::Token;
        runtime::effects::TokenRights;
        runtime::store::KeyRing;
        runtime::effects::Processes;
        runtime::core::SessionDeletion;
        runtime::core::ProcessInput::ToolCall;
        runtime::core::ProcessInput::Code;
        runtime::core::ProcessInput::SessionTurn;
        runtime::core::ProcessInput::Function;
        runtime::core::ProcessInput::External;
        runtime::core::ProcessOutcome::Success;
        runtime::core::ProcessOutcome::Failure;
        runtime::core::ProcessOutcome::Cancelled;
        runtime::core::RecoveryDisposition::Rerunnable;
        runtime::core::RecoveryDisposition::OwnerBound;
        runtime::core::RecoveryDisposition::External;
        runtime::core::Trigger;
        runtime::store::AttachmentStore;
        runtime::events::EventLog;
        runtime::events::EventBatch;
        runtime::core::EventKind;
        runtime::core::EventKind::TurnStarted;
        runtime::core::EventKind::TurnCompleted;
        runtime::core::EventKind::TurnFailed;
        runtime::core::EventKind::TurnCancelled;
        runtime::core::EventKind::TurnParked;
        runtime::core::EventKind::TurnResumed;
        runtime::core::EventKind::MessageCommitted;
        runtime::core::EventKind::ToolCallStarted;
        runtime::core::EventKind::ToolCallFinished;
        runtime::core::EventKind::ApprovalRequested;
        runtime::core::EventKind::ContextCompacted;
        runtime::core::EventKind::EnvironmentSynced;
        runtime::core::EventKind::ModelDelta;
        runtime::core::EventKind::Diagnostic;
        runtime::events::EventStream;
        runtime::core::Topic::Turn;
        runtime::core::Topic::Session;
        runtime::core::Topic::Process;
        runtime::core::Topic::Provider;
        runtime::core::Topic::Runtime;
        runtime::events::StreamItem::Gap;
        runtime::events::StreamItem::Corrupt;
        runtime::events::Cursor;
        runtime::events::EventRead;
        runtime::events::StreamAdapter;
        runtime::events::LiveAdapter;
        runtime::events::Room;
        runtime::events::LiveError::Lagged;
        runtime::events::LiveError::Closed;
        runtime::events::PublishError;
        runtime::events::SubscribeError;
        runtime::events::RetentionPolicy;
        runtime::events::Consumer;
        runtime::events::Authorizer;
        runtime::events::BridgeConfig;
        runtime::events::BridgeHandle;
        runtime::events::BridgeError::Cancelled;
        runtime::events::BridgeError::Panicked;
        runtime::mcp_cache::State::Fresh;
        runtime::mcp_cache::State::Stale;
        runtime::mcp_cache::State::Cold;
        runtime::mcp_cache::State::Negative;
        runtime::mcp_cache::State::Blocked;
        runtime::mcp_cache::State::Uncached;
        runtime::mcp_cache::DiscoveryCache;
        runtime::mcp_cache::Answer;
        runtime::mcp_cache::CacheConfig;
        runtime::mcp_cache::CacheKey;
        runtime::mcp_cache::Owner;
        runtime::mcp_cache::Authorisation;
        runtime::mcp_cache::Hints;
        runtime::mcp_cache::PinBoard;
        runtime::mcp_cache::StorePins;
        runtime::mcp_cache::public_name;
        runtime::mcp_cache::NameMap;
        runtime::mcp::AuthProvider;
        runtime::mcp::OAuthProvider;
        runtime::mcp::McpServerConfig;
        runtime::mcp::ServerType::Stdio;
        runtime::mcp::ServerType::Http;
        runtime::mcp::McpSource;
        runtime::agent_cache::AgentCache;
        runtime::agent_cache::Lease;
        runtime::agent_cache::AgentKey;
        runtime::agent_cache::Ttl::After;
        runtime::agent_cache::Ttl::Never;
        runtime::agent_cache::AgentCacheCounters;
        runtime::agent_cache::EnvironmentSettings;
        runtime::workers::CreateWorker;
        runtime::workers::RuntimeSummary;
        runtime::workers::Transcript;
        runtime::workers::TRANSCRIPT_PAGE_MAX;
        runtime::workers::Diagnostic;
        runtime::workers::Severity;
        runtime::workers::WorkerIntent::Assistant;
        runtime::workers::WorkerIntent::Task;
        runtime::workers::WorkerIntent::Role;
        runtime::workers::WorkerProfile::RuntimeDefault;
        runtime::workers::WorkerProfile::Builtin;
        runtime::workers::WorkerProfile::Named;
        runtime::workers::BundleReference;
        runtime::workers::CapabilityRequest;
        runtime::workers::ResourceReference;
        runtime::workers::WorkerStatus::Running;
        runtime::workers::WorkerStatus::Stopped;
        runtime::workers::WorkerStatus::Cancelled;
        runtime::workers::WorkerStatus::Deleted;
        runtime::workers::WorkerReceipt;
        runtime::workers::InputReceipt;
        runtime::workers::SystemInputReceipt;
        runtime::workers::RuntimeReceipt;
        runtime::workers::AgentResolver;
        runtime::workers::CachedAgents;
        runtime::workers::RuntimeLimits;
        runtime::store::Store;
        runtime::store::Commit;
        runtime::store::Guard::Absent;
        runtime::store::Guard::Version;
        runtime::store::Guard::Head;
        runtime::store::RowChange::Put;
        runtime::store::RowChange::Delete;
        runtime::store::RowChange::Retire;
        runtime::store::CommitError::Rejected;
        runtime::store::CommitError::Fenced;
        runtime::store::CommitError::DifferentContent;
        runtime::store::CommitError::TooLarge;
        runtime::store::CommitError::TooOld;
        runtime::store::CommitError::Unavailable;
        runtime::store::CommitError::Indeterminate;
        runtime::store::CommitError::ReadOnly;
        runtime::store::MemoryStore;
        runtime::fs_store::FsStore;
        runtime::postgres::PostgresStore;
        runtime::fs_store::OpenReport;
        runtime::fs_store::holder;
        runtime::fs_store::Holder;
        runtime::fs_store::STORE_SCHEMA;
        runtime::fs_store::verify;
        runtime::fs_store::repair;
        runtime::fs_store::export;
        runtime::fs_store::import;
        runtime::fs_store::backup;
        runtime::fs_store::submit_command;
        runtime::fs_store::INBOX_COMMANDS_MAX;
        runtime::turn::TurnMachine;
        runtime::turn::TurnStart;
        runtime::agent::drive_turn;
        runtime::turn::TurnBudgets;
        runtime::agent::Compactor;
        runtime::turn::CompactionPolicy;
        runtime::core::ApprovalPolicy;
        runtime::turn::ApprovalDecision::Approve;
        runtime::turn::ApprovalDecision::Deny;
        runtime::turn::ApprovalDecision::Edit;
        runtime::tools::FunctionTool;
        runtime::tools::Tool;
        runtime::tools::ToolSource;
        runtime::tools::Pending;
        runtime::core::OnTimeout;
        runtime::core::OnCancel;
        runtime::model::Model;
        runtime::model::ScriptedModel;
        runtime::genai::GenaiModel;
        runtime::builder;
        runtime::workers::CloseReport;
    };
    let methods = methods! {
        runtime::core::EventId::generate;
        runtime::core::RuntimeId::generate;
        runtime::core::ErrorClass::is_final;
        runtime::core::ErrorClass::is_retryable;
        runtime::core::ReplayKey::turn;
        runtime::core::ReplayKey::child;
        runtime::core::ReplayKey::step;
        runtime::core::EffectEnvelope::is_retry_safe;
        runtime::effects::AwaitEvents::mint;
        runtime::effects::AwaitEvents::resolve;
        runtime::effects::AwaitEvents::revoke;
        runtime::effects::AwaitEvents::verify;
        runtime::effects::AwaitEvents::public_name;
        runtime::effects::AwaitEvents::rotate_keys;
        runtime::effects::Processes::register;
        runtime::effects::Processes::start;
        runtime::effects::Processes::get;
        runtime::effects::Processes::list;
        runtime::effects::Processes::grant;
        runtime::effects::Processes::revoke;
        runtime::effects::Processes::transfer;
        runtime::effects::Processes::grants;
        runtime::effects::Processes::append;
        runtime::effects::Processes::signal;
        runtime::effects::Processes::events;
        runtime::effects::Processes::cancel;
        runtime::effects::Processes::delete_session;
        runtime::events::EventLog::append;
        runtime::events::EventHub::subscribe;
        runtime::workers::Runtime::subscribe;
        runtime::events::EventHub::cursor_from_start;
        runtime::events::EventHub::cursor_now;
        runtime::events::EventHub::after_seq;
        runtime::events::EventHub::read;
        runtime::events::BridgeHandle::close;
        runtime::events::BridgeHandle::abort;
        runtime::events::BridgeHandle::is_finished;
        runtime::events::BridgeHandle::join;
        runtime::agent_cache::AgentKey::tenant;
        runtime::workers::Runtime::create;
        runtime::workers::Runtime::list;
        runtime::workers::Worker::detail;
        runtime::workers::Runtime::submit;
        runtime::workers::Runtime::submit_system;
        runtime::workers::Runtime::submit_unless_busy;
        runtime::workers::Runtime::stop_worker;
        runtime::workers::Runtime::cancel;
        runtime::workers::Runtime::resume;
        runtime::workers::Runtime::delete;
        runtime::workers::Runtime::purge;
        runtime::workers::Runtime::summary;
        runtime::workers::Runtime::stop;
        runtime::workers::Runtime::reopen;
        runtime::workers::Runtime::transcript;
        runtime::workers::Runtime::diagnostics;
        runtime::fs_store::FsStore::open;
        runtime::fs_store::FsStore::open_read_only;
        runtime::Builder::memory;
        runtime::Builder::postgres;
        runtime::workers::Runtime::close;
    };
    let operations = operations! {
        runtime::effects::EffectHost => scoped;
        runtime::effects::EffectHost => scoped_static;
        runtime::effects::EffectController => execute_effect;
        runtime::effects::EffectController => execute_batch;
        runtime::effects::EffectController => wait_any;
        runtime::effects::EffectController => concurrency;
        runtime::effects::EffectController => addressing;
        runtime::store::AttachmentStore => put_attachment;
        runtime::store::AttachmentStore => attachment;
        runtime::store::AttachmentStore => has_attachment;
        runtime::store::AttachmentStore => sweep_attachments;
        runtime::store::Store => commit;
        runtime::store::Store => committed;
        runtime::store::Store => row;
        runtime::store::Store => rows;
        runtime::store::Store => events;
        runtime::store::Store => changed;
    };
    let fields = fields! {
        runtime::core::ToolDefinition => deferrable;
        runtime::effects::EffectLimits => park_after;
        runtime::agent::Agent => version;
        runtime::events::EventConfig => live_recheck;
        runtime::agent_cache::AgentCacheConfig => shadow;
        runtime::workers::WorkerReceipt => generation;
    };
    // What takes any of several types cannot be named without one.
    let _ = |builder: runtime::Builder, folder: std::path::PathBuf| builder.directory(folder);
    let _ = |sets: Vec<&'static [runtime::mcp::McpServerConfig]>| {
        runtime::mcp::McpServerConfig::layered(sets)
    };
    let _ = |processes: &runtime::effects::Processes, process: &runtime::core::ProcessId| {
        drop(processes.ended(process, None, std::future::pending()));
    };
    let called = [
        "runtime::effects::Processes::ended",
        "runtime::Builder::directory",
        "runtime::mcp::McpServerConfig::layered",
    ];
    let compiled = items
        .into_iter()
        .chain(methods)
        .chain(operations)
        .chain(fields)
        .chain(called);
    let compiled: BTreeSet<String> = compiled.map(|path| path.replace(' ', "")).collect();
    let page = on_the_page();
    assert!(page.len() > 200, "the page names {}", page.len());
    let unchecked: Vec<_> = page
        .iter()
        .filter(|path| !compiled.contains(**path))
        .collect();
    assert!(
        unchecked.is_empty(),
        "on the page and not compiled here: {unchecked:?}"
    );
    let gone: Vec<_> = compiled
        .iter()
        .filter(|path| !page.contains(path.as_str()))
        .collect();
    assert!(
        gone.is_empty(),
        "compiled here and not on the page: {gone:?}"
    );
}
