//! The worker's side: a process that answers one statement at a time, under limits that the kernel holds it to.
//!
//! It ends when its parent closes the pipe, when it runs over its deadline, or by the kernel. Called by the hidden
//! command of the binary.

mod caps;
mod dialect;
mod encode;
mod problem;
mod read;
mod run;

use std::io::{self, Stdout};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use object_store::ObjectStore;
use tokio::runtime::Runtime;

use crate::catalog::{Catalog, Data};
use crate::frames::{self, Kind, from_json, to_json};
use crate::limits::{BLOCKING_THREADS, OVERTIME, STACK_BYTES};
use crate::workers::Setup;
use crate::{Error, QueryLimits, Result, Statement};

/// Opens the object store of [`crate::Places::objects`]; the error is words for the log.
pub type OpenObjects = fn(&serde_json::Value) -> Result<Arc<dyn ObjectStore>, String>;

/// Exit status of a worker that nobody stopped at its deadline.
const STATUS_OVERTIME: i32 = 3;

/// A frame of the parent.
type Request = (Kind, Vec<u8>);

/// Answers statements from stdin on stdout until stdin is closed.
pub fn serve_worker(open: OpenObjects) -> Result<()> {
    let failed = |error: io::Error| Error::Worker { message: error.to_string() };
    let (_, payload) = frames::read(&mut io::stdin().lock()).map_err(failed)?;
    let Setup { places, limits } = from_json(&payload)?;
    let requests = listen().map_err(failed)?;
    let watch = watch().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(limits.threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(failed)?;
    caps::apply(&limits).map_err(failed)?;
    let answering = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let data = Data::new(places, open);
        runtime.block_on(data.connect());
        answer_all(&runtime, &Catalog::new(data, &limits)?, &limits, requests, &watch)
    });
    match answering.map_err(failed)?.join() {
        Ok(ended) => ended,
        // The panic's message is on stderr already.
        Err(_) => Err(Error::Worker { message: "it panicked".to_owned() }),
    }
}

/// Takes frames from stdin. The end of stdin is the end of the process, whatever it is doing.
fn listen() -> io::Result<Receiver<Request>> {
    let (sender, requests) = mpsc::sync_channel(1);
    thread::Builder::new().spawn(move || {
        let mut stdin = io::stdin().lock();
        while let Ok(request) = frames::read(&mut stdin) {
            if sender.send(request).is_err() {
                break;
            }
        }
        std::process::exit(0);
    })?;
    Ok(requests)
}

/// Ends the process when the time that was sent passes before the next message: `None` for a statement that has ended.
fn watch() -> io::Result<Sender<Option<Duration>>> {
    let (sender, messages) = mpsc::channel::<Option<Duration>>();
    thread::Builder::new().spawn(move || {
        let mut armed = None;
        loop {
            let message = match armed {
                Some(limit) => messages.recv_timeout(limit),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(next) => armed = next,
                Err(RecvTimeoutError::Timeout) => std::process::exit(STATUS_OVERTIME),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    })?;
    Ok(sender)
}

fn answer_all(
    runtime: &Runtime,
    catalog: &Catalog,
    limits: &QueryLimits,
    requests: Receiver<Request>,
    watch: &Sender<Option<Duration>>,
) -> Result<()> {
    let mut out = io::stdout();
    while let Ok((kind, payload)) = requests.recv() {
        let statement: Statement = from_json(&payload)?;
        let time = statement.timeout.map_or(limits.timeout, |timeout| timeout.min(limits.timeout));
        watch.send(Some(time + OVERTIME)).ok();
        let answered = runtime.block_on(answer(kind, catalog, &statement, limits, &mut out));
        watch.send(None).ok();
        let written = match answered {
            Ok(()) => frames::write(&mut out, Kind::End, &[]),
            Err(error) => frames::write(&mut out, Kind::Failed, &to_json(&error)?),
        };
        written.map_err(|error| Error::Worker { message: error.to_string() })?;
    }
    Ok(())
}

async fn answer(
    kind: Kind,
    catalog: &Catalog,
    statement: &Statement,
    limits: &QueryLimits,
    out: &mut Stdout,
) -> Result<()> {
    match kind {
        Kind::Run => run::run(catalog, statement, limits, out).await,
        Kind::Describe => run::describe(catalog, statement, limits, out).await,
        _ => Err(Error::Worker { message: "it was sent something else than a statement".to_owned() }),
    }
}
