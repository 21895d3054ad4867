//! Rounds of this runtime that several groups have.

use std::sync::Arc;

use own::{Appends, executor, host, opening, scope, start, step};
use runtime::effects::EffectHost as _;
use runtime::fs_store::FsStore;
use runtime::store::Store;

use harness::{Figures, Outcome, Plan, Progress, Written, observe};

pub(crate) fn written(store: &FsStore) -> Option<Written> {
    let written = store.written();
    Some(Written {
        syncs: written.syncs,
        bytes: Some(written.bytes),
    })
}

/// So many writers append to a store, each waiting for one commit before the next. Their streams
/// are numbered from `first` on: a row is put under its version, which starts anew.
pub(crate) async fn append(
    plan: Plan,
    store: Arc<FsStore>,
    first: u64,
    writers: usize,
) -> Outcome<Figures> {
    let progress = Arc::new(Progress::default());
    let tasks = (first..first + writers as u64).map(|writer| {
        let (store, progress) = (Arc::clone(&store), Arc::clone(&progress));
        tokio::spawn(async move {
            let appends = Appends::of(writer)?;
            for version in 0.. {
                store.commit(appends.commit(version)).await?;
                if !progress.count() {
                    break;
                }
            }
            Ok(())
        })
    });
    let tasks = tasks.collect();
    observe(plan, &progress, tasks, || written(&store)).await
}

/// Steps of so many turns, each running one after another.
pub(crate) async fn steps(
    plan: Plan,
    store: Arc<dyn Store>,
    turns: usize,
    retry_safe: bool,
    written: impl Fn() -> Option<Written>,
) -> Outcome<Figures> {
    let host = host(&store);
    let progress = Arc::new(Progress::default());
    let tasks = (0..turns).map(|turn| {
        let (store, host) = (Arc::clone(&store), host.clone());
        let progress = Arc::clone(&progress);
        tokio::spawn(async move {
            let scope = scope(turn)?;
            start(&*store, &scope).await?;
            let controller = host.scoped(opening(&scope))?;
            for occurrence in 0.. {
                let envelope = step(&scope, occurrence)?.retry_safe(retry_safe);
                controller.execute_effect(envelope, executor()).await?;
                if !progress.count() {
                    break;
                }
            }
            Ok(())
        })
    });
    let tasks = tasks.collect();
    observe(plan, &progress, tasks, written).await
}
