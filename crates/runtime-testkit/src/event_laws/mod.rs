//! The law of the event log and its streams (V1–V9), one function per clause: each takes an empty
//! storage and the live fan-out before it, and says what broke.
//!
//! [`event_laws!`](crate::event_laws!) makes one test per law for a store; [`ALL`] lists them.
//! What the live fan-out itself owes is in [`adapter_laws`](mod@crate::adapter_laws): the laws
//! here hold whatever it loses, repeats or delays.

mod flaky;
mod log;
mod removal;
mod stream;
mod watch;

pub use flaky::{FlakyAdapter, Weather};
pub use log::{
    v1_an_unexpected_head_appends_nothing, v1_appending_again_gives_what_is_stored,
    v1_appends_at_once_are_dense, v1_other_content_under_an_id_is_a_conflict,
    v4_pages_of_any_limit_give_the_whole_log, v5_nothing_follows_the_end_of_a_turn,
    v6_cursors_survive_reopening, v6_cursors_that_lead_nowhere_are_told_apart,
    v9_a_consumer_goes_on_after_what_it_acknowledged,
};
pub use removal::{
    v4_an_erased_topic_keeps_its_places, v9_retention_keeps_to_its_bounds_and_waits_for_consumers,
    v9_what_retention_removed_is_a_visible_gap,
};
pub use stream::{
    v4_a_lost_live_message_is_repaired, v4_a_repeated_live_message_is_given_once,
    v4_a_slow_reader_misses_nothing, v4_an_append_during_the_join_is_given_once,
    v4_what_another_process_appends_arrives, v4_what_was_appended_before_is_replayed,
    v4_writers_and_readers_at_once_miss_nothing, v5_a_finished_turn_replays_and_ends,
    v8_a_reader_that_leaves_holds_up_nobody,
};
pub use watch::EventFixture;

use crate::store_laws::LawFuture;

/// A law of the event log by its name.
pub type EventLaw = (
    &'static str,
    for<'fixture> fn(&'fixture EventFixture<'fixture>) -> LawFuture<'fixture>,
);

/// Every law of the event log.
pub const ALL: &[EventLaw] = crate::event_laws!(@laws [list]);

/// Makes one test per law of the event log for a store, each with a storage of its own.
///
/// The first expression makes a [`StoreFixture`](crate::store_laws::StoreFixture) with an empty
/// storage. The second, if it is there, is a `fn(LiveConfig) -> Arc<dyn StreamAdapter>` that makes
/// the live fan-out; the one in memory serves otherwise. The crate that uses it depends on
/// `runtime-testkit` alone.
///
/// ```
/// use std::sync::Arc;
///
/// use runtime_store::{MemoryStore, Store};
///
/// struct Memory(MemoryStore);
///
/// #[async_trait::async_trait]
/// impl runtime_testkit::store_laws::StoreFixture for Memory {
///     async fn open(&self) -> Arc<dyn Store> {
///         Arc::new(self.0.reopen())
///     }
/// }
///
/// runtime_testkit::event_laws!(Memory(MemoryStore::new("laws".parse().expect("a runtime id"))));
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! event_laws {
    (@laws $to:tt) => {
        $crate::event_laws! { @each $to
            v1_an_unexpected_head_appends_nothing
            v1_appending_again_gives_what_is_stored
            v1_appends_at_once_are_dense
            v1_other_content_under_an_id_is_a_conflict
            v4_a_lost_live_message_is_repaired
            v4_a_repeated_live_message_is_given_once
            v4_a_slow_reader_misses_nothing
            v4_an_append_during_the_join_is_given_once
            v4_an_erased_topic_keeps_its_places
            v4_pages_of_any_limit_give_the_whole_log
            v4_what_another_process_appends_arrives
            v4_what_was_appended_before_is_replayed
            v4_writers_and_readers_at_once_miss_nothing
            v5_a_finished_turn_replays_and_ends
            v5_nothing_follows_the_end_of_a_turn
            v6_cursors_survive_reopening
            v6_cursors_that_lead_nowhere_are_told_apart
            v8_a_reader_that_leaves_holds_up_nobody
            v9_a_consumer_goes_on_after_what_it_acknowledged
            v9_retention_keeps_to_its_bounds_and_waits_for_consumers
            v9_what_retention_removed_is_a_visible_gap
        }
    };
    (@each [list] $($law:ident)+) => {
        &[$((stringify!($law), |fixture| Box::pin($crate::event_laws::$law(fixture)))),+]
    };
    (@each [test $fixture:expr, $adapter:expr] $($law:ident)+) => {
        $(
            #[test]
            fn $law() {
                let storage = $fixture;
                let fixture = $crate::event_laws::EventFixture::new(&storage, $adapter);
                let broken = $crate::store_laws::run(|| $crate::event_laws::$law(&fixture));
                if let Err(broken) = broken {
                    panic!("{broken}");
                }
            }
        )+
    };
    ($fixture:expr) => {
        $crate::event_laws! { $fixture, $crate::event_laws::EventFixture::in_memory }
    };
    ($fixture:expr, $adapter:expr) => {
        $crate::event_laws! { @laws [test $fixture, $adapter] }
    };
}
