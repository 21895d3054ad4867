//! Randomness that repeats.

use std::sync::{Arc, Mutex, PoisonError};

use runtime_core::Random;

/// Randomness that repeats: the same seed gives the same bytes (SplitMix64).
///
/// A clone goes on where the original is. Anyone can compute its bytes: never make a key with it
/// outside a test.
#[derive(Debug, Clone)]
pub struct SeededRandom {
    state: Arc<Mutex<u64>>,
}

impl SeededRandom {
    /// Starts a sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(seed)),
        }
    }

    /// Returns the next number.
    pub fn next_number(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`.
    ///
    /// # Panics
    /// When `end` is zero.
    pub fn below(&self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below zero");
        self.next_number() % end
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next_number().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}
