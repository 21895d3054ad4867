//! What is done to a store and to its model.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any};
use proptest::{prop_oneof, sample};
use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    Commit, Epoch, Guard, NewEvent, Payload, Position, Removal, RowChange, RowKey, RowQuery, Seq,
};

use super::model::Model;

// So few that guards meet, and close to one another in the order of bytes.
pub(super) const SPACES: [&str; 2] = ["epoch", "law"];
const SCOPES: [&str; 3] = ["s", "s1", "t"];
const NAMES: [&str; 4] = ["", "a", "a1", "b"];
const STREAMS: [&str; 3] = ["x", "y", "z"];

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Commit(Draft),
    /// The n-th accepted commit again, as it was or changed.
    Repeat(usize, bool),
    PutAttachment(u8),
    Events(Option<StreamKey>, Position, usize),
    Rows(RowQuery, usize),
    Reopen,
}

/// A commit before its ids are made and its guards are resolved.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    owner: Option<(ScopeId, Epoch)>,
    guards: Vec<GuardDraft>,
    rows: Vec<RowDraft>,
    events: Vec<EventDraft>,
    /// The first event takes the id of the n-th event of the log.
    takes: Option<usize>,
    attachments: Vec<u8>,
    removals: Vec<Removal>,
}

#[derive(Debug, Clone)]
enum GuardDraft {
    /// As drawn; it holds by chance.
    As(Guard),
    /// What the row is now.
    Row(RowKey),
    /// Where the stream ends now.
    Head(StreamKey),
}

#[derive(Debug, Clone)]
enum RowDraft {
    Put {
        key: RowKey,
        body: u8,
        /// One of the commit's events, if it has any.
        event: Option<usize>,
        due: Option<u64>,
    },
    Delete(RowKey),
    Retire(ScopeId),
}

#[derive(Debug, Clone)]
struct EventDraft {
    streams: Vec<StreamKey>,
    closes: bool,
    body: u8,
}

pub(super) fn attachment(number: u8) -> Payload {
    [number].as_slice().into()
}

fn id_bytes(commit: u64, event: usize) -> [u8; 10] {
    let mut bytes = [event as u8; 10];
    bytes[..8].copy_from_slice(&commit.to_be_bytes());
    bytes
}

impl Draft {
    /// Makes the commit; `number` makes its ids new.
    pub(super) fn resolve(self, model: &Model, number: u64) -> Commit {
        let time = Timestamp::from_millis(1_700_000_000_000 + number);
        let events = self.events.into_iter().enumerate();
        let mut events: Vec<NewEvent> = events
            .map(|(index, event)| event.resolve(time, id_bytes(number, index)))
            .collect();
        let log = &model.history.log;
        let taken = self.takes.and_then(|index| index.checked_rem(log.len()));
        if let (Some(index), Some(event)) = (taken, events.first_mut()) {
            event.id = log[index].id;
        }
        let rows = self.rows.into_iter();
        Commit {
            owner: self.owner,
            guards: self
                .guards
                .into_iter()
                .map(|guard| guard.resolve(model))
                .collect(),
            rows: rows.map(|row| row.resolve(events.len())).collect(),
            events,
            attachments: self
                .attachments
                .into_iter()
                .map(|number| Digest::of_bytes(&attachment(number)))
                .collect(),
            removals: self.removals,
            ..Commit::new(CommitId::generate(time, id_bytes(number, 255)), time)
        }
    }
}

impl GuardDraft {
    fn resolve(self, model: &Model) -> Guard {
        match self {
            Self::As(guard) => guard,
            Self::Row(key) => match model.row(&key) {
                Some(row) => Guard::Version(key, row.version),
                None => Guard::Absent(key),
            },
            Self::Head(stream) => {
                let seq = model.head(&stream);
                Guard::Head(stream, seq)
            }
        }
    }
}

impl RowDraft {
    fn resolve(self, events: usize) -> RowChange {
        match self {
            Self::Put {
                key,
                body,
                event,
                due,
            } => RowChange::Put {
                key,
                body: [body].as_slice().into(),
                event: event.and_then(|event| event.checked_rem(events)),
                due: due.map(Timestamp::from_millis),
            },
            Self::Delete(key) => RowChange::Delete(key),
            Self::Retire(scope) => RowChange::Retire(scope),
        }
    }
}

impl EventDraft {
    fn resolve(self, time: Timestamp, bytes: [u8; 10]) -> NewEvent {
        NewEvent {
            id: EventId::generate(time, bytes),
            streams: self.streams,
            closes: self.closes,
            body: [self.body].as_slice().into(),
        }
    }
}

pub(super) fn operations(max: usize) -> impl Strategy<Value = Vec<Operation>> {
    let limit = || sample::select(vec![1_usize, 2, 3, 50]);
    let operation = prop_oneof![
        12 => draft().prop_map(Operation::Commit),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, change)| Operation::Repeat(at, change)),
        1 => (0..3_u8).prop_map(Operation::PutAttachment),
        2 => (option::of(stream()), 0..30_u64, limit())
            .prop_map(|(stream, after, limit)| Operation::Events(stream, Position(after), limit)),
        3 => (query(), limit()).prop_map(|(query, limit)| Operation::Rows(query, limit)),
        1 => Just(Operation::Reopen),
    ];
    vec(operation, 1..max)
}

fn scope() -> impl Strategy<Value = ScopeId> {
    sample::select(&SCOPES[..]).prop_map(|id| ScopeId::new(id).expect("a scope id"))
}

fn stream() -> impl Strategy<Value = StreamKey> {
    sample::select(&STREAMS[..]).prop_map(|key| StreamKey::new(key).expect("a stream key"))
}

fn key() -> impl Strategy<Value = RowKey> {
    let law = (scope(), sample::select(&NAMES[..]))
        .prop_map(|(scope, name)| RowKey::new("law", scope, name));
    prop_oneof![3 => law, 1 => scope().prop_map(RowKey::epoch)]
}

fn draft() -> impl Strategy<Value = Draft> {
    let owner = option::weighted(0.2, (scope(), (1..4_u64).prop_map(Epoch)));
    let guards = vec(guard(), 0..3);
    let events = vec(event(), 0..4);
    let takes = option::weighted(0.03, any::<usize>());
    let attachments = option::weighted(0.1, 0..3_u8);
    let removals = option::weighted(0.1, vec(removal(), 1..3));
    let names = (attachments, removals);
    (owner, guards, vec(row(), 0..4), events, takes, names).prop_map(
        |(owner, guards, rows, events, takes, (attachments, removals))| Draft {
            owner,
            guards,
            rows,
            events,
            takes,
            attachments: attachments.into_iter().collect(),
            removals: removals.unwrap_or_default(),
        },
    )
}

fn removal() -> impl Strategy<Value = Removal> {
    prop_oneof![
        (0..30_u64).prop_map(|through| Removal::Through(Position(through))),
        stream().prop_map(Removal::Stream),
    ]
}

fn guard() -> impl Strategy<Value = GuardDraft> {
    let head = (stream(), 0..4_u64).prop_map(|(stream, seq)| Guard::Head(stream, Seq(seq)));
    prop_oneof![
        4 => key().prop_map(GuardDraft::Row),
        4 => stream().prop_map(GuardDraft::Head),
        1 => key().prop_map(|key| GuardDraft::As(Guard::Absent(key))),
        1 => (key(), 1..4_u64).prop_map(|(key, at)| GuardDraft::As(Guard::Version(key, at))),
        1 => head.prop_map(GuardDraft::As),
    ]
}

fn row() -> impl Strategy<Value = RowDraft> {
    let event = option::of(any::<usize>());
    let put =
        (key(), any::<u8>(), event, option::of(0..6_u64)).prop_map(|(key, body, event, due)| {
            RowDraft::Put {
                key,
                body,
                event,
                due,
            }
        });
    prop_oneof![
        8 => put,
        2 => key().prop_map(RowDraft::Delete),
        1 => scope().prop_map(RowDraft::Retire),
    ]
}

fn event() -> impl Strategy<Value = EventDraft> {
    let streams = sample::subsequence(&STREAMS[..], 0..=3).prop_shuffle();
    let streams = streams.prop_map(|keys| {
        let key = |key| StreamKey::new(key).expect("a stream key");
        keys.into_iter().map(key).collect()
    });
    let closes = proptest::bool::weighted(0.06);
    (streams, closes, any::<u8>()).prop_map(|(streams, closes, body)| EventDraft {
        streams,
        closes,
        body,
    })
}

fn query() -> impl Strategy<Value = RowQuery> {
    let prefix = (
        sample::select(&SPACES[..]),
        option::of(scope()),
        sample::select(&NAMES[..]),
    );
    prop_oneof![
        prefix.prop_map(|(space, scope, name)| RowQuery::Prefix {
            space: space.into(),
            scope,
            name: name.into(),
        }),
        (0..6_u64).prop_map(|until| RowQuery::Due {
            space: "law".into(),
            until: Timestamp::from_millis(until),
        }),
    ]
}
