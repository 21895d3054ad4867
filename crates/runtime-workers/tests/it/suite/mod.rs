//! What holds over every store. The same file is a part of the tests of the umbrella, which runs
//! it over files: this crate may not name that store.

mod answers;
mod cancelling;
mod crash;
mod desk;
mod inputs;
mod life;

pub(crate) use answers::*;
pub(crate) use cancelling::*;
pub(crate) use crash::*;
pub(crate) use desk::*;
pub(crate) use inputs::*;
pub(crate) use life::*;

/// Makes one test of each law of the suite, over a place that `$place::new()` gives.
#[macro_export]
macro_rules! suite_over {
    ($place:ident) => {
        $crate::suite_over!($place;
            w3_an_accepted_input_is_durable_before_anything_runs,
            w3_accepting_and_starting_are_one_commit,
            w1_a_submission_is_accepted_once,
            w6_inputs_of_a_busy_worker_run_in_order_one_at_a_time,
            w6_inputs_of_a_parked_worker_run_in_order,
            w4_what_is_blank_or_too_long_is_refused_before_anything_is_written,
            t3_a_parked_turn_goes_on_when_its_token_is_resolved_elsewhere,
            e14_an_answer_that_comes_while_a_turn_parks_is_not_lost,
            e7_an_effect_in_doubt_parks_and_goes_on_when_ruled,
            w2_a_cancelled_worker_ends_each_turn_once_and_takes_no_inputs,
            e7_a_cancelled_turn_names_what_is_in_doubt,
            w2_a_status_changes_once_with_one_event,
            u3_closing_drains_reports_and_can_be_repeated,
            e9_opening_writes_nothing_for_a_turn_that_only_waits,
            e17_a_turn_records_the_deployment_it_started_under,
            t4_the_next_turn_starts_from_the_fold_of_the_session
        );

        /// R4: every commit of a golden turn, each with every fault.
        #[test]
        fn every_commit_with_every_fault_r4() {
            $crate::suite::crash_matrix(stringify!($place), &|| Box::new($place::new()));
        }
    };
    ($place:ident; $($law:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                $crate::suite::$law(&$place::new()).await;
            }
        )*
    };
}
