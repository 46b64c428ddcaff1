//! The folder of pipeline files: read whole at start, every problem of every file told together.

use std::fmt;
use std::path::Path;

use tidemill_pipelines::{FILE_BYTES_MAX, PipelineSet, Problem};

/// More files than any installation has; a folder with more is not a folder of pipelines.
const FILES_MAX: usize = 10_000;

/// All problems of a folder, as an error.
#[derive(Debug)]
pub struct FolderProblems(pub Vec<Problem>);

impl fmt::Display for FolderProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} problem{} in the pipelines", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for FolderProblems {}

/// Reads the pipelines of a folder: files that end in `.yaml` or `.yml`, not those of folders in it.
pub fn read(folder: &Path) -> Result<PipelineSet, FolderProblems> {
    let files = files(folder).map_err(|problem| FolderProblems(vec![problem]))?;
    if files.is_empty() {
        let help = "name the folder with --pipelines DIR, or as `pipelines` in tidemill.toml";
        return Err(FolderProblems(vec![problem(folder, "no pipeline file (*.yaml) in this folder", help)]));
    }
    PipelineSet::from_files(files).map_err(FolderProblems)
}

fn files(folder: &Path) -> Result<Vec<(String, String)>, Problem> {
    let help = "name the folder of the pipeline files with --pipelines DIR";
    let failed =
        |error: std::io::Error| problem(folder, &format!("failed to read the folder: {error}"), help);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_pipeline = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if is_pipeline && path.is_file() {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(problem(folder, &format!("more than {FILES_MAX} pipeline files"), help));
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok((path.display().to_string(), text(path)?))).collect()
}

/// The text of one file, in bounds.
pub fn text(path: &Path) -> Result<String, Problem> {
    let failed = |error: std::io::Error| {
        problem(path, &format!("failed to read the file: {error}"), "make it a readable file of UTF-8 text")
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES_MAX as u64 {
        let message = format!("the file has {size} bytes, {FILE_BYTES_MAX} are allowed");
        return Err(problem(path, &message, "a pipeline file holds no data"));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn problem(path: &Path, message: &str, help: &str) -> Problem {
    Problem {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        message: message.to_owned(),
        help: Some(help.to_owned()),
    }
}
