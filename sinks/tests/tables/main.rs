//! The promises of the table sinks, held on each way that rows go: MySQL by LOAD DATA, MySQL by INSERT,
//! SQLite. What only one database promises is in the file of its name.

// A test's helpers fail like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod mysql;
mod proxy;
mod rows;
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
    writes::a_dropped_delivery_leaves_nothing,
    writes::a_row_that_is_there_already_is_named_and_nothing_stays,
    writes::upserts_of_the_same_keys_at_once_all_come_in,
    writes::replacing_at_once_leaves_the_rows_of_one,
}
