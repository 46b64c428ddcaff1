//! Gates: where an actor stops until the seed lets it go on, or kills it.

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};

/// The actor was killed at a gate.
#[derive(Debug)]
pub struct Killed;

/// What an actor tells the schedule.
enum Word {
    /// It stands at a gate.
    Waits(usize, oneshot::Sender<()>),
    /// It has ended.
    Ended,
}

/// The gate of one actor.
#[derive(Clone)]
pub struct Gate {
    actor: usize,
    words: mpsc::UnboundedSender<Word>,
}

impl Gate {
    /// Waits until it is this actor's turn.
    pub async fn pass(&self) -> Result<(), Killed> {
        let (go, told) = oneshot::channel();
        self.words.send(Word::Waits(self.actor, go)).map_err(|_| Killed)?;
        told.await.map_err(|_| Killed)
    }

    /// Says that the actor has ended.
    pub fn end(self) {
        self.words.send(Word::Ended).ok();
    }
}

/// Lets one actor at a time go from gate to gate.
pub struct Schedule {
    words: mpsc::UnboundedReceiver<Word>,
    sender: mpsc::UnboundedSender<Word>,
    actors: usize,
}

impl Schedule {
    pub fn new() -> Self {
        let (sender, words) = mpsc::unbounded_channel();
        Self { words, sender, actors: 0 }
    }

    /// The gate of a new actor, which then runs until its first gate.
    pub fn gate(&mut self) -> Gate {
        self.actors += 1;
        Gate { actor: self.actors, words: self.sender.clone() }
    }

    /// Runs the actors until all have ended. One of `deaths_one_in` passes is a death; 0 is none.
    pub async fn run(mut self, random: &mut StdRng, deaths_one_in: u32) {
        let mut waiting: Vec<(usize, oneshot::Sender<()>)> = Vec::new();
        let mut running = self.actors;
        loop {
            while running > 0 {
                match self.words.recv().await {
                    Some(Word::Waits(actor, go)) => waiting.push((actor, go)),
                    Some(Word::Ended) => {}
                    None => return,
                }
                running -= 1;
            }
            if waiting.is_empty() {
                return;
            }
            // In an order that does not depend on who arrived first.
            waiting.sort_by_key(|(actor, _)| *actor);
            let (_, go) = waiting.swap_remove(random.random_range(0..waiting.len()));
            if deaths_one_in > 0 && random.random_range(0..deaths_one_in) == 0 {
                drop(go);
            } else {
                go.send(()).ok();
            }
            running = 1;
        }
    }
}
