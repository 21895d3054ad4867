//! Commits of guard, row and event against the floor, by the number of writers.
#![allow(clippy::print_stdout, reason = "a program for people prints")]

mod measure;

use std::path::Path;
use std::sync::Arc;

use measure::{Contender, Figures, Group, Outcome, Plan, Progress, Table, Written, floor, observe};
use runtime::core::{Clock, CommitId, EventId, Random, ScopeId, StreamKey, Tier};
use runtime::fs_store::{FsStore, FsStoreOptions};
use runtime::store::{
    Commit, Guard, NewEvent, Payload, RowChange, RowKey, Store, SystemClock, SystemRandom,
};

const EVENT_BYTES: usize = 300;
const ROW_BYTES: usize = 16;

fn main() -> Outcome<()> {
    let table = |writers: usize, target| Table {
        name: format!("append, {writers} writers"),
        contenders: vec![
            Contender {
                name: "floor: append and fdatasync",
                target: None,
                run: Box::new(move |plan, path| Box::pin(floor::run(plan, path, writers))),
            },
            contender("tier Power", Tier::Power, writers, target),
            contender("tier Crash", Tier::Crash, writers, None),
        ],
    };
    let group = Group {
        name: "append",
        tables: vec![
            table(1, Some(0.6)),
            table(16, Some(0.55)),
            table(64, Some(0.45)),
            table(256, None),
        ],
    };
    group.run(&Plan::from_arguments())
}

fn contender(name: &'static str, tier: Tier, writers: usize, target: Option<f64>) -> Contender {
    Contender {
        name,
        target,
        run: Box::new(move |plan, path| Box::pin(run(plan, path, tier, writers))),
    }
}

async fn run(plan: &Plan, parent: &Path, tier: Tier, writers: usize) -> Outcome<Figures> {
    let options = FsStoreOptions::new(parent.join("store")).tier(tier);
    let store = Arc::new(FsStore::open(&options)?);
    let progress = Arc::new(Progress::default());
    let handles = (0..writers).map(|writer| {
        let (store, progress) = (Arc::clone(&store), Arc::clone(&progress));
        tokio::spawn(async move { write(&store, &progress, writer).await })
    });
    let handles = handles.collect();
    let figures = observe(plan, &progress, handles, || {
        let written = store.written();
        Written {
            syncs: written.syncs,
            bytes: written.bytes,
        }
    })
    .await?;
    store.close().await?;
    Ok(figures)
}

/// Appends to a stream of its own, with a row that is put again each time, under its version.
async fn write(store: &FsStore, progress: &Progress, writer: usize) -> Outcome<()> {
    let (clock, random) = (SystemClock::new(), SystemRandom);
    let scope = ScopeId::new(format!("turn/bench/{writer}"))?;
    let stream = StreamKey::new(format!("session/bench-{writer}"))?;
    let key = RowKey::new("bench", scope, "row");
    let body: Payload = vec![b'e'; EVENT_BYTES].into();
    let row: Payload = vec![b'r'; ROW_BYTES].into();
    let mut version = 0;
    loop {
        let now = clock.now();
        let guard = match version {
            0 => Guard::Absent(key.clone()),
            version => Guard::Version(key.clone(), version),
        };
        let event = NewEvent {
            id: EventId::generate(now, random.ten()),
            streams: vec![stream.clone()],
            closes: false,
            body: Arc::clone(&body),
        };
        let commit = Commit::new(CommitId::generate(now, random.ten()), now)
            .guard(guard)
            .row(RowChange::put(key.clone(), Arc::clone(&row)))
            .event(event);
        store.commit(commit).await?;
        version += 1;
        if !progress.count() {
            return Ok(());
        }
    }
}
