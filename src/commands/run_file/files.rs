//! `tidemill run` for a pipeline of files: the programs of a job on one file, the output to stdout or `--out`.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidemill_pipelines::Pipeline;
use tidemill_processor::{MadeFile, run_local_file};

use crate::cli::RunArgs;
use crate::commands::{print_json, status};
use crate::parts::Parts;

/// Runs the file; exit status 1 when a job with it would fail.
pub async fn run(parts: &Parts, pipeline: &Pipeline, args: &RunArgs, json: bool) -> Result<ExitCode> {
    let to_stdout = args.out.is_none() && !args.dry_run && !json;
    ensure!(!to_stdout || !std::io::stdout().is_terminal(), "name a file for the output with --out");
    let input = super::input(&args.file).await?;
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned());
    let made = run_local_file(pipeline, &parts.processor_limits(), input, name.as_deref())
        .await
        .with_context(|| format!("`{}` cannot be run through `{}`", args.file.display(), pipeline.name))?;
    let size = tokio::fs::metadata(&made.path).await?.len();
    match &args.out {
        Some(path) => copy(&made, tokio::fs::File::create(path).await, path).await?,
        None if to_stdout => copy(&made, Ok(tokio::io::stdout()), Path::new("stdout")).await?,
        None => {}
    }
    if json {
        print_json(&json!({ "name": made.name, "size_bytes": size }))?;
    } else {
        eprintln!("made {}, {size} bytes", made.name);
    }
    Ok(status(true))
}

async fn copy(
    made: &MadeFile,
    to: std::io::Result<impl tokio::io::AsyncWrite + Unpin>,
    path: &Path,
) -> Result<()> {
    let copied = async {
        let (mut from, mut to) = (tokio::fs::File::open(&made.path).await?, to?);
        tokio::io::copy(&mut from, &mut to).await?;
        tokio::io::AsyncWriteExt::flush(&mut to).await
    };
    copied.await.with_context(|| format!("failed to write `{}`", path.display()))
}
