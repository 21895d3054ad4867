//! Two runtimes in one process.

use futures_util::StreamExt as _;
use runtime_core::{Classified as _, EventKind};
use runtime_events::StreamItem;
use runtime_turn::ApprovalDecision;
use runtime_workers::Command;

use super::{Desk, GOLDEN, PLAIN, Place, approve_all, desk, ends, events, session};

/// U1, W2, E12, V6: two runtimes of one process share no worker, token, cursor, event or close,
/// though everything in them has the same name.
pub(crate) async fn u1_two_runtimes_of_one_process_share_nothing(
    one: &dyn Place,
    other: &dyn Place,
) {
    // The same clock readings and the same randomness give both the same ids.
    let (world, elsewhere) = (Desk::new(), Desk::new());
    let runtime = world.open_worker(one).await;
    let apart = elsewhere.open_worker(other).await;
    assert_ne!(runtime.id(), apart.id());
    for each in [&runtime, &apart] {
        let golden = "golden".parse().unwrap();
        each.submit(&desk(), golden, GOLDEN).await.unwrap();
        each.settled().await;
    }
    let token = runtime.pending().await.unwrap()[0].token.clone();
    let its_own = apart.pending().await.unwrap()[0].token.clone();
    assert_ne!(token, its_own);

    // A token, a reference, a cursor of the one is nothing in the other.
    let before = events(apart.store()).await;
    let target = token.unwrap();
    let decision = ApprovalDecision::Approve;
    let refused = apart.apply(Command::Decide { target, decision }).await;
    assert!(refused.is_err(), "{refused:?}");
    let reference = runtime.worker("desk").await.unwrap().reference().clone();
    let refused = apart.attach(&reference).await.unwrap_err();
    assert_eq!(refused.code(), "runtime_other");
    let cursor = runtime.cursor_now().await.unwrap();
    let refused = apart.read(session(), cursor, 9).await.unwrap_err();
    assert_eq!(refused.to_wire().code, "cursor_other_runtime");
    assert_eq!(events(apart.store()).await, before);

    // What happens in the one is neither done nor heard of in the other.
    let from = apart.cursor_now().await.unwrap();
    let mut listening = apart.subscribe(session(), Some(from));
    approve_all(&runtime).await;
    runtime.settled().await;
    assert_eq!((world.ledger().len(), elsewhere.ledger().len()), (1, 0));
    assert_eq!(ends(&events(runtime.store()).await).len(), 1);
    assert_eq!(events(apart.store()).await, before);
    let digest = runtime.store().put_attachment((*b"of one").into()).await;
    let known = apart.store().has_attachment(&digest.unwrap()).await;
    assert!(!known.unwrap());

    // Nor does closing the one concern the other.
    runtime.close().await.unwrap();
    approve_all(&apart).await;
    apart.settled().await;
    assert_eq!(elsewhere.ledger().len(), 1);
    assert_eq!(apart.ask(&desk(), PLAIN).await.unwrap(), "Hello, hello!");
    let heard = listening.next().await.unwrap().unwrap();
    let StreamItem::Event(heard) = heard else {
        panic!("expected an event, found {heard:?}");
    };
    assert_eq!(*heard.kind(), EventKind::PromiseResolved);
    assert_eq!(heard.position as usize, before.len() + 1);
    apart.close().await.unwrap();
}
