//! All pipelines of a folder together: names that are unique, references that lead somewhere.
//! Made at start by every role and command; nothing runs on a set with a problem.

use std::collections::BTreeMap;

use crate::problem::{Place, Problems, did_you_mean, nearest};
use crate::read::read;
use crate::tree::Node;
use crate::{
    Column, ColumnType, FileName, Pipeline, PipelineName, Problem, Reference, SinkSpec, Step, TableName,
};

/// The pipelines of an installation, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PipelineSet {
    by_name: BTreeMap<PipelineName, Pipeline>,
}

/// A pipeline with what is needed to tell problems of its file.
struct Entry {
    file: String,
    root: Node,
    pipeline: Pipeline,
}

impl PipelineSet {
    /// Reads all files, given as name and text; on failure every problem of every file.
    pub fn from_files(files: Vec<(String, String)>) -> Result<PipelineSet, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        let total = files.len();
        for (file, text) in files {
            match read(&file, &text) {
                Ok((pipeline, root)) => entries.push(Entry { file, root, pipeline }),
                Err(found) => problems.extend(found),
            }
        }
        // A table whose pipeline has a problem of its own is not known, so nothing is said of it.
        let complete = entries.len() == total;
        for (index, entry) in entries.iter().enumerate() {
            problems.extend(entry.problems(&entries, index, complete));
        }
        if !problems.is_empty() {
            problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            return Err(problems);
        }
        let by_name =
            entries.into_iter().map(|entry| (entry.pipeline.name.clone(), entry.pipeline)).collect();
        Ok(PipelineSet { by_name })
    }

    /// The pipeline of that name.
    pub fn get(&self, name: &PipelineName) -> Option<&Pipeline> {
        self.by_name.get(name)
    }

    /// All pipelines, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Pipeline> {
        self.by_name.values()
    }

    /// The pipeline that writes a table; the first by name when several do.
    pub fn writer_of(&self, table: &TableName) -> Option<&Pipeline> {
        self.iter().find(|pipeline| pipeline.writes(table))
    }

    /// The pipeline name most like a text, for an error that helps.
    pub fn nearest(&self, name: &str) -> Option<&PipelineName> {
        let near = nearest(name, self.by_name.keys().map(PipelineName::as_str))?;
        self.by_name.keys().find(|known| known.as_str() == near)
    }

    /// How many pipelines there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl Pipeline {
    /// The tables of its sinks that lie in the database: those that other pipelines may look into.
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.sinks.iter().filter_map(|sink| match sink {
            SinkSpec::Table(table) => Some(&table.name),
            SinkSpec::Lake(_) | SinkSpec::File(_) => None,
        })
    }

    /// The tables of its sinks that lie in the lake.
    pub fn lake_tables(&self) -> impl Iterator<Item = &TableName> {
        self.sinks.iter().filter_map(|sink| match sink {
            SinkSpec::Lake(lake) => Some(&lake.name),
            SinkSpec::Table(_) | SinkSpec::File(_) => None,
        })
    }

    /// The files of its sinks.
    pub fn files(&self) -> impl Iterator<Item = &FileName> {
        self.sinks.iter().filter_map(|sink| match sink {
            SinkSpec::File(file) => Some(&file.name),
            SinkSpec::Table(_) | SinkSpec::Lake(_) => None,
        })
    }

    /// Whether one of its sinks is this table.
    pub fn writes(&self, table: &TableName) -> bool {
        self.tables().any(|name| name == table)
    }

    /// Whether a step is SQL: then the sinks get other columns than the input has.
    pub fn has_sql(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Sql(_)))
    }
}

impl Entry {
    /// The problems of this file among the others.
    fn problems(&self, all: &[Entry], index: usize, complete: bool) -> Vec<Problem> {
        let mut problems = Problems::of(&self.file);
        self.tell_name(&all[..index], &mut problems);
        for (position, column) in self.pipeline.columns.iter().enumerate() {
            let Some(reference) = &column.references else {
                continue;
            };
            let item = self.root.field("columns").and_then(|columns| columns.items().get(position));
            let place = item.map_or(Place::FILE, |item| item.place_of("references"));
            tell_reference(column, reference, all, complete, place, &mut problems);
        }
        problems.into_sorted()
    }

    fn tell_name(&self, earlier: &[Entry], problems: &mut Problems) {
        let name = &self.pipeline.name;
        let place = self.root.place_of("pipeline");
        if stem(&self.file) != name.as_str() {
            let message = format!("the pipeline `{name}` is in a file of another name");
            problems.add_help(place, message, format!("name the file `{name}.yaml`"));
        }
        if let Some(other) = earlier.iter().find(|other| other.pipeline.name == *name) {
            let message = format!("a pipeline `{name}` is also in {}", other.file);
            problems.add_help(place, message, "give each pipeline a name of its own");
        }
    }
}

/// The name of a file without folder and ending.
fn stem(file: &str) -> &str {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")).unwrap_or(name)
}

fn tell_reference(
    column: &Column,
    reference: &Reference,
    all: &[Entry],
    complete: bool,
    place: Place,
    problems: &mut Problems,
) {
    let writers: Vec<&Pipeline> = all
        .iter()
        .map(|entry| &entry.pipeline)
        .filter(|pipeline| pipeline.writes(&reference.table))
        .collect();
    if writers.is_empty() {
        if complete {
            let known: Vec<&str> =
                all.iter().flat_map(|entry| entry.pipeline.tables()).map(TableName::as_str).collect();
            let help = did_you_mean(reference.table.as_str(), &known);
            let help =
                help.unwrap_or_else(|| "name a table that a pipeline of this folder writes".to_owned());
            problems.add_help(place, format!("no pipeline writes the table `{}`", reference.table), help);
        }
        return;
    }
    // What an SQL step makes of the columns is known only where the SQL engine is.
    for writer in writers.into_iter().filter(|writer| !writer.has_sql()) {
        tell_column(column, reference, writer, place, problems);
    }
}

fn tell_column(
    column: &Column,
    reference: &Reference,
    writer: &Pipeline,
    place: Place,
    problems: &mut Problems,
) {
    let Some(target) = writer.columns.iter().find(|target| target.name == reference.column) else {
        let known: Vec<&str> = writer.columns.iter().map(|known| known.name.as_str()).collect();
        let message = format!("the table `{}` has no column `{}`", reference.table, reference.column);
        let help = did_you_mean(reference.column.as_str(), &known);
        problems.add_help(
            place,
            message,
            help.unwrap_or_else(|| format!("see the columns of `{}`", writer.name)),
        );
        return;
    };
    if !same_type(&target.kind, &column.kind) {
        let (table, name) = (&reference.table, &reference.column);
        let message = format!(
            "`{}` is {}, but `{table}.{name}` is {}",
            column.name,
            column.kind.word(),
            target.kind.word()
        );
        problems.add_help(place, message, "give both columns the same type");
    }
}

/// Whether values of the two can be equal: the same type, decimals of the same scale.
fn same_type(a: &ColumnType, b: &ColumnType) -> bool {
    match (a, b) {
        (ColumnType::Decimal { scale: a, .. }, ColumnType::Decimal { scale: b, .. }) => a == b,
        _ => a.word() == b.word(),
    }
}
