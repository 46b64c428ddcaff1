//! What servers ask of us beyond rows: packets no larger than they allow, statements that they refuse early, tables
//! with a key, and what becomes of a server that falls silent.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use mysql_async::Opts;
use mysql_async::prelude::Queryable;
use tidemill_pipelines::{Mode, Retry};
use tidemill_sinks::{Error, MySqlSink, Sink, SinkLimits, TablePlan, TableState};

use crate::proxy;
use crate::rows::{
    attempt, batch, begin, column, deliver, error, everybody, folk, key, owned, people, plan, schema,
};
use crate::support::{limits, on_mysql, on_mysql_with};

/// Rows of more than a delivery keeps in memory, so that one that is not read holds up the sender.
fn many() -> RecordBatch {
    let text = "x".repeat(50);
    folk(&(0..60_000).map(|id| (id, text.as_str())).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_waits_for_a_lock_in_vain_ends_with_the_server_s_answer() {
    on_mysql_with(SinkLimits { lock_wait_seconds: 1, ..limits(true) }, async |place| {
        let (sink, wanted) = (&*place.sink, people(Mode::Append));
        sink.ensure(&wanted).await.unwrap();
        let mut other = place.other().await;
        other.query_drop("LOCK TABLES people WRITE").await.unwrap();
        let refused = error(attempt(sink, &wanted, &key("job", 1), &[many()]).await);
        assert!(matches!(refused, Error::Unavailable { retry: Retry::Now, .. }), "{refused}");
        assert!(refused.to_string().contains("(1205)"), "{refused}");
        other.query_drop("UNLOCK TABLES").await.unwrap();
        attempt(sink, &wanted, &key("job", 2), &[folk(&[(1, "a")])]).await.unwrap();
        assert_eq!(everybody(sink).await, owned(&[(1, "a")]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_without_the_right_to_insert_ends_with_the_server_s_answer() {
    on_mysql(true, async |place| {
        let wanted = people(Mode::Append);
        place.sink.ensure(&wanted).await.unwrap();
        let opts = Opts::from_url(&place.url).unwrap();
        let (database, server) = (opts.db_name().unwrap(), opts.ip_or_hostname());
        let user = format!("r{}", database.trim_start_matches("tidemill_"));
        let mut other = place.other().await;
        for sql in [
            format!("CREATE USER {user}@'%' IDENTIFIED BY 'secret'"),
            format!("GRANT SELECT ON {database}.* TO {user}@'%'"),
            format!("GRANT INSERT, UPDATE ON {database}.tidemill_ledger TO {user}@'%'"),
            format!("GRANT INSERT, UPDATE ON {database}.tidemill_fence TO {user}@'%'"),
            format!("GRANT INSERT, UPDATE ON {database}.tidemill_writers TO {user}@'%'"),
        ] {
            other.query_drop(sql).await.unwrap();
        }
        let url = format!("mysql://{user}:secret@{server}:{}/{database}", opts.tcp_port());
        let reader = MySqlSink::connect(&url, limits(true)).await.unwrap();
        let refused = error(attempt(&reader, &wanted, &key("job", 1), &[many()]).await);
        reader.close().await;
        other.query_drop(format!("DROP USER {user}@'%'")).await.unwrap();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
        assert!(refused.to_string().contains("(1142)"), "{refused}");
    })
    .await;
}

/// `people (id, body)`, with bodies of any length.
fn bodies() -> TablePlan {
    plan(Mode::Append, vec![column("id", DataType::Int64), column("body", DataType::Utf8)], &["id"])
}

fn with_bodies(rows: &[(i64, usize)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|(id, _)| Some(*id)).collect();
    let texts: StringArray = rows.iter().map(|(_, length)| Some("x".repeat(*length))).collect();
    batch(&bodies(), vec![Arc::new(ids), Arc::new(texts)])
}

/// What one packet may hold on the server of the next test, and a body that fills an INSERT of one row to the brim.
const PACKET: usize = 1 << 20;
const BRIM: usize = PACKET - 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_go_in_packets_that_the_server_allows_whatever_their_length() {
    on_mysql(true, async |place| {
        place.sink.ensure(&bodies()).await.unwrap();
        let mut other = place.other().await;
        let usual: u64 = other.query_first("SELECT @@GLOBAL.max_allowed_packet").await.unwrap().unwrap();
        other.query_drop(format!("SET GLOBAL max_allowed_packet = {PACKET}")).await.unwrap();
        let mut rows: Vec<(i64, usize)> = (0..70).map(|id| (id, 300_000)).collect();
        rows.push((70, BRIM));
        for local_infile in [true, false] {
            let sink = MySqlSink::connect(&place.url, limits(local_infile)).await.unwrap();
            let job = format!("job {local_infile}");
            attempt(&sink, &bodies(), &key(&job, 1), &[with_bodies(&rows)]).await.unwrap();
            let found = other.query_first("SELECT COUNT(*), SUM(LENGTH(body)) FROM people").await.unwrap();
            assert_eq!(found, Some((71, 70 * 300_000 + BRIM)), "{job}");
            other.query_drop("DELETE FROM people").await.unwrap();

            // One row larger than a packet: text may be cut anywhere, values may not.
            let ended = attempt(&sink, &bodies(), &key(&job, 2), &[with_bodies(&rows)]).await;
            assert!(ended.is_ok(), "committed before");
            let large = [(1, 10), (2, PACKET + PACKET / 2), (3, 10)];
            let ended = attempt(&sink, &bodies(), &key("large", 1), &[with_bodies(&large)]).await;
            if local_infile {
                ended.unwrap();
                let found = other.query_first("SELECT SUM(LENGTH(body)) FROM people").await.unwrap();
                assert_eq!(found, Some(20 + PACKET + PACKET / 2));
                other.query_drop("DELETE FROM people").await.unwrap();
                other.query_drop("DELETE FROM tidemill_ledger WHERE job_id = 'large'").await.unwrap();
            } else {
                let refused = error(ended);
                assert!(matches!(refused, Error::Row { row: 2, .. }), "{refused}");
                assert!(refused.to_string().contains("max_allowed_packet"), "{refused}");
                assert_eq!(refused.retry(), Retry::Never);
            }
            sink.close().await;
        }
        other.query_drop(format!("SET GLOBAL max_allowed_packet = {usual}")).await.unwrap();
    })
    .await;
}

/// `people` without a key.
fn keyless(mode: Mode) -> TablePlan {
    TablePlan { key: Vec::new(), ..people(mode) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_key_gets_one_that_nobody_sees() {
    for local_infile in [true, false] {
        on_mysql(local_infile, async |place| {
            let (sink, wanted) = (&*place.sink, keyless(Mode::Append));
            sink.ensure(&wanted).await.unwrap();
            let mut other = place.other().await;
            let sql = "SELECT column_name FROM information_schema.statistics \
                       WHERE table_schema = DATABASE() AND table_name = 'people' AND index_name = 'PRIMARY'";
            let found: Vec<String> = other.query(sql).await.unwrap();
            assert_eq!(found, ["tidemill-row-id"]);
            assert_eq!(sink.inspect(&wanted).await.unwrap(), TableState::Fits);
            assert_eq!(sink.schema(&wanted.table).await.unwrap(), Some(schema(&wanted)));
            assert_eq!(sink.tables().await.unwrap(), [(wanted.table.clone(), schema(&wanted))]);
            // Two at once: neither waits for the numbers of the other.
            let mut one = begin(sink, &wanted, &key("one", 1)).await.unwrap();
            let mut two = begin(sink, &wanted, &key("two", 1)).await.unwrap();
            one.write(many()).await.unwrap();
            two.write(many()).await.unwrap();
            two.write(folk(&[(-2, "b")])).await.unwrap();
            one.write(folk(&[(-1, "a"), (-1, "a")])).await.unwrap();
            two.commit().await.unwrap();
            one.commit().await.unwrap();
            let (few, all) = (everybody(sink).await, 2 * many().num_rows() + 3);
            assert_eq!((&few[..3], few.len()), (&owned(&[(-2, "b"), (-1, "a"), (-1, "a")])[..], all));
            deliver(sink, &keyless(Mode::Replace), "three", &[folk(&[(5, "c"), (5, "c")])]).await.unwrap();
            let seen: Vec<(i64, String)> = other.query("SELECT * FROM people").await.unwrap();
            assert_eq!(seen, owned(&[(5, "c"), (5, "c")]));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_without_a_key_still_fits_and_a_key_of_the_server_s_own_is_not_seen() {
    on_mysql(true, async |place| {
        let (sink, wanted) = (&*place.sink, keyless(Mode::Append));
        let mut other = place.other().await;
        // MySQL makes a key of its own for the second table; MariaDB passes over comments of 50700 to 50999.
        for setting in ["", "/*!50799 , SESSION sql_generate_invisible_primary_key = ON */"] {
            other.query_drop(format!("SET SESSION autocommit = 1 {setting}")).await.unwrap();
            other
                .query_drop("CREATE TABLE people (id BIGINT, name VARCHAR(50)) CHARACTER SET utf8mb4")
                .await
                .unwrap();
            sink.ensure(&wanted).await.unwrap();
            deliver(sink, &wanted, &format!("job {}", setting.len()), &[folk(&[(1, "a")])]).await.unwrap();
            assert_eq!(sink.schema(&wanted.table).await.unwrap(), Some(schema(&wanted)));
            assert_eq!(everybody(sink).await, owned(&[(1, "a")]));
            other.query_drop("DROP TABLE people").await.unwrap();
        }
    })
    .await;
}

/// Limits under which a statement may take a second.
fn hasty() -> SinkLimits {
    SinkLimits { statement_timeout_seconds: 1, ..limits(true) }
}

async fn scanned(sink: &dyn Sink) -> Error {
    let wanted = people(Mode::Append);
    let scan = sink.scan(&wanted.table, &[wanted.columns[1].name.clone()]).await;
    let scan = scan.unwrap_or_else(|error| panic!("no scan began: {error}"));
    error(scan.try_collect::<Vec<_>>().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_waits_for_the_server_no_longer_than_a_statement_may_take() {
    on_mysql(true, async |place| {
        let wanted = people(Mode::Append);
        place.sink.ensure(&wanted).await.unwrap();
        deliver(&*place.sink, &wanted, "job", &[many()]).await.unwrap();
        let silent = |failed: Error| {
            assert_eq!(failed.retry(), Retry::Later, "{failed}");
            assert!(failed.to_string().contains("no answer within 1 s"), "{failed}");
        };
        let mut other = place.other().await;
        other.query_drop("LOCK TABLES people WRITE").await.unwrap();
        silent(scanned(&MySqlSink::connect(&place.url, hasty()).await.unwrap()).await);
        other.query_drop("UNLOCK TABLES").await.unwrap();

        let opts = Opts::from_url(&place.url).unwrap();
        let server = format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port());
        let port = proxy::start_stalling(server, 1_000_000).await;
        let user = format!("{}:{}", opts.user().unwrap(), opts.pass().unwrap());
        let url = format!("mysql://{user}@127.0.0.1:{port}/{}", opts.db_name().unwrap());
        let sink = MySqlSink::connect(&url, hasty()).await.unwrap();
        silent(scanned(&sink).await);
    })
    .await;
}
