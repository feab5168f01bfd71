//! What the revisions of a model of 1 GiB cost: four equal tensors, then one of them changed, a longer header, the same weights
//! under another name, and a new card beside weights that are kept. Counted is what lies in a folder of objects afterwards, and
//! what it is billed as: at least 25 MiB for each (docs/benchmarks.md).
//!
//! `model_revisions DIR [MIB]` works in DIR, which must not exist, and leaves nothing there.

use alephlab_vault::message::sign_post;
use alephlab_vault::storage::{FolderStorage, Storage};
use alephlab_vault::{
    Keys, Meta, PutRevision, Reader, ReaderKey, Sealing, SignedHead, SourceFile, Wallet, new_id_random,
    seal_revision,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const MIB: u64 = 1 << 20;
/// A STORE is billed as at least this.
const BILLED: u64 = 25 * MIB;

struct Bench {
    storage: Arc<dyn Storage>,
    wallet: Wallet,
    key: ReaderKey,
    id_random: [u8; 16],
    objects: PathBuf,
    previous: Option<(SignedHead, String)>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let dir = PathBuf::from(args.get(1).ok_or("usage: model_revisions DIR [MIB]")?);
    let mib: u64 = args.get(2).map_or(Ok(1_024), |text| text.parse())?;
    std::fs::create_dir(&dir)?;
    let done = run(&dir, mib).await;
    std::fs::remove_dir_all(&dir)?;
    done
}

async fn run(dir: &Path, mib: u64) -> Result<(), Box<dyn Error>> {
    let mut bench = Bench {
        storage: Arc::new(FolderStorage::new(&dir.join("storage"))?),
        wallet: Wallet::generate()?,
        key: ReaderKey::generate()?,
        id_random: new_id_random()?,
        objects: dir.join("storage/objects"),
        previous: None,
    };
    let file = dir.join("model.safetensors");
    let card = |text: &str| SourceFile::bytes("README.md", text.as_bytes().to_vec());
    println!("| revision | objects | bytes stored | of the weights | billed MiB | s |");
    println!("|---|---|---|---|---|---|");
    for (what, changed, note) in [
        ("four equal tensors", 0, 1),
        ("one tensor changed", 1, 1),
        ("a longer header", 1, 5_000),
    ] {
        write(&file, mib, changed, note)?;
        let files = vec![card("one"), SourceFile::file("model.safetensors", &file)];
        bench.put(what, mib, files).await?;
    }
    let files = vec![card("one"), SourceFile::file("again.safetensors", &file)];
    bench
        .put("the same weights under another name", mib, files)
        .await?;
    let files = vec![card("two"), SourceFile::kept("again.safetensors")];
    bench.put("another card, weights kept", mib, files).await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("\npeak memory: {}", peak.unwrap_or_default());
    Ok(())
}

impl Bench {
    async fn put(&mut self, what: &str, mib: u64, files: Vec<SourceFile>) -> Result<(), Box<dyn Error>> {
        let before = sizes(&self.objects)?;
        let begun = Instant::now();
        let put = PutRevision {
            files,
            meta: Meta::default(),
            previous: self.previous.take(),
            id_random: self.id_random,
            obj_log2: None,
            carry_grants: false,
            always: false,
            anew: false,
            journal: None,
            known: None,
        };
        let storage = &self.storage;
        let sealed = match seal_revision(storage.clone(), &self.wallet, &self.key, put, &|_| {}).await? {
            Sealing::Sealed(sealed) => sealed,
            Sealing::Unchanged(_) => return Err("nothing changed".into()),
        };
        let content = json!({ "head": sealed.head_message(), "commit": sealed.revision() });
        let record = sign_post(&self.wallet, "example-record", content, None)?;
        let put = sealed.publish(&**storage, &[record], &|_| {}).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut after = sizes(&self.objects)?;
        after.retain(|name, _| !before.contains_key(name));
        let stored: u64 = after.values().sum();
        let billed: u64 = after.values().map(|size| BILLED.max(*size)).sum();
        #[allow(clippy::cast_precision_loss, reason = "a share to be read")]
        let share = 100.0 * stored as f64 / (mib * MIB) as f64;
        println!(
            "| {what} | {} | {stored} | {share:.3} % | {} | {seconds:.1} |",
            after.len(),
            billed / MIB
        );
        let keys = Keys::Epoch(sealed.secret().duplicate());
        let reader = Reader::open(storage.clone(), &put.head, keys).await?;
        for entry in reader.entries() {
            // A whole file is not held: its last byte shows that its objects are there.
            reader.read_at(entry, entry.size - 1, 1).await?;
        }
        self.previous = Some((put.head, put.head_message));
        Ok(())
    }
}

fn sizes(folder: &Path) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let mut sizes = BTreeMap::new();
    if folder.is_dir() {
        for item in std::fs::read_dir(folder)? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            sizes.insert(name, item.metadata()?.len());
        }
    }
    Ok(sizes)
}

/// Four F32 tensors, the third of which differs with `changed`.
fn write(path: &Path, mib: u64, changed: u64, note: usize) -> Result<(), Box<dyn Error>> {
    let size = mib * MIB / 4;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "note": "n".repeat(note) }));
    for tensor in 0..4 {
        let said = json!({
            "dtype": "F32", "shape": [size / 4], "data_offsets": [tensor * size, (tensor + 1) * size],
        });
        header.insert(format!("layer.{tensor}.weight"), said);
    }
    let header = serde_json::Value::from(header).to_string();
    let mut to = BufWriter::new(File::create(path)?);
    to.write_all(&(header.len() as u64).to_le_bytes())?;
    to.write_all(header.as_bytes())?;
    for tensor in 0..4_u64 {
        let mut state = tensor + 1 + 10 * changed * u64::from(tensor == 2);
        for _ in 0..size / 8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            to.write_all(&state.rotate_left(32).to_le_bytes())?;
        }
    }
    to.flush()?;
    Ok(())
}
