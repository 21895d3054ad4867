//! W3: the catalogue is a fold of the log, whatever happens.

use proptest::prelude::*;
use runtime_workers::{Command, Runtime, WorkerRecord, view};

use crate::Memory;
use crate::suite::{Desk, GOLDEN, PLAIN, approve_all, check_context, desk, events};

#[derive(Debug, Clone)]
enum Operation {
    Plain,
    Golden,
    /// The same submission again and again.
    Repeated,
    Approve,
    System,
    Stop,
    Resume,
    Cancel,
    Reopen,
    /// A process that ends without closing.
    Kill,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => Just(Operation::Plain),
        3 => Just(Operation::Golden),
        2 => Just(Operation::Repeated),
        4 => Just(Operation::Approve),
        2 => Just(Operation::System),
        2 => Just(Operation::Stop),
        3 => Just(Operation::Resume),
        1 => Just(Operation::Cancel),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::Kill),
    ]
}

async fn perform(world: &Desk, place: &Memory, runtime: Runtime, operation: &Operation) -> Runtime {
    match operation {
        // A cancelled worker refuses them, which must change nothing.
        Operation::Plain => drop(runtime.send(&desk(), PLAIN).await),
        Operation::Golden => drop(runtime.send(&desk(), GOLDEN).await),
        Operation::Repeated => {
            drop(
                runtime
                    .submit(&desk(), "same".parse().unwrap(), PLAIN)
                    .await,
            );
        }
        Operation::Approve => approve_all(&runtime).await,
        Operation::System => {
            let at = runtime.cursor_now().await.unwrap();
            let id = format!("system-{at}").replace(['|', '/', '='], ":");
            drop(
                runtime
                    .submit_system(&desk(), id.parse().unwrap(), "note")
                    .await,
            );
        }
        Operation::Stop => drop(runtime.stop_worker(&desk(), None).await),
        Operation::Resume => drop(runtime.resume(&desk()).await),
        Operation::Cancel => {
            let command = Command::CancelWorker {
                worker: desk(),
                reason: None,
            };
            drop(runtime.apply(command).await);
        }
        Operation::Reopen => {
            runtime.close().await.unwrap();
            return world.open(&place).await;
        }
        Operation::Kill => return world.open(&place).await,
    }
    runtime
}

#[async_trait::async_trait]
impl crate::suite::Place for &Memory {
    async fn open(&self) -> std::sync::Arc<dyn runtime_store::Store> {
        (*self).open().await
    }
}

async fn check(runtime: &Runtime) {
    let events = events(runtime.store()).await;
    let of_worker = events.iter().filter(|event| event.draft.session.is_some());
    let folded = WorkerRecord::folded(of_worker.map(|event| &event.draft)).unwrap();
    let row = view::worker(runtime.store(), &desk()).await.unwrap();
    assert_eq!(folded, row);
    let worker = desk();
    let unfinished = view::unfinished_turns(runtime.store(), Some(&worker));
    assert_eq!(row.unfinished as usize, unfinished.await.unwrap().len());
    check_transcript(runtime, row.transcript).await;
}

/// Every entry can be read, and there are as many as the record says.
async fn check_transcript(runtime: &Runtime, total: u64) {
    let mut start = Some(1);
    let mut read = 0;
    while let Some(from) = start {
        let page = runtime.transcript(&desk(), from, 100).await.unwrap();
        read += page.items.len() as u64;
        start = page.next_start;
    }
    assert_eq!(read, total);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn w3_the_catalogue_is_the_fold_of_the_log(
        operations in prop::collection::vec(operation(), 1..16),
    ) {
        let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
        executor.block_on(async {
            let world = Desk::new();
            let place = Memory::new();
            let mut runtime = world.open_worker(&place).await;
            for operation in &operations {
                runtime = perform(&world, &place, runtime, operation).await;
                runtime.settled().await;
                check(&runtime).await;
            }
            // A stopped worker keeps its turns; those of a cancelled one have ended.
            drop(runtime.resume(&desk()).await);
            runtime.settled().await;
            // What is answered waits for nobody, though its turn has more to ask.
            while !runtime.pending().await.unwrap().is_empty() {
                approve_all(&runtime).await;
                runtime.settled().await;
            }
            check(&runtime).await;
            check_context(&runtime).await;
        });
    }
}
