//! A store beside a naive model of it (R12).

mod model;
mod operation;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use runtime_core::Digest;
use runtime_store::{Commit, Committed, Page, RowQuery, Store};

use crate::store_laws::{LawBroken, StoreFixture};
use model::Model;
use operation::{Operation, attachment, operations};

/// Runs so many random sequences of up to 50 commits, repetitions, reads and reopenings against a
/// store and against a model of it, each with a storage of its own. The same seed gives the same
/// sequences.
///
/// The model is a list of the accepted commits, read from its beginning after each one;
/// it wants dense positions.
///
/// # Panics
/// When the store answers otherwise than the model, with the shortest sequence found.
pub fn check_against_model<F: StoreFixture>(cases: u32, seed: u64, fixture: impl Fn() -> F) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    let result = TestRunner::new_with_rng(config, random).run(&operations(50), |operations| {
        let fixture = fixture();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .expect("the machine gives a runtime")
            .block_on(run(&fixture, operations))
            .map_err(|broken| TestCaseError::fail(broken.to_string()))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, operations)) => {
            panic!("{reason}\nseed {seed}, shortest sequence: {operations:#?}")
        }
        Err(TestError::Abort(reason)) => panic!("no sequences: {reason}"),
    }
}

async fn run(fixture: &dyn StoreFixture, operations: Vec<Operation>) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let mut model = Model::default();
    for (index, operation) in operations.into_iter().enumerate() {
        match operation {
            Operation::Reopen => {
                store = fixture.reopen(store).await;
                compare_all(&*store, &model).await?;
            }
            Operation::PutAttachment(number) => {
                let digest = store.put_attachment(attachment(number)).await?;
                model.attachments.insert(digest);
            }
            Operation::Commit(draft) => {
                let commit = draft.resolve(&model, index as u64);
                compare_commit(&*store, &mut model, commit).await?;
            }
            Operation::Repeat(number, change) => {
                let accepted = model.accepted.len();
                let Some(commit) = number.checked_rem(accepted).map(|at| &model.accepted[at])
                else {
                    continue;
                };
                let mut commit = commit.clone();
                if change {
                    commit.attachments.push(Digest::of_bytes(b"another"));
                }
                compare_commit(&*store, &mut model, commit).await?;
            }
            Operation::Events(stream, after, limit) => {
                let page = store
                    .events(stream.as_ref(), Page::after(after, limit))
                    .await?;
                let wanted = model.events(stream.as_ref(), after, limit);
                let found = (page.events, page.has_more, page.head, page.pruned);
                same("a page of events", &found, &wanted)?;
            }
            Operation::Rows(query, limit) => {
                compare_rows(&*store, &model, query, limit).await?;
            }
        }
    }
    compare_all(&*store, &model).await
}

async fn compare_commit(
    store: &dyn Store,
    model: &mut Model,
    commit: Commit,
) -> Result<(), LawBroken> {
    let wanted = model.commit(&commit);
    let id = commit.id;
    let found = store.commit(commit).await;
    match (found, wanted) {
        (Ok(found), Ok(wanted)) => same("a commit", &found, &wanted)?,
        // Errors have no equality; what they say has.
        (found, wanted) => same("a commit", &format!("{found:?}"), &format!("{wanted:?}"))?,
    }
    let known = store.committed(&id).await?.map(|committed| Committed {
        repeated: false,
        ..committed
    });
    same("what became of a commit", &known, &model.committed(&id))
}

async fn compare_rows(
    store: &dyn Store,
    model: &Model,
    query: RowQuery,
    limit: usize,
) -> Result<(), LawBroken> {
    let wanted = model.rows(&query);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.rows(query.clone(), Page::after(after, limit)).await?;
        found.extend(page.rows);
        after = page.next;
        if after.is_none() || found.len() > wanted.len() {
            return same("rows", &found, &wanted);
        }
    }
}

async fn compare_all(store: &dyn Store, model: &Model) -> Result<(), LawBroken> {
    for space in operation::SPACES {
        compare_rows(store, model, RowQuery::space(space), 3).await?;
    }
    for row in model.rows(&RowQuery::space("law")) {
        let found = store.row(&row.key).await?;
        same("a row", &found.as_ref(), &Some(&row))?;
    }
    let page = store
        .events(None, Page::after(Default::default(), 256))
        .await?;
    same("the log", &&*page.events, &model.history.served())?;
    let units = store
        .retention_units(Page::after(Default::default(), 256))
        .await?;
    let events: u64 = units.iter().map(|unit| unit.events).sum();
    same("the units", &events, &(model.history.served().len() as u64))
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), LawBroken> {
    if found == wanted {
        return Ok(());
    }
    let what = format!("{what}: the store says {found:?}, the model {wanted:?}");
    Err(LawBroken::at(file!(), line!(), what))
}
