//! Sealed objects against every kind of damage: whatever is done to them, the answer is the plaintext or a named
//! error.

use super::{code, long, noise};
use crate::digest::sha256;
use crate::keys::{DatasetId, ObjectKey};
use crate::object::{CHUNK, Expected, FRAME, Kind, TAG, open, seal};
use proptest::prelude::*;
use zeroize::Zeroizing;

const DATASET: DatasetId = DatasetId([5; 32]);
const ID: [u8; 16] = [6; 16];

fn key() -> ObjectKey {
    ObjectKey(Zeroizing::new([7; 32]))
}

fn sealed_in(epoch: u32, plaintext: &[u8]) -> crate::Result<Vec<u8>> {
    let salting = (&crate::keys::random()?, &sha256(&[plaintext]));
    seal(
        &DATASET,
        Kind::Data,
        epoch,
        &ID,
        &key(),
        plaintext.to_vec(),
        salting,
    )
}

fn sealed(plaintext: &[u8]) -> Vec<u8> {
    sealed_in(3, plaintext).unwrap()
}

/// Opens `bytes` as if the manifest named exactly them, so that only frame, commitment and tags can refuse.
fn open_named(bytes: Vec<u8>) -> crate::Result<Vec<u8>> {
    let sha256 = sha256(&[&bytes]);
    open_with(bytes, sha256, DATASET, 3, Kind::Data, ID, key())
}

fn open_with(
    bytes: Vec<u8>,
    sha256: [u8; 32],
    dataset: DatasetId,
    epoch: u32,
    kind: Kind,
    id: [u8; 16],
    key: ObjectKey,
) -> crate::Result<Vec<u8>> {
    let ciphertext_len = bytes.len() as u64;
    let expected = Expected {
        name: "name-of-it",
        ciphertext_len,
        sha256,
        kind,
        epoch,
        object_id: Some(id),
    };
    open(bytes, &expected, &dataset, |_| Ok(key))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if long() { 400 } else { 48 }))]

    #[test]
    fn opens_to_what_was_sealed(chunks in 0_usize..5, edge in -2_isize..3, seed: u64) {
        let length = (chunks * CHUNK).saturating_add_signed(edge);
        let plaintext = noise(seed, length);
        let object = sealed(&plaintext);
        prop_assert_eq!(object.len() as u64, crate::object::ciphertext_len(length as u64));
        prop_assert!(open_named(object).unwrap() == plaintext);
    }

    #[test]
    fn never_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), frame: bool) {
        let mut bytes = bytes;
        if frame && bytes.len() >= 12 {
            bytes[..12].copy_from_slice(b"ALEPHDS1\x01\x01\x01\x00");
        }
        prop_assert!(open_named(bytes).is_err());
    }
}

#[test]
fn opens_at_every_border_of_chunks() {
    for length in [
        0,
        1,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        2 * CHUNK - 1,
        2 * CHUNK,
        2 * CHUNK + 1,
        64 * CHUNK,
    ] {
        let plaintext = noise(1, length);
        assert!(open_named(sealed(&plaintext)).unwrap() == plaintext, "{length}");
    }
}

#[test]
fn seals_equal_plaintext_differently_each_time() {
    assert_ne!(sealed(b"same"), sealed(b"same"));
}

#[test]
fn refuses_every_flipped_bit() {
    let plaintext = noise(2, 20_480);
    let object = sealed(&plaintext);
    assert_eq!(object.len(), 20_600);
    let bits = object.len() * 8;
    // Frame, salt and commitment, and the tags, always; between them a sample unless all is asked for.
    let tags = [FRAME + CHUNK, object.len() - TAG];
    let near_tag = |byte: usize| tags.iter().any(|tag| (*tag..tag + TAG).contains(&byte));
    for bit in (0..bits).filter(|bit| long() || bit / 8 < FRAME || near_tag(bit / 8) || bit % 331 == 0) {
        let mut damaged = object.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            0..8 | 12..32 => ["E_FRAME"; 3],
            8 => ["E_VERSION"; 3],
            9 => ["E_KIND", "E_FRAME", "E_FRAME"],
            10 => ["E_SUITE"; 3],
            11 => ["E_FLAGS"; 3],
            32..88 => ["E_COMMIT"; 3],
            _ => ["E_TAG"; 3],
        };
        let found = code(open_named(damaged));
        assert!(expected.contains(&found), "bit {bit}: {found}");
    }
}

#[test]
fn refuses_flipped_bits_by_hash_before_anything_else() {
    let object = sealed(&noise(3, 100));
    let hash = sha256(&[&object]);
    for byte in 0..object.len() {
        let mut damaged = object.clone();
        damaged[byte] ^= 0x80;
        let result = open_with(damaged, hash, DATASET, 3, Kind::Data, ID, key());
        let error = result.unwrap_err();
        assert_eq!(error.code(), "E_HASH");
        assert!(
            error.to_string().contains("name-of-it"),
            "the message names the object"
        );
    }
}

#[test]
fn refuses_every_other_value_of_kind_suite_flags_and_version() {
    let object = sealed(b"x");
    for (place, codes) in [
        (8, ["E_VERSION"; 2]),
        (9, ["E_KIND", "E_FRAME"]),
        (10, ["E_SUITE"; 2]),
        (11, ["E_FLAGS"; 2]),
    ] {
        for value in 0..=255 {
            let mut damaged = object.clone();
            if damaged[place] == value {
                continue;
            }
            damaged[place] = value;
            let found = code(open_named(damaged));
            assert!(codes.contains(&found), "byte {place} = {value}: {found}");
        }
    }
}

#[test]
fn refuses_every_cut_and_extension() {
    let object = sealed(&noise(4, 2 * CHUNK + 100));
    let step = if long() { 1 } else { 37 };
    for length in (0..object.len()).step_by(step) {
        let found = code(open_named(object[..length].to_vec()));
        assert!(
            ["E_LENGTH", "E_FRAME", "E_TAG"].contains(&found),
            "cut to {length}: {found}"
        );
    }
    for extra in (1..=CHUNK + TAG).step_by(if long() { 1 } else { 211 }) {
        let mut longer = object.clone();
        longer.resize(object.len() + extra, 0);
        let found = code(open_named(longer));
        assert!(["E_LENGTH", "E_TAG"].contains(&found), "{extra} more: {found}");
    }
}

#[test]
fn refuses_a_removed_last_chunk_and_swapped_chunks() {
    let object = sealed(&noise(5, 2 * CHUNK));
    // The last chunk is empty: cutting its tag leaves only full chunks, which no object has.
    assert_eq!(
        code(open_named(object[..object.len() - TAG].to_vec())),
        "E_LENGTH"
    );
    let chunk = |index: usize| FRAME + index * (CHUNK + TAG)..FRAME + (index + 1) * (CHUNK + TAG);
    let mut swapped = object.clone();
    swapped[chunk(0)].copy_from_slice(&object[chunk(1)]);
    swapped[chunk(1)].copy_from_slice(&object[chunk(0)]);
    assert_eq!(code(open_named(swapped)), "E_TAG");
    let other = sealed(&noise(6, 2 * CHUNK));
    let mut mixed = object.clone();
    mixed[chunk(1)].copy_from_slice(&other[chunk(1)]);
    assert_eq!(code(open_named(mixed)), "E_TAG");
    let mut doubled = object.clone();
    doubled[chunk(1)].copy_from_slice(&object[chunk(0)]);
    assert_eq!(code(open_named(doubled)), "E_TAG");
}

#[test]
fn refuses_another_dataset_epoch_kind_id_and_key() {
    let object = sealed(b"content");
    let hash = sha256(&[&object]);
    let with =
        |dataset, epoch, kind, id, key| code(open_with(object.clone(), hash, dataset, epoch, kind, id, key));
    assert_eq!(with(DATASET, 3, Kind::Data, ID, key()), "no error");
    assert_eq!(with(DatasetId([4; 32]), 3, Kind::Data, ID, key()), "E_COMMIT");
    assert_eq!(with(DATASET, 2, Kind::Data, ID, key()), "E_FRAME");
    assert_eq!(with(DATASET, 3, Kind::Leaves, ID, key()), "E_FRAME");
    assert_eq!(with(DATASET, 3, Kind::Data, [0; 16], key()), "E_FRAME");
    assert_eq!(
        with(DATASET, 3, Kind::Data, ID, ObjectKey(Zeroizing::new([8; 32]))),
        "E_COMMIT"
    );
}

#[test]
fn refuses_to_seal_more_than_an_object_holds() {
    let plaintext = vec![0; (1 << 26) + 1];
    assert_eq!(code(sealed_in(1, &plaintext)), "E_LIMIT");
}
