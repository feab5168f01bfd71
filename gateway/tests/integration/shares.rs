//! Models and shares: indexed from signed records, opened by our clients and by stock Hub clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use alephlab_api::model::{Card, MODEL_RECORD_TYPE, ModelRecord, RecordFile, Visibility};
use alephlab_api::share::{NewShare, ShareLimits};
use alephlab_api::time::unix_now;
use alephlab_vault::message::{sign_post, sign_store};
use alephlab_vault::share::{ShareTerms, ShareToken, narrow, open_share, seal_share};
use alephlab_vault::storage::Storage;
use alephlab_vault::{
    Keys, Meta, ObjectKeys, PutOutcome, Reader, ReaderKey, SignedHead, Source, SourceFile, Wallet,
    find_grant, put_dataset, seal_beside,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{World, sign_in};

/// A published and shared model.
pub(crate) struct Shared {
    pub(crate) world: World,
    pub(crate) wallet: Wallet,
    pub(crate) key: ReaderKey,
    pub(crate) owner: GatewayClient,
    /// The owner's, at the gateway.
    pub(crate) owner_token: Secret,
    pub(crate) terms: ShareTerms,
    pub(crate) token: ShareToken,
    pub(crate) weights: Vec<u8>,
}

pub(crate) fn source(path: &str, bytes: &[u8]) -> SourceFile {
    SourceFile {
        path: path.into(),
        source: Source::Bytes(Bytes::copy_from_slice(bytes)),
        mime: None,
        mtime: None,
        executable: false,
        attributes: BTreeMap::new(),
    }
}

fn file(path: &str, bytes: &[u8]) -> RecordFile {
    use sha2::Digest as _;
    let size = u64::try_from(bytes.len()).unwrap();
    RecordFile {
        path: path.into(),
        size,
        sha256: hex::encode(sha2::Sha256::digest(bytes)),
    }
}

/// Puts a model's files on Aleph and its record in the gateway's index.
pub(crate) async fn publish(
    world: &World,
    owner: &GatewayClient,
    (wallet, key): (&Wallet, &ReaderKey),
    (name, visibility): (&str, Visibility),
    weights: &[u8],
) -> (PutOutcome, ModelRecord) {
    let files = vec![
        source("README.md", b"# digits\n"),
        source("model.safetensors", weights),
    ];
    let storage = Arc::clone(&world.storage);
    let put = put_dataset(
        Arc::clone(&storage),
        wallet,
        key,
        files,
        Meta::default(),
        None,
        &|_| {},
    )
    .await
    .unwrap();
    let keys = match visibility {
        Visibility::Public => Some(narrowed(&storage, &put, (wallet, key)).await.to_public()),
        Visibility::Sealed | Visibility::Private => None,
    };
    let record = ModelRecord {
        owner: wallet.address(),
        name: format!("{}/{name}", wallet.address()),
        uuid: Uuid::new_v4(),
        commit: put.head.revision(),
        card: Card {
            title: "digits".into(),
            ..Card::default()
        },
        price: "free".into(),
        visibility,
        keys,
        sealed: None,
        files: vec![
            file("README.md", b"# digits\n"),
            file("model.safetensors", weights),
        ],
        head: put.head_message.clone(),
        created: unix_now(),
        ..ModelRecord::default()
    };
    let record = match visibility {
        Visibility::Private => {
            let secret = find_grant(storage.as_ref(), &put.head, key).await.unwrap();
            let at = (&put.head.head.dataset_id, put.head.head.epoch);
            let text = serde_json::to_string(&record).unwrap();
            record.covered(seal_beside(&secret, at, &record.about(), &text).unwrap())
        }
        _ => record,
    };
    let post = sign_post(
        wallet,
        MODEL_RECORD_TYPE,
        serde_json::to_value(&record).unwrap(),
        None,
    )
    .unwrap();
    storage.publish(&post).await.unwrap();
    owner.add_model(&post.item_hash()).await.unwrap();
    (put, record)
}

/// Keys of exactly this revision, with its root sealed anew.
pub(crate) async fn narrowed(
    storage: &Arc<dyn Storage>,
    put: &PutOutcome,
    (wallet, key): (&Wallet, &ReaderKey),
) -> ObjectKeys {
    let secret = find_grant(storage.as_ref(), &put.head, key).await.unwrap();
    let reader = Reader::open(Arc::clone(storage), &put.head, Keys::Epoch(secret))
        .await
        .unwrap();
    let (keys, root) = narrow(&reader, &put.head_message).unwrap();
    let size = u64::try_from(root.bytes.len()).unwrap();
    let store = sign_store(wallet, &keys.root.at.item_hash, size).unwrap();
    storage.put(root.bytes, &store).await.unwrap();
    keys
}

pub(crate) async fn share() -> Shared {
    share_with(ShareLimits::default()).await
}

async fn share_with(limits: ShareLimits) -> Shared {
    share_of(("digits", Visibility::Sealed), limits).await
}

pub(crate) async fn share_of(name: (&str, Visibility), limits: ShareLimits) -> Shared {
    let (wallet, key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    let world = World::admitting(&wallet.address()).await;
    let owner_token = sign_in(&world, &wallet).await.unwrap().token;
    let owner = world.client().with_token(owner_token.clone());
    let weights: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (put, record) = publish(&world, &owner, (&wallet, &key), name, &weights).await;
    let keys = narrowed(&world.storage, &put, (&wallet, &key)).await;
    let token = ShareToken::generate().unwrap();
    let terms = ShareTerms {
        uuid: Uuid::new_v4(),
        model: record.name,
        revision: record.commit,
        expires: Some(unix_now() + 3600),
    };
    let sealed = seal_share(&token, &terms, &keys).unwrap();
    let share = NewShare {
        limits,
        ..new_share(&token, &terms, &sealed)
    };
    owner.new_share(&share).await.unwrap();
    Shared {
        world,
        wallet,
        key,
        owner,
        owner_token,
        terms,
        token,
        weights,
    }
}

fn new_share(token: &ShareToken, terms: &ShareTerms, sealed: &[u8]) -> NewShare {
    NewShare {
        uuid: terms.uuid,
        model: terms.model.clone(),
        revision: terms.revision.clone(),
        expires: terms.expires,
        auth_sha256: token.auth_sha256(),
        limits: ShareLimits::default(),
        sealed: STANDARD.encode(sealed),
    }
}

pub(crate) async fn answer(world: &World, path: &str, token: Option<&str>) -> (u16, HeaderMap, Bytes) {
    let mut request = world.http().get(format!("{}{path}", world.url));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    let (status, mut headers) = (answer.status().as_u16(), answer.headers().clone());
    headers.remove("date");
    // Each request has its own.
    headers.remove("x-request-id");
    (status, headers, answer.bytes().await.unwrap())
}

#[tokio::test]
async fn wrong_uuid_wrong_token_and_no_token_get_one_answer() {
    let shared = share().await;
    let (right, wrong) = (shared.token.expose(), ShareToken::generate().unwrap());
    let (auth, wrong_auth) = (shared.token.auth_hex(), wrong.auth_hex());
    let other = Uuid::new_v4();
    let uuid = shared.terms.uuid;
    let own = |id: Uuid| format!("/v1/shares/{id}");
    let mut cases = vec![vec![
        (own(other), Some(auth.as_str())),
        (own(uuid), Some(wrong_auth.as_str())),
        (own(uuid), None),
        (own(uuid), Some("not hex")),
        ("/v1/shares/not-an-id".to_owned(), Some(auth.as_str())),
    ]];
    for path in [
        "/api/models/ID",
        "/api/models/ID/tree/main",
        "/ID/resolve/main/README.md",
    ] {
        let path = |id: String| path.replace("ID", &id);
        cases.push(vec![
            (path(format!("m/{other}")), Some(right)),
            (path(format!("m/{uuid}")), Some(wrong.expose())),
            (path(format!("m/{uuid}")), Some("hf_short")),
            (path(format!("m/{uuid}")), None),
            (path("somebody/else".to_owned()), Some(right)),
        ]);
    }
    for case in cases {
        let mut answers = Vec::new();
        for (path, token) in &case {
            answers.push(answer(&shared.world, path, *token).await);
        }
        assert_eq!(
            (answers[0].0, &answers[0].1["x-error-code"]),
            (401, &"RepoNotFound".parse().unwrap())
        );
        assert!(
            answers.windows(2).all(|pair| pair[0] == pair[1]),
            "{case:?}: {answers:?}"
        );
    }
}

#[tokio::test]
async fn our_client_opens_a_share_without_sending_its_token() {
    let shared = share().await;
    let auth = Secret::new(shared.token.auth_hex().as_str());
    let envelope = shared.owner.share(shared.terms.uuid, &auth).await.unwrap();
    let terms = ShareTerms {
        uuid: envelope.uuid,
        model: envelope.model,
        revision: envelope.revision,
        expires: envelope.expires,
    };
    let sealed = STANDARD.decode(envelope.sealed).unwrap();
    let keys = open_share(&shared.token, &terms, &sealed, unix_now()).unwrap();
    let head: SignedHead = serde_json::from_value(envelope.head).unwrap();
    let reader = Reader::open(Arc::clone(&shared.world.storage), &head, Keys::Objects(keys))
        .await
        .unwrap();
    assert_eq!(reader.read("model.safetensors").await.unwrap(), shared.weights);
    assert_eq!(envelope.card.unwrap().title, "digits");
}

#[tokio::test]
async fn a_stock_client_reads_whole_files_and_ranges() {
    let shared = share().await;
    let (world, token) = (&shared.world, Some(shared.token.expose()));
    let id = format!("m/{}", shared.terms.uuid);
    let (status, _, body) = answer(world, &format!("/api/models/{id}/revision/main"), token).await;
    let model: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status, model["sha"].as_str()),
        (200, Some(shared.terms.revision.as_str()))
    );
    let path = format!("/{id}/resolve/{}/model.safetensors", shared.terms.revision);
    let (status, headers, body) = answer(world, &path, token).await;
    assert_eq!(
        (status, headers["x-repo-commit"].to_str().unwrap()),
        (200, shared.terms.revision.as_str())
    );
    assert!(body == shared.weights);
    let range = world
        .http()
        .get(format!("{}{path}", world.url))
        .bearer_auth(shared.token.expose());
    let part = range.header("range", "bytes=399000-").send().await.unwrap();
    assert_eq!(
        (part.status().as_u16(), &part.headers()["content-range"]),
        (206, &"bytes 399000-399999/400000".parse().unwrap())
    );
    assert!(part.bytes().await.unwrap() == shared.weights[399_000..]);
    let (status, _, who) = answer(world, "/api/whoami-v2", token).await;
    assert!(status == 200 && serde_json::from_slice::<Value>(&who).unwrap()["name"] == "share");
}

#[tokio::test]
async fn an_ended_share_opens_nothing_at_once() {
    let shared = share().await;
    let path = format!("/m/{}/resolve/main/README.md", shared.terms.uuid);
    let token = Some(shared.token.expose());
    assert_eq!(answer(&shared.world, &path, token).await.0, 200);
    assert_eq!(shared.owner.shares().await.unwrap().len(), 1);
    assert!(
        shared
            .world
            .client()
            .revoke_share(shared.terms.uuid)
            .await
            .is_err(),
        "another account cannot end it"
    );
    shared.owner.revoke_share(shared.terms.uuid).await.unwrap();
    assert_eq!(answer(&shared.world, &path, token).await.0, 401);
}

#[tokio::test]
async fn a_share_of_an_account_that_is_no_longer_admitted_opens_nothing() {
    let shared = share().await;
    let path = format!("/m/{}/resolve/main/README.md", shared.terms.uuid);
    assert_eq!(
        answer(&shared.world, &path, Some(shared.token.expose())).await.0,
        200
    );
    let world = World::start_in(shared.world.stop().await, false).await;
    assert_eq!(answer(&world, &path, Some(shared.token.expose())).await.0, 401);
    let auth = Secret::new(shared.token.auth_hex().as_str());
    let refused = world.client().share(shared.terms.uuid, &auth).await.unwrap_err();
    assert_eq!(refused.to_problem().code, "share_refused");
}

#[tokio::test]
async fn only_the_owner_indexes_and_shares() {
    let shared = share().await;
    let stranger = shared.world.client();
    let message = shared.owner.models().await.unwrap().remove(0).message;
    assert_eq!(
        stranger.add_model(&message).await.unwrap_err().to_problem().code,
        "record_foreign"
    );
    let again = new_share(&shared.token, &shared.terms, &[0; 64]);
    assert_eq!(
        stranger.new_share(&again).await.unwrap_err().to_problem().code,
        "revision_unknown"
    );
    assert_eq!(
        shared
            .owner
            .new_share(&again)
            .await
            .unwrap_err()
            .to_problem()
            .code,
        "share_taken"
    );
    let missing = "0".repeat(64);
    assert_eq!(
        shared
            .owner
            .add_model(&missing)
            .await
            .unwrap_err()
            .to_problem()
            .code,
        "record_missing"
    );
    assert_eq!(
        shared.owner.add_model("x").await.unwrap_err().to_problem().code,
        "record_hash"
    );
}

#[tokio::test]
async fn the_database_holds_no_token() {
    let shared = share().await;
    let (token, auth) = (shared.token.expose().to_owned(), shared.token.auth().to_vec());
    answer(
        &shared.world,
        &format!("/api/models/m/{}", shared.terms.uuid),
        Some(&token),
    )
    .await;
    let data = shared.world.stop().await;
    for entry in std::fs::read_dir(data.path().join("gateway")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let holds = |secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!holds(token.as_bytes()) && !holds(&auth) && !holds(hex::encode(&auth).as_bytes()));
    }
}

/// Asks for the weights so often at once; how many got all of them.
async fn many(shared: &Shared, count: usize) -> usize {
    let path = format!(
        "{}/m/{}/resolve/main/model.safetensors",
        shared.world.url, shared.terms.uuid
    );
    let get = |_| {
        let request = shared.world.http().get(&path).bearer_auth(shared.token.expose());
        async move { Ok::<_, reqwest::Error>(request.send().await?.error_for_status()?.bytes().await?.len()) }
    };
    let got = futures_util::future::join_all((0..count).map(get)).await;
    got.into_iter().filter(|got| matches!(got, Ok(400_000))).count()
}

#[tokio::test]
async fn many_at_once_get_no_more_bytes_than_are_allowed() {
    let limits = ShareLimits {
        bytes: Some(1_000_000),
        ..ShareLimits::default()
    };
    let shared = share_with(limits).await;
    assert_eq!(many(&shared, 20).await, 2);
    let info = shared.owner.shares().await.unwrap().remove(0);
    assert_eq!(
        (info.limits, info.used.bytes, info.used.downloads),
        (limits, 800_000, 2)
    );
    assert!(info.used.last.is_some());
    // A smaller file still fits.
    let path = format!("/m/{}/resolve/main/README.md", shared.terms.uuid);
    assert_eq!(
        answer(&shared.world, &path, Some(shared.token.expose())).await.0,
        200
    );
}

#[tokio::test]
async fn many_at_once_get_no_more_downloads_than_are_allowed_and_a_restart_forgets_none() {
    let limits = ShareLimits {
        downloads: Some(3),
        ..ShareLimits::default()
    };
    let mut shared = share_with(limits).await;
    let auth = Secret::new(shared.token.auth_hex().as_str());
    // One opening by a client of ours is one.
    shared.owner.share(shared.terms.uuid, &auth).await.unwrap();
    assert_eq!(many(&shared, 20).await, 2);
    let owner = shared.owner.shares().await.unwrap().remove(0);
    assert_eq!(owner.used.downloads, 3);
    let refused = shared.owner.share(shared.terms.uuid, &auth).await.unwrap_err();
    assert_eq!(refused.to_problem().code, "share_used_up");
    let address = shared.terms.model.split('/').next().unwrap().to_owned();
    let data = shared.world.stop().await;
    shared.world = World::start_as(data, false, crate::support::TOKEN, vec![address]).await;
    let refused = shared
        .world
        .client()
        .share(shared.terms.uuid, &auth)
        .await
        .unwrap_err();
    assert_eq!(refused.to_problem().code, "share_used_up");
}

#[tokio::test]
async fn a_share_that_is_asked_too_often_says_when_it_may_be_again() {
    let limits = ShareLimits {
        per_minute: Some(2),
        ..ShareLimits::default()
    };
    let shared = share_with(limits).await;
    let path = format!("/api/models/m/{}", shared.terms.uuid);
    for _ in 0..2 {
        assert_eq!(
            answer(&shared.world, &path, Some(shared.token.expose())).await.0,
            200
        );
    }
    let (status, headers, _) = answer(&shared.world, &path, Some(shared.token.expose())).await;
    let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(status == 429 && (1..=60).contains(&wait), "{status} {wait}");
    // Who has no token learns nothing of limits.
    assert_eq!(answer(&shared.world, &path, None).await.0, 401);
}
