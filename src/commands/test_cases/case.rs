//! One case: `input.csv` (or `input.csv.zip`, `input.json`, `input.jsonl`), `tables/*.csv`, and what must come of it:
//! `rows.csv` (all rows in their order), `rejects.csv` (`line,column,code` of each first problem, by line),
//! `parameters.json` when the job has parameters, `error.txt` with the code of the error when a job with this file
//! has to fail. A case of a pipeline of files is one `input.*`, and `output.*` with the very bytes that have to be
//! made, when a program always makes the same.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use tidemill_pipelines::{Format, Pipeline, PipelineSet, TableName};
use tidemill_processor::decode::Reject;
use tidemill_processor::{Engine, LocalFile, ProcessorLimits, plan, run_local, run_local_file};

use crate::commands::run_file::local;

/// Largest file of a case, unpacked: cases are read by people.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Differences that are told of one file.
const DIFFERENCES_MAX: usize = 10;

/// Runs a case; gives what differs, line by line.
pub async fn run(
    pipeline: &Pipeline,
    set: &PipelineSet,
    limits: &ProcessorLimits,
    folder: &Path,
) -> Result<Vec<String>> {
    if pipeline.format == Format::File {
        return run_programs(pipeline, limits, folder).await;
    }
    let pipeline = &with_parameters(pipeline, &folder.join("parameters.json"))?;
    let lookups = local::tables(set, limits, tables(&folder.join("tables"))?).await?;
    let planned = plan(&Engine::new(limits)?, pipeline, set, Some(&lookups)).await?;
    let mut rows = local::csv_writer(Vec::new(), &planned.output)?;
    let rejects = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&rejects);
    let take = Box::new(move |reject: &Reject| {
        taken.lock().unwrap_or_else(PoisonError::into_inner).push((reject.origin.line, line(reject)));
        Ok(())
    });
    let (name, bytes) = input(folder)?;
    let bytes = futures::stream::once(async { Ok(bytes) }).boxed();
    let input = LocalFile { name, bytes };
    let mut keep = |batch| {
        rows.write(&batch).map_err(|error| tidemill_processor::Error::from(std::io::Error::other(error)))
    };
    let ran = run_local(pipeline, set, &lookups, limits, input, &mut keep, take).await;
    let error = match ran {
        Ok(ran) => ran.verdict.err(),
        Err(error) => Some(error),
    };
    let mut differences = verdict(folder, error)?;
    let rows = String::from_utf8(rows.into_inner())?;
    differences.extend(compare(folder, "rows.csv", &rows)?);
    let mut rejects = rejects.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // Checks look at a batch after it was decoded, so their rejects come later than those of the decoder.
    rejects.sort();
    let rejects: String = rejects.into_iter().map(|(_, line)| line).collect();
    differences.extend(compare(folder, "rejects.csv", &format!("line,column,code\n{rejects}"))?);
    Ok(differences)
}

async fn run_programs(pipeline: &Pipeline, limits: &ProcessorLimits, folder: &Path) -> Result<Vec<String>> {
    let input = named(folder, "input.")?.context("no input.* is there")?;
    let name = input.file_name().map(|name| name.to_string_lossy().into_owned());
    let bytes = Bytes::from(read(&input)?);
    let bytes = futures::stream::once(async { Ok(bytes) }).boxed();
    let made = match run_local_file(pipeline, limits, bytes, name.as_deref()).await {
        Ok(made) => made,
        Err(error) => return verdict(folder, Some(error)),
    };
    let mut differences = verdict(folder, None)?;
    if let Some(expected) = named(folder, "output.")?
        && read(&expected)? != read(&made.path)?
    {
        differences.push(format!("{}: expected other bytes than those that were made", expected.display()));
    }
    Ok(differences)
}

/// The file of the folder whose name begins so.
fn named(folder: &Path, prefix: &str) -> Result<Option<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let found = entries.iter().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(found.map(std::fs::DirEntry::path))
}

/// The pipeline with the parameters of the case, when it has some.
fn with_parameters(pipeline: &Pipeline, path: &Path) -> Result<Pipeline> {
    let pipeline = pipeline.clone();
    if !path.exists() {
        return Ok(pipeline);
    }
    let given = serde_json::from_slice(&std::fs::read(path)?).context("parameters.json is no JSON object")?;
    pipeline.with_parameters(&given).map_err(anyhow::Error::msg)
}

fn line(reject: &Reject) -> String {
    let problem = reject.problems.first();
    let column = problem.and_then(|problem| problem.column.as_deref()).unwrap_or_default();
    format!("{},{column},{}\n", reject.origin.line, problem.map_or("", |problem| &problem.code))
}

/// Whether the job ends as the case says.
fn verdict(folder: &Path, error: Option<tidemill_processor::Error>) -> Result<Vec<String>> {
    let path = folder.join("error.txt");
    let expected = if path.exists() { Some(std::fs::read_to_string(&path)?) } else { None };
    Ok(match (expected.as_deref().map(str::trim), error) {
        (None, None) => Vec::new(),
        (Some(code), Some(error)) if code == error.code() => Vec::new(),
        (Some(code), Some(error)) => {
            vec![format!("error.txt: expected {code}, got {}: {error}", error.code())]
        }
        (Some(code), None) => vec![format!("error.txt: expected {code}, but the file is taken")],
        (None, Some(error)) => vec![format!("the file is refused with {}: {error}", error.code())],
    })
}

/// The lines in which what came differs from an expected file.
fn compare(folder: &Path, name: &str, found: &str) -> Result<Vec<String>> {
    let path = folder.join(name);
    if !path.exists() {
        let records = found.lines().count().saturating_sub(1);
        // A file that is refused as a whole has neither rows nor rejects to expect.
        let told = format!("{name}: is missing, and {records} records came");
        return Ok(if records == 0 { Vec::new() } else { vec![told] });
    }
    let expected = String::from_utf8(read(&path)?).with_context(|| format!("{name} is not UTF-8"))?;
    let (mut expected, mut found) = (expected.lines(), found.lines());
    let mut differences = Vec::new();
    for number in 1_u64.. {
        let pair = (expected.next(), found.next());
        let told = match pair {
            (None, None) => break,
            (Some(expected), Some(found)) if expected == found => continue,
            (Some(expected), Some(found)) => format!("{name}:{number}: expected {expected}, got {found}"),
            (Some(expected), None) => format!("{name}:{number}: expected {expected}, got no more"),
            (None, Some(found)) => format!("{name}:{number}: expected no more, got {found}"),
        };
        if differences.len() == DIFFERENCES_MAX {
            differences.push(format!("{name}: and more"));
            break;
        }
        differences.push(told);
    }
    Ok(differences)
}

/// The file that is sent, by its name.
fn input(folder: &Path) -> Result<(String, Bytes)> {
    let plain = ["input.csv", "input.json", "input.jsonl"].map(|name| folder.join(name));
    if let Some(plain) = plain.iter().find(|plain| plain.exists()) {
        let name = plain.file_name().map(|name| name.to_string_lossy().into_owned());
        return Ok((name.unwrap_or_default(), read(plain)?.into()));
    }
    let packed = folder.join("input.csv.zip");
    ensure!(packed.exists(), "there is no input.csv, input.csv.zip, input.json or input.jsonl");
    let failed = || format!("failed to unpack `{}`", packed.display());
    let mut archive =
        zip::ZipArchive::new(std::fs::File::open(&packed).with_context(failed)?).with_context(failed)?;
    let file = archive.by_index(0).with_context(failed)?;
    Ok(("input.csv".to_owned(), bounded(file).with_context(failed)?))
}

fn tables(folder: &Path) -> Result<Vec<(TableName, Bytes)>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_some_and(|end| end == "csv") {
            found.push((stem.parse()?, read(&path)?.into()));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("failed to read `{}`", path.display());
    Ok(bounded(std::fs::File::open(path).with_context(failed)?).with_context(failed)?.into())
}

fn bounded(file: impl Read) -> Result<Bytes> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("it is larger than {FILE_BYTES_MAX} bytes");
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows.csv"), "id\n1\n2\n3\n").unwrap();
        let told = |found: &str| compare(folder.path(), "rows.csv", found).unwrap();
        assert_eq!(told("id\n1\n2\n3\n"), Vec::<String>::new());
        assert_eq!(
            told("id\n1\n5\n"),
            ["rows.csv:3: expected 2, got 5", "rows.csv:4: expected 3, got no more"]
        );
        assert_eq!(told("id\n1\n2\n3\n4\n"), ["rows.csv:5: expected no more, got 4"]);
        assert_eq!(compare(folder.path(), "rejects.csv", "line\n7\n").unwrap().len(), 1);
        assert!(told(&"x\n".repeat(1000)).len() <= DIFFERENCES_MAX + 1);
    }
}
