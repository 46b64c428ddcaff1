//! When and where the reports of a pipeline are collected.

use crate::problem::{Problems, quoted};
use crate::spec::{CollectSpec, ScheduleSpec};
use crate::tree::Node;
use crate::{Collect, PipelineName, shape};

use super::schedule;

/// Longest folder, in bytes: with the slot, the job and a file behind it, a key has at most 1,024.
const FOLDER_BYTES_MAX: usize = 200;

/// Folders of the object store that are used for something else.
const TAKEN: [&str; 3] = ["landing", "pushed", "jobs"];

/// `Some(None)` when nothing is collected, `None` when it could not be read.
pub fn read(
    node: Option<&Node>,
    name: Option<&PipelineName>,
    problems: &mut Problems,
) -> Option<Option<Collect>> {
    let Some(node) = node else { return Some(None) };
    let spec: CollectSpec = shape::part(node)?;
    let schedule = ScheduleSpec { cron: spec.cron, zone: spec.zone, missed: None };
    let schedule = schedule::read(schedule, node, problems);
    let folder = match spec.to {
        Some(to) if is_folder(&to) => Some(to),
        Some(to) => {
            let message = format!("{} is not a folder for reports", quoted(&to));
            let help = "write parts of a-z, A-Z, 0-9, `.`, `_` and `-` with `/` between them, such as \
                `collected/sales`, not in `landing`, `pushed` or `jobs`";
            problems.add_help(node.place_of("to"), message, help);
            None
        }
        None => name.map(Collect::folder_of),
    };
    Some(Some(Collect { schedule: schedule?, folder: folder? }))
}

fn is_folder(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_part = |part: &str| !part.trim_matches('.').is_empty() && part.bytes().all(allowed);
    let first = text.split('/').next().unwrap_or_default();
    text.len() <= FOLDER_BYTES_MAX && text.split('/').all(is_part) && !TAKEN.contains(&first)
}
