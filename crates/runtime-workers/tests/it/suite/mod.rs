//! What holds over every store. The same file is a part of the tests of the umbrella, which runs
//! it over files: this crate may not name that store.

mod answers;
mod apart;
mod approvals;
mod cancelling;
mod catalogue;
mod conflicts;
mod crash;
mod desk;
mod inputs;
mod life;
mod outside;
mod processes;
mod retention;
mod seams;
mod started;
mod transcript;

pub(crate) use answers::*;
pub(crate) use apart::*;
pub(crate) use approvals::*;
pub(crate) use cancelling::*;
pub(crate) use catalogue::*;
pub(crate) use conflicts::*;
pub(crate) use crash::*;
pub(crate) use desk::*;
pub(crate) use inputs::*;
pub(crate) use life::*;
pub(crate) use outside::*;
pub(crate) use processes::*;
pub(crate) use retention::*;
pub(crate) use seams::*;
pub(crate) use started::*;
pub(crate) use transcript::*;

/// Makes one test of each law of the suite, over a fresh place for each; none is where the place
/// is not there, which has been reported.
#[macro_export]
macro_rules! suite_over {
    ($name:literal, $place:expr) => {
        $crate::suite_over!($place;
            w3_an_accepted_input_is_durable_before_anything_runs,
            w3_accepting_and_starting_are_one_commit,
            e16_a_turn_that_has_ended_is_not_begun_again,
            w1_a_submission_is_accepted_once,
            w6_inputs_of_a_busy_worker_run_in_order_one_at_a_time,
            w6_inputs_of_a_parked_worker_run_in_order,
            w6_turns_beyond_the_limit_wait,
            w6_turns_beyond_the_limit_of_the_runtime_wait,
            w6_a_place_is_neither_lost_nor_given_twice,
            w4_what_is_blank_or_too_long_is_refused_before_anything_is_written,
            t3_a_parked_turn_goes_on_when_its_token_is_resolved_elsewhere,
            t3_an_approval_is_listed_with_the_call_and_the_tool_as_the_model_saw_it,
            t3_a_denied_call_ends_as_an_ordinary_result_after_a_restart,
            t3_an_expired_call_ends_as_an_ordinary_result_after_a_restart,
            t3_an_edited_call_is_checked_and_runs_as_edited_after_a_restart,
            t5_a_job_is_completed_by_its_key_from_another_process,
            t5_a_job_that_is_late_is_an_error_result_or_fails_the_turn,
            t5_a_cancelled_turn_tells_the_work_outside,
            t2_a_sub_agent_answers_its_caller_across_a_restart,
            t1_a_sub_agent_over_its_budget_is_an_error_that_its_caller_reads,
            e9_cancelling_a_caller_cancels_its_sub_agent,
            e9_cancelling_a_parked_caller_in_another_process_cancels_its_sub_agent,
            e3_queued_inputs_join_a_running_turn,
            e3_queued_inputs_join_once_wherever_the_process_dies,
            e3_what_is_edited_reaches_new_turns_only,
            t4_a_turn_of_200_iterations_goes_on_wherever_it_was_cut_off,
            t2_a_turn_over_its_budget_fails_and_the_next_goes_on,
            t2_a_structured_answer_is_corrected_once_across_a_crash,
            t2_a_long_output_is_cut_and_kept_whole,
            t3_an_answer_is_told_once_and_waits_for_nobody,
            e7_what_is_in_doubt_is_shown_with_the_arguments_it_ran_with,
            e9_a_cancelled_worker_lets_go_of_its_model,
            e14_an_answer_that_comes_while_a_turn_parks_is_not_lost,
            e7_an_effect_in_doubt_parks_and_goes_on_when_ruled,
            e4_an_accepted_record_lets_a_turn_go_on,
            e4_a_forked_turn_goes_on_from_the_conflict,
            e4_a_turn_whose_conflict_is_ruled_as_failed_fails,
            w2_a_cancelled_worker_ends_each_turn_once_and_takes_no_inputs,
            e7_a_cancelled_turn_names_what_is_in_doubt,
            w2_a_status_changes_once_with_one_event,
            u3_closing_drains_reports_and_can_be_repeated,
            e9_opening_writes_nothing_for_a_turn_that_only_waits,
            w1_an_instance_that_drives_nothing_takes_answers_for_the_next,
            e17_a_turn_records_the_deployment_it_started_under,
            e17_a_turn_of_another_deployment_parks_where_the_host_says_so,
            e17_a_turn_of_another_deployment_is_refused_where_the_host_says_so,
            e17_a_turn_of_another_deployment_goes_on_by_default,
            t4_the_next_turn_starts_from_the_fold_of_the_session,
            w1_a_request_creates_one_worker,
            w1_concurrent_requests_for_one_worker_have_one_winner,
            w1_workers_are_listed_in_pages,
            w4_a_request_is_checked_before_anything_is_written,
            w4_a_request_without_bundle_or_capabilities_leaves_diagnostics,
            c7_parts_that_do_not_fit_are_named_at_once,
            w2_a_reference_of_another_runtime_is_refused,
            w2_each_change_of_status_answers_with_its_event,
            w2_what_is_final_stays,
            w6_a_stopped_worker_begins_nothing_and_goes_on_when_resumed,
            w6_resuming_fences_the_turn_of_the_earlier_self,
            w6_a_busy_worker_refuses_where_the_caller_chose_that,
            w1_a_deleted_worker_ends_its_turns_and_refuses_its_tokens,
            s6_a_purged_worker_leaves_places_and_no_words,
            w1_a_stopped_runtime_is_read_only_until_reopened,
            w1_what_is_stored_of_a_runtime_stays_unless_given,
            u3_a_runtime_that_was_not_closed_leaves_a_diagnostic,
            w1_a_transcript_is_dense_and_read_in_pages,
            w1_a_system_input_joins_the_next_turn_and_starts_none,
            w1_a_system_input_between_queued_turns_is_heard_once,
            v9_a_live_worker_remembers_what_retention_removed,
            v9_a_parked_turn_goes_on_after_its_events_are_gone,
            v9_what_a_final_worker_said_goes_and_is_told,
            v9_retention_happens_by_itself_and_waits_for_consumers,
            v9_a_worker_whose_past_was_cut_off_says_so,
            v2_a_provider_is_a_topic_of_its_own,
            v8_a_reader_that_leaves_cancels_nothing,
            e15_a_process_wakes_its_worker_once,
            e15_a_wake_waits_for_its_worker,
            e15_a_turn_of_a_session_is_a_process,
            e9_cancelling_a_process_ends_its_turn,
            e15_a_sub_agent_is_a_process,
            e15_a_deleted_worker_lets_its_processes_go,
            e15_an_unknown_function_is_left_alone,
            e15_a_tool_starts_a_process_for_each_occurrence
        );

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn u1_two_runtimes_of_one_process_share_nothing() {
            if let (Some(one), Some(other)) = ($place, $place) {
                $crate::suite::u1_two_runtimes_of_one_process_share_nothing(&one, &other).await;
            }
        }

        /// R4: every commit of a golden turn, each with every fault.
        #[test]
        fn every_commit_with_every_fault_r4() {
            $crate::suite::crash_matrix($name, &|| $place.map(|place| Box::new(place) as _));
        }
    };
    ($place:expr; $($law:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                if let Some(place) = $place {
                    $crate::suite::$law(&place).await;
                }
            }
        )*
    };
}
