//! Who acts on jobs: workers, the sweeper, people, and a sender that does not trust an answer.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemill_jobs::{Claim, Counts, JobError, JobStatus, Outcome, Settler, Sweeper};
use tidemill_pipelines::Blame;

use crate::gates::{Gate, Killed, Schedule};
use crate::world::History;

type Ended = Result<(), Killed>;

/// Rounds of an actor; more find nothing new.
const ROUNDS: u32 = 4;

/// Starts the actors of a history.
pub fn begin(history: &Arc<History>, schedule: &mut Schedule, random: &mut StdRng) {
    let mut start = |act: fn(Arc<History>, Gate, StdRng) -> Acting| {
        let gate = schedule.gate();
        let acting = act(Arc::clone(history), gate.clone(), StdRng::seed_from_u64(random.random()));
        tokio::spawn(async move {
            acting.await.ok();
            gate.end();
        });
    };
    start(|history, gate, random| Box::pin(sender(history, gate, random)));
    for _ in 0..2 {
        start(|history, gate, random| Box::pin(worker(history, gate, random)));
    }
    start(|history, gate, random| Box::pin(sweeper(history, gate, random)));
    start(|history, gate, random| Box::pin(canceller(history, gate, random)));
}

type Acting = std::pin::Pin<Box<dyn Future<Output = Ended> + Send>>;

/// Sends its files; sends one again when its job has failed, or when it did not hear the answer.
async fn sender(history: Arc<History>, gate: Gate, mut random: StdRng) -> Ended {
    if history.last_wins {
        // Tuesday's file was wrong, so Monday's comes again.
        for content in ['a', 'b', 'a'] {
            gate.pass().await?;
            history.send(content).await;
        }
        return Ok(());
    }
    for content in ['a', 'b'] {
        gate.pass().await?;
        let mut job = history.send(content).await.job_id;
        for _ in 0..2 {
            gate.pass().await?;
            let found = history.store.get(job).await.unwrap().unwrap();
            if found.status == JobStatus::Failed || random.random_range(0..4) == 0 {
                job = history.send(content).await.job_id;
            }
        }
    }
    Ok(())
}

/// Claims what there is and works on it as a processor does.
async fn worker(history: Arc<History>, gate: Gate, mut random: StdRng) -> Ended {
    let settler = history.settler(Some(gate.clone()));
    for _ in 0..ROUNDS + 2 {
        gate.pass().await?;
        let jobs = history.jobs();
        if jobs.is_empty() {
            continue;
        }
        let job = jobs[random.random_range(0..jobs.len())];
        let claim = history.store.claim(job, "v1", "worker", history.now()).await.unwrap();
        if let Some(claim) = claim {
            attempt(&history, &gate, &settler, &claim, &mut random).await?;
        }
    }
    Ok(())
}

async fn attempt(
    history: &History,
    gate: &Gate,
    settler: &Settler,
    claim: &Claim,
    random: &mut StdRng,
) -> Ended {
    let (job, attempt) = (claim.job.job_id, claim.attempt);
    gate.pass().await?;
    let committed = match history.tables.ledger.open(job, attempt) {
        Err(_) => return Ok(()), // overtaken
        Ok(earlier) => earlier,
    };
    gate.pass().await?;
    let committed = match (committed, random.random_range(0..10)) {
        (Some(committed), _) => committed,
        (None, 0) => {
            settler.finish(claim, bad_data()).await.ok();
            return Ok(());
        }
        (None, 1) => {
            settler.release(claim, history.now(), false).await.ok();
            return Ok(());
        }
        (None, _) => {
            if !history.store.heartbeat(claim).await.unwrap() {
                return Ok(());
            }
            gate.pass().await?;
            match history.tables.commit(job, attempt) {
                Ok(committed) => committed,
                Err(_) => return Ok(()), // overtaken
            }
        }
    };
    gate.pass().await?;
    settler.finish(claim, Outcome::Success(committed)).await.ok();
    Ok(())
}

fn bad_data() -> Outcome {
    let error =
        JobError { code: "no_records".to_owned(), message: "no good".to_owned(), blame: Blame::Sender };
    Outcome::Failed { counts: Counts::default(), report: None, error }
}

/// Sweeps now and then, when leases have passed and when not.
async fn sweeper(history: Arc<History>, gate: Gate, mut random: StdRng) -> Ended {
    let sweeper = Sweeper::new(history.settler(Some(gate.clone())), Sweeper::INTERVAL);
    for _ in 0..ROUNDS {
        gate.pass().await?;
        history.later([1, 40, 61, 1_000][random.random_range(0..4)]);
        sweeper.sweep(history.now()).await.ok();
    }
    Ok(())
}

/// Cancels jobs, and has failed ones done again.
async fn canceller(history: Arc<History>, gate: Gate, mut random: StdRng) -> Ended {
    let settler = history.settler(Some(gate.clone()));
    for _ in 0..2 {
        gate.pass().await?;
        let jobs = history.jobs();
        if jobs.is_empty() {
            continue;
        }
        let job = jobs[random.random_range(0..jobs.len())];
        let done = match (history.retries, history.last_wins) {
            (true, _) if random.random_range(0..2) == 0 => settler.retry(job).await,
            (_, false) => settler.cancel(job).await,
            (_, true) => continue, // else the last file need not be the one that stands
        };
        done.ok();
    }
    Ok(())
}

/// Nobody dies any more: works until all jobs have ended.
pub async fn end_all(history: &Arc<History>) -> Result<(), String> {
    let settler = history.settler(None);
    let sweeper = Sweeper::new(settler.clone(), Sweeper::INTERVAL);
    for _ in 0..20 {
        history.later(1_000);
        sweeper.sweep(history.now()).await.map_err(|error| error.to_string())?;
        let mut open = 0;
        for job in history.jobs() {
            if let Some(claim) = history.store.claim(job, "v1", "worker", history.now()).await.unwrap() {
                finish(history, &settler, &claim).await?;
            }
            let found = history.store.get(job).await.unwrap().unwrap();
            open += usize::from(!found.status.has_ended());
        }
        if open == 0 {
            return Ok(());
        }
    }
    Err("a job does not end".to_owned())
}

async fn finish(history: &History, settler: &Settler, claim: &Claim) -> Result<(), String> {
    let (job, attempt) = (claim.job.job_id, claim.attempt);
    let earlier = history.tables.ledger.open(job, attempt).map_err(|error| error.to_string())?;
    let committed = match earlier {
        Some(committed) => committed,
        None => history.tables.commit(job, attempt).map_err(|error| error.to_string())?,
    };
    settler.finish(claim, Outcome::Success(committed)).await.map_err(|error| error.to_string())?;
    Ok(())
}
