//! Heads, grants and delegations: what is signed or sealed opens for whom it is meant, and every change shows.

use super::{Fixture, Version, code};
use crate::head::to_json;
use crate::keys::{Address, EpochSecret};
use crate::storage::Storage;
use crate::{
    Delegation, DelegationTerms, Grant, GrantTerms, Keys, Policy, ReaderKey, ReaderPublic, SignedHead,
    SourceFile, UnsignedHead, Wallet, Writer, narrow, open_epoch_secret, reader_keys_of, register_reader_key,
    seal_epoch_secret,
};
use serde_json::{Value, json};

const NOW: u64 = 1_790_000_100;

async fn sealed(fixture: &Fixture) -> Version {
    fixture.seal(&[SourceFile::bytes("a", "content")]).await
}

/// The record with one field replaced, as JSON that still parses; None when it does not.
fn with<T: serde::Serialize + serde::de::DeserializeOwned>(
    record: &T,
    field: &str,
    value: &Value,
) -> Option<T> {
    let mut json = to_json(record).unwrap();
    let (outer, inner) = field.split_once('.').unwrap_or((field, ""));
    let place = if inner.is_empty() {
        &mut json[outer]
    } else {
        &mut json[outer][inner]
    };
    assert_ne!(place, value, "{field} must change");
    *place = value.clone();
    serde_json::from_value(json).ok()
}

#[tokio::test]
async fn a_head_shows_every_change() {
    let fixture = Fixture::new();
    let version = sealed(&fixture).await;
    version.head.verify().unwrap();
    assert_eq!(version.head.revision(), hex::encode(&version.head.hash()[..20]));
    let parsed = SignedHead::from_post(&version.head.post_content().unwrap()).unwrap();
    assert_eq!(parsed, version.head);
    let other = json!(hex::encode([1; 32]));
    let changes = [
        ("dataset_id", other.clone()),
        ("owner", json!(Wallet::generate().unwrap().address())),
        ("version", json!(2)),
        ("prev", other.clone()),
        ("epoch", json!(2)),
        ("epoch_commitment", other.clone()),
        ("root.item_hash", json!("ab")),
        ("root.length", json!(1)),
        ("root.sha256", other.clone()),
        (
            "writers",
            json!([{ "address": Wallet::generate().unwrap().address(), "expires": 9_999_999_999_u64 }]),
        ),
        ("created", json!(1)),
        ("not_after", json!(9_999_999_999_u64)),
        ("id_random", json!(hex::encode([1; 16]))),
        ("signature", json!(format!("0x{}", "11".repeat(65)))),
        ("signature", json!("0x")),
    ];
    for (field, value) in changes {
        let changed = with(&version.head, field, &value).unwrap();
        assert_eq!(code(changed.verify()), "E_HEAD_SIG", "{field}");
        assert_eq!(
            code(
                fixture
                    .open_with(
                        &Version {
                            head: changed,
                            ..sealed(&fixture).await
                        },
                        Keys::Epoch(fixture.secret.duplicate())
                    )
                    .await
            ),
            "E_HEAD_SIG"
        );
    }
    assert_eq!(
        code(SignedHead::from_post(&json!({ "owner": "0x" }))),
        "E_HEAD_SIG"
    );
}

#[tokio::test]
async fn heads_keep_to_owner_writers_and_term() {
    let fixture = Fixture::new();
    let version = sealed(&fixture).await;
    let writer = Wallet::generate().unwrap();
    let head = |change: &dyn Fn(&mut UnsignedHead)| {
        let mut head = version.head.head.clone();
        change(&mut head);
        head
    };
    assert_eq!(code(head(&|_| ()).sign(&writer)), "E_HEAD_SIG");
    let listed = |expires| {
        head(&|head| {
            head.writers = vec![Writer {
                address: writer.owner(),
                expires,
            }]
        })
    };
    listed(1_790_000_000).sign(&writer).unwrap();
    assert_eq!(code(listed(1_789_999_999).sign(&writer)), "E_HEAD_SIG");
    assert_eq!(
        code(head(&|head| head.version = 0).sign(&fixture.wallet)),
        "E_HEAD_SIG"
    );
    assert_eq!(
        code(head(&|head| head.epoch = 0).sign(&fixture.wallet)),
        "E_HEAD_SIG"
    );
    assert_eq!(
        code(head(&|head| head.version = 2).sign(&fixture.wallet)),
        "E_HEAD_SIG"
    );
    let stale = head(&|head| head.not_after = Some(NOW))
        .sign(&fixture.wallet)
        .unwrap();
    stale.check_fresh(NOW).unwrap();
    assert_eq!(code(stale.check_fresh(NOW + 1)), "E_HEAD_EXPIRED");
    let late = head(&|head| head.not_after = Some(1))
        .sign(&fixture.wallet)
        .unwrap();
    let late = Version {
        head: late,
        ..sealed(&fixture).await
    };
    assert_eq!(code(fixture.open(&late).await), "E_HEAD_EXPIRED");
}

fn grant(fixture: &Fixture, key: &ReaderPublic) -> Grant {
    let wallet = Wallet::generate().unwrap();
    Grant::seal(
        fixture.dataset,
        1,
        &fixture.secret,
        wallet.owner(),
        key,
        GrantTerms {
            not_before: 100,
            not_after: Some(200),
            policy: None,
        },
    )
    .unwrap()
}

#[tokio::test]
async fn a_grant_opens_for_its_reader_in_its_time_only() {
    let fixture = Fixture::new();
    let head = sealed(&fixture).await.head;
    let key = ReaderKey::generate().unwrap();
    let owner = fixture.wallet.address();
    for public in key.publics() {
        let grant = grant(&fixture, public);
        assert_eq!(grant.kem_id, public.kem_id());
        assert_eq!(
            grant.open(&key, &owner, &head, 150).unwrap().expose(),
            fixture.secret.expose()
        );
    }
    let grant = grant(&fixture, &key.public());
    let stranger = Wallet::generate().unwrap().address();
    assert_eq!(code(grant.open(&key, &stranger, &head, 150)), "E_GRANT_SENDER");
    assert_eq!(code(grant.open(&key, "nobody", &head, 150)), "E_GRANT_SENDER");
    assert_eq!(code(grant.open(&key, &owner, &head, 99)), "E_GRANT_EXPIRED");
    assert_eq!(code(grant.open(&key, &owner, &head, 201)), "E_GRANT_EXPIRED");
    assert_eq!(
        code(grant.open(&ReaderKey::generate().unwrap(), &owner, &head, 150)),
        "E_GRANT_OPEN"
    );
    let other = Fixture::new();
    let other_head = sealed(&other).await.head;
    assert_eq!(
        code(grant.open(&key, &other.wallet.address(), &other_head, 150)),
        "E_GRANT_OPEN"
    );
}

#[tokio::test]
async fn a_grant_shows_every_change() {
    let fixture = Fixture::new();
    let head = sealed(&fixture).await.head;
    let key = ReaderKey::generate().unwrap();
    let [hybrid, x25519] = [0, 1].map(|at| grant(&fixture, &key.publics()[at]));
    for (grant, limit) in [(&hybrid, 3_500), (&x25519, 1_024)] {
        let size = grant.post_content().unwrap().to_string().len();
        assert!(size < limit, "{size} bytes");
    }
    let changes = [
        ("dataset_id", json!(hex::encode([1; 32])), "E_GRANT_OPEN"),
        ("epoch", json!(2), "E_GRANT_OPEN"),
        ("recipient", json!(Address([1; 20]).to_string()), "E_GRANT_OPEN"),
        ("key_id", json!(hex::encode([1; 16])), "E_GRANT_OPEN"),
        ("kem_id", json!(0x16), "E_GRANT_OPEN"),
        ("scope", json!(1), "E_GRANT_OPEN"),
        ("not_before", json!(99), "E_GRANT_OPEN"),
        ("not_after", json!(201), "E_GRANT_OPEN"),
        ("grant_id", json!(hex::encode([1; 16])), "E_GRANT_OPEN"),
        ("enc", json!(hex::encode([1; 31])), "E_GRANT_OPEN"),
        ("enc", json!(hex::encode([1; 1120])), "E_GRANT_OPEN"),
        ("enc", json!(hex::encode([1; 32])), "E_GRANT_OPEN"),
        ("ct", json!(hex::encode([1; 49])), "E_GRANT_OPEN"),
    ];
    for (field, value, expected) in changes {
        for grant in [&hybrid, &x25519] {
            let changed = with(grant, field, &value).unwrap();
            assert_eq!(
                code(changed.open(&key, &fixture.wallet.address(), &head, 150)),
                expected,
                "{field}"
            );
        }
    }
    let zero = with(&x25519, "enc", &json!(hex::encode([0; 32]))).unwrap();
    assert_eq!(
        code(zero.open(&key, &fixture.wallet.address(), &head, 150)),
        "E_KEY_POINT"
    );
}

#[tokio::test]
async fn a_grant_of_a_wrong_secret_or_for_an_unusable_key_is_refused() {
    let fixture = Fixture::new();
    let head = sealed(&fixture).await.head;
    let key = ReaderKey::generate().unwrap();
    // Whole, but it holds another secret than the head commits to.
    let lie = EpochSecret::generate().unwrap();
    let lie = Grant::seal(
        fixture.dataset,
        1,
        &lie,
        fixture.wallet.owner(),
        &key.public(),
        GrantTerms::default(),
    )
    .unwrap();
    assert_eq!(
        code(lie.open(&key, &fixture.wallet.address(), &head, 150)),
        "E_EPOCH"
    );
    let zero = ReaderPublic::X25519([0; 32]);
    let unusable = Grant::seal(
        fixture.dataset,
        1,
        &fixture.secret,
        fixture.wallet.owner(),
        &zero,
        GrantTerms::default(),
    );
    assert_eq!(code(unusable), "E_KEY_POINT");
}

#[tokio::test]
async fn a_policy_cannot_be_taken_off_a_grant_or_a_delegation() {
    let fixture = Fixture::new();
    let head = sealed(&fixture).await.head;
    let (key, kernel) = (ReaderKey::generate().unwrap(), ReaderKey::generate().unwrap());
    let owner = fixture.wallet.address();
    let strict = Policy {
        walls: ["no-swap".to_owned()].into(),
        ..Policy::default()
    };
    let looser = [
        None,
        Some(Policy::default()),
        Some(Policy {
            max_term: Some(1),
            ..strict.clone()
        }),
    ];
    let with = |policy: Option<Policy>| GrantTerms {
        policy,
        ..GrantTerms::default()
    };
    let (id, recipient) = (fixture.dataset, fixture.wallet.owner());
    let grant = Grant::seal(
        id,
        1,
        &fixture.secret,
        recipient,
        &key.public(),
        with(Some(strict.clone())),
    )
    .unwrap();
    grant.open(&key, &owner, &head, 150).unwrap();
    let delegated = DelegationTerms {
        policy: Some(strict),
        ..terms(&kernel)
    };
    let keys = Keys::Epoch(fixture.secret.duplicate());
    let delegation = Delegation::seal(&fixture.wallet, &head, delegated, &keys, NOW).unwrap();
    delegation.open(&kernel, &head, &owner, NOW).unwrap();
    for policy in looser {
        let mut grant = grant.clone();
        grant.policy.clone_from(&policy);
        assert_eq!(code(grant.open(&key, &owner, &head, 150)), "E_GRANT_OPEN");
        let mut delegation = delegation.clone();
        delegation.terms.policy = policy;
        assert_eq!(code(delegation.open(&kernel, &head, &owner, NOW)), "E_DELEGATION");
    }
    // One that asks for nothing is none, so that older programs still open it.
    let empty = Grant::seal(
        id,
        1,
        &fixture.secret,
        recipient,
        &key.public(),
        with(Some(Policy::default())),
    )
    .unwrap();
    assert_eq!(empty.policy, None);
}

fn terms(kernel: &ReaderKey) -> DelegationTerms {
    DelegationTerms {
        session: "kernel-1".into(),
        kernel_key: kernel.public(),
        not_after: NOW + 43_200,
        allocation: None,
        policy: None,
    }
}

#[tokio::test]
async fn a_delegation_hands_either_scope_to_its_kernel() {
    let fixture = Fixture::new();
    let version = sealed(&fixture).await;
    let (reader, kernel) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let whole = Keys::Epoch(fixture.secret.duplicate());
    let delegation = Delegation::seal(&reader, &version.head, terms(&kernel), &whole, NOW).unwrap();
    let json = to_json(&delegation).unwrap();
    let delegation: Delegation = serde_json::from_value(json).unwrap();
    let keys = delegation
        .open(&kernel, &version.head, &reader.address(), NOW)
        .unwrap();
    assert!(matches!(keys, Keys::Epoch(_)));
    assert_eq!(
        fixture
            .open_with(&version, keys)
            .await
            .unwrap()
            .read("a")
            .await
            .unwrap(),
        "content"
    );

    let open = fixture.open(&version).await.unwrap();
    let (keys, root) = narrow(&open, &"cd".repeat(32)).unwrap();
    fixture.put(&root).await;
    let delegation =
        Delegation::seal(&reader, &version.head, terms(&kernel), &Keys::Objects(keys), NOW).unwrap();
    assert_eq!(delegation.scope, 2);
    let keys = delegation
        .open(&kernel, &version.head, &reader.address(), NOW)
        .unwrap();
    assert!(matches!(keys, Keys::Objects(_)));
    assert_eq!(
        fixture
            .open_with(&version, keys)
            .await
            .unwrap()
            .read("a")
            .await
            .unwrap(),
        "content"
    );
}

#[tokio::test]
async fn a_delegation_is_refused_elsewhere_and_later() {
    let fixture = Fixture::new();
    let version = sealed(&fixture).await;
    let (reader, kernel) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let keys = Keys::Epoch(fixture.secret.duplicate());
    let delegation = Delegation::seal(&reader, &version.head, terms(&kernel), &keys, NOW).unwrap();
    let address = reader.address();
    let open = |delegation: &Delegation, kernel: &ReaderKey, head: &SignedHead, address: &str, now| {
        code(delegation.open(kernel, head, address, now))
    };
    let refused = |kernel: &ReaderKey, head: &SignedHead, address: &str, now| {
        assert_eq!(open(&delegation, kernel, head, address, now), "E_DELEGATION");
    };
    let head = &version.head;
    assert_eq!(open(&delegation, &kernel, head, &address, NOW), "no error");
    refused(&ReaderKey::generate().unwrap(), head, &address, NOW);
    refused(&kernel, head, &fixture.wallet.address(), NOW);
    refused(&kernel, head, &address, NOW + 43_201);
    refused(&kernel, head, &address, NOW - 8 * 86_400);
    let opened = fixture.open(&version).await.unwrap();
    let later = fixture
        .next(&opened, &[SourceFile::bytes("a", "2")], 1, &fixture.secret)
        .await;
    refused(&kernel, &later.head, &address, NOW);
    let long = DelegationTerms {
        not_after: NOW + 8 * 86_400,
        ..terms(&kernel)
    };
    assert_eq!(
        code(Delegation::seal(&reader, head, long, &keys, NOW)),
        "E_DELEGATION"
    );
}

#[tokio::test]
async fn a_delegation_shows_every_change() {
    let fixture = Fixture::new();
    let version = sealed(&fixture).await;
    let (reader, kernel) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let keys = Keys::Epoch(fixture.secret.duplicate());
    let delegation = Delegation::seal(&reader, &version.head, terms(&kernel), &keys, NOW).unwrap();
    let address = reader.address();
    let changes = [
        ("session", json!("kernel-2"), "E_DELEGATION"),
        (
            "kernel_key",
            json!(ReaderKey::generate().unwrap().public()),
            "E_DELEGATION",
        ),
        ("not_after", json!(NOW + 43_201), "E_DELEGATION"),
        ("allocation", json!("ab"), "E_DELEGATION"),
        ("reader", json!(fixture.wallet.address()), "E_DELEGATION"),
        ("dataset_id", json!(hex::encode([1; 32])), "E_DELEGATION"),
        ("epoch", json!(2), "E_DELEGATION"),
        ("head_version", json!(2), "E_DELEGATION"),
        ("head_hash", json!(hex::encode([1; 32])), "E_DELEGATION"),
        ("scope", json!(2), "E_DELEGATION"),
        ("keys_hash", json!(hex::encode([1; 32])), "E_DELEGATION"),
        ("nonce", json!(hex::encode([1; 32])), "E_DELEGATION"),
        (
            "signature",
            json!(format!("0x{}", "11".repeat(65))),
            "E_DELEGATION",
        ),
        ("sealed.enc", json!(hex::encode([1; 1120])), "E_GRANT_OPEN"),
        ("sealed.enc", json!(kernel.public()), "E_KEY_POINT"),
        ("sealed.ct", json!("AAAA"), "E_GRANT_OPEN"),
    ];
    for (field, value, expected) in changes {
        let changed = with(&delegation, field, &value).unwrap();
        let found = code(changed.open(&kernel, &version.head, &address, NOW));
        assert_eq!(found, expected, "{field}");
    }
}

#[tokio::test]
async fn a_delegation_of_a_wrong_secret_is_refused() {
    let fixture = Fixture::new();
    let version = sealed(&fixture).await;
    let (reader, kernel) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let wrong = Keys::Epoch(EpochSecret::generate().unwrap());
    let delegation = Delegation::seal(&reader, &version.head, terms(&kernel), &wrong, NOW).unwrap();
    assert_eq!(
        code(delegation.open(&kernel, &version.head, &reader.address(), NOW)),
        "E_EPOCH"
    );
}

#[test]
fn a_published_secret_opens_for_its_owner_only() {
    let (fixture, key) = (Fixture::new(), ReaderKey::generate().unwrap());
    let sealed = seal_epoch_secret(&key.public(), &fixture.dataset, 4, &fixture.secret).unwrap();
    let opened = open_epoch_secret(&key, &fixture.dataset, 4, &sealed).unwrap();
    assert_eq!(opened.expose(), fixture.secret.expose());
    assert_eq!(
        code(open_epoch_secret(&key, &fixture.dataset, 5, &sealed)),
        "E_GRANT_OPEN"
    );
    let other = ReaderKey::generate().unwrap();
    assert_eq!(
        code(open_epoch_secret(&other, &fixture.dataset, 4, &sealed)),
        "E_GRANT_OPEN"
    );
}

#[tokio::test]
async fn reader_keys_are_found_only_where_their_wallet_put_them() {
    let fixture = Fixture::new();
    let (wallet, key) = (&fixture.wallet, ReaderKey::generate().unwrap());
    let storage = &*fixture.storage;
    let keys = async |wallet: &Wallet| reader_keys_of(storage, &wallet.address()).await.unwrap();
    assert_eq!(keys(wallet).await, []);
    register_reader_key(storage, wallet, &key).await.unwrap();
    assert_eq!(keys(wallet).await, [key.public()]);
    assert_eq!(keys(&Wallet::generate().unwrap()).await, []);
    // A second machine's takes nothing's place, and neither of them registers twice.
    let second = ReaderKey::generate().unwrap();
    for one in [&second, &key, &second] {
        register_reader_key(storage, wallet, one).await.unwrap();
    }
    let both = keys(wallet).await;
    assert!(both.len() == 2 && both.contains(&key.public()) && both.contains(&second.public()));
    // An entry under a name that is not the key's own counts for nothing, and neither does a deleted one.
    let ids = |key: &ReaderKey| {
        key.publics()
            .iter()
            .map(|one| hex::encode(one.id()))
            .collect::<Vec<_>>()
    };
    let gone: serde_json::Map<String, serde_json::Value> = [ids(&key), ids(&second)]
        .concat()
        .into_iter()
        .map(|id| (id, serde_json::Value::Null))
        .collect();
    let message = crate::message::sign_aggregate(wallet, crate::READER_KEYS_AGGREGATE, gone).unwrap();
    storage.publish(&message).await.unwrap();
    assert_eq!(keys(wallet).await, []);
    let lie =
        json!({ &ids(&key)[0]: { "kem_id": 32, "public": ReaderPublic::X25519([9; 32]), "created": 1 } });
    let message = crate::message::sign_aggregate(
        wallet,
        crate::READER_KEYS_AGGREGATE,
        lie.as_object().unwrap().clone(),
    );
    storage.publish(&message.unwrap()).await.unwrap();
    assert_eq!(keys(wallet).await, []);
}

#[tokio::test]
async fn an_x25519_key_counts_only_where_no_better_one_of_its_machine_does() {
    let fixture = Fixture::new();
    let (storage, wallet) = (&*fixture.storage, &fixture.wallet);
    let wallet_address = wallet.address();
    let keys = || crate::registered::reader_keys_of(storage, &wallet_address);
    let (key, old) = (
        ReaderKey::generate().unwrap(),
        ReaderKey::from_secret(&[7; 32]).unwrap(),
    );
    register_reader_key(storage, wallet, &old).await.unwrap();
    register_reader_key(storage, wallet, &key).await.unwrap();
    // Another machine's one is no business of this one's.
    let mut wanted = vec![key.public(), old.public()];
    let mut found = keys().await.unwrap();
    wanted.sort_by_key(ReaderPublic::id);
    found.sort_by_key(ReaderPublic::id);
    assert_eq!(found, wanted);
    // A revoked one takes its twin with it.
    let revoked = json!({ hex::encode(key.public().id()): { "kem_id": key.public().kem_id(), "public": key.public(),
        "created": 9, "revoked": true } });
    let entries = revoked.as_object().unwrap().clone();
    let message = crate::message::sign_aggregate(wallet, crate::READER_KEYS_AGGREGATE, entries);
    storage.publish(&message.unwrap()).await.unwrap();
    assert_eq!(keys().await.unwrap(), [old.public()]);
    // Without the better key, or with one that lies about its name, the other is what there is.
    for instead in [
        json!(null),
        json!({ "kem_id": 32, "public": old.public(), "created": 9 }),
    ] {
        let entries = json!({ hex::encode(key.public().id()): instead });
        let entries = entries.as_object().unwrap().clone();
        let message = crate::message::sign_aggregate(wallet, crate::READER_KEYS_AGGREGATE, entries);
        storage.publish(&message.unwrap()).await.unwrap();
        assert!(keys().await.unwrap().contains(&key.publics()[1]));
    }
}
