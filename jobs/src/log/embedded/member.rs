//! A member of a group of the embedded log: reads its partitions in turn, a few records ahead.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use tokio::sync::watch;

use super::groups::{Groups, MemberId, Place};
use super::{Inner, failed};
use crate::log::{Record, Subscription, Topic};
use crate::{Error, Result};

/// Records that a member holds in memory.
const AHEAD: i64 = 64;
/// How long a member waits at most before it looks again; it is woken before that.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A member.
pub(super) struct Member {
    log: Arc<Inner>,
    topic: Topic,
    group: String,
    id: MemberId,
    changed: watch::Receiver<u64>,
    ahead: VecDeque<(Record, u64)>,
    /// Which of its partitions is read next, so that a busy one does not starve the others.
    turn: usize,
}

impl Member {
    pub fn join(log: Arc<Inner>, topic: Topic, group: &str, committed: &HashMap<i32, i64>) -> Self {
        let changed = log.changed.subscribe();
        let id = lock(&log).join(topic, group, log.partitions, committed);
        wake(&log);
        Self { log, topic, group: group.to_owned(), id, changed, ahead: VecDeque::new(), turn: 0 }
    }

    /// A record read ahead whose partition has not moved.
    fn pop(&mut self) -> Option<Record> {
        let mut groups = lock(&self.log);
        let group = groups.group(self.topic, &self.group)?;
        while let Some((record, generation)) = self.ahead.pop_front() {
            if group.is_current(record.partition, generation) {
                return Some(record);
            }
        }
        None
    }

    fn places(&self) -> Vec<Place> {
        lock(&self.log).group(self.topic, &self.group).map(|group| group.places(self.id)).unwrap_or_default()
    }

    /// Reads ahead from the first partition, in turn, that has records.
    async fn read_ahead(&mut self) -> Result<()> {
        let mut places = self.places();
        let turn = self.turn % places.len().max(1);
        places.rotate_left(turn);
        for place in places {
            let records = self.read(place).await?;
            let given = !records.is_empty()
                && lock(&self.log)
                    .group(self.topic, &self.group)
                    .is_some_and(|group| group.give(place, &records));
            if given {
                self.turn = self.turn.wrapping_add(1);
                self.ahead.extend(records.into_iter().map(|record| (record, place.generation)));
                return Ok(());
            }
        }
        Ok(())
    }

    async fn read(&self, place: Place) -> Result<Vec<Record>> {
        const ACTION: &str = "read records";
        let statement = "SELECT pos, key, payload FROM records \
            WHERE topic = ? AND part = ? AND pos >= ? ORDER BY pos LIMIT ?";
        let rows = sqlx::query(statement)
            .bind(self.topic.as_str())
            .bind(place.partition)
            .bind(place.position)
            .bind(AHEAD)
            .fetch_all(&self.log.pool)
            .await
            .map_err(failed(ACTION))?;
        let record = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Record {
                partition: place.partition,
                offset: row.try_get(0)?,
                key: row.try_get(1)?,
                payload: row.try_get(2)?,
            })
        };
        rows.iter().map(record).collect::<sqlx::Result<_>>().map_err(failed(ACTION))
    }

    fn leave(&self) {
        lock(&self.log).leave(self.topic, &self.group, self.id);
        wake(&self.log);
    }
}

#[async_trait]
impl Subscription for Member {
    async fn next(&mut self) -> Result<Record> {
        loop {
            // Seen before reading: what is appended from here on wakes.
            self.changed.mark_unchanged();
            if let Some(record) = self.pop() {
                return Ok(record);
            }
            self.read_ahead().await?;
            if self.ahead.is_empty() {
                let woken = tokio::time::timeout(LOOK_AGAIN, self.changed.changed()).await;
                if let Ok(Err(_)) = woken {
                    return Err(closed());
                }
            }
        }
    }

    async fn ack(&mut self, record: &Record) -> Result<()> {
        let next =
            lock(&self.log).group(self.topic, &self.group).and_then(|group| group.done(self.id, record));
        match next {
            Some(next) => self.log.writer.commit(self.topic, &self.group, record.partition, next).await,
            None => Ok(()),
        }
    }

    async fn close(self: Box<Self>) -> Result<()> {
        // Commits wait in the writer's queue in order: once a later command is done, so are they.
        self.log.writer.flush().await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}

fn wake(log: &Inner) {
    log.changed.send_modify(|count| *count = count.wrapping_add(1));
}

fn lock(log: &Inner) -> MutexGuard<'_, Groups> {
    log.groups.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> Error {
    Error::Log {
        action: "read records",
        message: "the log is closed".to_owned(),
        retry: tidemill_pipelines::Retry::Never,
    }
}
