//! One try of a notice that was claimed: it is sent under a lease, and what became of it is written down.
//!
//! A try that breaks down, by an error, a panic or the death of the process, counts as one and harms no other.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures::FutureExt;
use tidemill_jobs::failpoints::fail::fail_point;
use tidemill_jobs::{NoticeClaim, NoticeEnd};
use tidemill_pipelines::Retry;
use tidemill_sinks::notice::{self, NoticeError, Progress};
use tracing::{error, info, warn};

use super::Office;
use super::told::Told;

/// First and longest pause between two tries of a notice.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Pause before the outcome of a try is written again.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// A try that is over.
pub struct Tried {
    /// Who had to take the notice.
    pub receiver: String,
    /// Whether it answered; `None` when it was not asked.
    pub answered: Option<bool>,
}

/// What follows from a try.
#[derive(Clone, Copy)]
enum Outcome {
    End(NoticeEnd),
    Again(Duration),
}

/// An outcome, and why in words.
type Verdict = (Outcome, Option<String>);

/// Sends a notice and writes down what became of it.
pub async fn attempt(office: Arc<Office>, claim: NoticeClaim) -> Tried {
    let mut progress = progress(&claim);
    let trying = async {
        if claim.tries > 1 && office.is_too_old(&claim, Duration::ZERO) {
            // Its last try ended without a word, as when it kills the process.
            let why = "its last try did not come back".to_owned();
            return ((Outcome::End(NoticeEnd::GivenUp), Some(why)), None);
        }
        let sent = AssertUnwindSafe(send(&office, &claim, &mut progress)).catch_unwind().await;
        let sent = sent.unwrap_or_else(|_| Err(broke_down(&claim)));
        let answered = !matches!(&sent, Err(error) if error.retry() != Retry::Never);
        (office.judge(&claim, sent), Some(answered))
    };
    let (verdict, answered) = tokio::select! {
        done = trying => done,
        () = lost(&office, &claim) => {
            taken_over(&claim);
            return Tried { receiver: claim.receiver, answered: None };
        }
    };
    fail_point!("notice::sent", |_| {
        tidemill_jobs::failpoints::failed("notice::sent");
        Tried { receiver: claim.receiver.clone(), answered: None }
    });
    write(&office, &claim, verdict, &progress).await;
    fail_point!("notice::mark", |_| {
        tidemill_jobs::failpoints::failed("notice::mark");
        Tried { receiver: claim.receiver.clone(), answered: None }
    });
    Tried { receiver: claim.receiver, answered }
}

impl Office {
    fn judge(&self, claim: &NoticeClaim, sent: Result<(), NoticeError>) -> Verdict {
        let Err(error) = sent else { return (Outcome::End(NoticeEnd::Sent), None) };
        let wait = with_chance(pause(claim.tries)).max(error.retry_after().unwrap_or_default());
        let outcome = match error.retry() {
            Retry::Never => Outcome::End(NoticeEnd::Refused),
            _ if self.is_too_old(claim, wait) => Outcome::End(NoticeEnd::GivenUp),
            _ => Outcome::Again(wait),
        };
        (outcome, Some(error.to_string()))
    }

    fn is_too_old(&self, claim: &NoticeClaim, wait: Duration) -> bool {
        (Utc::now() - claim.ended_at).to_std().unwrap_or_default() + wait > self.give_up_after
    }
}

/// Sends the notice to those who do not have it yet.
async fn send(office: &Office, claim: &NoticeClaim, progress: &mut Progress) -> Result<(), NoticeError> {
    let number = claim.number as usize;
    let found = office.pipelines.get(&claim.pipeline).and_then(|pipeline| pipeline.notify.get(number));
    let Some(notice) = found.filter(|found| notice::kind(found) == claim.kind) else {
        return Err(NoticeError::Setting {
            action: format!("find notice {} of pipeline `{}`", claim.number + 1, claim.pipeline),
            message: format!("its file, as it is here, has no such {}", claim.kind),
        });
    };
    let told: Told = serde_json::from_str(&claim.told).map_err(|error| NoticeError::Message {
        job_id: claim.job_id.to_string(),
        message: error.to_string(),
    })?;
    let facts = told.facts(claim.ended_at, &office.links);
    let body = Bytes::copy_from_slice(claim.told.as_bytes());
    notice::deliver(&office.notifiers, notice, number, &facts, &body, progress).await
}

/// The error of a try that panicked; another may go well.
fn broke_down(claim: &NoticeClaim) -> NoticeError {
    NoticeError::Unavailable {
        action: format!("send notice {} of pipeline `{}`", claim.number + 1, claim.pipeline),
        message: "the notifier panicked".to_owned(),
        retry_after: None,
    }
}

/// Gives signs of life; returns when the notice went to another.
async fn lost(office: &Office, claim: &NoticeClaim) {
    loop {
        tokio::time::sleep(office.lease / 3).await;
        match office.jobs.hold_notice(claim, office.lease).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => warn!(error = &error as &dyn std::error::Error, "failed to hold a notice"),
        }
    }
}

fn taken_over(claim: &NoticeClaim) {
    warn!(notice = claim.number, tries = claim.tries, "another notifier took the notice over");
}

/// Writes down what became of a try, until the job store answers or the lease has passed: then the notice is due again.
async fn write(office: &Office, claim: &NoticeClaim, (outcome, why): Verdict, progress: &Progress) {
    let began = Instant::now();
    let why = why.unwrap_or_default();
    loop {
        let error = match written(office, claim, outcome, &why, progress).await {
            Ok(true) => return tell(office, claim, outcome, &why),
            Ok(false) => return taken_over(claim),
            Err(error) => error,
        };
        if began.elapsed() > office.lease {
            let error = &error as &dyn std::error::Error;
            return error!(error, "what became of a notice was not written down; it is tried again");
        }
        warn!(error = &error as &dyn std::error::Error, "what became of a notice is not written down yet");
        tokio::time::sleep(WRITE_PAUSE).await;
    }
}

async fn written(
    office: &Office,
    claim: &NoticeClaim,
    outcome: Outcome,
    why: &str,
    progress: &Progress,
) -> tidemill_jobs::Result<bool> {
    match outcome {
        Outcome::End(end) => office.jobs.end_notice(claim, end, why).await,
        Outcome::Again(wait) => {
            let not_before = Utc::now() + TimeDelta::from_std(wait).unwrap_or_default();
            let progress = serde_json::to_string(progress).ok();
            office.jobs.delay_notice(claim, not_before, progress, why).await
        }
    }
}

fn tell(office: &Office, claim: &NoticeClaim, outcome: Outcome, error: &str) {
    let (notice, tries) = (claim.number, claim.tries);
    let counted = match outcome {
        Outcome::End(end) => end.as_str(),
        Outcome::Again(_) => "retried",
    };
    office.count(&claim.kind, counted);
    match outcome {
        Outcome::End(NoticeEnd::Sent) => info!(notice, tries, "sent"),
        Outcome::End(NoticeEnd::Refused) => error!(notice, tries, error, "refused for good"),
        Outcome::End(NoticeEnd::GivenUp) => error!(notice, tries, error, "given up"),
        Outcome::Again(wait) => {
            warn!(notice, tries, error, wait_seconds = wait.as_secs(), "not taken; trying again");
        }
    }
}

/// What is known of the recipients; a text that this version does not understand is as none.
fn progress(claim: &NoticeClaim) -> Progress {
    claim.progress.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The pause after this many tries.
fn pause(tries: u32) -> Duration {
    PAUSES.0.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(PAUSES.1)
}

/// Up to half as long again, so that many notices of one outage do not come back together.
fn with_chance(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}
