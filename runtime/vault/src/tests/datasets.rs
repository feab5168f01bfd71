//! Whole datasets: sealed, stored, published, read back, changed and damaged.

use super::{Fixture, code, long, noise};
use crate::keys::EpochSecret;
use crate::storage::{Fault, FaultyStorage};
use crate::{Keys, Kind, Meta, Reader, SourceFile};
use futures_util::StreamExt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

fn files(contents: &BTreeMap<String, Vec<u8>>) -> Vec<SourceFile> {
    contents
        .iter()
        .map(|(path, bytes)| SourceFile::bytes(path.clone(), bytes.clone()))
        .collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Sizes around every border of packing at 1 MiB objects: chunk, a quarter of an object, an object, several.
fn bordering() -> BTreeMap<String, Vec<u8>> {
    let sizes = [
        0, 1, 16_383, 16_384, 16_385, 262_143, 262_144, 262_145, 1_048_575, 1_048_576, 1_048_577, 2_097_152,
        5_000_001,
    ];
    (0_u64..)
        .zip(sizes)
        .map(|(seed, size)| (format!("d{}/f-{size}.bin", seed % 3), noise(seed, size)))
        .collect()
}

#[tokio::test]
async fn opening_may_move_between_threads() {
    fn sendable<T: Send>(future: T) -> T {
        future
    }
    let fixture = Fixture::new();
    let version = fixture.seal(&[SourceFile::bytes("a", "1")]).await;
    let keys = Keys::Epoch(fixture.secret.duplicate());
    let opening = sendable(Reader::open(fixture.storage.clone(), &version.head, keys));
    assert_eq!(opening.await.unwrap().files(), 1);
}

#[tokio::test]
async fn reads_back_files_of_every_bordering_size() {
    let fixture = Fixture::new();
    let contents = bordering();
    let version = fixture.seal(&files(&contents)).await;
    let reader = fixture.open(&version).await.unwrap();
    assert_eq!(reader.files(), contents.len() as u64);
    assert_eq!(
        reader.bytes(),
        contents.values().map(|bytes| bytes.len() as u64).sum::<u64>()
    );
    assert_eq!(version.objects.last().unwrap().kind, Kind::Root);
    assert!(version.objects.iter().any(|object| object.kind == Kind::Leaves));
    for (path, bytes) in &contents {
        assert!(reader.read(path).await.unwrap() == bytes, "{path}");
        let mut streamed = Vec::new();
        let mut stream = reader.stream(path, 0..u64::MAX).unwrap();
        while let Some(piece) = stream.next().await {
            let piece = piece.unwrap();
            assert!(piece.len() <= 4 << 20);
            streamed.extend_from_slice(&piece);
        }
        assert!(streamed == *bytes, "{path}");
    }
    assert_eq!(code(reader.read("d0/none").await), "E_NOT_FOUND");
    assert_eq!(code(reader.read("d0").await), "E_NOT_FOUND");
}

#[tokio::test]
async fn keeps_object_sizes_from_telling_file_sizes() {
    let fixture = Fixture::new();
    let version = fixture.seal(&[SourceFile::bytes("a", noise(1, 1_000_001))]).await;
    let data = version
        .objects
        .iter()
        .find(|object| object.kind == Kind::Data)
        .unwrap();
    let plaintext = crate::object::plaintext_len(data.bytes.len() as u64).unwrap();
    assert!(plaintext > 1_000_001 && plaintext.is_multiple_of(1 << 14));
}

#[tokio::test]
async fn keeps_what_the_manifest_says_of_files_and_dataset() {
    let fixture = Fixture::new();
    let mut file = SourceFile::bytes("a/b.png", "png");
    file.attributes = BTreeMap::from([("split".into(), "train".into()), ("z".into(), "1".into())]);
    (file.executable, file.mtime) = (true, Some(1_700_000_000));
    let mut params = fixture.params(1, 1);
    let text = |text: &str| Some(text.to_owned());
    params.meta = Meta {
        title: text("T"),
        description: text("D"),
        licence: text("MIT"),
        created: Some(7),
    };
    let mut objects = Vec::new();
    let tree = crate::seal_tree(
        &[file.clone(), SourceFile::directory("empty")],
        &params,
        &fixture.secret,
        &mut |object| {
            objects.push(object);
            Ok(())
        },
    );
    let version = fixture
        .store(tree.unwrap(), objects, 1, 1, [0; 32], &fixture.secret)
        .await;
    let reader = fixture.open(&version).await.unwrap();
    assert_eq!(reader.meta(), &params.meta);
    let entry = reader.entry("a/b.png").unwrap();
    assert_eq!(
        (entry.mime.as_str(), entry.size, entry.mtime, entry.executable),
        ("image/png", 3, file.mtime, true)
    );
    assert_eq!(entry.attributes, file.attributes);
    let paths: Vec<_> = reader
        .entries()
        .iter()
        .map(|entry| (entry.path.as_str(), entry.is_file()))
        .collect();
    assert_eq!(paths, [("a", false), ("a/b.png", true), ("empty", false)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if long() { 100 } else { 12 }))]

    #[test]
    fn reads_any_range_of_any_tree(
        sizes in prop::collection::vec(prop_oneof![0_usize..40_000, 200_000_usize..300_000, 0_usize..2_500_000], 1..8),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..2_600_000, 0_u64..2_600_000), 1..12),
    ) {
        runtime().block_on(async {
            let contents: BTreeMap<String, Vec<u8>> =
                (0_u64..).zip(&sizes).map(|(seed, size)| (format!("{}/{seed}", seed % 2), noise(seed, *size))).collect();
            let fixture = Fixture::new();
            let version = fixture.seal(&files(&contents)).await;
            let reader = fixture.open(&version).await.unwrap();
            let named: Vec<_> = contents.iter().collect();
            for (which, offset, length) in reads {
                let (path, bytes) = which.get(&named);
                let from = usize::try_from(offset).unwrap().min(bytes.len());
                let to = usize::try_from(offset + length).unwrap().min(bytes.len());
                let read = reader.read_range(path, offset, length).await.unwrap();
                assert!(read == bytes[from..to.max(from)]);
            }
        });
    }
}

#[tokio::test]
async fn extracts_private_files_and_leaves_what_is_there() {
    let fixture = Fixture::new();
    let contents = bordering();
    let version = fixture.seal(&files(&contents)).await;
    let reader = fixture.open(&version).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let mut last = (0, 0);
    reader
        .extract_to(&target, &mut |done, total| last = (done, total))
        .await
        .unwrap();
    assert_eq!(last, (reader.bytes(), reader.bytes()));
    for (path, bytes) in &contents {
        let path = target.join(path);
        assert!(std::fs::read(&path).unwrap() == *bytes);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::metadata(path.parent().unwrap())
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o700
        );
    }
    std::fs::write(target.join("d0/f-0.bin"), "mine").unwrap();
    assert_eq!(code(reader.extract_to(&target, &mut |_, _| ()).await), "E_IO");
    assert_eq!(std::fs::read(target.join("d0/f-0.bin")).unwrap(), b"mine");
}

#[tokio::test]
async fn names_the_object_that_was_damaged_and_returns_nothing_of_it() {
    let fixture = Fixture::new();
    let contents = BTreeMap::from([
        ("a".to_owned(), noise(1, 3_000_000)),
        ("b".to_owned(), noise(2, 10)),
    ]);
    let version = fixture.seal(&files(&contents)).await;
    for object in &version.objects {
        let name = object.item_hash();
        for place in [0, 40, 100, object.bytes.len() - 1] {
            let mut bytes = object.bytes.to_vec();
            bytes[place] ^= 1;
            fixture.storage.damage(&name, bytes);
            let error = read_all(&fixture, &version).await.err();
            let used = object.kind != Kind::Leaves;
            assert_eq!(error.is_some(), used, "{:?}", object.kind);
            if let Some(error) = error {
                assert_eq!(error.code(), "E_HASH");
                assert!(error.to_string().contains(&name), "{error} should name {name}");
            }
        }
        fixture
            .storage
            .damage(&name, object.bytes.slice(..object.bytes.len() - 1));
        let cut = read_all(&fixture, &version).await;
        assert!(object.kind == Kind::Leaves || code(cut) == "E_LENGTH");
        fixture.storage.damage(&name, object.bytes.clone());
    }
    read_all(&fixture, &version).await.unwrap();
}

async fn read_all(fixture: &Fixture, version: &super::Version) -> crate::Result<()> {
    let reader = fixture.open(version).await?;
    for entry in reader.entries().iter().filter(|entry| entry.is_file()) {
        reader.read(&entry.path).await?;
    }
    Ok(())
}

#[tokio::test]
async fn refuses_another_secret_and_swapped_objects() {
    let fixture = Fixture::new();
    let version = fixture
        .seal(&[
            SourceFile::bytes("a", noise(1, 100)),
            SourceFile::bytes("b", noise(2, 600_000)),
        ])
        .await;
    let other = EpochSecret::generate().unwrap();
    assert_eq!(
        code(fixture.open_with(&version, Keys::Epoch(other)).await),
        "E_EPOCH"
    );
    let data: Vec<_> = version
        .objects
        .iter()
        .filter(|object| object.kind == Kind::Data)
        .collect();
    fixture
        .storage
        .damage(&data[0].item_hash(), data[1].bytes.clone());
    let reader = fixture.open(&version).await.unwrap();
    assert_eq!(code(reader.read("a").await), "E_LENGTH");
}

#[tokio::test]
async fn reports_a_storage_that_fails_cuts_or_flips() {
    let fixture = Fixture::new();
    let version = fixture.seal(&[SourceFile::bytes("a", noise(1, 100))]).await;
    let faulty = Arc::new(FaultyStorage::new(fixture.storage.clone()));
    let open = || {
        Reader::open(
            faulty.clone(),
            &version.head,
            Keys::Epoch(fixture.secret.duplicate()),
        )
    };
    let faults = [
        (Fault::FailTimes(1), "E_UNAVAILABLE"),
        (Fault::Truncate(50), "E_LENGTH"),
        (Fault::FlipByte(3), "E_HASH"),
        (Fault::Delay(std::time::Duration::from_millis(1)), "no error"),
    ];
    for (fault, expected) in faults {
        faulty.set(Some(fault));
        assert_eq!(code(open().await), expected);
    }
    assert!(faulty.calls() > 3);
    faulty.set(None);
    assert_eq!(open().await.unwrap().read("a").await.unwrap(), noise(1, 100));
}

#[tokio::test]
async fn takes_over_unchanged_objects_and_carries_older_secrets() {
    let fixture = Fixture::new();
    let mut contents = BTreeMap::from([
        ("big".to_owned(), noise(1, 1_500_000)),
        ("s/1".to_owned(), noise(2, 50)),
        ("s/2".into(), noise(3, 60)),
    ]);
    let first = fixture.seal(&files(&contents)).await;
    let reader = fixture.open(&first).await.unwrap();
    contents.insert("s/2".into(), noise(4, 61));
    contents.insert("new".into(), noise(5, 400_000));
    let secret = EpochSecret::generate().unwrap();
    let second = fixture.next(&reader, &files(&contents), 2, &secret).await;
    // "big" keeps its two objects; "s/1" shared one with "s/2" and is sealed again with it.
    let data = |version: &super::Version| {
        version
            .objects
            .iter()
            .filter(|object| object.kind == Kind::Data)
            .count()
    };
    assert_eq!((data(&first), data(&second)), (3, 2));
    let reader = fixture.open_with(&second, Keys::Epoch(secret)).await.unwrap();
    for (path, bytes) in &contents {
        assert!(reader.read(path).await.unwrap() == bytes, "{path}");
    }
    assert_eq!(reader.head().head.prev, first.head.hash());
}

#[test]
fn refuses_to_seal_what_a_dataset_may_not_hold() {
    let fixture = Fixture::new();
    let seal = |files: &[SourceFile]| {
        code(crate::seal_tree(
            files,
            &fixture.params(1, 1),
            &fixture.secret,
            &mut |_| Ok(()),
        ))
    };
    assert_eq!(seal(&[SourceFile::bytes("../a", "1")]), "E_PATH");
    assert_eq!(
        seal(&[SourceFile::bytes("a", "1"), SourceFile::bytes("a", "2")]),
        "E_PATH"
    );
    assert_eq!(
        seal(&[SourceFile::bytes("a", "1"), SourceFile::bytes("A", "2")]),
        "E_PATH"
    );
    assert_eq!(
        seal(&[SourceFile::bytes("a", "1"), SourceFile::bytes("a/b", "2")]),
        "E_PATH"
    );
    assert_eq!(seal(&[SourceFile::file("a", "/nonexistent")]), "E_IO");
    let mut noted = SourceFile::bytes("a", "1");
    noted.attributes.insert("k".into(), "x".repeat(4_097));
    assert_eq!(seal(&[noted]), "E_LIMIT");
    let mut params = fixture.params(1, 1);
    params.meta.description = Some("x".repeat(4_097));
    assert_eq!(
        code(crate::seal_tree(&[], &params, &fixture.secret, &mut |_| Ok(()))),
        "E_LIMIT"
    );
    for (obj_log2, version, epoch) in [(19, 1, 1), (27, 1, 1), (25, 0, 1), (25, 1, 0)] {
        let mut params = fixture.params(version, epoch);
        params.obj_log2 = obj_log2;
        assert!(crate::seal_tree(&[], &params, &fixture.secret, &mut |_| Ok(())).is_err());
    }
}

#[tokio::test]
async fn seals_an_empty_dataset() {
    let fixture = Fixture::new();
    let version = fixture.seal(&[]).await;
    let reader = fixture.open(&version).await.unwrap();
    assert_eq!(
        (reader.files(), reader.entries().len(), version.tree.objects),
        (0, 0, 1)
    );
}
