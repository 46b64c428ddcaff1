//! Programs of a pipeline that behave badly, run by `tidemill run`: each ends in time, with words that say whose turn it is.

use super::*;

/// A pipeline of files with these steps, in a folder of its own.
fn pipeline(steps: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let text = format!("pipeline: p\nformat: {{ file: {{}} }}\nsteps:\n{steps}\n");
    std::fs::write(folder.path().join("p.yaml"), text).unwrap();
    std::fs::create_dir(folder.path().join("spill")).unwrap();
    folder
}

/// A step with a shell script: the way to write a misbehaving program on one line.
fn script(script: &str, limits: &str) -> String {
    let script = serde_json::to_string(&format!(": {{input}} {{output}}; {script}")).unwrap();
    format!("  - program: {{ run: [sh, -c, {script}], output: out.txt, limits: {{ {limits} }} }}")
}

fn run(folder: &TempDir, file: &str, status: i32) -> (String, String) {
    let arguments = ["run", "p.yaml", file, "--out", "made", "--set", "processor.spill_dir=spill"];
    let told = expect(status, folder.path(), &arguments);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("spill")).unwrap().collect();
    assert!(left.is_empty(), "the temporary folder stayed: {left:?}");
    told
}

/// Whether a process with this argument runs.
fn runs(argument: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| line.split('\0').any(|found| found == argument))
}

#[test]
fn a_program_that_misbehaves_ends_in_words_that_help() {
    for (what, steps, words) in [
        (
            "is missing",
            "  - program: { run: [no-such-program-here, \"{input}\", \"{output}\"], output: x }".to_owned(),
            vec!["the program `no-such-program-here` is missing: install it where processors run"],
        ),
        (
            "says why it refuses",
            script("echo first >&2; echo 'bad sector' >&2; exit 3", ""),
            vec!["`sh` failed with status 3: first\nbad sector"],
        ),
        ("writes too large a file", script("cat /dev/zero > {output}; true", "output_size: 1MiB"), vec![
            "`sh` was stopped: it wrote a file larger than its limit of 1048576 bytes",
        ]),
        (
            "wants too much memory",
            "  - program: { run: [dd, \"if={input}\", \"of={output}\", bs=1G], output: x, limits: { memory: 64MiB } }"
                .to_owned(),
            vec!["`dd` failed with status 1 (it may use 67108864 bytes of memory)"],
        ),
        ("makes nothing", script("true", ""), vec!["`sh` ended well, but made no output"]),
        ("makes nothing of an empty stdin", script("cat > {output}", ""), vec!["its output is empty"]),
        ("makes a link", script("ln -s /etc/passwd {output}", ""), vec!["its output is no file"]),
        (
            "floods stderr before it fails",
            script("yes flood | head -c 30000000 >&2; echo the end >&2; exit 1", ""),
            vec!["flood", "the end"],
        ),
    ] {
        let folder = pipeline(&steps);
        std::fs::write(folder.path().join("in.txt"), "hello").unwrap();
        let (_, err) = run(&folder, "in.txt", 1);
        for part in words {
            assert!(err.contains(part), "a program that {what}: no `{part}` in\n{err}");
        }
        assert!(err.len() < 6_000, "a program that {what}: {} bytes were told", err.len());
        assert!(!folder.path().join("made").exists());
    }
}

#[test]
fn doctor_tells_of_programs_that_are_missing_and_who_needs_them() {
    let folder = pipeline(
        "  - program: { run: [sort, \"{input}\", \"{output}\"], output: x }
  - program: { run: [no-such-one, \"{input}\", \"{output}\"], output: x }
  - program: { run: [nor-this, \"{input}\", \"{output}\"], output: x }",
    );
    let arguments = ["--data", "data", "--pipelines", ".", "doctor"];
    let (out, _) = expect(1, folder.path(), &arguments);
    let told: Vec<_> = out.lines().filter(|line| line.starts_with('✗')).collect();
    assert!(matches!(told[..], [line] if line.starts_with("✗ programs")), "{out}");
    for name in ["no-such-one", "nor-this"] {
        assert!(told[0].contains(&format!("p: the program `{name}` is missing: install it")), "{out}");
    }
    assert!(!told[0].contains("sort"), "{out}");
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children() {
    let seconds = format!("{}", 100_000 + std::process::id());
    let folder = pipeline(&script(&format!("sleep {seconds} & sleep {seconds}"), "time: 2s"));
    std::fs::write(folder.path().join("in.txt"), "hello").unwrap();
    let (_, err) = run(&folder, "in.txt", 1);
    assert!(err.contains("`sh` was stopped: it ran longer than its limit of 2 seconds"), "{err}");
    assert!(!runs(&seconds), "a child of the program still runs");
}

#[test]
fn a_program_that_ends_takes_its_children_with_it() {
    let seconds = format!("{}", 200_000 + std::process::id());
    let folder = pipeline(&script(&format!("sleep {seconds} & echo done > {{output}}"), ""));
    std::fs::write(folder.path().join("in.txt"), "hello").unwrap();
    run(&folder, "in.txt", 0);
    assert!(!runs(&seconds), "a child of the program still runs");
}

#[test]
fn a_program_dies_with_the_process_that_started_it() {
    let seconds = format!("{}", 300_000 + std::process::id());
    let folder = pipeline(&script(&format!("sleep {seconds}"), ""));
    std::fs::write(folder.path().join("in.txt"), "hello").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.current_dir(folder.path()).args(["run", "p.yaml", "in.txt", "--dry-run"]);
    let mut started = command.args(["--set", "processor.spill_dir=spill"]).spawn().unwrap();
    wait_until(|| runs(&seconds));
    started.kill().unwrap(); // SIGKILL: nothing is cleaned up by the process itself
    started.wait().unwrap();
    wait_until(|| !runs(&seconds));
}

fn wait_until(reached: impl Fn() -> bool) {
    for _ in 0..1_200 {
        if reached() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("not reached in two minutes");
}

#[test]
fn a_flood_on_stdout_and_stderr_is_harmless() {
    let flood = "yes out | head -c 30000000; yes err | head -c 30000000 >&2; cp {input} {output}";
    let folder = pipeline(&script(flood, ""));
    std::fs::write(folder.path().join("in.txt"), "hello").unwrap();
    let (_, err) = run(&folder, "in.txt", 0);
    assert!(err.contains("made out.txt, 5 bytes"), "{err}");
}

#[test]
fn a_program_sees_nothing_of_the_processors_environment() {
    let folder = pipeline(&script("env > {output}", ""));
    std::fs::write(folder.path().join("in.txt"), "hello").unwrap();
    run(&folder, "in.txt", 0);
    let made = std::fs::read_to_string(folder.path().join("made")).unwrap();
    let mut names: Vec<&str> = made.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // The shell itself adds PWD and others.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "PATH", "TMPDIR"], "{made}");
}

#[test]
fn a_file_name_is_never_read_by_a_shell_and_programs_follow_one_another() {
    let folder = pipeline(
        "  - program: { run: [sort, -o, \"{output}\", \"{input}\"], output: \"{stem}.sorted\" }
  - program: { run: [cp, \"{input}\", \"{output}\"], output: \"{stem}.txt\" }",
    );
    let name = "a b;$(touch pwned)`touch pwned`.txt";
    std::fs::write(folder.path().join(name), "2\n1\n").unwrap();
    let (_, err) = run(&folder, name, 0);
    assert!(err.contains("made a_b___touch_pwned__touch_pwned_.txt, 4 bytes"), "{err}");
    assert_eq!(std::fs::read_to_string(folder.path().join("made")).unwrap(), "1\n2\n");
    assert!(!folder.path().join("pwned").exists());
}

#[test]
fn an_empty_file_is_refused_before_a_program_starts() {
    let folder = pipeline(&script("echo ran >&2; exit 1", ""));
    std::fs::write(folder.path().join("in.txt"), "").unwrap();
    let (_, err) = run(&folder, "in.txt", 1);
    assert!(err.contains("it is empty") && !err.contains("ran"), "{err}");
}
