//! What a pipeline file means, and what is said of a file that means nothing. The refusals are data:
//! `tests/problems/<case>.yaml` and beside it every problem in `<case>.txt`; `UPDATE_EXPECTED=1` rewrites these.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_pipelines::{
    CheckElse, ColumnType, Duplicates, FILE_BYTES_MAX, Format, Header, Mode, NoticeTarget, Pipeline,
    PipelineSet, Problem, SinkSpec, Source, Step, Then, Tolerance, json_schema,
};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The YAML files of a folder as name and text, sorted.
fn yaml_files(folder: &Path) -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    paths
        .iter()
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn shipped() -> Vec<(String, String)> {
    yaml_files(here())
}

fn listing(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn compare(expected: &Path, found: &str, failures: &mut Vec<String>) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(expected, found).unwrap();
    }
    let wanted = fs::read_to_string(expected).unwrap_or_default();
    if wanted != found {
        failures.push(format!("{}\n--- expected\n{wanted}--- found\n{found}", expected.display()));
    }
}

#[test]
fn every_problem_of_a_file_is_told_at_its_place_with_what_to_write() {
    let folder = here().join("tests/problems");
    let mut failures = Vec::new();
    let cases = yaml_files(&folder);
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    for (file, text) in cases {
        let found = match Pipeline::parse(&file, &text) {
            Ok(_) => "no problem\n".to_owned(),
            Err(problems) => listing(&problems),
        };
        compare(&folder.join(&file).with_extension("txt"), &found, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn problems_between_the_files_of_a_folder_are_told_together() {
    let folder = here().join("tests/sets");
    let mut failures = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let set = entry.unwrap().path();
        let found = match PipelineSet::from_files(yaml_files(&set)) {
            Ok(_) => "no problem\n".to_owned(),
            Err(problems) => listing(&problems),
        };
        compare(&set.join("expected.txt"), &found, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_shipped_pipelines_make_a_set() {
    let set = PipelineSet::from_files(shipped()).unwrap_or_else(|problems| panic!("{}", listing(&problems)));
    let names: Vec<&str> = set.iter().map(|pipeline| pipeline.name.as_str()).collect();
    let expected = [
        "airlines",
        "airports",
        "departments",
        "flights",
        "flights_lake",
        "hired_employees",
        "jobs",
        "planes",
        "sensor_readings",
        "video_to_mp3",
        "weather",
    ];
    assert_eq!(names, expected);
    let departments = set.writer_of(&"departments".parse().unwrap()).unwrap();
    assert_eq!(departments.name.as_str(), "departments");
    assert_eq!(set.nearest("flight").unwrap().as_str(), "flights");
    assert!(set.get(&"nobody".parse().unwrap()).is_none());
}

#[test]
fn each_shipped_pipeline_has_a_test_case() {
    for (file, _) in shipped() {
        let cases = here().join("cases").join(file.trim_end_matches(".yaml"));
        let any = fs::read_dir(&cases).unwrap_or_else(|error| panic!("{}: {error}", cases.display())).count();
        assert!(any > 0, "{}", cases.display());
    }
}

#[test]
fn a_full_file_means_what_it_says() {
    let text = fs::read_to_string(here().join("hired_employees.yaml")).unwrap();
    let pipeline = Pipeline::parse("hired_employees.yaml", &text).unwrap();
    assert_eq!(pipeline.text, text);
    let Source::Upload(upload) = &pipeline.source else { panic!("{:?}", pipeline.source) };
    assert_eq!((upload.max_size_bytes, upload.duplicates), (2 << 30, Duplicates::First));
    let Format::Csv(csv) = &pipeline.format else { panic!("{:?}", pipeline.format) };
    assert_eq!((csv.header, csv.delimiter, csv.quote, csv.trim), (Header::None, b',', Some(b'"'), false));
    assert_eq!(csv.null, ["", "NULL"]);
    assert_eq!(pipeline.columns.len(), 5);
    assert_eq!(pipeline.columns[1].kind, ColumnType::Text { max_length: Some(200) });
    assert_eq!(pipeline.columns[2].kind, ColumnType::Timestamp { formats: vec![], zone: "UTC".into() });
    let reference = pipeline.columns[3].references.as_ref().unwrap();
    assert_eq!((reference.table.as_str(), reference.column.as_str()), ("departments", "id"));
    assert_eq!(
        (pipeline.rejects.tolerate, pipeline.rejects.then),
        (Tolerance::Percent(10.0), Then::Continue)
    );
    let Step::Check(check) = &pipeline.steps[0] else { panic!("{:?}", pipeline.steps) };
    assert_eq!((check.name.as_str(), check.otherwise), ("not_in_future", CheckElse::Reject));
    let SinkSpec::Table(table) = &pipeline.sinks[0] else { panic!("{:?}", pipeline.sinks) };
    assert_eq!(
        (table.name.as_str(), table.mode, table.key[0].as_str()),
        ("hired_employees", Mode::Upsert, "id")
    );
    let NoticeTarget::Email { to } = &pipeline.notify[0].target else { panic!("{:?}", pipeline.notify) };
    assert_eq!(to, &["{{ sender }}"]);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let text = "pipeline: p\ncolumns: [{name: a, type: bool}]\nsinks: [{table: {name: t}}]\n";
    let pipeline = Pipeline::parse("p.yaml", text).unwrap();
    let Source::Upload(upload) = &pipeline.source else { panic!("{:?}", pipeline.source) };
    assert_eq!(
        (upload.max_size_bytes, upload.duplicates, upload.allow_empty),
        (1 << 30, Duplicates::First, false)
    );
    let Format::Csv(csv) = &pipeline.format else { panic!("{:?}", pipeline.format) };
    assert_eq!((csv.header, csv.delimiter, csv.quote), (Header::Names, b',', Some(b'"')));
    assert_eq!(csv.null, [""]);
    assert_eq!((pipeline.rejects.tolerate, pipeline.rejects.then), (Tolerance::Percent(10.0), Then::Abort));
    assert!(pipeline.columns[0].required && pipeline.steps.is_empty() && pipeline.notify.is_empty());
    let SinkSpec::Table(table) = &pipeline.sinks[0] else { panic!("{:?}", pipeline.sinks) };
    assert_eq!((table.mode, table.key.len()), (Mode::Append, 0));
}

#[test]
fn json_and_files_mean_what_they_say() {
    let text = "pipeline: p\nformat: {json: {records: '$.items[*]'}}\ncolumns: [{name: a, type: text, path: '$.b.c'}]\n\
                sinks: [{table: {name: t}}, {file: {name: report.csv}}]\n";
    let pipeline = Pipeline::parse("p.yaml", text).unwrap();
    let Format::Json(json) = &pipeline.format else { panic!("{:?}", pipeline.format) };
    assert_eq!(json.records.as_ref().unwrap().as_str(), "$.items[*]");
    assert_eq!(pipeline.columns[0].path.as_ref().unwrap().steps().len(), 2);
    assert_eq!(pipeline.tables().count(), 1);
    assert_eq!(pipeline.files().map(|file| file.as_str()).collect::<Vec<_>>(), ["report.csv"]);
    let lines = text.replace("{json: {records: '$.items[*]'}}", "{json_lines: {}}");
    assert_eq!(Pipeline::parse("p.yaml", &lines).unwrap().format, Format::JsonLines);
}

#[test]
fn texts_of_the_data_stay_as_written_where_yaml_sees_something_else() {
    let text = "pipeline: p\nformat: {csv: {null: ['', NULL, ~, 0.0, yes], delimiter: tab, quote: none}}\n\
                columns: [{name: a, type: bool, true: [1, on], false: [0, no]}]\nsinks: [{table: {name: t}}]\n";
    let pipeline = Pipeline::parse("p.yaml", text).unwrap();
    let Format::Csv(csv) = &pipeline.format else { panic!("{:?}", pipeline.format) };
    assert_eq!(csv.null, ["", "NULL", "~", "0.0", "yes"]);
    assert_eq!((csv.delimiter, csv.quote), (b'\t', None));
    let ColumnType::Bool { true_texts, false_texts } = &pipeline.columns[0].kind else { panic!() };
    assert_eq!((true_texts.join(" "), false_texts.join(" ")), ("1 on".into(), "0 no".into()));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_borne() {
    let text =
        "\u{feff}pipeline: p\r\ncolumns:\r\n  - { name: a, type: txt }\r\nsinks: [{table: {name: t}}]\r\n";
    let problems = Pipeline::parse("p.yaml", text).unwrap_err();
    assert_eq!((problems.len(), problems[0].line, problems[0].column), (1, 3, 22), "{}", listing(&problems));
    assert!(Pipeline::parse("p.yaml", &text.replace("txt", "text")).is_ok());
}

#[test]
fn a_refusal_never_repeats_a_password() {
    let text = fs::read_to_string(here().join("tests/problems/notices.yaml")).unwrap();
    let problems = listing(&Pipeline::parse("notices.yaml", &text).unwrap_err());
    assert!(text.contains("hunter2") && text.contains("s3cr3t"));
    assert!(!problems.contains("hunter2") && !problems.contains("s3cr3t"), "{problems}");
}

#[test]
fn a_part_of_a_file_is_found_by_its_path() {
    let text = fs::read_to_string(here().join("hired_employees.yaml")).unwrap();
    let pipeline = Pipeline::parse("hired_employees.yaml", &text).unwrap();
    let line_of = |wanted: &str| text.lines().position(|line| line.contains(wanted)).unwrap() as u64 + 1;
    assert_eq!(pipeline.locate("steps[1].sql"), (line_of("- sql:"), 10));
    assert_eq!(pipeline.locate("sinks[0].table.key[0]").0, line_of("- table:"));
    let around = pipeline.locate("steps[1]");
    assert_eq!(pipeline.locate("steps[1].nothing[7].here"), around);
}

#[test]
fn the_version_changes_with_the_text_alone() {
    let text = "pipeline: p\ncolumns: [{name: a, type: text}]\nsinks: [{table: {name: t}}]\n";
    let first = Pipeline::parse("p.yaml", text).unwrap();
    let other_name = Pipeline::parse("elsewhere/p.yaml", text).unwrap();
    let changed = Pipeline::parse("p.yaml", &format!("{text}# a word\n")).unwrap();
    assert_eq!(first.version.len(), 16);
    assert_eq!(first.version, other_name.version);
    assert_ne!(first.version, changed.version);
}

#[test]
fn a_file_that_is_too_large_or_too_deep_is_refused_unread() {
    let large = "x".repeat(FILE_BYTES_MAX + 1);
    let problems = Pipeline::parse("p.yaml", &large).unwrap_err();
    assert!(problems[0].message.contains("more than the 1048576 allowed"), "{}", problems[0]);
    for deep in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000)] {
        let problems = Pipeline::parse("p.yaml", &deep).unwrap_err();
        assert_eq!(problems.len(), 1, "{}", listing(&problems));
    }
}

#[test]
fn the_schema_is_the_one_that_is_published() {
    let path = here().join("schema.json");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&json_schema()).unwrap() + "\n").unwrap();
    }
    let published: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(published, json_schema(), "run with UPDATE_EXPECTED=1 and read the difference");
}

#[test]
fn every_field_of_the_schema_is_described() {
    let schema = json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let definitions = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    for definition in definitions {
        for (field, shape) in definition["properties"].as_object().into_iter().flatten() {
            let described = shape["description"].as_str().is_some_and(|text| text.len() > 10);
            assert!(described, "`{field}` in {definition}");
        }
    }
}

#[test]
fn sizes_are_read_in_their_units() {
    let cases: [(&str, u64); 7] = [
        ("1", 1),
        ("10B", 10),
        ("3 KiB", 3 << 10),
        ("500MB", 500_000_000),
        ("2GiB", 2 << 30),
        ("1GB", 1_000_000_000),
        ("1TiB", 1 << 40),
    ];
    for (written, bytes) in cases {
        let text = format!(
            "pipeline: p\nsource: {{upload: {{max_size: {written}}}}}\n\
             columns: [{{name: a, type: text}}]\nsinks: [{{table: {{name: t}}}}]\n"
        );
        let pipeline =
            Pipeline::parse("p.yaml", &text).unwrap_or_else(|problems| panic!("{}", listing(&problems)));
        let Source::Upload(upload) = pipeline.source else { panic!("{written}") };
        assert_eq!(upload.max_size_bytes, bytes, "{written}");
    }
}

#[test]
fn of_very_many_problems_the_first_are_told_and_the_rest_counted() {
    let columns: String = (0..500).map(|n| format!("  - {{ name: c{n}, type: nothing }}\n")).collect();
    let text = format!("pipeline: p\ncolumns:\n{columns}sinks: [{{table: {{name: t}}}}]\n");
    let problems = Pipeline::parse("p.yaml", &text).unwrap_err();
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].message, "400 more problems are not told");
}

#[test]
fn jobs_run_in_order_where_the_last_one_wins_and_delayed_ones_always() {
    let table = [
        // order, mode, an upload takes turns, a delayed job does
        ("", "append", false, true),
        ("", "upsert, key: [id]", true, true),
        ("", "replace", true, true),
        ("order: any\n", "upsert, key: [id]", false, false),
        ("order: arrival\n", "append", true, true),
    ];
    for (order, mode, upload, delayed) in table {
        let text = format!(
            "pipeline: a\n{order}columns: [{{ name: id, type: int64 }}]\nsinks: [{{ table: {{ name: a, mode: {mode} }} }}]\n"
        );
        let pipeline = Pipeline::parse("a.yaml", &text).unwrap();
        assert_eq!((pipeline.takes_turns(false), pipeline.takes_turns(true)), (upload, delayed), "{text}");
    }
}
