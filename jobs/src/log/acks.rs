//! Which offset of a partition may be committed: the one after the longest run of records that are all done.
//! Pure; used by both logs, one tracker for each partition that a member holds.

use std::collections::VecDeque;

/// The records of one partition that were given out and are not yet behind the committed offset.
/// As long as the caller's buffer is bounded, so is this.
#[derive(Debug, Default)]
pub(super) struct Acks {
    given: VecDeque<Given>,
}

#[derive(Debug)]
struct Given {
    offset: i64,
    done: bool,
}

impl Acks {
    /// Notes that a record was given out. Offsets rise; they may leave gaps.
    pub fn given(&mut self, offset: i64) {
        self.given.push_back(Given { offset, done: false });
    }

    /// Notes that a record is done. Returns the last offset of the run of done records at the front when
    /// that run is new. An offset that was not given out, or is committed already, changes nothing.
    pub fn done(&mut self, offset: i64) -> Option<i64> {
        let found = self.given.binary_search_by_key(&offset, |given| given.offset).ok()?;
        self.given.get_mut(found)?.done = true;
        let mut last = None;
        while let Some(first) = self.given.pop_front_if(|first| first.done) {
            last = Some(first.offset);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out `offsets`, acks in the order of `acks`, and says what is committed after each.
    fn check(offsets: &[i64], acks: &[i64], committed: &[Option<i64>]) {
        let mut tracker = Acks::default();
        offsets.iter().for_each(|offset| tracker.given(*offset));
        let found: Vec<_> = acks.iter().map(|offset| tracker.done(*offset)).collect();
        assert_eq!(found, committed, "{offsets:?} acked as {acks:?}");
    }

    #[test]
    fn only_the_run_of_done_records_at_the_front_is_committed() {
        check(&[0, 1, 2], &[0, 1, 2], &[Some(0), Some(1), Some(2)]);
        check(&[0, 1, 2], &[2, 1, 0], &[None, None, Some(2)]);
        check(&[5, 6, 7, 8], &[6, 5, 8], &[None, Some(6), None]);
    }

    #[test]
    fn gaps_between_offsets_do_not_hold_up_a_commit() {
        check(&[3, 7, 20], &[7, 3, 20], &[None, Some(7), Some(20)]);
    }

    #[test]
    fn a_second_ack_and_an_ack_of_a_stranger_change_nothing() {
        check(&[0, 1], &[0, 0, 9, 1], &[Some(0), None, None, Some(1)]);
        check(&[4, 5], &[5, 5, 2], &[None, None, None]);
    }

    #[test]
    fn what_is_committed_is_forgotten() {
        let mut tracker = Acks::default();
        (0..100).for_each(|offset| tracker.given(offset));
        for offset in 0..60 {
            tracker.done(offset);
        }
        assert_eq!(tracker.given.len(), 40);
    }
}
