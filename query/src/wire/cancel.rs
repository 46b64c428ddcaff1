//! Cancel requests: they come on connections of their own and name another one by process id and key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections whose statements can be cancelled. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Cancels {
    connections: Arc<Mutex<HashMap<i32, Entry>>>,
}

struct Entry {
    key: i32,
    statement: CancellationToken,
}

/// A connection's place among them, given up when dropped.
pub(super) struct Place {
    pub(super) process: i32,
    pub(super) key: i32,
    cancels: Cancels,
}

impl Cancels {
    /// Takes a place, with a number and a key that nobody can guess.
    pub(super) fn take_place(&self) -> Place {
        let key = rand::random();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let process = loop {
            let number = rand::random_range(1..i32::MAX);
            if !connections.contains_key(&number) {
                break number;
            }
        };
        connections.insert(process, Entry { key, statement: CancellationToken::new() });
        Place { process, key, cancels: self.clone() }
    }

    /// Cancels what the connection runs now. A wrong key is passed over in silence, as in PostgreSQL.
    pub(super) fn cancel(&self, process: i32, key: &[u8]) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = connections.get(&process).filter(|entry| entry.key.to_be_bytes() == key) {
            entry.statement.cancel();
        }
    }
}

impl Place {
    /// Begins a statement; the token is cancelled when someone asks for it.
    pub(super) fn begin(&self) -> CancellationToken {
        let statement = CancellationToken::new();
        let mut connections = self.cancels.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = connections.get_mut(&self.process) {
            entry.statement = statement.clone();
        }
        statement
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cancels.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_cancels_and_only_what_runs_now() {
        let cancels = Cancels::default();
        let place = cancels.take_place();
        let first = place.begin();
        cancels.cancel(place.process, &place.key.wrapping_add(1).to_be_bytes());
        cancels.cancel(place.process, b"");
        assert!(!first.is_cancelled());
        cancels.cancel(place.process, &place.key.to_be_bytes());
        assert!(first.is_cancelled() && !place.begin().is_cancelled());
        let process = place.process;
        drop(place);
        cancels.cancel(process, b"gone");
        assert!(cancels.connections.lock().unwrap().is_empty());
    }
}
