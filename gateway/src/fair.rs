//! Permits that users share fairly: who waits is served in the order of arrival, but first the users who hold the fewest.
//! So a thousand uploads of one user make another one wait for one of them, not for all. Bounded; used for uploads.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Requests that wait at once; each holds a connection, so connections are bounded first.
const WAITING_MAX: usize = 4_096;

/// Some permits. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FairPermits(Arc<Mutex<State>>);

struct State {
    free: usize,
    held: HashMap<String, usize>,
    waiting: VecDeque<(String, oneshot::Sender<Permit>)>,
}

/// One permit, given back when it is dropped.
pub(crate) struct Permit {
    permits: FairPermits,
    user: String,
}

/// Too many wait already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl FairPermits {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: count, held: HashMap::new(), waiting: VecDeque::new() })))
    }

    /// A permit for this user, as soon as it is its turn. Dropped before that, it leaves the queue.
    pub(crate) async fn acquire(&self, user: &str) -> Result<Permit, Full> {
        let turn = {
            let mut state = self.lock();
            // Those who went away make no queue.
            state.waiting.retain(|(_, turn)| !turn.is_closed());
            if state.free > 0 {
                state.free -= 1;
                *state.held.entry(user.to_owned()).or_default() += 1;
                drop(state);
                return Ok(self.permit(user.to_owned()));
            }
            if state.waiting.len() >= WAITING_MAX {
                return Err(Full);
            }
            let (give, turn) = oneshot::channel();
            state.waiting.push_back((user.to_owned(), give));
            turn
        };
        turn.await.map_err(|_| Full)
    }

    fn permit(&self, user: String) -> Permit {
        Permit { permits: self.clone(), user }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit back and gives it to the next. One that cannot be given, because who waited is gone, is dropped by
    /// the channel and so comes back here.
    fn release(&self, user: &str) {
        let mut state = self.lock();
        state.give_back(user);
        let Some((next, turn)) = state.next() else {
            state.free += 1;
            return;
        };
        *state.held.entry(next.clone()).or_default() += 1;
        drop(state);
        drop(turn.send(self.permit(next)));
    }
}

impl State {
    fn give_back(&mut self, user: &str) {
        if let Some(held) = self.held.get_mut(user) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(user);
            }
        }
    }

    /// The first of those whose users hold the fewest.
    fn next(&mut self) -> Option<(String, oneshot::Sender<Permit>)> {
        self.waiting.retain(|(_, turn)| !turn.is_closed());
        let held = |user: &str| self.held.get(user).copied().unwrap_or(0);
        let first = self.waiting.iter().enumerate().min_by_key(|(_, (user, _))| held(user))?.0;
        self.waiting.remove(first)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release(&self.user);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_user_with_many_waiting_makes_another_wait_for_one_only() {
        let permits = FairPermits::new(2);
        let mut first = pin!(permits.acquire("ann"));
        let Poll::Ready(Ok(first)) = now(first.as_mut()) else { panic!("no permit was free") };
        let mut second = pin!(permits.acquire("ann"));
        let Poll::Ready(Ok(second)) = now(second.as_mut()) else { panic!("no permit was free") };
        let mut third = pin!(permits.acquire("ann"));
        let mut of_bob = pin!(permits.acquire("bob"));
        assert!(now(third.as_mut()).is_pending() && now(of_bob.as_mut()).is_pending());
        drop(first);
        assert!(now(third.as_mut()).is_pending(), "ann holds one, bob none");
        let Poll::Ready(Ok(of_bob)) = now(of_bob.as_mut()) else { panic!("bob waits for all of ann's") };
        drop(second);
        assert!(now(third.as_mut()).is_ready());
        drop(of_bob);
    }

    #[test]
    fn a_permit_whose_waiter_went_away_is_not_lost() {
        let permits = FairPermits::new(1);
        let mut held = pin!(permits.acquire("ann"));
        let Poll::Ready(Ok(held)) = now(held.as_mut()) else { panic!("no permit was free") };
        {
            let mut gone = pin!(permits.acquire("bob"));
            assert!(now(gone.as_mut()).is_pending());
        }
        drop(held);
        // Given just before its waiter goes away.
        let mut held = pin!(permits.acquire("ann"));
        let Poll::Ready(Ok(held)) = now(held.as_mut()) else { panic!("the permit was lost") };
        {
            let mut late = pin!(permits.acquire("bob"));
            assert!(now(late.as_mut()).is_pending());
            drop(held);
        }
        assert!(now(pin!(permits.acquire("eve")).as_mut()).is_ready(), "the permit was lost");
        assert_eq!(permits.lock().held.len(), 0);
    }
}
