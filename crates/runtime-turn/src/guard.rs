//! The repeated-call guard.

use std::collections::BTreeMap;

use runtime_core::{Digest, ToolCall};

/// Counts in how many model messages in a row each call was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoopGuard {
    streaks: BTreeMap<(String, Digest), u32>,
}

impl LoopGuard {
    /// Takes the calls of the next message; returns the tool that was asked for more than `max`
    /// times in a row with the same arguments, and how often.
    ///
    /// The same call twice in one message counts once: parallel calls are no loop.
    pub(crate) fn observe<'a>(
        &mut self,
        calls: impl Iterator<Item = &'a ToolCall>,
        max: u32,
    ) -> Option<(String, u32)> {
        let mut streaks = BTreeMap::new();
        for call in calls {
            let identity = (call.name.clone(), call.arguments_digest());
            let before = self.streaks.get(&identity).copied().unwrap_or(0);
            streaks.insert(identity, before.saturating_add(1));
        }
        self.streaks = streaks;
        let over = self.streaks.iter().find(|&(_, &times)| times > max);
        over.map(|((tool, _), &times)| (tool.clone(), times))
    }
}
