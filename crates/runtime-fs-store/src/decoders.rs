//! Bytes that nobody wrote, before each decoder (R13): none panics, and what is read is what was
//! written.

use std::io::Write as _;

use runtime_core::{CommitId, Random, Timestamp};
use runtime_testkit::SeededRandom;

use crate::frame::{Header, Place, StoreTag};
use crate::layout::{Format, seal, unseal};
use crate::memory::CommitMemory;
use crate::record::{Extent, read_commit, read_event, sealed_record, walk, write_over};
use crate::segment::{BaseHeader, SegmentHeader, scan};
use crate::table::Table;
use crate::{checkpoint, hint, inbox, keys};

/// What an environment variable of soak runs says, or what is so without one.
fn variable(name: &str, ordinary: u64) -> u64 {
    std::env::var(name).map_or(ordinary, |text| text.parse().expect("a number"))
}

/// As many for each decoder, or `FS_STORE_TIMES` as many.
fn cases() -> u64 {
    100_000 * variable("FS_STORE_TIMES", 1)
}

const TAG: StoreTag = StoreTag(*b"store-01");
const PLACE: Place = Place {
    segment: 1,
    offset: 64,
};

/// Bytes for a decoder: noise, or something whole that was cut, flipped or written over.
fn bytes(random: &SeededRandom, whole: &[u8]) -> Vec<u8> {
    let below = |end: usize| usize::try_from(random.below(end as u64)).expect("it is below");
    if whole.is_empty() || below(4) == 0 {
        let mut noise = vec![0; below(256)];
        random.fill(&mut noise);
        return noise;
    }
    let mut bytes = whole.to_vec();
    for _ in 0..below(4) {
        let at = below(bytes.len());
        bytes[at] = match below(3) {
            0 => bytes[at] ^ (1 << below(8)),
            1 => 0xff,
            _ => 0,
        };
    }
    if below(3) == 0 {
        bytes.truncate(below(whole.len() + 1));
    }
    bytes
}

/// Gives many inputs to a decoder, and prints the row.
fn feed(name: &str, whole: &[u8], decode: impl Fn(&[u8])) {
    let started = std::time::Instant::now();
    let random = SeededRandom::new(13 + variable("FS_STORE_RUN", 0));
    let cases = cases();
    for _ in 0..cases {
        decode(&bytes(&random, whole));
    }
    let row = format!(
        "R13-{name} {cases} 0 {:.1}",
        started.elapsed().as_secs_f64()
    );
    writeln!(std::io::stdout(), "{row}").expect("the output is open");
}

fn frame() -> Vec<u8> {
    let mut header = Header::new(0, 7, 42, 100);
    header.names = ["turn/a/1", "worker/a"].into_iter().collect();
    let mut bytes = Vec::new();
    header.write(TAG, PLACE, &[5; 24], &mut bytes);
    bytes
}

#[test]
fn r13_frames() {
    let whole = frame();
    feed("frame", &whole, |bytes| {
        let items = scan(TAG, PLACE, bytes);
        let end = items.last().map_or(PLACE.offset, crate::segment::Item::end);
        // Every byte is accounted for, once.
        assert_eq!(end, PLACE.offset + bytes.len() as u64);
    });
}

/// The bodies stand behind a checksum that is right, as a writer with a mistake would leave them.
#[test]
fn r13_records() {
    let kinds = SeededRandom::new(1);
    let extent = |length: usize| Extent {
        segment: PLACE.segment,
        offset: 64,
        bytes: u32::try_from(length).expect("it is short"),
    };
    feed("record", &[1; 64], |body| {
        let kind = u8::try_from(kinds.below(17)).expect("it is below 17");
        let record = sealed_record(TAG, PLACE, kind, body);
        let _any = read_event(TAG, extent(record.len()), 1, &record);
        let mut payload = sealed_record(TAG, PLACE, 1, &[7; 56]);
        let at = Place {
            offset: PLACE.offset + payload.len() as u64,
            ..PLACE
        };
        payload.extend(sealed_record(TAG, at, kind, body));
        // Positions near the end of all numbers do not overflow either.
        let _any = read_commit(TAG, PLACE, &payload, 1);
        let _any = read_commit(TAG, PLACE, body, u64::MAX);
        let mut seen = 0;
        let _any = walk(TAG, PLACE, &payload, u64::MAX - 1, |_| seen += 1);
        let mut over = record.clone();
        if write_over(TAG, extent(record.len()), &mut over) {
            assert_eq!(over.len(), record.len());
            assert!(
                !write_over(TAG, extent(record.len()), &mut over),
                "once is enough"
            );
        }
    });
}

#[test]
fn r13_base_headers() {
    let header = BaseHeader {
        number: 2,
        incarnation: 5,
        bytes: 4096,
        last_frame: 90,
        last_position: 1000,
        pruned: 1000,
        buffered: true,
        forgotten: true,
    };
    let whole = header.to_bytes(TAG);
    feed("base", &whole, |bytes| {
        if let Some(read) = BaseHeader::from_bytes(TAG, 2, bytes) {
            assert_eq!(read, header);
        }
    });
}

/// Behind checksums that are right, as a writer with a mistake would leave them.
#[test]
fn r13_checkpoints() {
    feed("checkpoint", &checkpoint::parts_to_decode(), |bytes| {
        checkpoint::decode_everything(bytes);
        let _any = CommitMemory::default().read_part(bytes, 8);
        let _any = Table::decode(bytes);
    });
}

#[test]
fn r13_segment_headers() {
    let header = SegmentHeader {
        number: 2,
        incarnation: 5,
        previous_bytes: 4096,
        first_frame: 90,
        first_position: 1000,
    };
    let whole = header.to_bytes(TAG);
    feed("segment", &whole, |bytes| {
        if let Some(read) = SegmentHeader::from_bytes(TAG, 2, bytes) {
            assert_eq!(read, header);
        }
    });
}

#[test]
fn r13_the_identity() {
    let random = SeededRandom::new(1);
    let clock = runtime_testkit::SimulatedClock::new(Timestamp::from_millis(1));
    let format = Format::fresh(None, &clock, &random);
    feed("format", &seal(&format), |bytes| {
        if let Some(read) = unseal::<Format>(bytes) {
            assert_eq!(read, format);
        }
    });
}

/// Behind a right checksum, so that the JSON and the keys in it are met as well.
#[test]
fn r13_the_keys() {
    let whole = keys::fresh_file(&SeededRandom::new(1));
    let json = &whole[..whole.len() - 10];
    feed("keys", json, |json| {
        let mut file = json.to_vec();
        let checksum = crc32c::crc32c(json);
        file.extend(format!("\n{checksum:08x}\n").bytes());
        if let Some(ring) = keys::from_file(&file) {
            let again = keys::from_file(&keys::to_file(&ring)).expect("it was just written");
            assert_eq!(again.keys.len(), ring.keys.len());
        }
    });
}

#[test]
fn r13_the_hint() {
    let published = hint::Hint {
        end: PLACE,
        head: 9,
    };
    feed("hint", &hint::encode(published), |bytes| {
        if let Some(read) = hint::decode(bytes) {
            assert_eq!(read, published);
        }
    });
}

#[test]
fn r13_commands() {
    let id = CommitId::generate(Timestamp::from_millis(1), [3; 10]);
    feed("command", &inbox::seal(id, b"stop worker 7"), |bytes| {
        if let Some(body) = inbox::unseal(id, bytes) {
            assert_eq!(body, b"stop worker 7");
        }
    });
}

/// X3: what is named by an id stays inside its directory, and no two ids share a name.
#[test]
fn x3_ids_become_names_that_lead_nowhere_else() {
    const IDS: u64 = 1_000_000;
    let started = std::time::Instant::now();
    let random = SeededRandom::new(3);
    for number in 0..IDS {
        let id = CommitId::generate(Timestamp::from_millis(number), random.ten());
        let name = id.to_string();
        let is_plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        assert!(name.len() == 36 && name.bytes().all(is_plain), "{name}");
        // Each name stands for one id: reading it gives that one back, and no other spelling.
        assert_eq!(inbox::command_id(&name), Some(id));
        let shouted = name.to_uppercase();
        assert!(shouted == name || inbox::command_id(&shouted).is_none());
    }
    for name in ["..", "../x", "/etc/passwd", "a/b", ".", "", "\0", "x.new"] {
        assert_eq!(inbox::command_id(name), None, "{name}");
    }
    let row = format!("X3 {IDS} 0 {:.1}", started.elapsed().as_secs_f64());
    writeln!(std::io::stdout(), "{row}").expect("the output is open");
}
