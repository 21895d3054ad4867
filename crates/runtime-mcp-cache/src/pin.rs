//! Pinning (M7): definitions are trusted on first use; what comes or changes later waits for a
//! person.

use std::collections::BTreeMap;

use runtime_core::{CanonicalEncoder, Digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Catalogue, DiscoveredTool};

/// The pinned definitions of one server. Pure: the host keeps it, and decides who may approve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinBoard {
    /// The first list has been seen. An empty first list counts: what comes later is new.
    used: bool,
    pins: BTreeMap<String, Pin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    /// Of the whole definition.
    definition: Digest,
    /// Of all but the name, to recognise a renamed tool.
    body: Digest,
}

/// What of a list a model may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinReview {
    /// The names that may be called, in order.
    pub callable: Vec<String>,
    /// What waits for approval, ordered by name.
    pub withheld: Vec<WithheldTool>,
}

/// A tool that must not be called before somebody approved it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WithheldTool {
    /// The name on the server.
    pub name: String,
    /// The digest of the definition that is to be approved.
    pub definition: Digest,
    /// Why it waits.
    pub reason: WithheldReason,
}

/// Why a tool waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithheldReason {
    /// The name is new.
    Added,
    /// The definition is not the pinned one.
    Changed {
        /// The digest that is pinned.
        pinned: Digest,
    },
    /// The definition is that of a pinned tool which is gone, under a new name.
    Renamed {
        /// The pinned name.
        from: String,
    },
}

impl PinBoard {
    /// Makes an empty board: the first list it sees is trusted as a whole.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty board that trusts nothing, not even the first list.
    #[must_use]
    pub fn distrusting() -> Self {
        Self {
            used: true,
            ..Self::default()
        }
    }

    /// Sorts a list into what may be called and what waits. The first list pins itself.
    pub fn review(&mut self, catalogue: &Catalogue) -> PinReview {
        if !self.used {
            self.used = true;
            catalogue.tools().iter().for_each(|tool| self.approve(tool));
        }
        let mut review = PinReview::default();
        for tool in catalogue.tools() {
            match self.reason(tool, catalogue) {
                None => review.callable.push(tool.name.clone()),
                Some(reason) => review.withheld.push(WithheldTool {
                    name: tool.name.clone(),
                    definition: tool.digest,
                    reason,
                }),
            }
        }
        review
    }

    /// Says whether a tool may be called: its definition is the pinned one. Asked again right
    /// before a call, it also covers a list that changed since the turn began.
    #[must_use]
    pub fn allows(&self, tool: &DiscoveredTool) -> bool {
        let pin = self.pins.get(&tool.name);
        pin.is_some_and(|pin| pin.definition == tool.digest)
    }

    /// Pins a definition: exactly the one given, which is the one that was shown.
    pub fn approve(&mut self, tool: &DiscoveredTool) {
        let pin = Pin {
            definition: tool.digest,
            body: body(&tool.raw),
        };
        self.pins.insert(tool.name.clone(), pin);
    }

    /// Takes a pin off; says whether there was one.
    pub fn revoke(&mut self, name: &str) -> bool {
        self.pins.remove(name).is_some()
    }

    fn reason(&self, tool: &DiscoveredTool, catalogue: &Catalogue) -> Option<WithheldReason> {
        match self.pins.get(&tool.name) {
            Some(pin) if pin.definition == tool.digest => None,
            Some(pin) => Some(WithheldReason::Changed {
                pinned: pin.definition,
            }),
            None => Some(self.origin(tool, catalogue)),
        }
    }

    fn origin(&self, tool: &DiscoveredTool, catalogue: &Catalogue) -> WithheldReason {
        let same = body(&tool.raw);
        let gone = |name: &str| catalogue.tool(name).is_none();
        let from = self
            .pins
            .iter()
            .find(|(name, pin)| pin.body == same && gone(name));
        match from {
            Some((from, _)) => WithheldReason::Renamed { from: from.clone() },
            None => WithheldReason::Added,
        }
    }
}

/// Digests all of a definition but its name.
fn body(raw: &Value) -> Digest {
    let mut encoder = CanonicalEncoder::new("discovered-tool-body");
    // Sorted here too: an object of serde_json keeps the server's order under `preserve_order`.
    let members: BTreeMap<_, _> = raw.as_object().into_iter().flatten().collect();
    for (member, value) in members {
        if member != "name" {
            encoder = encoder.text(member).json(value);
        }
    }
    encoder.digest()
}
