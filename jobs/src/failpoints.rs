//! Failpoints of test builds: places between two steps that change state, where a test has the process abort, stand
//! still, wait, or fail. `tests/walk` walks all of them.
//!
//! They exist only with the feature `failpoints`, which nothing but the tests of the binary turns on; a release has
//! none. A place is `failpoint!("name")`. A process that is started with the variable
//! `FAILPOINTS_FOLDER` watches that folder: the file `NAME.arm` says what the place does once: `abort`, `stop` (SIGSTOP),
//! `sleep MILLISECONDS`, or `error`. It is renamed to `NAME.armed` when it is in force, and to `NAME.hit` when it was done.
//! Called by the binary's `main`.

pub use fail;
use tidemill_pipelines::Retry;

use crate::Error;

/// A place at which a test may have the process abort, wait, or leave the function with an error.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoints::fail::fail_point!($name, |_| Err($crate::failpoints::failed($name).into()))
    };
}

/// Every failpoint of the workspace. A test compares the list with the sources, and walks all of it.
pub const ALL: &[&str] = &[
    "landing::object",
    "landing::commit",
    "outbox::publish",
    "outbox::mark",
    "page::object",
    "page::landed",
    "run::ended",
    "collect::copy",
    "collect::end",
    "claim::commit",
    "open::fence",
    "deliver::rows",
    "deliver::report",
    "deliver::ledger",
    "deliver::commit_sent",
    "deliver::commit_answered",
    "lake::files",
    "lake::commit",
    "lake::completed",
    "job::end",
    "job::ack",
    "notice::rows",
    "notice::sent",
    "notice::mark",
    "sweep::settle",
    "settle::sealed",
];

/// The error of a failpoint: it may pass, and the same step may be tried again.
pub fn failed(name: &'static str) -> Error {
    tracing::warn!(name, "a failpoint was hit");
    Error::Log { action: "pass a failpoint", message: name.to_owned(), retry: Retry::Later }
}

/// Watches the folder that the environment names, for as long as the process lives; without the feature it does nothing.
pub fn watch() {
    #[cfg(feature = "failpoints")]
    if let Some(folder) = std::env::var_os("FAILPOINTS_FOLDER") {
        armed::watch(folder.into());
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Duration;

    use super::ALL;

    const LOOK_EVERY: Duration = Duration::from_millis(10);

    pub(super) fn watch(folder: PathBuf) {
        // Once before anything else runs, so that a place on the way up can be armed too.
        look(&folder);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                look(&folder);
            }
        });
    }

    fn look(folder: &Path) {
        for name in ALL {
            let file = folder.join(format!("{name}.arm"));
            let Ok(action) = std::fs::read_to_string(&file) else { continue };
            if let Err(error) = arm(folder, name, action.trim()) {
                tracing::error!(name, error, "failed to arm a failpoint");
            }
            // In force before it says so: whoever waits for the new name may rely on it.
            let _ = std::fs::rename(&file, folder.join(format!("{name}.armed")));
        }
    }

    fn arm(folder: &Path, name: &'static str, action: &str) -> Result<(), String> {
        if action == "error" {
            return fail::cfg(name, "1*return");
        }
        let (folder, action) = (folder.to_owned(), action.to_owned());
        fail::cfg_callback(name, move || {
            if std::fs::rename(folder.join(format!("{name}.armed")), folder.join(format!("{name}.hit")))
                .is_ok()
            {
                act(name, &action);
            }
        })
    }

    fn act(name: &str, action: &str) {
        tracing::warn!(name, action, "a failpoint was hit");
        match action.split_once(' ') {
            Some(("sleep", millis)) => std::thread::sleep(Duration::from_millis(millis.parse().unwrap_or(0))),
            _ if action == "stop" => {
                let stopped = Command::new("kill").args(["-STOP", &std::process::id().to_string()]).status();
                tracing::warn!(name, ok = stopped.is_ok(), "goes on after a stop");
            }
            _ => std::process::abort(),
        }
    }
}
