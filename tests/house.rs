//! The house rules as tests: which crate may lean on which, what each room must not know of, and how its files begin.
//! They read the manifests and sources of the workspace as text, so a rule that is broken names the file to mend.
//! ARCHITECTURE.md tells why the rooms stand in this order.

#![allow(clippy::panic, clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// A crate of the workspace, and the libraries it must not name: what its room knows nothing of.
struct Room {
    name: &'static str,
    forbidden: &'static [&'static [&'static str]],
}

const RUNTIME: &[&str] = &["tokio", "tokio-util", "futures", "async-trait"];
const HTTP_SERVER: &[&str] = &["axum", "tower", "tower-http", "hyper", "utoipa"];
const HTTP_CLIENT: &[&str] = &["reqwest"];
const BROKER: &[&str] = &["rdkafka"];
const DATABASE: &[&str] = &["sqlx", "mysql_async"];
const ARROW: &[&str] = &["arrow"];
const SQL_ENGINE: &[&str] = &["datafusion"];
const OBJECTS: &[&str] = &["object_store"];
const MAIL: &[&str] = &["lettre"];

/// The rooms from the ground up: a crate depends only on crates that stand before it.
const ROOMS: &[Room] = &[
    Room {
        name: "tidemill-pipelines",
        forbidden: &[RUNTIME, HTTP_SERVER, HTTP_CLIENT, BROKER, DATABASE, ARROW, SQL_ENGINE, OBJECTS, MAIL],
    },
    Room { name: "tidemill-jobs", forbidden: &[HTTP_SERVER, HTTP_CLIENT, ARROW, SQL_ENGINE] },
    Room { name: "tidemill-sinks", forbidden: &[HTTP_SERVER, BROKER, SQL_ENGINE] },
    Room { name: "tidemill-ingest", forbidden: &[HTTP_SERVER, BROKER, ARROW, SQL_ENGINE] },
    Room { name: "tidemill-processor", forbidden: &[HTTP_SERVER, HTTP_CLIENT, BROKER, MAIL] },
    Room { name: "tidemill-query", forbidden: &[HTTP_SERVER, HTTP_CLIENT, BROKER, MAIL] },
    Room { name: "tidemill-gateway", forbidden: &[ARROW, SQL_ENGINE, BROKER, MAIL] },
    Room { name: "tidemill", forbidden: &[] },
    Room { name: "tidemill-benches", forbidden: &[] },
];

/// Sinks write what they are given: that jobs and brokers exist is not their business.
const STRANGERS: &[(&str, &str)] = &[("tidemill-sinks", "tidemill-jobs")];

/// A file longer than this holds two ideas.
const SOURCE_LINES_MAX: usize = 600;

/// A crate as its manifest tells it.
struct Crate {
    folder: PathBuf,
    name: String,
    dependencies: Vec<String>,
    inherits_lints: bool,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read `{}`: {error}", path.display()))
}

fn manifest(folder: &Path) -> Table {
    let path = folder.join("Cargo.toml");
    read(&path).parse().unwrap_or_else(|error| panic!("failed to parse `{}`: {error}", path.display()))
}

/// All crates of the workspace, the root package included.
fn crates() -> Vec<Crate> {
    let root = root();
    let members =
        manifest(&root)["workspace"]["members"].as_array().expect("workspace.members is a list").clone();
    let folders = members.iter().map(|member| root.join(member.as_str().expect("a member is a path")));
    folders.chain([root.clone()]).map(|folder| parse(folder.clone(), &manifest(&folder))).collect()
}

fn parse(folder: PathBuf, manifest: &Table) -> Crate {
    Crate {
        folder,
        name: manifest["package"]["name"].as_str().expect("package.name is a text").to_owned(),
        dependencies: dependencies(manifest),
        inherits_lints: manifest.get("lints")
            == Some(&Value::Table([("workspace".to_owned(), true.into())].into_iter().collect())),
    }
}

/// The packages that a manifest names, of every kind and for every platform, by their own name where they are renamed.
fn dependencies(manifest: &Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let mut tables = vec![manifest];
    tables.extend(platforms.filter_map(Value::as_table));
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let lists = tables.iter().flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()));
    lists.flat_map(|list| list.iter().map(|(name, value)| package_name(name, value))).collect()
}

fn package_name(name: &str, value: &Value) -> String {
    value.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()
}

/// What is wrong with a crate's dependencies, one line each.
fn layering_problems(krate: &Crate) -> Vec<String> {
    let Some(height) = ROOMS.iter().position(|room| room.name == krate.name) else {
        return vec![format!(
            "{} has no place in ROOMS of tests/house.rs: say what it may lean on",
            krate.name
        )];
    };
    let mut problems = Vec::new();
    for dependency in &krate.dependencies {
        if let Some(other) = ROOMS.iter().position(|room| room.name == dependency)
            && other >= height
        {
            problems.push(format!("{} must not depend on {dependency}, which stands above it", krate.name));
        }
        let forbidden = ROOMS[height].forbidden.iter().any(|names| names.contains(&dependency.as_str()))
            || STRANGERS.contains(&(krate.name.as_str(), dependency.as_str()));
        if forbidden {
            problems.push(format!("{} must know nothing of {dependency}", krate.name));
        }
    }
    problems
}

/// The Rust files under a folder, those of nested crates and of build output left out.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return files;
    };
    for path in entries.map(|entry| entry.expect("a folder's entry can be read").path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The Rust files of every crate that lie in one of these of its folders.
fn rust_files_in(folders: &[&str]) -> Vec<PathBuf> {
    let places =
        crates().into_iter().flat_map(|krate| folders.iter().map(move |folder| krate.folder.join(folder)));
    places.flat_map(|place| rust_files(&place)).collect()
}

/// The files for which a rule says what is wrong, as lines to print.
fn broken(files: &[PathBuf], rule: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    assert!(!files.is_empty(), "no source file was found: the rule would hold of nothing");
    let problem = |path: &PathBuf| rule(path, &read(path)).map(|what| format!("{}: {what}", path.display()));
    files.iter().filter_map(problem).collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} rule(s) broken:\n{}", problems.len(), problems.join("\n"));
}

fn opens_with_a_header(text: &str) -> bool {
    text.starts_with("//!")
}

fn has_a_skipped_test(text: &str) -> bool {
    text.lines().any(|line| line.trim_start().starts_with("#[ignore"))
}

fn example(manifest: &str) -> Crate {
    parse(PathBuf::new(), &manifest.parse().expect("the example parses"))
}

#[test]
fn dependencies_point_only_to_rooms_below() {
    let problems: Vec<_> = crates().iter().flat_map(layering_problems).collect();
    assert_none(&problems);
}

#[test]
fn every_room_of_the_table_is_in_the_workspace() {
    let names: Vec<_> = crates().into_iter().map(|krate| krate.name).collect();
    for room in ROOMS {
        assert!(
            names.iter().any(|name| name == room.name),
            "{} is not a crate of the workspace: {names:?}",
            room.name
        );
    }
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    for krate in crates() {
        assert!(krate.inherits_lints, "{} lacks `[lints] workspace = true`", krate.name);
    }
}

#[test]
fn every_file_opens_by_telling_what_it_is() {
    let files = rust_files_in(&["src", "tests", "benches", "examples"]);
    assert_none(&broken(&files, |_, text| {
        (!opens_with_a_header(text)).then(|| "does not open with `//!`".to_owned())
    }));
}

#[test]
fn no_source_file_grows_past_its_bound() {
    assert_none(&broken(&rust_files_in(&["src"]), |_, text| {
        let lines = text.lines().count();
        (lines > SOURCE_LINES_MAX).then(|| format!("{lines} lines, more than {SOURCE_LINES_MAX}"))
    }));
}

#[test]
fn a_module_lies_beside_its_folder_not_in_it() {
    assert_none(&broken(&rust_files_in(&["src"]), |path, _| {
        path.ends_with("mod.rs").then(|| "is to be called after its module, beside the folder".to_owned())
    }));
}

#[test]
fn no_test_is_skipped() {
    assert_none(&broken(&rust_files_in(&["src", "tests"]), |_, text| {
        has_a_skipped_test(text).then(|| "skips a test".to_owned())
    }));
}

#[test]
fn a_dependency_on_a_room_above_is_found() {
    let krate =
        example("[package]\nname = 'tidemill-jobs'\n[dependencies]\ntidemill-gateway.workspace = true");
    assert_eq!(
        layering_problems(&krate),
        ["tidemill-jobs must not depend on tidemill-gateway, which stands above it"]
    );
}

#[test]
fn a_dependency_for_tests_or_one_platform_counts_too() {
    let krate = example(
        "[package]\nname = 'tidemill-jobs'\n[dev-dependencies]\naxum = '1'\n[target.'cfg(unix)'.dependencies]\narrow = '1'",
    );
    let expected = ["tidemill-jobs must know nothing of axum", "tidemill-jobs must know nothing of arrow"];
    assert_eq!(layering_problems(&krate), expected);
}

#[test]
fn a_renamed_dependency_is_seen_through() {
    let krate = example(
        "[package]\nname = 'tidemill-pipelines'\n[dependencies]\nrt = { package = 'tokio', version = '1' }",
    );
    assert_eq!(layering_problems(&krate), ["tidemill-pipelines must know nothing of tokio"]);
}

#[test]
fn sinks_know_nothing_of_jobs_though_jobs_stand_below() {
    let krate = example("[package]\nname = 'tidemill-sinks'\n[dependencies]\ntidemill-jobs.workspace = true");
    assert_eq!(layering_problems(&krate), ["tidemill-sinks must know nothing of tidemill-jobs"]);
}

#[test]
fn a_crate_without_a_place_is_found() {
    let problems = layering_problems(&example("[package]\nname = 'tidemill-common'"));
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn a_missing_header_and_a_skipped_test_are_found() {
    assert!(opens_with_a_header("//! What it is.\n"));
    assert!(!opens_with_a_header("// A plain comment.\n"));
    assert!(has_a_skipped_test("    #[ignore = \"slow\"]\n    fn f() {}"));
    assert!(!has_a_skipped_test("fn f() {} // not to be ignored"));
}
