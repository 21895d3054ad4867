//! Which positions of the log have been published: pure bookkeeping.

use std::collections::BTreeMap;
use std::ops::Range;

use runtime_store::Position;

/// How many ranges ahead of the first hole are remembered; more are published again, which
/// readers do not notice.
const AHEAD_MAX: usize = 1024;

/// Tells whether some other process wrote what this one has not published.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Everything up to here has been published, or was there before anyone listened.
    contiguous: u64,
    /// Published ranges after the first hole, by their start.
    ahead: BTreeMap<u64, u64>,
    /// The last position known to be stored.
    head: u64,
}

impl Progress {
    /// Notes that everything up to `head` needs no publishing.
    pub(crate) fn start(&mut self, head: Position) {
        self.contiguous = self.contiguous.max(head.0);
        self.settle();
    }

    /// Notes that these positions were published.
    pub(crate) fn published(&mut self, positions: &Range<u64>) {
        if positions.is_empty() {
            return;
        }
        if self.ahead.len() < AHEAD_MAX || positions.start <= self.contiguous + 1 {
            let end = self.ahead.entry(positions.start).or_default();
            *end = (*end).max(positions.end);
        }
        self.stored(Position(positions.end - 1));
        self.settle();
    }

    /// Notes that the log reaches at least so far.
    pub(crate) fn stored(&mut self, head: Position) {
        self.head = self.head.max(head.0);
    }

    pub(crate) const fn head(&self) -> Position {
        Position(self.head)
    }

    /// Everything up to here has been published.
    pub(crate) const fn contiguous(&self) -> Position {
        Position(self.contiguous)
    }

    fn settle(&mut self) {
        while let Some(first) = self.ahead.first_entry() {
            if *first.key() > self.contiguous + 1 {
                break;
            }
            let end = first.remove();
            self.contiguous = self.contiguous.max(end - 1);
        }
        self.head = self.head.max(self.contiguous);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_any_order_close_the_hole() {
        let mut progress = Progress::default();
        progress.start(Position(4));
        progress.published(&(7..9));
        assert_eq!(
            (progress.contiguous(), progress.head()),
            (Position(4), Position(8))
        );
        progress.published(&(5..7));
        assert_eq!(progress.contiguous(), Position(8));
    }

    #[test]
    fn a_foreign_range_stays_a_hole() {
        let mut progress = Progress::default();
        progress.published(&(1..2));
        progress.published(&(3..4));
        progress.stored(Position(5));
        assert_eq!(
            (progress.contiguous(), progress.head()),
            (Position(1), Position(5))
        );
    }

    #[test]
    fn what_is_remembered_ahead_is_bounded() {
        let mut progress = Progress::default();
        for hole in 0..10_000u64 {
            progress.published(&(hole * 2 + 2..hole * 2 + 3));
        }
        assert!(progress.ahead.len() <= AHEAD_MAX);
        assert_eq!(progress.head(), Position(20_000));
        // What closes the hole is taken all the same.
        progress.published(&(1..2));
        assert_eq!(progress.contiguous(), Position(2));
    }
}
