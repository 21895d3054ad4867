//! What a reader of an export believes (S7): nothing that does not agree with the lines before.

use runtime_core::{Digest, EventId, RuntimeId, StreamKey, Timestamp};
use runtime_store::{
    EXPORT_SCHEMA, ExportError, ExportLine, ExportReader, ExportedBytes, ExportedEvent,
    ExportedPlace, Position, Seq,
};

const DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn stream() -> StreamKey {
    StreamKey::new("session/desk").expect("a stream key")
}

fn store(head: u64, pruned: u64) -> ExportLine {
    ExportLine::Store {
        schema: EXPORT_SCHEMA,
        runtime: RuntimeId::new("desk").expect("a runtime id"),
        lineage: "l".to_owned(),
        head,
        pruned,
        forgotten: false,
    }
}

fn event_at(position: u64) -> ExportedEvent {
    let time = Timestamp::from_millis(position);
    ExportedEvent {
        position: Position(position),
        id: EventId::generate(time, [0; 10]),
        time,
        closes: false,
        erased: false,
        places: vec![ExportedPlace {
            stream: stream(),
            seq: Seq(position),
            previous: Position(position.saturating_sub(1)),
        }],
        body: ExportedBytes::Plain("{}".to_owned()),
    }
}

fn event(position: u64) -> ExportLine {
    ExportLine::Event(event_at(position))
}

fn commit(first_position: u64, events: u32, following: u32) -> ExportLine {
    ExportLine::Commit {
        id: "01890000-0000-7000-8000-000000000000"
            .parse()
            .expect("a commit id"),
        content: DIGEST.parse::<Digest>().expect("a digest"),
        first_position,
        events,
        following,
        remembered: true,
        attachments: Vec::new(),
        scopes: Vec::new(),
    }
}

fn row(version: u64, event: Option<u64>) -> ExportLine {
    ExportLine::Row {
        space: "state".to_owned(),
        scope: "session/desk".parse().expect("a scope id"),
        name: "a".to_owned(),
        version,
        due: None,
        body: ExportedBytes::Plain(String::new()),
        event: event.map(event_at),
    }
}

fn stream_end(head: u64, last: u64) -> ExportLine {
    ExportLine::Stream {
        stream: stream(),
        head: Seq(head),
        last: Position(last),
        closed: false,
    }
}

/// A log of five events, the first two of which retention has removed; a row keeps one of them.
fn whole() -> Vec<ExportLine> {
    vec![
        store(5, 2),
        commit(2, 2, 2),
        event(2),
        event(3),
        commit(4, 1, 1),
        event(4),
        event(5),
        stream_end(5, 5),
        row(3, Some(1)),
        row(1, None),
    ]
}

fn read(mut lines: Vec<ExportLine>, end: Option<u64>) -> Result<usize, ExportError> {
    if let Some(lines_before) = end {
        lines.push(ExportLine::End {
            lines: lines_before,
        });
    }
    let mut text = Vec::new();
    for line in &lines {
        line.write(&mut text)?;
    }
    let mut text = &text[..];
    let mut reader = ExportReader::new(&mut text);
    for read in 1.. {
        if matches!(reader.next_line()?, ExportLine::End { .. }) {
            return Ok(read);
        }
    }
    unreachable!("a reader ends")
}

#[test]
fn s7_a_whole_export_is_read_to_its_end() {
    assert_eq!(read(whole(), Some(10)).expect("agrees"), 11);
    assert_eq!(read(vec![store(0, 0)], Some(1)).expect("is empty"), 2);
    assert_eq!(read(vec![store(7, 7)], Some(1)).expect("all pruned"), 2);
}

/// Without the end of a stream, so that a row is the first to come too early.
fn rows_before_the_last_event() -> Vec<ExportLine> {
    let mut lines = whole();
    lines.remove(7);
    let last = lines.remove(6);
    lines.push(last);
    lines
}

#[test]
fn s7_what_does_not_agree_with_the_lines_before_is_refused_with_its_line() {
    let with = |at: usize, line: ExportLine| {
        let mut lines = whole();
        lines[at] = line;
        lines
    };
    let without = |at: usize| {
        let mut lines = whole();
        lines.remove(at);
        lines
    };
    let misplaced = |seq, previous| {
        let mut event = event_at(4);
        event.places[0].seq = Seq(seq);
        event.places[0].previous = Position(previous);
        ExportLine::Event(event)
    };
    let cases = [
        ("a later version, or no export", 1, without(0)),
        ("a head without room", 1, with(0, store(u64::MAX, 2))),
        ("more pruned than there is", 1, with(0, store(1, 2))),
        ("a second export", 2, with(1, store(5, 2))),
        (
            "a commit after what comes next",
            2,
            with(1, commit(4, 1, 1)),
        ),
        ("a commit at nothing", 2, with(1, commit(0, 2, 2))),
        ("an event of another commit", 4, with(1, commit(2, 1, 2))),
        ("more events than came", 4, with(1, commit(2, 3, 2))),
        ("a commit whose events are cut", 3, with(2, row(1, None))),
        // What follows is at the head, where the events have not come yet.
        ("a missing event", 7, without(6)),
        (
            "a row before the last event",
            7,
            rows_before_the_last_event(),
        ),
        ("an event twice", 7, with(6, event(4))),
        ("an event after the head", 7, with(6, event(6))),
        ("an event at nothing", 7, with(6, event(0))),
        ("a number over the position", 6, with(5, misplaced(5, 3))),
        ("an event before itself", 6, with(5, misplaced(4, 4))),
        ("a stream after the head", 8, with(7, stream_end(5, 6))),
        ("more numbers than positions", 8, with(7, stream_end(5, 4))),
        (
            "a row of an event that never was",
            9,
            with(8, row(3, Some(6))),
        ),
        (
            "a row without a next version",
            10,
            with(9, row(u64::MAX, None)),
        ),
    ];
    for (what, wrong, lines) in cases {
        let end = lines.len() as u64;
        match read(lines, Some(end)) {
            Err(ExportError::Bad { line, .. }) => assert_eq!(line, wrong, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// S7: whatever cannot be read is told by the number of its line, also what is no text; and two
/// exports one after the other are not taken for the first of them.
#[test]
fn s7_what_is_no_line_is_refused_with_its_number_wherever_it_stands() {
    let mut export = Vec::new();
    for line in [store(0, 0), row(1, None), ExportLine::End { lines: 2 }] {
        line.write(&mut export).expect("there is room");
    }
    let last_of = |text: &[u8]| {
        let mut text = text;
        let mut reader = ExportReader::new(&mut text);
        loop {
            match reader.next_line() {
                Ok(ExportLine::End { .. }) => return None,
                Ok(_) => {}
                Err(ExportError::Bad { line, .. }) => return Some(line),
                Err(other) => panic!("{other}"),
            }
        }
    };
    assert_eq!(last_of(&export), None);
    assert_eq!(last_of(&[&export[..], b"\n"].concat()), None);
    assert_eq!(last_of(&[&export[..], &export[..]].concat()), Some(4));
    assert_eq!(last_of(&[&export[..], b"\xff"].concat()), Some(4));
    assert_eq!(last_of(&[b"\xff\n", &export[..]].concat()), Some(1));
    let at = export.len() - b"\"}\n".len();
    let with_no_text = [&export[..at], b"\xff", &export[at..]].concat();
    assert_eq!(last_of(&with_no_text), Some(3));
}

#[test]
fn s7_an_export_that_was_cut_is_refused() {
    for end in [None, Some(9), Some(11)] {
        let refused = read(whole(), end).expect_err("is not whole");
        assert!(matches!(refused, ExportError::Bad { .. }), "{refused}");
    }
    let mut text = &b"{\"type\":\"store\"}\n"[..];
    let refused = ExportReader::new(&mut text).next_line();
    assert!(matches!(refused, Err(ExportError::Bad { line: 1, .. })));
}
