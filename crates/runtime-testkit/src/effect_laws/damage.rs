//! Damaged journals (R17): whatever was changed, moved or cut, the answer is a typed error and
//! nothing runs.

use runtime_core::{
    EffectEnvelope, EffectOutcome, EffectOutput, ErrorClass, EventId, ExecutionScope, Timestamp,
};
use runtime_effects::{Applied, EffectHost, Interrupt};
use runtime_store::{Commit, NewEvent, Payload, Row, RowChange, RowKey, Store};
use serde_json::{Value, json};

use super::Tally;
use super::world::{
    Runs, World, custom, desk, failure, fresh_id, opening, patient, result, tool_call, turn,
    wait_for,
};
use crate::store_laws::StoreFixture;

/// Which effect of the journal is damaged, and asked for afterwards.
const DONE: usize = 0;
const OTHER_DONE: usize = 1;
const IN_DOUBT: usize = 2;
const STARTED: usize = 3;
const RETRYING: usize = 4;
const WAITING: usize = 5;

/// What is done to a record.
enum Damage {
    /// The row's own bytes become these.
    Row(Vec<u8>),
    /// A member of the row is set; removed by null.
    Member(&'static str, Value),
    /// The bytes of its event become these.
    Event(Vec<u8>),
    /// A member of the event's payload is set, by its pointer; removed by null.
    Told(&'static str, Value),
    /// Its event is lost.
    NoEvent,
    /// It gets the event of another effect.
    EventOf(usize),
    /// It gets the row of another effect.
    RowOf(usize),
    /// It gets both.
    RecordOf(usize),
    /// It is lost, with the end of the journal; replay is strict.
    Lost,
}

/// Lists the cases: what is damaged, and how.
fn cases(journal: &[Row]) -> Vec<(usize, Damage)> {
    use Damage::{Event, EventOf, Lost, Member, NoEvent, RecordOf, Row, RowOf, Told};
    let mut cases = Vec::new();
    for (effect, row) in journal.iter().enumerate() {
        let event = row.event.as_ref().expect("each has one").body.to_vec();
        for cut in [0, 1, 2, 3] {
            cases.push((effect, Row(row.body[..row.body.len() * cut / 4].to_vec())));
            cases.push((effect, Event(event[..event.len() * cut / 4].to_vec())));
        }
        cases.push((effect, Row(row.body[..row.body.len() - 1].to_vec())));
        cases.push((effect, Event(event[..event.len() - 1].to_vec())));
        for member in ["schema", "digest", "attempts", "state"] {
            cases.push((effect, Member(member, Value::Null)));
        }
        cases.push((effect, Member("schema", json!(2))));
        cases.push((effect, Member("attempts", json!(-1))));
        cases.push((effect, Member("state", json!("forgotten"))));
        cases.push((effect, Told("/identity", Value::Null)));
        cases.push((effect, Told("/identity/command/kind", json!("sleep"))));
        cases.push((effect, Told("/identity/key", json!("9.tool_call.9"))));
        cases.push((effect, Told("/identity/scope", json!("turn/other/1"))));
        cases.push((effect, NoEvent));
        cases.push((effect, Lost));
        for other in (0..journal.len()).filter(|other| *other != effect) {
            cases.push((effect, EventOf(other)));
            cases.push((effect, RowOf(other)));
            cases.push((effect, RecordOf(other)));
        }
        // A later or earlier step of the same effect than the one that its event tells of.
        for state in [
            "started", "retrying", "waiting", "in_doubt", "released", "ruled", "done",
        ] {
            if journal_state(row) != state {
                cases.push((effect, Member("state", json!(state))));
            }
        }
    }
    for effect in [DONE, OTHER_DONE] {
        cases.push((effect, Told("/outcome", Value::Null)));
        cases.push((effect, Told("/outcome", json!("completed"))));
        let step = json!(EffectOutput::DurableStep { value: json!(1) });
        cases.push((effect, Told("/outcome/value", step)));
    }
    cases.push((STARTED, Member("attempts", json!(0))));
    cases.push((RETRYING, Member("due", json!(0))));
    cases.push((WAITING, Member("due", json!([null, 1]))));
    cases
}

fn journal_state(row: &Row) -> String {
    let body: Value = serde_json::from_slice(&row.body).expect("is whole");
    body["state"].as_str().expect("is a word").to_owned()
}

fn envelope(scope: &ExecutionScope, effect: usize) -> EffectEnvelope {
    let ordinal = u32::try_from(effect).expect("few effects");
    match effect {
        WAITING => wait_for(scope, &custom("answer"), None),
        RETRYING => tool_call(scope, ordinal, "write").with_policy(patient(5)),
        OTHER_DONE => tool_call(scope, ordinal, "read").retry_safe(true),
        _ => tool_call(scope, ordinal, "write"),
    }
}

/// Records six effects, one in each state that a journal knows, and returns their rows.
async fn record(world: &World<'_>, scope: &ExecutionScope) -> Vec<Row> {
    let host = world.host();
    let controller = world.open(&host, scope).await;
    let unknown = |_| Err(failure(ErrorClass::Unavailable, Applied::Unknown));
    let busy = |_| Err(failure(ErrorClass::Busy, Applied::No));
    for effect in [DONE, OTHER_DONE, IN_DOUBT, RETRYING] {
        let executor = match effect {
            IN_DOUBT => Runs::default().answers(unknown),
            RETRYING => Runs::default().answers(busy),
            _ => Runs::default().succeeds("done"),
        };
        let ended = controller.execute_effect(envelope(scope, effect), executor);
        assert_eq!(ended.await.is_ok(), [DONE, OTHER_DONE].contains(&effect));
    }
    {
        let hangs = Runs::default().hangs();
        let running = controller.execute_effect(envelope(scope, STARTED), hangs);
        assert!(world.stands_still(std::pin::pin!(running)).await);
    }
    let parked = controller.wait_any(envelope(scope, WAITING)).await;
    parked.expect_err("parks");
    let mut rows = Vec::new();
    for effect in DONE..=WAITING {
        let row = world.store.row(&key(scope, effect)).await.expect("reads");
        rows.push(row.expect("is recorded"));
    }
    rows
}

fn key(scope: &ExecutionScope, effect: usize) -> RowKey {
    let name = envelope(scope, effect).key().to_string();
    RowKey::new("effect", scope.scope_id(), name)
}

/// Writes a damaged record over the sound one.
async fn damage(
    world: &World<'_>,
    scope: &ExecutionScope,
    journal: &[Row],
    effect: usize,
    damage: &Damage,
) {
    let key = key(scope, effect);
    let now = Timestamp::from_millis(2);
    let body = |effect: usize| journal[effect].body.clone();
    let event = |effect: usize| {
        let event = journal[effect].event.as_ref();
        Some(event.expect("each has one").body.clone())
    };
    let (body, event): (Payload, Option<Payload>) = match damage {
        Damage::Row(bytes) => (bytes.as_slice().into(), event(effect)),
        Damage::Member(member, value) => {
            let pointer = format!("/{member}");
            (edited(&body(effect), &pointer, value), event(effect))
        }
        Damage::Event(bytes) => (body(effect), Some(bytes.as_slice().into())),
        Damage::Told(pointer, value) => {
            let pointer = format!("/payload{pointer}");
            let event = event(effect).expect("has one");
            (body(effect), Some(edited(&event, &pointer, value)))
        }
        Damage::NoEvent => (body(effect), None),
        Damage::EventOf(other) => (body(effect), event(*other)),
        Damage::RowOf(other) => (body(*other), event(effect)),
        Damage::RecordOf(other) => (body(*other), event(*other)),
        Damage::Lost => {
            let lost = Commit::new(fresh_id(), now).row(RowChange::Delete(key));
            world.store.commit(lost).await.expect("commits");
            return;
        }
    };
    let mut commit = Commit::new(fresh_id(), now).row(RowChange::Put {
        key,
        body,
        event: event.is_some().then_some(0),
        due: None,
    });
    if let Some(body) = event {
        commit = commit.event(NewEvent {
            id: EventId::from_uuid(fresh_id().as_uuid()),
            streams: Vec::new(),
            closes: false,
            body,
        });
    }
    world.store.commit(commit).await.expect("commits");
}

/// Sets a member of a JSON text, or removes it.
fn edited(text: &[u8], pointer: &str, value: &Value) -> Payload {
    let mut json: Value = serde_json::from_slice(text).expect("is whole");
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer begins so");
    let parent = json.pointer_mut(parent).expect("is there");
    let members = parent.as_object_mut().expect("holds members");
    let before = match value {
        Value::Null => members.remove(member),
        value => members.insert(member.to_owned(), value.clone()),
    };
    let changed = before.as_ref() != Some(value);
    assert!(changed, "{pointer} was {value} before");
    serde_json::to_vec(&json).expect("is plain data").into()
}

/// Asks for an effect; says what was answered, and how often it ran.
async fn ask(
    world: &World<'_>,
    scope: &ExecutionScope,
    effect: usize,
    strict: bool,
) -> (Result<EffectOutcome, Interrupt>, u32) {
    let host = world.host();
    let mut opening = opening(scope, world.next_epoch(scope).await);
    opening.strict_replay = strict;
    let controller = host.scoped(opening).expect("opens");
    let runs = Runs::default();
    let envelope = envelope(scope, effect);
    let answer = match effect {
        WAITING => world.drive(controller.wait_any(envelope)).await,
        _ => {
            let asked = controller.execute_effect(envelope, runs.succeeds("again"));
            world.drive(asked).await
        }
    };
    (answer, runs.count())
}

/// Says whether an answer tells of the damage.
fn is_typed(answer: &Result<EffectOutcome, Interrupt>) -> bool {
    match answer {
        Err(Interrupt::Conflict(_)) => true,
        Err(Interrupt::Terminal(error)) => {
            error.class == ErrorClass::Corrupt || error.code == "effect_missing"
        }
        _ => false,
    }
}

/// R17: replays journals that were changed, reordered or cut, each in a turn of its own, by the
/// next process.
///
/// With `unreadable_is_absent` a fault is planted: a record that was damaged is taken for one
/// that was never written.
///
/// # Panics
/// When a sound journal does not replay.
pub async fn replay_of_damaged_journals(
    fixture: &dyn StoreFixture,
    unreadable_is_absent: bool,
) -> Tally {
    let mut world = World::new(fixture).await;
    // What waits parks at once.
    world.limits.park_after = std::time::Duration::ZERO;
    let sound = record(&world, &desk()).await;
    let count = cases(&sound).len();
    let scope = |number: usize| turn("damaged", &number.to_string());
    for number in 0..count {
        let journal = record(&world, &scope(number)).await;
        let (effect, what) = cases(&journal).swap_remove(number);
        let what = if unreadable_is_absent {
            Damage::Lost
        } else {
            what
        };
        damage(&world, &scope(number), &journal, effect, &what).await;
    }
    world.restart().await;
    let done = Ok(EffectOutcome::Completed(result("done")));
    for effect in [DONE, OTHER_DONE] {
        assert_eq!(ask(&world, &desk(), effect, true).await, (done.clone(), 0));
    }
    let mut tally = Tally::default();
    for (number, (effect, what)) in cases(&sound).into_iter().enumerate() {
        let strict = matches!(what, Damage::Lost) && !unreadable_is_absent;
        let (answer, runs) = ask(&world, &scope(number), effect, strict).await;
        tally.count(runs == 0 && is_typed(&answer), || {
            format!("case {number}, effect {effect}: {runs} runs, {answer:?}")
        });
    }
    tally
}
