//! Object ids and salts: fresh ones, or those of an upload that goes on after it was cut.
//!
//! An upload that is begun again must seal the same objects again, or everything is stored and paid for twice. So they are
//! drawn from a seed that is kept with the upload's journal, together with the plaintext: the same plaintext gives the same
//! object, and another one another id and another salt (container section 5). The seed is as secret as the epoch's.

use crate::Result;
use crate::keys::{EpochSecret, hmac512, random};
use hmac::Mac;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Where ids and salts of one upload come from.
#[derive(Clone)]
pub(crate) enum Draw {
    /// The system's generator.
    Fresh,
    /// A seed of this upload.
    Seeded(Arc<Seeded>),
}

pub(crate) struct Seeded {
    seed: Zeroizing<[u8; 32]>,
    /// How often each plaintext was sealed: equal ones are not one object.
    sealed: Mutex<HashMap<[u8; 32], u64>>,
}

/// What one object is sealed with.
pub(crate) struct Drawn {
    pub(crate) object_id: [u8; 16],
    /// Goes into the salt.
    pub(crate) noise: [u8; 32],
}

impl Draw {
    pub(crate) fn seeded(seed: Zeroizing<[u8; 32]>) -> Self {
        Self::Seeded(Arc::new(Seeded {
            seed,
            sealed: Mutex::default(),
        }))
    }

    /// For the next object, whose plaintext has this SHA-256.
    pub(crate) fn draw(&self, plaintext: &[u8; 32]) -> Result<Drawn> {
        let Self::Seeded(seeded) = self else {
            return Ok(Drawn {
                object_id: random()?,
                noise: random()?,
            });
        };
        let mut sealed = seeded.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        let times = sealed.entry(*plaintext).or_default();
        let mut mac = hmac512(&seeded.seed);
        mac.update(b"alephlab/upload/v1/draw\0");
        mac.update(plaintext);
        mac.update(&times.to_be_bytes());
        *times += 1;
        let bytes = mac.finalize().into_bytes();
        let mut drawn = Drawn {
            object_id: [0; 16],
            noise: [0; 32],
        };
        drawn.object_id.copy_from_slice(&bytes[..16]);
        drawn.noise.copy_from_slice(&bytes[16..48]);
        Ok(drawn)
    }

    /// A secret for an epoch that is this one object's.
    pub(crate) fn secret(&self, drawn: &Drawn) -> Result<EpochSecret> {
        let Self::Seeded(seeded) = self else {
            return EpochSecret::generate();
        };
        let mut mac = hmac512(&seeded.seed);
        mac.update(b"alephlab/upload/v1/epoch\0");
        mac.update(&drawn.noise);
        let bytes = Zeroizing::new(<[u8; 64]>::from(mac.finalize().into_bytes()));
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(&bytes[..32]);
        Ok(EpochSecret::from_bytes(*secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again_and_equal_plaintexts_are_two_objects() {
        let all = |seed: u8| {
            let draw = Draw::seeded(Zeroizing::new([seed; 32]));
            [[1; 32], [1; 32], [2; 32]].map(|plaintext| draw.draw(&plaintext).unwrap().object_id)
        };
        assert_eq!(all(7), all(7));
        let mut different = all(7).to_vec();
        different.extend(all(8));
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 6);
    }
}
