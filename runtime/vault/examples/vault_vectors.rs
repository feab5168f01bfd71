//! Seals and opens small trees for the cross-check with an independent implementation
//! (`tests/clients/test_adc1.py`). Its secrets are made up for the test and printed; never use it for data.
//!
//! `vault_vectors seal DIR SEED` seals a random tree into DIR and prints what a reader needs, with a grant for each kind of
//! key of DIR/reader.key.
//! `vault_vectors open DIR` opens what DIR/sealed.json describes, by each of its grants, and prints what it found.

use alephlab_vault::message::sign_store;
use alephlab_vault::storage::{FolderStorage, Storage};
use alephlab_vault::{
    EpochSecret, Grant, GrantTerms, Keys, Meta, Reader, ReaderKey, RootRef, SealParams, SourceFile,
    UnsignedHead, Wallet, dataset_id, seal_tree,
};
use serde::Deserialize;
use serde_json::json;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// What the other implementation writes.
#[derive(Deserialize)]
struct SealedElsewhere {
    wallet: String,
    secret: String,
    id_random: String,
    epoch: u32,
    version: u64,
    prev: String,
    root: RootRef,
    created: u64,
    grants: Vec<Grant>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "seal", dir, seed] => seal(Path::new(dir), seed.parse()?).await,
        [_, "open", dir] => open(Path::new(dir)).await,
        _ => Err("usage: vault_vectors seal DIR SEED | open DIR".into()),
    }
}

async fn seal(dir: &Path, seed: u64) -> Result<(), Box<dyn Error>> {
    let storage = FolderStorage::new(dir)?;
    let wallet = Wallet::generate()?;
    let secret = EpochSecret::generate()?;
    let id_random = alephlab_vault::new_id_random()?;
    let dataset = dataset_id(&wallet.owner(), &id_random);
    let files = tree(seed);
    let meta = Meta {
        title: Some(format!("tree {seed}")),
        created: Some(seed),
        ..Meta::default()
    };
    let params = SealParams {
        dataset_id: dataset,
        version: 1,
        epoch: 1,
        obj_log2: 20,
        meta,
    };
    let mut objects = Vec::new();
    let sealed = seal_tree(&files, &params, &secret, &mut |object| {
        objects.push(object);
        Ok(())
    })?;
    for object in objects {
        let store = sign_store(&wallet, &object.item_hash(), object.bytes.len() as u64)?;
        storage.put(object.bytes, &store).await?;
    }
    let head = UnsignedHead {
        dataset_id: dataset,
        owner: wallet.owner(),
        version: 1,
        prev: [0; 32],
        epoch: 1,
        epoch_commitment: secret.commitment(&dataset, 1),
        root: sealed.root,
        writers: Vec::new(),
        created: 1_790_000_000,
        not_after: None,
        id_random,
    }
    .sign(&wallet)?;
    let key = ReaderKey::generate()?;
    key.save(&dir.join("reader.key"), None)?;
    let publics = key.publics().iter();
    let grants = publics.map(|public| {
        Grant::seal(
            dataset,
            1,
            &secret,
            wallet.owner(),
            public,
            GrantTerms::until(Some(seed)),
        )
    });
    let grants = grants.collect::<Result<Vec<_>, _>>()?;
    let reader = Reader::open(Arc::new(storage), &head, Keys::Epoch(secret.duplicate())).await?;
    let hash = hex::encode(head.hash());
    println!(
        "{}",
        json!({ "secret": hex::encode(secret.expose()), "head": head, "head_hash": hash, "grants": grants,
            "files": found(&reader).await? })
    );
    Ok(())
}

async fn open(dir: &Path) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read(dir.join("sealed.json"))?;
    let sealed: SealedElsewhere = serde_json::from_slice(&text)?;
    let wallet = Wallet::from_secret(&bytes(&sealed.wallet)?)?;
    let secret = EpochSecret::from_bytes(bytes(&sealed.secret)?);
    let id_random: [u8; 16] = bytes(&sealed.id_random)?;
    let dataset = dataset_id(&wallet.owner(), &id_random);
    let head = UnsignedHead {
        dataset_id: dataset,
        owner: wallet.owner(),
        version: sealed.version,
        prev: bytes(&sealed.prev)?,
        epoch: sealed.epoch,
        epoch_commitment: secret.commitment(&dataset, sealed.epoch),
        root: sealed.root,
        writers: Vec::new(),
        created: sealed.created,
        not_after: None,
        id_random,
    }
    .sign(&wallet)?;
    let key = ReaderKey::load(&dir.join("reader.key"), None)?;
    for grant in &sealed.grants {
        let granted = grant.open(&key, &wallet.address(), &head, sealed.created)?;
        if granted.expose() != secret.expose() {
            return Err("a grant holds another secret".into());
        }
    }
    let reader = Reader::open(Arc::new(FolderStorage::new(dir)?), &head, Keys::Epoch(secret)).await?;
    let hash = hex::encode(head.hash());
    println!(
        "{}",
        json!({ "head_hash": hash, "title": reader.meta().title, "files": found(&reader).await? })
    );
    Ok(())
}

/// Path, SHA-256 and what else the manifest says, of every entry.
async fn found(reader: &Reader) -> Result<serde_json::Value, Box<dyn Error>> {
    let mut all = serde_json::Map::new();
    for entry in reader.entries() {
        let said = if entry.is_file() {
            let content = reader.read(&entry.path).await?;
            json!({
                "sha256": hex::encode(entry.sha256), "size": content.len(), "mime": entry.mime,
                "attributes": entry.attributes, "mtime": entry.mtime, "executable": entry.executable,
            })
        } else {
            json!({ "directory": true })
        };
        all.insert(entry.path.clone(), said);
    }
    Ok(all.into())
}

/// A tree that differs with its seed, with files around the borders of chunks and objects.
fn tree(seed: u64) -> Vec<SourceFile> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let borders = [
        0, 1, 16_383, 16_384, 16_385, 262_143, 262_144, 1_048_576, 1_048_577,
    ];
    let mut files = vec![SourceFile::directory("empty ordner")];
    for index in 0..=random(9) {
        let border = usize::try_from(random(9)).unwrap_or(0);
        let size = if random(2) == 0 {
            borders[border]
        } else {
            usize::try_from(random(900_000)).unwrap_or(0)
        };
        let content: Vec<u8> = (0..size).map(|_| random(256).to_le_bytes()[0]).collect();
        let mut file = SourceFile::bytes(format!("ordner-{}/größe {index}.csv", index % 3), content);
        file.executable = random(2) == 0;
        file.mtime = (random(2) == 0).then(|| random(1 << 40));
        for note in 0..random(4) {
            file.attributes.insert(
                "k".repeat(usize::try_from(1 + 13 * note).unwrap_or(1)),
                format!("v{note}"),
            );
        }
        files.push(file);
    }
    files
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], Box<dyn Error>> {
    hex::decode(text)?
        .try_into()
        .map_err(|_| format!("expected {N} bytes in hex").into())
}
