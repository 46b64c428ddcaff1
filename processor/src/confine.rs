//! Limits of the operating system for a process, and the leash that ends it with all of its children.
//!
//! A program of a pipeline gets its limits before it begins. Setting them between fork and exec needs unsafe code, so
//! the binary starts itself: it calls [`Confinement::apply`] on itself, and then becomes the program. Its hidden
//! command `__confine` is [`main`]; `processor/src/files/program.rs` starts it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

use rlimit::Resource;
use rustix::process::{Pid, Signal, kill_process_group};

/// The name of the hidden command.
pub const COMMAND: &str = "__confine";
/// The signal that ends a process which writes a file beyond its limit.
pub const SIGNAL_FILE_TOO_LARGE: i32 = 25;

/// What a process and its children may use, each of them; `None` leaves a limit as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Address space in bytes.
    pub memory_bytes: Option<u64>,
    /// Size in bytes of a file that it writes.
    pub file_size_bytes: Option<u64>,
    /// Time on all processors together, in seconds.
    pub cpu_seconds: Option<u64>,
}

impl Confinement {
    /// Puts this process and its later children under the limits, for good, and forbids core dumps.
    pub fn apply(&self) -> io::Result<()> {
        limit(Resource::CORE, Some(0))?;
        limit(Resource::FSIZE, self.file_size_bytes)?;
        limit(Resource::CPU, self.cpu_seconds)?;
        limit(Resource::AS, self.memory_bytes)
    }

    fn to_arguments(self) -> Vec<String> {
        let limits = [self.memory_bytes, self.file_size_bytes, self.cpu_seconds];
        limits.iter().map(|limit| limit.map_or("-".to_owned(), |limit| limit.to_string())).collect()
    }

    fn from_arguments(arguments: &[OsString]) -> io::Result<Self> {
        let limit = |index: usize| match arguments.get(index).and_then(|text| text.to_str()) {
            Some("-") => Ok(None),
            text => {
                text.and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| wrong("a limit is no number"))
            }
        };
        Ok(Self { memory_bytes: limit(0)?, file_size_bytes: limit(1)?, cpu_seconds: limit(2)? })
    }
}

/// A limit that is lower already stays.
fn limit(resource: Resource, limit: Option<u64>) -> io::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let (_, hard) = resource.get()?;
    resource.set(limit.min(hard), limit.min(hard))
}

/// The command that runs a program on a leash: it lives until the program ends, or until its own stdin is closed,
/// by a parent that gives up or is killed; then the program's whole process group is killed. On stdout it tells
/// how the program ended, see [`parse_end`]; the program has no stdin and no stdout.
pub fn leashed(launcher: &std::path::Path, limits: Confinement, program: &std::path::Path) -> Command {
    let mut command = Command::new(launcher);
    command.arg(COMMAND).arg("leash").args(limits.to_arguments()).arg(program);
    // A Ctrl-C at a terminal is for the parent, which closes stdin.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The hidden command; its arguments are `leash` or `exec`, the limits, and the program with its arguments.
pub fn main(arguments: &[OsString]) -> io::Result<()> {
    let [way, rest @ ..] = arguments else { return Err(wrong("it has no arguments")) };
    let limits = Confinement::from_arguments(rest)?;
    let [program, arguments @ ..] = rest.get(3..).unwrap_or_default() else {
        return Err(wrong("it names no program"));
    };
    if way == "leash" {
        let mut held = Command::new(std::env::current_exe()?);
        held.arg(COMMAND).arg("exec").args(limits.to_arguments()).arg(program).args(arguments);
        let end = hold(&mut held)?;
        return io::stdout().write_all(end.as_bytes());
    }
    limits.apply()?;
    Err(Command::new(program).args(arguments).exec())
}

/// Runs a command in a process group of its own; kills the group when it ends or when stdin does.
fn hold(command: &mut Command) -> io::Result<String> {
    let mut child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let group = Pid::from_child(&child);
    std::thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]); // nothing is ever written: it returns when the parent is gone
        let _ = kill_process_group(group, Signal::Kill);
    });
    let status = child.wait()?;
    let _ = kill_process_group(group, Signal::Kill); // what the program left behind; mostly nothing
    Ok(describe(status))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// How a program on a leash ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

/// Reads what the command of [`leashed`] told; `None` when it could not start the program.
pub fn parse_end(told: &str) -> Option<End> {
    let (way, number) = told.split_once(' ')?;
    let number = number.parse().ok()?;
    Some(if way == "status" { End::Status(number) } else { End::Signal(number) })
}

fn wrong(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{COMMAND} is not for people: {message}"))
}
