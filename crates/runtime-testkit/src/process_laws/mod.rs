//! The law of processes over a store (E15, E16), one function per clause, as in
//! [`effect_laws`](mod@crate::effect_laws).
//!
//! [`process_laws!`](crate::process_laws!) makes one test per law for a store; [`ALL`] lists them.

mod desk;
mod hold;
mod kills;
mod life;
mod start;
mod told;
mod trigger;
mod workflow;

pub use hold::{
    e13_revoking_a_session_reaches_the_processes_it_alone_holds,
    e15_a_wake_event_becomes_one_input_of_the_owner, e15_an_orphan_wakes_nobody,
    e15_deleting_a_session_reports_what_became_of_its_processes,
    e15_grants_are_given_revoked_and_transferred,
};
pub use kills::{WorkflowFault, killed_at_every_commit};
pub use life::{
    e15_a_process_has_one_terminal_event, e15_a_zombies_end_is_refused,
    e15_an_effect_waits_for_the_end_of_a_process, e15_the_end_of_an_external_process_is_reported,
    e15_the_first_reason_of_a_cancellation_stands, e15_the_record_is_the_fold_of_its_events,
    e15_waiting_for_the_end_ends_in_order, e16_a_retired_process_leaves_only_its_events,
};
pub use start::{
    e15_a_registered_process_is_started_once, e15_a_registration_is_checked_before_it_is_written,
    e15_a_start_is_one_commit, e15_every_kind_of_input_is_kept, e15_processes_are_listed_by_status,
    e15_registering_is_idempotent_by_its_hash, e15_starting_at_once_starts_once,
};
pub use told::{
    e15_a_reader_is_told_of_pruned_events, e15_an_event_is_appended_once_for_each_key,
    e15_events_are_checked_against_their_schema, e15_events_are_dense_and_read_after_a_sequence,
    e15_the_first_signal_of_an_ordinal_stands, e15_waiting_for_the_next_event_ends_with_it,
};

pub use trigger::{
    e3_operations_on_processes_are_effects, e15_an_occurrence_starts_its_subscriptions_once,
    e15_an_outcome_and_what_it_triggers_are_one_commit,
};
pub use workflow::{
    e4_a_conflict_of_a_workflow_is_ruled, e8_a_race_has_the_same_winner_when_it_is_driven_again,
    e13_a_workflow_that_waits_is_told_that_its_owner_is_gone,
    e15_a_step_in_doubt_parks_the_workflow, e15_a_workflow_goes_on_where_it_was,
    e15_a_workflow_tells_events_and_is_told_by_token, e15_a_workflow_waits_for_what_it_spawned,
    e15_cancelling_a_workflow_cancels_its_children,
    e15_changed_code_parks_the_workflow_until_it_fits,
    e15_failures_of_steps_and_workflows_are_recorded, e15_recovery_follows_the_disposition,
    e15_steps_that_overlap_park_the_workflow,
};

use crate::effect_laws::EffectLaw;

/// Every law of processes.
pub const ALL: &[EffectLaw] = crate::process_laws!(@laws [list]);

/// Makes one test per law of processes, each with a storage of its own.
///
/// The expression makes a [`StoreFixture`](crate::store_laws::StoreFixture) with an empty
/// storage, as for [`effect_laws!`](crate::effect_laws!).
#[macro_export]
macro_rules! process_laws {
    (@laws $to:tt) => {
        $crate::process_laws! { @each $to
            e13_a_workflow_that_waits_is_told_that_its_owner_is_gone
            e13_revoking_a_session_reaches_the_processes_it_alone_holds
            e15_a_process_has_one_terminal_event
            e15_a_registered_process_is_started_once
            e15_a_registration_is_checked_before_it_is_written
            e15_a_start_is_one_commit
            e15_a_wake_event_becomes_one_input_of_the_owner
            e15_a_zombies_end_is_refused
            e15_an_effect_waits_for_the_end_of_a_process
            e15_a_reader_is_told_of_pruned_events
            e15_an_event_is_appended_once_for_each_key
            e15_an_occurrence_starts_its_subscriptions_once
            e15_an_orphan_wakes_nobody
            e15_an_outcome_and_what_it_triggers_are_one_commit
            e3_operations_on_processes_are_effects
            e15_deleting_a_session_reports_what_became_of_its_processes
            e15_events_are_checked_against_their_schema
            e15_events_are_dense_and_read_after_a_sequence
            e15_every_kind_of_input_is_kept
            e15_grants_are_given_revoked_and_transferred
            e15_processes_are_listed_by_status
            e15_registering_is_idempotent_by_its_hash
            e15_starting_at_once_starts_once
            e15_the_end_of_an_external_process_is_reported
            e15_the_first_reason_of_a_cancellation_stands
            e15_the_first_signal_of_an_ordinal_stands
            e15_the_record_is_the_fold_of_its_events
            e15_waiting_for_the_end_ends_in_order
            e15_waiting_for_the_next_event_ends_with_it
            e16_a_retired_process_leaves_only_its_events
            e15_a_step_in_doubt_parks_the_workflow
            e15_a_workflow_goes_on_where_it_was
            e15_a_workflow_tells_events_and_is_told_by_token
            e15_a_workflow_waits_for_what_it_spawned
            e15_cancelling_a_workflow_cancels_its_children
            e15_changed_code_parks_the_workflow_until_it_fits
            e15_failures_of_steps_and_workflows_are_recorded
            e15_recovery_follows_the_disposition
            e15_steps_that_overlap_park_the_workflow
            e4_a_conflict_of_a_workflow_is_ruled
            e8_a_race_has_the_same_winner_when_it_is_driven_again
        }
    };
    (@each [test $fixture:expr] $($law:ident)+) => {
        $(
            #[test]
            fn $law() {
                let fixture = $fixture;
                $crate::effect_laws::run(|| $crate::process_laws::$law(&fixture));
            }
        )+
    };
    (@each [list] $($law:ident)+) => {
        &[$((stringify!($law), |fixture| Box::pin($crate::process_laws::$law(fixture)))),+]
    };
    ($fixture:expr) => {
        $crate::process_laws! { @laws [test $fixture] }
    };
}
