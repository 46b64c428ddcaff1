//! Jobs that wait for a lookup: however many they are, they keep no other job from being taken.

use std::time::{Duration, Instant};

use chrono::Utc;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tidemill_jobs::{Claim, Committed, JobId, JobStatus, MemoryLedger, NewJob, Outcome, Settler};
use tidemill_pipelines::Duplicates;

use crate::objects::{Plant, plant_of};

const PLACES: &str = "
pipeline: places
columns: [{ name: code, type: text, max_length: 2 }]
sinks: [{ table: { name: places, key: [code], mode: upsert } }]
";

const PEOPLE: &str = "
pipeline: people
columns:
  - { name: id, type: int64 }
  - { name: place, type: text, references: places.code, required: false }
sinks: [{ table: { name: people } }]
";

const OTHERS: &str = "
pipeline: others
columns: [{ name: id, type: int64 }]
sinks: [{ table: { name: others } }]
";

/// More than the events that a processor holds at once.
const WAITING: usize = 400;

async fn land(plant: &Plant, pipeline: &str, text: &'static str) -> JobId {
    let job_id = JobId::new();
    let key = format!("landing/{pipeline}/{job_id}/a.csv");
    plant.objects.put(&Path::from(key.as_str()), text.into()).await.unwrap();
    let new = NewJob {
        job_id,
        pipeline: pipeline.parse().unwrap(),
        files: vec![key],
        file_name: None,
        size_bytes: text.len() as u64,
        content_sha256: job_id.to_string(),
        parameters: Default::default(),
        pushed: Vec::new(),
        takes_turns: false,
        last_wins: false,
        sender: "ana".to_owned(),
        idempotency_key: None,
        duplicates: Duplicates::Accept,
    };
    plant.jobs.land(new).await.unwrap();
    job_id
}

async fn ended(plant: &Plant, job: JobId, within: Duration) -> JobStatus {
    let began = Instant::now();
    loop {
        let status = plant.jobs.get(job).await.unwrap().unwrap().status;
        if status.has_ended() {
            return status;
        }
        assert!(began.elapsed() < within, "job {job} is {status:?} after {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_jobs_that_wait_for_a_lookup_keep_no_other_from_being_taken() {
    let plant = plant_of(&[("places", PLACES), ("people", PEOPLE), ("others", OTHERS)]).await;
    let first = land(&plant, "places", "code\nLx\n").await;
    assert_eq!(ended(&plant, first, Duration::from_secs(60)).await, JobStatus::Success);
    // Another process works on the next master data, and takes long.
    let (places, held) = hold(&plant).await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(land(&plant, "people", "id,place\n1,\n").await);
    }
    let other = land(&plant, "others", "id\n1\n").await;
    assert_eq!(ended(&plant, other, Duration::from_secs(60)).await, JobStatus::Success);
    let first = plant.jobs.get(waiting[0]).await.unwrap().unwrap();
    assert_eq!(first.status, JobStatus::Queued, "it waits for the master data");
    // Where rows were delivered does not matter here: they stand in no table of this test.
    let settler = Settler::new(plant.jobs.clone(), std::sync::Arc::new(MemoryLedger::default()));
    assert!(settler.finish(&held, Outcome::Success(Committed::default())).await.unwrap());
    assert_eq!(plant.jobs.get(places).await.unwrap().unwrap().status, JobStatus::Success);
    for job in waiting {
        assert_eq!(ended(&plant, job, Duration::from_secs(120)).await, JobStatus::Success);
    }
    plant.stop().await;
}

/// A job of `places` that was claimed by another process.
async fn hold(plant: &Plant) -> (JobId, Claim) {
    loop {
        let job = land(plant, "places", "code\nLx\n").await;
        // The processor of this test may be quicker; then the next one is tried.
        if let Some(claim) = plant.jobs.claim(job, "v1", "another", Utc::now()).await.unwrap() {
            return (job, claim);
        }
    }
}
