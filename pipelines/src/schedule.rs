//! Schedules: cron lines with a time zone, and the slots they make. Pure: the present is a parameter.
//!
//! A slot is an instant at which something is due. Where clocks are put forward, a line with fixed hours and
//! minutes whose time does not exist is due right after the gap, a line with steps, ranges or `*` is not;
//! where clocks are put back, the first is due once (at the earlier instant), the second at both.
//! Called by the role `fetcher`, for what is fetched and what is collected.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Most cron lines of one schedule: a line each for the hours of a day is far below.
pub const CRON_LINES_MAX: usize = 24;

/// When something is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    lines: Vec<Cron>,
    zone: Tz,
    /// Which of the slots that passed while no fetcher ran are made up for.
    pub missed: Missed,
}

/// What is done about slots that passed while no fetcher ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// The latest of them is done (the default).
    Latest,
    /// Each of them is done, in order.
    All,
    /// None of them is done.
    None,
}

impl Schedule {
    /// A schedule of lines that were read by [`Schedule::line`].
    pub fn new(lines: Vec<Cron>, zone: Tz, missed: Missed) -> Self {
        Self { lines, zone, missed }
    }

    /// Reads one line of five fields: minute, hour, day of the month, month, day of the week. The error says
    /// what is wrong with it.
    pub fn line(text: &str) -> Result<Cron, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let line = parser.parse(text).map_err(|error| lowercase(&error.to_string()))?;
        // 29 February is found from any day; 31 February from none.
        match line.find_next_occurrence(&DateTime::<Utc>::UNIX_EPOCH, false) {
            Ok(_) => Ok(line),
            Err(_) => Err("it names no day that exists".to_owned()),
        }
    }

    /// The zone that its lines are meant in.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first slot after `time`.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.zone);
        let next = |line: &Cron| line.find_next_occurrence(&local, false).ok();
        self.lines.iter().filter_map(next).min().map(|slot| slot.with_timezone(&Utc))
    }

    /// The last slot before `time`.
    pub fn last_before(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.zone);
        let last = |line: &Cron| line.find_previous_occurrence(&local, false).ok();
        self.lines.iter().filter_map(last).max().map(|slot| slot.with_timezone(&Utc))
    }

    /// The slots after `after` up to and with `until`, in order, at most `limit`.
    pub fn slots_between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: usize,
    ) -> Vec<DateTime<Utc>> {
        let next = |slot: &DateTime<Utc>| self.next_after(*slot);
        let slots = std::iter::successors(self.next_after(after), next);
        slots.take_while(|slot| *slot <= until).take(limit).collect()
    }

    /// The slots that are to be done now, when `after` was the last that was taken: as [`Missed`] says.
    /// A slot that passed less than `grace` ago is not missed, only due. At most `limit`.
    pub fn due(
        &self,
        after: DateTime<Utc>,
        now: DateTime<Utc>,
        grace: chrono::TimeDelta,
        limit: usize,
    ) -> Vec<DateTime<Utc>> {
        if self.missed == Missed::All {
            return self.slots_between(after, now, limit);
        }
        // A second later, so that a slot at this very instant is found: slots lie on whole minutes.
        let latest = self.last_before(now + chrono::TimeDelta::seconds(1)).filter(|slot| *slot <= now);
        let latest = latest.filter(|slot| *slot > after);
        let fresh = |slot: &DateTime<Utc>| self.missed == Missed::Latest || now - *slot <= grace;
        latest.filter(fresh).into_iter().collect()
    }
}

/// The messages of the library begin with a capital and end with a full stop.
fn lowercase(text: &str) -> String {
    let mut chars = text.trim_end_matches('.').chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn schedule(lines: &[&str], zone: &str, missed: Missed) -> Schedule {
        let lines = lines.iter().map(|line| Schedule::line(line).unwrap()).collect();
        Schedule::new(lines, zone.parse().unwrap(), missed)
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn listed(slots: &[DateTime<Utc>]) -> Vec<String> {
        slots.iter().map(|slot| slot.format("%m-%d %H:%M").to_string()).collect()
    }

    #[test]
    fn several_lines_make_one_row_of_slots() {
        let every_90_minutes = schedule(&["0 0-21/3 * * *", "30 1-22/3 * * *"], "UTC", Missed::All);
        let slots =
            every_90_minutes.slots_between(at("2026-11-20T23:59:00Z"), at("2026-11-22T00:00:00Z"), 99);
        assert_eq!(slots.len(), 17);
        assert!(slots.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::minutes(90)), "{slots:?}");
    }

    #[test]
    fn a_line_at_the_same_instant_as_another_makes_one_slot() {
        let twice = schedule(&["0 * * * *", "*/30 * * * *"], "UTC", Missed::All);
        let slots = twice.slots_between(at("2026-11-21T09:59:00Z"), at("2026-11-21T11:00:00Z"), 99);
        assert_eq!(listed(&slots), ["11-21 10:00", "11-21 10:30", "11-21 11:00"]);
    }

    #[test]
    fn where_clocks_are_put_forward_a_fixed_time_is_due_after_the_gap_and_steps_are_left_out() {
        let fixed = schedule(&["30 2 * * *"], "Europe/Madrid", Missed::All);
        let slots = fixed.slots_between(at("2026-03-28T00:00:00Z"), at("2026-03-30T12:00:00Z"), 9);
        assert_eq!(listed(&slots), ["03-28 01:30", "03-29 01:00", "03-30 00:30"]);
        let steps = schedule(&["30 */1 * * *"], "Europe/Madrid", Missed::All);
        let slots = steps.slots_between(at("2026-03-29T00:00:00Z"), at("2026-03-29T02:00:00Z"), 9);
        assert_eq!(listed(&slots), ["03-29 00:30", "03-29 01:30"]);
    }

    #[test]
    fn where_clocks_are_put_back_a_fixed_time_is_due_once_and_steps_twice() {
        let fixed = schedule(&["30 2 * * *"], "Europe/Madrid", Missed::All);
        let slots = fixed.slots_between(at("2026-10-24T12:00:00Z"), at("2026-10-26T00:00:00Z"), 9);
        assert_eq!(listed(&slots), ["10-25 00:30"]);
        let steps = schedule(&["*/30 * * * *"], "Europe/Madrid", Missed::All);
        let slots = steps.slots_between(at("2026-10-24T23:59:00Z"), at("2026-10-25T02:00:00Z"), 9);
        assert_eq!(
            listed(&slots),
            ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"]
        );
    }

    #[test]
    fn the_last_slot_before_is_the_one_that_the_next_came_after() {
        let lines = schedule(&["30 2 * * *", "*/15 9-17 * * 1-5"], "Europe/Madrid", Missed::All);
        let slots = lines.slots_between(at("2026-10-23T00:00:00Z"), at("2026-10-27T00:00:00Z"), 999);
        for pair in slots.windows(2) {
            assert_eq!(lines.last_before(pair[1]), Some(pair[0]));
        }
    }

    #[test]
    fn of_missed_slots_the_latest_all_or_none_are_due() {
        let (after, now) = (at("2026-11-21T10:00:00Z"), at("2026-11-21T11:05:00Z"));
        let due = |missed, limit| {
            let quarters = schedule(&["*/15 * * * *"], "UTC", missed);
            listed(&quarters.due(after, now, TimeDelta::minutes(1), limit))
        };
        assert_eq!(due(Missed::Latest, 9), ["11-21 11:00"]);
        assert_eq!(due(Missed::All, 9), ["11-21 10:15", "11-21 10:30", "11-21 10:45", "11-21 11:00"]);
        assert_eq!(due(Missed::All, 2), ["11-21 10:15", "11-21 10:30"]);
        assert!(due(Missed::None, 9).is_empty());
        let quarters = schedule(&["*/15 * * * *"], "UTC", Missed::None);
        let on_time = quarters.due(after, at("2026-11-21T11:00:00Z"), TimeDelta::minutes(1), 9);
        assert_eq!(listed(&on_time), ["11-21 11:00"]);
        assert!(quarters.due(at("2026-11-21T11:00:00Z"), now, TimeDelta::minutes(10), 9).is_empty());
    }

    #[test]
    fn a_line_that_is_wrong_or_never_due_is_refused() {
        for line in ["", "* * * *", "* * * * * *", "61 * * * *", "0 0 31 2 *", "every hour"] {
            assert!(Schedule::line(line).is_err(), "{line}");
        }
        assert!(Schedule::line("0 0 29 2 *").is_ok());
        assert_eq!(Schedule::line("0 0 31 2 *").unwrap_err(), "it names no day that exists");
    }
}
