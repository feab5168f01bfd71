//! Private models at a gateway: a row for their owner, the bytes for who bears a share's token, and nothing for anybody else.

use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::model::{RebuildState, Visibility};
use alephlab_api::share::ShareLimits;
use alephlab_vault::Wallet;
use serde_json::Value;
use uuid::Uuid;

use crate::shares::{Shared, answer, share_of};
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
            "/api/models",
            "/api/models?full=true&search=digits",
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
    assert_eq!(
        &*answer(&shared.world, "/api/models?search=digits", token).await.2,
        b"[]"
    );
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
