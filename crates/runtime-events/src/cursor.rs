//! Cursors: opaque text that names a place in one log (V6).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use runtime_core::{CanonicalEncoder, RuntimeId};
use runtime_store::{Position, StoreIdentity};
use serde::{Deserialize, Serialize};

use crate::CursorError;

const VERSION: u8 = 1;
/// version, runtime, lineage, position, check
const BYTES: usize = 1 + 8 + 8 + 8 + 4;

/// A place in the log of one runtime: everything up to it has been seen.
///
/// It is valid on any topic of its runtime, for as long as the log keeps its lineage. As text it
/// is opaque: 39 characters, safe in URLs; its form may change between versions of this crate,
/// which go on reading the earlier ones. It holds no secret and grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    runtime: [u8; 8],
    lineage: [u8; 8],
    position: Position,
}

impl Cursor {
    /// Names the place right after a position of the log with that identity; position zero is
    /// the start.
    #[must_use]
    pub fn after(identity: &StoreIdentity, position: Position) -> Self {
        Self {
            runtime: runtime_mark(&identity.runtime),
            lineage: lineage_mark(&identity.lineage),
            position,
        }
    }

    /// Returns the position up to which everything was seen.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Checks that the cursor belongs to the log with that identity.
    ///
    /// # Errors
    /// [`CursorError::OtherRuntime`], [`CursorError::OtherLineage`].
    pub fn check(&self, identity: &StoreIdentity) -> Result<(), CursorError> {
        if self.runtime != runtime_mark(&identity.runtime) {
            Err(CursorError::OtherRuntime)
        } else if self.lineage != lineage_mark(&identity.lineage) {
            Err(CursorError::OtherLineage)
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.runtime);
        bytes[9..17].copy_from_slice(&self.lineage);
        bytes[17..25].copy_from_slice(&self.position.0.to_be_bytes());
        let check = check_of(&bytes[..25]);
        bytes[25..].copy_from_slice(&check);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let mut bytes = [0; BYTES];
        let decoded = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes);
        let whole = decoded.is_ok_and(|length| length == BYTES);
        if !whole || bytes[0] != VERSION || bytes[25..] != check_of(&bytes[..25]) {
            return Err(CursorError::Malformed);
        }
        Ok(Self {
            runtime: eight(&bytes[1..9]),
            lineage: eight(&bytes[9..17]),
            position: Position(u64::from_be_bytes(eight(&bytes[17..25]))),
        })
    }
}

impl TryFrom<String> for Cursor {
    type Error = CursorError;

    fn try_from(text: String) -> Result<Self, CursorError> {
        text.parse()
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

fn runtime_mark(runtime: &RuntimeId) -> [u8; 8] {
    mark("cursor-runtime", runtime.as_str().as_bytes())
}

fn lineage_mark(lineage: &str) -> [u8; 8] {
    mark("cursor-lineage", lineage.as_bytes())
}

/// Tells a cut or mistyped cursor; it is no signature.
fn check_of(bytes: &[u8]) -> [u8; 4] {
    let mark = mark("cursor-check", bytes);
    [mark[0], mark[1], mark[2], mark[3]]
}

fn mark(domain: &str, bytes: &[u8]) -> [u8; 8] {
    let digest = CanonicalEncoder::new(domain).bytes(bytes).digest();
    eight(&digest.as_bytes()[..8])
}

fn eight(bytes: &[u8]) -> [u8; 8] {
    bytes.try_into().expect("the slice has eight bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(runtime: &str, lineage: &str) -> StoreIdentity {
        StoreIdentity {
            runtime: RuntimeId::new(runtime).expect("a runtime id"),
            lineage: lineage.to_owned(),
        }
    }

    #[test]
    fn v6_a_cursor_of_another_runtime_or_lineage_has_its_own_answer() {
        let cursor = Cursor::after(&identity("desk", "a"), Position(7));
        assert_eq!(cursor.check(&identity("desk", "a")), Ok(()));
        assert_eq!(
            cursor.check(&identity("shop", "a")),
            Err(CursorError::OtherRuntime)
        );
        assert_eq!(
            cursor.check(&identity("desk", "b")),
            Err(CursorError::OtherLineage)
        );
    }

    #[test]
    fn v6_the_form_of_version_1_is_kept() {
        let cursor = Cursor::after(&identity("desk", "a"), Position(7));
        assert_eq!(
            cursor.to_string(),
            "AR1PUlH0p5oRELhDgAfudI0AAAAAAAAAB0fboAg"
        );
    }

    /// A later form has a right check too, and other fields.
    #[test]
    fn v6_a_cursor_of_a_later_version_is_malformed() {
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION + 1;
        let check = check_of(&bytes[..25]);
        bytes[25..].copy_from_slice(&check);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        assert_eq!(text.parse::<Cursor>(), Err(CursorError::Malformed));
    }

    proptest! {
        #[test]
        fn v6_text_round_trips(position: u64) {
            let cursor = Cursor::after(&identity("desk", "a"), Position(position));
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn v6_a_changed_or_cut_cursor_is_malformed(position: u64, at in 0usize..39, to in "[A-Za-z0-9_-]") {
            let text = Cursor::after(&identity("desk", "a"), Position(position)).to_string();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            if changed != text {
                prop_assert_eq!(changed.parse::<Cursor>(), Err(CursorError::Malformed));
            }
            prop_assert_eq!(text[..at].parse::<Cursor>(), Err(CursorError::Malformed));
        }

        #[test]
        fn r13_no_text_makes_it_panic(text in ".{0,80}") {
            let _ = text.parse::<Cursor>();
        }
    }
}
