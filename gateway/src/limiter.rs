//! Counts what a peer does too often: failed proofs of identity, texts to sign that it asks for.
//!
//! It only counts; whoever asks decides what follows. For failed proofs that is another answer (429, come back later):
//! every try is still looked up, so a right token passes whatever others on the same machine do, and guessing is not
//! slowed. What keeps tokens from being guessed is their 256 bits. A text to sign is not made above the limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Peers remembered. Beyond it those whose minute is over are forgotten, and if that is not enough, all: who has so
/// many addresses is not held up by this, and memory stays bounded.
const MAX_PEERS: usize = 10_000;

/// Counts per peer and minute.
pub(crate) struct Limiter {
    most: u32,
    peers: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Limiter {
    /// Allows each peer `most` in a minute.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most,
            peers: Mutex::default(),
        }
    }

    /// Counts one; true when this peer had more than are allowed in this minute.
    pub(crate) fn exceeded(&self, peer: IpAddr) -> bool {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS && !peers.contains_key(&peer) {
            peers.retain(|_, (since, _)| since.elapsed() <= WINDOW);
            if peers.len() >= MAX_PEERS {
                peers.clear();
            }
        }
        let (since, count) = peers.entry(peer).or_insert((Instant::now(), 0));
        if since.elapsed() > WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count = count.saturating_add(1);
        *count > self.most
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn counts_each_peer_by_itself() {
        let limiter = Limiter::new(60);
        let (one, two) = ("127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert!((0..60).all(|_| !limiter.exceeded(one)));
        assert!(limiter.exceeded(one));
        assert!(!limiter.exceeded(two));
    }

    #[test]
    fn remembers_so_many_peers_and_no_more() {
        let limiter = Limiter::new(1);
        for number in 0..25_000 {
            limiter.exceeded(Ipv4Addr::from_bits(number).into());
        }
        assert!(limiter.peers.lock().unwrap().len() <= MAX_PEERS);
    }
}
