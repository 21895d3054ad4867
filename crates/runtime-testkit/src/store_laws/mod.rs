//! The law of a store, one function per clause: each takes an empty store and says what broke.
//!
//! [`store_laws!`](crate::store_laws!) makes one test per law for a store; [`ALL`] lists them.

mod attachments;
mod commits;
mod events;
mod fixture;
mod guards;
mod life;
mod producer;
mod removal;
mod rows;

pub use attachments::{
    a_commit_needs_its_attachments, attachments_are_kept_by_their_digest,
    the_key_ring_is_stable_and_keeps_old_keys, the_sweep_spares_live_and_young_attachments,
};
pub use commits::{
    a_commit_too_large_is_refused, a_dropped_commit_is_whole_or_absent,
    a_forgotten_commit_is_too_old, a_malformed_commit_is_refused, a_refused_commit_leaves_no_trace,
    a_repetition_answers_the_first_result, an_event_id_is_unique_in_the_log,
    committed_answers_what_happened, other_content_under_an_id_is_refused,
    repetitions_in_flight_happen_once,
};
pub use events::{
    a_change_is_never_lost, a_closed_stream_takes_no_event, a_reader_beside_writers_misses_nothing,
    event_pages_give_the_whole_log_and_each_stream, page_limits_are_kept,
    positions_and_seqs_are_dense_under_concurrent_writers,
};
pub use fixture::{ALL, Law, LawBroken, LawFuture, StoreFixture, run};
pub use guards::{
    an_epoch_fences_earlier_owners, guards_are_checked_in_order, guards_hold_as_they_say,
    guards_see_every_earlier_commit, retiring_a_scope_removes_its_rows_and_fences,
};
pub use life::{a_closed_store_takes_no_writes, everything_survives_reopening};
pub use removal::{
    a_closed_stream_is_forgotten_with_its_last_event, a_refused_removal_removes_nothing,
    a_row_keeps_its_event_when_that_is_pruned, erased_events_keep_their_places_only,
    pruned_events_are_gone_and_the_rest_stays, removed_events_are_still_known_by_their_commit,
    retention_units_are_what_is_served, the_sweep_takes_what_nothing_names_any_more,
};
pub use rows::{
    a_row_gives_the_event_it_was_put_with, due_rows_come_in_order_of_time,
    row_changes_apply_in_order, row_pages_give_every_row_in_order,
};

/// Returns the error of a broken clause unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::store_laws::LawBroken::at(file!(), line!(), format!($($text)+)));
        }
    };
}

/// Returns the error of a broken clause unless both are equal.
macro_rules! ensure_eq {
    ($found:expr, $wanted:expr, $($text:tt)+) => {
        // A match keeps what the expressions borrow from alive.
        match (&$found, &$wanted) {
            (found, wanted) => $crate::store_laws::ensure!(
                found == wanted,
                "{}: found {found:?}, wanted {wanted:?}",
                format_args!($($text)+)
            ),
        }
    };
}

/// Returns the error of a broken clause unless the result matches.
macro_rules! ensure_matches {
    ($found:expr, $pattern:pat $(if $guard:expr)?, $($text:tt)+) => {{
        let found = $found;
        $crate::store_laws::ensure!(
            matches!(&found, $pattern $(if $guard)?),
            "{}: found {found:?}, wanted {}",
            format_args!($($text)+),
            stringify!($pattern)
        );
    }};
}

pub(crate) use {ensure, ensure_eq, ensure_matches};

/// Makes one test per law of a store, each with a fixture of its own.
///
/// The expression makes a [`StoreFixture`](crate::store_laws::StoreFixture) with an empty store.
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
/// runtime_testkit::store_laws!(Memory(MemoryStore::new("laws".parse().expect("a runtime id"))));
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! store_laws {
    (@laws $to:tt) => {
        $crate::store_laws! { @each $to
            a_change_is_never_lost
            a_closed_store_takes_no_writes
            a_closed_stream_is_forgotten_with_its_last_event
            a_closed_stream_takes_no_event
            a_commit_needs_its_attachments
            a_commit_too_large_is_refused
            a_dropped_commit_is_whole_or_absent
            a_forgotten_commit_is_too_old
            a_malformed_commit_is_refused
            a_reader_beside_writers_misses_nothing
            a_refused_commit_leaves_no_trace
            a_refused_removal_removes_nothing
            a_repetition_answers_the_first_result
            a_row_gives_the_event_it_was_put_with
            a_row_keeps_its_event_when_that_is_pruned
            an_epoch_fences_earlier_owners
            an_event_id_is_unique_in_the_log
            attachments_are_kept_by_their_digest
            committed_answers_what_happened
            due_rows_come_in_order_of_time
            erased_events_keep_their_places_only
            event_pages_give_the_whole_log_and_each_stream
            everything_survives_reopening
            guards_are_checked_in_order
            guards_hold_as_they_say
            guards_see_every_earlier_commit
            other_content_under_an_id_is_refused
            page_limits_are_kept
            positions_and_seqs_are_dense_under_concurrent_writers
            pruned_events_are_gone_and_the_rest_stays
            removed_events_are_still_known_by_their_commit
            repetitions_in_flight_happen_once
            retention_units_are_what_is_served
            retiring_a_scope_removes_its_rows_and_fences
            row_changes_apply_in_order
            row_pages_give_every_row_in_order
            the_key_ring_is_stable_and_keeps_old_keys
            the_sweep_spares_live_and_young_attachments
            the_sweep_takes_what_nothing_names_any_more
        }
    };
    (@each [test $fixture:expr] $($law:ident)+) => {
        $(
            #[test]
            fn $law() {
                let fixture = $fixture;
                let broken = $crate::store_laws::run(|| $crate::store_laws::$law(&fixture));
                if let Err(broken) = broken {
                    panic!("{broken}");
                }
            }
        )+
    };
    (@each [list] $($law:ident)+) => {
        &[$((stringify!($law), |fixture| Box::pin($crate::store_laws::$law(fixture)))),+]
    };
    ($fixture:expr) => {
        $crate::store_laws! { @laws [test $fixture] }
    };
}
