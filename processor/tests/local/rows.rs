//! Rows keep the origin of their record: SQL sees it, a record on which SQL fails is refused with it, and records are counted by it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use tidemill_processor::{Engine, Error, Lookups, ProcessorLimits, check_pipeline};

use super::{Outcome, SINK, run, run_with, set};

fn steps(sql: &[&str]) -> String {
    let steps: String = sql.iter().map(|sql| format!("  - sql: \"{sql}\"\n")).collect();
    format!("steps:\n{steps}rejects: {{ tolerate: 100% }}\n{SINK}")
}

fn lines(out: &Outcome) -> Vec<u64> {
    out.rejects.iter().map(|reject| reject.origin.line).collect()
}

/// Records in, written, rejected, filtered; rows out.
fn counts(out: &Outcome) -> [u64; 5] {
    let run = out.run.as_ref().unwrap();
    let counts = run.counts;
    [
        counts.records_in,
        counts.records_written,
        counts.records_rejected,
        counts.records_filtered,
        run.rows_out,
    ]
}

fn cells(out: &Outcome) -> Vec<Vec<String>> {
    let rows = out.rows.lines().skip(3).filter(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn places(rows: &[(&str, i64)]) -> Lookups {
    let schema = Arc::new(Schema::new(vec![
        Field::new("code", DataType::Utf8, false),
        Field::new("size", DataType::Int64, true),
    ]));
    let codes = StringArray::from_iter_values(rows.iter().map(|row| row.0));
    let sizes = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(codes), Arc::new(sizes)]).unwrap();
    Lookups::Memory(HashMap::from([("places".parse().unwrap(), (schema, vec![batch]))]))
}

#[tokio::test]
async fn a_record_on_which_sql_fails_is_refused_and_the_others_go_on() {
    let out = run(
        &steps(&["SELECT id, CAST(name AS decimal(10,2)) AS amount FROM input"]),
        "id,name\n1,1.50\n2,x\n3,0.005\n",
    )
    .await;
    assert_eq!(cells(&out), [["1", "1.50"]]);
    assert_eq!((lines(&out), counts(&out)), (vec![3, 4], [3, 1, 2, 0, 1]));
    let reject = &out.rejects[0];
    assert_eq!((reject.stage, reject.problems[0].code.as_str()), ("sql", "sql_failed"));
    assert_eq!(reject.problems[0].column.as_deref(), Some("name"));
    assert_eq!(
        (reject.raw.as_ref(), reject.origin.byte_start, reject.origin.byte_end),
        (&b"2,x"[..], 15, 18)
    );
}

#[tokio::test]
async fn bad_records_are_found_in_every_batch_and_the_order_is_kept() {
    let is_bad = |id: i64| id % 997 == 0;
    let csv: String = (1..=20_000).map(|id| format!("{id},{}\n", i64::from(!is_bad(id)))).collect();
    let sql = [
        "SELECT id, 10 / CAST(name AS bigint) AS ten FROM input",
        "SELECT id + 0 AS id FROM input WHERE id > 10",
    ];
    for batch_rows in [7, 512, 8_192] {
        let limits = ProcessorLimits { batch_rows, ..ProcessorLimits::default() };
        let out =
            run_with(&steps(&sql), &format!("id,name\n{csv}"), Lookups::Memory(HashMap::new()), limits).await;
        let bad: Vec<u64> = (1..=20_000).filter(|id| is_bad(*id)).map(|id| id as u64 + 1).collect();
        assert_eq!(lines(&out), bad);
        assert!(out.rejects[0].problems[0].message.contains("division by zero"), "{:?}", out.rejects[0]);
        assert_eq!(counts(&out), [20_000, 19_970, 20, 10, 19_970]);
        let ids: Vec<i64> = cells(&out).iter().map(|row| row[0].parse().unwrap()).collect();
        assert!(ids.is_sorted() && ids[0] == 11 && ids.last() == Some(&20_000));
    }
}

#[tokio::test]
async fn a_record_is_used_or_refused_as_a_whole() {
    let sql = [
        "SELECT id, unnest(string_to_array(name, ';')) AS part FROM input",
        "SELECT id, CAST(part AS int) AS part FROM input",
    ];
    let out = run(&steps(&sql), "id,name\n1,1;2;3\n2,4;x;5\n3,6\n").await;
    assert_eq!(cells(&out), [["1", "1"], ["1", "2"], ["1", "3"], ["3", "6"]]);
    assert_eq!((lines(&out), counts(&out)), (vec![3], [3, 2, 1, 0, 4]));
}

#[tokio::test]
async fn a_join_with_a_table_keeps_the_records() {
    let lookups = || places(&[("a", 2), ("b", 0), ("c", 5), ("c", 6)]);
    for (join, expected, filtered) in [
        ("input LEFT JOIN places ON code = name", vec![["1", "5"], ["3", ""], ["4", "2"], ["4", "1"]], 0),
        ("input i JOIN places p ON p.code = i.name", vec![["1", "5"], ["4", "2"], ["4", "1"]], 1),
        ("places RIGHT JOIN input ON code = name", vec![["1", "5"], ["3", ""], ["4", "2"], ["4", "1"]], 0),
    ] {
        let sql = format!("SELECT id, 10 / size AS part FROM {join}");
        let out =
            run_with(&steps(&[&sql]), "id,name\n1,a\n2,b\n3,z\n4,c\n", lookups(), ProcessorLimits::default())
                .await;
        assert_eq!(cells(&out), expected, "{join}");
        assert_eq!(lines(&out), [3], "{join}");
        let rows = expected.len() as u64;
        assert_eq!(counts(&out), [4, 3 - filtered, 1, filtered, rows], "{join}");
    }
    let sql =
        "SELECT CAST(name AS int) AS id FROM input WHERE name IN (SELECT code FROM places) OR name = '7'";
    let out =
        run_with(&steps(&[sql]), "id,name\n1,a\n2,7\n3,z\n", lookups(), ProcessorLimits::default()).await;
    assert_eq!((cells(&out), lines(&out)), (vec![vec!["7".to_owned()]], vec![2]));
    assert_eq!(counts(&out), [3, 1, 1, 1, 1]);
}

#[tokio::test]
async fn a_fault_in_a_table_that_is_looked_into_is_no_fault_of_the_records() {
    let sql =
        "SELECT id, part FROM input JOIN (SELECT code, 1 / size AS part FROM places) p ON p.code = name";
    let out =
        run_with(&steps(&[sql]), "id,name\n1,a\n", places(&[("a", 0)]), ProcessorLimits::default()).await;
    assert!(matches!(&out.run, Err(Error::Sql(_))), "{:?}", out.run);
    assert!(out.rejects.is_empty());
}

#[tokio::test]
async fn behind_an_aggregate_sql_that_fails_fails_the_job() {
    for sql in [
        "SELECT 1 / (count(*) - 1) AS n FROM input",
        "SELECT id, 1 / (id - 1) AS n FROM input ORDER BY n",
        "SELECT DISTINCT 1 / (id - 1) AS n FROM input",
    ] {
        let out = run(&steps(&[sql]), "id,name\n1,a\n").await;
        assert!(matches!(&out.run, Err(Error::Sql(_))), "{sql}: {:?}", out.run);
    }
}

#[tokio::test]
async fn records_behind_an_aggregate_are_used_and_rows_are_counted_apart() {
    for (sql, expected) in [
        ("SELECT name, count(*) AS n FROM input GROUP BY name", [4, 4, 0, 0, 2]),
        ("SELECT id, name FROM input ORDER BY id LIMIT 1", [4, 1, 0, 3, 1]),
        (
            "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY name ORDER BY id) AS n FROM input) WHERE n = 1",
            [4, 2, 0, 2, 2],
        ),
        ("SELECT id FROM input UNION ALL SELECT id FROM input", [4, 4, 0, 0, 8]),
        ("SELECT id, unnest([1, 2]) AS n FROM input WHERE id > 2", [4, 2, 0, 2, 4]),
    ] {
        let out = run(&steps(&[sql]), "id,name\n1,a\n2,a\n3,b\n4,b\n").await;
        assert_eq!(counts(&out), expected, "{sql}");
    }
}

#[tokio::test]
async fn sql_sees_file_and_line_where_it_names_them() {
    let csv = "id,name\n7,\"two\nlines\"\n8,b\n";
    for (sql, expected) in [
        (
            vec!["SELECT id, _file AS file, _line AS line FROM input"],
            vec![["7", "people.csv", "2"], ["8", "people.csv", "4"]],
        ),
        (
            vec!["SELECT i.id, i._file AS file, _line FROM input i"],
            vec![["7", "people.csv", "2"], ["8", "people.csv", "4"]],
        ),
        (
            vec![
                "SELECT id + 1 AS id FROM input WHERE id > 7",
                "SELECT id, _file AS f, _line AS l FROM input",
            ],
            vec![["9", "people.csv", "4"]],
        ),
        (
            vec!["SELECT max(id) AS id, min(_file) AS f, max(_line) AS l FROM input"],
            vec![["8", "people.csv", "4"]],
        ),
    ] {
        assert_eq!(cells(&run(&steps(&sql), csv).await), expected, "{sql:?}");
    }
    for sql in [
        "SELECT *, _line AS line FROM input WHERE id = 8",
        "SELECT i.*, i._line AS line FROM input i WHERE _line = 4",
    ] {
        assert_eq!(cells(&run(&steps(&[sql]), csv).await), [["8", "b", "4"]], "{sql}");
    }
    let out = run(&steps(&["SELECT * FROM input WHERE _line = 4", "SELECT * FROM input"]), csv).await;
    assert_eq!(cells(&out), [["8", "b"]]);
}

#[tokio::test]
async fn check_refuses_a_line_where_rows_are_no_records() {
    let engine = Engine::new(&ProcessorLimits::default()).unwrap();
    let set = set(&steps(&[
        "SELECT name, count(*) AS n FROM input GROUP BY name",
        "SELECT name, _line AS l FROM input",
    ]));
    let problems = check_pipeline(&engine, set.get(&"people".parse().unwrap()).unwrap(), &set).await;
    assert!(problems[0].message.contains("_line"), "{problems:?}");
    assert!(problems[0].help.as_deref().is_some_and(|help| help.contains("aggregate")), "{problems:?}");
}

#[tokio::test]
async fn a_check_that_fails_on_a_record_refuses_it() {
    for rules in [
        "  - check: { name: part, where: \"10 / id > 0\", else: reject }\n",
        "  - check: { name: part, where: \"10 / id > 0\", else: fail }\n",
        "  - sql: \"SELECT id, name FROM input\"\n  - check: { name: part, where: \"10 / id > 0\", else: fail }\n",
    ] {
        let out =
            run(&format!("steps:\n{rules}rejects: {{ tolerate: 1 }}\n{SINK}"), "id,name\n1,a\n0,b\n2,c\n")
                .await;
        assert_eq!((lines(&out), counts(&out)), (vec![3], [3, 2, 1, 0, 2]), "{rules}");
        let (reject, problem) = (&out.rejects[0], &out.rejects[0].problems[0]);
        assert_eq!(
            (reject.stage, problem.code.as_str(), reject.raw.as_ref()),
            ("check", "sql_failed", &b"0,b"[..])
        );
        assert!(problem.message.contains("check `part` cannot be evaluated"), "{problem:?}");
    }
}

#[tokio::test]
async fn a_file_of_nothing_but_faults_ends_within_its_budget() {
    let csv: String = (0..20_000).map(|id| format!("{id},x\n")).collect();
    let yaml = format!(
        "steps:\n  - sql: \"SELECT CAST(name AS int) AS id FROM input\"\nrejects: {{ tolerate: 50 }}\n{SINK}"
    );
    let out = run(&yaml, &format!("id,name\n{csv}")).await;
    assert!(matches!(out.run.unwrap().verdict, Err(Error::OverErrorBudget { .. })));
    assert_eq!(out.rejects.len(), 51, "no more is evaluated once the job cannot succeed");
}

#[tokio::test]
async fn a_missing_key_that_sql_makes_is_a_reject() {
    let sink = "sinks: [{ table: { name: people, mode: upsert, key: [id] } }]\n";
    let yaml = format!(
        "steps:\n  - sql: \"SELECT nullif(id, 2) AS id FROM input\"\nrejects: {{ tolerate: 1 }}\n{sink}"
    );
    let out = run(&yaml, "id,name\n1,a\n2,b\n").await;
    assert_eq!((lines(&out), counts(&out)), (vec![3], [2, 1, 1, 0, 1]));
}
