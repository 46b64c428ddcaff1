//! Pipeline files changed at random, the same in every run: none may make the reader panic, and what is
//! refused is refused with a reason.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use tidemill_pipelines::Pipeline;

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
        "{",
        "}",
        "[",
        "]",
        ":",
        "- ",
        "\n",
        "\t",
        "\"",
        "'",
        "&a ",
        "*a",
        "!!str ",
        "|\n",
        "%",
        "{{",
        "é",
        "\u{0}",
        "99999999999999999999",
        "-1",
        "null",
        "? ",
        "---\n",
        "#",
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

/// The shipped pipelines and all files with problems, so that changes reach every branch.
fn seeds() -> Vec<(String, String)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [here.to_path_buf(), here.join("tests/problems")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    assert!(paths.len() > 20);
    paths.iter().map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn no_text_makes_the_reader_panic_and_every_refusal_says_why() {
    let mut numbers = Numbers(20_130_101);
    let files = seeds();
    let (mut good, mut bad) = (0, 0);
    for round in 0..10_000 {
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
