//! `POST /v1/query` and `tidemill query`: forms of answers, parameters, refusals with their places, who sees what.

use serde_json::{Value, json};

use crate::place::Place;

#[tokio::test]
async fn rows_come_in_each_form_and_with_each_type() {
    let place = Place::start(&[]).await;
    let admin = place.login("admin").await;
    let sql = "SELECT 1 AS i, 1.5 AS f, CAST('12.30' AS DECIMAL(10,2)) AS d, true AS b, 'a\"é' AS t, \
               DATE '2021-02-03' AS day, to_timestamp_micros(1) AT TIME ZONE 'UTC' AS at, NULL AS nothing";
    let answer: Value = place.ask(&admin, json!({ "sql": sql })).await.json().await.unwrap();
    let columns: Vec<&str> =
        answer["columns"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(
        columns,
        ["int64", "float64", "decimal(10,2)", "bool", "text", "date", "timestamp", "null"],
        "{answer}"
    );
    assert_eq!(answer["columns"][0]["name"], "i");
    let row = answer["rows"][0].as_array().unwrap();
    assert_eq!(
        row[..6],
        [json!(1), json!(1.5), json!("12.30"), json!(true), json!("a\"é"), json!("2021-02-03")]
    );
    assert_eq!(row[7], Value::Null);
    assert_eq!(answer["row_count"], 1);

    let sql = "SELECT id, department FROM departments ORDER BY id LIMIT 2";
    let csv = place.ask(&admin, json!({ "sql": sql, "format": "csv" })).await;
    assert_eq!(csv.headers()["content-type"], "text/csv; charset=utf-8");
    let csv = csv.text().await.unwrap();
    assert_eq!(csv, "id,department\n1,Product Management\n2,Sales\n");
    let accepted = place.request(&admin, &json!({ "sql": sql })).header("accept", "text/csv").send().await;
    assert_eq!(accepted.unwrap().text().await.unwrap(), csv);
    let none =
        place.ask(&admin, json!({ "sql": "SELECT id FROM departments WHERE id < 0", "format": "csv" })).await;
    assert_eq!(none.text().await.unwrap(), "id\n");

    let arrow = place.ask(&admin, json!({ "sql": sql, "format": "arrow" })).await.bytes().await.unwrap();
    let reader = arrow::ipc::reader::StreamReader::try_new(arrow.as_ref(), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);

    let none: Value =
        place.ask(&admin, json!({ "sql": "SELECT 1 AS a WHERE false" })).await.json().await.unwrap();
    assert_eq!(none, json!({ "columns": [{ "name": "a", "type": "int64" }], "rows": [], "row_count": 0 }));
    let most = json!({ "sql": "SELECT * FROM hired_employees", "limit": 3 });
    let most: Value = place.ask(&admin, most).await.json().await.unwrap();
    assert_eq!((&most["row_count"], most["rows"].as_array().unwrap().len()), (&json!(3), 3));
    // More than one batch, more than one frame.
    let many = "SELECT v, repeat('x', 20) FROM generate_series(1, 100000) AS t(v)";
    let many: Value = place.ask(&admin, json!({ "sql": many })).await.json().await.unwrap();
    assert_eq!(many["rows"].as_array().unwrap().len(), 100_000);
}

#[tokio::test]
async fn a_parameter_is_a_value_and_never_sql() {
    let place = Place::start(&[]).await;
    let admin = place.login("admin").await;
    let ask = async |sql: &str, parameters: Value| -> Value {
        place.ask(&admin, json!({ "sql": sql, "parameters": parameters })).await.json().await.unwrap()
    };
    let found = ask("SELECT department FROM departments WHERE id = $1", json!([2])).await;
    assert_eq!(found["rows"], json!([["Sales"]]), "{found}");
    // The type is that of its place: a text is fine for a number and for a time.
    let found = ask("SELECT department FROM departments WHERE id = $1", json!(["2"])).await;
    assert_eq!(found["rows"], json!([["Sales"]]), "{found}");
    let found = ask("SELECT count(*) FROM hired_employees WHERE hired_at >= $1", json!(["2021-06-01"])).await;
    let same =
        place.rows(&admin, "SELECT count(*) FROM hired_employees WHERE hired_at >= '2021-06-01'").await;
    assert_eq!(found["rows"], same);
    for text in
        ["Sales' OR '1'='1", "Sales\\' OR 1=1 -- ", "\\", "x'; DROP TABLE departments; --", "sales", "Sales "]
    {
        let found = ask("SELECT count(*) FROM departments WHERE department = $1", json!([text])).await;
        assert_eq!(found["rows"], json!([[0]]), "{text}: {found}");
        let pasted = text.replace('\'', "''");
        let sql = format!("SELECT count(*) FROM departments WHERE department = '{pasted}'");
        assert_eq!(place.rows(&admin, &sql).await, json!([[0]]), "{sql}");
    }
    assert_eq!(place.rows(&admin, "SELECT count(*) FROM departments").await, json!([[12]]));
    for (sql, parameters, words) in [
        ("SELECT $1 + $2", json!([1]), "asks for 2 parameters, 1 are given"),
        ("SELECT 1", json!([1]), "asks for 0 parameters, 1 are given"),
        ("SELECT * FROM departments WHERE id = $1", json!(["seven"]), "`seven`, which is no int64"),
        ("SELECT $1", json!([[1]]), "a parameter is a text, a number, true, false or null"),
    ] {
        let (status, problem) = place.problem(&admin, json!({ "sql": sql, "parameters": parameters })).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(status == 400 && problem["code"] == "bad_parameter" && detail.contains(words), "{problem}");
    }
}

#[tokio::test]
async fn a_wrong_statement_is_refused_with_its_place_and_the_nearest_name() {
    let place = Place::start(&[]).await;
    let admin = place.login("admin").await;
    for (sql, status, code, words) in [
        ("SELEC 1", 400, "syntax", "line 1, column 1"),
        (
            "SELECT *\nFROM departmets",
            400,
            "unknown_table",
            "`departmets`; did you mean `departments`? (line 2, column 6)",
        ),
        (
            "SELECT depatment FROM departments",
            400,
            "unknown_column",
            "`depatment`; did you mean `department`? (line 1, column 8)",
        ),
        ("SELECT d.nme FROM departments d", 400, "unknown_column", "there is no column `d.nme`"),
        ("SELECT id FROM departments, jobs", 400, "ambiguous_column", "several tables have a column `id`"),
        ("SELECT uper('a')", 400, "unknown_function", "`uper`; did you mean `upper`? (line 1, column 8)"),
        ("SELECT id, count(*) FROM departments", 400, "invalid_statement", "GROUP BY"),
        ("SELECT 1 / 0", 400, "statement_failed", "division by zero"),
        ("SELECT CAST('x' AS INT) FROM departments", 400, "statement_failed", "x"),
        (
            "INSERT INTO departments VALUES (99, 'x')",
            400,
            "only_reading",
            "INSERT is not allowed: a statement may only read",
        ),
        ("COPY departments TO '/tmp/x.csv'", 400, "only_reading", "COPY is not allowed"),
        ("SET datafusion.execution.batch_size = 1", 400, "only_reading", "SET is not allowed"),
        ("SELECT 1; SELECT 2", 400, "only_reading", "only one statement"),
        ("SELECT * FROM '/etc/passwd'", 400, "only_reading", "files and addresses cannot be read"),
        (
            "SELECT * FROM 'https://example.com/x.csv'",
            400,
            "only_reading",
            "files and addresses cannot be read",
        ),
        ("SELECT * FROM \"data/tidemill.db\"", 400, "only_reading", "files and addresses cannot be read"),
        ("SELECT * FROM tidemill_users", 400, "unknown_table", "there is no table `tidemill_users`"),
        ("SELECT * FROM TIDEMILL_LEDGER", 400, "unknown_table", "there is no table"),
        ("SELECT * FROM sqlite_master", 400, "unknown_table", "there is no table"),
        ("", 400, "syntax", "there is no statement"),
    ] {
        let (found, problem) = place.problem(&admin, json!({ "sql": sql })).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(found == status && problem["code"] == code && detail.contains(words), "{sql}: {problem}");
        assert!(!detail.contains("Error during planning") && detail.len() < 600, "{detail}");
    }
    let (status, problem) = place.problem(&admin, json!({ "sql": "SELECT 1", "nonsense": 1 })).await;
    assert_eq!((status, &problem["code"]), (400, &json!("bad_body")), "{problem}");
    let bare = place.client.post(format!("{}/v1/query", place.url)).json(&json!({ "sql": "SELECT 1" }));
    assert_eq!(bare.send().await.unwrap().status(), 401);
    let refused = place.command(&["query", "SELECT * FROM departmets"]).unwrap_err();
    assert!(refused.contains("did you mean `departments`?"), "{refused}");
}

#[tokio::test]
async fn a_user_sees_the_tables_and_jobs_of_the_pipelines_that_may_be_read() {
    let place = Place::start(&[]).await;
    let admin = place.login("admin").await;
    let reader = place.user("reader", &[("departments", "read"), ("jobs", "send")]).await;
    let stranger = place.user("stranger", &[]).await;
    assert_eq!(place.rows(&reader, "SELECT count(*) FROM departments").await, json!([[12]]));
    for (user, sql) in [
        (&reader, "SELECT * FROM jobs"),
        (&reader, "SELECT * FROM hired_employees"),
        (&reader, "SELECT * FROM departments d JOIN public.jobs j ON d.id = j.id"),
        (&reader, "SELECT (SELECT max(id) FROM jobs)"),
        (&reader, "WITH x AS (SELECT * FROM tidemill.public.jobs) SELECT * FROM x"),
        (&stranger, "SELECT * FROM departments"),
        (&stranger, "DESCRIBE departments"),
    ] {
        let (status, problem) = place.problem(user, json!({ "sql": sql })).await;
        assert_eq!((status, &problem["code"]), (400, &json!("unknown_table")), "{sql}: {problem}");
    }
    let of = "SELECT DISTINCT pipeline FROM tidemill.jobs ORDER BY 1";
    assert_eq!(place.rows(&admin, of).await, json!([["departments"], ["hired_employees"], ["jobs"]]));
    assert_eq!(place.rows(&reader, of).await, json!([["departments"]]));
    assert_eq!(place.rows(&stranger, of).await, json!([]));
    let written = "SELECT j.pipeline, l.row_count FROM tidemill.jobs j JOIN tidemill.ledger l USING (job_id)";
    assert_eq!(place.rows(&reader, written).await, json!([["departments", 12]]));
    assert_eq!(place.rows(&stranger, "SELECT count(*) FROM tidemill.ledger").await, json!([[0]]));
    let listed = "SELECT table_schema, table_name FROM information_schema.tables \
                  WHERE table_schema <> 'information_schema' ORDER BY 1, 2";
    let system = ["jobs", "ledger", "notices", "pages", "rejects"].map(|name| json!(["tidemill", name]));
    let mut expected = vec![json!(["public", "departments"])];
    expected.extend(system.clone());
    assert_eq!(place.rows(&reader, listed).await, Value::Array(expected));
    assert_eq!(place.rows(&stranger, listed).await, Value::Array(system.to_vec()));
    let shown = place.rows(&reader, "SHOW TABLES").await.to_string();
    assert!(shown.contains("\"departments\"") && !shown.contains("hired_employees"), "{shown}");
    assert_eq!(place.rows(&reader, "SELECT count(*) FROM tidemill.pages").await, json!([[0]]));
    assert_eq!(place.rows(&reader, "SELECT count(*) FROM tidemill.rejects").await, json!([[0]]));
    let refused =
        "SELECT count(*), count(DISTINCT job_id) FROM tidemill.rejects WHERE pipeline = 'hired_employees'";
    assert_eq!(place.rows(&admin, refused).await, json!([[74, 1]]));
    let joined = "SELECT count(*) FROM tidemill.rejects r JOIN tidemill.jobs j USING (job_id) \
                  WHERE j.sender = 'admin' AND r.line > 0 AND r.code <> '' AND r.raw IS NOT NULL";
    assert_eq!(place.rows(&admin, joined).await, json!([[74]]));
    let recent = "SELECT status, records_written FROM tidemill.jobs \
                  WHERE pipeline = 'departments' AND finished_at > now() - INTERVAL '1 hour'";
    assert_eq!(place.rows(&reader, recent).await, json!([["success", 12]]));
}

#[tokio::test]
async fn the_command_line_asks_the_same_engine() {
    let place = Place::start(&[]).await;
    let count = "SELECT count(*) AS n FROM departments WHERE id > $1";
    let json = place.command(&["--json", "query", "--param", "3", count]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!([{ "n": 9 }]));
    let table = place.command(&["query", "SELECT 1 AS one"]).unwrap();
    assert_eq!(table, "+-----+\n| one |\n+-----+\n| 1   |\n+-----+\n");
    let csv = place.command(&["query", "--format", "csv", "SELECT 1 AS one WHERE false"]).unwrap();
    assert_eq!(csv, "one\n");
    let mine = place.command(&["query", "--csv", "SELECT count(*) FROM tidemill.jobs"]).unwrap();
    assert!(mine.ends_with("\n3\n"), "{mine}");
}

#[tokio::test]
async fn statements_are_counted_by_what_they_came_to() {
    let place = Place::start(&["query.timeout=2s"]).await;
    let admin = place.login("admin").await;
    for (sql, status) in [
        ("SELECT 1", 200),
        ("SELECT nothing", 400),
        ("SELECT sum(v) FROM generate_series(1, 100000000000) AS t(v)", 422),
    ] {
        let answer = place.ask(&admin, json!({ "sql": sql })).await;
        assert_eq!(answer.status(), status, "{sql}");
        answer.bytes().await.unwrap();
    }
    let page = place.client.get(format!("{}/metrics", place.url)).send().await.unwrap().text().await.unwrap();
    for (surface, ended) in [("http", 1), ("postgres", 0)] {
        for (outcome, count) in [("answered", ended), ("refused", ended), ("stopped", ended), ("left", 0)] {
            let line =
                format!("tidemill_statements_total{{outcome=\"{outcome}\",surface=\"{surface}\"}} {count}\n");
            assert!(page.contains(&line), "no {line} in {page}");
        }
    }
}
