//! The wrong doubles: for each case of the suite at least one store that breaks just that case's rule, which the case has
//! to reject. A case that could not fail would be found here.

mod blocks;
mod double;
mod reading;
mod series;
mod swapping;
mod telling;
mod vector;
mod writing;

use std::time::Duration;

use primal_core::sink::SinkSpec;

use crate::case::{Case, Lacks, Verdict};
use crate::stores::Store;
use double::Wrong;

/// A double and the case that has to reject it.
struct Double {
    case: &'static str,
    name: &'static str,
    spec: fn() -> SinkSpec,
}

const fn double<W: Wrong>(case: &'static str, name: &'static str) -> Double {
    Double { case, name, spec: W::spec }
}

#[rustfmt::skip]
const DOUBLES: &[Double] = &[
    double::<writing::SkipsEmptyBatches>("an_empty_batch_moves_the_position", "does nothing for an empty batch"),
    double::<writing::ForgetsDeletes>("events_of_a_key_apply_in_order_in_every_projection", "forgets deletes"),
    double::<writing::AppliesHalf>("events_of_a_key_apply_in_order_in_every_projection", "applies half a batch"),
    double::<writing::IgnoresThePosition>("the_same_batch_twice_changes_nothing", "ignores the fence's position"),
    double::<writing::WritesEqualVersions>("the_same_batch_twice_changes_nothing", "writes equal versions again"),
    double::<writing::LastWriteWins>("batches_cut_anew_and_delivered_late_lose_to_what_is_newer", "ignores the version"),
    double::<writing::NoTombstones>("a_stale_put_does_not_bring_back_what_was_deleted", "keeps no tombstones"),
    double::<writing::RepairsNothing>("repair_writes_equal_versions_again_and_leaves_newer_ones", "does not repair"),
    double::<writing::RepairsNewer>("repair_writes_equal_versions_again_and_leaves_newer_ones", "repairs newer ones too"),
    double::<writing::RepairsNothing>("repair_of_events_keeps_the_first_of_an_id", "does not repair"),
    double::<writing::OneRecordAKey>("every_event_is_one_record_where_the_projection_says_so", "keeps one event of a key"),
    double::<writing::RepeatsAppends>("every_event_is_one_record_where_the_projection_says_so", "repeats appends"),
    double::<reading::NotUnicode>("odd_data_come_back_as_they_went", "mangles what is not ASCII"),
    double::<reading::Doubles>("odd_data_come_back_as_they_went", "keeps numbers as doubles"),
    double::<reading::TrimsKeys>("odd_data_come_back_as_they_went", "trims keys"),
    double::<reading::CutsText>("odd_data_come_back_as_they_went", "cuts long payloads"),
    double::<reading::DropsUnknown>("odd_data_come_back_as_they_went", "drops members without a column"),
    double::<reading::DropsPrimal>("the_parameters_id_and_time_stand_beside_the_data", "drops the parameters"),
    double::<reading::DropsId>("the_parameters_id_and_time_stand_beside_the_data", "drops the event's id"),
    double::<reading::RoundsTime>("the_parameters_id_and_time_stand_beside_the_data", "keeps whole seconds"),
    double::<writing::ComparesFirst>("of_two_writers_at_one_position_exactly_one_wins", "compares the position first"),
    double::<writing::WritesBeforeTheFence>("a_batch_from_a_wrong_position_leaves_nothing_behind", "writes, then compares"),
    double::<writing::HidesWhich>("what_a_column_cannot_hold_is_named_and_nothing_of_the_batch_is_written", "hides which events"),
    double::<writing::NamesTheFirst>("what_a_column_cannot_hold_is_named_and_nothing_of_the_batch_is_written", "names only the first"),
    double::<writing::WritesTheRest>("what_a_column_cannot_hold_is_named_and_nothing_of_the_batch_is_written", "writes the rest"),
    double::<writing::PositionFirst>("what_a_column_cannot_hold_is_named_and_nothing_of_the_batch_is_written", "moves the position first"),
    double::<telling::NeverAnswers>("a_store_that_is_down_says_so_soon", "hangs when it is down"),
    double::<telling::SaysInternal>("a_store_that_is_down_says_so_soon", "says that it is broken"),
    double::<telling::ShowsThePassword>("a_store_that_is_down_says_so_soon", "shows the password"),
    double::<telling::SaysUnavailable>("wrong_credentials_are_called_that", "says that it is down"),
    double::<telling::ShowsThePassword>("wrong_credentials_are_called_that", "shows the password"),
    double::<telling::TakesAnySetting>("wrong_settings_are_found_without_a_network", "takes unknown settings"),
    double::<telling::NeedsNoSetting>("wrong_settings_are_found_without_a_network", "does without what it needs"),
    double::<telling::DocumentsNothing>("every_documented_setting_is_taken_and_every_store_answers_a_check", "has settings in secret"),
    double::<telling::NoVersion>("every_documented_setting_is_taken_and_every_store_answers_a_check", "does not say its version"),
    double::<swapping::SwapsBehind>("a_generation_is_built_beside_swapped_in_and_rolled_back", "ignores `caught_up`"),
    double::<swapping::IgnoresTheGeneration>("a_generation_is_built_beside_swapped_in_and_rolled_back", "ignores the fence's generation"),
    double::<swapping::DropsPositions>("a_generation_is_built_beside_swapped_in_and_rolled_back", "drops positions in a swap"),
    double::<swapping::KeepsNoPrevious>("a_generation_is_built_beside_swapped_in_and_rolled_back", "keeps no previous generation"),
    double::<swapping::KeepsAll>("a_generation_is_built_beside_swapped_in_and_rolled_back", "keeps every generation's positions"),
    double::<swapping::ComparesItsOwn>("a_partition_that_only_the_live_generation_has_holds_the_swap_back", "compares its own partitions only"),
    double::<swapping::BelievesIt>("events_that_are_taken_for_new_are_compared_when_they_are_not", "believes that they are new"),
    double::<swapping::DiscardsNothing>("a_discarded_build_leaves_nothing", "leaves the records"),
    double::<swapping::LeavesPositions>("a_discarded_build_leaves_nothing", "leaves the positions"),
    double::<swapping::LeavesThePlan>("a_discarded_build_leaves_nothing", "leaves the plan"),
    double::<swapping::DiscardsOnce>("a_discarded_build_leaves_nothing", "cannot discard what is not there"),
    double::<swapping::AddsNoColumn>("a_new_property_adds_a_column_and_a_changed_type_stops_before_anything_is_written", "adds no column"),
    double::<swapping::TakesAnyType>("a_new_property_adds_a_column_and_a_changed_type_stops_before_anything_is_written", "takes a changed type"),
    double::<swapping::SaysNotWhich>("a_new_property_adds_a_column_and_a_changed_type_stops_before_anything_is_written", "does not say which column"),
    double::<writing::LastWriteWins>("points_are_told_by_moment_and_tags_and_the_last_event_counts", "ignores the version"),
    double::<writing::AppliesHalf>("points_are_told_by_moment_and_tags_and_the_last_event_counts", "applies half a batch"),
    double::<series::RoundsIntegers>("points_are_told_by_moment_and_tags_and_the_last_event_counts", "keeps integers as doubles"),
    double::<reading::DropsPrimal>("the_parameters_id_and_time_stand_beside_points", "drops the parameters"),
    double::<reading::DropsId>("the_parameters_id_and_time_stand_beside_points", "drops the event's id"),
    double::<reading::RoundsTime>("the_parameters_id_and_time_stand_beside_points", "keeps whole seconds"),
    double::<series::TrimsTags>("tags_of_any_text_tell_points_apart", "trims tags"),
    double::<series::IgnoresCase>("tags_of_any_text_tell_points_apart", "ignores the case of tags"),
    double::<writing::HidesWhich>("what_is_no_point_is_named_and_nothing_of_the_batch_is_written", "hides which events"),
    double::<writing::WritesTheRest>("what_is_no_point_is_named_and_nothing_of_the_batch_is_written", "writes the rest"),
    double::<swapping::SwapsBehind>("a_series_is_built_beside_and_swapped_in", "ignores `caught_up`"),
    double::<swapping::IgnoresTheGeneration>("a_series_is_built_beside_and_swapped_in", "ignores the fence's generation"),
    double::<writing::AppliesHalf>("a_delete_leaves_points_and_verification_counts_them", "applies half a batch"),
    double::<writing::AppliesHalf>("vectors_apply_in_order_and_again_changes_nothing", "applies half a batch"),
    double::<writing::ForgetsDeletes>("vectors_apply_in_order_and_again_changes_nothing", "forgets deletes"),
    double::<writing::IgnoresThePosition>("vectors_apply_in_order_and_again_changes_nothing", "ignores the fence's position"),
    double::<writing::WritesEqualVersions>("vectors_apply_in_order_and_again_changes_nothing", "writes equal versions again"),
    double::<writing::SkipsEmptyBatches>("vectors_apply_in_order_and_again_changes_nothing", "does nothing for an empty batch"),
    double::<writing::LastWriteWins>("vectors_cut_anew_and_delivered_late_lose_to_what_is_newer", "ignores the version"),
    double::<writing::NoTombstones>("a_late_put_does_not_bring_back_a_deleted_vector", "keeps no tombstones"),
    double::<writing::RepairsNothing>("repair_writes_vectors_of_equal_versions_again_and_leaves_newer_ones", "does not repair"),
    double::<writing::RepairsNewer>("repair_writes_vectors_of_equal_versions_again_and_leaves_newer_ones", "repairs newer ones too"),
    double::<reading::NotUnicode>("what_stands_beside_vectors_comes_back_as_it_went", "mangles what is not ASCII"),
    double::<reading::Doubles>("what_stands_beside_vectors_comes_back_as_it_went", "keeps numbers as doubles"),
    double::<reading::TrimsKeys>("what_stands_beside_vectors_comes_back_as_it_went", "trims keys"),
    double::<reading::CutsText>("what_stands_beside_vectors_comes_back_as_it_went", "cuts long payloads"),
    double::<vector::KeepsTheVector>("what_stands_beside_vectors_comes_back_as_it_went", "keeps the vector in the payload too"),
    double::<reading::DropsPrimal>("the_parameters_id_and_time_stand_beside_vectors", "drops the parameters"),
    double::<reading::DropsId>("the_parameters_id_and_time_stand_beside_vectors", "drops the event's id"),
    double::<reading::RoundsTime>("the_parameters_id_and_time_stand_beside_vectors", "keeps whole seconds"),
    double::<writing::ComparesFirst>("of_two_writers_of_vectors_at_one_position_exactly_one_wins", "compares the position first"),
    double::<writing::WritesBeforeTheFence>("vectors_from_a_wrong_position_leave_nothing_behind", "writes, then compares"),
    double::<writing::HidesWhich>("what_is_no_vector_is_named_and_nothing_of_the_batch_is_written", "hides which events"),
    double::<writing::NamesTheFirst>("what_is_no_vector_is_named_and_nothing_of_the_batch_is_written", "names only the first"),
    double::<writing::WritesTheRest>("what_is_no_vector_is_named_and_nothing_of_the_batch_is_written", "writes the rest"),
    double::<writing::PositionFirst>("what_is_no_vector_is_named_and_nothing_of_the_batch_is_written", "moves the position first"),
    double::<swapping::SwapsBehind>("vectors_are_built_beside_swapped_in_and_rolled_back", "ignores `caught_up`"),
    double::<swapping::ComparesItsOwn>("vectors_are_built_beside_swapped_in_and_rolled_back", "compares its own partitions only"),
    double::<swapping::IgnoresTheGeneration>("vectors_are_built_beside_swapped_in_and_rolled_back", "ignores the fence's generation"),
    double::<swapping::DropsPositions>("vectors_are_built_beside_swapped_in_and_rolled_back", "drops positions in a swap"),
    double::<swapping::KeepsNoPrevious>("vectors_are_built_beside_swapped_in_and_rolled_back", "keeps no previous generation"),
    double::<swapping::KeepsAll>("vectors_are_built_beside_swapped_in_and_rolled_back", "keeps every generation's positions"),
    double::<swapping::DiscardsNothing>("a_discarded_build_of_vectors_leaves_nothing", "leaves the records"),
    double::<swapping::LeavesPositions>("a_discarded_build_of_vectors_leaves_nothing", "leaves the positions"),
    double::<swapping::LeavesThePlan>("a_discarded_build_of_vectors_leaves_nothing", "leaves the plan"),
    double::<swapping::DiscardsOnce>("a_discarded_build_of_vectors_leaves_nothing", "cannot discard what is not there"),
    double::<writing::DropsPoison>("vectors_agree_with_the_log_after_poison_and_workers_that_are_cut_off", "drops poison in silence"),
    double::<writing::PoisonIsInternal>("vectors_agree_with_the_log_after_poison_and_workers_that_are_cut_off", "calls poison an internal error"),
    double::<writing::AppliesHalf>("vectors_agree_with_the_log_after_poison_and_workers_that_are_cut_off", "applies half a batch"),
    double::<writing::DropsPoison>("poison_is_set_aside_with_its_key_and_all_else_is_applied", "drops poison in silence"),
    double::<writing::PoisonIsInternal>("poison_is_set_aside_with_its_key_and_all_else_is_applied", "calls poison an internal error"),
    double::<writing::RefusesGaps>("records_that_are_no_events_become_dead_letters_and_the_sink_goes_on", "wants every offset"),
    double::<writing::PositionFirst>("small_batches_and_a_worker_cut_off_at_any_time_leave_the_same_store", "moves the position first"),
    double::<blocks::LeavesOneOut>("a_store_adds_up_what_the_log_adds_up", "adds up one too few"),
    double::<blocks::GivesAll>("a_blocks_records_are_its_own", "gives all records for any block"),
    double::<reading::ReadsOnce>("verification_names_what_was_tampered_with", "answers from what it read before"),
];

fn cases() -> impl Iterator<Item = &'static Case> {
    [
        crate::blocks::CASES,
        crate::cases::CASES,
        crate::swap::CASES,
        crate::series::CASES,
        crate::vector::CASES,
        crate::runtime::CASES,
    ]
    .into_iter()
    .flatten()
}

tokio::task_local! {
    /// Set where a panic is what is wanted.
    static EXPECTED: ();
}

/// Keeps the reports of expected panics out of the output.
fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if EXPECTED.try_with(|()| ()).is_err() {
                told(panic);
            }
        }));
    });
}

/// How a case rejected a double; an error if it did not.
async fn rejection(case: &Case, double: &Double) -> Result<String, String> {
    let mut store = Store::new(Box::leak(Box::new((double.spec)()))).await;
    store.patience = Duration::from_secs(5);
    let verdict: Result<Verdict, _> = tokio::spawn(EXPECTED.scope((), (case.run)(store))).await;
    match verdict {
        Ok(Ok(())) => Err("the case accepts it".to_owned()),
        Ok(Err(Lacks(what))) => Err(format!("the case left it out: it has not {what}")),
        Err(ended) => {
            let panic = ended.into_panic();
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Ok(text.unwrap_or_default().lines().collect::<Vec<_>>().join(" "))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_double_is_rejected_by_its_case() {
    hush();
    let tried = futures::future::join_all(DOUBLES.iter().map(|double| async move {
        let Some(case) = cases().find(|case| case.name == double.case) else {
            return Err("there is no such case".to_owned());
        };
        rejection(case, double).await
    }));
    let mut accepted = Vec::new();
    for (double, outcome) in DOUBLES.iter().zip(tried.await) {
        match outcome {
            Ok(how) => println!("{}: {}: {how:.100}", double.case, double.name),
            Err(why) => accepted.push(format!("{}: {}: {why}", double.case, double.name)),
        }
    }
    println!("{} doubles, {} rejected", DOUBLES.len(), DOUBLES.len() - accepted.len());
    assert!(accepted.is_empty(), "{accepted:#?}");
}

#[test]
fn every_case_has_a_double() {
    let without: Vec<_> =
        cases().map(|case| case.name).filter(|name| !DOUBLES.iter().any(|double| double.case == *name)).collect();
    assert!(without.is_empty(), "no double breaks the rule of {without:?}");
}
