//! A model of a job's life: workers that die anywhere, a sweeper, a canceller, people who retry and a sender that sends
//! again, on the real job store and the real settle, with a ledger in memory, in an order that a seed decides. Time is
//! virtual: leases and deadlines pass when the seed says so.
//!
//! Actors run one at a time, from gate to gate: before and after each step that another actor could see. The seed picks who
//! goes next, and who dies at a gate. At the end everybody who lives works until all jobs have ended, and what must hold
//! is checked. The last tests undo a guard and expect a seed that shows it.

// A test's helpers fail like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod actors;
mod gates;
mod world;

use std::time::{Duration, Instant};

use world::{Guards, World};

/// Seeds of one run; each is a history of its own.
const SEEDS: u64 = 10_000;
/// Histories of which one must show that a guard is gone.
const SEEDS_UNGUARDED: u64 = 2_000;
/// Each thread has a database of its own.
const THREADS: u64 = 2;

/// The first violation among these seeds, with its seed.
fn first_violation(seeds: u64, guards: Guards) -> Option<(u64, String)> {
    let threads = (0..THREADS).map(|thread| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let world = World::open(guards).await;
                for seed in (0..seeds).filter(|seed| seed % THREADS == thread) {
                    if let Err(violation) = world.history(seed).await {
                        return Some((seed, violation));
                    }
                }
                None
            })
        })
    });
    let found = threads.collect::<Vec<_>>().into_iter().filter_map(|thread| thread.join().unwrap());
    found.min_by_key(|(seed, _)| *seed)
}

#[test]
fn ten_thousand_histories_break_no_promise() {
    let seeds = std::env::var("TIDEMILL_MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let began = Instant::now();
    assert_eq!(first_violation(seeds, Guards::default()), None);
    println!("{seeds} histories in {:.1} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() < Duration::from_secs(600), "the model takes too long to be run each time");
}

fn is_found(guards: Guards, words: &str) {
    let (seed, violation) = first_violation(SEEDS_UNGUARDED, guards).expect("no history shows that the guard is gone");
    assert!(violation.contains(words), "seed {seed}: {violation}");
}

#[test]
fn without_a_look_into_the_ledger_a_history_fails_a_job_whose_rows_are_in() {
    is_found(Guards { reads_ledger: false, ..Guards::default() }, "has failed, and its rows are in the table");
}

#[test]
fn without_the_fence_a_history_commits_after_the_end() {
    is_found(Guards { raises_fence: false, ..Guards::default() }, "its rows are in the table");
}

#[test]
fn without_superseding_a_history_answers_the_third_file_with_the_first_job() {
    is_found(Guards { supersedes: false, ..Guards::default() }, "holds another file than the last one");
}
