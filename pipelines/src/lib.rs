//! Pipelines: what a pipeline file means. Pure: no I/O, no async, no Arrow.
//!
//! [`Pipeline::parse`] turns the text of a file into a [`Pipeline`] that cannot be wrong in shape,
//! or into every [`Problem`] of the file at once. All other crates speak of pipelines by these types.

mod columns;
mod fault;
mod http;
mod json_path;
mod locate;
mod names;
mod parameters;
mod pipeline;
mod problem;
mod program;
mod read;
mod schedule;
mod schema;
mod set;
mod shape;
mod slot;
mod spec;
mod tree;

pub use columns::{Column, ColumnType, Reference, TimeFormat};
pub use fault::{Blame, Retry};
pub use http::{Auth, HttpLimits, HttpSource, Pages};
pub use json_path::{JsonPath, JsonPathError, PathStep};
pub use names::{ColumnName, FileName, FileNameError, NameError, PipelineName, TableName};
pub use parameters::{PARAMETER_CHARS_MAX, PARAMETERS_MAX, Parameter, ParameterType, ParameterValue};
pub use pipeline::{
    Check, CheckElse, Collect, CsvFormat, Duplicates, ErrorBudget, FileSink, Format, Header, JsonFormat,
    LakeSink, Mode, Notice, NoticeOn, NoticeTarget, Order, Pipeline, SinkSpec, Source, Step, TableSink, Then,
    Tolerance, UploadSource,
};
pub use problem::{Problem, nearest};
pub use program::{Argument, OutputName, Program, ProgramLimits, artifact_name_fits};
pub use read::MAX_SIZE_BYTES_DEFAULT;
pub use schedule::{CRON_LINES_MAX, Missed, Schedule};
pub use schema::json_schema;
pub use set::PipelineSet;
pub use slot::{SLOT_VARIABLES, Slot, SlotTemplate, TemplateError};
pub use tree::{FILE_BYTES_MAX, NESTING_MAX};
