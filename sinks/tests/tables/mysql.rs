//! What MySQL alone promises: its failures, its other tables, its pinned sessions.

use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::array_value_to_string;
use mysql_async::prelude::Queryable;
use mysql_async::{Opts, Row};
use tidemill_pipelines::{Mode, Retry};
use tidemill_sinks::{Error, MySqlSink, SinkLimits, TableState};

use crate::proxy::{self, Commit};
use crate::rows::{attempt, begin, column, deliver, error, everybody, folk, key, owned, people, text};
use crate::support::{Place, limits, on_mysql, on_mysql_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_killed_in_mid_load_leaves_nothing_and_is_tried_later() {
    for local_infile in [true, false] {
        on_mysql(local_infile, async |place| killed_in_mid_load(place).await).await;
    }
}

async fn killed_in_mid_load(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let mut delivery = begin(sink, &wanted, &key("job", 1)).await.unwrap();
    let rows: Vec<(i64, &str)> = (0..50_000).map(|id| (id, "a text that fills chunks")).collect();
    delivery.write(folk(&rows)).await.unwrap();
    let mut other = place.other().await;
    let sql = "SELECT id FROM information_schema.processlist \
               WHERE db = DATABASE() AND id <> CONNECTION_ID() AND \
               (info LIKE 'LOAD DATA%' OR info IS NULL AND command = 'Sleep')";
    let ids: Vec<u64> = other.query(sql).await.unwrap();
    assert!(!ids.is_empty(), "no connection of the delivery");
    for id in ids {
        drop(other.query_drop(format!("KILL {id}")).await);
    }
    let ended = match delivery.write(folk(&[(-1, "after")])).await {
        Ok(()) => delivery.commit().await.map(drop),
        Err(error) => Err(error),
    };
    let failed = error(ended);
    assert!(matches!(failed, Error::Unavailable { retry: Retry::Later, .. }), "{failed}");
    assert_eq!(everybody(sink).await, owned(&[]));
    attempt(sink, &wanted, &key("job", 2), &[folk(&[(1, "a")])]).await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[(1, "a")]));
}

async fn through_a_proxy(place: &Place, commit: Commit) -> MySqlSink {
    let opts = Opts::from_url(&place.url).unwrap();
    let server = format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port());
    let port = proxy::start(server, commit).await;
    let user = format!("{}:{}", opts.user().unwrap_or("root"), opts.pass().unwrap_or(""));
    let url = format!("mysql://{user}@127.0.0.1:{port}/{}", opts.db_name().unwrap());
    MySqlSink::connect(&url, limits(true)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_commit_is_settled_by_the_ledger() {
    on_mysql(true, async |place| {
        let wanted = people(Mode::Append);
        place.sink.ensure(&wanted).await.unwrap();
        let sink = through_a_proxy(place, Commit::AnswerLost).await;
        let row = attempt(&sink, &wanted, &key("job", 1), &[folk(&[(1, "a")])]).await.unwrap();
        assert_eq!(place.sink.ledger("job").await.unwrap(), [row]);
        assert_eq!(everybody(&*place.sink).await, owned(&[(1, "a")]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_is_told_as_not_done() {
    on_mysql(true, async |place| {
        let wanted = people(Mode::Append);
        place.sink.ensure(&wanted).await.unwrap();
        let sink = through_a_proxy(place, Commit::Lost).await;
        let failed = error(attempt(&sink, &wanted, &key("job", 1), &[folk(&[(1, "a")])]).await);
        assert_eq!(failed.retry(), Retry::Later, "{failed}");
        assert_eq!(everybody(&*place.sink).await, owned(&[]));
        attempt(&sink, &wanted, &key("job", 2), &[folk(&[(1, "a")])]).await.unwrap();
        assert_eq!(everybody(&*place.sink).await, owned(&[(1, "a")]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_deliveries_of_one_commit_one_is_dropped() {
    on_mysql(true, async |place| {
        let (sink, wanted) = (&*place.sink, people(Mode::Append));
        sink.ensure(&wanted).await.unwrap();
        let mut one = begin(sink, &wanted, &key("job", 1)).await.unwrap();
        let mut two = begin(sink, &wanted, &key("job", 1)).await.unwrap();
        one.write(folk(&[(1, "a")])).await.unwrap();
        two.write(folk(&[(2, "a")])).await.unwrap();
        let first = one.commit().await.unwrap();
        assert_eq!(two.commit().await.unwrap(), first);
        assert_eq!(everybody(sink).await, owned(&[(1, "a")]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_another_transaction_holds_are_tried_again_now() {
    let limits = SinkLimits { lock_wait_seconds: 1, ..limits(false) };
    on_mysql_with(limits, async |place| {
        let (sink, wanted) = (&*place.sink, people(Mode::Upsert));
        sink.ensure(&wanted).await.unwrap();
        deliver(sink, &wanted, "before", &[folk(&[(1, "a")])]).await.unwrap();
        let mut other = place.other().await;
        other.query_drop("START TRANSACTION").await.unwrap();
        other.query_drop("UPDATE people SET name = 'held' WHERE id = 1").await.unwrap();
        let held = error(attempt(sink, &wanted, &key("job", 1), &[folk(&[(1, "b")])]).await);
        assert!(matches!(held, Error::Unavailable { retry: Retry::Now, .. }), "{held}");
        other.query_drop("ROLLBACK").await.unwrap();
        attempt(sink, &wanted, &key("job", 2), &[folk(&[(1, "b")])]).await.unwrap();
        assert_eq!(everybody(sink).await, owned(&[(1, "b")]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_waits_while_the_server_is_behind() {
    on_mysql(true, async |place| {
        let (sink, wanted) = (&*place.sink, people(Mode::Append));
        sink.ensure(&wanted).await.unwrap();
        let mut delivery = begin(sink, &wanted, &key("job", 1)).await.unwrap();
        let mut other = place.other().await;
        other.query_drop("LOCK TABLES people WRITE").await.unwrap();
        let text = "x".repeat(50);
        let rows: Vec<(i64, &str)> = (0..8_192).map(|id| (id, text.as_str())).collect();
        let batch = folk(&rows);
        let mut written = 0;
        while tokio::time::timeout(Duration::from_secs(2), delivery.write(batch.clone())).await.is_ok() {
            written += 1;
            assert!(written < 64, "64 batches of half a megabyte wait in memory");
        }
        other.query_drop("UNLOCK TABLES").await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_the_table_names_the_row_that_it_refuses() {
    on_mysql(true, async |place| {
        for (mode, job) in [(Mode::Append, "append"), (Mode::Upsert, "upsert"), (Mode::Replace, "replace")] {
            let (sink, wanted) = (&*place.sink, people(mode));
            place.run("DROP TABLE IF EXISTS people").await;
            sink.ensure(&wanted).await.unwrap();
            place.run("ALTER TABLE people ADD CONSTRAINT c CHECK (name <> 'bad')").await;
            deliver(sink, &wanted, &format!("{job} before"), &[folk(&[(0, "a")])]).await.unwrap();
            let rows: Vec<(i64, &str)> =
                (1..2_000).map(|id| (id, if id == 1_234 { "bad" } else { "good" })).collect();
            let first = error(attempt(sink, &wanted, &key(job, 1), &[folk(&rows)]).await);
            assert_eq!(first.retry(), Retry::Now, "{first}");
            let second = error(attempt(sink, &wanted, &key(job, 2), &[folk(&rows)]).await);
            assert!(matches!(second, Error::Row { row: 1_234, .. }), "{second}");
            assert_eq!(everybody(sink).await, owned(&[(0, "a")]), "{job}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_would_change_rows_are_refused() {
    on_mysql(true, async |place| {
        for (table, words) in [
            ("(id BIGINT PRIMARY KEY, name VARCHAR(50)) ENGINE=MyISAM", "which has no transactions"),
            ("(id BIGINT PRIMARY KEY, name VARCHAR(49))", "column `name` is varchar(49)"),
            ("(id INT PRIMARY KEY, name VARCHAR(50))", "column `id` is int"),
            ("(id BIGINT UNSIGNED PRIMARY KEY, name VARCHAR(50))", "column `id` is bigint"),
            ("(id BIGINT PRIMARY KEY, name CHAR(50))", "column `name` is char(50)"),
            ("(id BIGINT PRIMARY KEY, name VARCHAR(50) NOT NULL)", "column `name` is NOT NULL"),
            ("(id BIGINT PRIMARY KEY, name VARCHAR(50) CHARACTER SET latin1)", "character set latin1"),
            ("(id BIGINT PRIMARY KEY, name VARCHAR(50) UNIQUE)", "unique index `name`"),
            ("(id BIGINT PRIMARY KEY, name VARCHAR(50) AS ('x'))", "is generated"),
            ("(id BIGINT, name VARCHAR(50))", "it has no primary key"),
        ] {
            place.run("DROP TABLE IF EXISTS people").await;
            place.run(&format!("CREATE TABLE people {table}")).await;
            let refused = error(place.sink.ensure(&people(Mode::Upsert)).await).to_string();
            assert!(refused.contains(words), "{table}: {refused}");
        }
        place.run("DROP TABLE people").await;
        place.run("CREATE VIEW people AS SELECT 1 AS id, 'x' AS name").await;
        let refused = error(place.sink.ensure(&people(Mode::Upsert)).await).to_string();
        assert!(refused.contains("it is a view"), "{refused}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_key_that_ignores_case_is_refused() {
    on_mysql(true, async |place| {
        place.run("CREATE TABLE people (name VARCHAR(50) COLLATE utf8mb4_general_ci PRIMARY KEY)").await;
        let wanted = crate::rows::plan(Mode::Upsert, vec![text("name", 50)], &["name"]);
        let refused = error(place.sink.ensure(&wanted).await).to_string();
        assert!(refused.contains("under which different texts are equal"), "{refused}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_others_are_read_with_the_types_that_hold_them() {
    on_mysql(true, async |place| {
        place
            .run(
                "CREATE TABLE theirs (a TINYINT, b SMALLINT UNSIGNED, c BIGINT UNSIGNED, d FLOAT, \
                 e DECIMAL(20,3), f CHAR(3), g ENUM('x','y'), h TIMESTAMP NULL, i BLOB, \
                 j TINYINT(1), k DATETIME)",
            )
            .await;
        place
            .run(
                "INSERT INTO theirs VALUES (-1, 65535, 18446744073709551615, 0.5, -1.5, 'abc', 'y', \
                 '2013-01-01 00:00:01', 'b', 1, '2013-01-01 00:00:02')",
            )
            .await;
        let table = "theirs".parse().unwrap();
        let schema = place.sink.schema(&table).await.unwrap().unwrap();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let kinds: Vec<_> =
            schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
        let expected = [
            ("a", DataType::Int64),
            ("b", DataType::Int64),
            ("c", DataType::Decimal128(20, 0)),
            ("d", DataType::Float64),
            ("e", DataType::Decimal128(20, 3)),
            ("f", DataType::Utf8),
            ("g", DataType::Utf8),
            ("h", time.clone()),
            ("j", DataType::Boolean),
            ("k", time),
        ];
        assert_eq!(kinds, expected);
        let names: Vec<_> = expected.iter().map(|(name, _)| name.parse().unwrap()).collect();
        let rows = crate::rows::read(&*place.sink, &table, &names).await;
        let shown: Vec<String> = rows
            .columns()
            .iter()
            .map(|column| match column.data_type() {
                // Shown as a number: a name of a zone needs a library that only people need.
                DataType::Timestamp(..) => arrow::compute::cast(column, &DataType::Int64).unwrap(),
                _ => column.clone(),
            })
            .map(|column| array_value_to_string(&column, 0).unwrap())
            .collect();
        let first = "1356998401000000";
        let second = "1356998402000000";
        let expected =
            ["-1", "65535", "18446744073709551615", "0.5", "-1.500", "abc", "y", first, "true", second];
        assert_eq!(shown, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_date_is_told_when_it_is_read() {
    on_mysql(true, async |place| {
        place.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name DATE)").await;
        let mut other = place.other().await;
        other.query_drop("SET sql_mode = ''").await.unwrap();
        other.query_drop("INSERT INTO people VALUES (1, '0000-00-00')").await.unwrap();
        use futures::TryStreamExt;
        let table = people(Mode::Append).table;
        let scan = place.sink.scan(&table, &["name".parse().unwrap()]).await.unwrap();
        let failed = error(scan.try_collect::<Vec<_>>().await).to_string();
        assert!(failed.contains("column `name` holds"), "{failed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_another_order_with_wider_columns_fits() {
    on_mysql(true, async |place| {
        place
            .run(
                "CREATE TABLE people (name VARCHAR(200) COLLATE utf8mb4_general_ci, extra INT, \
                 id BIGINT PRIMARY KEY, price DECIMAL(12,3))",
            )
            .await;
        let mut wanted = people(Mode::Upsert);
        wanted.columns.push(column("price", DataType::Decimal128(10, 2)));
        assert_eq!(place.sink.inspect(&wanted).await.unwrap(), TableState::Fits);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_deliveries_leave_no_connection_behind() {
    on_mysql(true, async |place| {
        let wanted = people(Mode::Upsert);
        place.sink.ensure(&wanted).await.unwrap();
        for job in 0..10 {
            deliver(&*place.sink, &wanted, &format!("job{job}"), &[folk(&[(1, "a")])]).await.unwrap();
        }
        let mut other = place.other().await;
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()";
        let count: Option<Row> = other.query_first(sql).await.unwrap();
        let count: u64 = count.unwrap().get(0).unwrap();
        assert!(count <= 5, "{count} connections");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_rules_of_the_table_refuse_are_told_one_by_one_and_the_others_written() {
    on_mysql(true, async |place| {
        let (sink, wanted) = (&*place.sink, people(Mode::Append));
        sink.ensure(&wanted).await.unwrap();
        for rule in [
            "CREATE TABLE shops (id BIGINT PRIMARY KEY)",
            "INSERT INTO shops VALUES (1), (2), (3), (4), (5)",
            "ALTER TABLE people ADD FOREIGN KEY (id) REFERENCES shops (id)",
            "ALTER TABLE people ADD CHECK (name <> 'bad')",
            "ALTER TABLE people ADD UNIQUE (name)",
            "CREATE TRIGGER no_z BEFORE INSERT ON people FOR EACH ROW \
             IF NEW.name = 'Z' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no Z'; END IF",
        ] {
            place.run(rule).await;
        }
        let rows = folk(&[(1, "A"), (9, "C"), (2, "bad"), (3, "B"), (4, "B"), (5, "Z")]);
        let refused = crate::writes::refusing(sink, &wanted, "job", &rows).await;
        let told: Vec<_> =
            refused.iter().map(|refused| (refused.row, refused.message.to_lowercase())).collect();
        let words = [(1, "foreign key"), (2, "constraint"), (4, "duplicate"), (5, "no z")];
        assert_eq!(told.len(), words.len(), "{told:?}");
        for ((row, message), (expected, word)) in told.iter().zip(words) {
            assert!(*row == expected && message.contains(word), "{told:?}");
        }
        assert_eq!(everybody(sink).await, owned(&[(1, "A"), (3, "B")]));
        assert_eq!(sink.ledger("job").await.unwrap()[0].rows, 2);
    })
    .await;
}
