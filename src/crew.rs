//! The tasks of a role: started together, stopped in order, none detached.
//!
//! Signals stop the front tasks (they take work); when all of them have ended, the back tasks (they carry
//! away what was made: relay, metrics) are stopped. A task that ends early takes the role down with it.

use anyhow::{Context, Result};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// Exit status after a second signal, as shells give it for SIGINT.
const STATUS_INTERRUPTED: i32 = 130;

/// The tasks of a role.
pub struct Crew {
    front: JoinSet<Result<()>>,
    back: JoinSet<Result<()>>,
    /// Cancelled when no more work is to be taken.
    pub stop: CancellationToken,
    /// Cancelled when all front tasks have ended.
    pub stop_back: CancellationToken,
}

impl Crew {
    /// A crew that SIGTERM and SIGINT stop; a second signal exits at once.
    pub fn new() -> Result<Self> {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let (front, back) = (JoinSet::new(), JoinSet::new());
        Ok(Self { front, back, stop, stop_back: CancellationToken::new() })
    }

    /// Adds a task that takes work; it has to end soon after `stop` is cancelled.
    pub fn front<E: Into<anyhow::Error>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.front.spawn(async move { task.await.map_err(Into::into).context(name) });
    }

    /// Adds a task that the front tasks need; it has to end soon after `stop_back` is cancelled.
    pub fn back<E: Into<anyhow::Error>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.back.spawn(async move { task.await.map_err(Into::into).context(name) });
    }

    /// Works until a signal or a failure; gives the first failure.
    pub async fn work(mut self) -> Result<()> {
        let mut failure = Ok(());
        while !self.front.is_empty() {
            let ended = tokio::select! {
                Some(joined) = self.front.join_next() => outcome(joined, self.stop.is_cancelled()),
                Some(joined) = self.back.join_next() => outcome(joined, false),
            };
            self.stop.cancel();
            failure = failure.and(ended);
        }
        self.stop_back.cancel();
        while let Some(joined) = self.back.join_next().await {
            failure = failure.and(outcome(joined, true));
        }
        info!("stopped");
        failure
    }
}

/// What the end of a task means: one that was not asked to end has failed, whatever it says.
fn outcome(joined: Result<Result<()>, JoinError>, asked: bool) -> Result<()> {
    let result = match joined {
        Ok(Ok(())) if asked => Ok(()),
        Ok(Ok(())) => Err(anyhow::Error::msg("a task ended before it was asked to")),
        Ok(Err(error)) => Err(error),
        Err(panicked) => Err(panicked).context("a task broke down"),
    };
    if let Err(error) = &result {
        error!(error = format!("{error:#}"), "stopping");
    }
    result
}

fn stop_on_signals(stop: CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    // It lives as long as the process, by design: the second signal has to work at any time.
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                error!("a second signal: exiting at once");
                std::process::exit(STATUS_INTERRUPTED);
            }
            info!("asked to stop; finishing what runs");
            stop.cancel();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn back_tasks_end_after_front_tasks() {
        let mut crew = Crew::new().unwrap();
        let (stop, stop_back) = (crew.stop.clone(), crew.stop_back.clone());
        let seen_by_front = stop_back.clone();
        crew.front("front", async move {
            stop.cancelled().await;
            anyhow::ensure!(!seen_by_front.is_cancelled());
            Ok::<_, anyhow::Error>(())
        });
        crew.back("back", async move {
            stop_back.cancelled().await;
            Ok::<_, anyhow::Error>(())
        });
        let stop = crew.stop.clone();
        let (worked, ()) = tokio::join!(crew.work(), async { stop.cancel() });
        worked.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_fails_takes_the_others_down() {
        let mut crew = Crew::new().unwrap();
        let stop = crew.stop.clone();
        crew.front("reader", async { Err(anyhow::anyhow!("broken")) });
        crew.front("writer", async move {
            stop.cancelled().await;
            Ok::<_, anyhow::Error>(())
        });
        let error = crew.work().await.unwrap_err();
        assert_eq!(format!("{error:#}"), "reader: broken");
    }

    #[tokio::test]
    async fn a_back_task_that_breaks_down_takes_the_others_down() {
        let mut crew = Crew::new().unwrap();
        let stop = crew.stop.clone();
        crew.front("writer", async move {
            stop.cancelled().await;
            Ok::<_, anyhow::Error>(())
        });
        crew.back("relay", async {
            if true {
                panic!("bug");
            }
            Ok::<_, anyhow::Error>(())
        });
        assert_eq!(crew.work().await.unwrap_err().to_string(), "a task broke down");
    }

    #[tokio::test]
    async fn a_task_that_ends_early_is_a_failure() {
        let mut crew = Crew::new().unwrap();
        crew.front("reader", async { Ok::<_, anyhow::Error>(()) });
        crew.work().await.unwrap_err();
    }
}
