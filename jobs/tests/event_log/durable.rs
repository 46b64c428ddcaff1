//! The embedded log and kill -9: what `publish` has returned for is there. And what it deletes, and when.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_jobs::{EmbeddedLog, EventLog, Topic};

/// Set for the child: the file to append to.
const CHILD_FILE: &str = "TIDEMILL_TEST_CHILD_FILE";
/// Appends at the same time.
const WRITERS: u64 = 16;

async fn open(path: &Path) -> EmbeddedLog {
    EmbeddedLog::open(path, 4).await.unwrap()
}

/// Appends `count` records for each writer and prints the key of each as soon as it is acknowledged.
async fn append_and_print(path: &Path, count: u64) {
    let log = open(path).await;
    let writers = (0..WRITERS).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move {
            for number in 0..count {
                let key = format!("acknowledged-{writer}-{number}");
                log.publish(Topic::Landed, &key, b"payload").await.unwrap();
                eprintln!("{key}");
            }
        })
    });
    futures::future::join_all(writers).await;
    let lag = log.lag(Topic::Landed, "g").await.unwrap();
    assert_eq!(lag.iter().map(|partition| partition.lag).sum::<i64>(), (count * WRITERS) as i64);
    log.close().await;
}

/// Also the child of the test below, which lets it append until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_acknowledged_counts() {
    match std::env::var_os(CHILD_FILE) {
        Some(path) => append_and_print(Path::new(&path), u64::MAX / WRITERS / 2).await,
        None => append_and_print(&TempDir::new().unwrap().path().join("events.db"), 4).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_instant_loses_nothing_acknowledged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.db");
    let mut expected = Vec::new();
    for round in 1..=3 {
        // Each child numbers from the start again, so each round has a file of its own name.
        let path = path.with_extension(round.to_string());
        let acknowledged = append_until_killed(&path, 200 * round);
        let log = open(&path).await;
        let mut member = log.subscribe(Topic::Landed, "g").await.unwrap();
        let mut missing: std::collections::HashSet<_> = acknowledged.iter().cloned().collect();
        while !missing.is_empty() {
            let record = tokio::time::timeout(Duration::from_secs(10), member.next()).await;
            let record = record.unwrap_or_else(|_| panic!("{} acknowledged records are gone", missing.len()));
            missing.remove(&record.unwrap().key);
        }
        expected.push(acknowledged.len());
        log.close().await;
    }
    assert!(expected.iter().all(|count| *count > 100), "each child had many acknowledged: {expected:?}");
}

/// Runs a child until it has had `count` appends acknowledged, kills it, and returns all that it had.
fn append_until_killed(path: &Path, count: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durable::all_that_was_acknowledged_counts", "--nocapture"])
        .env(CHILD_FILE, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let start = Instant::now();
    let mut acknowledged = Vec::new();
    let mut killed = false;
    // After the kill, what it had printed still comes out of the pipe.
    for line in lines {
        acknowledged.extend(line.ok().filter(|line| line.starts_with("acknowledged-")));
        assert!(start.elapsed() < Duration::from_secs(60), "the child is too slow");
        if !killed && acknowledged.len() >= count {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(!child.wait().unwrap().success(), "it was killed");
    // The last line may be cut off.
    acknowledged.pop();
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_all_groups_have_behind_them_is_deleted() {
    let folder = TempDir::new().unwrap();
    let log = EmbeddedLog::open(&folder.path().join("events.db"), 1).await.unwrap();
    for number in 0..10 {
        log.publish(Topic::Landed, "k", number.to_string().as_bytes()).await.unwrap();
    }
    let now = Duration::ZERO;
    assert_eq!(log.delete_older_than(now).await.unwrap(), 0, "nobody has read them");
    for (group, count) in [("fast", 8), ("slow", 3)] {
        let mut member = log.subscribe(Topic::Landed, group).await.unwrap();
        for _ in 0..count {
            let record = member.next().await.unwrap();
            member.ack(&record).await.unwrap();
        }
        member.close().await.unwrap();
    }
    assert_eq!(log.delete_older_than(Duration::from_secs(3600)).await.unwrap(), 0, "they are young");
    assert_eq!(log.delete_older_than(now).await.unwrap(), 3, "what the slow group has behind it");
    let mut member = log.subscribe(Topic::Landed, "slow").await.unwrap();
    assert_eq!(member.next().await.unwrap().payload, b"3");
    log.publish(Topic::Landed, "k", b"next").await.unwrap();
    let lag = log.lag(Topic::Landed, "fast").await.unwrap();
    assert_eq!(lag[0].lag, 3, "offsets go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_a_sync() {
    let folder = TempDir::new().unwrap();
    let log = open(&folder.path().join("events.db")).await;
    let start = Instant::now();
    let writers = (0..64).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move {
            for number in 0..50 {
                log.publish(Topic::Landed, &format!("{writer}-{number}"), b"x").await.unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
    println!("appended {:.0} events a second", 3_200.0 / start.elapsed().as_secs_f64());
    let lag = log.lag(Topic::Landed, "g").await.unwrap();
    assert_eq!(lag.iter().map(|partition| partition.lag).sum::<i64>(), 3_200);
    log.close().await;
    assert!(log.publish(Topic::Landed, "k", b"x").await.is_err(), "it is closed");
}
