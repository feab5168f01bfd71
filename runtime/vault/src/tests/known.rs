//! Known answers of section 16 of the container, made by an independent implementation.

use crate::digest::sha256;
use crate::keys::{Address, EpochSecret, ObjectKey, dataset_id};
use crate::object::{Expected, Kind, ciphertext_len, open, plaintext_len, seal_with_salt};
use crate::{cbor, merkle};

const ROWS: [(u64, u64, &str); 8] = [
    (
        0,
        104,
        "5b0bf04020d5ad41f398323a8ed76f8a4fbc535c31b51a288d8d3d50437a0a5a",
    ),
    (
        1,
        105,
        "cc26cc1425a2e1b0ffbde559c136476b6fc30a30c3dd2af9e07bb8f1db2e616e",
    ),
    (
        16_383,
        16_487,
        "9af2f4b54f30445e1e812c0cdc29a26c160244a6dca96e5f4d6954b90028b5ac",
    ),
    (
        16_384,
        16_504,
        "a69a9ef98cb43cee4789653c23200d50651a22f21cd26878184ed08b34db1d50",
    ),
    (
        16_385,
        16_505,
        "631cef0c54d9bf9b59c7e97b2c8ce05018383d4aae33d38f64d0efefbdb5f589",
    ),
    (
        20_480,
        20_600,
        "dd6a27ae8964af8b755f82a69c9ab23a0b25bd1ffd8d2bb9946a095ebd5baa59",
    ),
    (
        1_048_576,
        1_049_704,
        "4c3a8b5cc433d11ad09454f24228e012b0039cbb36c5d5af3f99667ac4aa11e8",
    ),
    (
        16_777_216,
        16_793_704,
        "3d0a13f33d1b6fa4b46f829364d8f33d831a82db9cecd6917e8d5b3cda365da2",
    ),
];

fn secret() -> EpochSecret {
    EpochSecret::from_bytes(std::array::from_fn(|index| u8::try_from(index).unwrap()))
}

#[test]
fn derives_the_keys_of_section_16() {
    let dataset = dataset_id(&Address([0x11; 20]), &[0x22; 16]);
    assert_eq!(
        dataset.to_string(),
        "38e44b282fd2a29512e221b689e18a2731048bd765ab881cfc54547733564a1a"
    );
    let secret = secret();
    let content = secret.content_key(&dataset, 1);
    let answers = [
        (
            *content,
            "61ea90adbc5c8a323707c87bf55f25c5451e93c175be7d088ba1d4b1f44ceb7e",
        ),
        (
            *secret.manifest_key(&dataset, 1),
            "8d3ef43e4fb80d8cfdc3585576acf900b8782735180177464bbfb5d7698b61e3",
        ),
        (
            secret.commitment(&dataset, 1),
            "552db7ee28a0ee6e3a6a376e671d694a8af6fc0470ea64d6738ba7224715846f",
        ),
        (
            *ObjectKey::derive(&content, &[0x33; 16]).0,
            "54b0e63d7dd536dc5c4f90f5dfec59148914a3eaa1c69633b13503f6d2bcec46",
        ),
    ];
    for (found, known) in answers {
        assert_eq!(hex::encode(found), known);
    }
}

#[test]
fn seals_and_opens_the_objects_of_section_16() {
    let dataset = dataset_id(&Address([0x11; 20]), &[0x22; 16]);
    let key = || ObjectKey::derive(&secret().content_key(&dataset, 1), &[0x33; 16]);
    for (length, sealed_length, known) in ROWS {
        // (7 j + floor(j / 256)) mod 256.
        let plaintext: Vec<u8> = (0..length)
            .map(|j| ((7 * j + j / 256) % 256).to_le_bytes()[0])
            .collect();
        let sealed = seal_with_salt(
            &dataset,
            Kind::Data,
            1,
            &[0x33; 16],
            &key(),
            plaintext.clone(),
            [0x44; 24],
        )
        .unwrap();
        assert_eq!(sealed.len() as u64, sealed_length);
        let hash = sha256(&[&sealed]);
        assert_eq!(hex::encode(hash), known, "{length}");
        let expected = Expected {
            name: known,
            ciphertext_len: sealed_length,
            sha256: hash,
            kind: Kind::Data,
            epoch: 1,
            object_id: Some([0x33; 16]),
        };
        assert!(
            open(sealed, &expected, &dataset, |_| Ok(key())).unwrap() == plaintext,
            "{length}"
        );
    }
}

#[test]
fn shows_key_nonce_and_commitment_of_section_16() {
    let dataset = dataset_id(&Address([0x11; 20]), &[0x22; 16]);
    let key = ObjectKey::derive(&secret().content_key(&dataset, 1), &[0x33; 16]);
    let sealed = seal_with_salt(&dataset, Kind::Data, 1, &[0x33; 16], &key, Vec::new(), [0x44; 24]).unwrap();
    assert_eq!(
        hex::encode(&sealed[56..88]),
        "140be0dd47b3db5bb5dcbbcf73bfcab7caf992a1f0131534f003ea76b5e4e292"
    );
    let label = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";
    let info = [
        label.as_slice(),
        &[0x44; 24],
        b"aleph-dataset/v1/object\0",
        &dataset.0,
        &sealed[..32],
    ];
    let block = crate::keys::expand::<76>(&key.0, &info);
    assert_eq!(
        hex::encode(&block[..32]),
        "b4b9a6d306782193105a38e8075105aa9e8fcbc1dd641b02214bf0a4051747cc"
    );
    assert_eq!(hex::encode(&block[32..44]), "ca0da8561507b31a1f4c2d7f");
}

#[test]
fn computes_lengths_both_ways() {
    for plaintext in [0, 1, 16_383, 16_384, 16_385, 1 << 20, (1 << 26) - 1, 1 << 26] {
        assert_eq!(plaintext_len(ciphertext_len(plaintext)), Some(plaintext));
    }
    for impossible in [
        0,
        87,
        88,
        103,
        88 + 16_400,
        88 + 16_400 + 15,
        ciphertext_len((1 << 26) + 1),
    ] {
        assert_eq!(plaintext_len(impossible), None, "{impossible}");
    }
}

/// The tree of Certificate Transparency's tests: eight leaves and their published hashes.
#[test]
fn hashes_the_trees_of_certificate_transparency() {
    let data = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let leaves: Vec<_> = data
        .iter()
        .map(|leaf| {
            merkle::leaves(&hex::decode(leaf).unwrap())
                .first()
                .copied()
                .unwrap_or_else(|| crate::digest::sha256(&[&[0]]))
        })
        .collect();
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    for (count, root) in (1..).zip(roots) {
        assert_eq!(
            hex::encode(merkle::root(&leaves[..count])),
            root,
            "{count} leaves"
        );
    }
    assert_eq!(merkle::root(&[]), sha256(&[]));
}

/// RFC 8949 appendix A, the values that our records use.
#[test]
fn writes_the_numbers_and_strings_of_rfc_8949() {
    let numbers = [
        (0, "00"),
        (1, "01"),
        (10, "0a"),
        (23, "17"),
        (24, "1818"),
        (25, "1819"),
        (100, "1864"),
        (1_000, "1903e8"),
        (1_000_000, "1a000f4240"),
        (1_000_000_000_000, "1b000000e8d4a51000"),
        (u64::MAX, "1bffffffffffffffff"),
    ];
    for (number, known) in numbers {
        let mut to = cbor::Writer::new();
        to.uint(number);
        assert_eq!(hex::encode(to.finish()), known);
    }
    let mut to = cbor::Writer::new();
    to.array(7)
        .text("")
        .text("a")
        .text("ü")
        .bytes(&[1, 2, 3, 4])
        .bool(false)
        .bool(true)
        .null();
    assert_eq!(hex::encode(to.finish()), "8760616162c3bc4401020304f4f5f6");
}

#[test]
fn refuses_numbers_lengths_and_types_that_are_not_canonical() {
    // A page is a map of two; each of these says the same in another way, or something else.
    let refused = [
        "a2016166",
        "a20161660280ff",
        "bf0161660280ff",
        "a2016166029fff",
        "a201616602800000",
        "a2 1801 6166 0280",
        "a2016166 029800",
        "a20161660 2d98180",
        "a202800161 66",
        "a2017f6166ff0280",
        "a30161660280 0300",
        "a2016175 0280",
        "a1016166",
        "80",
        "",
        "fb3ff0000000000000",
    ];
    for text in refused {
        let bytes = hex::decode(text.replace(' ', "")).unwrap();
        assert_eq!(super::code(crate::entry::decode_page(&bytes)), "E_CBOR", "{text}");
    }
    assert!(
        crate::entry::decode_page(&hex::decode("a20161660280").unwrap())
            .unwrap()
            .is_empty()
    );
}
