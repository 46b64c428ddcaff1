//! Wrong passwords, counted by user and address: guessing is slowed, a pool that connects all the time is not.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::refusal::{Refusal, code};

/// Wrong passwords of one user from one address in [`WINDOW`].
const FAILED_MAX: u32 = 10;
/// How long a wrong password counts, from the first one.
const WINDOW: Duration = Duration::from_secs(60);
/// Users and addresses counted at once; when these are used up, nobody new may try.
const COUNTED_MAX: usize = 100_000;

/// The wrong passwords of late.
#[derive(Default)]
pub(super) struct Tries {
    failed: Mutex<HashMap<(String, IpAddr), (Instant, u32)>>,
}

impl Tries {
    /// Whether another try is allowed.
    pub(super) fn check(&self, user: &str, address: IpAddr) -> Result<(), Refusal> {
        let mut failed = self.failed();
        if failed.len() >= COUNTED_MAX {
            failed.retain(|_, (first, _)| first.elapsed() < WINDOW);
        }
        let room = failed.len() < COUNTED_MAX;
        let allowed = match failed.get(&(user.to_owned(), address)) {
            Some((first, count)) => *count < FAILED_MAX || first.elapsed() >= WINDOW,
            None => room,
        };
        let message = "too many wrong passwords of this user from this address; try again in a minute";
        if allowed { Ok(()) } else { Err(Refusal::fatal(code::NOT_ALLOWED, message)) }
    }

    /// Counts a wrong password.
    pub(super) fn failed_again(&self, user: &str, address: IpAddr) {
        let mut failed = self.failed();
        let entry = failed.entry((user.to_owned(), address)).or_insert((Instant::now(), 0));
        if entry.0.elapsed() >= WINDOW {
            *entry = (Instant::now(), 0);
        }
        entry.1 += 1;
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<(String, IpAddr), (Instant, u32)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wrong_passwords_shut_out_this_user_from_this_address_only() {
        let tries = Tries::default();
        let [here, there] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        for _ in 0..FAILED_MAX {
            tries.check("ann", here).unwrap();
            tries.failed_again("ann", here);
        }
        assert_eq!(tries.check("ann", here).unwrap_err().code, code::NOT_ALLOWED);
        tries.check("ann", there).unwrap();
        tries.check("ben", here).unwrap();
    }
}
