//! `tidemill test`: the cases of the pipelines, each a folder of input and expected output.

mod case;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tidemill_pipelines::PipelineSet;

use super::{pipeline, pipelines, print_json, print_text, status};
use crate::parts::Parts;

/// A case and what differs; nothing when it passes.
struct Tested {
    pipeline: String,
    case: String,
    differences: Vec<String>,
}

/// Runs the cases; exit status 1 when one fails, or when there is none.
pub async fn run(parts: &Parts, only: Option<&str>, json: bool) -> Result<ExitCode> {
    let set = pipelines(parts)?;
    if let Some(name) = only {
        pipeline(&set, name)?;
    }
    let root = parts.settings().pipelines.join("cases");
    let mut tested = Vec::new();
    for folder in folders(&root)? {
        let name = file_name(&folder);
        if only.is_none_or(|only| only == name) {
            for case in folders(&folder)? {
                tested.push(test(parts, &set, &name, &case).await);
                if let (false, Some(last)) = (json, tested.last()) {
                    tell(last);
                }
            }
        }
    }
    if tested.is_empty() {
        bail!("no case below `{}`", root.display());
    }
    let failed = tested.iter().filter(|case| !case.differences.is_empty()).count();
    if json {
        let cases: Vec<_> = tested
            .iter()
            .map(|case| {
                let passed = case.differences.is_empty();
                json!({ "pipeline": case.pipeline, "case": case.case, "passed": passed, "differences": case.differences })
            })
            .collect();
        print_json(&json!({ "cases": cases, "failed": failed }))?;
    } else {
        print_text(&format!("{} cases, {failed} failed", tested.len()));
    }
    Ok(status(failed == 0))
}

async fn test(parts: &Parts, set: &PipelineSet, name: &str, folder: &Path) -> Tested {
    let found = async {
        let pipeline = pipeline(set, name)?;
        case::run(pipeline, set, &parts.processor_limits(), folder).await
    };
    let differences = found.await.unwrap_or_else(|error| vec![format!("{error:#}")]);
    Tested { pipeline: name.to_owned(), case: file_name(folder), differences }
}

fn tell(tested: &Tested) {
    let word = if tested.differences.is_empty() { "ok  " } else { "FAIL" };
    print_text(&format!("{word} {}/{}", tested.pipeline, tested.case));
    for difference in &tested.differences {
        print_text(&format!("     {difference}"));
    }
}

/// The folders in a folder, by name.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("failed to read folder `{}`", path.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
