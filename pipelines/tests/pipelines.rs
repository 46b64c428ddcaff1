//! What a pipeline file means, and what is said of a file that means nothing. The refusals are data:
//! `tests/problems/<case>.yaml` and beside it every problem in `<case>.txt`; `UPDATE_EXPECTED=1` rewrites these.

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_pipelines::{
    CheckElse, ColumnType, Duplicates, FILE_BYTES_MAX, Format, Header, Mode, NoticeTarget, Pipeline, PipelineSet,
    Problem, SinkSpec, Source, Step, Then, Tolerance, json_schema,
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
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap()))
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
    let expected =
        ["airlines", "airports", "departments", "flights", "hired_employees", "jobs", "planes", "weather"];
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
    let Source::Upload(upload) = &pipeline.source;
    assert_eq!((upload.max_size_bytes, upload.duplicates), (2 << 30, Duplicates::First));
    let Format::Csv(csv) = &pipeline.format;
    assert_eq!((csv.header, csv.delimiter, csv.quote, csv.trim), (Header::None, b',', Some(b'"'), false));
    assert_eq!(csv.null, ["", "NULL"]);
    assert_eq!(pipeline.columns.len(), 5);
    assert_eq!(pipeline.columns[1].kind, ColumnType::Text { max_length: Some(200) });
    assert_eq!(pipeline.columns[2].kind, ColumnType::Timestamp { formats: vec![], zone: "UTC".into() });
    let reference = pipeline.columns[3].references.as_ref().unwrap();
    assert_eq!((reference.table.as_str(), reference.column.as_str()), ("departments", "id"));
    assert_eq!((pipeline.rejects.tolerate, pipeline.rejects.then), (Tolerance::Percent(10.0), Then::Continue));
    let Step::Check(check) = &pipeline.steps[0] else { panic!("{:?}", pipeline.steps) };
    assert_eq!((check.name.as_str(), check.otherwise), ("not_in_future", CheckElse::Reject));
    let SinkSpec::Table(table) = &pipeline.sinks[0];
    assert_eq!((table.name.as_str(), table.mode, table.key[0].as_str()), ("hired_employees", Mode::Upsert, "id"));
    let NoticeTarget::Email { to } = &pipeline.notify[0].target else { panic!("{:?}", pipeline.notify) };
    assert_eq!(to, &["{{ sender }}"]);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let text = "pipeline: p\ncolumns: [{name: a, type: bool}]\nsinks: [{table: {name: t}}]\n";
    let pipeline = Pipeline::parse("p.yaml", text).unwrap();
    let Source::Upload(upload) = &pipeline.source;
    assert_eq!((upload.max_size_bytes, upload.duplicates, upload.allow_empty), (1 << 30, Duplicates::First, false));
    let Format::Csv(csv) = &pipeline.format;
    assert_eq!((csv.header, csv.delimiter, csv.quote), (Header::Names, b',', Some(b'"')));
    assert_eq!(csv.null, [""]);
    assert_eq!((pipeline.rejects.tolerate, pipeline.rejects.then), (Tolerance::Percent(10.0), Then::Abort));
    assert!(pipeline.columns[0].required && pipeline.steps.is_empty() && pipeline.notify.is_empty());
    let SinkSpec::Table(table) = &pipeline.sinks[0];
    assert_eq!((table.mode, table.key.len()), (Mode::Append, 0));
}

#[test]
fn texts_of_the_data_stay_as_written_where_yaml_sees_something_else() {
    let text = "pipeline: p\nformat: {csv: {null: ['', NULL, ~, 0.0, yes], delimiter: tab, quote: none}}\n\
                columns: [{name: a, type: bool, true: [1, on], false: [0, no]}]\nsinks: [{table: {name: t}}]\n";
    let pipeline = Pipeline::parse("p.yaml", text).unwrap();
    let Format::Csv(csv) = &pipeline.format;
    assert_eq!(csv.null, ["", "NULL", "~", "0.0", "yes"]);
    assert_eq!((csv.delimiter, csv.quote), (b'\t', None));
    let ColumnType::Bool { true_texts, false_texts } = &pipeline.columns[0].kind else { panic!() };
    assert_eq!((true_texts.join(" "), false_texts.join(" ")), ("1 on".into(), "0 no".into()));
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
    let found = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    let mut failures = Vec::new();
    compare(&here().join("schema.json"), &found, &mut failures);
    assert!(failures.is_empty(), "run with UPDATE_EXPECTED=1 and read the difference\n{}", failures.join("\n"));
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

/// A small generator of numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Changes a text a little: takes away, doubles, or puts in something that YAML or a field cares about.
fn mutated(text: &str, numbers: &mut Numbers) -> String {
    const PIECES: [&str; 24] = [
        "{", "}", "[", "]", ":", "- ", "\n", "\t", "\"", "'", "&a ", "*a", "!!str ", "|\n", "%", "{{", "é", "\u{0}",
        "99999999999999999999", "-1", "null", "? ", "---\n", "#",
    ];
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(chars.len() + 1);
        match numbers.below(3) {
            0 => drop(chars.drain(at..(at + numbers.below(20)).min(chars.len()))),
            1 => {
                let end = (at + numbers.below(60)).min(chars.len());
                let piece: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, piece);
            }
            _ => drop(chars.splice(at..at, PIECES[numbers.below(PIECES.len())].chars())),
        }
    }
    chars.into_iter().collect()
}

#[test]
fn no_text_makes_the_reader_panic_and_every_refusal_says_why() {
    let mut numbers = Numbers(20_130_101);
    let files = shipped();
    let (mut good, mut bad) = (0, 0);
    for round in 0..4_000 {
        let (file, text) = &files[round % files.len()];
        let text = mutated(text, &mut numbers);
        match Pipeline::parse(file, &text) {
            Ok(_) => good += 1,
            Err(problems) => {
                bad += 1;
                assert!(!problems.is_empty());
                let lines = text.lines().count() as u64 + 1;
                for problem in problems {
                    assert!(problem.line <= lines && !problem.message.is_empty(), "{problem}\n{text}");
                    assert_ne!(problem.message, "the file can't be understood", "{text}");
                }
            }
        }
    }
    assert!(good > 100 && bad > 1_000, "the mutations reach both ends: {good} good, {bad} bad");
}
