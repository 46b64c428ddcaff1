//! Files to files on `tidemill dev`: a video goes up and an MP3 comes out, and what becomes of programs whose job is
//! cancelled or whose processor is killed.

use super::*;

/// Runs a program of ffmpeg, which these tests need.
fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{name} is needed here, install ffmpeg: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A video of three seconds with picture and tone.
fn video(folder: &Path) -> Vec<u8> {
    let path = folder.join("talk.mp4");
    let picture = ["-f", "lavfi", "-i", "testsrc=duration=3:size=160x120:rate=10"];
    let tone = ["-f", "lavfi", "-i", "sine=frequency=440:duration=3", "-shortest", path.to_str().unwrap()];
    tool("ffmpeg", &[&["-nostdin", "-loglevel", "error", "-y"][..], &picture, &tone].concat());
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn a_video_goes_up_and_an_mp3_comes_out() {
    let folder = TempDir::new().unwrap();
    let (data, pipelines) = (folder.path().join("data"), root("pipelines"));
    let dev = Dev::start(&data, &pipelines).await;
    let url = format!("{}/v1/pipelines/video_to_mp3/uploads?name=talk.mp4", dev.url);
    let landed =
        dev.client.post(url).bearer_auth(&dev.token).body(video(folder.path())).send().await.unwrap();
    let landed: Value = landed.error_for_status().unwrap().json().await.unwrap();
    let id = landed["job_id"].as_str().unwrap().to_owned();
    let job = dev.ended(&id).await;
    assert_eq!(job["status"], "success", "{job}");
    assert_eq!(job["artifacts"], serde_json::json!(["talk.mp3"]));

    let path = format!("/v1/jobs/{id}/files/talk.mp3");
    let answer = dev.get(&path).await;
    assert_eq!(answer.headers()["content-type"], "audio/mpeg");
    assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"talk.mp3\"");
    let sound = answer.bytes().await.unwrap();
    let part =
        dev.client.get(format!("{}{path}", dev.url)).bearer_auth(&dev.token).header("range", "bytes=100-199");
    let part = part.send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.bytes().await.unwrap()), (206, sound.slice(100..200)));

    let file = folder.path().join("talk.mp3");
    std::fs::write(&file, &sound).unwrap();
    let entries = "format=format_name,duration:stream=codec_name,codec_type";
    let probed =
        tool("ffprobe", &["-v", "error", "-of", "json", "-show_entries", entries, file.to_str().unwrap()]);
    let probed: Value = serde_json::from_str(&probed).unwrap();
    assert_eq!(probed["streams"], serde_json::json!([{ "codec_name": "mp3", "codec_type": "audio" }]));
    let seconds: f64 = probed["format"]["duration"].as_str().unwrap().parse().unwrap();
    assert!((2.5..3.5).contains(&seconds), "{probed}");

    let mail = mail_about(&id, &data.join("outbox")).await.replace("=\r\n", "").replace("=\n", "");
    assert!(mail.contains(&format!("{}{path}", dev.url)), "{mail}");
    let verified = json(&data, &pipelines, &["jobs", "verify", &id]);
    assert_eq!(verified["holds"], true, "{verified}");
    assert_eq!(verified["verification"]["artifacts"][0]["size_bytes"], sound.len());

    std::fs::write(data.join(format!("objects/jobs/{id}/1/files/talk.mp3")), "another sound").unwrap();
    let verified = tidemill(&data, &pipelines).args(["jobs", "verify", &id]).output().unwrap();
    let told = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(1), "{told}");
    assert!(told.contains("differs: the file `talk.mp3` is not the one that the report tells of"), "{told}");

    let wrong = dev.upload("video_to_mp3", "this is no video").await.unwrap();
    let wrong = dev.ended(&wrong).await;
    assert_eq!((&wrong["status"], &wrong["error"]["code"]), (&"failed".into(), &"program_failed".into()));
    assert_eq!(wrong["error"]["blame"], "sender");
    assert!(wrong["error"]["message"].as_str().unwrap().contains("Invalid data"), "{wrong}");
    assert_eq!(dev.stop(), Some(0));
}

/// What is left at least of the lease of a processor that was killed.
const LEASE_LEFT_MIN: Duration = Duration::from_secs(35);

/// A pipeline whose program sleeps so many seconds, a number that no other test uses.
fn sleeper(folder: &Path, seconds: u32) -> PathBuf {
    let pipelines = folder.join("pipelines");
    std::fs::create_dir(&pipelines).unwrap();
    let text = format!(
        "pipeline: sleeper\nformat: {{ file: {{}} }}\nsteps:\n  - program:\n      \
         run: [sh, -c, \"sleep {seconds} & sleep {seconds}; : {{input}} {{output}}\"]\n      output: x\n"
    );
    std::fs::write(pipelines.join("sleeper.yaml"), text).unwrap();
    pipelines
}

fn sleeps(seconds: u32) -> bool {
    let argument = seconds.to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.any(|line| line.split('\0').eq(["sleep", argument.as_str(), ""]))
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < WAIT_MAX, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The folders of programs; the SQL engine has one of its own beside them.
fn workplaces(spill: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(spill).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("tidemill-program-")).collect()
}

#[tokio::test]
async fn a_program_ends_with_its_job_and_with_its_processor() {
    let folder = TempDir::new().unwrap();
    let spill = folder.path().join("spill");
    std::fs::create_dir(&spill).unwrap();
    let seconds = 400_000 + std::process::id();
    let (data, pipelines) = (folder.path().join("data"), sleeper(folder.path(), seconds));
    std::fs::write(
        folder.path().join("tidemill.toml"),
        format!("[processor]\nspill_dir = '{}'\n", spill.display()),
    )
    .unwrap();

    let dev = Dev::start(&data, &pipelines).await;
    let cancelled = dev.upload("sleeper", "one").await.unwrap();
    until("the program runs", || sleeps(seconds)).await;
    let url = format!("{}/v1/jobs/{cancelled}/cancel", dev.url);
    dev.client.post(url).bearer_auth(&dev.token).send().await.unwrap().error_for_status().unwrap();
    until("the program of a cancelled job is gone", || !sleeps(seconds)).await;
    until("its folder is gone", || workplaces(&spill).is_empty()).await;

    let killed = dev.upload("sleeper", "two").await.unwrap();
    until("the program runs", || sleeps(seconds)).await;
    let left = workplaces(&spill);
    drop(dev); // SIGKILL
    until("the program of a killed processor is gone", || !sleeps(seconds)).await;
    assert!(!left.is_empty() && left.iter().all(|place| place.exists()), "{left:?}");

    let dev = Dev::start(&data, &pipelines).await;
    let started = Instant::now();
    until("the folder of the killed processor is gone", || !left.iter().any(|place| place.exists())).await;
    until("the job is worked on again", || sleeps(seconds)).await;
    // A minute's lease, renewed each 20 s, is not waited for.
    assert!(started.elapsed() < LEASE_LEFT_MIN, "it waited {:?} for a dead processor", started.elapsed());
    let job: Value = dev.get(&format!("/v1/jobs/{killed}")).await.json().await.unwrap();
    assert_eq!(job["status"], "processing", "{job}");
    drop(dev);
    until("nothing stays", || !sleeps(seconds)).await;
}
