//! Pipelines: what a pipeline file means. Pure: no I/O, no async, no Arrow.
//!
//! [`Pipeline::parse`] turns the text of a file into a [`Pipeline`] that cannot be wrong in shape,
//! or into every [`Problem`] of the file at once. All other crates speak of pipelines by these types.

mod columns;
mod fault;
mod locate;
mod names;
mod pipeline;
mod problem;
mod read;
mod schema;
mod set;
mod shape;
mod spec;
mod tree;

pub use columns::{Column, ColumnType, Reference, TimeFormat};
pub use fault::{Blame, Retry};
pub use names::{ColumnName, NameError, PipelineName, TableName};
pub use pipeline::{
    Check, CheckElse, CsvFormat, Duplicates, ErrorBudget, Format, Header, Mode, Notice, NoticeOn,
    NoticeTarget, Pipeline, SinkSpec, Source, Step, TableSink, Then, Tolerance, UploadSource,
};
pub use problem::{Problem, nearest};
pub use read::MAX_SIZE_BYTES_DEFAULT;
pub use schema::json_schema;
pub use set::PipelineSet;
pub use tree::{FILE_BYTES_MAX, NESTING_MAX};
