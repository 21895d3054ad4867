//! The single flight (M2): at most one fetch per key, its landing shared by everybody.
//!
//! The protocol, each step under one lock that is never held across an await:
//! - *board*: join the flight of the key; else look once more whether an answer has been stored
//!   meanwhile; else take off and hold the [`Ticket`].
//! - *land*: store what was fetched **and then** take the flight off the board, in one step. A
//!   caller who finds no flight therefore finds the answer; without that order it would take off
//!   a second time.
//! - *ground*: take the flight off the board before it lands. It still releases its passengers,
//!   but it is told that it is no longer current, so it stores nothing.
//!
//! A ticket that is dropped without landing (its task was ended) releases its passengers too:
//! the channel closes.

use std::collections::HashMap;
use std::hash::Hash;

use crate::sync::{Fault, Mutex, MutexGuard, PoisonError, is_planted, watch};

/// The flights under way; empty when nothing is.
#[derive(Debug)]
pub(crate) struct Flights<K, R> {
    board: Mutex<Board<K, R>>,
}

#[derive(Debug)]
struct Board<K, R> {
    flights: HashMap<K, Slot<R>>,
    /// The number of the next flight: growing, so that "started after this call" can be told
    /// even when the clock stands still.
    next: u64,
    /// The flights that have not landed, those that were grounded included: a key that is
    /// invalidated again and again must not start fetches without bound.
    aloft: usize,
}

#[derive(Debug)]
struct Slot<R> {
    number: u64,
    /// What it fetches was declared out of date after it took off.
    outdated: bool,
    landing: watch::Receiver<Option<R>>,
}

/// What boarding gave.
#[derive(Debug)]
pub(crate) enum Boarding<K, R, T> {
    /// The caller starts the fetch and owns its landing.
    TakeOff(Ticket<K, R>, Passenger<R>),
    /// A fetch is under way.
    Join(Passenger<R>),
    /// An answer had been stored in the meantime.
    Found(T),
    /// Too many flights are under way.
    Full,
}

/// The duty to land a flight.
#[derive(Debug)]
pub(crate) struct Ticket<K, R> {
    pub(crate) key: K,
    pub(crate) number: u64,
    landing: watch::Sender<Option<R>>,
}

/// Somebody who waits for a flight; dropping it disturbs nobody.
#[derive(Debug)]
pub(crate) struct Passenger<R> {
    pub(crate) number: u64,
    landing: watch::Receiver<Option<R>>,
}

/// How a flight stands when it lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the flight of its key.
    Current,
    /// It is, but what it fetched was declared out of date meanwhile.
    Outdated,
    /// It was grounded: it must store nothing.
    Superseded,
}

impl<K, R> Default for Flights<K, R> {
    fn default() -> Self {
        Self {
            board: Mutex::new(Board {
                flights: HashMap::new(),
                next: 1,
                aloft: 0,
            }),
        }
    }
}

impl<K: Hash + Eq + Clone, R: Clone> Flights<K, R> {
    // Whoever panicked under the lock left a valid board.
    fn board_lock(&self) -> MutexGuard<'_, Board<K, R>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of flights that have not landed, grounded ones included.
    pub(crate) fn len(&self) -> usize {
        self.board_lock().aloft
    }

    /// Boards the flight of a key. `look` runs under the lock.
    pub(crate) fn board<T>(
        &self,
        key: &K,
        flights_max: usize,
        look: impl FnOnce() -> Option<T>,
    ) -> Boarding<K, R, T> {
        let mut board = self.board_lock();
        if let Some(slot) = board.flights.get(key) {
            let landing = slot.landing.clone();
            let number = slot.number;
            return Boarding::Join(Passenger { number, landing });
        }
        if let Some(found) = look() {
            return Boarding::Found(found);
        }
        if board.aloft >= flights_max {
            return Boarding::Full;
        }
        let (sender, landing) = watch::channel(None);
        let number = board.next;
        board.next += 1;
        board.aloft += 1;
        let slot = Slot {
            number,
            outdated: false,
            landing: landing.clone(),
        };
        board.flights.insert(key.clone(), slot);
        let ticket = Ticket {
            key: key.clone(),
            number,
            landing: sender,
        };
        Boarding::TakeOff(ticket, Passenger { number, landing })
    }

    /// Lands: `store` runs under the lock and says what the passengers get.
    pub(crate) fn land<T>(
        &self,
        ticket: Ticket<K, R>,
        store: impl FnOnce(Standing) -> (R, T),
    ) -> T {
        let mut board = self.board_lock();
        board.aloft -= 1;
        let standing = board.standing(&ticket);
        if is_planted(Fault::LeaveThenStore) {
            board.take_off_the_board(&ticket);
            drop(board);
            board = self.board_lock();
        }
        let (result, told) = store(standing);
        board.take_off_the_board(&ticket);
        drop(board);
        // Passengers wake after the answer is in place, and outside the lock.
        ticket.landing.send_replace(Some(result));
        told
    }

    /// Takes a ticket's flight off the board without a result; its passengers are released.
    pub(crate) fn abandon(&self, ticket: Ticket<K, R>) {
        let mut board = self.board_lock();
        board.aloft -= 1;
        board.take_off_the_board(&ticket);
        drop(board);
        if is_planted(Fault::AbandonedStay) {
            std::mem::forget(ticket);
        }
    }

    /// Changes what is stored while nothing can land; flights under way are left as they are.
    pub(crate) fn meanwhile<T>(&self, change: impl FnOnce() -> T) -> T {
        let _board = self.board_lock();
        change()
    }

    /// Changes what is stored under a key while no flight of it can land. `change` runs under the
    /// lock; the flight under way, if there is one, is grounded.
    pub(crate) fn ground<T>(&self, key: &K, change: impl FnOnce() -> T) -> T {
        let mut board = self.board_lock();
        let changed = change();
        board.flights.remove(key);
        changed
    }

    /// The same, but the flight goes on and lands as outdated. `change` is told the number that
    /// flights starting from now on reach or exceed.
    pub(crate) fn outdate<T>(&self, key: &K, change: impl FnOnce(u64) -> T) -> T {
        let mut board = self.board_lock();
        let changed = change(board.next);
        if let Some(slot) = board.flights.get_mut(key) {
            slot.outdated = true;
        }
        changed
    }
}

impl<K: Hash + Eq, R> Board<K, R> {
    fn standing(&self, ticket: &Ticket<K, R>) -> Standing {
        match self.flights.get(&ticket.key) {
            Some(slot) if slot.number == ticket.number => {
                if slot.outdated && !is_planted(Fault::OutdatedForgotten) {
                    Standing::Outdated
                } else {
                    Standing::Current
                }
            }
            _ if is_planted(Fault::GroundedStores) => Standing::Current,
            _ => Standing::Superseded,
        }
    }

    /// Removes the flight of this ticket, never a later flight of the same key.
    fn take_off_the_board(&mut self, ticket: &Ticket<K, R>) {
        if self.standing(ticket) != Standing::Superseded {
            self.flights.remove(&ticket.key);
        }
    }
}

impl<R: Clone> Passenger<R> {
    /// Waits for the landing; none if the flight was abandoned.
    ///
    /// # Cancel safety
    /// Dropping it leaves the flight alone.
    pub(crate) async fn arrive(mut self) -> Option<R> {
        let landed = self.landing.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}
