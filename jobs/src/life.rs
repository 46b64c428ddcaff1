//! The life of a job: pure rules, tested as tables of cases.
//!
//! Each rule looks at a [`State`] that was read and says what may become of it. The store turns the answer
//! into one compare-and-set on `status` and `attempt`, so a rule that was applied to an old state changes nothing.

use chrono::{DateTime, Duration, Utc};

use crate::JobStatus;

/// What the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where the job is.
    pub status: JobStatus,
    /// Raised by each claim.
    pub attempt: u32,
    /// How often the sweeper put it back since it landed or was retried by hand.
    pub put_backs: u32,
    /// Not to be claimed before.
    pub not_before: DateTime<Utc>,
    /// When the running attempt is overdue.
    pub deadline: Option<DateTime<Utc>>,
    /// Until when the worker's last heartbeat speaks for it.
    pub lease_until: Option<DateTime<Utc>>,
    /// When a queued job is announced again, because nobody came.
    pub wake_at: DateTime<Utc>,
    /// How often it was announced again since it was queued.
    pub wakes: u32,
}

/// Why a processing job was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It ran past its deadline.
    Overdue,
    /// Its worker stopped giving signs of life.
    Orphaned,
}

impl Left {
    /// The code of the error that a job gets when it is not put back again.
    pub fn code(self) -> &'static str {
        match self {
            Left::Overdue => "timed_out",
            Left::Orphaned => "orphaned",
        }
    }

    /// The same for people.
    pub fn message(self) -> &'static str {
        match self {
            Left::Overdue => "the job ran past its time limit, also after it was put back",
            Left::Orphaned => "the process that worked on the job died, also after the job was put back",
        }
    }
}

/// What the sweeper does with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepVerdict {
    /// Nothing: it is as it should be.
    Leave,
    /// Queue it again.
    PutBack(Left),
    /// It was put back often enough: it has failed.
    Fail(Left),
    /// It is queued and nobody came: announce it again.
    Wake,
}

/// What somebody wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It shall end as failed: bad data, a cancel, a sweep, a deadline.
    Fail,
    /// It shall be queued again: released by its worker, requeued by the sweeper, retried by a person.
    Queue,
}

/// What becomes of a job once the ledger has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Its rows are committed: it has succeeded, whatever was wanted.
    Success,
    /// Nothing is committed and nothing can be any more: it has failed.
    Failed,
    /// Nothing is committed: a new attempt may begin.
    Queued,
}

/// Only the ledger ends a job: what becomes of it once the fence is above its last attempt and the ledger has been
/// read. `None` when the wish does not fit the status.
pub fn settle(status: JobStatus, wish: Wish, committed: bool) -> Option<Settled> {
    let fits = match wish {
        Wish::Fail => may_cancel(status),
        Wish::Queue => status == JobStatus::Processing || may_retry(status),
    };
    match wish {
        _ if !fits => None,
        _ if committed => Some(Settled::Success),
        Wish::Fail => Some(Settled::Failed),
        Wish::Queue => Some(Settled::Queued),
    }
}

/// The most doublings of the pause between two announcements of a queued job.
/// A long queue is normal; announcing all of it each minute would only lengthen the topic.
const WAKE_DOUBLINGS_MAX: u32 = 6;

/// Whether a worker may claim the job now.
pub fn may_claim(state: &State, now: DateTime<Utc>) -> bool {
    state.status == JobStatus::Queued && state.not_before <= now
}

/// Whether the worker of `attempt` still holds the job, and so may keep it alive, finish it or hand it back.
pub fn holds(state: &State, attempt: u32) -> bool {
    state.status == JobStatus::Processing && state.attempt == attempt
}

/// Whether a person may have a job done again.
pub fn may_retry(status: JobStatus) -> bool {
    status == JobStatus::Failed
}

/// Whether a person may end a job.
pub fn may_cancel(status: JobStatus) -> bool {
    matches!(status, JobStatus::Queued | JobStatus::Processing)
}

/// What the sweeper does with a job; the deadline counts before the lease.
pub fn sweep(state: &State, now: DateTime<Utc>, put_backs_max: u32) -> SweepVerdict {
    let passed = |time: Option<DateTime<Utc>>| time.is_some_and(|time| time <= now);
    let left = match state.status {
        JobStatus::Processing if passed(state.deadline) => Left::Overdue,
        JobStatus::Processing if passed(state.lease_until) => Left::Orphaned,
        JobStatus::Queued if state.not_before <= now && state.wake_at <= now => return SweepVerdict::Wake,
        _ => return SweepVerdict::Leave,
    };
    if state.put_backs < put_backs_max { SweepVerdict::PutBack(left) } else { SweepVerdict::Fail(left) }
}

/// When a job that was announced `wakes` times again is announced next.
pub fn next_wake(now: DateTime<Utc>, after: Duration, wakes: u32) -> DateTime<Utc> {
    now + after * (1 << wakes.min(WAKE_DOUBLINGS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobStatus::*;

    const ALL: [JobStatus; 5] = [Queued, Processing, Success, Failed, Downloaded];

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + second, 0).unwrap()
    }

    fn state(status: JobStatus) -> State {
        State {
            status,
            attempt: 3,
            put_backs: 0,
            not_before: at(0),
            deadline: Some(at(900)),
            lease_until: Some(at(60)),
            wake_at: at(60),
            wakes: 0,
        }
    }

    #[test]
    fn only_a_queued_job_whose_time_has_come_may_be_claimed() {
        for status in ALL {
            assert_eq!(may_claim(&state(status), at(0)), status == Queued, "{status:?}");
        }
        assert!(!may_claim(&state(Queued), at(-1)));
    }

    #[test]
    fn only_the_last_attempt_holds_a_job_and_only_while_it_runs() {
        for status in ALL {
            for attempt in 2..5 {
                let held = status == Processing && attempt == 3;
                assert_eq!(holds(&state(status), attempt), held, "{status:?} {attempt}");
            }
        }
    }

    #[test]
    fn people_may_retry_what_failed_and_cancel_what_has_not_ended() {
        let table = [
            // status, retry, cancel
            (Queued, false, true),
            (Processing, false, true),
            (Success, false, false),
            (Failed, true, false),
            (Downloaded, false, false),
        ];
        for (status, retry, cancel) in table {
            let found = (may_retry(status), may_cancel(status));
            assert_eq!(found, (retry, cancel), "{status:?}");
        }
    }

    #[test]
    fn the_ledger_decides_and_no_wish_overrules_it() {
        use Wish::*;
        let table = [
            // status, wish, without a commit, with one
            (Queued, Fail, Some(Settled::Failed), Some(Settled::Success)),
            (Processing, Fail, Some(Settled::Failed), Some(Settled::Success)),
            (Success, Fail, None, None),
            (Failed, Fail, None, None),
            (Downloaded, Fail, None, None),
            (Queued, Queue, None, None),
            (Processing, Queue, Some(Settled::Queued), Some(Settled::Success)),
            (Success, Queue, None, None),
            (Failed, Queue, Some(Settled::Queued), Some(Settled::Success)),
            (Downloaded, Queue, None, None),
        ];
        for (status, wish, without, with) in table {
            assert_eq!(settle(status, wish, false), without, "{status:?} {wish:?}");
            assert_eq!(settle(status, wish, true), with, "{status:?} {wish:?} committed");
        }
    }

    #[test]
    fn the_sweeper_puts_back_once_and_then_fails() {
        use Left::*;
        use SweepVerdict::*;
        let table = [
            // status, put_backs, now, verdict
            (Processing, 0, 0, Leave),
            (Processing, 0, 59, Leave),
            (Processing, 0, 60, PutBack(Orphaned)),
            (Processing, 1, 60, Fail(Orphaned)),
            (Processing, 0, 900, PutBack(Overdue)),
            (Processing, 1, 900, Fail(Overdue)),
            (Queued, 0, 59, Leave),
            (Queued, 0, 60, Wake),
            (Queued, 1, 60, Wake),
            (Success, 0, 9_999, Leave),
            (Failed, 0, 9_999, Leave),
            (Downloaded, 0, 9_999, Leave),
        ];
        for (status, put_backs, now, verdict) in table {
            let state = State { put_backs, ..state(status) };
            assert_eq!(sweep(&state, at(now), 1), verdict, "{status:?} {put_backs} {now}");
        }
    }

    #[test]
    fn a_job_that_waits_for_its_time_is_not_announced() {
        let state = State { not_before: at(500), ..state(Queued) };
        assert_eq!(sweep(&state, at(100), 1), SweepVerdict::Leave);
    }

    #[test]
    fn announcements_become_rarer_up_to_a_bound() {
        let minutes = |wakes| (next_wake(at(0), Duration::seconds(60), wakes) - at(0)).num_minutes();
        assert_eq!([0, 1, 2, 6, 7, u32::MAX].map(minutes), [1, 2, 4, 64, 64, 64]);
    }
}
