//! The server restarts under load.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postgres_for_tests::{PostgresServer, StartError, StopMode};
use runtime_postgres::{PostgresOptions, PostgresStore};
use runtime_store::Store;
use tokio::sync::watch;

use crate::load::{commit, faults, follow, log};

/// How often the server restarts; more by `AGENT_RUNTIME_POSTGRES_RESTARTS`.
fn restarts() -> u64 {
    let named = std::env::var("AGENT_RUNTIME_POSTGRES_RESTARTS").ok();
    named.map_or(2, |number| number.parse().expect("a number of restarts"))
}

/// R3: the server is restarted, fast and as after a loss of power, while sixteen write and one
/// follows: nothing acknowledged is lost, nothing happens twice, no answer is left open.
#[test]
fn r3_a_restart_of_the_server_loses_nothing() {
    let server = match PostgresServer::start() {
        Err(StartError::NoBinaries) => {
            return assert!(postgres_for_tests::url_for_tests().is_none());
        }
        started => started.expect("a server"),
    };
    let started = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let acknowledged = runtime.block_on(restart_under_load(Arc::new(server), restarts()));
    println!(
        "R3-postgres {acknowledged} 0 {:.1}",
        started.elapsed().as_secs_f64()
    );
}

async fn restart_under_load(server: Arc<PostgresServer>, restarts: u64) -> usize {
    const WRITERS: usize = 16;
    let options = PostgresOptions::new(&server.url()).expect("a URL");
    let store = Arc::new(PostgresStore::open(options.clone()).await.expect("a store"));
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, over) = (Arc::clone(&store), Arc::clone(&over));
        writers.spawn(async move {
            let name = format!("writer-{writer}");
            let mut done = HashSet::new();
            for number in 1.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let made = store.commit(commit(&name, number, 0)).await;
                assert!(!made.expect("an append outlasts a restart").repeated);
                done.insert((name.clone(), number));
            }
            done
        });
    }
    let (end, ended) = watch::channel(0);
    let beside: Arc<dyn Store> = Arc::new(PostgresStore::open(options).await.expect("a store"));
    let follower = tokio::spawn(follow(beside, ended));
    for restart in 0..restarts {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let mode = [StopMode::Fast, StopMode::Immediate][usize::from(restart % 2 == 1)];
        let server = Arc::clone(&server);
        let restarted = tokio::task::spawn_blocking(move || server.restart(mode)).await;
        restarted.expect("no panic").expect("a restart");
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    over.store(true, Ordering::Relaxed);
    let mut acknowledged = HashSet::new();
    while let Some(writer) = writers.join_next().await {
        acknowledged.extend(writer.expect("a writer"));
    }
    let log = log(&*store).await;
    let faults = faults(&log, &acknowledged);
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(
        log.len(),
        acknowledged.len(),
        "more happened than was acknowledged"
    );
    end.send(log.len() as u64).expect("the follower waits");
    assert!(
        follower.await.expect("a follower") == log,
        "the follower saw another log"
    );
    acknowledged.len()
}
