//! The one task that writes: it gathers commits, makes each batch in one call, and settles what a
//! lost connection leaves open before anything else is written.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::CommitId;
use runtime_store::{CommitError, Committed, ReadError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Statement;

use crate::PostgresLimits;
use crate::batch::Footprint;
use crate::call::{self, Submitted, Verdict, signed};
use crate::clock::DatabaseClock;
use crate::connect::{Connector, PAUSE_FIRST, PAUSE_MAX, Session};
use crate::error::Failure;
use crate::head::Head;
use crate::read;

/// What the store asks of the committer.
#[derive(Debug)]
pub(crate) enum Request {
    Commit {
        submitted: Submitted,
        reply: oneshot::Sender<Result<Committed, CommitError>>,
    },
    Committed {
        id: CommitId,
        reply: oneshot::Sender<Result<Option<Committed>, ReadError>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

type Waiting = (Submitted, oneshot::Sender<Result<Committed, CommitError>>);

/// The writing side of a store.
pub(crate) struct Committer {
    pub(crate) connector: Connector,
    pub(crate) limits: PostgresLimits,
    pub(crate) runtime: i32,
    pub(crate) remembered: usize,
    /// The advisory lock that the session of this committer holds. A new session takes it before
    /// it writes or looks anything up, so the earlier one is gone by then and makes nothing more.
    pub(crate) lock: i64,
    pub(crate) submissions: i64,
    pub(crate) head: Arc<Head>,
    pub(crate) clock: DatabaseClock,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) session: Option<(Session, Statements)>,
}

/// What is prepared on the session.
#[derive(Debug)]
pub(crate) struct Statements {
    commit_batch: Statement,
    committed: Statement,
}

impl Committer {
    /// Serves until the store is closed or dropped.
    pub(crate) async fn run(mut self) {
        let mut next = None;
        loop {
            let request = match next.take() {
                Some(request) => request,
                None => match self.requests.recv().await {
                    Some(request) => request,
                    None => return,
                },
            };
            match request {
                Request::Commit { submitted, reply } => {
                    let (batch, follower) = self.gather((submitted, reply));
                    next = follower;
                    self.make(batch).await;
                }
                Request::Committed { id, reply } => {
                    let found = self.committed(&[id]).await;
                    // Nobody waits any more: nothing is lost by not answering.
                    let _answered = reply.send(
                        found
                            .map(|mut found| found.pop().map(|(_, committed)| committed))
                            .map_err(|failure| failure.read_error()),
                    );
                }
                Request::Close { reply } => {
                    if let Some((session, _)) = self.session.take() {
                        session.close().await;
                    }
                    let _answered = reply.send(());
                    return;
                }
            }
        }
    }

    /// Takes what waits and fits into one call; the first that does not is given back.
    fn gather(&mut self, first: Waiting) -> (Vec<Waiting>, Option<Request>) {
        let mut footprint = Footprint::default();
        footprint.add(&first.0.commit);
        let mut bytes = first.0.commit.bytes();
        let mut batch = vec![first];
        while batch.len() < self.limits.group_commits_max && bytes < self.limits.group_bytes_max {
            match self.requests.try_recv() {
                Ok(Request::Commit { submitted, reply }) => {
                    if !footprint.add(&submitted.commit) {
                        return (batch, Some(Request::Commit { submitted, reply }));
                    }
                    bytes += submitted.commit.bytes();
                    batch.push((submitted, reply));
                }
                Ok(other) => return (batch, Some(other)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    /// Makes a batch and answers everybody in it.
    async fn make(&mut self, batch: Vec<Waiting>) {
        let (submitted, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let answers = match self.submit(&submitted).await {
            Err(Failure::Refused(_)) if submitted.len() > 1 => self.one_by_one(&submitted).await,
            outcome => answers(outcome, &submitted),
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _answered = reply.send(answer);
        }
    }

    /// The server undid a whole batch, for the sake of one of its commits or of all: each is
    /// asked for alone, so that it fails alone.
    async fn one_by_one(&mut self, batch: &[Submitted]) -> Vec<Result<Committed, CommitError>> {
        let mut all = Vec::with_capacity(batch.len());
        for one in batch.chunks(1) {
            let outcome = self.submit(one).await;
            all.extend(answers(outcome, one));
        }
        all
    }

    /// Sends a batch until its fate is known or patience ends.
    async fn submit(&mut self, batch: &[Submitted]) -> Result<Vec<Answer>, Failure> {
        self.submissions = self.submissions.wrapping_add(1);
        let submission = self.submissions;
        let deadline = Instant::now() + self.limits.patience;
        let mut pause = PAUSE_FIRST;
        // Whether the batch may have reached the server.
        let mut sent = false;
        loop {
            let lost = match self.session(deadline).await {
                Ok(()) => match self.attempt(submission, batch, &mut sent).await {
                    Ok(answers) => return Ok(answers),
                    Err(Failure::Refused(error)) => return Err(Failure::Refused(error)),
                    Err(lost) => lost,
                },
                // It was not sent, or the session that may have made it is still to be waited for.
                Err(failure) if sent => Failure::Lost(failure.reason()),
                Err(failure) => return Ok(unavailable(&failure, batch)),
            };
            tracing::debug!(reason = lost.reason(), "a batch of commits is sent again");
            self.session = None;
            if Instant::now() >= deadline {
                return if sent {
                    Err(lost)
                } else {
                    Ok(unavailable(&lost, batch))
                };
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(
        &mut self,
        submission: i64,
        batch: &[Submitted],
        sent: &mut bool,
    ) -> Result<Vec<Answer>, Failure> {
        let (session, statements) = self.session.as_ref().expect("there is a session");
        *sent = true;
        let call = call::commit_batch(
            &session.client,
            &statements.commit_batch,
            self.runtime,
            submission,
            signed(self.remembered as u64),
            batch,
        );
        let asked = Instant::now();
        let (verdicts, now) = within(self.limits.call_timeout, call).await?;
        self.clock.learn(now, asked.elapsed());
        let known: Vec<CommitId> = batch
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| matches!(verdict, Verdict::Known { .. }))
            .map(|(submitted, _)| submitted.commit.id)
            .collect();
        let results = if known.is_empty() {
            Vec::new()
        } else {
            self.look_up(&known).await?
        };
        let answer = |(submitted, verdict): (&Submitted, Verdict)| match verdict {
            Verdict::Made(committed) => {
                if let Some(position) = committed.last_position() {
                    self.head.appended(position);
                }
                Ok(committed)
            }
            Verdict::Refused(error) => Err(error),
            Verdict::Known { own } => {
                let id = submitted.commit.id;
                let found = results.iter().find(|(found, _)| *found == id);
                found.map_or(Err(CommitError::TooOld { id }), |(_, committed)| {
                    Ok(Committed {
                        repeated: !own,
                        ..committed.clone()
                    })
                })
            }
        };
        Ok(batch.iter().zip(verdicts).map(answer).collect())
    }

    /// Says what became of commits; none of an earlier session is still under way then.
    async fn committed(&mut self, ids: &[CommitId]) -> Result<Vec<(CommitId, Committed)>, Failure> {
        let deadline = Instant::now() + self.limits.patience;
        loop {
            self.session(deadline).await?;
            match self.look_up(ids).await {
                Err(Failure::Lost(reason)) => {
                    self.session = None;
                    if Instant::now() >= deadline {
                        return Err(Failure::Lost(reason));
                    }
                }
                found => return found,
            }
        }
    }

    async fn look_up(&self, ids: &[CommitId]) -> Result<Vec<(CommitId, Committed)>, Failure> {
        let (session, statements) = self.session.as_ref().expect("there is a session");
        let found = read::committed(&session.client, &statements.committed, self.runtime, ids);
        within(self.limits.call_timeout, found).await
    }

    /// Makes sure that there is a session, and that the one before has ended.
    async fn session(&mut self, deadline: Instant) -> Result<(), Failure> {
        if self
            .session
            .as_ref()
            .is_some_and(|(session, _)| !session.is_lost())
        {
            return Ok(());
        }
        self.session = None;
        let mut pause = PAUSE_FIRST;
        loop {
            match open(&self.connector, self.lock, self.limits.call_timeout).await {
                Ok(session) => {
                    self.session = Some(session);
                    return Ok(());
                }
                Err(failure) if Instant::now() >= deadline => return Err(failure),
                Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Opens the session of a committer. Whoever held its lock before has ended when this returns.
pub(crate) async fn open(
    connector: &Connector,
    lock: i64,
    patience: Duration,
) -> Result<(Session, Statements), Failure> {
    let session = connector.connect(watch::Sender::default()).await?;
    let client = &session.client;
    let prepared = async {
        // Only a session of this very store holds its lock: the one we have given up.
        let earlier = "SELECT pg_terminate_backend(pid) FROM pg_locks \
             WHERE locktype = 'advisory' AND objsubid = 1 AND granted \
             AND (classid::bigint << 32 | objid::bigint) = $1 AND pid <> pg_backend_pid()";
        client.execute(earlier, &[&lock]).await?;
        client
            .execute("SELECT pg_advisory_lock($1)", &[&lock])
            .await?;
        Ok(Statements {
            commit_batch: client.prepare(&call::statement()).await?,
            committed: client.prepare(read::COMMITTED).await?,
        })
    };
    let statements = within(patience, prepared).await?;
    Ok((session, statements))
}

/// The answer to one commit of a batch.
type Answer = Result<Committed, CommitError>;

fn unavailable(failure: &Failure, batch: &[Submitted]) -> Vec<Answer> {
    let reason = failure.reason();
    let one = |_| {
        Err(CommitError::Unavailable {
            reason: reason.clone(),
        })
    };
    batch.iter().map(one).collect()
}

fn answers(outcome: Result<Vec<Answer>, Failure>, batch: &[Submitted]) -> Vec<Answer> {
    match outcome {
        Ok(answers) => answers,
        // Undone: it has not happened.
        Err(Failure::Refused(error)) => unavailable(&Failure::Refused(error), batch),
        Err(Failure::Lost(reason) | Failure::Damaged(reason)) => {
            let one = |submitted: &Submitted| {
                Err(CommitError::Indeterminate {
                    id: submitted.commit.id,
                    reason: reason.clone(),
                    source: None,
                })
            };
            batch.iter().map(one).collect()
        }
    }
}

/// Waits so long for an answer; after that the connection counts as lost.
pub(crate) async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match timeout(patience, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Lost(format!("no answer within {patience:?}"))),
    }
}
