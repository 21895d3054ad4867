//! Waiting for other processes and for sockets: they go by real time, so no clock is simulated.

use std::time::Duration;

/// How often it is looked, at most: for ten seconds in all.
const LOOKS_MAX: usize = 2_000;

/// Lets the other side get on.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Waits until it is so.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    until_some(async || so().then_some(())).await;
}

/// Waits until there is something.
pub(crate) async fn until_some<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS_MAX {
        if let Some(found) = look().await {
            return found;
        }
        pause().await;
    }
    panic!("it never came about");
}
