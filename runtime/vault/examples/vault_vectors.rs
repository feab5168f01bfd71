//! Seals and opens small trees for the cross-check with an independent implementation
//! (`tests/clients/test_adc1.py`). Its secrets are made up for the test and printed; never use it for data.
//!
//! `vault_vectors seal DIR SEED` seals a random tree into DIR and prints what a reader needs, with a grant for each kind of
//! key of DIR/reader.key.
//! `vault_vectors revise DIR SEED` publishes three revisions of a model into DIR, the later ones made of what stays and what
//! changed, and prints what a reader of each needs.
//! `vault_vectors open DIR` opens what DIR/sealed.json describes, by each of its grants, and prints what it found.

use alephlab_vault::message::sign_store;
use alephlab_vault::storage::{FolderStorage, Storage};
use alephlab_vault::{
    EpochSecret, Grant, GrantTerms, Keys, Meta, PutRevision, Reader, ReaderKey, RootRef, SealParams, Sealing,
    Source, SourceFile, UnsignedHead, Wallet, dataset_id, seal_revision, seal_tree,
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
        [_, "revise", dir, seed] => revise(Path::new(dir), seed.parse()?).await,
        [_, "open", dir] => open(Path::new(dir)).await,
        _ => Err("usage: vault_vectors seal DIR SEED | revise DIR SEED | open DIR".into()),
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

async fn revise(dir: &Path, seed: u64) -> Result<(), Box<dyn Error>> {
    let storage: Arc<dyn Storage> = Arc::new(FolderStorage::new(dir)?);
    let (wallet, key) = (Wallet::generate()?, ReaderKey::generate()?);
    let id_random = alephlab_vault::new_id_random()?;
    let others = |from: usize| tree(seed).into_iter().skip(from);
    let kept = |from: usize| others(from).filter(|file| !matches!(file.source, Source::Directory));
    let revisions = [
        others(0)
            .chain([SourceFile::bytes("w.safetensors", weights(seed, 0, 1))])
            .collect::<Vec<_>>(),
        // A tensor changed, the header is longer, and the first file is gone.
        kept(2)
            .map(|file| SourceFile::kept(file.path))
            .chain([SourceFile::bytes("w.safetensors", weights(seed, 1, 99))])
            .collect(),
        // Other names.
        vec![
            SourceFile::kept_as("a/one.safetensors", "w.safetensors"),
            SourceFile::bytes("a/two.safetensors", weights(seed, 1, 99)),
            SourceFile::bytes("README.md", format!("revision 3 of {seed}").into_bytes()),
        ],
    ];
    let mut previous = None;
    let mut made = Vec::new();
    for files in revisions {
        let put = PutRevision {
            files,
            meta: Meta::default(),
            previous,
            id_random,
            obj_log2: Some(20),
            carry_grants: false,
            always: false,
            anew: false,
            journal: None,
            known: None,
        };
        let sealed = match seal_revision(storage.clone(), &wallet, &key, put, &|_| {}).await? {
            Sealing::Sealed(sealed) => sealed,
            Sealing::Unchanged(_) => return Err("a revision is as the one before".into()),
        };
        let put = sealed.publish(&*storage, &[], &|_| {}).await?;
        let secret = sealed.secret().duplicate();
        let reader = Reader::open(storage.clone(), &put.head, Keys::Epoch(secret)).await?;
        made.push(json!({
            "secret": hex::encode(sealed.secret().expose()), "head": put.head, "stored": put.uploaded,
            "files": found(&reader).await?,
        }));
        previous = Some((put.head, put.head_message));
    }
    println!("{}", serde_json::Value::from(made));
    Ok(())
}

/// A safetensors file of three tensors of more than half an object and a small one.
fn weights(seed: u64, changed: u64, note: usize) -> Vec<u8> {
    let sizes = [700_000, 1_500, 1_048_576, 1_300_000];
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".into(), json!({ "note": "n".repeat(note) }));
    for (index, size) in (0_u64..).zip(sizes) {
        let mut state = (seed * 8 + index + 1 + 100 * u64::from(index == 2) * changed) | 1 << 40;
        let from = data.len();
        data.extend((0..size).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        }));
        let said = json!({ "dtype": "I8", "shape": [size], "data_offsets": [from, data.len()] });
        header.insert(format!("t{index}"), said);
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
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
