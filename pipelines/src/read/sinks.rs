//! The sinks of a pipeline file: tables with their modes and keys, lake tables with their day, and files.

use crate::problem::{Place, Problems, did_you_mean, quoted};
use crate::spec::{self, FileSinkSpec, LakeSpec, ModeSpec, TableSpec};
use crate::tree::Node;
use crate::{
    Column, ColumnName, FileName, FileSink, LakeSink, Mode, SinkSpec, Step, TableName, TableSink, shape,
};

use super::parsed;

/// Tables whose names begin so are Tidemill's own: jobs, users, ledger.
pub const OWN_TABLES_PREFIX: &str = "tidemill_";

/// The name under which a step sees what came before.
const INPUT: &str = "input";

/// All sinks, or `None` when one could not be read. Keys are checked against the columns when these
/// are known and reach the sink as they are; what SQL produces is checked where the SQL engine is.
pub fn read(
    node: Option<&Node>,
    columns: Option<&[Column]>,
    steps: Option<&[Step]>,
    problems: &mut Problems,
) -> Option<Vec<SinkSpec>> {
    let node = node?;
    let unchanged = steps.is_some_and(|steps| !steps.iter().any(|step| matches!(step, Step::Sql(_))));
    let columns = columns.filter(|_| unchanged);
    let sinks: Vec<Option<SinkSpec>> =
        node.items().iter().map(|item| sink(item, columns, problems)).collect();
    let sinks: Vec<SinkSpec> = sinks.into_iter().collect::<Option<_>>()?;
    tell_doubled(&sinks, node, problems);
    (!sinks.is_empty()).then_some(sinks)
}

fn sink(node: &Node, columns: Option<&[Column]>, problems: &mut Problems) -> Option<SinkSpec> {
    match shape::part(node)? {
        spec::SinkSpec::Table(spec) => {
            table(&spec, node.field("table")?, columns, problems).map(SinkSpec::Table)
        }
        spec::SinkSpec::File(spec) => file(&spec, node.field("file")?, problems).map(SinkSpec::File),
        spec::SinkSpec::Lake(spec) => lake(&spec, node.field("lake")?, problems).map(SinkSpec::Lake),
    }
}

fn file(spec: &FileSinkSpec, node: &Node, problems: &mut Problems) -> Option<FileSink> {
    let place = node.place_of("name");
    let name: FileName = parsed(&spec.name, place, problems)?;
    if !name.as_str().to_ascii_lowercase().ends_with(".csv") {
        let message = format!("the file `{name}` is written as CSV");
        problems.add_help(place, message, format!("name it so: `{name}.csv`"));
        return None;
    }
    Some(FileSink { name })
}

/// Whether the day is among the columns is told where the SQL is planned.
fn lake(spec: &LakeSpec, node: &Node, problems: &mut Problems) -> Option<LakeSink> {
    let name = table_name(&spec.name, node.place_of("name"), problems);
    let day = spec.day.as_ref().map(|day| parsed(day, node.place_of("day"), problems));
    if !matches!(spec.mode, None | Some(ModeSpec::Append)) {
        problems.add_help(
            node.place_of("mode"),
            "a lake table only takes rows by append",
            "take `mode` out, or write a `table`, which can upsert and replace",
        );
        return None;
    }
    Some(LakeSink { name: name?, day: day.map_or(Some(None), |day| day.map(Some))? })
}

fn table(
    spec: &TableSpec,
    node: &Node,
    columns: Option<&[Column]>,
    problems: &mut Problems,
) -> Option<TableSink> {
    let name = table_name(&spec.name, node.place_of("name"), problems);
    let mode = match spec.mode {
        None | Some(ModeSpec::Append) => Mode::Append,
        Some(ModeSpec::Upsert) => Mode::Upsert,
        Some(ModeSpec::Replace) => Mode::Replace,
    };
    let key = key(spec, node, columns, problems);
    if mode == Mode::Upsert && key.as_ref().is_some_and(Vec::is_empty) {
        let place = if node.field("key").is_some() { node.place_of("key") } else { node.place_of("mode") };
        problems.add_help(
            place,
            "upsert needs a key",
            "add `key: [id]` with the columns that tell one row from another",
        );
        return None;
    }
    Some(TableSink { name: name?, mode, key: key? })
}

fn table_name(text: &str, place: Place, problems: &mut Problems) -> Option<TableName> {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with(OWN_TABLES_PREFIX) || lower == INPUT {
        let message = format!("the table name {} is taken by Tidemill itself", quoted(text));
        problems.add_help(
            place,
            message,
            format!("choose a name that is not `{INPUT}` and does not begin with `{OWN_TABLES_PREFIX}`"),
        );
        return None;
    }
    parsed(text, place, problems)
}

fn key(
    spec: &TableSpec,
    node: &Node,
    columns: Option<&[Column]>,
    problems: &mut Problems,
) -> Option<Vec<ColumnName>> {
    let Some(texts) = &spec.key else {
        return Some(Vec::new());
    };
    let field = node.field("key")?;
    let mut key: Vec<ColumnName> = Vec::new();
    let mut sound = true;
    for (index, text) in texts.iter().enumerate() {
        let place = field.place_of_item(index);
        let Some(name) = parsed::<ColumnName>(text, place, problems) else {
            sound = false;
            continue;
        };
        if key.contains(&name) {
            problems.add_help(place, format!("`{name}` stands twice in the key"), "name each column once");
            sound = false;
            continue;
        }
        columns.into_iter().for_each(|columns| tell_unfit(&name, columns, place, problems));
        key.push(name);
    }
    sound.then_some(key)
}

/// A key column has to be there, and always have a value.
fn tell_unfit(name: &ColumnName, columns: &[Column], place: Place, problems: &mut Problems) {
    match columns.iter().find(|column| column.name == *name) {
        None => {
            let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let message = format!("the key column `{name}` is not among the columns");
            let help = did_you_mean(name.as_str(), &known)
                .unwrap_or_else(|| "name a column of `columns`".to_owned());
            problems.add_help(place, message, help);
        }
        Some(column) if !column.required => {
            let message = format!("the key column `{name}` may be missing in a record");
            problems.add_help(place, message, format!("take `required: false` from the column `{name}`"));
        }
        Some(_) => {}
    }
}

/// The word of a sink in the file, and the name it gives.
fn named(sink: &SinkSpec) -> (&'static str, &str) {
    match sink {
        SinkSpec::Table(table) => ("table", table.name.as_str()),
        SinkSpec::Lake(lake) => ("lake", lake.name.as_str()),
        SinkSpec::File(file) => ("file", file.name.as_str()),
    }
}

fn tell_doubled(sinks: &[SinkSpec], node: &Node, problems: &mut Problems) {
    for (index, sink) in sinks.iter().enumerate() {
        let (word, name) = named(sink);
        let same = |other: &SinkSpec| {
            let (other_word, other_name) = named(other);
            other_word == word && other_name.eq_ignore_ascii_case(name)
        };
        if sinks[..index].iter().any(same) {
            let what = if word == "file" { "file" } else { "table" };
            let item = &node.items()[index];
            let place = item.field(word).map_or(item.place, |sink| sink.place_of("name"));
            problems.add_help(
                place,
                format!("the {what} `{name}` stands twice in the sinks"),
                format!("write to each {what} once"),
            );
        }
    }
}
