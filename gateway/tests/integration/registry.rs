//! The registry: models that all may read or only see, what their owners say of them later, and a second gateway that knows
//! the same from the network alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::client::GatewayClient;
use alephlab_api::model::{
    MODEL_EVIDENCE_TYPE, MODEL_TAGS_TYPE, MODEL_WITHDRAWAL_TYPE, ModelEvidence, ModelRecord, ModelTags,
    ModelWithdrawal, RebuildState, Visibility,
};
use alephlab_api::time::unix_now;
use alephlab_localnet::{Config, Localnet, bind};
use alephlab_vault::message::sign_post;
use alephlab_vault::storage::{AlephStorage, MemoryStorage, Storage};
use alephlab_vault::{ReaderKey, Wallet};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::shares::{answer, publish};
use crate::support::{World, eventually, sign_in};

/// An owner at a gateway.
struct Owner {
    wallet: Wallet,
    key: ReaderKey,
    client: GatewayClient,
}

impl Owner {
    async fn new(storage: &Arc<dyn Storage>) -> (World, Self) {
        let wallet = Wallet::generate().unwrap();
        let world = World::on(storage, vec![wallet.address()]).await;
        let signed = sign_in(&world, &wallet).await.unwrap();
        let owner = Self {
            client: world.client().with_token(signed.token),
            key: ReaderKey::generate().unwrap(),
            wallet,
        };
        (world, owner)
    }

    async fn publish(&self, world: &World, name: &str, visibility: Visibility) -> ModelRecord {
        let weights: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        let keys = (&self.wallet, &self.key);
        publish(world, &self.client, keys, (name, visibility), &weights)
            .await
            .1
    }

    async fn say(&self, world: &World, post_type: &str, content: impl Serialize) {
        let content = serde_json::to_value(content).unwrap();
        let post = sign_post(&self.wallet, post_type, content, None).unwrap();
        world.storage.publish(&post).await.unwrap();
        self.client.add_model_message(&post.item_hash()).await.unwrap();
    }

    async fn withdraw(&self, world: &World, record: &ModelRecord, whole: bool) {
        let withdrawal = ModelWithdrawal {
            owner: record.owner.clone(),
            name: record.name.clone(),
            commit: (!whole).then(|| record.commit.clone()),
            created: unix_now(),
        };
        self.say(world, MODEL_WITHDRAWAL_TYPE, withdrawal).await;
    }

    async fn tag(&self, world: &World, record: &ModelRecord, tag: &str) {
        let tags = ModelTags {
            owner: record.owner.clone(),
            name: record.name.clone(),
            tags: BTreeMap::from([(tag.to_owned(), record.commit.clone())]),
            sealed: None,
            serial: 1,
            created: unix_now(),
        };
        self.say(world, MODEL_TAGS_TYPE, tags).await;
    }
}

async fn json(world: &World, path: &str) -> (u16, Value) {
    let (status, _, body) = answer(world, path, None).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

#[tokio::test]
async fn all_read_a_public_model_and_see_a_sealed_one() {
    let (world, owner) = Owner::new(&memory()).await;
    let public = owner.publish(&world, "open", Visibility::Public).await;
    let sealed = owner.publish(&world, "shut", Visibility::Sealed).await;
    let weights: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    for id in [public.name.clone(), public.name.to_lowercase()] {
        let (status, model) = json(&world, &format!("/api/models/{id}/revision/main?blobs=true")).await;
        assert_eq!(
            (status, &model["gated"], &model["private"]),
            (200, &false.into(), &false.into())
        );
        assert_eq!(
            (model["sha"].as_str(), model["id"].as_str()),
            (Some(&*public.commit), Some(&*public.name))
        );
        assert_eq!(model["aleph"]["visibility"], "public");
        for token in [None, Some("hf_anything")] {
            let (status, headers, body) =
                answer(&world, &format!("/{id}/resolve/main/model.safetensors"), token).await;
            assert_eq!(
                (status, headers["x-repo-commit"].to_str().unwrap()),
                (200, &*public.commit)
            );
            assert!(body == weights);
        }
    }
    let path = format!(
        "{}/{}/resolve/{}/model.safetensors",
        world.url, public.name, public.commit
    );
    let part = world
        .http()
        .get(path)
        .header("range", "bytes=1048570-1048590")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert!(part.bytes().await.unwrap() == weights[1_048_570..=1_048_590]);
    let page = owner.client.model(&public.name).await.unwrap();
    assert_eq!(
        page.downloads, 2,
        "one for nobody at this address, one for the token"
    );

    let (status, model) = json(&world, &format!("/api/models/{}", sealed.name)).await;
    assert_eq!((status, model["gated"].as_str()), (200, Some("manual")));
    let (status, tree) = json(&world, &format!("/api/models/{}/tree/main", sealed.name)).await;
    assert_eq!((status, tree.as_array().unwrap().len()), (200, 2));
    for token in [None, Some("hf_anything")] {
        let path = format!("/{}/resolve/main/README.md", sealed.name);
        let (status, headers, _) = answer(&world, &path, token).await;
        let message = headers["x-error-message"].to_str().unwrap();
        assert_eq!(
            (status, headers["x-error-code"].to_str().unwrap()),
            (403, "GatedRepo")
        );
        assert!(
            message.contains("alephlab hub") && message.contains("alephlab model share"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn models_are_listed_in_pages_and_found() {
    let (world, owner) = Owner::new(&memory()).await;
    for name in ["a", "b", "c"] {
        owner.publish(&world, name, Visibility::Public).await;
    }
    let mut path = "/api/models?limit=2&search=DIGITS&full=true".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, headers, body) = answer(&world, &path, None).await;
        assert_eq!(status, 200);
        let models: Vec<Value> = serde_json::from_slice(&body).unwrap();
        assert!(
            models
                .iter()
                .all(|model| model["siblings"].as_array().unwrap().len() == 2)
        );
        seen.extend(
            models
                .iter()
                .map(|model| model["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = headers.get("link") else { break };
        let next = next
            .to_str()
            .unwrap()
            .trim_start_matches('<')
            .split('>')
            .next()
            .unwrap();
        path = next.strip_prefix(&world.url).expect("our own address").to_owned();
    }
    seen.sort();
    let address = owner.wallet.address();
    assert_eq!(seen, ["a", "b", "c"].map(|name| format!("{address}/{name}")));
    for (query, count) in [
        (format!("author={}", address.to_lowercase()), 3),
        ("author=nobody".to_owned(), 0),
        ("search=nothing".to_owned(), 0),
        ("gated=true".to_owned(), 0),
        ("filter=safetensors&sort=downloads".to_owned(), 3),
    ] {
        let (_, models) = json(&world, &format!("/api/models?{query}")).await;
        assert_eq!(models.as_array().unwrap().len(), count, "{query}");
    }
}

#[tokio::test]
async fn what_is_withdrawn_is_neither_served_nor_listed() {
    let (world, owner) = Owner::new(&memory()).await;
    let first = owner.publish(&world, "digits", Visibility::Public).await;
    let mut second = owner.publish(&world, "digits", Visibility::Public).await;
    owner.tag(&world, &first, "v1").await;
    let id = first.name.clone();
    let sha = async |revision: &str| {
        let (status, model) = json(&world, &format!("/api/models/{id}/revision/{revision}")).await;
        (status, model["sha"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(sha("v1").await, (200, first.commit.clone()));
    assert_eq!(sha("v2").await.0, 404);
    // Both were made in one second and upon nothing: the newest is told by the rule.
    if sha("main").await.1 == first.commit {
        second = first.clone();
    }
    assert_eq!(sha("main").await, (200, second.commit.clone()));
    owner.withdraw(&world, &second, false).await;
    assert_eq!(sha(&second.commit).await.0, 404);
    assert_eq!(sha("main").await.0, 200);
    let refs = json(&world, &format!("/api/models/{id}/refs")).await.1;
    assert_ne!(refs["branches"][0]["targetCommit"], *second.commit);
    owner.withdraw(&world, &first, true).await;
    for path in [
        "/api/models/ID",
        "/api/models/ID/refs",
        "/ID/resolve/main/README.md",
        "/v1/models/ID",
    ] {
        let status = answer(&world, &path.replace("ID", &id), None).await.0;
        assert!(status == 401 || status == 404, "{path}: {status}");
    }
    assert_eq!(json(&world, "/api/models").await.1, Value::Array(Vec::new()));
    assert!(owner.client.models().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_gateway_that_follows_shows_what_others_were_told() {
    let storage = memory();
    let (world, owner) = Owner::new(&storage).await;
    let first = owner.publish(&world, "digits", Visibility::Public).await;
    let often = Some(Duration::from_millis(20));
    let second = World::following(&storage, Vec::new(), often).await;
    let shown = async |revision: &ModelRecord| {
        let page = second.client().model(&revision.name).await.ok()?;
        page.revisions
            .iter()
            .any(|one| one.record.commit == revision.commit)
            .then_some(page)
    };
    eventually("what there was before", || shown(&first)).await;
    let later = owner.publish(&world, "digits", Visibility::Public).await;
    owner.tag(&world, &later, "v2").await;
    let page = eventually("a new revision and its tag", async || {
        shown(&later)
            .await
            .filter(|page| page.tags.get("v2") == Some(&later.commit))
    });
    assert_eq!(page.await, owner.client.model(&first.name).await.unwrap());
    owner.withdraw(&world, &later, true).await;
    eventually("its end", async || second.client().model(&first.name).await.err()).await;
}

#[tokio::test]
async fn a_second_gateway_shows_the_same_from_the_network_alone() {
    let folder = tempfile::tempdir().unwrap();
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let stop = CancellationToken::new();
    let network = Localnet::start(Config::new(listener, folder.path()), stop.clone())
        .await
        .unwrap();
    let storage: Arc<dyn Storage> = Arc::new(AlephStorage::new(network.url.clone()).unwrap());
    let (world, owner) = Owner::new(&storage).await;
    let mut records = Vec::new();
    for (name, visibility) in [
        ("open", Visibility::Public),
        ("open", Visibility::Public),
        ("shut", Visibility::Sealed),
        ("gone", Visibility::Public),
    ] {
        records.push(owner.publish(&world, name, visibility).await);
    }
    owner.tag(&world, &records[0], "v1").await;
    owner.withdraw(&world, &records[3], true).await;
    let evidence = ModelEvidence {
        verifier: owner.wallet.address(),
        name: records[0].name.clone(),
        commit: records[0].commit.clone(),
        report: serde_json::json!({ "said": "by its owner" }),
        created: unix_now(),
    };
    owner.say(&world, MODEL_EVIDENCE_TYPE, evidence).await;

    let second = World::on(&storage, Vec::new()).await;
    assert_eq!(json(&second, "/api/models").await.1, Value::Array(Vec::new()));
    let begun = second.client().rebuild_registry().await.unwrap();
    assert_eq!(begun.state, RebuildState::Running);
    let done = eventually("the rebuild's end", async || {
        let progress = second.client().registry_rebuild().await.unwrap();
        (progress.state != RebuildState::Running).then_some(progress)
    })
    .await;
    assert_eq!(
        (done.state, done.read, done.taken),
        (RebuildState::Done, 7, 7),
        "{done:?}"
    );
    let mut paths = vec![
        "/api/models?full=true".to_owned(),
        "/api/models?sort=createdAt&direction=1".to_owned(),
    ];
    for record in &records {
        for path in [
            "/v1/models/ID",
            "/api/models/ID?blobs=true",
            "/api/models/ID/refs",
            "/api/models/ID/commits/main",
        ] {
            paths.push(path.replace("ID", &record.name));
        }
    }
    for path in paths {
        let (one, other) = (
            answer(&world, &path, None).await,
            answer(&second, &path, None).await,
        );
        assert_eq!((one.0, &one.2), (other.0, &other.2), "{path}");
        assert!(one.0 == 200 || path.contains("gone"), "{path}: {}", one.0);
    }
    let path = format!("/{}/resolve/v1/README.md", records[0].name);
    assert_eq!(answer(&second, &path, None).await.0, 200);
    assert!(
        owner.client.registry_rebuild().await.is_err(),
        "only an operator builds it anew"
    );
    second.stop().await;
    world.stop().await;
    stop.cancel();
}
