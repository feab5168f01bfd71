//! Scope 2: what a share opens, and above all what it does not.

use super::{Fixture, Version, code, noise};
use crate::keys::EpochSecret;
use crate::object::{self, Expected, Kind};
use crate::share::{ShareEnvelope, ShareTerms, ShareToken, open_envelope, open_share, seal_share};
use crate::{Keys, ObjectKeys, Reader, SealedObject, SourceFile, narrow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Three revisions in three epochs; each changes one file and keeps a large one.
async fn three(fixture: &Fixture) -> (Vec<Version>, Vec<EpochSecret>) {
    let tree = |n: u64| {
        vec![
            SourceFile::bytes("kept", noise(1, 1_200_000)),
            SourceFile::bytes("changed", noise(n, 5_000)),
        ]
    };
    let mut versions = vec![fixture.seal(&tree(10)).await];
    let mut secrets = vec![fixture.secret.duplicate()];
    for epoch in 2..=3_u32 {
        let last = secrets.last().unwrap().duplicate();
        let reader = fixture
            .open_with(versions.last().unwrap(), Keys::Epoch(last))
            .await
            .unwrap();
        let secret = EpochSecret::generate().unwrap();
        versions.push(
            fixture
                .next(&reader, &tree(10 + u64::from(epoch)), epoch, &secret)
                .await,
        );
        secrets.push(secret);
    }
    (versions, secrets)
}

async fn share_middle(fixture: &Fixture) -> (Vec<Version>, ObjectKeys, SealedObject) {
    let (versions, secrets) = three(fixture).await;
    let reader = fixture
        .open_with(&versions[1], Keys::Epoch(secrets[1].duplicate()))
        .await
        .unwrap();
    let (keys, root) = narrow(&reader, &"ab".repeat(32)).unwrap();
    fixture.put(&root).await;
    (versions, keys, root)
}

#[tokio::test]
async fn a_share_opens_its_revision() {
    let fixture = Fixture::new();
    let (versions, keys, _) = share_middle(&fixture).await;
    let reader = fixture
        .open_with(&versions[1], Keys::Objects(keys))
        .await
        .unwrap();
    assert!(reader.read("kept").await.unwrap() == noise(1, 1_200_000));
    assert!(reader.read("changed").await.unwrap() == noise(12, 5_000));
    assert_eq!(code(narrow(&reader, &"ab".repeat(32))), "E_EPOCH");
}

#[tokio::test]
async fn a_share_opens_no_earlier_or_later_revision() {
    let fixture = Fixture::new();
    let (versions, keys, root) = share_middle(&fixture).await;
    // The heads of the others are refused as a whole.
    for other in [0, 2] {
        let again = ObjectKeys::decode(&keys.encode()).unwrap();
        assert_eq!(
            code(fixture.open_with(&versions[other], Keys::Objects(again)).await),
            "E_EPOCH"
        );
    }
    // And no key in the share opens an object that only another revision has.
    let named: BTreeSet<_> = keys.keys.keys().copied().collect();
    let all_keys: Vec<_> = keys
        .keys
        .values()
        .map(|key| key.duplicate())
        .chain([keys.root.key.duplicate()])
        .collect();
    let mut foreign = 0;
    for (index, version) in versions.iter().enumerate() {
        for sealed in &version.objects {
            let id: [u8; 16] = sealed.bytes[16..32].try_into().unwrap();
            if named.contains(&id) {
                continue;
            }
            foreign += 1;
            for key in &all_keys {
                let epoch = u32::try_from(index + 1).unwrap();
                assert_eq!(
                    code(try_open(&fixture, sealed, epoch, key)),
                    "E_COMMIT",
                    "revision {}",
                    index + 1
                );
            }
        }
    }
    // Each revision has a page and a root of its own, and its changed data object; the middle one only its root.
    assert!(foreign >= 7, "{foreign}");
    // The re-sealed root holds no secret of any epoch.
    let opened = open_plain(&fixture, &root, 2, &keys.root.key).unwrap();
    assert!(crate::manifest::Root::decode(&opened).unwrap().older.is_empty());
    let original = versions[1].objects.last().unwrap();
    assert_eq!(code(try_open(&fixture, original, 2, &keys.root.key)), "E_COMMIT");
}

fn try_open(
    fixture: &Fixture,
    sealed: &SealedObject,
    epoch: u32,
    key: &crate::keys::ObjectKey,
) -> crate::Result<()> {
    open_plain(fixture, sealed, epoch, key).map(|_| ())
}

fn open_plain(
    fixture: &Fixture,
    sealed: &SealedObject,
    epoch: u32,
    key: &crate::keys::ObjectKey,
) -> crate::Result<Vec<u8>> {
    let expected = Expected {
        name: "any",
        ciphertext_len: sealed.bytes.len() as u64,
        sha256: sealed.sha256,
        kind: sealed.kind,
        epoch,
        object_id: None,
    };
    object::open(sealed.bytes.to_vec(), &expected, &fixture.dataset, |_| {
        Ok(key.duplicate())
    })
}

#[tokio::test]
async fn the_middle_revision_does_carry_an_older_secret_that_the_share_leaves_out() {
    let fixture = Fixture::new();
    let (versions, secrets) = three(&fixture).await;
    let root = versions[1].objects.last().unwrap();
    let id: [u8; 16] = root.bytes[16..32].try_into().unwrap();
    let key = crate::ring::derive(&secrets[1], &fixture.dataset, Kind::Root, 2, &id);
    let opened = open_plain(&fixture, root, 2, &key).unwrap();
    assert_eq!(crate::manifest::Root::decode(&opened).unwrap().older.len(), 1);
}

fn terms(keys: &ObjectKeys) -> ShareTerms {
    ShareTerms {
        uuid: Uuid::from_bytes([3; 16]),
        model: "0xabc/digits".into(),
        revision: hex::encode(&keys.head_hash[..20]),
        expires: Some(2_000),
    }
}

#[tokio::test]
async fn a_share_is_bound_to_token_uuid_model_revision_and_expiry() {
    let fixture = Fixture::new();
    let (versions, keys, _) = share_middle(&fixture).await;
    let token = ShareToken::generate().unwrap();
    let terms = terms(&keys);
    let sealed = seal_share(&token, &terms, &keys).unwrap();
    let opened = open_share(&token, &terms, &sealed, 1_000).unwrap();
    assert_eq!(*opened.encode(), *keys.encode());
    assert_eq!(
        (opened.epoch, opened.head_message.len(), opened.is_empty()),
        (2, 64, false)
    );

    let refused = |token: &ShareToken, terms: &ShareTerms, sealed: &[u8], now| {
        assert_eq!(code(open_share(token, terms, sealed, now)), "E_SHARE");
    };
    refused(&ShareToken::generate().unwrap(), &terms, &sealed, 0);
    let changes: [fn(&mut ShareTerms); 5] = [
        |terms| terms.uuid = Uuid::from_bytes([4; 16]),
        |terms| terms.model = "0xabc/other".into(),
        |terms| terms.revision = "0".repeat(40),
        |terms| terms.expires = Some(3_000),
        |terms| terms.expires = None,
    ];
    for change in changes {
        let mut changed = terms.clone();
        change(&mut changed);
        refused(&token, &changed, &sealed, 0);
    }
    refused(&token, &terms, &sealed, 2_001);
    for place in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[place] ^= 1;
        refused(&token, &terms, &damaged, 0);
    }
    refused(&token, &terms, &sealed[..11], 0);
    let other = ShareTerms {
        revision: versions[0].head.revision(),
        ..terms
    };
    assert_eq!(code(seal_share(&token, &other, &keys)), "E_MALFORMED");
}

#[tokio::test]
async fn an_envelope_opens_only_with_the_head_of_its_own_model_and_revision() {
    let fixture = Fixture::new();
    let (versions, keys, _) = share_middle(&fixture).await;
    let token = ShareToken::generate().unwrap();
    let sealed_for = |model: &str| {
        let model = model.to_owned();
        let terms = ShareTerms {
            model,
            ..terms(&keys)
        };
        STANDARD.encode(seal_share(&token, &terms, &keys).unwrap())
    };
    let model = format!("{}/digits", fixture.wallet.address().to_lowercase());
    let (uuid, revision) = (terms(&keys).uuid, versions[1].head.revision());
    let (sealed, head) = (sealed_for(&model), versions[1].head.post_content().unwrap());
    let good = ShareEnvelope {
        model: &model,
        revision: &revision,
        expires: Some(2_000),
        sealed: &sealed,
        head: &head,
    };
    let open = |uuid, envelope: &ShareEnvelope<'_>, now| open_envelope(&token, uuid, envelope, now);
    let opened = open(uuid, &good, 1_000).unwrap();
    assert_eq!(opened.head, versions[1].head);
    fixture
        .open_with(&versions[1], Keys::Objects(opened.keys))
        .await
        .unwrap();
    assert_eq!(code(open(uuid, &good, 2_001)), "E_SHARE");
    assert_eq!(code(open(Uuid::from_bytes([4; 16]), &good, 0)), "E_SHARE");
    let refused = |envelope: ShareEnvelope<'_>| code(open(uuid, &envelope, 0));
    let expires = None;
    assert_eq!(refused(ShareEnvelope { expires, ..good }), "E_SHARE");
    let sealed = "not base64";
    assert_eq!(refused(ShareEnvelope { sealed, ..good }), "E_MALFORMED");
    let other = versions[2].head.post_content().unwrap();
    assert_eq!(refused(ShareEnvelope { head: &other, ..good }), "E_MALFORMED");
    let mut forged = head.clone();
    forged["created"] = 1.into();
    assert_eq!(
        refused(ShareEnvelope {
            head: &forged,
            ..good
        }),
        "E_HEAD_SIG"
    );
    // A share that its maker sealed for a name under somebody else's address.
    let (model, sealed) = ("0xabc/digits", sealed_for("0xabc/digits"));
    let foreign = ShareEnvelope {
        model,
        sealed: &sealed,
        ..good
    };
    assert_eq!(refused(foreign), "E_MALFORMED");
}

#[test]
fn tokens_are_random_checked_and_derive_what_the_design_says() {
    let token = ShareToken::generate().unwrap();
    assert_eq!((token.expose().len(), &token.expose()[..3]), (37, "hf_"));
    assert_ne!(token.expose(), ShareToken::generate().unwrap().expose());
    assert_eq!(
        ShareToken::parse(&format!(" {}\n", token.expose()))
            .unwrap()
            .expose(),
        token.expose()
    );
    for place in 0..token.expose().len() {
        let mut typed: Vec<u8> = token.expose().into();
        typed[place] = if typed[place] == b'a' { b'b' } else { b'a' };
        // A change in the random part is caught by the checksum but for one chance in 62^6.
        assert_eq!(
            code(ShareToken::parse(std::str::from_utf8(&typed).unwrap())),
            "E_TOKEN",
            "letter {place}"
        );
    }
    for text in ["", "hf_", "hf_é", &token.expose()[..36], &token.expose()[3..]] {
        let error = ShareToken::parse(text).err().unwrap();
        assert_eq!(error.code(), "E_TOKEN");
    }
    // HKDF-SHA256, extract with empty salt, then expand: said again with HMAC alone.
    let (auth, uuid) = (token.auth(), Uuid::from_bytes([9; 16]));
    let hmac = |key: &[u8], text: &[u8]| -> [u8; 32] {
        use hmac::{KeyInit, Mac};
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
        mac.update(text);
        mac.finalize().into_bytes().into()
    };
    let prk = hmac(&[0; 32], token.expose().as_bytes());
    assert_eq!(*auth, hmac(&prk, b"alephlab/share/v1/auth\x01"));
    assert_eq!(
        *token.wrap(uuid),
        hmac(
            &prk,
            &[b"alephlab/share/v1/wrap".as_slice(), uuid.as_bytes(), &[1]].concat()
        )
    );
    assert_eq!(token.auth_sha256(), hex::encode(crate::digest::sha256(&[&*auth])));
}

#[tokio::test]
async fn a_shared_root_that_carries_secrets_is_refused() {
    let fixture = Fixture::new();
    let (versions, secrets) = three(&fixture).await;
    let reader = fixture
        .open_with(&versions[1], Keys::Epoch(secrets[1].duplicate()))
        .await
        .unwrap();
    let (mut keys, _) = narrow(&reader, &"ab".repeat(32)).unwrap();
    // A careless sharer hands out the original root with its own key.
    let id: [u8; 16] = versions[1].objects.last().unwrap().bytes[16..32]
        .try_into()
        .unwrap();
    keys.root.at = versions[1].head.head.root.clone();
    keys.root.key = crate::ring::derive(&secrets[1], &fixture.dataset, Kind::Root, 2, &id);
    let opened = Reader::open(fixture.storage.clone(), &versions[1].head, Keys::Objects(keys)).await;
    assert_eq!(code(opened), "E_EPOCH");
}
