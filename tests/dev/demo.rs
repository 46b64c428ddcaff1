//! The demo that the README begins with runs to its end, with the binary that is tested here.

use std::process::Command;

/// What its last chapters say when they worked; ffmpeg is among what the tests install.
const SAID: [&str; 6] = [
    "sensor_readings: 200 pages",
    "mean_temperature_c",
    "codec_name=mp3",
    "`99` is not in `departments.id`",
    "Subject: hired_employees",
    "To keep one running: make dev",
];

#[test]
fn the_demo_shows_everything_and_ends_by_itself() {
    let ran = Command::new("examples/demo.sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("DEMO_BINARY", env!("CARGO_BIN_EXE_tidemill"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    for words in SAID {
        assert!(said.contains(words), "the demo does not say `{words}`:\n{said}");
    }
}
