//! The thread that runs the log: it takes what waits as one group, so many commits share a sync.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;

use runtime_core::{Clock, CommitId};
use runtime_store::CommitError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::checkpoints::{Checkpointer, Checkpoints};
use crate::config::FsLimits;
use crate::log::{Answer, Log, Sealed, Submission};

type Reply = oneshot::Sender<Result<Answer, CommitError>>;

/// What the thread is asked for.
#[derive(Debug)]
enum Job {
    Commit(Submission, Reply),
    Seal(oneshot::Sender<Result<Sealed, String>>),
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    /// Used by `close`; dropped without it the thread ends as well, but not in order.
    closing: Mutex<Option<oneshot::Sender<()>>>,
    ended: watch::Receiver<Option<Result<(), String>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(crate) fn start(
        log: Log,
        checkpoints: Arc<Checkpoints>,
        clock: Arc<dyn Clock>,
        limits: FsLimits,
    ) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(limits.queue_commits_max);
        let (end, ended) = watch::channel(None);
        let (close, closing) = oneshot::channel();
        // The clock's sleep may need a runtime around it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let checkpointer = Checkpointer::start(Arc::clone(&checkpoints))?;
        let thread = std::thread::Builder::new()
            .name("fs-store".to_owned())
            .spawn(move || {
                let (mut log, mut waiting) = (log, waiting);
                let work = run(
                    &mut log,
                    &mut waiting,
                    closing,
                    &checkpointer,
                    &*clock,
                    limits,
                );
                let result = match runtime.block_on(work) {
                    true => log.close(),
                    // Dropped without `close`: the next opening says so.
                    false => Ok(()),
                };
                // What these write is the holder's, so they end before another one can be.
                checkpoints.end();
                drop(checkpointer);
                // The lock goes first, so that whoever waits for the end can open again.
                drop(log);
                end.send_replace(Some(result));
                // Last, so that whoever was not taken any more sees that nothing happened.
                drop(waiting);
            })?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            closing: Mutex::new(Some(close)),
            ended,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Hands a commit over and waits for its answer. Once it is in the queue it happens, whether
    /// or not anybody waits.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Answer, CommitError> {
        let id = submission.commit.id;
        let queue = self.lock_queue().clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        queue
            .send(Job::Commit(submission, reply))
            .await
            .map_err(|_| closed())?;
        drop(queue);
        answer.await.unwrap_or_else(|_| match self.has_ended() {
            true => Err(closed()),
            false => Err(gone(id)),
        })
    }

    /// Says whether the thread has answered all that it took, and takes nothing any more.
    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Begins a new segment.
    pub(crate) async fn seal(&self) -> Result<Sealed, String> {
        let gone = "the store is closed";
        let queue = self.lock_queue().clone().ok_or(gone)?;
        let (reply, answer) = oneshot::channel();
        let sent = queue.send(Job::Seal(reply)).await;
        drop(queue);
        sent.map_err(|_| gone)?;
        answer.await.unwrap_or_else(|_| Err(gone.to_owned()))
    }

    /// Ends the thread once it has taken what is in the queue. It does not wait for those that
    /// found no place there: nobody may be polling them any more.
    pub(crate) async fn close(&self) -> Result<(), String> {
        let closing = self.closing.lock();
        if let Some(close) = closing.unwrap_or_else(PoisonError::into_inner).take() {
            // A thread that has panicked says so below.
            let _ = close.send(());
        }
        drop(self.lock_queue().take());
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err("the writer panicked".to_owned()),
        };
        self.join();
        result
    }

    fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer panicked");
        }
    }

    fn lock_queue(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Job>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.lock_queue().take());
        // Joined, so that the directory can be opened again at once.
        self.join();
    }
}

/// Runs until the store is closed or dropped, and says whether it was closed.
async fn run(
    log: &mut Log,
    waiting: &mut mpsc::Receiver<Job>,
    mut closing: oneshot::Receiver<()>,
    checkpointer: &Checkpointer,
    clock: &dyn Clock,
    limits: FsLimits,
) -> bool {
    let mut group = Vec::new();
    let mut is_closed = false;
    loop {
        if let Some(number) = log.take_sealed() {
            checkpointer.sealed(number);
        }
        let needs_mark = log.needs_mark();
        let mut idle = None;
        let taken = poll_fn(|context| {
            if let Poll::Ready(closed) = Pin::new(&mut closing).poll(context) {
                is_closed = closed.is_ok();
                return Poll::Ready(Some(0));
            }
            let taken = waiting.poll_recv_many(context, &mut group, limits.group_commits_max);
            if let Poll::Ready(taken) = taken {
                return Poll::Ready(Some(taken));
            }
            if !needs_mark {
                return Poll::Pending;
            }
            // Begun only when nothing waits: a busy writer makes no timers.
            let idle = idle.get_or_insert_with(|| clock.sleep(limits.idle_mark));
            idle.as_mut().poll(context).map(|()| None)
        })
        .await;
        match taken {
            Some(0) => break,
            Some(_) => answer_group(log, &mut group),
            None => log.mark(),
        }
    }
    // What is in the queue happens. Whoever has no place there may not be polled any more, so it is
    // not waited for.
    waiting.close();
    while let Ok(job) = waiting.try_recv() {
        group.push(job);
        if group.len() >= limits.group_commits_max {
            answer_group(log, &mut group);
        }
    }
    answer_group(log, &mut group);
    is_closed || closing.try_recv().is_ok()
}

fn answer_group(log: &mut Log, group: &mut Vec<Job>) {
    let mut submissions = Vec::with_capacity(group.len());
    let mut replies = Vec::with_capacity(group.len());
    let mut seals = Vec::new();
    for job in group.drain(..) {
        match job {
            Job::Commit(submission, reply) => {
                submissions.push(submission);
                replies.push(reply);
            }
            Job::Seal(reply) => seals.push(reply),
        }
    }
    // Nobody may be waiting any more; the commit has happened all the same.
    for (answer, reply) in log.run(submissions).into_iter().zip(replies) {
        let _ = reply.send(answer);
    }
    for reply in seals {
        let _ = reply.send(log.seal());
    }
}

fn closed() -> CommitError {
    CommitError::ReadOnly {
        reason: "the store is closed".to_owned(),
    }
}

fn gone(id: CommitId) -> CommitError {
    CommitError::Indeterminate {
        id,
        reason: "the writer ended while the commit was with it".to_owned(),
        source: None,
    }
}
