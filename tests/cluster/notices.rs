//! A webhook that never answers and a notifier that is killed: mails arrive once, and the log is done.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::roles::{Cluster, IMPATIENT, mails};
use crate::{NUMBERS, TURN, numbers};

/// Files before the notifier is killed, and after.
const FILES: u64 = 10;
/// Longest wait for what is asked again and again.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// A server of webhooks that takes connections and never answers; its URL.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok(connection) = listener.accept().await {
            taken.push(connection);
        }
    });
    url
}

#[tokio::test]
async fn a_dead_webhook_and_a_killed_notifier_double_no_mail_and_hold_no_offset() {
    let _turn = TURN.lock().await;
    let pipelines = tempfile::TempDir::new().unwrap();
    let hook = format!("notify: [{{ webhook: {{ url: '{}' }} }}, ", silent().await);
    let pipeline = NUMBERS.replace("notify: [", &hook);
    std::fs::write(pipelines.path().join("numbers.yaml"), pipeline).unwrap();
    let mut cluster = Cluster::start(pipelines.path(), IMPATIENT).await;
    let mut jobs = send(&cluster, 0..FILES).await;
    only_the_webhooks_wait(&cluster, FILES).await;
    cluster.restart_notifier();
    jobs.extend(send(&cluster, FILES..2 * FILES).await);
    only_the_webhooks_wait(&cluster, 2 * FILES).await;
    for job in &jobs {
        let about = mails().into_iter().filter(|mail| mail.contains(job)).count();
        assert_eq!(about, 1, "mails about {job}\n{}", cluster.logs());
    }
}

async fn send(cluster: &Cluster, files: std::ops::Range<u64>) -> Vec<String> {
    let mut jobs = Vec::new();
    for nth in files {
        jobs.push(cluster.client().send("numbers", &format!("file-{nth}"), numbers(nth, 5)).await);
    }
    for job in &jobs {
        cluster.succeeded(job).await;
        cluster.mail(job).await;
    }
    jobs
}

/// Waits until the log of ends is done and so many notices wait.
async fn only_the_webhooks_wait(cluster: &Cluster, webhooks: u64) {
    let began = Instant::now();
    let expected = i64::try_from(webhooks).unwrap();
    loop {
        let (lag, waiting) = (cluster.place.lag_of_ends().await, cluster.place.notices_waiting().await);
        if (lag, waiting) == (0, expected) {
            return;
        }
        assert!(began.elapsed() < WAIT_MAX, "lag {lag}, {waiting} wait\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
