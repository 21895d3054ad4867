//! The store itself.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{Clock, CommitId, Digest, Random, StreamKey, Timestamp};
use runtime_store::{
    AttachmentError, AttachmentStore, Capabilities, CommandInbox, Commit, CommitError, Committed,
    EventPage, KeyRing, KeyRingStore, Page, Payload, Position, ReadError, RetentionUnit, Row,
    RowKey, RowPage, RowQuery, Store, StoreIdentity,
};

use crate::attachments::{self, Attachments};
use crate::checkpoints::Checkpoints;
use crate::config::FsStoreOptions;
use crate::counts::WriteCounts;
use crate::error::OpenError;
use crate::follower::Follower;
use crate::form;
use crate::fs;
use crate::hint;
use crate::inbox::Inbox;
use crate::index::Index;
use crate::keys;
use crate::layout::{KEYS, Layout};
use crate::log::{Answer, Submission};
use crate::open::{self, Opened};
use crate::replay::{Reader, replay};
use crate::report::OpenReport;
use crate::segments::unavailable;
use crate::shared::Shared;
use crate::writer::Writer;

mod reads;
mod upkeep;

use reads::unreadable;

/// A store in one directory: tier Power or Crash, dense positions, one instance that writes and
/// any number that read.
///
/// Reads look at the index in memory and fetch bodies from their segment; a page is a few reads of
/// the page cache, done on the caller's thread. Commits are written by a thread of the store's
/// own, many with one sync. Dropping the store without [`close`](Store::close) is taken for a
/// crash by the next opening, and loses nothing.
#[derive(Debug)]
pub struct FsStore {
    layout: Layout,
    identity: StoreIdentity,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    follow_interval: Duration,
    report: OpenReport,
    pub(crate) attachments: Arc<Attachments>,
    inbox: Inbox,
    /// Nothing is written any more, beside the log either.
    closed: AtomicBool,
    /// One rotation at a time, and none after one has failed: what reached the disk is not known,
    /// and a second sync would report success for what the first one lost (S5).
    rotation_failed: Mutex<bool>,
    view: View,
}

#[derive(Debug)]
enum View {
    Owner {
        shared: Arc<Shared>,
        checkpoints: Arc<Checkpoints>,
        writer: Box<Writer>,
    },
    Beside(Box<Follower>),
}

impl FsStore {
    /// Opens a store for writing; creates it if there is none. It blocks on the disk, for as long
    /// as reading the log takes.
    ///
    /// A store whose log is damaged opens: what the damage touches is read-only, see
    /// [`OpenReport::damage`].
    ///
    /// # Errors
    /// [`OpenError`]; nothing is deleted on any of them.
    pub fn open(options: &FsStoreOptions) -> Result<Self, OpenError> {
        let Opened {
            layout,
            format,
            log,
            shared,
            report,
        } = open::open(options)?;
        let directory = layout.directory.clone();
        let checkpoints = Arc::new(Checkpoints::new(
            layout.clone(),
            shared.segments.tag,
            options.limits.remembered_commits,
            options.fs_limits,
            Arc::clone(&shared),
        ));
        let clock = Arc::clone(&options.clock);
        let writer = Writer::start(log, Arc::clone(&checkpoints), clock, options.fs_limits)
            .map_err(|e| OpenError::io("start a writer for", &directory, e))?;
        let view = View::Owner {
            shared,
            checkpoints,
            writer: Box::new(writer),
        };
        Ok(Self::assemble(
            layout,
            format.identity(),
            options,
            report,
            view,
        ))
    }

    /// Opens a store for reading, beside a writer or without one. It sees what the writer has
    /// published and follows it; it writes nothing, and cuts no tail.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::NoStore`] when there is none.
    pub fn open_read_only(options: &FsStoreOptions) -> Result<Self, OpenError> {
        let layout = Layout::new(&options.directory);
        let format = layout.open_existing()?;
        let identity = format.identity();
        if let Some(expected) = &options.runtime
            && *expected != identity.runtime
        {
            return Err(OpenError::WrongRuntime {
                expected: expected.clone(),
                found: identity.runtime,
            });
        }
        let tag = format.tag().expect("a format without tag is not read");
        let hint = hint::read(&layout);
        let remembered_max = options.limits.remembered_commits;
        let replay = replay(&layout, tag, remembered_max, Reader::Beside(hint), hint)?;
        let mut report = open::report_of(&layout, &replay, None)?;
        report.read_only = Some("opened read-only".to_owned());
        let open_max = options.fs_limits.open_segments_max;
        let known = (tag, identity.lineage.clone());
        let follower = Follower::new(layout.clone(), known, replay, remembered_max, open_max);
        let view = View::Beside(Box::new(follower));
        Ok(Self::assemble(layout, identity, options, report, view))
    }

    fn assemble(
        layout: Layout,
        identity: StoreIdentity,
        options: &FsStoreOptions,
        report: OpenReport,
        view: View,
    ) -> Self {
        let clock = Arc::clone(&options.clock);
        Self {
            attachments: Arc::new(Attachments::new(&layout, Arc::clone(&clock))),
            inbox: Inbox::new(&layout),
            layout,
            identity,
            capabilities: Capabilities {
                tier: options.tier,
                shared_by_processes: false,
                dense_positions: true,
                limits: options.limits,
            },
            clock,
            random: Arc::clone(&options.random),
            follow_interval: options.fs_limits.follow_interval,
            report,
            closed: AtomicBool::new(false),
            rotation_failed: Mutex::default(),
            view,
        }
    }

    fn lock_rotation(&self) -> MutexGuard<'_, bool> {
        let lock = self.rotation_failed.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what opening found: a cut tail, damage, foreign files.
    #[must_use]
    pub const fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Returns the directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.layout.directory
    }

    /// Counts what has been written since opening; nothing for a store opened read-only.
    #[must_use]
    pub fn written(&self) -> WriteCounts {
        match &self.view {
            View::Owner { shared, .. } => shared.written.read(),
            View::Beside(_) => WriteCounts::default(),
        }
    }

    /// Reads the inbox and returns the names of the files in it that are no commands.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`].
    pub fn foreign_in_inbox(&self) -> Result<Vec<String>, ReadError> {
        let checked = self.inbox.check();
        let checked = checked.map_err(|error| unavailable("read the inbox", error))?;
        Ok([checked.damaged, checked.foreign].concat())
    }

    fn submission(&self, commit: Commit) -> Submission {
        Submission {
            content: commit.content_digest(),
            form: form::check(&commit, &self.capabilities.limits),
            attachments: self.check_attachments(&commit),
            commit,
        }
    }

    fn check_attachments(&self, commit: &Commit) -> Result<(), CommitError> {
        for &digest in &commit.attachments {
            match self.attachments.has(&digest) {
                Ok(true) => {}
                Ok(false) => return Err(CommitError::MissingAttachment { digest }),
                Err(error) => {
                    return Err(CommitError::Unavailable {
                        reason: format!("cannot look for attachment {digest}: {error}"),
                    });
                }
            }
        }
        Ok(())
    }

    fn answer(&self, id: CommitId, answer: Answer) -> Result<Committed, CommitError> {
        match answer {
            Answer::Committed(committed) => return Ok(committed),
            Answer::Repeated => {}
        }
        match self.reading(|| self.committed_now(&id)) {
            Ok(Some(committed)) => Ok(Committed {
                repeated: true,
                ..committed
            }),
            Ok(None) => Err(CommitError::TooOld { id }),
            // It did happen, but its places cannot be told.
            Err(error) => Err(CommitError::Indeterminate {
                id,
                reason: error.to_string(),
                source: None,
            }),
        }
    }

    /// Says why nothing may be written beside the log, if so.
    fn refuses_writes(&self) -> Option<&'static str> {
        match self.view {
            View::Beside(_) => Some("the store was opened read-only"),
            View::Owner { .. } => self
                .closed
                .load(Ordering::Acquire)
                .then_some("the store is closed"),
        }
    }

    fn check_writable_attachments(&self) -> Result<(), AttachmentError> {
        match self.refuses_writes() {
            None => Ok(()),
            Some(reason) => Err(AttachmentError::Unavailable {
                reason: reason.to_owned(),
                source: None,
            }),
        }
    }

    fn read_keys(&self) -> Result<KeyRing, ReadError> {
        let path = self.layout.path(KEYS);
        let bytes = fs::read_all(&path).map_err(|error| unavailable("read the keys", error))?;
        keys::from_file(&bytes).ok_or_else(|| ReadError::Corrupt {
            what: KEYS.to_owned(),
        })
    }
}

#[async_trait]
impl Store for FsStore {
    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let View::Owner { writer, .. } = &self.view else {
            return Err(CommitError::ReadOnly {
                reason: "opened read-only".to_owned(),
            });
        };
        let id = commit.id;
        let answer = writer.submit(self.submission(commit)).await?;
        self.answer(id, answer)
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        self.reading(|| self.committed_now(id))
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        // One that cannot be read takes no commit either.
        self.with_index(|index| index.id_time(now)).unwrap_or(now)
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        self.reading(|| {
            let (entry, erased) = self.find_row(key)?;
            entry
                .map(|entry| self.read_row(key.clone(), entry, &erased))
                .transpose()
        })
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        let page = Page {
            limit: self.limit(page.limit)?,
            ..page
        };
        self.reading(|| self.rows_now(&query, &page))
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        let page = Page {
            limit: self.limit(page.limit)?,
            ..page
        };
        self.reading(|| self.events_now(stream, &page))
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        let page = Page {
            limit: self.limit(page.limit)?,
            ..page
        };
        self.reading(|| self.retention_units_now(&page))
    }

    async fn changed(&self, after: Position) -> Position {
        match &self.view {
            View::Owner { shared, .. } => {
                // Subscribing comes before the first look, so a commit in between is not missed.
                let mut head = shared.head();
                *head
                    .wait_for(|head| *head > after)
                    .await
                    .expect("the sender lives in this store")
            }
            View::Beside(follower) => loop {
                // Damage to what follows is told by the next read, so the waiter goes there.
                match follower.with_index(Index::head) {
                    Ok(head) if head > after.0 => return Position(head),
                    Ok(_) => self.clock.sleep(self.follow_interval).await,
                    Err(_) => return after,
                }
            },
        }
    }

    fn inbox(&self) -> Option<&dyn CommandInbox> {
        match &self.view {
            View::Owner { .. } => Some(&self.inbox),
            View::Beside(_) => None,
        }
    }

    async fn close(&self) -> Result<(), CommitError> {
        let View::Owner { writer, .. } = &self.view else {
            return Ok(());
        };
        self.closed.store(true, Ordering::Release);
        // One that is under way ends first: the keys are the next holder's then.
        drop(self.lock_rotation());
        writer
            .close()
            .await
            .map_err(|reason| CommitError::Unavailable { reason })
    }
}

#[async_trait]
impl AttachmentStore for FsStore {
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        self.check_writable_attachments()?;
        let attachments = Arc::clone(&self.attachments);
        blocking(move || attachments.put(&bytes))
            .await
            .map_err(|error| attachments::unavailable("write", error))
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        let attachments = Arc::clone(&self.attachments);
        let digest = *digest;
        blocking(move || attachments.get(&digest)).await
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        self.attachments
            .has(digest)
            .map_err(|error| attachments::unavailable("look for", error))
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        self.check_writable_attachments()?;
        let named = self
            .with_index(Index::snapshot)
            .and_then(|snapshot| snapshot.named_attachments().map_err(unreadable));
        let named = named.map_err(|error| AttachmentError::Unavailable {
            reason: error.to_string(),
            source: None,
        })?;
        let View::Owner {
            shared,
            checkpoints,
            ..
        } = &self.view
        else {
            return Ok(0);
        };
        let failed = |error| attachments::unavailable("sweep", error);
        let attachments = Arc::clone(&self.attachments);
        let mut aged = blocking(move || attachments.aged(min_age))
            .await
            .map_err(failed)?;
        aged.retain(|digest| !live(digest) && !named.contains(digest));
        let (attachments, checkpoints) = (Arc::clone(&self.attachments), Arc::clone(checkpoints));
        let gone = blocking(move || {
            let _maintenance = checkpoints.lock()?;
            attachments.remove_leftovers()?;
            attachments.remove(aged, min_age)
        });
        let gone = gone.await.map_err(failed)?;
        if !gone.is_empty() {
            shared.write_index().forget_attachments(&gone);
        }
        Ok(gone.len())
    }
}

#[async_trait]
impl KeyRingStore for FsStore {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.read_keys()
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        let mut failed = self.lock_rotation();
        if let Some(reason) = self.refuses_writes() {
            return Err(ReadError::Unavailable {
                reason: reason.to_owned(),
                source: None,
            });
        }
        if *failed {
            return Err(ReadError::Unavailable {
                reason: "an earlier rotation failed; reopen the store".to_owned(),
                source: None,
            });
        }
        let mut ring = self.read_keys()?;
        let id = ring.signing().id + 1;
        ring.keys.push(keys::fresh_key(id, &*self.random));
        fs::write_whole(&self.layout.directory, KEYS, &keys::to_file(&ring)).map_err(|error| {
            *failed = true;
            unavailable("write the keys", error)
        })?;
        Ok(ring)
    }
}

/// Runs what blocks on the disk for milliseconds away from the async runtime, if there is one.
#[cfg(not(feature = "simulation"))]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => match runtime.spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => unreachable!("a blocking task that has started is never cancelled"),
            },
        },
        Err(_) => work(),
    }
}

#[cfg(feature = "simulation")]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    work()
}

/// What only a simulation may do.
#[cfg(feature = "simulation")]
impl FsStore {
    /// Commits several at once, as one group with one sync.
    #[must_use]
    pub fn commit_group(&self, commits: Vec<Commit>) -> Vec<Result<Committed, CommitError>> {
        let View::Owner { writer, .. } = &self.view else {
            return Vec::new();
        };
        let ids: Vec<CommitId> = commits.iter().map(|commit| commit.id).collect();
        let group = commits
            .into_iter()
            .map(|commit| self.submission(commit))
            .collect();
        let answers = writer.submit_group(group).into_iter().zip(ids);
        answers
            .map(|(answer, id)| answer.and_then(|answer| self.answer(id, answer)))
            .collect()
    }

    /// Writes the mark that the writer's thread writes once it is idle.
    pub fn mark_idle(&self) {
        if let View::Owner { writer, .. } = &self.view {
            writer.mark();
        }
    }
}

fn refused(reason: &str) -> ReadError {
    ReadError::Unavailable {
        reason: reason.to_owned(),
        source: None,
    }
}
