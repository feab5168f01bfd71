//! Private models at a gateway: a row for their owner, the bytes for who bears a share's token, and nothing for anybody else.

use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::model::{MODEL_WITHDRAWAL_TYPE, ModelWithdrawal, PublicFile, RebuildState, Visibility};
use alephlab_api::share::ShareLimits;
use alephlab_api::time::unix_now;
use alephlab_vault::Wallet;
use alephlab_vault::message::sign_post;
use serde_json::Value;
use uuid::Uuid;

use crate::shares::{Shared, answer, publish, share_of};
use crate::support::{TOKEN, World, eventually, everything_stored};

const ROUTES: [&str; 12] = [
    "/api/models/ID",
    "/api/models/ID/revision/main",
    "/api/models/ID/revision/COMMIT",
    "/api/models/ID/tree/main",
    "/api/models/ID/refs",
    "/api/models/ID/commits/main",
    "/api/models/ID/auth-check",
    "/ID/resolve/main/README.md",
    "/ID/resolve/COMMIT/model.safetensors",
    "/v1/models/ID",
    "/models/ID",
    "/models/ID/files",
];

async fn private() -> Shared {
    share_of(("digits", Visibility::Private), ShareLimits::default()).await
}

fn named(shared: &Shared, path: &str, id: &str) -> String {
    path.replace("ID", id).replace("COMMIT", &shared.terms.revision)
}

/// What stands for its name, without the owner.
fn plain(shared: &Shared) -> &str {
    shared.terms.model.split('/').next_back().unwrap()
}

async fn withdraw(shared: &Shared, name: &str) {
    let withdrawal = ModelWithdrawal {
        owner: shared.wallet.address(),
        name: name.to_owned(),
        commit: None,
        created: unix_now(),
    };
    let content = serde_json::to_value(withdrawal).unwrap();
    let message = sign_post(&shared.wallet, MODEL_WITHDRAWAL_TYPE, content, None).unwrap();
    shared.world.storage.publish(&message).await.unwrap();
    shared
        .owner
        .add_model_message(&message.item_hash())
        .await
        .unwrap();
}

#[tokio::test]
async fn others_are_answered_as_for_a_model_that_never_was() {
    // The operator's token is another account's here; a share's is for one revision under its own name.
    for bearer in [None, Some(TOKEN), Some("share"), Some("hf_nonsense")] {
        // A gateway for each: who is refused often is told to wait.
        let shared = private().await;
        let bearer = match bearer {
            Some("share") => Some(shared.token.expose()),
            other => other,
        };
        let (world, owner) = (&shared.world, shared.wallet.address());
        let never = format!("{owner}/{}", Uuid::new_v4());
        for path in ROUTES {
            let of = async |id: &str| {
                let (status, headers, body) = answer(world, &named(&shared, path, id), bearer).await;
                let body = String::from_utf8_lossy(&body).replace(id, "ID");
                (status, headers, body)
            };
            let (found, missing) = (of(&shared.terms.model).await, of(&never).await);
            assert!(found.0 == 401 || found.0 == 404, "{path} {bearer:?}: {found:?}");
            assert_eq!(found, missing, "{path}");
        }
        for path in [
            "/api/models/ID/paths-info/main",
            "/models/ID/notebook",
            "/ID.git/info/lfs/objects/batch",
        ] {
            let of = async |id: &str| {
                let request = world
                    .http()
                    .post(format!("{}{}", world.url, named(&shared, path, id)));
                let request = request.header("origin", &world.url).body("paths=README.md&rev=");
                let kind = "application/x-www-form-urlencoded";
                let mut request = request.header("content-type", kind);
                if let Some(bearer) = bearer {
                    request = request.bearer_auth(bearer);
                }
                let answer = request.send().await.unwrap();
                let status = answer.status().as_u16();
                (status, answer.text().await.unwrap().replace(id, "ID"))
            };
            let (found, missing) = (of(&shared.terms.model).await, of(&never).await);
            assert!(found.0 >= 400 || found.0 == 303, "{path} {bearer:?}: {found:?}");
            assert_eq!(found, missing, "{path}");
        }
        for path in [
            "/api/models",
            "/api/models?full=true&search=digits",
            // Words that the gateway has.
            &format!("/api/models?search={}", plain(&shared)),
            &format!("/api/models?search={}", shared.terms.revision),
            &format!("/api/models?author={owner}"),
        ] {
            let listed = answer(world, path, bearer).await;
            assert_eq!((listed.0, &*listed.2), (200, b"[]".as_slice()), "{path}");
        }
    }
}

#[tokio::test]
async fn its_owner_sees_a_row_without_content() {
    let shared = private().await;
    let token = Some(shared.owner_token.expose());
    let id = &shared.terms.model;
    for path in [
        "/api/models",
        &format!("/api/models?author={}", shared.wallet.address()),
    ] {
        let listed: Value = serde_json::from_slice(&answer(&shared.world, path, token).await.2).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!(
            (&listed[0]["id"], &listed[0]["private"]),
            (&Value::from(id.as_str()), &Value::Bool(true))
        );
    }
    for words in [
        "search=digits",
        "filter=other",
        "gated=true",
        "pipeline_tag=x",
        "author=ada",
    ] {
        let listed = answer(&shared.world, &format!("/api/models?{words}"), token).await;
        assert_eq!(&*listed.2, b"[]", "{words}");
    }
    let (status, _, body) = answer(&shared.world, &format!("/api/models/{id}"), token).await;
    let shown: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &shown["siblings"]), (200, &Value::Array(Vec::new())));
    let (status, ..) = answer(&shared.world, &format!("/{id}/resolve/main/README.md"), token).await;
    assert!(status == 403 || status == 404, "{status}");
    let own = shared.owner.models().await.unwrap();
    assert_eq!((own.len(), &own[0].record.name), (1, id));
    assert!(own[0].record.files.is_empty() && own[0].record.card.title.is_empty());
}

#[tokio::test]
async fn lists_of_its_owner_keep_their_order_and_their_length() {
    let shared = private().await;
    let world = &shared.world;
    let signed = (&shared.wallet, &shared.key);
    let weights = vec![0; 4_000];
    for name in ["first", "second"] {
        publish(world, &shared.owner, signed, (name, Visibility::Public), &weights).await;
    }
    let ids = async |query: &str, token: Option<&str>| -> Vec<String> {
        let (status, _, body) = answer(world, &format!("/api/models?{query}"), token).await;
        assert_eq!(status, 200);
        let listed: Vec<Value> = serde_json::from_slice(&body).unwrap();
        listed
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let owner = Some(shared.owner_token.expose());
    let all = ids("", owner).await;
    assert!(all.len() == 3 && all.contains(&shared.terms.model), "{all:?}");
    for at in 0..3 {
        assert_eq!(ids(&format!("limit=1&cursor={at}"), owner).await, all[at..=at]);
    }
    let mut oldest = ids("sort=createdAt&direction=1", owner).await;
    oldest.sort();
    let mut names = all.clone();
    names.sort();
    assert_eq!(oldest, names);
    assert_eq!(ids("", None).await.len(), 2);
    let commits = format!("/api/models/{}/commits/{}", shared.terms.model, "a".repeat(40));
    assert_eq!(answer(world, &commits, owner).await.0, 404);
}

#[tokio::test]
async fn its_owner_sees_it_on_the_pages_and_nobody_else_does() {
    let shared = private().await;
    let (world, id) = (&shared.world, &shared.terms.model);
    let page = async |path: &str, token: Option<&str>| {
        let (status, headers, body) = answer(world, path, token).await;
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let owner = Some(shared.owner_token.expose());
    let address = format!("href=\"/models/{id}\"");
    let others = [None, Some(TOKEN), Some(shared.token.expose())];
    for path in [
        "/models".to_owned(),
        "/models?open=private".to_owned(),
        format!("/models?owner={}", shared.wallet.address()),
        format!("/models?q={}", plain(&shared)),
    ] {
        // Before and after: nothing that was shown to its owner is kept for others.
        for bearer in others {
            let (status, html) = page(&path, bearer).await;
            assert!(status == 200 && !html.contains(&address), "{path}");
        }
        let (status, html) = page(&path, owner).await;
        assert!(
            status == 200 && html.contains(&address) && html.contains(">Private<"),
            "{path}: {html}"
        );
        for bearer in others {
            let (_, html) = page(&path, bearer).await;
            assert!(
                !html.contains(&address) && !html.contains("private: only you"),
                "{path}"
            );
        }
    }
    let (_, html) = page("/models", owner).await;
    assert!(
        html.contains("One of yours is private: only you see it here."),
        "{html}"
    );
    assert!(!page("/models?format=other", owner).await.1.contains(&address));
    let (status, html) = page(&format!("/models/{id}"), owner).await;
    assert!(
        status == 200 && html.contains(&format!("alephlab model show {}", plain(&shared))),
        "{html}"
    );
    assert!(html.contains(">Private<") && !html.contains("/verification") && !html.contains("Not verified"));
    for (tab, status) in [
        ("revisions", 200),
        ("use", 200),
        ("files", 404),
        ("verification", 404),
    ] {
        assert_eq!(
            page(&format!("/models/{id}/{tab}"), owner).await.0,
            status,
            "{tab}"
        );
    }
    assert_eq!(
        page(&format!("/models/{id}?rev={}", "a".repeat(40)), owner)
            .await
            .0,
        404
    );
    let made = world.http().post(format!("{}/models/{id}/notebook", world.url));
    let made = made
        .header("origin", &world.url)
        .bearer_auth(shared.owner_token.expose());
    let made = made
        .header("content-type", "application/x-www-form-urlencoded")
        .body("rev=");
    let place = made.send().await.unwrap().headers()["location"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(place.contains("private-model.ipynb"), "{place}");
}

#[tokio::test]
async fn a_file_is_found_in_public_models_alone() {
    let shared = private().await;
    let world = &shared.world;
    let signed = (&shared.wallet, &shared.key);
    let find = async |bytes: &[u8]| -> Vec<PublicFile> {
        use sha2::Digest as _;
        let sha256 = hex::encode_upper(sha2::Sha256::digest(bytes));
        // Its owner is told no more than anybody.
        shared.owner.public_files(&sha256).await.unwrap()
    };
    assert!(find(&shared.weights).await.is_empty());
    publish(
        world,
        &shared.owner,
        signed,
        ("sealed", Visibility::Sealed),
        &shared.weights,
    )
    .await;
    assert!(find(&shared.weights).await.is_empty());
    let (_, record) = publish(
        world,
        &shared.owner,
        signed,
        ("shown", Visibility::Public),
        &shared.weights,
    )
    .await;
    let found = find(&shared.weights).await;
    let place = PublicFile {
        model: record.name.clone(),
        revision: record.commit.clone(),
        path: "model.safetensors".to_owned(),
        size: shared.weights.len() as u64,
    };
    assert_eq!(found, [place]);
    assert!(find(b"nobody's").await.is_empty());
    assert!(shared.owner.public_files("x").await.is_err());
    withdraw(&shared, &record.name).await;
    assert!(find(&shared.weights).await.is_empty());
}

#[tokio::test]
async fn a_share_of_it_opens_its_files_under_the_share_alone() {
    let shared = private().await;
    let (world, token) = (&shared.world, Some(shared.token.expose()));
    let id = format!("m/{}", shared.terms.uuid);
    let (status, _, body) = answer(world, &format!("/api/models/{id}?blobs=true"), token).await;
    let shown: Value = serde_json::from_slice(&body).unwrap();
    let siblings = shown["siblings"].as_array().unwrap().iter();
    let files: Vec<_> = siblings.filter_map(|file| file["rfilename"].as_str()).collect();
    assert_eq!((status, files), (200, vec!["README.md", "model.safetensors"]));
    let (status, _, body) = answer(world, &format!("/{id}/resolve/main/model.safetensors"), token).await;
    assert!(status == 200 && body == shared.weights);
    let auth = Secret::new(shared.token.auth_hex().as_str());
    let envelope = shared.owner.share(shared.terms.uuid, &auth).await.unwrap();
    assert_eq!(
        (envelope.card, envelope.model),
        (None, shared.terms.model.clone())
    );
}

#[tokio::test]
async fn neither_database_nor_a_second_gateway_knows_what_it_is() {
    let shared = private().await;
    // Read once, so that what is kept of reading is in it.
    let path = format!("/m/{}/resolve/main/README.md", shared.terms.uuid);
    assert_eq!(
        answer(&shared.world, &path, Some(shared.token.expose())).await.0,
        200
    );
    let storage = Arc::clone(&shared.world.storage);
    let second = World::on(&storage, vec![Wallet::generate().unwrap().address()]).await;
    second.client().rebuild_registry().await.unwrap();
    let done = eventually("the rebuild's end", async || {
        let progress = second.client().registry_rebuild().await.unwrap();
        (progress.state != RebuildState::Running).then_some(progress)
    });
    assert_eq!(done.await.taken, 1);
    for path in ROUTES {
        let status = answer(&second, &named(&shared, path, &shared.terms.model), None)
            .await
            .0;
        assert!(status == 401 || status == 404, "{path}: {status}");
    }
    assert_eq!(&*answer(&second, "/api/models", None).await.2, b"[]");
    let hash = |bytes: &[u8]| {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(bytes))
    };
    // The word alone stands in what the database says of its own columns.
    let words = [
        "/digits",
        "\"digits\"",
        "README.md",
        "model.safetensors",
        &hash(&shared.weights),
        &hash(b"# digits\n"),
    ];
    for world in [shared.world, second] {
        let folder = world.stop().await;
        let stored = everything_stored(&folder.path().join("gateway")).await;
        let stored = String::from_utf8_lossy(&stored);
        assert!(stored.contains(&shared.terms.revision), "its row is there");
        for word in words {
            assert!(!stored.contains(word), "{word}");
        }
    }
}
