//! The limits that the kernel holds a worker to. Set once, by the worker itself, before it sees a statement; a process
//! can lower its hard limits and never raise them again.

use std::io;

use rlimit::Resource;

use crate::QueryLimits;
use crate::limits::{BLOCKING_THREADS, FILE_BYTES_MAX, FILES_MAX, STACK_BYTES};

/// Address space beyond the memory: what is reserved and not used, such as the arenas of the allocator.
const RESERVED_BYTES: u64 = 2 << 30;

/// Lowers the limits of this process.
pub(super) fn apply(limits: &QueryLimits) -> io::Result<()> {
    lower(Resource::CORE, 0)?;
    lower(Resource::NOFILE, FILES_MAX)?;
    lower(Resource::FSIZE, FILE_BYTES_MAX)?;
    lower(Resource::CPU, limits.cpu_seconds())?;
    let memory = limits.memory_bytes + (BLOCKING_THREADS * STACK_BYTES) as u64;
    // Memory that is written counts in the first, mapped files and reservations only in the second.
    if let (Some(data), Some(space)) = (now("VmData:"), now("VmSize:")) {
        lower(Resource::DATA, data + memory)?;
        lower(Resource::AS, space + memory + RESERVED_BYTES)?;
    }
    Ok(())
}

fn lower(resource: Resource, value: u64) -> io::Result<()> {
    let (_, hard) = resource.get()?;
    let value = value.min(hard);
    // The kernel sends SIGXCPU at the soft limit of CPU time and SIGKILL at the hard one: the first can be told apart.
    let hard = if resource == Resource::CPU { hard.min(value + 1) } else { value };
    resource.set(value, hard)
}

/// What the kernel counts of this process now, in bytes; only Linux tells.
fn now(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|text| text.strip_prefix(line))?;
    value.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}
