//! The promises of the table sinks, held on each way that rows go: MariaDB and MySQL by LOAD DATA and by INSERT,
//! SQLite, the lake in a folder and in S3. What only one of them promises is in the file of its name.

// A test's helpers fail like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/servers/bucket.rs"]
mod bucket;
#[path = "../../../tests/servers/databases.rs"]
mod databases;
mod decides_once;
mod lake;
mod mysql;
mod proxy;
mod rows;
mod servers;
mod shapes;
mod sqlite;
mod support;
mod values;
mod writes;

/// Runs each promise on each way.
macro_rules! on_every_way {
    ($($file:ident :: $promise:ident),* $(,)?) => {
        mod by_load_data {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::support::on_mysql(true, async |place| super::$file::$promise(place).await).await
            })*
        }
        mod by_insert {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::support::on_mysql(false, async |place| super::$file::$promise(place).await).await
            })*
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::support::on_sqlite(async |place| super::$file::$promise(place).await).await
            })*
        }
    };
}

on_every_way! {
    shapes::a_missing_table_is_planned_then_made_then_fits,
    shapes::a_table_of_another_shape_is_refused_with_every_difference,
    shapes::a_plan_that_cannot_be_a_table_is_refused,
    shapes::extra_columns_are_left_alone_by_an_upsert,
    shapes::own_tables_are_not_listed,
    values::values_come_back_exactly,
    values::texts_that_differ_in_case_or_spaces_are_different_keys,
    values::a_row_that_no_database_can_hold_is_named,
    values::a_single_empty_text_is_a_row,
    values::a_scan_without_columns_counts_rows,
    values::a_scan_comes_in_batches_and_may_be_left,
    values::a_scan_of_nothing_says_so,
    writes::append_adds_upsert_updates_replace_replaces,
    writes::an_upsert_of_nothing_but_its_key_keeps_the_row,
    writes::the_last_row_of_a_key_wins_an_upsert,
    writes::a_delivery_without_rows_is_in_the_ledger,
    writes::a_second_delivery_writes_nothing,
    writes::chunks_of_a_job_are_commits_of_their_own,
    writes::an_older_attempt_is_fenced,
    writes::an_overtaken_attempt_does_not_begin,
    writes::a_raised_fence_keeps_an_attempt_from_committing,
    writes::a_fence_raised_after_the_commit_finds_it,
    writes::a_commit_without_a_table_is_in_the_ledger,
    writes::tables_of_one_delivery_commit_together,
    writes::refused_rows_are_told_and_the_others_written,
    writes::a_dropped_delivery_leaves_nothing,
    writes::a_row_that_is_there_already_is_named_and_nothing_stays,
    writes::upserts_of_the_same_keys_at_once_all_come_in,
    writes::replacing_at_once_leaves_the_rows_of_one,
}

/// Runs each promise on each object store.
macro_rules! on_every_lake {
    ($($file:ident :: $promise:ident),* $(,)?) => {
        mod on_folder_lake {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::support::on_folder_lake(async |place| super::$file::$promise(place).await).await
            })*
        }
        mod on_s3_lake {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::support::on_s3_lake(async |place| super::$file::$promise(place).await).await
            })*
        }
    };
}

on_every_lake! {
    shapes::own_tables_are_not_listed,
    values::values_come_back_exactly,
    values::a_row_that_no_database_can_hold_is_named,
    values::a_single_empty_text_is_a_row,
    values::a_scan_without_columns_counts_rows,
    values::a_scan_of_nothing_says_so,
    writes::a_second_delivery_writes_nothing,
    writes::chunks_of_a_job_are_commits_of_their_own,
    writes::an_overtaken_attempt_does_not_begin,
    writes::a_raised_fence_keeps_an_attempt_from_committing,
    writes::a_fence_raised_after_the_commit_finds_it,
    writes::a_commit_without_a_table_is_in_the_ledger,
    lake::a_commit_of_the_database_that_the_lake_missed_is_completed_by_whoever_looks,
    lake::a_table_and_the_lake_commit_together,
    lake::a_missing_table_is_planned_then_made_then_fits,
    lake::a_table_of_another_shape_is_refused_with_every_difference,
    lake::a_table_made_by_several_at_once_is_made_once,
    lake::rows_lie_in_a_folder_for_each_day,
    lake::files_that_hold_too_much_are_closed_and_too_many_days_are_refused,
    lake::an_attempt_killed_before_its_commit_leaves_only_files_that_the_sweep_takes,
    lake::a_delivery_given_up_leaves_no_file,
    lake::the_same_delivery_by_two_processors_at_once_is_written_once,
    lake::an_attempt_overtaken_by_one_that_began_is_refused,
    lake::an_attempt_overtaken_by_a_commit_is_refused,
    lake::an_older_attempt_that_committed_first_stands,
    lake::jobs_at_once_all_come_in,
    lake::a_job_is_still_known_after_a_checkpoint,
    lake::a_commit_whose_answer_was_lost_is_found,
}
