//! The steps of a pipeline file: checks and SQL statements, or programs. Whether their SQL plans against the
//! columns is found out where the SQL engine is.

use crate::problem::{Problems, quoted};
use crate::spec::{CheckSpec, ElseSpec, StepSpec};
use crate::tree::Node;
use crate::{Check, CheckElse, ColumnName, Program, Step, shape};

use super::{parsed, program};

/// All programs of a pipeline of files, or `None` when one could not be read.
pub fn read_programs(node: Option<&Node>, problems: &mut Problems) -> Option<Vec<Program>> {
    let one = |item: &Node, problems: &mut Problems| match shape::part(item)? {
        StepSpec::Program(spec) => program::read(&spec, item.field("program")?, problems),
        StepSpec::Check(_) | StepSpec::Sql(_) => None,
    };
    let programs: Vec<Option<Program>> = node?.items().iter().map(|item| one(item, problems)).collect();
    programs.into_iter().collect()
}

/// All steps, or `None` when one could not be read.
pub fn read(node: Option<&Node>, problems: &mut Problems) -> Option<Vec<Step>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let steps: Vec<Option<Step>> = node.items().iter().map(|item| step(item, problems)).collect();
    tell_late_rejects(node.items(), problems);
    let sound: Option<Vec<Step>> = steps.into_iter().collect();
    let steps = sound.filter(|_| matches!(node.value, crate::tree::Value::List(_)))?;
    tell_doubled(&steps, node, problems);
    Some(steps)
}

fn step(node: &Node, problems: &mut Problems) -> Option<Step> {
    match shape::part::<StepSpec>(node)? {
        StepSpec::Check(spec) => check(spec, node.field("check")?, problems).map(Step::Check),
        StepSpec::Sql(sql) => {
            if sql.trim().is_empty() {
                problems.add_help(
                    node.place_of("sql"),
                    "the statement is empty",
                    "write a SELECT over the table `input`",
                );
                return None;
            }
            Some(Step::Sql(sql))
        }
        StepSpec::Program(_) => None,
    }
}

fn check(spec: CheckSpec, node: &Node, problems: &mut Problems) -> Option<Check> {
    let name: Option<ColumnName> = parsed(&spec.name, node.place_of("name"), problems);
    if spec.r#where.trim().is_empty() {
        let help = "write an SQL expression that is true for a good row";
        problems.add_help(node.place_of("where"), "the condition is empty", help);
        return None;
    }
    let otherwise = match spec.r#else {
        ElseSpec::Reject => CheckElse::Reject,
        ElseSpec::Fail => CheckElse::Fail,
    };
    Some(Check { name: name?, condition: spec.r#where, otherwise })
}

/// After an SQL step a row may come from many records or from none, so there is none to refuse.
fn tell_late_rejects(items: &[Node], problems: &mut Problems) {
    let after_sql = items.iter().skip_while(|item| item.field("sql").is_none());
    for check in after_sql.filter_map(|item| item.field("check")) {
        let Some(otherwise) = check.field("else") else {
            continue;
        };
        if super::text_of(otherwise).as_deref() == Some("reject") {
            let message = "after an sql step a row is no longer a record that can be refused";
            problems.add_help(
                otherwise.place,
                message,
                "write `else: fail`, or put the check before the sql step",
            );
        }
    }
}

fn tell_doubled(steps: &[Step], node: &Node, problems: &mut Problems) {
    let mut seen: Vec<&ColumnName> = Vec::new();
    for (step, item) in steps.iter().zip(node.items()) {
        let Step::Check(check) = step else { continue };
        if seen.contains(&&check.name) {
            let place = item.field("check").map_or(item.place, |check| check.place_of("name"));
            let message = format!("two checks have the name {}", quoted(check.name.as_str()));
            problems.add_help(
                place,
                message,
                "give each check a name of its own: it is the code of its rejects",
            );
        }
        seen.push(&check.name);
    }
}
