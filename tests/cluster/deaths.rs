//! Processors that die or are told to stop in mid-job: the job is done once all the same.

use std::time::{Duration, Instant};

use crate::databases::databases;
use crate::exact::flights;
use crate::place::root;
use crate::roles::{Cluster, IMPATIENT};
use crate::{TURN, holds_once, numbers, numbers_pipelines};

/// Kills the processor that works on a job, again and again, until the job is done.
async fn done_under_kills(cluster: &mut Cluster, id: &str) {
    let mut last = 0;
    let mut kills = 0;
    // From "just claimed" to "most rows sent".
    for after_ms in [0, 500, 2_000, 4_000] {
        let (attempt, process) = cluster.taken(id, last).await;
        last = attempt;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        if cluster.place.worker(id).await != Some((attempt, process)) {
            break; // it was done before its end could come
        }
        cluster.take_processor(process).kill();
        kills += 1;
        cluster.add_processor();
    }
    assert!(kills >= 2, "the job was too quick to be interrupted more than {kills} times");
    cluster.succeeded(id).await;
    // Not more when the last one that was killed had committed: then the sweeper wrote the end.
    assert!(cluster.place.attempts(id).await >= kills);
    cluster.verify(id);
}

#[tokio::test]
async fn a_file_whose_processor_is_killed_is_written_once() {
    let _turn = TURN.lock().await;
    for (database, _) in databases() {
        let mut cluster = Cluster::start_on(database, &root("pipelines"), IMPATIENT).await;
        let id = cluster.client().send("flights", "flights", flights()).await;
        done_under_kills(&mut cluster, &id).await;
        assert_eq!(cluster.place.numbers("SELECT count(*) FROM flights").await, [336_776]);
        assert_eq!(
            cluster.place.numbers("SELECT count(*), sum(row_count) FROM tidemill_ledger").await,
            [1, 336_776]
        );
        cluster.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_for_the_lake_whose_processor_is_killed_is_written_once() {
    let _turn = TURN.lock().await;
    let mut cluster = Cluster::start(&root("pipelines"), IMPATIENT).await;
    let id = cluster.client().send("flights_lake", "flights", flights()).await;
    done_under_kills(&mut cluster, &id).await;
    assert_eq!(cluster.place.lake_rows("flights").await, 336_776);
    cluster.check().await;
}

/// Rows that take a processor some seconds.
const LONG: u64 = 300_000;

#[tokio::test]
async fn sigterm_hands_over() {
    let _turn = TURN.lock().await;
    let pipelines = numbers_pipelines();
    // The first stop leaves time for the job; the same processor finishes it.
    let mut cluster = Cluster::start(pipelines.path(), IMPATIENT).await;
    let id = cluster.client().send("numbers", "patient", numbers(0, LONG)).await;
    let (attempt, process) = cluster.taken(&id, 0).await;
    let status = cluster.take_processor(process).stop().await;
    assert_eq!(status, Some(0), "{}", cluster.logs());
    let job = cluster.succeeded(&id).await;
    assert_eq!((cluster.place.attempts(&id).await, &job["retries"]), (attempt, &0.into()));
    cluster.verify(&id);
    holds_once(&cluster, 1, LONG).await;
    cluster.check().await;
    drop(cluster);

    // The second leaves none: the job goes to the other processor at once, though its lease has not passed.
    let lease = Duration::from_secs(600);
    let settings = format!("lease = \"{}s\"\ndrain = \"0s\"", lease.as_secs());
    let mut cluster = Cluster::start(pipelines.path(), &settings).await;
    let id = cluster.client().send("numbers", "hasty", numbers(0, LONG)).await;
    let (attempt, process) = cluster.taken(&id, 0).await;
    let began = Instant::now();
    let status = cluster.take_processor(process).stop().await;
    assert_eq!(status, Some(0), "{}", cluster.logs());
    cluster.succeeded(&id).await;
    assert!(cluster.place.attempts(&id).await > attempt);
    assert!(began.elapsed() < lease);
    cluster.verify(&id);
    holds_once(&cluster, 1, LONG).await;
    cluster.check().await;
}
