//! The schedules of a pipeline file.

use chrono_tz::Tz;

use crate::problem::{Problems, quoted};
use crate::spec::{MissedSpec, ScheduleSpec};
use crate::tree::Node;
use crate::{CRON_LINES_MAX, Missed, Schedule};

/// A schedule, or `None` with what is wrong told.
pub fn read(spec: ScheduleSpec, node: &Node, problems: &mut Problems) -> Option<Schedule> {
    let zone = super::columns::zone(spec.zone, node.place_of("zone"), problems);
    let field = node.field("cron")?;
    let texts = spec.cron.texts();
    if texts.is_empty() || texts.len() > CRON_LINES_MAX {
        let message = format!("there are {} cron lines", texts.len());
        problems.add_help(field.place, message, format!("write 1 to {CRON_LINES_MAX}"));
        return None;
    }
    let mut lines = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match Schedule::line(text) {
            Ok(line) => lines.push(line),
            Err(why) => problems.add_help(
                field.place_of_item(index),
                format!("{} is not a cron line: {why}", quoted(text)),
                "write minute, hour, day of the month, month and day of the week, such as `*/15 * * * *`",
            ),
        }
    }
    let missed = match spec.missed {
        None | Some(MissedSpec::Latest) => Missed::Latest,
        Some(MissedSpec::All) => Missed::All,
        Some(MissedSpec::None) => Missed::None,
    };
    let zone: Tz = zone?.parse().ok()?;
    (lines.len() == texts.len()).then(|| Schedule::new(lines, zone, missed))
}
