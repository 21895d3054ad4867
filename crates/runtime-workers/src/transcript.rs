//! The transcript of a worker: what was said, in dense order, a page at a time (W1).
//!
//! An input is an entry from when it is accepted; the other messages of its turn follow when the
//! turn ends. An entry is a small row that says where its message is recorded: nothing is written
//! twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use runtime_core::{EventDraft, EventId, EventKind, Message, Timestamp, TurnId, WorkerId};
use runtime_store::{Page, Position, RowChange, RowKey, RowQuery, Store};
use runtime_turn::{RecordedEffect, TurnStart, messages_of_turn};
use serde::{Deserialize, Serialize};

use crate::carried::Said;
use crate::drive::corrupt;
use crate::worker::worker_scope;
use crate::{RuntimeError, WorkerRecord};

/// The longest page of a transcript; a greater limit is clamped to it.
pub const TRANSCRIPT_PAGE_MAX: usize = 256;

/// One entry of a transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranscriptItem {
    /// Its place, dense from 1.
    pub sequence: u64,
    /// The event that brought the message.
    pub event: EventId,
    /// The turn it belongs to; none for a System input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// When it was accepted, for an input; when its turn ended, for other messages.
    pub time: Timestamp,
    /// What was said.
    pub message: Arc<Message>,
}

/// A page of a transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The sequence that was asked for.
    pub start: u64,
    /// The limit in effect.
    pub limit: usize,
    /// How many entries the transcript has.
    pub total: u64,
    /// The entries, in order; none past the end.
    pub items: Vec<TranscriptItem>,
    /// Where the next page starts, if more entries follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start: Option<u64>,
}

/// Where an entry's message is recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
enum Source {
    /// In the event that the row refers to.
    Input {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn: Option<TurnId>,
    },
    /// In the events of a turn: its message of that index, the input being 0.
    Turn {
        turn: TurnId,
        index: usize,
        event: EventId,
        time: Timestamp,
    },
}

fn entry_key(worker: &WorkerId, sequence: u64) -> RowKey {
    RowKey::new(
        "transcript",
        worker_scope(worker),
        format!("{sequence:020}"),
    )
}

fn put(key: RowKey, source: &Source, event: Option<usize>) -> RowChange {
    RowChange::Put {
        key,
        body: serde_json::to_vec(source)
            .expect("a source is plain data")
            .into(),
        event,
        due: None,
    }
}

/// The entry of an input whose event is the first of its commit.
pub(crate) fn input_entry(worker: &WorkerId, sequence: u64, turn: Option<&TurnId>) -> RowChange {
    let turn = turn.cloned();
    put(
        entry_key(worker, sequence),
        &Source::Input { turn },
        Some(0),
    )
}

/// The entries of the messages that a turn has brought, after those that the transcript has.
pub(crate) fn turn_entries<'a>(
    record: &WorkerRecord,
    turn: &'a TurnId,
    events: &'a [EventId],
    time: Timestamp,
) -> impl Iterator<Item = RowChange> + use<'a> {
    let (worker, before) = (record.id().clone(), record.transcript);
    events.iter().enumerate().map(move |(at, event)| {
        let source = Source::Turn {
            turn: turn.clone(),
            index: at + 1,
            event: *event,
            time,
        };
        put(entry_key(&worker, before + at as u64 + 1), &source, None)
    })
}

/// Reads a page of a worker's transcript from a sequence on; it counts from 1.
pub(crate) async fn read(
    store: &dyn Store,
    worker: &WorkerId,
    start: u64,
    limit: usize,
) -> Result<Transcript, RuntimeError> {
    if limit == 0 {
        return Err(RuntimeError::LimitZero { limit: "page" });
    }
    let total = crate::view::worker(store, worker).await?.transcript;
    let start = start.max(1);
    let max = TRANSCRIPT_PAGE_MAX.min(store.capabilities().limits.page_entries_max);
    let limit = limit.min(max);
    let mut transcript = Transcript {
        start,
        limit,
        total,
        items: Vec::new(),
        next_start: None,
    };
    if start > total {
        return Ok(transcript);
    }
    let query = RowQuery::scope("transcript", worker_scope(worker));
    let after = (start > 1).then(|| entry_key(worker, start - 1));
    let page = store.rows(query, Page::after(after, limit)).await?;
    let mut turns = Turns::new(store, worker);
    for (row, sequence) in page.rows.iter().zip(start..) {
        // The row of the worker and this page are two reads: what came in between is the next's.
        if sequence > total {
            break;
        }
        let item = match crate::view::decode(row)? {
            Source::Input { turn } => {
                let event = row.event.as_ref();
                let event = event.ok_or_else(|| corrupt("a transcript row", "has no event"))?;
                TranscriptItem {
                    sequence,
                    event: event.id,
                    turn,
                    time: event.time,
                    message: Arc::new(crate::drive::event_payload(row, "/message")?),
                }
            }
            Source::Turn {
                turn,
                index,
                event,
                time,
            } => {
                let Some(message) = turns.message(&turn, index).await? else {
                    let oldest = turns.oldest_after(sequence).await?;
                    return Err(RuntimeError::TranscriptPruned { oldest });
                };
                TranscriptItem {
                    sequence,
                    event,
                    time,
                    message,
                    turn: Some(turn),
                }
            }
        };
        transcript.items.push(item);
    }
    let next = start + transcript.items.len() as u64;
    transcript.next_start = (next <= total).then_some(next);
    Ok(transcript)
}

/// The messages of the turns of one page, each turn read once.
struct Turns<'a> {
    store: &'a dyn Store,
    worker: &'a WorkerId,
    read: BTreeMap<TurnId, Vec<Arc<Message>>>,
}

impl<'a> Turns<'a> {
    const fn new(store: &'a dyn Store, worker: &'a WorkerId) -> Self {
        Self {
            store,
            worker,
            read: BTreeMap::new(),
        }
    }

    /// Reads a message of a turn; none if retention removed the turn.
    async fn message(
        &mut self,
        turn: &TurnId,
        index: usize,
    ) -> Result<Option<Arc<Message>>, RuntimeError> {
        if !self.read.contains_key(turn) {
            let messages = self.messages(turn).await?;
            self.read.insert(turn.clone(), messages);
        }
        let messages = &self.read[turn];
        match messages.get(index) {
            Some(message) => Ok(Some(Arc::clone(message))),
            // What is not even known to have started was removed.
            None if messages.is_empty() => Ok(None),
            None => Err(corrupt(
                "a transcript row",
                "names a message that is not there",
            )),
        }
    }

    /// Finds where the transcript is whole after an entry that retention removed: retention takes
    /// the oldest turns, so all after the first that is left are there.
    async fn oldest_after(&mut self, mut removed: u64) -> Result<u64, RuntimeError> {
        let query = RowQuery::scope("transcript", worker_scope(self.worker));
        let mut after = Some(entry_key(self.worker, removed));
        let mut sequence = removed;
        loop {
            let page = Page::after(after, TRANSCRIPT_PAGE_MAX);
            let page = self.store.rows(query.clone(), page).await?;
            for row in &page.rows {
                sequence += 1;
                let Source::Turn { turn, index, .. } = crate::view::decode(row)? else {
                    continue;
                };
                match self.message(&turn, index).await? {
                    Some(_) => return Ok(removed + 1),
                    None => removed = sequence,
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(removed + 1),
            }
        }
    }

    /// Reads the messages of a turn; of a turn that retention removed there are none.
    async fn messages(&self, turn: &TurnId) -> Result<Vec<Arc<Message>>, RuntimeError> {
        let said = Said {
            worker: self.worker,
            turn: Some(turn),
        };
        let mut start: Option<TurnStart> = None;
        let mut outcomes = Vec::new();
        said.each(self.store, Position(0), |_, event| {
            match event.kind {
                EventKind::TurnStarted => start = Some(start_of(event)?),
                _ => outcomes.extend(recorded(event)?),
            }
            Ok(())
        })
        .await?;
        let Some(start) = start else {
            return Ok(Vec::new());
        };
        messages_of_turn(&start, outcomes).map_err(|error| RuntimeError::from_part(&error))
    }
}

fn start_of(event: &EventDraft) -> Result<TurnStart, RuntimeError> {
    TurnStart::deserialize(&event.payload)
        .map_err(|error| corrupt("a turn of the transcript", &error.to_string()))
}

fn recorded(event: &EventDraft) -> Result<Option<RecordedEffect>, RuntimeError> {
    RecordedEffect::from_event(event).map_err(|error| RuntimeError::from_part(&error))
}
