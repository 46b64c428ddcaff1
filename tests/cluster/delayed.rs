//! Delayed jobs on real servers: objects pushed to the S3 server by presigned URLs, jobs in the order of arrival over
//! three processors that are killed in the midst of it.

use serde_json::{Value, json};

use crate::TURN;
use crate::databases::databases;
use crate::roles::{Cluster, IMPATIENT};

/// Every job writes the same row, so the last to run is the one that is seen.
const MARKS: &str = "\
pipeline: marks
parameters: [{ name: nth, type: int64 }, { name: day, type: date, default: 2024-05-01 }]
columns: [{ name: id, type: int64 }, { name: text, type: text, max_length: 40 }]
steps:
  - check: { name: not_after, where: \"id <= $nth + 100\", else: reject }
  - sql: SELECT id, text, $nth AS nth, $day AS day FROM input
rejects: { tolerate: 100%, then: continue }
sinks: [{ table: { name: marks, mode: upsert, key: [id] } }]
";

const JOBS: i64 = 12;

#[tokio::test]
async fn delayed_jobs_run_in_the_order_of_arrival_on_three_processors_that_die() {
    let _turn = TURN.lock().await;
    for (database, _) in databases() {
        jobs_run_in_the_order_of_arrival(database).await;
    }
}

async fn jobs_run_in_the_order_of_arrival(database: &str) {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("marks.yaml"), MARKS).unwrap();
    let mut cluster = Cluster::start_on(database, folder.path(), IMPATIENT).await;
    cluster.add_processor();
    let client = cluster.client();
    let mut jobs = Vec::new();
    for nth in 1..=JOBS {
        let key = format!("marks-{nth}");
        let file = format!("id,text\n1,job {nth}\n{},own of {nth}\n999,too large\n", nth + 100);
        let job = client.submit("marks", &key, &[file], json!({ "nth": nth })).await;
        assert_eq!(client.submit_again("marks", &key, &job).await, job["job_id"], "the same key");
        jobs.push(job["job_id"].as_str().unwrap().to_owned());
        if nth % 5 == 0 {
            // Whoever has a job in hand dies with it, now and then.
            cluster.restart_processor();
        }
    }
    for id in &jobs {
        cluster.succeeded(id).await;
    }
    let mut last_end = String::new();
    for (nth, id) in (1..).zip(&jobs) {
        let job: Value = serde_json::from_str(&client.get(&format!("/v1/jobs/{id}")).await).unwrap();
        assert_eq!(job["parameters"], json!({ "nth": nth, "day": "2024-05-01" }));
        assert_eq!(job["records_rejected"], 1, "{job}");
        let text = |name: &str| job[name].as_str().unwrap().to_owned();
        assert!(text("started_at") >= last_end, "{id} began before the one before it ended");
        last_end = text("finished_at");
    }
    let row = cluster.place.ask("SELECT text, nth, day FROM marks WHERE id = 1").await.remove(1);
    assert_eq!(row, [format!("job {JOBS}"), JOBS.to_string(), "2024-05-01".to_owned()]);
    let own = "SELECT count(*), sum(nth + 100 = id) FROM marks WHERE id > 1";
    assert_eq!(cluster.place.numbers(own).await, [JOBS, JOBS]);
    cluster.check().await;
}
