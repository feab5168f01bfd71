//! Counts failed proofs of identity per peer and minute.
//!
//! It slows guessing and keeps the log short; what keeps tokens from being guessed is their 256 bits. A right token is
//! never refused because of others' failures on the same machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
const MAX_FAILURES: u32 = 60;
/// Peers remembered; beyond it all are forgotten, which costs an attacker more than it gives.
const MAX_PEERS: usize = 10_000;

#[derive(Default)]
pub(crate) struct Limiter(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Limiter {
    /// Counts a failure; true when this peer had more than sixty in this minute.
    pub(crate) fn exceeded(&self, peer: IpAddr) -> bool {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS {
            peers.clear();
        }
        let (since, count) = peers.entry(peer).or_insert((Instant::now(), 0));
        if since.elapsed() > WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count = count.saturating_add(1);
        *count > MAX_FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_peer_by_itself() {
        let limiter = Limiter::default();
        let (one, two) = ("127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert!((0..MAX_FAILURES).all(|_| !limiter.exceeded(one)));
        assert!(limiter.exceeded(one));
        assert!(!limiter.exceeded(two));
    }
}
