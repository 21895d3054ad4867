//! Counting bytes without building them (M5).

use std::io;

use serde::Serialize;

/// A writer that keeps nothing: it counts, and refuses what goes over its limit.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    left: u64,
    limit: u64,
}

/// A value has more bytes than its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has more than {limit} bytes")]
pub struct OverBudget {
    /// The budget.
    pub limit: u64,
}

impl ByteBudget {
    /// Makes a budget of that many bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    /// Returns the bytes spent.
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.limit - self.left
    }

    /// Spends bytes.
    ///
    /// # Errors
    /// [`OverBudget`] if so many are not left; the budget is spent from then on.
    pub fn spend(&mut self, bytes: u64) -> Result<(), OverBudget> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(OverBudget { limit: self.limit })
            }
        }
    }

    /// Spends the bytes of a value's JSON while it is streamed; stops at the limit.
    ///
    /// # Errors
    /// [`OverBudget`] if it has more bytes than are left, or cannot be serialised at all.
    pub fn spend_json(&mut self, value: &impl Serialize) -> Result<u64, OverBudget> {
        let before = self.spent();
        serde_json::to_writer(&mut *self, value).map_err(|_| OverBudget { limit: self.limit })?;
        Ok(self.spent() - before)
    }
}

impl io::Write for ByteBudget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.spend(count)
            .map_err(|over| io::Error::new(io::ErrorKind::FileTooLarge, over))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m5_stops_at_the_limit_instead_of_building_the_whole() {
        struct Endless<'a>(&'a std::cell::Cell<u32>);
        impl Serialize for Endless<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq((0..u32::MAX).inspect(|_| self.0.set(self.0.get() + 1)))
            }
        }
        let written = std::cell::Cell::new(0);
        let mut budget = ByteBudget::new(100);
        assert_eq!(
            budget.spend_json(&Endless(&written)),
            Err(OverBudget { limit: 100 })
        );
        assert!(written.get() < 100, "it stopped after {}", written.get());
    }

    #[test]
    fn m5_counts_exactly() {
        let value = serde_json::json!({"name": "a", "n": [1, 2.5, null]});
        let bytes = value.to_string().len() as u64;
        assert_eq!(ByteBudget::new(bytes).spend_json(&value), Ok(bytes));
        assert!(ByteBudget::new(bytes - 1).spend_json(&value).is_err());
    }
}
