//! The command line as a person or a script meets it: help, exit status, answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "cli/mock_api.rs"]
mod mock_api;
#[path = "cli/programs.rs"]
mod programs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// `tidemill` in an empty folder, without any setting from outside.
fn tidemill(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).env("COLUMNS", "100").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it and expects this exit status; gives stdout and stderr.
fn expect(status: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = tidemill(folder, arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

fn root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// Compares with a file beside this one; UPDATE_EXPECTED=1 writes it.
fn golden(name: &str, found: &str) {
    let path = PathBuf::from(root("tests/cli")).join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs; UPDATE_EXPECTED=1 writes it anew", path.display());
}

#[test]
fn the_help_teaches() {
    let folder = TempDir::new().unwrap();
    for (name, arguments) in [
        ("help.txt", vec!["--help"]),
        ("dev.txt", vec!["dev", "--help"]),
        ("run.txt", vec!["run", "--help"]),
        ("test.txt", vec!["test", "--help"]),
        ("jobs.txt", vec!["jobs", "--help"]),
        ("mock_api.txt", vec!["mock-api", "--help"]),
        ("user.txt", vec!["user", "add", "--help"]),
    ] {
        golden(name, &expect(0, folder.path(), &arguments).0);
    }
}

#[test]
fn wrong_usage_has_its_own_exit_status() {
    let folder = TempDir::new().unwrap();
    for arguments in [
        vec![],
        vec!["nonsense"],
        vec!["run"],
        vec!["jobs", "list", "--limit", "0"],
        vec!["check", "--set", "nothing"],
        vec!["mock-api", "--fail", "5"],
        vec!["mock-api", "--latency", "1"],
        vec!["mock-api", "--limit-rate", "0/s"],
        vec!["mock-api", "--basic", "a:b", "--bearer", "c"],
        vec!["query", "--csv", "--json", "SELECT 1"],
    ] {
        expect(2, folder.path(), &arguments);
    }
}

#[test]
fn wrong_settings_are_told_together_and_nothing_starts() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("tidemill.toml"), "[gateway]\nlistne = 1\nlisten = 'x'\n").unwrap();
    let (_, err) = expect(1, folder.path(), &["gateway"]);
    for part in [
        "tidemill.toml:2:1: there is no setting `gateway.listne`",
        "did you mean `gateway.listen`?",
        "tidemill.toml:3:1: `gateway.listen`",
        "`database.url` is missing, the gateway cannot start without it",
        "`broker.servers` is missing",
        "`gateway.jwt_secret` is missing",
    ] {
        assert!(err.contains(part), "no `{part}` in\n{err}");
    }
}

#[test]
fn the_schema_is_json_schema() {
    let folder = TempDir::new().unwrap();
    let schema: Value = serde_json::from_str(&expect(0, folder.path(), &["schema"]).0).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"), "{schema}");
}

#[test]
fn check_takes_the_shipped_pipelines() {
    let folder = TempDir::new().unwrap();
    let (out, _) = expect(0, folder.path(), &["check", "--pipelines", &root("pipelines")]);
    assert!(out.ends_with("and the settings are right\n"), "{out}");
}

#[test]
fn check_tells_every_problem_of_settings_files_and_sql() {
    let folder = TempDir::new().unwrap();
    let pipelines = folder.path().join("pipelines");
    std::fs::create_dir(&pipelines).unwrap();
    std::fs::write(pipelines.join("broken.yaml"), "pipeline: broken\nnonsense: 1\n").unwrap();
    let (out, _) = expect(1, folder.path(), &["check", "--set", "processor.concurrency=0"]);
    for part in ["flag --set: `processor.concurrency` is 0", "broken.yaml:2:1: ", "nonsense"] {
        assert!(out.contains(part), "no `{part}` in\n{out}");
    }
    let sql = "pipeline: wrong_sql\ncolumns: [{ name: id, type: int64 }]\n\
               steps: [{ sql: SELECT idd FROM input }]\nsinks: [{ table: { name: wrong_sql } }]\n";
    std::fs::remove_file(pipelines.join("broken.yaml")).unwrap();
    std::fs::write(pipelines.join("wrong_sql.yaml"), sql).unwrap();
    let told: Value = serde_json::from_str(&expect(1, folder.path(), &["check", "--json"]).0).unwrap();
    let problems = told["problems"].as_array().unwrap();
    assert!(problems.iter().any(|p| p["message"].as_str().unwrap().contains("idd")), "{told}");
}

#[test]
fn the_cases_of_the_shipped_pipelines_pass() {
    let folder = TempDir::new().unwrap();
    let (out, _) = expect(0, folder.path(), &["test", "--pipelines", &root("pipelines")]);
    assert!(out.contains("ok   hired_employees/all") && out.ends_with(" 0 failed\n"), "{out}");
}

#[test]
fn a_case_that_differs_is_told_by_line() {
    let folder = TempDir::new().unwrap();
    let pipelines = folder.path().join("pipelines");
    let case = pipelines.join("cases/departments/one");
    std::fs::create_dir_all(&case).unwrap();
    std::fs::copy(root("pipelines/departments.yaml"), pipelines.join("departments.yaml")).unwrap();
    std::fs::write(case.join("input.csv"), "1,Sales\n2,Legal\n").unwrap();
    std::fs::write(case.join("rows.csv"), "id,department\n1,Sales\n2,Support\n").unwrap();
    std::fs::write(case.join("rejects.csv"), "line,column,code\n").unwrap();
    let (out, _) = expect(1, folder.path(), &["test", "departments"]);
    assert!(out.contains("rows.csv:3: expected 2,Support, got 2,Legal"), "{out}");
    let (_, err) = expect(1, folder.path(), &["test", "department"]);
    assert!(err.contains("did you mean `departments`?"), "{err}");
}

#[test]
fn run_gives_rows_and_rejects_of_one_file() {
    let folder = TempDir::new().unwrap();
    let data = |name: &str| root(&format!("examples/data/employees/{name}"));
    let (departments, jobs) =
        (format!("departments={}", data("departments.csv")), format!("jobs={}", data("jobs.csv")));
    let pipelines = root("pipelines");
    let hired = data("hired_employees.csv");
    let mut arguments = vec!["run", "hired_employees", &hired, "--pipelines", &pipelines];
    arguments.extend(["--table", &departments, "--table", &jobs]);
    let mut to_files = arguments.clone();
    to_files.extend(["--out", "rows.csv", "--rejects", "rejects.csv"]);
    let (_, err) = expect(0, folder.path(), &to_files);
    assert!(
        err.contains("2000 records in = 1926 written + 74 rejected + 0 filtered; 1926 rows out"),
        "{err}"
    );
    let rows = std::fs::read_to_string(folder.path().join("rows.csv")).unwrap();
    assert_eq!(rows, std::fs::read_to_string(root("pipelines/cases/hired_employees/all/rows.csv")).unwrap());
    let rejects = std::fs::read_to_string(folder.path().join("rejects.csv")).unwrap();
    assert_eq!(
        rejects.lines().next(),
        Some("line,byte_start,byte_end,column,stage,code,message,problems,raw")
    );

    let mut dry = arguments.clone();
    dry.extend(["--dry-run"]);
    let (out, err) = expect(0, folder.path(), &dry);
    assert!(out.is_empty() && err.contains("table `hired_employees`"), "{out}\n{err}");

    let without_tables = ["run", "hired_employees", &hired, "--pipelines", &pipelines];
    let (_, err) = expect(1, folder.path(), &without_tables);
    assert!(err.contains("table `departments`"), "{err}");
}

#[test]
fn a_dry_run_shows_the_statement_that_makes_the_table() {
    let folder = TempDir::new().unwrap();
    let departments = root("examples/data/employees/departments.csv");
    let pipelines = root("pipelines");
    let arguments =
        ["run", "departments", &departments, "--pipelines", &pipelines, "--dry-run", "--data", "data"];
    let (_, err) = expect(0, folder.path(), &arguments);
    assert!(err.contains("is missing and would be made:") && err.contains("CREATE TABLE"), "{err}");
}

#[tokio::test]
async fn a_dry_run_against_a_table_that_does_not_fit_ends_with_one() {
    use sqlx::{ConnectOptions, Connection};
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("data/tables.db");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut database = options.connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE departments (id TEXT) STRICT").execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    let departments = root("examples/data/employees/departments.csv");
    let pipelines = root("pipelines");
    let arguments =
        ["run", "departments", &departments, "--pipelines", &pipelines, "--dry-run", "--data", "data"];
    let (_, err) = expect(1, folder.path(), &arguments);
    assert!(err.contains("is there and does not fit:") && err.contains("- column `id` is TEXT"), "{err}");
}

#[test]
fn a_file_that_a_job_would_fail_on_is_refused_with_the_reason() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("empty.csv"), "").unwrap();
    let pipelines = root("pipelines");
    let (_, err) = expect(1, folder.path(), &["run", "departments", "empty.csv", "--pipelines", &pipelines]);
    assert!(err.contains("no_records"), "{err}");
    let (_, err) = expect(1, folder.path(), &["run", "departments", "none.csv", "--pipelines", &pipelines]);
    assert!(err.contains("failed to open `none.csv`"), "{err}");
}

fn user_command<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["--data", "data", "--json", "user"], arguments].concat()
}

#[test]
fn users_are_made_and_allowed_on_the_command_line() {
    let folder = TempDir::new().unwrap();
    let added: Value =
        serde_json::from_str(&expect(0, folder.path(), &user_command(&["add", "ana"])).0).unwrap();
    assert_eq!(added["password"].as_str().unwrap().len(), 20);
    expect(1, folder.path(), &user_command(&["add", "ana"]));
    expect(0, folder.path(), &user_command(&["grant", "ana", "departments", "send"]));
    expect(1, folder.path(), &user_command(&["grant", "bob", "departments", "send"]));
    expect(0, folder.path(), &user_command(&["passwd", "ana"]));
    let listed: Value = serde_json::from_str(&expect(0, folder.path(), &user_command(&["list"])).0).unwrap();
    assert_eq!(listed["users"][0]["grants"][0]["permission"], "send", "{listed}");
    expect(0, folder.path(), &user_command(&["revoke", "ana", "departments", "send"]));
    expect(1, folder.path(), &user_command(&["revoke", "ana", "departments", "send"]));
    expect(0, folder.path(), &user_command(&["remove", "ana"]));
    expect(1, folder.path(), &user_command(&["remove", "ana"]));
}

#[test]
fn commands_over_jobs_and_tables_answer_on_an_empty_installation() {
    let folder = TempDir::new().unwrap();
    expect(0, folder.path(), &["--data", "data", "migrate"]);
    let (out, _) = expect(0, folder.path(), &["--data", "data", "--json", "jobs", "list"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["jobs"], Value::Array(Vec::new()));
    let (_, err) = expect(1, folder.path(), &["--data", "data", "jobs", "show", "nonsense"]);
    assert!(err.contains("`nonsense` is no job id"), "{err}");
    let (out, _) = expect(0, folder.path(), &["--data", "data", "query", "--csv", "SELECT 1 + 1 AS two"]);
    assert_eq!(out, "two\n2\n");
    let (_, err) = expect(1, folder.path(), &["--data", "data", "query", "SELECT * FROM nothing"]);
    assert!(err.contains("there is no table `nothing`"), "{err}");
    for sql in ["DROP TABLE x", "CREATE TABLE x AS SELECT 1", "SET a = 1", "COPY (SELECT 1) TO 'x.csv'"] {
        expect(1, folder.path(), &["--data", "data", "query", sql]);
    }
    assert!(!folder.path().join("x.csv").exists());
}

#[test]
fn without_any_part_a_command_says_which_to_name() {
    let folder = TempDir::new().unwrap();
    let (_, err) = expect(1, folder.path(), &["jobs", "list"]);
    assert!(err.contains("write url = … under [database] in tidemill.toml, or give --data DIR"), "{err}");
}

#[test]
fn doctor_says_which_part_does_not_answer() {
    let folder = TempDir::new().unwrap();
    let pipelines = root("pipelines");
    let (out, _) = expect(0, folder.path(), &["--data", "data", "--pipelines", &pipelines, "doctor"]);
    assert_eq!(out.matches('✓').count(), 8, "{out}");
    // Port 1 of this machine is closed.
    let url = "tables.url=mysql://tidemill:hunter2@127.0.0.1:1/d";
    let arguments =
        ["--data", "data", "--pipelines", &pipelines, "--set", url, "--set", "connect_wait=0s", "doctor"];
    let (out, err) = expect(1, folder.path(), &arguments);
    assert!(out.contains("✗ tables") && out.contains("is the server up"), "{out}");
    assert!(!out.contains("hunter2") && !err.contains("hunter2"), "{out}\n{err}");
}

#[tokio::test]
async fn dead_letters_are_told_published_again_and_dropped() {
    let folder = TempDir::new().unwrap();
    let run = |status, arguments: &[&str]| {
        let place = ["--data", "data", "--pipelines", "."];
        expect(status, folder.path(), &[&place, arguments].concat()).0
    };
    std::fs::write(
        folder.path().join("a.yaml"),
        "pipeline: a\ncolumns: [{ name: id, type: int64 }]\nsinks: [{ table: { name: a } }]\n",
    )
    .unwrap();
    run(0, &["migrate"]);
    let url = format!("sqlite://{}", folder.path().join("data/tidemill.db").display());
    let database = sqlx::SqlitePool::connect(&url).await.unwrap();
    let insert = "INSERT INTO tidemill_outbox (event_id, topic, job_id, payload, created_at, due_at, dead_at, error) \
        VALUES ('e1', 'landed', 'j1', '{}', 0, 9223372036854775807, 1, 'too large'), \
        ('e2', 'finished', 'j2', '{}', 0, 9223372036854775807, 1, 'too large')";
    sqlx::query(insert).execute(&database).await.unwrap();
    let told = run(1, &["doctor"]);
    assert!(told.contains("✗ events") && told.contains("2 events were refused"), "{told}");
    let listed: Value = serde_json::from_str(&run(0, &["--json", "jobs", "dead-letters"])).unwrap();
    let first = &listed["dead_letters"][0];
    assert_eq!(
        (&first["event_id"], &first["error"], &first["size_bytes"]),
        (&"e1".into(), &"too large".into(), &2.into())
    );
    run(0, &["jobs", "dead-letters", "--publish", "e1"]);
    run(0, &["jobs", "dead-letters", "--drop", "e2"]);
    run(1, &["jobs", "dead-letters", "--drop", "e2"]);
    let left = sqlx::query_as::<_, (String, i64)>(
        "SELECT event_id, due_at FROM tidemill_outbox WHERE dead_at IS NULL",
    );
    let left = left.fetch_all(&database).await.unwrap();
    assert!(matches!(&left[..], [(id, due)] if id == "e1" && *due < i64::MAX), "{left:?}");
    run(0, &["doctor"]);
}
