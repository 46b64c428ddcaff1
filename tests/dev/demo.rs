//! The demo that the README begins with runs to its end, with the binary that is tested here, also where ffmpeg is missing.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// What its chapters say when they worked.
const SAID: [&str; 6] = [
    "sensor_readings: 200 pages",
    "sensor_readings: success",
    "mean_temperature_c",
    "`99` is not in `departments.id`",
    "Subject: hired_employees",
    "To keep one running: make dev",
];

/// What the demo says, with the programs of this path.
fn demo(path: OsString) -> String {
    let ran = Command::new("examples/demo.sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("DEMO_BINARY", env!("CARGO_BIN_EXE_tidemill"))
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    for words in SAID {
        assert!(said.contains(words), "the demo does not say `{words}`:\n{said}");
    }
    said
}

/// Links to all programs of the path but these.
fn without(programs: [&str; 2], links: &Path) {
    let path = std::env::var_os("PATH").unwrap();
    let folders = std::env::split_paths(&path).filter_map(|folder| std::fs::read_dir(folder).ok());
    for program in folders.flatten().flatten() {
        let link = links.join(program.file_name());
        if !programs.iter().any(|hidden| program.file_name() == *hidden) && !link.exists() {
            // The first of two with one name counts, as in the path itself.
            std::os::unix::fs::symlink(program.path(), link).ok();
        }
    }
}

#[test]
fn the_demo_shows_everything_and_ends_by_itself() {
    let said = demo(std::env::var_os("PATH").unwrap());
    // ffmpeg is among what the tests install.
    assert!(said.contains("codec_name=mp3"), "{said}");
}

#[test]
fn the_demo_ends_well_where_ffmpeg_is_missing() {
    let links = tempfile::TempDir::new().unwrap();
    without(["ffmpeg", "ffprobe"], links.path());
    let said = demo(links.path().into());
    assert!(said.contains("ffmpeg or ffprobe is not installed"), "{said}");
}
