//! The one encoding of everything that is hashed or signed (C2).
//!
//! ```text
//! encoding = version:u8  length:u32 domain  field*
//! field    = 't' length:u32 utf-8            text
//!          | 'b' length:u32 bytes            bytes
//!          | 'u' u64                         unsigned integer
//!          | 'j' value                       JSON value
//! value    = 'n' | 'f' | 't'                 null, false, true
//!          | 'p' u64                         integer ≥ 0
//!          | 'm' i64                         integer < 0
//!          | 'd' bits:u64                    any other number, as IEEE 754 binary64
//!          | 's' length:u32 utf-8            string
//!          | 'a' count:u32 value*            array
//!          | 'o' count:u32 (length:u32 key value)*   object, keys in byte order
//! ```
//! Numbers are big-endian. A float that equals an integer in the range of `i64` or `u64` is that
//! integer (as in RFC 8785), so `1`, `1.0` and `-0.0`/`0` agree whatever parsed them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use sha2::{Digest as _, Sha256};

use crate::IdError;

/// The version that new identities are encoded with; a turn keeps the one it started with.
pub const ENCODING_VERSION: u8 = 1;

/// A SHA-256 digest; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes raw bytes: the name of an attachment.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps the 32 bytes of a digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).expect("the digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        const WHAT: &str = "digest";
        if text.len() != 64 {
            return Err(IdError::Length {
                what: WHAT,
                len: text.len(),
                max: 64,
            });
        }
        let mut bytes = [0; 32];
        for (at, found) in text.char_indices() {
            let digit = match found {
                '0'..='9' => found as u8 - b'0',
                'a'..='f' => found as u8 - b'a' + 10,
                _ => {
                    let allowed = "use the digits 0-9 a-f";
                    return Err(IdError::Character {
                        what: WHAT,
                        found,
                        at,
                        allowed,
                    });
                }
            };
            bytes[at / 2] = bytes[at / 2] << 4 | digit;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Builds the canonical encoding of an identity, field by field.
///
/// Two different sequences of fields, or two domains, never have the same encoding.
#[derive(Debug, Clone)]
pub struct CanonicalEncoder {
    buffer: Vec<u8>,
}

impl CanonicalEncoder {
    /// Starts an encoding in a domain: what the identity is used for.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        let mut encoder = Self {
            buffer: vec![ENCODING_VERSION],
        };
        encoder.length_prefixed(domain.as_bytes());
        encoder
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.buffer.push(b't');
        self.length_prefixed(text.as_bytes());
        self
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.buffer.push(b'b');
        self.length_prefixed(bytes);
        self
    }

    /// Adds an unsigned integer.
    #[must_use]
    pub fn unsigned(mut self, number: u64) -> Self {
        self.buffer.push(b'u');
        self.buffer.extend(number.to_be_bytes());
        self
    }

    /// Adds a JSON value; the order of its keys does not count.
    #[must_use]
    pub fn json(mut self, value: &Value) -> Self {
        self.buffer.push(b'j');
        self.value(value);
        self
    }

    /// Returns the encoding.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.buffer
    }

    /// Returns the SHA-256 of the encoding.
    #[must_use]
    pub fn digest(self) -> Digest {
        Digest::of_bytes(&self.buffer)
    }

    fn length_prefixed(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.buffer.extend(bytes);
    }

    fn count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("an identity is far below 4 GiB");
        self.buffer.extend(count.to_be_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.buffer.push(b'n'),
            Value::Bool(false) => self.buffer.push(b'f'),
            Value::Bool(true) => self.buffer.push(b't'),
            Value::Number(number) => self.number(number),
            Value::String(text) => {
                self.buffer.push(b's');
                self.length_prefixed(text.as_bytes());
            }
            Value::Array(items) => {
                self.buffer.push(b'a');
                self.count(items.len());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Object(members) => {
                // With serde_json's `preserve_order` a map is not sorted, so sort here.
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by_key(|&(key, _)| key.as_bytes());
                self.buffer.push(b'o');
                self.count(members.len());
                for (key, value) in members {
                    self.length_prefixed(key.as_bytes());
                    self.value(value);
                }
            }
        }
    }

    fn number(&mut self, number: &Number) {
        if let Some(positive) = number.as_u64() {
            self.positive(positive);
        } else if let Some(negative) = number.as_i64() {
            self.negative(negative);
        } else {
            // With `arbitrary_precision` a number may be out of range of a binary64.
            self.float(number.as_f64().unwrap_or(f64::INFINITY));
        }
    }

    fn positive(&mut self, number: u64) {
        self.buffer.push(b'p');
        self.buffer.extend(number.to_be_bytes());
    }

    fn negative(&mut self, number: i64) {
        self.buffer.push(b'm');
        self.buffer.extend(number.to_be_bytes());
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "each cast stands behind the range check that makes it exact"
    )]
    fn float(&mut self, number: f64) {
        const U64_END: f64 = 18_446_744_073_709_551_616.0;
        const I64_START: f64 = -9_223_372_036_854_775_808.0;
        if number.fract() == 0.0 && (0.0..U64_END).contains(&number) {
            self.positive(number as u64);
        } else if number.fract() == 0.0 && (I64_START..0.0).contains(&number) {
            self.negative(number as i64);
        } else {
            self.buffer.push(b'd');
            self.buffer.extend(number.to_bits().to_be_bytes());
        }
    }
}
