//! What steps, checks, look-ups and the error budget make of a file, without servers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "local/casts.rs"]
mod casts;
#[path = "local/objects.rs"]
mod objects;
#[path = "local/rows.rs"]
mod rows;
#[path = "local/waiting.rs"]
mod waiting;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use bytes::Bytes;
use futures::StreamExt;
use tidemill_pipelines::{PipelineSet, TableName};
use tidemill_processor::decode::Reject;
use tidemill_processor::{
    Engine, Error, LocalFile, LocalRun, Lookups, ProcessorLimits, check_pipeline, run_local,
};

const COLUMNS: &str = "
columns:
  - { name: id, type: int64 }
  - { name: name, type: text, max_length: 20, required: false }
";

struct Outcome {
    run: Result<LocalRun, Error>,
    rows: String,
    rejects: Vec<Reject>,
}

fn set(yaml: &str) -> PipelineSet {
    let text = format!("pipeline: people\n{COLUMNS}{yaml}");
    let places = "pipeline: places\ncolumns:\n  - { name: code, type: text, max_length: 2 }\n  - { name: place, type: text }\nsinks: [{ table: { name: places } }]\n";
    PipelineSet::from_files(vec![("people.yaml".into(), text), ("places.yaml".into(), places.into())])
        .unwrap()
}

async fn run(yaml: &str, csv: &str) -> Outcome {
    run_with(yaml, csv, Lookups::Memory(HashMap::new()), ProcessorLimits::default()).await
}

async fn run_with(yaml: &str, csv: &str, lookups: Lookups, limits: ProcessorLimits) -> Outcome {
    let set = set(yaml);
    let pipeline = set.get(&"people".parse().unwrap()).unwrap();
    let mut batches = Vec::new();
    let rejects = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&rejects);
    let bytes = futures::stream::iter([Ok(Bytes::from(csv.to_owned()))]).boxed();
    let input = LocalFile { name: "people.csv".into(), bytes };
    let run = run_local(
        pipeline,
        &set,
        &lookups,
        &limits,
        input,
        &mut |batch| {
            batches.push(batch);
            Ok(())
        },
        Box::new(move |reject| {
            taken.lock().unwrap().push(reject.clone());
            Ok(())
        }),
    )
    .await;
    let rows = pretty_format_batches(&batches).unwrap().to_string();
    Outcome { run, rows, rejects: rejects.lock().unwrap().clone() }
}

const SINK: &str = "sinks: [{ table: { name: people } }]\n";

#[tokio::test]
async fn rows_pass_through_when_there_are_no_steps() {
    let out = run(SINK, "id,name\n1,Ann\n2,\n").await;
    assert_eq!(
        out.rows,
        "+----+------+\n| id | name |\n+----+------+\n| 1  | Ann  |\n| 2  |      |\n+----+------+"
    );
    let counts = out.run.unwrap().counts;
    assert_eq!((counts.records_in, counts.records_written, counts.records_filtered), (2, 2, 0));
}

#[tokio::test]
async fn sql_steps_follow_on_one_another_and_filtered_records_are_counted() {
    let yaml = format!(
        "steps:\n  - sql: \"SELECT id * 10 AS id, upper(name) AS name FROM input WHERE id > 1\"\n  \
         - sql: \"SELECT id + 1 AS id, name FROM input\"\n{SINK}"
    );
    let out = run(&yaml, "id,name\n1,a\n2,b\n3,c\n").await;
    assert!(out.rows.contains("| 21 | B    |") && out.rows.contains("| 31 | C    |"), "{}", out.rows);
    let counts = out.run.unwrap().counts;
    assert_eq!((counts.records_in, counts.records_written, counts.records_filtered), (3, 2, 1));
}

#[tokio::test]
async fn a_step_may_read_its_input_twice() {
    let sql = "SELECT a.id, b.name FROM input a JOIN input b ON a.id = b.id + 1 ORDER BY a.id";
    let out = run(&format!("steps:\n  - sql: \"{sql}\"\n{SINK}"), "id,name\n1,a\n2,b\n3,c\n").await;
    assert!(out.rows.contains("| 2  | a    |") && out.rows.contains("| 3  | b    |"), "{}", out.rows);
}

#[tokio::test]
async fn a_limit_does_not_stop_the_counting_of_records() {
    let csv: String = (0..50_000).map(|id| format!("{id},x\n")).collect();
    let limits = ProcessorLimits { batch_rows: 100, ..ProcessorLimits::default() };
    let yaml = format!("steps:\n  - sql: \"SELECT * FROM input LIMIT 5\"\n{SINK}");
    let out = run_with(&yaml, &format!("id,name\n{csv}"), Lookups::Memory(HashMap::new()), limits).await;
    let counts = out.run.unwrap().counts;
    assert_eq!((counts.records_in, counts.records_written, counts.records_filtered), (50_000, 5, 49_995));
}

#[tokio::test]
async fn a_check_makes_rejects_with_line_and_raw_text() {
    let yaml = format!("steps:\n  - check: {{ name: small, where: \"id < 10\", else: reject }}\n{SINK}");
    let out = run(&yaml, "id,name\n1,a\n20,\"b,\nb\"\n3,c\n").await;
    assert_eq!(out.run.unwrap().counts.records_rejected, 1);
    let reject = &out.rejects[0];
    assert_eq!((reject.origin.line, reject.stage, reject.problems[0].code.as_str()), (3, "check", "small"));
    assert_eq!(reject.raw, "20,\"b,\nb\"");
}

#[tokio::test]
async fn a_check_may_fail_the_job_before_and_after_sql() {
    for steps in [
        "  - check: { name: small, where: \"id < 10\", else: fail }\n",
        "  - sql: \"SELECT id + 5 AS id, name FROM input\"\n  - check: { name: small, where: \"id < 10\", else: fail }\n",
    ] {
        let out = run(&format!("steps:\n{steps}{SINK}"), "id,name\n1,a\n7,b\n20,c\n").await;
        assert!(
            matches!(&out.run, Err(Error::CheckFailed { check, .. }) if check == "small"),
            "{:?}",
            out.run
        );
    }
}

#[tokio::test]
async fn a_check_knows_the_time_and_takes_null_as_not_met() {
    let yaml = format!(
        "steps:\n  - check: {{ name: past, where: \"now() > TIMESTAMP '2020-01-01T00:00:00Z'\", else: reject }}\n  \
         - check: {{ name: named, where: \"name <> 'x'\", else: reject }}\nrejects: {{ tolerate: 100% }}\n{SINK}"
    );
    let out = run(&yaml, "id,name\n1,a\n2,\n").await;
    assert_eq!(out.run.unwrap().counts.records_rejected, 1);
    assert_eq!(out.rejects[0].problems[0].code, "named");
}

#[tokio::test]
async fn a_file_over_its_error_budget_is_refused() {
    let out = run(&format!("rejects: {{ tolerate: 1 }}\n{SINK}"), "id,name\n1,a\nx,b\ny,c\n").await;
    let verdict = out.run.unwrap().verdict.unwrap_err();
    assert_eq!(
        verdict.to_string(),
        "2 of 3 records were refused, more than the 1 that the pipeline tolerates"
    );
    let out =
        run(&format!("rejects: {{ tolerate: 0%, then: continue }}\n{SINK}"), "id,name\n1,a\nx,b\n").await;
    assert!(out.run.unwrap().verdict.is_ok());
}

#[tokio::test]
async fn a_file_without_records_is_refused_unless_allowed() {
    for (csv, message) in [
        ("", "the file holds no record: it is empty"),
        ("id,name\n", "the file holds no record, only a header"),
    ] {
        assert_eq!(run(SINK, csv).await.run.unwrap().verdict.unwrap_err().to_string(), message);
        let allowed = format!("source: {{ upload: {{ allow_empty: true }} }}\n{SINK}");
        assert!(run(&allowed, csv).await.run.unwrap().verdict.is_ok());
    }
}

#[tokio::test]
async fn a_step_joins_a_table_of_the_sinks() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("code", DataType::Utf8, false),
        Field::new("place", DataType::Utf8, true),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![Arc::new(StringArray::from(vec!["a"])), Arc::new(StringArray::from(vec!["Aachen"]))],
    )
    .unwrap();
    let table: TableName = "places".parse().unwrap();
    let lookups = Lookups::Memory(HashMap::from([(table, (schema, vec![batch]))]));
    let sql = "SELECT id, place AS name FROM input LEFT JOIN places ON code = name ORDER BY id";
    let yaml = format!("steps:\n  - sql: \"{sql}\"\n{SINK}");
    let out = run_with(&yaml, "id,name\n1,a\n2,b\n", lookups, ProcessorLimits::default()).await;
    assert!(out.rows.contains("| 1  | Aachen |") && out.rows.contains("| 2  |        |"), "{}", out.rows);
    let out = run(&yaml, "id,name\n1,a\n").await;
    assert!(out.run.unwrap_err().to_string().contains("is not there yet"));
}

#[tokio::test]
async fn a_reference_is_looked_up() {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
    let files = vec![
        ("a.yaml".into(), "pipeline: a\ncolumns: [{ name: id, type: int64, references: b.id }]\nsinks: [{ table: { name: a } }]\nrejects: { tolerate: 100% }\n".into()),
        ("b.yaml".into(), "pipeline: b\ncolumns: [{ name: id, type: int64 }]\nsinks: [{ table: { name: b } }]\n".into()),
    ];
    let set = PipelineSet::from_files(files).unwrap();
    let lookups = Lookups::Memory(HashMap::from([("b".parse().unwrap(), (schema, vec![batch]))]));
    let rejects = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&rejects);
    let run = run_local(
        set.get(&"a".parse().unwrap()).unwrap(),
        &set,
        &lookups,
        &ProcessorLimits::default(),
        LocalFile {
            name: "a.csv".into(),
            bytes: futures::stream::iter([Ok(Bytes::from_static(b"id\n1\n3\n2\n"))]).boxed(),
        },
        &mut |_| Ok(()),
        Box::new(move |reject| {
            taken.lock().unwrap().push((reject.origin.line, reject.problems[0].code.clone()));
            Ok(())
        }),
    )
    .await
    .unwrap();
    assert_eq!((run.counts.records_written, run.counts.records_rejected), (2, 1));
    assert_eq!(*rejects.lock().unwrap(), [(3, "reference".to_owned())]);
}

#[tokio::test]
async fn a_pipeline_that_does_not_plan_is_told_with_place_and_help() {
    let engine = Engine::new(&ProcessorLimits::default()).unwrap();
    for (yaml, expected) in [
        ("steps:\n  - sql: \"SELECT nam FROM input\"\n", "sql does not plan: "),
        ("steps:\n  - sql: \"DELETE FROM input\"\n", "sql does not plan: "),
        ("steps:\n  - sql: \"SET x = 1\"\n", "sql does not plan: "),
        (
            "steps:\n  - check: { name: c, where: \"id + 1\", else: reject }\n",
            "check `c` does not plan: the condition is of type Int64, not boolean",
        ),
        (
            "steps:\n  - sql: \"SELECT count(*) FROM input\"\n",
            "the steps make a column `count(*)`, which is no column name",
        ),
        ("steps:\n  - sql: \"SELECT [id] AS ids FROM input\"\n", "column `ids` is of type List"),
    ] {
        let set = set(&format!("{yaml}{SINK}"));
        let problems = check_pipeline(&engine, set.get(&"people".parse().unwrap()).unwrap(), &set).await;
        assert!(problems.iter().any(|problem| problem.message.contains(expected)), "{yaml}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.line > 1), "{problems:?}");
    }
    let yaml = "steps:\n  - sql: \"SELECT name FROM input\"\nsinks: [{ table: { name: people, mode: upsert, key: [id] } }]\n";
    let set = set(yaml);
    let problems = check_pipeline(&engine, set.get(&"people".parse().unwrap()).unwrap(), &set).await;
    assert_eq!(problems[0].message, "key column `id` of table `people` is not made by the steps");
}

#[tokio::test]
async fn a_time_that_sql_makes_is_cut_to_microseconds() {
    let yaml = format!(
        "steps:\n  - sql: \"SELECT id, now() AS loaded_at, to_timestamp_nanos(-1) AS before FROM input\"\n{SINK}"
    );
    let out = run(&yaml, "id,name\n1,a\n").await;
    assert_eq!(out.run.unwrap().counts.records_written, 1);
    assert!(out.rows.contains("1969-12-31T23:59:59.999999Z"), "{}", out.rows);
}

#[tokio::test]
async fn check_refuses_a_table_that_no_database_makes() {
    let engine = Engine::new(&ProcessorLimits::default()).unwrap();
    let columns = |count: usize, length: usize| {
        let column = |index| format!("left(name, {length}) AS t{index}");
        format!("SELECT {} FROM input", (0..count).map(column).collect::<Vec<_>>().join(", "))
    };
    let keyed = "sinks: [{ table: { name: people, mode: upsert, key: [word] } }]\n";
    for (sql, sink, expected) in [
        (
            "SELECT id, upper(name) AS word FROM input".into(),
            keyed,
            Some("key column `word` is text of unknown length"),
        ),
        ("SELECT id, left(upper(name), 9) AS word FROM input ORDER BY id".into(), keyed, None),
        ("SELECT i.id, i.name AS word FROM input i".into(), keyed, None),
        (columns(9, 2_000), SINK, Some("a row of table `people` takes up to 72020 bytes, MySQL holds 65535")),
        (columns(8, 2_000), SINK, None),
        (columns(9, 2_001), SINK, None),
        (columns(197, 80), SINK, Some("in its page, MySQL holds 8125")),
        (columns(196, 80), SINK, None),
    ] {
        let set = set(&format!("steps:\n  - sql: \"{sql}\"\n{sink}"));
        let problems = check_pipeline(&engine, set.get(&"people".parse().unwrap()).unwrap(), &set).await;
        match expected {
            None => assert!(problems.is_empty(), "{problems:?}"),
            Some(expected) => {
                assert!(problems[0].message.contains(expected), "{problems:?}");
                assert!(problems[0].line > 1 && problems[0].column > 1 && problems[0].help.is_some());
            }
        }
    }
}

#[tokio::test]
async fn a_broken_input_never_looks_like_the_end_of_the_file() {
    let set = set(SINK);
    let input = futures::stream::iter([
        Ok(Bytes::from_static(b"id,name\n1,a\n")),
        Err(std::io::Error::other("the connection broke")),
    ]);
    let run = run_local(
        set.get(&"people".parse().unwrap()).unwrap(),
        &set,
        &Lookups::Memory(HashMap::new()),
        &ProcessorLimits::default(),
        LocalFile { name: "people.csv".into(), bytes: input.boxed() },
        &mut |_| Ok(()),
        Box::new(|_| Ok(())),
    )
    .await;
    assert!(matches!(run, Err(Error::File(_))), "{run:?}");
}

#[tokio::test]
async fn parameters_are_values_in_steps_and_checks_and_never_sql() {
    let yaml = |default: &str, sql: &str| {
        format!(
            "parameters:\n  - {{ name: word, type: text, default: {default} }}\n  - {{ name: day, type: date, default: 2024-05-01 }}\n\
             steps:\n  - check: {{ name: small, where: \"name <> $word\", else: reject }}\n  - sql: \"{sql}\"\n\
             rejects: {{ tolerate: 100% }}\n{SINK}"
        )
    };
    let sql = "SELECT id, $word AS word, $day AS day, EXTRACT(year FROM $day) AS year FROM input WHERE name <> $word";
    let hostile = "\"x' OR 1 = 1 --\"";
    let out = run(&yaml(hostile, sql), "id,name\n1,Ann\n2,x' OR 1 = 1 --\n").await;
    assert_eq!(out.run.unwrap().counts.records_rejected, 1);
    assert!(out.rows.contains("| 1  | x' OR 1 = 1 -- | 2024-05-01 | 2024 |"), "{}", out.rows);
    assert_eq!(out.rows.lines().count(), 5, "{}", out.rows);
    let unknown = run(&yaml("a", "SELECT id FROM input WHERE name = $wrod"), "id,name\n1,Ann\n").await;
    let told = unknown.run.unwrap_err().to_string();
    assert!(told.contains("$wrod"), "{told}");
}

#[tokio::test]
async fn a_parameter_without_a_value_stops_the_run() {
    let out = run(&format!("parameters: [{{ name: day, type: date }}]\n{SINK}"), "id,name\n1,Ann\n").await;
    let error = out.run.unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().contains("`day` is missing")),
        ("bad_parameters", true),
        "{error}"
    );
}
