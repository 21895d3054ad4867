//! What stands in a segment ahead of its end, so that a sync finds the file as long as before.
//!
//! Each eight bytes of it say where they are, so that it is told from a page of zeros and from a
//! block in the wrong place (S4).

use crate::frame::{Place, StoreTag};

const WORD_BYTES: usize = 8;

/// What fills a segment from a place, which is a multiple of eight, up to an offset.
pub(crate) fn bytes(tag: StoreTag, from: Place, to: u64) -> Vec<u8> {
    let length = usize::try_from(to.saturating_sub(from.offset)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(WORD_BYTES));
    for offset in (from.offset..to).step_by(WORD_BYTES) {
        bytes.extend(word(tag, from, offset));
    }
    bytes
}

/// Says whether the bytes at a place are nothing else; a word that the file cuts off is.
pub(crate) fn is_all_of(tag: StoreTag, start: Place, bytes: &[u8]) -> bool {
    let mut words = (start.offset..)
        .step_by(WORD_BYTES)
        .zip(bytes.chunks(WORD_BYTES));
    words.all(|(offset, found)| word(tag, start, offset).starts_with(found))
}

/// Returns where it begins that fills the end of the bytes at a place, or where they end.
pub(crate) fn begins(tag: StoreTag, start: Place, bytes: &[u8]) -> u64 {
    let offsets = (start.offset..).step_by(WORD_BYTES);
    let words = offsets.zip(bytes.chunks(WORD_BYTES));
    let last = words
        .filter(|(offset, found)| !word(tag, start, *offset).starts_with(found))
        .last();
    last.map_or(start.offset, |(offset, found)| offset + found.len() as u64)
}

fn word(tag: StoreTag, place: Place, offset: u64) -> [u8; WORD_BYTES] {
    let salt = u64::from_le_bytes(tag.0) ^ u64::from(place.segment).rotate_left(40);
    (salt ^ !offset).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: StoreTag = StoreTag(*b"store-01");

    const fn place(segment: u32, offset: u64) -> Place {
        Place { segment, offset }
    }

    #[test]
    fn s4_only_what_fills_its_own_place_is_taken_for_it() {
        let filled = bytes(TAG, place(2, 64), 1024);
        assert_eq!(filled.len(), 1024 - 64);
        assert!(is_all_of(TAG, place(2, 64), &filled));
        assert!(is_all_of(TAG, place(2, 64), &filled[..13]), "cut off");
        assert!(!is_all_of(TAG, place(2, 72), &filled), "elsewhere");
        assert!(!is_all_of(TAG, place(3, 64), &filled), "another segment");
        assert!(!is_all_of(StoreTag(*b"store-02"), place(2, 64), &filled));
        for bit in 0..filled.len() * 8 {
            let mut flipped = filled.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_all_of(TAG, place(2, 64), &flipped), "bit {bit}");
        }
        assert!(!is_all_of(TAG, place(2, 64), &[0; 960]), "zeros");
    }

    #[test]
    fn s4_it_begins_after_the_last_byte_that_is_something_else() {
        let mut tail = vec![7; 20];
        tail.resize(24, 0);
        tail.extend(bytes(TAG, place(2, 88), 200));
        assert_eq!(begins(TAG, place(2, 64), &tail), 88);
        assert_eq!(begins(TAG, place(2, 64), &tail[..24]), 88);
        assert_eq!(begins(TAG, place(2, 88), &tail[24..]), 88);
        assert_eq!(begins(TAG, place(2, 64), &tail[..20]), 84);
        assert_eq!(begins(TAG, place(2, 64), &[]), 64);
    }

    /// S4: what fills a segment is on the disks of users, so it stays as decision 2 draws it.
    #[test]
    fn s4_each_word_is_the_tag_the_segment_and_the_inverted_offset() {
        let tag = u64::from_le_bytes(TAG.0);
        let words = [64_u64, 72].map(|offset| tag ^ (2 << 40) ^ !offset);
        let expected: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(bytes(TAG, place(2, 64), 80), expected);
    }
}
