//! Pins in the rows of a store: what was approved outlives the process, and what waits can be
//! answered from another one (M7).

use std::sync::Arc;

use runtime_core::{Classified, Clock, CommitId, Digest, ErrorClass, EventKind, Random, ScopeId};
use runtime_store::{CommitError, Found, Guard, ReadError, Row, RowChange, Store};
use serde::Serialize;
use serde_json::{Value, json};

use crate::rows::{NAMES_MAX, Rows};
use crate::{Catalogue, DiscoveredTool, PinBoard, PinReview, WithheldTool};

/// The space of the rows: one board for each server.
const SPACE: &str = "mcp-pins";
/// How often a change is tried against others of the same board.
const ATTEMPTS_MAX: usize = 8;

/// The pins of every server, in the rows of a [`Store`].
///
/// The first list of a server is trusted and pinned as a whole; what comes later waits until
/// [`approve`](Self::approve) names exactly the definition that was shown. Each change is one
/// commit with an event of the runtime (`tool_pins_changed`), so that it is known who could call
/// what since when.
#[derive(Debug)]
pub struct StorePins(Rows);

/// The pins of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PinnedServer {
    /// The name of the server.
    pub server: String,
    /// How many definitions are pinned.
    pub pinned: usize,
    /// What waits for approval, ordered by name.
    pub withheld: Vec<WithheldTool>,
}

/// Why pins could not be read or changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// No such definition waits: it was approved, it changed again, or it was never listed.
    #[error("no such definition of {tool} at {server} waits for approval; look at it again")]
    NotWaiting {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
    /// Others change the pins of this server all the time.
    #[error("others change the pins of {server} at the same time; try again")]
    Contended {
        /// The server.
        server: String,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Classified for PinError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotWaiting { .. } => "pin_not_waiting",
            Self::Contended { .. } => "pins_contended",
            Self::Read(error) => error.code(),
            Self::Commit(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotWaiting { .. } => ErrorClass::NotFound,
            Self::Contended { .. } => ErrorClass::Busy,
            Self::Read(error) => error.class(),
            Self::Commit(error) => error.class(),
        }
    }
}

impl StorePins {
    /// Makes the pins; those of the same store and scope are the same.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        scope: ScopeId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self(Rows::new(SPACE, store, scope, clock, random))
    }

    /// Sorts a list into what may be called and what waits; the first list of a server pins
    /// itself. Writes only when that differs from what is known.
    ///
    /// # Errors
    /// [`PinError`]; nothing of the list may be called then.
    ///
    /// # Cancel safety
    /// Dropping the future may or may not have noted the list.
    pub async fn review(&self, catalogue: &Catalogue) -> Result<PinReview, PinError> {
        let reviewed = self.change(catalogue.server(), None, |board| {
            let first = !board.is_used();
            let review = board.review(catalogue);
            let told = json!({
                "first_list": first,
                "withheld": withheld_names(&review.withheld),
            });
            Some((review, told))
        });
        Ok(reviewed.await?.expect("a review is never declined"))
    }

    /// Says whether a tool of a server may be called: its definition is the pinned one. To be
    /// asked again right before each call.
    ///
    /// # Errors
    /// [`PinError::Read`]; the tool must not be called then.
    pub async fn allows(&self, server: &str, tool: &DiscoveredTool) -> Result<bool, PinError> {
        let (board, _) = self.board(server).await?;
        Ok(board.allows(tool))
    }

    /// Pins what waits under that name, if it is the definition of that digest. Approving what is
    /// pinned so already changes nothing.
    ///
    /// # Errors
    /// [`PinError::NotWaiting`], and what the store says.
    ///
    /// # Cancel safety
    /// Dropping the future may or may not approve.
    pub async fn approve(
        &self,
        server: &str,
        tool: &str,
        definition: &Digest,
    ) -> Result<(), PinError> {
        self.approved(server, tool, definition, None)
            .await
            .map(|_| ())
    }

    /// The same as a command, which may come from another process: the commit has its id, and the
    /// event names it as its cause. False if it was pinned so already, and nothing is written.
    ///
    /// # Errors
    /// As [`approve`](Self::approve).
    ///
    /// # Cancel safety
    /// As [`approve`](Self::approve); the same command again approves once.
    pub async fn approve_by(
        &self,
        command: CommitId,
        server: &str,
        tool: &str,
        definition: &Digest,
    ) -> Result<bool, PinError> {
        self.approved(server, tool, definition, Some(command)).await
    }

    async fn approved(
        &self,
        server: &str,
        tool: &str,
        definition: &Digest,
        command: Option<CommitId>,
    ) -> Result<bool, PinError> {
        let approved = self.change(server, command, |board| {
            let known = board.is_pinned(tool, definition);
            let done = known || board.approve_waiting(tool, definition);
            let told = json!({ "approved": tool, "definition": definition });
            done.then_some((!known, told))
        });
        approved.await?.ok_or_else(|| PinError::NotWaiting {
            server: server.to_owned(),
            tool: tool.to_owned(),
        })
    }

    /// Takes a pin off, so that the tool waits from its next list on; says whether there was one.
    ///
    /// # Errors
    /// [`PinError`].
    ///
    /// # Cancel safety
    /// Dropping the future may or may not revoke.
    pub async fn revoke(&self, server: &str, tool: &str) -> Result<bool, PinError> {
        let revoked = self.change(server, None, |board| {
            board.revoke(tool).then(|| ((), json!({ "revoked": tool })))
        });
        Ok(revoked.await?.is_some())
    }

    /// Returns every server that has listed something, by name.
    ///
    /// # Errors
    /// [`PinError::Read`].
    pub async fn servers(&self) -> Result<Vec<PinnedServer>, PinError> {
        let (mut servers, mut after) = (Vec::new(), None);
        loop {
            let page = self.0.page(after, usize::MAX).await?;
            for row in &page.rows {
                let board = decode(row)?;
                servers.push(PinnedServer {
                    server: row.key.name.to_string(),
                    pinned: board.pinned(),
                    withheld: board.waiting(),
                });
            }
            after = page.next;
            if after.is_none() {
                return Ok(servers);
            }
        }
    }

    async fn board(&self, server: &str) -> Result<(PinBoard, Option<u64>), ReadError> {
        let row = self.0.store.row(&self.0.key(server)).await?;
        match row {
            None => Ok((PinBoard::new(), None)),
            Some(row) => Ok((decode(&row)?, Some(row.version))),
        }
    }

    /// Changes a board by what `change` does to it; none if that says so. What it gives is told
    /// in the event of the commit. Nothing is written if the board stays as it is.
    async fn change<T>(
        &self,
        server: &str,
        command: Option<CommitId>,
        mut change: impl FnMut(&mut PinBoard) -> Option<(T, Value)>,
    ) -> Result<Option<T>, PinError> {
        for _ in 0..ATTEMPTS_MAX {
            let (before, version) = self.board(server).await?;
            let mut board = before.clone();
            let Some((result, told)) = change(&mut board) else {
                return Ok(None);
            };
            if board == before {
                return Ok(Some(result));
            }
            if self.commit(server, &board, version, told, command).await? {
                return Ok(Some(result));
            }
        }
        Err(PinError::Contended {
            server: server.to_owned(),
        })
    }

    /// Commits a board over that version; false if there is another one by now.
    async fn commit(
        &self,
        server: &str,
        board: &PinBoard,
        version: Option<u64>,
        mut told: Value,
        command: Option<CommitId>,
    ) -> Result<bool, PinError> {
        let key = self.0.key(server);
        let guard = match version {
            None => Guard::Absent(key.clone()),
            Some(version) => Guard::Version(key.clone(), version),
        };
        told["server"] = json!(server);
        let event = self
            .0
            .event(EventKind::ToolPinsChanged, server, told, command);
        let body = serde_json::to_vec(board).expect("a board is plain data");
        let commit = self.0.commit(command).guard(guard);
        let commit = commit.row(RowChange::put(key, body)).event(event);
        match self.0.store.commit(commit).await {
            Ok(_) => Ok(true),
            Err(CommitError::Rejected {
                found: Found::Absent | Found::Version(_),
                ..
            }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn withheld_names(withheld: &[WithheldTool]) -> Vec<&str> {
    let names = withheld.iter().map(|tool| tool.name.as_str());
    names.take(NAMES_MAX).collect()
}

fn decode(row: &Row) -> Result<PinBoard, ReadError> {
    serde_json::from_slice(&row.body).map_err(|error| ReadError::Corrupt {
        what: format!("the pins of {}: {error}", row.key.name),
    })
}
