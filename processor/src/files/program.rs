//! Runs one program on one file: a fixed list of arguments, no shell, an empty environment, limits of the operating
//! system, and a leash that kills it with its children at its deadline, when this future is dropped (the job was
//! cancelled or overtaken, the processor stops), and when this process is killed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tidemill_pipelines::Program;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;

use super::workplace::{Workplace, failed};
use super::{ProgramFault, size};
use crate::confine::{self, Confinement, End, SIGNAL_FILE_TOO_LARGE};
use crate::error::{Error, Result};

/// Bytes of stderr that are kept: its end, where programs say what went wrong.
const TAIL_BYTES: usize = 4 << 10;
/// Where programs are looked for when the processor itself has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
/// How long the leash may take to kill its program, and what is still in the pipes to be read.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bytes that the leash tells of the end.
const END_BYTES_MAX: u64 = 64;

/// Where the program is on this machine.
pub fn find_program(program: &Program) -> Result<PathBuf, ProgramFault> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
    let mut folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let found = folders.find_map(|folder| Some(folder.join(&program.name)).filter(|path| is_program(path)));
    found.ok_or_else(|| ProgramFault::Missing { program: program.name.clone() })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Runs it; the output is there, is a file and is not empty when this returns Ok.
pub(super) async fn run(
    program: &Program,
    binary: &Path,
    input: &Path,
    output: &Path,
    place: &Workplace,
    launcher: &Path,
) -> Result<()> {
    let mut command = command(program, binary, input, output, place, launcher);
    let mut child = command.spawn().map_err(|error| not_started(program, &error.to_string()))?;
    let stderr = AbortOnDropHandle::new(tokio::spawn(tail(child.stderr.take())));
    let ended = tokio::time::timeout(program.limits.time, end_of(&mut child)).await;
    drop(child.stdin.take()); // the leash kills what still runs
    let end = match ended {
        Ok(end) => end.map_err(failed("hear from"))?,
        Err(_) => {
            let _ = tokio::time::timeout(LAST_WORDS, child.wait()).await;
            let (program, seconds) = (program.name.clone(), program.limits.time.as_secs());
            return Err(ProgramFault::TimedOut { program, seconds }.into());
        }
    };
    let tail = tokio::time::timeout(LAST_WORDS, stderr).await.ok().and_then(std::result::Result::ok);
    let tail = readable(&tail.unwrap_or_default(), place);
    judge(program, end, output, tail).await
}

fn command(
    program: &Program,
    binary: &Path,
    input: &Path,
    output: &Path,
    place: &Workplace,
    launcher: &Path,
) -> Command {
    let (input, output, home) = (input.to_string_lossy(), output.to_string_lossy(), place.home());
    let mut command = confine::leashed(launcher, confinement(program), binary);
    command.args(program.arguments.iter().map(|argument| argument.with(&input, &output)));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into()));
    command.env("LANG", "C.UTF-8").env("HOME", &home).env("TMPDIR", &home).current_dir(&home);
    command.stderr(Stdio::piped());
    Command::from(command)
}

/// The time on all processors is bounded for the case that nothing else ends it.
fn confinement(program: &Program) -> Confinement {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    Confinement {
        memory_bytes: Some(program.limits.memory_bytes),
        file_size_bytes: Some(program.limits.output_size_bytes),
        cpu_seconds: Some((program.limits.time.as_secs() + 1).saturating_mul(processors)),
    }
}

/// What the leash tells; `None` when it could not start the program.
async fn end_of(child: &mut Child) -> std::io::Result<Option<End>> {
    let mut told = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(END_BYTES_MAX).read_to_string(&mut told).await?;
    }
    child.wait().await?;
    Ok(confine::parse_end(&told))
}

/// Reads to the end and keeps the last bytes: a flood is read away, never held.
async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 8 << 10]);
    let Some(mut pipe) = pipe else { return kept };
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..read]);
        kept.drain(..kept.len().saturating_sub(TAIL_BYTES));
    }
    kept
}

/// For people: UTF-8 without control characters, and without the folder's path, which tells them nothing.
fn readable(tail: &[u8], place: &Workplace) -> String {
    let text = String::from_utf8_lossy(tail).replace(&format!("{}/", place.path().display()), "");
    let text: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    text.trim().to_owned()
}

async fn judge(program: &Program, end: Option<End>, output: &Path, tail: String) -> Result<()> {
    let name = || program.name.clone();
    let limit = program.limits.output_size_bytes;
    let made = tokio::fs::symlink_metadata(output).await.ok();
    let full = made.as_ref().is_some_and(|made| made.len() >= limit);
    // A file that is as large as it may be was most likely cut, whatever the program says.
    if full || end == Some(End::Signal(SIGNAL_FILE_TOO_LARGE)) {
        return Err(ProgramFault::TooLarge { program: name(), bytes: limit }.into());
    }
    let how = match end {
        Some(End::Status(0)) => None,
        Some(End::Status(status)) => Some(format!("status {status}")),
        Some(End::Signal(signal)) => Some(format!("signal {signal}")),
        None => return Err(not_started(program, &tail)),
    };
    if let Some(how) = how {
        let hint = hint(program, end, &tail);
        return Err(ProgramFault::Failed { program: name(), how, hint, tail }.into());
    }
    let what = match made {
        None => "made no output",
        Some(made) if !made.is_file() => "its output is no file",
        Some(_) if size(output).await? == 0 => "its output is empty",
        Some(_) => return Ok(()),
    };
    Err(ProgramFault::NoOutput { program: name(), what, tail }.into())
}

/// Few programs say plainly that they had too little memory; the limit is told where that may be so.
fn hint(program: &Program, end: Option<End>, tail: &str) -> String {
    // Signals of abort, kill, bus error and segmentation fault.
    let by_signal = matches!(end, Some(End::Signal(6 | 7 | 9 | 11)));
    if by_signal || tail.to_ascii_lowercase().contains("memory") {
        format!(" (it may use {} bytes of memory)", program.limits.memory_bytes)
    } else {
        String::new()
    }
}

fn not_started(program: &Program, message: &str) -> Error {
    ProgramFault::NotStarted { program: program.name.clone(), message: message.to_owned() }.into()
}
