//! The law of effects and promises over a store (E1–E14), one function per clause: each takes an
//! empty storage, drives a host over it with a simulated clock, ends the process where it hurts,
//! and panics where the clause is broken.
//!
//! [`effect_laws!`](crate::effect_laws!) makes one test per law for a store; [`ALL`] lists them.
//! [`World`] and what goes with it serve other tests of effects too.

mod batch;
mod broken;
mod busy;
mod conflict;
mod crash;
mod damage;
mod effect;
mod lease;
mod owner;
mod promise;
mod ruling;
mod tally;
mod tampering;
mod token;
mod wait;
mod world;

pub use batch::{
    e1_a_batch_makes_one_intent_commit, e1_a_key_that_is_asked_for_twice_runs_once,
    e1_each_outcome_is_committed_as_it_ends, e1_effects_run_side_by_side,
    e1_one_in_doubt_does_not_stop_the_others, e1_results_come_in_the_order_of_the_input,
    e4_a_batch_is_answered_from_the_record,
};
pub use broken::broken_stores;
pub(crate) use broken::{Breakage, BrokenStore};
pub use conflict::{
    e4_a_conflict_in_a_batch_is_noted_last, e4_a_conflict_is_listed_with_paths_and_no_values,
    e4_a_conflict_ruled_as_failed_is_answered, e4_a_fork_of_a_fork_runs_anew,
    e4_a_fork_runs_anew_from_there_on, e4_a_version_that_fits_again_goes_on,
    e4_a_wait_in_conflict_is_forked, e4_an_accepted_record_is_answered,
    e4_only_an_outcome_is_accepted, e4_the_first_ruling_on_a_conflict_stands,
    r4_a_fault_at_the_commit_of_a_ruling,
};
pub use crash::{
    r4_a_crash_at_any_commit_of_a_batch, r4_a_crash_at_any_commit_of_an_attempt_that_failed,
    r4_a_lost_answer_at_any_commit_changes_nothing, r4_an_unavailable_store_changes_nothing,
};
pub use damage::replay_of_damaged_journals;
pub use effect::{
    e2_an_envelope_of_another_scope_is_refused, e3_an_executor_of_another_kind_is_refused,
    e3_an_outcome_of_another_kind_is_never_used, e4_a_recorded_outcome_is_answered_without_running,
    e4_another_envelope_under_the_same_key_is_a_conflict, e4_strict_replay_runs_nothing_new,
    e5_a_later_owner_fences_the_earlier, e5_a_retry_safe_effect_costs_one_commit_and_any_other_two,
    e5_one_effect_is_not_run_twice_at_once, e6_a_final_error_is_recorded,
    e6_a_long_pause_parks_and_is_kept_across_hosts,
    e6_a_retryable_error_that_had_no_effect_is_tried_again, e6_attempts_come_to_an_end,
    e6_cancelling_what_must_not_run_twice_is_doubt, e7_a_dropped_driver_leaves_its_effect_in_doubt,
    e7_a_timed_out_attempt_is_in_doubt, e7_an_unknown_failure_is_in_doubt,
    e9_a_panic_is_caught_and_keeps_its_text, e9_cancelling_what_may_run_twice_is_cancelled,
    e16_an_outcome_over_the_limit_is_recorded_as_such,
};
pub use lease::{
    a_long_effect_under_a_short_lease, e5_a_dead_instance_is_taken_over_within_15_seconds,
    e5_a_lease_that_is_renewed_lasts, e5_a_long_effect_runs_once_under_a_short_lease,
    e5_a_scope_that_changed_hands_is_no_orphan, e5_a_take_over_keeps_the_due_time_of_a_sleep,
    e5_a_zombie_opens_no_scope, e5_crashes_are_counted_and_reset_by_progress,
    e5_executors_end_before_the_lease, e5_who_renews_too_late_registers_anew, zombies,
};
pub use owner::{
    e5_the_executor_gets_a_fencing_token_and_an_idempotency_key, r9_a_zombies_result_is_refused,
};
pub use promise::{
    e1_identities_are_bounded, e10_a_repeated_command_is_accepted_again,
    e10_a_resolution_has_a_limit, e10_a_resolve_only_token_does_not_see_the_winner,
    e10_early_resolutions_have_a_quota, e10_resolving_at_once_has_one_winner, e10_rights_are_apart,
    e10_the_first_resolution_wins, e10_the_public_name_gives_no_rights,
    e11_a_promise_settles_at_its_own_deadline, e11_a_revoked_promise_settles_as_cancelled,
    e11_waiters_see_a_promise_settle_by_itself,
    e13_a_scope_that_is_not_there_or_retired_is_unknown, e13_a_settled_promise_is_not_revoked,
    e13_revoking_a_scope_wakes_its_waiters_and_only_those,
    e13_revoking_a_session_covers_its_later_turns, e13_revoking_one_promise_leaves_the_others,
};
pub use ruling::{
    e7_a_ruled_failure_is_answered, e7_a_ruled_outcome_is_answered_and_told,
    e7_a_ruled_outcome_must_fit, e7_another_ruling_comes_too_late,
    e7_doubt_after_run_again_is_ruled_anew, e7_repeating_a_ruling_does_nothing,
    e7_run_again_runs_once_more, e7_what_is_not_in_doubt_is_not_ruled,
    e16_a_retired_scope_has_nothing_to_rule,
};
pub use tally::Tally;
pub use tampering::{TokenFault, tampered_tokens};
pub use token::{
    e12_a_key_that_another_process_added_is_learnt, e12_an_expired_token_is_refused,
    e12_minting_is_deterministic_and_registers_nothing, e12_tokens_of_rotated_keys_stay_valid,
    e12_what_is_verified_is_what_was_minted, x1_another_alphabet_or_padding_is_refused,
    x1_every_flipped_bit_and_every_cut_is_refused,
};
pub use wait::{
    e3_a_wait_and_a_run_are_not_confused, e8_a_sleep_keeps_its_due_time_across_hosts,
    e9_a_wait_that_is_not_ready_parks_and_is_listed, e9_a_wait_wakes_within_its_process_at_once,
    e9_cancelling_wakes_a_wait, e10_a_resolution_before_the_wait_is_kept,
    e10_the_index_of_what_waits_goes_with_the_wait,
    e11_a_deadline_ends_the_wait_and_settles_nothing,
    e11_a_resolution_comes_before_a_deadline_that_has_passed_too,
    e11_a_wait_records_the_resolution_that_it_saw,
};
pub use world::{
    Runs, World, assert_terminal, custom, desk, failure, fresh_id, opening, patient, result,
    tool_call, turn, wait_for,
};

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::store_laws::StoreFixture;

/// How long a law may take. Only one that hangs takes so long.
const LAW_PATIENCE: Duration = Duration::from_secs(120);

/// A law by its name.
pub type EffectLaw = (
    &'static str,
    for<'fixture> fn(&'fixture dyn StoreFixture) -> Pin<Box<dyn Future<Output = ()> + 'fixture>>,
);

/// Every law of effects.
pub const ALL: &[EffectLaw] = crate::effect_laws!(@laws [list]);

/// Runs a law on this thread.
///
/// # Panics
/// When the law is broken, or does not end.
pub fn run<F: Future>(law: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("this machine gives a runtime");
    runtime.block_on(async {
        let law = Box::pin(law());
        let ended = tokio::time::timeout(LAW_PATIENCE, law).await;
        ended.expect("the law ends")
    })
}

/// Makes one test per law of effects, each with a storage of its own.
///
/// The expression makes a [`StoreFixture`](crate::store_laws::StoreFixture) with an empty
/// storage.
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
/// runtime_testkit::effect_laws!(Memory(MemoryStore::new("laws".parse().expect("a runtime id"))));
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! effect_laws {
    (@laws $to:tt) => {
        $crate::effect_laws! { @each $to
            e10_a_repeated_command_is_accepted_again
            e10_a_resolution_before_the_wait_is_kept
            e10_a_resolution_has_a_limit
            e10_a_resolve_only_token_does_not_see_the_winner
            e10_early_resolutions_have_a_quota
            e10_resolving_at_once_has_one_winner
            e10_rights_are_apart
            e10_the_first_resolution_wins
            e10_the_index_of_what_waits_goes_with_the_wait
            e10_the_public_name_gives_no_rights
            e11_a_deadline_ends_the_wait_and_settles_nothing
            e11_a_promise_settles_at_its_own_deadline
            e11_a_resolution_comes_before_a_deadline_that_has_passed_too
            e11_a_wait_records_the_resolution_that_it_saw
            e11_a_revoked_promise_settles_as_cancelled
            e11_waiters_see_a_promise_settle_by_itself
            e12_a_key_that_another_process_added_is_learnt
            e12_an_expired_token_is_refused
            e12_minting_is_deterministic_and_registers_nothing
            e12_tokens_of_rotated_keys_stay_valid
            e12_what_is_verified_is_what_was_minted
            e13_a_scope_that_is_not_there_or_retired_is_unknown
            e13_a_settled_promise_is_not_revoked
            e13_revoking_a_scope_wakes_its_waiters_and_only_those
            e13_revoking_a_session_covers_its_later_turns
            e13_revoking_one_promise_leaves_the_others
            e16_a_retired_scope_has_nothing_to_rule
            e16_an_outcome_over_the_limit_is_recorded_as_such
            e1_a_batch_makes_one_intent_commit
            e1_a_key_that_is_asked_for_twice_runs_once
            e1_each_outcome_is_committed_as_it_ends
            e1_effects_run_side_by_side
            e1_identities_are_bounded
            e1_one_in_doubt_does_not_stop_the_others
            e1_results_come_in_the_order_of_the_input
            e2_an_envelope_of_another_scope_is_refused
            e3_a_wait_and_a_run_are_not_confused
            e3_an_executor_of_another_kind_is_refused
            e3_an_outcome_of_another_kind_is_never_used
            e4_a_batch_is_answered_from_the_record
            e4_a_recorded_outcome_is_answered_without_running
            e4_a_conflict_in_a_batch_is_noted_last
            e4_a_conflict_is_listed_with_paths_and_no_values
            e4_a_conflict_ruled_as_failed_is_answered
            e4_a_fork_of_a_fork_runs_anew
            e4_a_fork_runs_anew_from_there_on
            e4_a_version_that_fits_again_goes_on
            e4_a_wait_in_conflict_is_forked
            e4_an_accepted_record_is_answered
            e4_only_an_outcome_is_accepted
            e4_the_first_ruling_on_a_conflict_stands
            e4_another_envelope_under_the_same_key_is_a_conflict
            e4_strict_replay_runs_nothing_new
            e5_a_dead_instance_is_taken_over_within_15_seconds
            e5_a_later_owner_fences_the_earlier
            e5_a_lease_that_is_renewed_lasts
            e5_a_long_effect_runs_once_under_a_short_lease
            e5_a_retry_safe_effect_costs_one_commit_and_any_other_two
            e5_a_scope_that_changed_hands_is_no_orphan
            e5_a_take_over_keeps_the_due_time_of_a_sleep
            e5_a_zombie_opens_no_scope
            e5_crashes_are_counted_and_reset_by_progress
            e5_executors_end_before_the_lease
            e5_one_effect_is_not_run_twice_at_once
            e5_the_executor_gets_a_fencing_token_and_an_idempotency_key
            e5_who_renews_too_late_registers_anew
            e6_a_final_error_is_recorded
            e6_a_long_pause_parks_and_is_kept_across_hosts
            e6_a_retryable_error_that_had_no_effect_is_tried_again
            e6_attempts_come_to_an_end
            e6_cancelling_what_must_not_run_twice_is_doubt
            e7_a_dropped_driver_leaves_its_effect_in_doubt
            e7_a_ruled_failure_is_answered
            e7_a_ruled_outcome_is_answered_and_told
            e7_a_ruled_outcome_must_fit
            e7_a_timed_out_attempt_is_in_doubt
            e7_an_unknown_failure_is_in_doubt
            e7_another_ruling_comes_too_late
            e7_doubt_after_run_again_is_ruled_anew
            e7_repeating_a_ruling_does_nothing
            e7_run_again_runs_once_more
            e7_what_is_not_in_doubt_is_not_ruled
            e8_a_sleep_keeps_its_due_time_across_hosts
            e9_a_panic_is_caught_and_keeps_its_text
            e9_a_wait_that_is_not_ready_parks_and_is_listed
            e9_a_wait_wakes_within_its_process_at_once
            e9_cancelling_wakes_a_wait
            e9_cancelling_what_may_run_twice_is_cancelled
            r4_a_crash_at_any_commit_of_a_batch
            r4_a_crash_at_any_commit_of_an_attempt_that_failed
            r4_a_fault_at_the_commit_of_a_ruling
            r4_a_lost_answer_at_any_commit_changes_nothing
            r4_an_unavailable_store_changes_nothing
            r9_a_zombies_result_is_refused
            x1_another_alphabet_or_padding_is_refused
            x1_every_flipped_bit_and_every_cut_is_refused
        }
    };
    (@each [test $fixture:expr] $($law:ident)+) => {
        $(
            #[test]
            fn $law() {
                let fixture = $fixture;
                $crate::effect_laws::run(|| $crate::effect_laws::$law(&fixture));
            }
        )+
    };
    (@each [list] $($law:ident)+) => {
        &[$((stringify!($law), |fixture| Box::pin($crate::effect_laws::$law(fixture)))),+]
    };
    ($fixture:expr) => {
        $crate::effect_laws! { @laws [test $fixture] }
    };
}
