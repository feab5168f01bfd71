//! Publishing, sharing and pulling: what was sealed comes out again for the token, and for nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use alephlab_api::Card;
use alephlab_api::broker::{Op, PublishFile, Published, Pulled, Uploaded};
use alephlab_api::model::Visibility;
use alephlab_vault::share::ShareToken;
use alephlab_vault::storage::Storage;
use uuid::Uuid;

use super::{CSV, Stage, owner};

pub(crate) fn card() -> Card {
    Card {
        title: "Digits".into(),
        metrics: BTreeMap::from([("accuracy".into(), 0.99)]),
        ..Card::default()
    }
}

pub(crate) async fn publish(stage: &Stage, folder: &Path) -> Result<Published, alephlab_api::Problem> {
    publish_with(stage, folder, card()).await
}

pub(crate) async fn publish_with(
    stage: &Stage,
    folder: &Path,
    card: Card,
) -> Result<Published, alephlab_api::Problem> {
    std::fs::create_dir_all(folder.join("eval")).unwrap();
    std::fs::write(folder.join("model.safetensors"), vec![7; 100_000]).unwrap();
    std::fs::write(folder.join("eval/test.csv"), CSV).unwrap();
    let file = |name: &str| PublishFile {
        name: name.into(),
        path: folder.join(name),
    };
    let files = vec![file("model.safetensors"), file("eval/test.csv")];
    let done = stage
        .cell()
        .await
        .ask(Op::Publish {
            name: "digits-cnn".into(),
            card,
            files,
        })
        .await?;
    Ok(serde_json::from_value(done).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_pulled_with_uuid_and_token() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let published = publish(&stage, folder.path()).await.unwrap();
    assert_eq!(
        published.name,
        format!("{}/digits-cnn", stage.owner.wallet.address())
    );
    let (uuid, token) = stage.owner.share("digits-cnn", None).await;
    let pulled = stage.pull(&uuid.to_string(), Some(token.expose())).await.unwrap();
    let pulled: Pulled = serde_json::from_value(pulled).unwrap();
    assert_eq!(
        (&pulled.name, &pulled.revision),
        (&published.name, &published.revision)
    );
    assert_eq!(pulled.files, ["README.md", "eval/test.csv", "model.safetensors"]);
    assert_eq!(pulled.card, Some(card()));
    assert_eq!(
        std::fs::read(pulled.path.join("model.safetensors")).unwrap(),
        vec![7; 100_000]
    );
    assert_eq!(
        std::fs::read_to_string(pulled.path.join("eval/test.csv")).unwrap(),
        CSV
    );
    assert_eq!(
        std::fs::read_to_string(pulled.path.join("README.md")).unwrap(),
        card().to_markdown()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signed_record_says_what_was_published() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let published = publish(&stage, folder.path()).await.unwrap();
    let record = stage.owner.records.lock().unwrap()[0].clone();
    assert_eq!(
        (record.commit.as_str(), record.parent.clone()),
        (published.revision.as_str(), None)
    );
    let files: Vec<(&str, u64)> = record
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.size))
        .collect();
    let readme = card().to_markdown().len() as u64;
    let expected = [
        ("README.md", readme),
        ("eval/test.csv", CSV.len() as u64),
        ("model.safetensors", 100_000),
    ];
    assert_eq!(files, expected);
    assert_eq!(published.bytes, files.iter().map(|(_, size)| size).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_private_model_the_record_leaves_the_broker_sealed() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let private = Card {
        private: true,
        ..card()
    };
    let published = publish_with(&stage, folder.path(), private).await.unwrap();
    let record = stage.owner.records.lock().unwrap()[0].clone();
    assert_eq!(record.visibility, Visibility::Private);
    assert!(record.sealed.is_some() && record.files.is_empty());
    assert_ne!(record.name, published.name);
    let seen = stage.owner.seen.lock().unwrap().clone();
    for word in [
        "Digits",
        "accuracy",
        "eval/test.csv",
        "model.safetensors",
        "100000",
    ] {
        assert!(!seen.contains(word), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_readable_and_no_token_leaves_the_broker() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    publish(&stage, folder.path()).await.unwrap();
    let (uuid, token) = stage.owner.share("digits-cnn", None).await;
    stage.pull(&uuid.to_string(), Some(token.expose())).await.unwrap();
    let seen = stage.owner.seen.lock().unwrap().clone();
    assert!(seen.contains(&*token.auth_hex()));
    for secret in [token.expose(), "plaintext-canary"] {
        assert!(!seen.contains(secret));
    }
    for name in stage.owner.storage.objects() {
        let bytes = stage.owner.storage.get(&name).await.unwrap();
        assert!(
            !bytes.windows(16).any(|window| window == b"plaintext-canary"),
            "{name}"
        );
        assert!(!bytes.windows(64).any(|window| window == [7; 64]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_token_wrong_uuid_and_expired_share_open_nothing() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    publish(&stage, folder.path()).await.unwrap();
    let (uuid, token) = stage.owner.share("digits-cnn", None).await;
    let other = ShareToken::generate().unwrap();
    let wrong_token = stage
        .pull(&uuid.to_string(), Some(other.expose()))
        .await
        .unwrap_err();
    let wrong_uuid = stage
        .pull(&Uuid::new_v4().to_string(), Some(token.expose()))
        .await
        .unwrap_err();
    assert_eq!(wrong_token, wrong_uuid);
    let mistyped = stage
        .pull(&uuid.to_string(), Some("hf_canary"))
        .await
        .unwrap_err();
    assert_eq!(mistyped.code, "E_TOKEN");
    assert!(!mistyped.to_string().contains("canary"));
    // Without a token the account's own machine is asked, and this one keeps none.
    assert!(stage.pull(&uuid.to_string(), None).await.is_err());
    let (late, token) = stage.owner.share("digits-cnn", Some(owner::now() - 10)).await;
    assert_eq!(
        stage
            .pull(&late.to_string(), Some(token.expose()))
            .await
            .unwrap_err()
            .code,
        "E_SHARE"
    );
    assert_eq!(stage.opened(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_changes_the_terms_of_a_share_is_found_out() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    publish(&stage, folder.path()).await.unwrap();
    let forgeries: [fn(&mut alephlab_api::share::ShareEnvelope); 4] = [
        |envelope| envelope.expires = Some(u64::MAX),
        |envelope| envelope.model = format!("0x{}/digits-cnn", "1".repeat(40)),
        |envelope| envelope.revision = "0".repeat(40),
        |envelope| envelope.sealed = envelope.sealed.replacen(|_: char| true, "", 4),
    ];
    for (number, forgery) in forgeries.into_iter().enumerate() {
        let (uuid, token) = stage.owner.share("digits-cnn", None).await;
        stage.owner.forge(uuid, forgery);
        let problem = stage
            .pull(&uuid.to_string(), Some(token.expose()))
            .await
            .unwrap_err();
        assert_eq!(problem.code, "E_SHARE", "forgery {number}: {problem}");
    }
    // The head is not sealed: it must still be the one that the keys belong to.
    let (uuid, token) = stage.owner.share("digits-cnn", None).await;
    stage
        .owner
        .forge(uuid, |envelope| envelope.head["created"] = 1.into());
    assert_eq!(
        stage
            .pull(&uuid.to_string(), Some(token.expose()))
            .await
            .unwrap_err()
            .code,
        "E_HEAD_SIG"
    );
    assert_eq!(stage.opened(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_the_owner_did_not_sign_is_refused() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    publish(&stage, folder.path()).await.unwrap();
    let forgeries: [fn(&mut Card); 3] = [
        |card| card.title = "Digits, certified".into(),
        // What the card's Markdown does not show counts as well.
        |card| card.metrics = BTreeMap::from([("accuracy".into(), 1.0)]),
        |card| *card = Card::default(),
    ];
    for (number, forgery) in forgeries.into_iter().enumerate() {
        let (uuid, token) = stage.owner.share("digits-cnn", None).await;
        stage
            .owner
            .forge(uuid, |envelope| forgery(envelope.card.as_mut().unwrap()));
        let problem = stage
            .pull(&uuid.to_string(), Some(token.expose()))
            .await
            .unwrap_err();
        assert_eq!(problem.code, "broker_answer", "forgery {number}: {problem}");
        assert!(problem.message.contains("model card"), "{problem}");
    }
    assert_eq!(stage.opened(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_node_would_take_is_refused_before_anything_is_uploaded() {
    let stage = Stage::new().await;
    let before = stage.owner.storage.objects();
    let folder = tempfile::tempdir().unwrap();
    let files = (0..2_000).map(|number| {
        let name = format!("part-{number:04}.bin");
        let path = folder.path().join(&name);
        std::fs::write(&path, [7]).unwrap();
        PublishFile { name, path }
    });
    let op = Op::Publish {
        name: "digits-cnn".into(),
        card: card(),
        files: files.collect(),
    };
    let problem = stage.cell().await.ask(op).await.unwrap_err();
    assert_eq!(problem.code, "broker_record_size");
    assert!(problem.message.contains("at most 199999"), "{problem}");
    assert!(problem.message.contains("2001 files"), "{problem}");
    assert!(problem.hint.is_some());
    assert_eq!(stage.owner.storage.objects(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_model_is_pulled_by_name_through_a_delegation() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let published = publish(&stage, folder.path()).await.unwrap();
    let pulled: Pulled = serde_json::from_value(stage.pull("digits-cnn", None).await.unwrap()).unwrap();
    assert_eq!(pulled.revision, published.revision);
    assert!(
        stage
            .pull("digits-cnn", Some("hf_x"))
            .await
            .unwrap_err()
            .message
            .contains("UUID of a share")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sealed_for_a_model_of_another_account() {
    let stage = Stage::new().await;
    stage.owner.manner.lock().unwrap().foreign_model = true;
    let before = stage.owner.storage.objects();
    let folder = tempfile::tempdir().unwrap();
    let problem = publish(&stage, folder.path()).await.unwrap_err();
    assert!(
        problem.message.contains("not one of this kernel's account"),
        "{problem}"
    );
    assert_eq!(stage.owner.storage.objects(), before);
}

async fn upload(stage: &Stage, path: &Path) -> Result<Uploaded, alephlab_api::Problem> {
    let op = Op::Upload {
        name: "rain".into(),
        path: path.to_owned(),
        description: Some("mm a day".into()),
        licence: None,
    };
    let done = stage.cell().await.ask(op).await?;
    Ok(serde_json::from_value(done).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_is_mounted_by_its_name() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("2026/empty")).unwrap();
    std::fs::write(folder.path().join("2026/days.csv"), CSV).unwrap();
    std::fs::write(folder.path().join("notes.txt"), vec![b'n'; 70_000]).unwrap();
    let uploaded = upload(&stage, folder.path()).await.unwrap();
    assert_eq!((uploaded.version, uploaded.files), (1, 2));
    let mounted = stage.mount("rain").await.unwrap();
    let path = super::path_of(&mounted);
    assert_eq!(mounted["description"], "mm a day");
    assert_eq!(std::fs::read_to_string(path.join("2026/days.csv")).unwrap(), CSV);
    assert_eq!(std::fs::read(path.join("notes.txt")).unwrap(), vec![b'n'; 70_000]);
    assert!(path.join("2026/empty").is_dir());
    // What goes over the wire and lies on the node holds no content.
    assert!(!stage.owner.seen.lock().unwrap().contains("plaintext-canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_is_uploaded_as_well_and_what_is_none_or_not_of_the_account_is_refused() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("days.csv");
    std::fs::write(&file, CSV).unwrap();
    assert_eq!(upload(&stage, &file).await.unwrap().files, 1);
    let refused = upload(&stage, &folder.path().join("nothing")).await.unwrap_err();
    assert!(refused.to_string().contains("nothing"), "{refused}");
    let refused = upload(&stage, Path::new("days.csv")).await.unwrap_err();
    assert!(refused.to_string().contains("no whole path"), "{refused}");
    stage.owner.manner.lock().unwrap().foreign_model = true;
    let refused = upload(&stage, &file).await.unwrap_err();
    assert!(
        refused.to_string().contains("not one of this kernel's account"),
        "{refused}"
    );
}
