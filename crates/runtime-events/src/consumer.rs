//! Durable consumers: a name and how far it has come (V9).

use std::sync::Arc;

use runtime_core::{IdError, ScopeId, Timestamp, Topic};
use runtime_store::{
    Commit, CommitError, Found, Guard, Page, Position, ReadError, Row, RowChange, RowKey, RowQuery,
};
use serde::{Deserialize, Serialize};

use crate::hub::Shared;
use crate::{ConsumerError, Cursor, CursorError, EventHub, EventStream};

const SPACE: &str = "consumer";
const SCOPE_PREFIX: &str = "consumer/";
const SCHEMA: u16 = 1;
/// How often an acknowledgement is tried against others of the same consumer.
const ATTEMPTS_MAX: usize = 8;

/// A reader whose place is stored: after a restart it goes on after what it acknowledged.
///
/// An event may be given again if the process ended between handling and acknowledging it.
#[derive(Debug, Clone)]
pub struct Consumer {
    shared: Arc<Shared>,
    key: RowKey,
}

/// How far a consumer has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// Its name.
    pub name: String,
    /// What it has acknowledged.
    pub cursor: Cursor,
    /// When it last did.
    pub acknowledged_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Record {
    schema: u16,
    cursor: Cursor,
    acknowledged_at: Timestamp,
}

impl Record {
    fn read(row: &Row) -> Result<Self, ReadError> {
        serde_json::from_slice(&row.body).map_err(|error| ReadError::Corrupt {
            what: format!("the place of {}: {error}", row.key.scope),
        })
    }
}

impl EventHub {
    /// Returns the consumer of that name. Nothing is stored before it acknowledges.
    ///
    /// # Errors
    /// The name is no bounded text.
    pub fn consumer(&self, name: &str) -> Result<Consumer, IdError> {
        let scope = ScopeId::new(format!("{SCOPE_PREFIX}{name}"))?;
        Ok(Consumer {
            shared: Arc::clone(&self.shared),
            key: RowKey::new(SPACE, scope, ""),
        })
    }

    /// Returns every consumer that has acknowledged something, by name.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn consumers(&self) -> Result<Vec<ConsumerState>, ReadError> {
        let (mut states, mut after) = (Vec::new(), None);
        loop {
            let page = Page::after(after, self.shared.page_limit());
            let page = self.shared.store.rows(RowQuery::space(SPACE), page).await?;
            for row in &page.rows {
                let record = Record::read(row)?;
                let scope = row.key.scope.as_str();
                states.push(ConsumerState {
                    name: scope.strip_prefix(SCOPE_PREFIX).unwrap_or(scope).to_owned(),
                    cursor: record.cursor,
                    acknowledged_at: record.acknowledged_at,
                });
            }
            after = page.next;
            if after.is_none() {
                return Ok(states);
            }
        }
    }

    /// Returns the position up to which every consumer has acknowledged: what retention may
    /// remove without any of them missing it. None when there is no consumer.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn watermark(&self) -> Result<Option<Position>, ReadError> {
        let identity = self.shared.store.identity();
        let place = |state: &ConsumerState| match state.cursor.check(identity) {
            Ok(()) => state.cursor.position(),
            // It has seen nothing of this log.
            Err(_) => Position(0),
        };
        Ok(self.consumers().await?.iter().map(place).min())
    }
}

impl Consumer {
    /// Returns what was acknowledged, if anything was.
    ///
    /// # Errors
    /// [`ConsumerError::Read`].
    pub async fn cursor(&self) -> Result<Option<Cursor>, ConsumerError> {
        let row = self.shared.store.row(&self.key).await?;
        let record = row.as_ref().map(Record::read).transpose()?;
        Ok(record.map(|record| record.cursor))
    }

    /// Gives everything of a topic after what was acknowledged, or from the start.
    ///
    /// # Errors
    /// [`ConsumerError::Read`].
    pub async fn subscribe(&self, topic: Topic) -> Result<EventStream, ConsumerError> {
        let hub = EventHub {
            shared: Arc::clone(&self.shared),
        };
        let start = hub.cursor_from_start();
        Ok(hub.subscribe(topic, self.cursor().await?.unwrap_or(start)))
    }

    /// Acknowledges everything up to a cursor. What was acknowledged is never taken back: an
    /// earlier cursor changes nothing. Says whether the place moved.
    ///
    /// # Errors
    /// [`ConsumerError`]: a cursor of another log or from the future, or the store's refusal.
    ///
    /// # Cancel safety
    /// Dropping the future may or may not acknowledge.
    pub async fn acknowledge(&self, cursor: Cursor) -> Result<bool, ConsumerError> {
        let store = &self.shared.store;
        cursor.check(store.identity())?;
        let position = cursor.position();
        let end = Page::after(Position(u64::MAX), 1);
        let head = store.events(None, end).await?.head;
        if position > head {
            return Err(CursorError::Future { position, head }.into());
        }
        for _ in 0..ATTEMPTS_MAX {
            if let Some(moved) = self.try_acknowledge(cursor).await? {
                return Ok(moved);
            }
        }
        Err(ConsumerError::Contended)
    }

    /// Forgets the consumer: it no longer holds retention back.
    ///
    /// # Errors
    /// [`ConsumerError::Commit`].
    pub async fn forget(&self) -> Result<(), ConsumerError> {
        let commit = self.commit().row(RowChange::Delete(self.key.clone()));
        self.shared.store.commit(commit).await?;
        Ok(())
    }

    /// Tries once; none when somebody else acknowledged in between.
    async fn try_acknowledge(&self, cursor: Cursor) -> Result<Option<bool>, ConsumerError> {
        let row = self.shared.store.row(&self.key).await?;
        let guard = match &row {
            None => Guard::Absent(self.key.clone()),
            Some(row) => {
                let before = Record::read(row)?.cursor;
                let same_log = before.check(self.shared.store.identity()).is_ok();
                if same_log && before.position() >= cursor.position() {
                    return Ok(Some(false));
                }
                Guard::Version(self.key.clone(), row.version)
            }
        };
        let record = Record {
            schema: SCHEMA,
            cursor,
            acknowledged_at: self.shared.clock.now(),
        };
        let body = serde_json::to_vec(&record).expect("a record is plain data");
        let put = RowChange::put(self.key.clone(), body);
        let commit = self.commit().guard(guard).row(put);
        match self.shared.store.commit(commit).await {
            Ok(_) => Ok(Some(true)),
            Err(CommitError::Rejected {
                found: Found::Absent | Found::Version(_),
                ..
            }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn commit(&self) -> Commit {
        let shared = &self.shared;
        Commit::fresh(&*shared.store, &*shared.clock, &*shared.random)
    }
}
