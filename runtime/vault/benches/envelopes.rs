//! Wrapping and opening an epoch's secret, by X-Wing and by X25519: microseconds, median of 400.

use alephlab_vault::{
    EpochSecret, Grant, GrantTerms, ReaderKey, RootRef, UnsignedHead, Wallet, dataset_id, new_id_random,
};
use std::time::Instant;

const ROUNDS: usize = 400;

fn main() -> alephlab_vault::Result<()> {
    let (wallet, key, secret) = (
        Wallet::generate()?,
        ReaderKey::generate()?,
        EpochSecret::generate()?,
    );
    let id_random = new_id_random()?;
    let dataset = dataset_id(&wallet.owner(), &id_random);
    let head = UnsignedHead {
        dataset_id: dataset,
        owner: wallet.owner(),
        version: 1,
        prev: [0; 32],
        epoch: 1,
        epoch_commitment: secret.commitment(&dataset, 1),
        root: RootRef {
            item_hash: "00".repeat(32),
            length: 0,
            sha256: [0; 32],
        },
        writers: Vec::new(),
        created: 0,
        not_after: None,
        id_random,
    }
    .sign(&wallet)?;
    for public in key.publics() {
        let (mut sealing, mut opening) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let grant = Grant::seal(dataset, 1, &secret, wallet.owner(), public, GrantTerms::default())?;
            sealing.push(start.elapsed());
            let start = Instant::now();
            grant.open(&key, &wallet.address(), &head, 1)?;
            opening.push(start.elapsed());
        }
        let median = |all: &mut Vec<std::time::Duration>| {
            all.sort();
            all[ROUNDS / 2].as_micros()
        };
        let kem = public.kem_id();
        println!(
            "KEM {kem:#06x}: wrap {} us, open {} us",
            median(&mut sealing),
            median(&mut opening)
        );
    }
    Ok(())
}
