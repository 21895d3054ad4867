//! Single-threaded pure paths. Each is prepared once and gives what is repeated; nothing here depends
//! on the clock, on chance, or on other threads.

use std::hint::black_box;
use std::sync::Arc;

use runtime_core::{ApprovalPolicy, Digest, Tier};
use runtime_core::{
    CallId, CommitId, ContentPart, EffectCommand, EffectEnvelope, EffectOutcome, EffectOutput,
    EventDraft, EventId, EventKind, ExecutionScope, FinishReason, LlmResponse, Message, ReplayKey,
    Role, StreamKey, Timestamp, ToolCall, ToolCallOutput, ToolDefinition, ToolHints, ToolResult,
    Usage, WaitIdentity,
};
use runtime_effects::{EffectLimits, StoreEffectHost, TokenRights};
use runtime_events::Cursor;
use runtime_fs_store::{FsStore, FsStoreOptions, verify};
use runtime_store::{
    Commit, MemoryStore, NewEvent, Position, RowChange, RowKey, Store, StoreIdentity, SystemClock,
    SystemRandom,
};
use runtime_turn::{ContextMark, Next, TurnMachine, TurnStart};
use serde_json::{Value, json};

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub type Act = Box<dyn FnMut() -> Outcome<()>>;

/// A path by its name, and what prepares it.
pub type Path = (&'static str, fn() -> Outcome<Act>);

pub const PATHS: &[Path] = &[
    ("identity", identity),
    ("event-encode", event_encode),
    ("event-decode", event_decode),
    ("turn", turn),
    ("store-verify", store_verify),
    ("token-verify", token_verify),
    ("cursor-decode", cursor_decode),
];

/// A planted regression of `identity`.
pub const PLANTED: Path = ("identity-slower", identity_slower);

fn scope() -> Outcome<ExecutionScope> {
    Ok(ExecutionScope::Turn {
        session: "desk".parse()?,
        turn: "1".parse()?,
    })
}

fn arguments() -> Value {
    json!({
        "to": "Ada", "amount": 40, "ratio": 0.25, "tags": ["a", "b", "c"],
        "note": "a text of the length that such a text has, and not a word less",
        "nested": { "left": { "deep": true }, "right": null },
    })
}

fn envelope() -> Outcome<EffectEnvelope> {
    let command = EffectCommand::DurableStep {
        name: "pay".to_owned(),
        input: Some(Digest::of_bytes(b"what it was given")),
    };
    let key = ReplayKey::step("pay", 1)?;
    Ok(EffectEnvelope::new(scope()?, key, command)?)
}

/// The canonical encoding of an effect, and its digest.
fn identity() -> Outcome<Act> {
    let envelope = envelope()?;
    Ok(Box::new(move || {
        black_box(black_box(&envelope).digest());
        Ok(())
    }))
}

/// Its JSON is copied once more. The guard must find it.
fn identity_slower() -> Outcome<Act> {
    let envelope = envelope()?;
    Ok(Box::new(move || {
        black_box(black_box(&envelope).identity());
        black_box(envelope.digest());
        Ok(())
    }))
}

fn draft() -> Outcome<EventDraft> {
    let draft = EventDraft::new(EventKind::EffectFinished).in_scope(&scope()?);
    Ok(draft.with_payload(arguments()))
}

fn event_encode() -> Outcome<Act> {
    let draft = draft()?;
    Ok(Box::new(move || {
        black_box(black_box(&draft).to_bytes());
        Ok(())
    }))
}

fn event_decode() -> Outcome<Act> {
    let bytes = draft()?.to_bytes();
    Ok(Box::new(move || {
        let draft: EventDraft = serde_json::from_slice(black_box(&bytes))?;
        black_box(draft);
        Ok(())
    }))
}

/// A turn with one call of a tool, from its start record to its end.
fn turn() -> Outcome<Act> {
    const PROMPT: &[u8] = b"be brief";
    let tools = serde_json::to_vec(&[ToolDefinition {
        name: "read".to_owned(),
        display_name: None,
        description: String::new(),
        input_schema: json!({ "type": "object" }),
        output_schema: None,
        category: None,
        approval: ApprovalPolicy::ByDeclaration,
        hints: ToolHints {
            read_only: true,
            retry_safe: false,
            trusted: true,
        },
        deferrable: false,
    }])?;
    let call = CallId::new("a")?;
    let outcomes = [
        EffectOutput::SyncExecutionEnvironment {
            prompt: Digest::of_bytes(PROMPT),
            tools: Digest::of_bytes(&tools),
            reports: Vec::new(),
        },
        answer(vec![ContentPart::ToolCall(ToolCall {
            id: call.clone(),
            name: "read".to_owned(),
            arguments: arguments(),
        })]),
        EffectOutput::ToolCall(ToolCallOutput::Finished {
            result: ToolResult::text(call, "what it says"),
            spent: None,
        }),
        answer(vec![ContentPart::Text {
            text: "Done.".to_owned(),
        }]),
    ]
    .map(EffectOutcome::Completed);
    let input = Message::text(Role::User, "hello");
    let (session, id) = ("desk".parse()?, "1".parse()?);
    let start = TurnStart::new(session, id, "scripted", input, ContextMark::empty());
    Ok(Box::new(move || {
        let mut machine = TurnMachine::new(start.clone(), Vec::new())?;
        let mut recorded = outcomes.iter();
        loop {
            match machine.next() {
                Next::Environment { .. } => machine.environment(PROMPT, &tools)?,
                Next::Effects(planned) => {
                    let outcome = recorded.next().ok_or("the turn has more effects")?;
                    machine.record(planned[0].envelope.key(), outcome)?;
                }
                Next::Wait(_) => return Err("the turn waits".into()),
                Next::End(end) => {
                    black_box(end);
                    break;
                }
            }
        }
        assert!(recorded.next().is_none(), "the turn has fewer effects");
        Ok(())
    }))
}

fn answer(content: Vec<ContentPart>) -> EffectOutput {
    let asks = matches!(content[0], ContentPart::ToolCall(_));
    EffectOutput::LlmCall(LlmResponse {
        message: Message {
            role: Role::Assistant,
            content,
        },
        reason: match asks {
            true => FinishReason::ToolUse,
            false => FinishReason::Stop,
        },
        usage: Usage {
            input_tokens: 10,
            output_tokens: 5,
            cached_input_tokens: 0,
        },
        provider: None,
        text_streamed: true,
        ended: None,
        running_ms: 0,
    })
}

fn tokio() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?)
}

/// The decoding of every frame and record of a log of 100 commits, with their checksums.
fn store_verify() -> Outcome<Act> {
    let directory = tempfile::tempdir()?;
    let options = FsStoreOptions::new(directory.path()).tier(Tier::Crash);
    let store = FsStore::open(&options)?;
    let tokio = tokio()?;
    for number in 0..100 {
        let time = Timestamp::from_millis(1_700_000_000_000 + number);
        let event = NewEvent {
            id: EventId::generate(time, [number as u8; 10]),
            streams: vec![StreamKey::new("session/desk")?],
            closes: false,
            body: vec![b'e'; 300].into(),
        };
        let key = RowKey::new("bench", scope()?.scope_id(), format!("row-{number}"));
        let commit = Commit::new(CommitId::generate(time, [number as u8; 10]), time)
            .row(RowChange::put(key, vec![b'r'; 16]))
            .event(event);
        tokio.block_on(store.commit(commit))?;
    }
    tokio.block_on(store.close())?;
    Ok(Box::new(move || {
        let report = verify(directory.path())?;
        assert_eq!(report.commits, 100);
        Ok(())
    }))
}

/// A token of a promise, checked with its signature and with whether it is revoked.
fn token_verify() -> Outcome<Act> {
    let tokio = tokio()?;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new("bench".parse()?));
    let host = StoreEffectHost::new(
        store,
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        EffectLimits::default(),
    );
    let promises = tokio.block_on(host.await_events())?;
    let identity = WaitIdentity::Custom {
        key: "answer".to_owned(),
    };
    let scope = scope()?;
    let minted = promises.mint(&scope, &identity, TokenRights::RESOLVE, None);
    let token = tokio.block_on(minted)?;
    Ok(Box::new(move || {
        black_box(tokio.block_on(promises.verify(token.expose()))?);
        Ok(())
    }))
}

fn cursor_decode() -> Outcome<Act> {
    let identity = StoreIdentity {
        runtime: "bench".parse()?,
        lineage: "l".to_owned(),
    };
    let text = Cursor::after(&identity, Position(123_456)).to_string();
    Ok(Box::new(move || {
        black_box(black_box(&text).parse::<Cursor>()?);
        Ok(())
    }))
}
