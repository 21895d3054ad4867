//! The file of the key ring (E12).

use runtime_core::{Random, Secret};
use runtime_store::{KeyRing, SigningKey};
use serde::{Deserialize, Serialize};

use crate::layout::{hex, seal, unseal};

const KEY_BYTES: usize = 32;

/// The ring as it is written. It has no `Debug`: it holds the secrets in the clear.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    keys: Vec<KeyLine>,
}

#[derive(Serialize, Deserialize)]
struct KeyLine {
    id: u32,
    secret: String,
}

/// Returns the file of a ring with one fresh key.
pub(crate) fn fresh_file(random: &dyn Random) -> Vec<u8> {
    to_file(&KeyRing {
        keys: vec![fresh_key(1, random)],
    })
}

pub(crate) fn fresh_key(id: u32, random: &dyn Random) -> SigningKey {
    let mut secret = [0; KEY_BYTES];
    random.fill(&mut secret);
    SigningKey {
        id,
        secret: Secret::new(secret),
    }
}

pub(crate) fn to_file(ring: &KeyRing) -> Vec<u8> {
    let keys = ring.keys.iter().map(|key| KeyLine {
        id: key.id,
        secret: hex(key.secret.expose()),
    });
    seal(&KeyFile {
        keys: keys.collect(),
    })
}

/// Reads the file; `None` when it is damaged.
pub(crate) fn from_file(bytes: &[u8]) -> Option<KeyRing> {
    let file: KeyFile = unseal(bytes)?;
    let keys: Option<Vec<SigningKey>> = file.keys.iter().map(read_key).collect();
    keys.filter(|keys| !keys.is_empty())
        .map(|keys| KeyRing { keys })
}

fn read_key(line: &KeyLine) -> Option<SigningKey> {
    let digits = line.secret.as_bytes();
    let bytes = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    let secret: Vec<u8> = bytes.collect::<Option<_>>()?;
    (secret.len() == KEY_BYTES).then(|| SigningKey {
        id: line.id,
        secret: Secret::new(secret),
    })
}
