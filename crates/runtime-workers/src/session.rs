//! What an instance keeps in memory of its sessions: who is driven, and the conversation.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use runtime_core::{InstanceId, TurnId, WorkerId};
use runtime_store::Epoch;
use tokio::sync::watch;

use crate::RuntimeConfig;
use crate::history::SessionHistory;
use crate::turn::TurnRecord;

#[derive(Debug, Default)]
struct Session {
    /// A task drives it.
    driven: bool,
    /// What happened since that task looked.
    woken: Option<Wake>,
    /// The turn that this instance has opened and does not drive yet.
    held: Option<(TurnId, Hold)>,
    /// The turn that this instance has driven and that has neither ended nor parked.
    opened: Option<(TurnRecord, Hold)>,
    /// Driving it failed, and is tried again.
    retry: Option<Retry>,
    /// Its worker was stopped: the turn that runs begins no further effect.
    halted: bool,
    history: Option<Arc<SessionHistory>>,
}

impl Session {
    /// Whether forgetting it costs nothing.
    const fn is_empty(&self) -> bool {
        let works = self.driven || self.held.is_some() || self.opened.is_some();
        !works && !self.halted && self.retry.is_none() && self.history.is_none()
    }
}

/// How a turn was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    /// The epoch of its scope.
    pub(crate) epoch: Epoch,
    /// The instance that opened it, where instances have leases.
    pub(crate) instance: Option<InstanceId>,
}

/// Why a session is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wake {
    /// Something happened that may concern it.
    News,
    /// Somebody asks for it: turns that are parked for a repair try again.
    Insist,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    /// How often driving has failed in a row.
    failures: u32,
    /// When to try again, by the monotonic clock; none once that is given up, or under way.
    at: Option<Duration>,
}

/// The sessions of an instance. Nothing here is truth: it can be dropped at any time.
#[derive(Debug)]
pub(crate) struct Sessions {
    sessions: Mutex<HashMap<WorkerId, Session>>,
    /// How many sessions are driven; none again once draining.
    driven: watch::Sender<Driven>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Driven {
    count: usize,
    draining: bool,
}

/// The right to drive a session; letting go of it lets somebody else.
#[derive(Debug)]
pub(crate) struct Driving<'a> {
    sessions: &'a Sessions,
    worker: WorkerId,
    over: bool,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            sessions: Mutex::default(),
            driven: watch::Sender::new(Driven::default()),
        }
    }
}

impl Sessions {
    /// Notes that something happened; true when the caller must start a task that drives it.
    pub(crate) fn wake(&self, worker: &WorkerId, wake: Wake) -> bool {
        let mut sessions = self.lock();
        if self.driven.borrow().draining {
            return false;
        }
        let session = sessions.entry(worker.clone()).or_default();
        session.woken = session.woken.max(Some(wake));
        if session.driven {
            return false;
        }
        session.driven = true;
        self.driven.send_modify(|driven| driven.count += 1);
        true
    }

    /// Takes up the right to drive that [`wake`](Self::wake) gave.
    pub(crate) const fn driving(&self, worker: WorkerId) -> Driving<'_> {
        Driving {
            sessions: self,
            worker,
            over: false,
        }
    }

    /// Lets nobody start to drive any more.
    pub(crate) fn drain(&self) {
        self.driven.send_modify(|driven| driven.draining = true);
    }

    /// Waits for something; none once nobody may start to drive any more.
    pub(crate) async fn until_draining<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut draining = self.driven.subscribe();
        let drained = std::pin::pin!(draining.wait_for(|driven| driven.draining));
        match select(std::pin::pin!(future), drained).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.driven.borrow().draining
    }

    /// Waits until nobody drives.
    pub(crate) async fn settled(&self) {
        // The sender lives as long as this future's borrow, so the wait cannot fail.
        let _ = self
            .driven
            .subscribe()
            .wait_for(|driven| driven.count == 0)
            .await;
    }

    /// How many sessions are driven.
    pub(crate) fn driven(&self) -> usize {
        self.driven.borrow().count
    }

    /// Notes that driving failed; says after which pause it is tried again, if it is.
    pub(crate) fn retry_later(
        &self,
        worker: &WorkerId,
        now: Duration,
        config: &RuntimeConfig,
    ) -> Option<Duration> {
        let mut sessions = self.lock();
        let session = sessions.entry(worker.clone()).or_default();
        let failures = session.retry.map_or(0, |retry| retry.failures) + 1;
        let doubled = 2_u32.saturating_pow(failures - 1);
        let pause = (failures < config.drive_attempts_max)
            .then(|| config.drive_pause.saturating_mul(doubled));
        let at = pause.map(|pause| now.saturating_add(pause));
        // Given up: the next time that somebody asks, it counts from the start.
        session.retry = at.map(|_| Retry { failures, at });
        pause
    }

    /// Notes that driving works.
    pub(crate) fn forget_failures(&self, worker: &WorkerId) {
        if let Some(session) = self.lock().get_mut(worker) {
            session.retry = None;
        }
    }

    /// Takes the sessions whose pause after a failure is over.
    pub(crate) fn take_retries(&self, now: Duration) -> Vec<WorkerId> {
        let mut sessions = self.lock();
        let mut over = Vec::new();
        for (worker, session) in sessions.iter_mut() {
            if let Some(retry) = &mut session.retry
                && retry.at.is_some_and(|at| at <= now)
            {
                retry.at = None;
                over.push(worker.clone());
            }
        }
        over
    }

    /// Lets the turn that runs begin no further effect, or lets it again.
    pub(crate) fn halt(&self, worker: &WorkerId, halted: bool) {
        let mut sessions = self.lock();
        // A session that nobody drives looks at the worker's record first.
        if let Some(session) = sessions.get_mut(worker) {
            session.halted = halted && session.driven;
        }
    }

    /// Says whether the turn that runs must not begin another effect.
    pub(crate) fn is_halted(&self, worker: &WorkerId) -> bool {
        self.lock()
            .get(worker)
            .is_some_and(|session| session.halted)
    }

    /// Forgets what was held: the turn is not in that epoch any more, or never was.
    pub(crate) fn release(&self, worker: &WorkerId) {
        if let Some(session) = self.lock().get_mut(worker) {
            session.held = None;
        }
    }

    /// Notes that this instance has opened the turn.
    pub(crate) fn hold(&self, turn: &TurnRecord, hold: Hold) {
        let mut sessions = self.lock();
        sessions.entry(turn.worker.clone()).or_default().held = Some((turn.turn.clone(), hold));
    }

    /// Notes that this instance drives the turn.
    pub(crate) fn drives(&self, turn: &TurnRecord, hold: Hold) {
        let mut sessions = self.lock();
        sessions.entry(turn.worker.clone()).or_default().opened = Some((turn.clone(), hold));
    }

    /// Notes that the turn has ended or parked, or belongs to somebody else.
    pub(crate) fn drives_no_more(&self, worker: &WorkerId) {
        if let Some(session) = self.lock().get_mut(worker) {
            session.opened = None;
        }
    }

    /// Says whether this instance is the last that drove the turn.
    pub(crate) fn has_driven(&self, turn: &TurnRecord) -> bool {
        let sessions = self.lock();
        let opened = sessions
            .get(&turn.worker)
            .and_then(|session| session.opened.as_ref());
        opened.is_some_and(|(opened, _)| opened.turn == turn.turn)
    }

    /// Returns the turns that this instance has driven and that have neither ended nor parked.
    pub(crate) fn opened(&self) -> Vec<(TurnRecord, Hold)> {
        let sessions = self.lock();
        sessions
            .values()
            .filter_map(|session| session.opened.clone())
            .collect()
    }

    /// Takes the hold on a turn that this instance has opened and not driven yet.
    pub(crate) fn take_hold(&self, turn: &TurnRecord) -> Option<Hold> {
        let mut sessions = self.lock();
        let held = &mut sessions.get_mut(&turn.worker)?.held;
        match held {
            Some((of, _)) if *of == turn.turn => held.take().map(|(_, hold)| hold),
            _ => None,
        }
    }

    /// Takes the conversation that an earlier look has read.
    pub(crate) fn take_history(&self, worker: &WorkerId) -> Option<Arc<SessionHistory>> {
        self.lock().get_mut(worker)?.history.take()
    }

    /// Keeps a conversation; forgets idle sessions once there are more than `max`.
    pub(crate) fn keep(&self, worker: &WorkerId, history: Arc<SessionHistory>, max: usize) {
        let mut sessions = self.lock();
        sessions.entry(worker.clone()).or_default().history = Some(history);
        if sessions.len() > max {
            for (id, session) in sessions.iter_mut() {
                if !session.driven && id != worker {
                    session.history = None;
                }
            }
            sessions.retain(|_, session| !session.is_empty());
        }
    }

    fn leave(&self, sessions: &mut HashMap<WorkerId, Session>, worker: &WorkerId) {
        let Some(session) = sessions.get_mut(worker) else {
            return;
        };
        session.driven = false;
        session.halted = false;
        if session.is_empty() {
            sessions.remove(worker);
        }
        self.driven
            .send_modify(|driven| driven.count = driven.count.saturating_sub(1));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, Session>> {
        // Each change is complete in itself, so a panic elsewhere leaves nothing half done.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driving<'_> {
    /// Takes the note, before looking at the store: what happens later leaves a new one.
    pub(crate) fn take_wake(&self) -> Option<Wake> {
        let mut sessions = self.sessions.lock();
        sessions.get_mut(&self.worker)?.woken.take()
    }

    /// Lets go, unless something happened in between. Asking and letting go are one step, so no
    /// wake is lost.
    pub(crate) fn rest(&mut self) -> bool {
        let mut sessions = self.sessions.lock();
        let woken = sessions
            .get(&self.worker)
            .is_some_and(|session| session.woken.is_some());
        if woken && !self.sessions.is_draining() {
            return false;
        }
        self.sessions.leave(&mut sessions, &self.worker);
        self.over = true;
        true
    }
}

impl Drop for Driving<'_> {
    /// A panic of the driver leaves no session driven by nobody.
    fn drop(&mut self) {
        if !self.over {
            let mut sessions = self.sessions.lock();
            self.sessions.leave(&mut sessions, &self.worker);
        }
    }
}
