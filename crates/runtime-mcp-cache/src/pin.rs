//! Pinning (M7): definitions are trusted on first use; what comes or changes later waits for a
//! person.

use std::collections::BTreeMap;

use runtime_core::{CanonicalEncoder, Digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ByteBudget, Catalogue, DiscoveredTool};

/// The pinned definitions of one server. Pure: the host keeps it, and decides who may approve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinBoard {
    /// The first list has been seen. An empty first list counts: what comes later is new.
    used: bool,
    pins: BTreeMap<String, Pin>,
    /// What the last list had that may not be called.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    waiting: BTreeMap<String, Waiting>,
}

/// A definition that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    pin: Pin,
    reason: WithheldReason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<Value>,
}

/// The bytes of a waiting definition that are kept to be shown; a longer one is known by its
/// digest only, so that a hostile list cannot fill the board.
const SHOWN_BYTES_MAX: u64 = 16 * 1024;
/// The bytes of all of them together.
const SHOWN_TOTAL_BYTES_MAX: u64 = 256 * 1024;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WithheldTool {
    /// The name on the server.
    pub name: String,
    /// The digest of the definition that is to be approved.
    pub definition: Digest,
    /// Why it waits.
    pub reason: WithheldReason,
    /// The definition as it was listed, for whoever approves; none if it is too large to keep.
    pub shown: Option<Value>,
}

/// Why a tool waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
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
        let callable = catalogue.tools().iter().filter(|tool| self.allows(tool));
        let callable = callable.map(|tool| tool.name.clone()).collect();
        self.waiting = self.waiting_of(catalogue);
        PinReview {
            callable,
            withheld: self.waiting(),
        }
    }

    /// Returns what the last list had that waits for approval, ordered by name.
    #[must_use]
    pub fn waiting(&self) -> Vec<WithheldTool> {
        let withheld = self.waiting.iter().map(|(name, waiting)| WithheldTool {
            name: name.clone(),
            definition: waiting.pin.definition,
            reason: waiting.reason.clone(),
            shown: waiting.shown.clone(),
        });
        withheld.collect()
    }

    /// Returns how many definitions are pinned.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.pins.len()
    }

    /// Pins what waits under that name, if it is still the definition of that digest: the one
    /// that was shown. Says whether it was.
    pub fn approve_waiting(&mut self, name: &str, definition: &Digest) -> bool {
        match self.waiting.get(name) {
            Some(waiting) if waiting.pin.definition == *definition => {
                self.pins.insert(name.to_owned(), waiting.pin);
                self.waiting.remove(name);
                true
            }
            _ => false,
        }
    }

    pub(crate) const fn is_used(&self) -> bool {
        self.used
    }

    pub(crate) fn is_pinned(&self, name: &str, definition: &Digest) -> bool {
        let pin = self.pins.get(name);
        pin.is_some_and(|pin| pin.definition == *definition)
    }

    fn waiting_of(&self, catalogue: &Catalogue) -> BTreeMap<String, Waiting> {
        let mut total = ByteBudget::new(SHOWN_TOTAL_BYTES_MAX);
        let mut shown = |raw: &Value| {
            let bytes = ByteBudget::new(SHOWN_BYTES_MAX).spend_json(raw).ok()?;
            total.spend(bytes).ok()?;
            Some(raw.clone())
        };
        let waiting = catalogue.tools().iter().filter_map(|tool| {
            let reason = self.reason(tool, catalogue)?;
            let waiting = Waiting {
                pin: Pin::of(tool),
                reason,
                shown: shown(&tool.raw),
            };
            Some((tool.name.clone(), waiting))
        });
        waiting.collect()
    }

    /// Says whether a tool may be called: its definition is the pinned one. Asked again right
    /// before a call, it also covers a list that changed since the turn began.
    #[must_use]
    pub fn allows(&self, tool: &DiscoveredTool) -> bool {
        self.is_pinned(&tool.name, &tool.digest)
    }

    /// Pins a definition: exactly the one given, which is the one that was shown.
    pub fn approve(&mut self, tool: &DiscoveredTool) {
        self.pins.insert(tool.name.clone(), Pin::of(tool));
        self.waiting.remove(&tool.name);
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

impl Pin {
    fn of(tool: &DiscoveredTool) -> Self {
        Self {
            definition: tool.digest,
            body: body(&tool.raw),
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
