//! Acquiring and releasing a live agent that is built already.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};

use own::lease::Leases;

use harness::{Outcome, Table, repeat};

const BATCH: usize = 1_000;

pub(super) async fn tables() -> Outcome<Vec<Table>> {
    let key = ("tenant".to_owned(), "writer".to_owned());
    let object = Arc::new("an agent".to_owned());

    let floor = Arc::new(Mutex::new(HashMap::from([(
        key.clone(),
        Arc::clone(&object),
    )])));
    let floor_key = key.clone();
    let moka = moka::future::Cache::new(1_024);
    moka.insert(key.clone(), object).await;

    let leases = Leases::new();

    let table = Table::new("acquire and release")
        .contender("floor: HashMap under a mutex, Arc clone", move |plan, _| {
            let (floor, key) = (Arc::clone(&floor), floor_key.clone());
            async move {
                let act = async || {
                    let held = floor.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(black_box(held.get(black_box(&key)).cloned()));
                    Ok(())
                };
                repeat(plan, BATCH, 1, act).await
            }
        })
        .contender("moka 0.12 (future), Arc clone", move |plan, _| {
            let (moka, key) = (moka.clone(), key.clone());
            async move {
                let act = async || {
                    drop(black_box(moka.get(black_box(&key)).await));
                    Ok(())
                };
                repeat(plan, BATCH, 1, act).await
            }
        })
        .contender("agent cache: lease and release", move |plan, _| {
            let leases = leases.clone();
            async move {
                let act = async || {
                    drop(black_box(leases.acquire().await?));
                    Ok(())
                };
                repeat(plan, BATCH, 1, act).await
            }
        });
    Ok(vec![table])
}
