//! A durable workflow: kill it at any moment, start it again, and it goes on where it was.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{sync::Arc, time::Duration};

use runtime::effects::{Failure, WorkflowContext, WorkflowHost};
use runtime::fs_store::{FsStore, FsStoreOptions};

/// What happens outside: kill the program and see which lines come again.
async fn act(what: &str) -> Result<String, Failure> {
    println!("{what}");
    Ok(what.to_uppercase())
}

async fn order(context: WorkflowContext, item: String) -> Result<String, Failure> {
    let paid = context.step("pay", || act("pay")).retry_safe().await?;
    context.sleep(Duration::from_secs(1)).await;
    let both = ["pack", "label"].map(|part| context.step(part, move || act(part)).retry_safe());
    let done = context.all(both).await?.join(", ");
    let sent = context.step("send", || act("send")).retry_safe().await?;
    Ok(format!("{item}: {paid}, {done}, {sent}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).unwrap_or("./.orders".into());
    let store = Arc::new(FsStore::open(&FsStoreOptions::new(directory))?);
    let host = WorkflowHost::builder(store)
        .function("order", order)
        .open()
        .await?;
    let run = host.start(&"order-17".parse()?, "order", &"a book").await?;
    println!("{}", run.value::<String>().await?);
    host.close().await;
    Ok(())
}
