//! Live fan-out that does what the law of live fan-out allows, at its worst.

use std::sync::{Arc, Mutex, PoisonError};

use runtime_events::{ListenError, LiveMessage, LiveReceiver, PublishError, Room, StreamAdapter};

use crate::SeededRandom;

/// What becomes of live messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Each arrives.
    Fair,
    /// None arrives.
    Lost,
    /// Each arrives twice.
    Twice,
    /// Some are lost, refused, repeated, or arrive after the next one.
    Storm,
}

/// Passes messages on to an adapter as the weather allows.
#[derive(Debug)]
pub struct FlakyAdapter {
    inner: Arc<dyn StreamAdapter>,
    weather: Weather,
    random: SeededRandom,
    delayed: Mutex<Vec<(Room, LiveMessage)>>,
}

impl FlakyAdapter {
    /// Makes one before an adapter.
    #[must_use]
    pub fn new(inner: Arc<dyn StreamAdapter>, weather: Weather, seed: u64) -> Self {
        Self {
            inner,
            weather,
            random: SeededRandom::new(seed),
            delayed: Mutex::default(),
        }
    }

    fn storm(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError> {
        let delayed = {
            let mut delayed = self.delayed.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *delayed)
        };
        match self.random.below(10) {
            0 | 1 => {}
            2 => self.twice(room, message)?,
            3 | 4 => {
                let mut later = self.delayed.lock().unwrap_or_else(PoisonError::into_inner);
                later.push((room.clone(), message));
            }
            5 => {
                let reason = "a storm".to_owned();
                return Err(PublishError::Unavailable { reason });
            }
            _ => self.inner.publish(room, message)?,
        }
        for (room, message) in delayed {
            self.inner.publish(&room, message)?;
        }
        Ok(())
    }

    fn twice(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError> {
        self.inner.publish(room, message.clone())?;
        self.inner.publish(room, message)
    }
}

impl StreamAdapter for FlakyAdapter {
    fn publish(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError> {
        match self.weather {
            Weather::Fair => self.inner.publish(room, message),
            Weather::Lost => Ok(()),
            Weather::Twice => self.twice(room, message),
            Weather::Storm => self.storm(room, message),
        }
    }

    fn listen(&self, room: &Room) -> Result<Box<dyn LiveReceiver>, ListenError> {
        self.inner.listen(room)
    }

    fn close(&self) {
        self.inner.close();
    }
}
