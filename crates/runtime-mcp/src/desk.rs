//! What a server asks in the older era, and the call that it asks for.
//!
//! There a question is a request of the server like any other and names no call. While one call
//! is under way it is asked for that call; beside several, nobody could say for which, so it is
//! answered as cancelled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// The calls under way on one connection.
#[derive(Debug, Default)]
pub(crate) struct Desk(Mutex<Seats>);

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, mpsc::Sender<Question>>,
}

/// The place of a call at the desk; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Seat {
    desk: Arc<Desk>,
    number: u64,
    questions: mpsc::Receiver<Question>,
}

/// Something that the server asks. Dropping it cancels.
#[derive(Debug)]
pub(crate) struct Question {
    /// The parameters of the request.
    pub(crate) params: Value,
    /// Where its answer goes.
    pub(crate) reply: oneshot::Sender<Value>,
}

impl Desk {
    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        let (sender, questions) = mpsc::channel(1);
        let mut seats = self.lock();
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, sender);
        Seat {
            desk: Arc::clone(self),
            number,
            questions,
        }
    }

    /// Asks the one call that is under way; none if there is no such call, or nobody answered.
    pub(crate) async fn ask(&self, params: Value) -> Option<Value> {
        let seat = {
            let seats = self.lock();
            let mut taken = seats.taken.values();
            taken.next().filter(|_| seats.taken.len() == 1).cloned()
        }?;
        let (reply, answer) = oneshot::channel();
        seat.send(Question { params, reply }).await.ok()?;
        answer.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits for a question; for ever if none comes.
    pub(crate) async fn asked(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desk.lock().taken.remove(&self.number);
    }
}
