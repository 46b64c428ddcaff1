//! A collection whose process is killed half-way: the next one ends it, each report once.

use std::collections::BTreeSet;

use futures::StreamExt;

use super::*;

/// Each job makes a few files, so that copying all of them takes a while.
const PARTS: &str = "\
pipeline: parts
columns: [{ name: id, type: int64 }]
sinks: [{ file: { name: a.csv } }, { file: { name: b.csv } }, { file: { name: c.csv } }, { file: { name: d.csv } }]
";
const FILES: [&str; 5] = ["a.csv", "b.csv", "c.csv", "d.csv", "report.json"];
const JOBS: usize = 300;

/// Names in a folder; none when it is not there.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Starts a collection and kills it once so many jobs are copied; false when it was quicker.
fn killed_at(copied: usize, data: &Path, pipelines: &Path, to: &Path) -> bool {
    let mut collect =
        tidemill(data, pipelines).args(["collect", "parts"]).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let in_folder = || names(to).iter().map(|slot| names(&to.join(slot)).len()).sum::<usize>();
    while in_folder() < copied && collect.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < WAIT_MAX, "{} of {copied} copied", in_folder());
    }
    collect.kill().unwrap();
    collect.wait().unwrap().code().is_none()
}

fn jobs(data: &Path, pipelines: &Path, status: &str) -> BTreeSet<String> {
    let listed = json(data, pipelines, &["jobs", "list", "--status", status, "--limit", "1000"]);
    let jobs = listed["jobs"].as_array().unwrap();
    jobs.iter().map(|job| job["job_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_collection_that_is_killed_half_way_is_ended_with_each_report_once() {
    let folder = TempDir::new().unwrap();
    let (data, pipelines) = (folder.path().join("data"), folder.path().join("pipelines"));
    std::fs::create_dir(&pipelines).unwrap();
    std::fs::write(pipelines.join("parts.yaml"), PARTS).unwrap();
    let dev = Dev::start(&data, &pipelines).await;
    let sent = futures::stream::iter(0..JOBS).map(|nth| dev.upload("parts", format!("id\n{nth}\n")));
    let sent: BTreeSet<String> = sent.buffer_unordered(8).map(Result::unwrap).collect().await;
    for id in &sent {
        assert_eq!(dev.ended(id).await["status"], "success");
    }
    assert_eq!(dev.stop(), Some(0));

    let to = data.join("objects/collected/parts");
    for copied in [1, JOBS / 4, JOBS / 2] {
        assert!(killed_at(copied, &data, &pipelines, &to), "it was done before {copied} were seen");
        assert_eq!(jobs(&data, &pipelines, "success"), sent, "nothing is downloaded before all is copied");
    }
    let collected = json(&data, &pipelines, &["collect", "parts"]);
    let done = collected["collected"].as_array().unwrap();
    assert_eq!((done.len(), &done[0]["jobs"]), (1, &JOBS.into()), "{collected}");
    assert_eq!(jobs(&data, &pipelines, "downloaded"), sent);

    let slots = names(&to);
    assert_eq!(slots.len(), 1, "one collection: {slots:?}");
    let slot = to.join(slots.first().unwrap());
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(slot.join("manifest.json")).unwrap()).unwrap();
    let entries = manifest["jobs"].as_array().unwrap();
    let listed: BTreeSet<String> =
        entries.iter().map(|job| job["job_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((entries.len(), &listed), (JOBS, &sent));
    let all: BTreeSet<String> = sent.iter().cloned().chain(["manifest.json".to_owned()]).collect();
    assert_eq!(names(&slot), all);
    for job in entries {
        let id = job["job_id"].as_str().unwrap();
        assert_eq!((&job["records_in"], &job["records_rejected"]), (&1.into(), &0.into()), "{job}");
        let files = FILES.map(|file| format!("{id}/{file}"));
        assert_eq!(job["files"], serde_json::json!(files));
        let report = std::fs::read_to_string(slot.join(&files[4])).unwrap();
        assert!(report.contains(id), "{report}");
        let made = std::fs::read_to_string(data.join(format!("objects/jobs/{id}/1/files/a.csv"))).unwrap();
        assert_eq!(std::fs::read_to_string(slot.join(&files[0])).unwrap(), made);
    }
    assert_eq!(json(&data, &pipelines, &["collect", "parts"])["collected"], serde_json::json!([]));
}
