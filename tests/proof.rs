//! Proof: every failpoint is walked, and the checker that looks at what is left finds each kind of damage.
//!
//! The programs are Python, because they must know nothing of this code: `tests/checker` reads databases and objects only,
//! `tests/torture/walk.py` starts the binary and sends files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidemill_jobs::failpoints;

/// Sources that may have failpoints.
const SOURCES: [&str; 5] = ["jobs/src", "sinks/src", "ingest/src", "processor/src", "src"];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program of the tests on the binary; its output is the message of a failure.
fn python(program: &str, arguments: &[&str]) {
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(root(program)).arg(env!("CARGO_BIN_EXE_tidemill"));
    let output = command.args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}:\n{out}\n{err}");
    println!("{out}");
}

/// The names of the failpoints below a folder, as they stand in the sources.
fn names_in(folder: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in(&path, names);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = code.collect::<Vec<_>>().join("\n").replace("fail_point!(", "failpoint!(");
            let calls =
                code.split("failpoint!(").skip(1).filter_map(|call| call.trim_start().strip_prefix('"'));
            names.extend(calls.filter_map(|call| call.split('"').next()).map(str::to_owned));
        }
    }
}

#[test]
fn the_list_of_failpoints_is_that_of_the_sources() {
    let mut names = Vec::new();
    SOURCES.iter().for_each(|folder| names_in(&root(folder), &mut names));
    let found: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let listed: BTreeSet<&str> = failpoints::ALL.iter().copied().collect();
    assert_eq!(found, listed, "jobs/src/failpoints.rs lists what the sources have");
}

#[test]
fn the_checker_finds_each_kind_of_damage() {
    python("tests/checker/test_check.py", &[]);
}

#[test]
fn nothing_is_lost_or_doubled_at_any_failpoint() {
    python("tests/torture/walk.py", failpoints::ALL);
}
