//! What the event log promises, held against both implementations: the embedded log, and Apache Kafka at
//! `TIDEMILL_TEST_KAFKA`.

// Clippy knows test functions, not the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod durable;
mod support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use support::{Log, drained, next, on_both, publish};
use tidemill_jobs::{Error, Record, Subscription, Topic};

on_both!(
    what_was_published_is_there_for_who_comes_later,
    records_of_one_key_keep_their_order,
    what_was_not_acked_is_given_out_again,
    acks_out_of_order_commit_what_is_done_from_the_front,
    two_members_share_and_each_record_reaches_one,
    a_member_that_leaves_hands_over,
    a_member_that_is_dropped_hands_over,
    groups_and_topics_do_not_see_each_other,
    the_lag_counts_what_is_not_committed,
    a_member_that_works_long_keeps_its_place,
    a_next_that_is_dropped_loses_nothing,
    topics_may_be_made_again_and_the_broker_answers,
    a_record_that_is_too_large_is_refused_for_good,
);

async fn what_was_published_is_there_for_who_comes_later(log: Log) {
    publish(&log, 0..20).await;
    let again = log.reopened().await;
    let mut member = again.subscribe("g").await;
    let found = drained(&mut *member, 20).await;
    assert_eq!(found.len(), 20);
    assert!(found.iter().all(|record| record.payload == format!("payload of {}", record.key).into_bytes()));
    member.close().await.unwrap();
}

async fn records_of_one_key_keep_their_order(log: Log) {
    for number in 0..60 {
        let key = format!("key-{}", number % 3);
        log.log.publish(Topic::Landed, &key, number.to_string().as_bytes()).await.unwrap();
    }
    let mut member = log.subscribe("g").await;
    let mut by_key: HashMap<String, Vec<Record>> = HashMap::new();
    for record in drained(&mut *member, 60).await {
        by_key.entry(record.key.clone()).or_default().push(record);
    }
    assert_eq!(by_key.len(), 3);
    for records in by_key.values() {
        let number =
            |record: &Record| String::from_utf8(record.payload.clone()).unwrap().parse::<i32>().unwrap();
        assert!(records.windows(2).all(|pair| number(&pair[0]) + 3 == number(&pair[1])));
        assert!(records.windows(2).all(|pair| pair[0].partition == pair[1].partition));
        assert!(records.windows(2).all(|pair| pair[0].offset < pair[1].offset));
    }
    member.close().await.unwrap();
}

async fn what_was_not_acked_is_given_out_again(log: Log) {
    publish(&log, 0..10).await;
    let mut member = log.subscribe("g").await;
    let mut acked = HashSet::new();
    // From the front of each partition, so that all that is acked is committed.
    for _ in 0..4 {
        let record = next(&mut *member).await;
        member.ack(&record).await.unwrap();
        acked.insert(record.key);
    }
    let unacked = drained_without_acks(&mut *member, 6).await;
    member.close().await.unwrap();
    let mut member = log.subscribe("g").await;
    let again: HashSet<_> = drained(&mut *member, 6).await.into_iter().map(|record| record.key).collect();
    assert_eq!(again, unacked);
    assert!(again.is_disjoint(&acked));
    member.close().await.unwrap();
}

async fn drained_without_acks(member: &mut dyn Subscription, count: usize) -> HashSet<String> {
    let mut keys = HashSet::new();
    while keys.len() < count {
        keys.insert(next(member).await.key);
    }
    keys
}

async fn acks_out_of_order_commit_what_is_done_from_the_front(log: Log) {
    for number in 0..5 {
        log.log.publish(Topic::Landed, "one key", number.to_string().as_bytes()).await.unwrap();
    }
    let mut member = log.subscribe("g").await;
    let mut records = Vec::new();
    for _ in 0..5 {
        records.push(next(&mut *member).await);
    }
    for index in [4, 1, 0] {
        member.ack(&records[index]).await.unwrap();
    }
    member.close().await.unwrap();
    let lag: i64 = log.lag("g").await;
    assert_eq!(lag, 3, "the first two are committed, the last one waits for its elders");
    let mut member = log.subscribe("g").await;
    for number in 2..5 {
        assert_eq!(next(&mut *member).await.payload, number.to_string().into_bytes());
    }
    member.close().await.unwrap();
}

async fn two_members_share_and_each_record_reaches_one(log: Log) {
    let mut first = log.subscribe("g").await;
    let mut second = log.subscribe("g").await;
    log.both_have_partitions(&mut *first, &mut *second).await;
    publish(&log, 1_000..1_200).await;
    let mut of_first = HashSet::new();
    let mut of_second = HashSet::new();
    let mut count = 0;
    while of_first.len() + of_second.len() < 200 {
        let (member, record) = tokio::select! {
            record = next(&mut *first) => (&mut of_first, record),
            record = next(&mut *second) => (&mut of_second, record),
        };
        if record.key.starts_with("job-") {
            count += 1;
            member.insert(record.key);
        }
    }
    assert_eq!(count, 200, "each reached one member once");
    assert!(of_first.is_disjoint(&of_second));
    assert!(of_first.len() > 20 && of_second.len() > 20, "{} {}", of_first.len(), of_second.len());
    first.close().await.unwrap();
    second.close().await.unwrap();
}

async fn a_member_that_leaves_hands_over(log: Log) {
    let mut first = log.subscribe("g").await;
    let mut second = log.subscribe("g").await;
    log.both_have_partitions(&mut *first, &mut *second).await;
    publish(&log, 0..50).await;
    let mut acked = HashSet::new();
    for _ in 0..5 {
        let record = next(&mut *first).await;
        first.ack(&record).await.unwrap();
        acked.insert(record.key);
    }
    first.close().await.unwrap();
    let rest = drained(&mut *second, 50 - count_jobs(&acked)).await;
    let rest: HashSet<_> = rest.into_iter().map(|record| record.key).collect();
    assert!(rest.is_disjoint(&acked), "what was acked is not given out again");
    second.close().await.unwrap();
}

fn count_jobs(keys: &HashSet<String>) -> usize {
    keys.iter().filter(|key| key.starts_with("job-")).count()
}

async fn a_member_that_is_dropped_hands_over(log: Log) {
    publish(&log, 0..20).await;
    let mut first = log.subscribe("g").await;
    next(&mut *first).await;
    drop(first);
    let mut second = log.subscribe("g").await;
    assert_eq!(drained(&mut *second, 20).await.len(), 20);
    second.close().await.unwrap();
}

async fn groups_and_topics_do_not_see_each_other(log: Log) {
    publish(&log, 0..10).await;
    log.log.publish(Topic::Finished, "end", b"x").await.unwrap();
    for group in ["one", "two"] {
        let mut member = log.subscribe(group).await;
        let found = drained(&mut *member, 10).await;
        assert!(found.iter().all(|record| record.key != "end"));
        member.close().await.unwrap();
    }
    let mut ends = log.log.subscribe(Topic::Finished, "one").await.unwrap();
    assert_eq!(next(&mut *ends).await.key, "end");
    ends.close().await.unwrap();
}

async fn the_lag_counts_what_is_not_committed(log: Log) {
    assert_eq!(log.lag("g").await, 0);
    publish(&log, 0..12).await;
    assert_eq!(log.lag("g").await, 12);
    let mut member = log.subscribe("g").await;
    drained(&mut *member, 12).await;
    member.close().await.unwrap();
    assert_eq!(log.lag("g").await, 0);
    publish(&log, 12..15).await;
    assert_eq!(log.lag("g").await, 3);
    let by_partition = log.log.lag(Topic::Landed, "g").await.unwrap();
    assert_eq!(by_partition.len(), support::PARTITIONS as usize);
}

async fn a_member_that_works_long_keeps_its_place(log: Log) {
    // More than all buffers hold, so that the member has to be paused.
    publish(&log, 0..200).await;
    let mut member = log.subscribe("g").await;
    let first = next(&mut *member).await;
    tokio::time::sleep(log.long_work).await;
    member.ack(&first).await.unwrap();
    let mut seen = vec![first.key];
    while seen.len() < 200 {
        let record = next(&mut *member).await;
        member.ack(&record).await.unwrap();
        seen.push(record.key);
    }
    let different: HashSet<_> = seen.iter().collect();
    assert_eq!(different.len(), 200, "who lost its place would get records twice");
    member.close().await.unwrap();
    assert_eq!(log.lag("g").await, 0);
}

async fn a_next_that_is_dropped_loses_nothing(log: Log) {
    let mut member = log.subscribe("g").await;
    publish(&log, 0..30).await;
    let mut seen = HashSet::new();
    for _ in 0..20_000 {
        if seen.len() == 30 {
            break;
        }
        if let Ok(record) = tokio::time::timeout(Duration::from_millis(1), member.next()).await {
            seen.insert(record.unwrap().key);
        }
    }
    assert_eq!(seen.len(), 30);
    member.close().await.unwrap();
}

async fn topics_may_be_made_again_and_the_broker_answers(log: Log) {
    log.log.create_topics().await.unwrap();
    log.log.create_topics().await.unwrap();
    log.log.ping().await.unwrap();
}

async fn a_record_that_is_too_large_is_refused_for_good(log: Log) {
    let refused = log.log.publish(Topic::Landed, "large", &vec![b'x'; 2_400_000]).await.unwrap_err();
    assert!(matches!(refused, Error::Record { size_bytes: 2_400_000, .. }), "{refused}");
    publish(&log, 0..1).await;
    let mut member = log.subscribe("g").await;
    assert_eq!(drained(&mut *member, 1).await[0].key, "job-0");
    member.close().await.unwrap();
}
