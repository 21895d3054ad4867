//! What an instance keeps in memory of its sessions: who is driven, and the conversation.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime_core::{TurnId, WorkerId};
use runtime_store::Epoch;
use tokio::sync::watch;

use crate::history::SessionHistory;
use crate::turn::TurnRecord;

#[derive(Debug, Default)]
struct Session {
    /// A task drives it.
    driven: bool,
    /// Something happened since that task looked.
    woken: bool,
    /// The turn that this instance has opened, and its epoch.
    held: Option<(TurnId, Epoch)>,
    history: Option<SessionHistory>,
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
    pub(crate) fn wake(&self, worker: &WorkerId) -> bool {
        let mut sessions = self.lock();
        let session = sessions.entry(worker.clone()).or_default();
        session.woken = true;
        if session.driven || self.driven.borrow().draining {
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

    /// Notes that this instance has opened the turn.
    pub(crate) fn hold(&self, turn: &TurnRecord, epoch: Epoch) {
        let mut sessions = self.lock();
        sessions.entry(turn.worker.clone()).or_default().held = Some((turn.turn.clone(), epoch));
    }

    /// Takes the epoch of a turn that this instance has opened and not driven yet.
    pub(crate) fn take_hold(&self, turn: &TurnRecord) -> Option<Epoch> {
        let mut sessions = self.lock();
        let held = &mut sessions.get_mut(&turn.worker)?.held;
        match held {
            Some((of, _)) if *of == turn.turn => held.take().map(|(_, epoch)| epoch),
            _ => None,
        }
    }

    /// Takes the conversation that an earlier look has read.
    pub(crate) fn take_history(&self, worker: &WorkerId) -> Option<SessionHistory> {
        self.lock().get_mut(worker)?.history.take()
    }

    /// Keeps a conversation; forgets idle sessions once there are more than `max`.
    pub(crate) fn keep(&self, worker: &WorkerId, history: SessionHistory, max: usize) {
        let mut sessions = self.lock();
        sessions.entry(worker.clone()).or_default().history = Some(history);
        if sessions.len() > max {
            sessions.retain(|id, session| session.driven || session.held.is_some() || id == worker);
        }
    }

    fn leave(&self, session: &mut Session) {
        session.driven = false;
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
    pub(crate) fn take_wake(&self) -> bool {
        let mut sessions = self.sessions.lock();
        sessions
            .get_mut(&self.worker)
            .is_some_and(|session| std::mem::take(&mut session.woken))
    }

    /// Lets go, unless something happened in between. Asking and letting go are one step, so no
    /// wake is lost.
    pub(crate) fn rest(&mut self) -> bool {
        let mut sessions = self.sessions.lock();
        match sessions.get_mut(&self.worker) {
            Some(session) if session.woken && !self.sessions.is_draining() => return false,
            Some(session) => self.sessions.leave(session),
            None => {}
        }
        self.over = true;
        true
    }
}

impl Drop for Driving<'_> {
    /// A panic of the driver leaves no session driven by nobody.
    fn drop(&mut self) {
        if !self.over {
            let mut sessions = self.sessions.lock();
            if let Some(session) = sessions.get_mut(&self.worker) {
                self.sessions.leave(session);
            }
        }
    }
}
