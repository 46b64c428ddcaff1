//! From the text of a file to a [`Pipeline`], or to every problem of the file at once: YAML, then
//! shape, then meaning. Each part whose shape is right is read even when another part is wrong.

mod collect;
mod columns;
mod format;
mod http;
mod notify;
mod parameters;
mod program;
mod schedule;
mod sinks;
mod steps;

use sha2::{Digest, Sha256};

use crate::problem::{Place, Problems, quoted};
use crate::spec::{DuplicatesSpec, OrderSpec, RejectsSpec, SourceSpec, ThenSpec, UploadSpec};
use crate::tree::Node;
use crate::{
    Column, Duplicates, ErrorBudget, Format, Order, Pipeline, PipelineName, Problem, Program, SinkSpec,
    Source, Step, Then, Tolerance, UploadSource, shape, tree,
};

/// Largest upload when the file gives none: 1 GiB.
pub const MAX_SIZE_BYTES_DEFAULT: u64 = 1 << 30;

/// Digits of a version: 64 bits of the hash, enough to tell the versions of one file apart.
const VERSION_DIGITS: usize = 16;

impl Pipeline {
    /// Reads the text of a pipeline file; `file` is its name in problems.
    pub fn parse(file: &str, text: &str) -> Result<Pipeline, Vec<Problem>> {
        read(file, text).map(|(pipeline, _)| pipeline)
    }
}

/// The pipeline and the tree it was read from, whose places serve problems between pipelines.
pub(crate) fn read(file: &str, text: &str) -> Result<(Pipeline, Node), Vec<Problem>> {
    let mut problems = Problems::of(file);
    let Some(root) = tree::parse(text, &mut problems) else {
        return Err(problems.into_sorted());
    };
    shape::check(&root, &mut problems);
    match meaning(&root, text, &mut problems) {
        Some(pipeline) if problems.is_empty() => Ok((pipeline, root)),
        _ if problems.is_empty() => {
            problems.add(Place::FILE, "the file can't be understood");
            Err(problems.into_sorted())
        }
        _ => Err(problems.into_sorted()),
    }
}

/// `None` when a part could not be read; the other parts were read and their problems told.
fn meaning(root: &Node, text: &str, problems: &mut Problems) -> Option<Pipeline> {
    let name = name(root, problems);
    let source = source(root.field("source"), problems);
    let format = format::read(root.field("format"), problems);
    let collect = collect::read(root.field("collect"), name.as_ref(), problems);
    let parameters =
        parameters::read(root.field("parameters"), matches!(source, Some(Source::Http(_))), problems);
    let rejects = rejects(root.field("rejects"), problems);
    let work = match &format {
        Some(Format::File) => files(root, problems),
        format => records(root, format.as_ref(), problems),
    };
    let notify = notify::read(root.field("notify"), problems);
    let description: Option<String> = root.field("description").and_then(text_of);
    let work = work?;
    Some(Pipeline {
        name: name?,
        description: description.unwrap_or_default(),
        version: version(text),
        text: text.to_owned(),
        source: source?,
        format: format?,
        columns: work.columns,
        parameters: parameters?,
        order: order(root.field("order")),
        collect: collect?,
        rejects: rejects?,
        steps: work.steps,
        programs: work.programs,
        sinks: work.sinks,
        notify: notify?,
    })
}

/// What is done with what comes in.
#[derive(Default)]
struct Work {
    columns: Vec<Column>,
    steps: Vec<Step>,
    programs: Vec<Program>,
    sinks: Vec<SinkSpec>,
}

fn records(root: &Node, format: Option<&Format>, problems: &mut Problems) -> Option<Work> {
    program::tell_misplaced(root, problems);
    let columns = columns::read(root.field("columns"), format, problems);
    let steps = steps::read(root.field("steps"), problems);
    let sinks = sinks::read(root.field("sinks"), columns.as_deref(), steps.as_deref(), problems);
    Some(Work { columns: columns?, steps: steps?, sinks: sinks?, ..Work::default() })
}

fn files(root: &Node, problems: &mut Problems) -> Option<Work> {
    program::tell_unfit(root, problems);
    let programs = steps::read_programs(root.field("steps"), problems)?;
    Some(Work { programs, ..Work::default() })
}

fn order(node: Option<&Node>) -> Option<Order> {
    Some(match shape::part::<OrderSpec>(node?)? {
        OrderSpec::Arrival => Order::Arrival,
        OrderSpec::Any => Order::Any,
    })
}

fn name(root: &Node, problems: &mut Problems) -> Option<PipelineName> {
    let node = root.field("pipeline")?;
    parsed(&text_of(node)?, node.place, problems)
}

/// A name or a path, or the problem with it.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
    place: Place,
    problems: &mut Problems,
) -> Option<T> {
    text.parse().map_err(|error: T::Err| problems.add(place, error.to_string())).ok()
}

fn text_of(node: &Node) -> Option<String> {
    match &node.value {
        tree::Value::Scalar { text, .. } => Some(text.clone()),
        _ => None,
    }
}

/// The first digits of the SHA-256 of the text: it changes with every change of the file.
fn version(text: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(text.as_bytes()));
    digits.truncate(VERSION_DIGITS);
    digits
}

fn source(node: Option<&Node>, problems: &mut Problems) -> Option<Source> {
    let Some(node) = node else {
        return upload(UploadSpec::default(), Place::FILE, problems);
    };
    match shape::part(node)? {
        SourceSpec::Upload(spec) => {
            let place = node.field("upload").map_or(node.place, |upload| upload.place_of("max_size"));
            upload(spec, place, problems)
        }
        SourceSpec::Http(spec) => {
            http::read(*spec, node.field("http")?, problems).map(|source| Source::Http(Box::new(source)))
        }
    }
}

fn upload(spec: UploadSpec, size_place: Place, problems: &mut Problems) -> Option<Source> {
    let max_size_bytes = match spec.max_size {
        None => MAX_SIZE_BYTES_DEFAULT,
        Some(written) => size_bytes(&written.0, size_place, problems)?,
    };
    let duplicates = match spec.duplicates {
        None | Some(DuplicatesSpec::First) => Duplicates::First,
        Some(DuplicatesSpec::Accept) => Duplicates::Accept,
    };
    let allow_empty = spec.allow_empty.unwrap_or(false);
    Some(Source::Upload(UploadSource { max_size_bytes, duplicates, allow_empty }))
}

/// A size such as `2GiB`: a whole number and a unit, or bytes without one.
fn size_bytes(text: &str, place: Place, problems: &mut Problems) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.trim() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1_000),
        "KiB" => Some(1 << 10),
        "MB" => Some(1_000_000),
        "MiB" => Some(1 << 20),
        "GB" => Some(1_000_000_000),
        "GiB" => Some(1 << 30),
        "TB" => Some(1_000_000_000_000),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes =
        number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    // The sizes of objects are kept as signed 64-bit numbers by databases.
    match bytes.filter(|bytes| (1..=i64::MAX as u64).contains(bytes)) {
        Some(bytes) => Some(bytes),
        None => {
            let help = "write a whole number above zero and one of B, KB, KiB, MB, MiB, GB, GiB, TB, TiB, such as `2GiB`";
            problems.add_help(place, format!("{} is not a size", quoted(text)), help);
            None
        }
    }
}

fn rejects(node: Option<&Node>, problems: &mut Problems) -> Option<ErrorBudget> {
    let default = ErrorBudget { tolerate: Tolerance::Percent(10.0), then: Then::Abort };
    let Some(node) = node else { return Some(default) };
    let spec: RejectsSpec = shape::part(node)?;
    let tolerate = match spec.tolerate {
        None => default.tolerate,
        Some(written) => tolerance(&written.0, node.place_of("tolerate"), problems)?,
    };
    let then = match spec.then {
        None | Some(ThenSpec::Abort) => Then::Abort,
        Some(ThenSpec::Continue) => Then::Continue,
    };
    Some(ErrorBudget { tolerate, then })
}

fn tolerance(text: &str, place: Place, problems: &mut Problems) -> Option<Tolerance> {
    let tolerance = match text.strip_suffix('%') {
        Some(percent) => {
            decimal(percent.trim_end()).filter(|percent| *percent <= 100.0).map(Tolerance::Percent)
        }
        None => text.parse().ok().map(Tolerance::Records),
    };
    if tolerance.is_none() {
        let message = format!("{} is not a share or a number of records", quoted(text));
        problems.add_help(place, message, "write a share from `0%` to `100%`, or a whole number");
    }
    tolerance
}

/// Digits with at most one point: no sign, no exponent, no `inf`.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}
