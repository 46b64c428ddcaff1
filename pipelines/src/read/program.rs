//! The program steps of a pipeline file, and what a pipeline of files must not have.

use crate::problem::{Place, Problems, quoted};
use crate::spec::{ProgramLimitsSpec, ProgramSpec, Written};
use crate::tree::Node;
use crate::{Argument, OutputName, Program, ProgramLimits};

use super::{http, size_bytes};

/// Least memory of a program: below it not even a small one is loaded.
const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// One program, or `None` with its problems told.
pub fn read(spec: &ProgramSpec, node: &Node, problems: &mut Problems) -> Option<Program> {
    let run = node.field("run")?;
    let mut arguments = Vec::new();
    for (index, text) in spec.run.iter().enumerate().skip(1) {
        match Argument::parse(text) {
            Ok(argument) => arguments.push(argument),
            Err(help) => {
                let message = format!("{} has a placeholder that is not known", quoted(text));
                problems.add_help(run.place_of_item(index), message, help);
            }
        }
    }
    let name = name(spec.run.first()?, run.place_of_item(0), problems);
    if arguments.len() + 1 == spec.run.len() {
        tell_unused(&arguments, run.place, problems);
    }
    let place = node.place_of("output");
    let output = OutputName::parse(&spec.output).map_err(|help| {
        problems.add_help(place, format!("{} is not a name for an output", quoted(&spec.output)), help);
    });
    let limits = limits(spec.limits.as_ref(), node.field("limits"), problems);
    let sound = arguments.len() + 1 == spec.run.len();
    Some(Program { name: name?, arguments, output: output.ok()?, limits: limits? }).filter(|_| sound)
}

/// Fields that only records have.
const OF_RECORDS: [&str; 3] = ["columns", "rejects", "sinks"];

/// Tells what a pipeline of files has too much, or that it has no program.
pub fn tell_unfit(root: &Node, problems: &mut Problems) {
    for (name, node) in OF_RECORDS.iter().filter_map(|name| Some((name, root.field(name)?))) {
        let message = format!("a pipeline of the format `file` has no `{name}`");
        problems.add_help(node.place, message, "take it away: programs make files, not rows");
    }
    let steps = root.field("steps").map(Node::items).unwrap_or_default();
    for step in steps.iter().filter(|step| step.field("program").is_none()) {
        let message = "a pipeline of the format `file` has program steps only";
        problems.add_help(
            step.place,
            message,
            "there are no records to look at; write `program: { run: […], output: … }`",
        );
    }
    if steps.is_empty() {
        let help = "add `steps: [ { program: { run: [ffmpeg, -i, \"{input}\", \"{output}\"], output: \"{stem}.mp3\" } } ]`";
        problems.add_help(root.place_of("format"), "a pipeline of the format `file` needs a program", help);
    }
}

/// Tells program steps among records.
pub fn tell_misplaced(root: &Node, problems: &mut Problems) {
    let steps = root.field("steps").map(Node::items).unwrap_or_default();
    for step in steps.iter().filter_map(|step| step.field("program")) {
        let message = "a program takes a file as it is, and this pipeline reads records";
        problems.add_help(
            step.place,
            message,
            "write `format: { file: {} }`, and give the records a pipeline of their own",
        );
    }
}

fn name(text: &str, place: Place, problems: &mut Problems) -> Option<String> {
    let help = match text {
        "" => "write its name, such as `ffmpeg`",
        _ if text.contains(['{', '}']) => "the program itself is fixed: write its name, such as `ffmpeg`",
        _ if text.contains('/') && !text.starts_with('/') => {
            "write a name that is looked for in PATH, or an absolute path"
        }
        _ if text.contains(char::is_whitespace) => {
            "write each argument as an item of its own: `[ffmpeg, -i, \"{input}\"]`"
        }
        _ => return Some(text.to_owned()),
    };
    problems.add_help(place, format!("{} is not a program", quoted(text)), help);
    None
}

fn tell_unused(arguments: &[Argument], place: Place, problems: &mut Problems) {
    for hole in ["input", "output"] {
        if !arguments.iter().any(|argument| argument.holds(hole)) {
            let message = format!("no argument has the placeholder `{{{hole}}}`");
            problems.add_help(
                place,
                message,
                format!("add `\"{{{hole}}}\"` where the program wants the path of its {hole}"),
            );
        }
    }
}

fn limits(
    spec: Option<&ProgramLimitsSpec>,
    node: Option<&Node>,
    problems: &mut Problems,
) -> Option<ProgramLimits> {
    let mut limits = ProgramLimits::default();
    let (Some(spec), Some(node)) = (spec, node) else { return Some(limits) };
    let mut size = |written: &Option<Written>, name: &str, least: u64, limit: &mut u64| {
        let Some(written) = written else { return Some(()) };
        let place = node.place_of(name);
        *limit = size_bytes(&written.0, place, problems)?;
        if *limit < least {
            problems.add(
                place,
                format!("{} is too little for a program: write at least 16MiB", quoted(&written.0)),
            );
        }
        Some(())
    };
    let memory = size(&spec.memory, "memory", MEMORY_BYTES_MIN, &mut limits.memory_bytes);
    let output = size(&spec.output_size, "output_size", 0, &mut limits.output_size_bytes);
    if let Some(written) = &spec.time {
        limits.time = http::span(&written.0, node.place_of("time"), problems)?;
    }
    memory.and(output).map(|()| limits)
}
