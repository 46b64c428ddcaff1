//! Servers that go away and come back, and processes that are killed, while files keep coming: nothing accepted is lost, nothing is doubled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::place::{ReadOnly, Stopped};
use crate::roles::{Client, Cluster, IMPATIENT, PATIENT};
use crate::{TURN, holds_once, numbers, numbers_pipelines};

/// Rows of one file.
const ROWS: u64 = 500;
/// Files at least, and pause between two of them.
const FILES_MIN: u64 = 30;
const PAUSE: Duration = Duration::from_millis(100);
/// How long a server is away, and how long all are there before the next goes.
const AWAY: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn each_server_may_stop_and_start_during_a_run() {
    let _turn = TURN.lock().await;
    servers_stop_and_start("mariadb", &["mariadb", "kafka", "s3", "smtp"]).await;
    servers_stop_and_start("mysql", &["mysql"]).await;
}

async fn servers_stop_and_start(database: &str, names: &[&'static str]) {
    let pipelines = numbers_pipelines();
    let cluster = Cluster::start_on(database, pipelines.path(), PATIENT).await;
    let enough = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(send_until(cluster.client(), Arc::clone(&enough)));
    for name in names.iter().copied() {
        tokio::time::sleep(BETWEEN).await;
        let stopped = tokio::task::spawn_blocking(move || Stopped::stop(name)).await.unwrap();
        tokio::time::sleep(AWAY).await;
        tokio::task::spawn_blocking(move || drop(stopped)).await.unwrap();
    }
    tokio::time::sleep(BETWEEN).await;
    enough.store(true, Ordering::Relaxed);
    let accepted = sender.await.unwrap();
    each_is_done_once(&cluster, &accepted).await;
}

/// As a replica is, or a server in the midst of a failover.
#[tokio::test(flavor = "multi_thread")]
async fn roles_wait_for_databases_that_take_no_writes() {
    let _turn = TURN.lock().await;
    let pipelines = numbers_pipelines();
    let mut cluster = Cluster::start_on("mysql", pipelines.path(), PATIENT).await;
    let client = cluster.client();
    let mut accepted = vec![client.send("numbers", "file-0", numbers(0, ROWS)).await];
    cluster.succeeded(&accepted[0]).await;
    client.becomes(true).await;
    let read_only = ReadOnly::make(&cluster.place).await;

    cluster.add_processor();
    let told = cluster.newest_processor_said("waiting for the job database").await;
    assert!(told["error"].as_str().unwrap().contains("read-only"), "{told}");
    let parts = client.becomes(false).await;
    assert_eq!(parts["database"]["ready"], false, "{parts}");
    let told = cluster.gateway_said("a part is not ready").await;
    assert!(told["error"].as_str().unwrap().contains("read-only"), "{told}");
    let sender = tokio::spawn(async move { client.send("numbers", "file-1", numbers(1, ROWS)).await });
    tokio::time::sleep(AWAY).await;
    assert!(!sender.is_finished(), "a server that takes no writes took a file");

    tokio::task::spawn_blocking(move || drop(read_only)).await.unwrap();
    accepted.push(sender.await.unwrap());
    cluster.newest_processor_said("processor takes jobs").await;
    each_is_done_once(&cluster, &accepted).await;
    cluster.client().becomes(true).await;
}

/// Rounds of deaths, and pause between two of them.
const ROUNDS: u32 = 3;
const LIFE: Duration = Duration::from_millis(700);

#[tokio::test]
async fn each_process_may_be_killed_during_a_run() {
    let _turn = TURN.lock().await;
    let pipelines = numbers_pipelines();
    let mut cluster = Cluster::start(pipelines.path(), IMPATIENT).await;
    let enough = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(send_until(cluster.client(), Arc::clone(&enough)));
    for _ in 0..ROUNDS {
        tokio::time::sleep(LIFE).await;
        cluster.restart_gateway().await;
        tokio::time::sleep(LIFE).await;
        cluster.restart_processor();
        tokio::time::sleep(LIFE).await;
        cluster.restart_notifier();
    }
    enough.store(true, Ordering::Relaxed);
    let accepted = sender.await.unwrap();
    each_is_done_once(&cluster, &accepted).await;
}

/// Asserts of all files accepted: one job each, done, told of, its rows in the table once.
async fn each_is_done_once(cluster: &Cluster, accepted: &[String]) {
    for id in accepted {
        cluster.succeeded(id).await;
        cluster.mail(id).await;
    }
    let files = accepted.len() as u64;
    assert_eq!(cluster.place.jobs_known().await, i64::try_from(files).unwrap());
    holds_once(cluster, files, ROWS).await;
    for id in accepted.iter().step_by(accepted.len().div_ceil(5)) {
        cluster.verify(id);
    }
    cluster.check().await;
}

/// Sends one file after the other; gives the jobs.
async fn send_until(client: Client, enough: Arc<AtomicBool>) -> Vec<String> {
    let mut accepted = Vec::new();
    while accepted.len() as u64 <= FILES_MIN || !enough.load(Ordering::Relaxed) {
        let nth = accepted.len() as u64;
        accepted.push(client.send("numbers", &format!("file-{nth}"), numbers(nth, ROWS)).await);
        tokio::time::sleep(PAUSE).await;
    }
    accepted
}
