//! Reading a revision that its keys open: what its files are, what its card says, how many numbers its weights are. The same for the
//! gateway and for the command on the machine of who publishes or reads.

use std::sync::Arc;

use alephlab_api::Card;
use alephlab_api::model::{RecordFile, WeightCount};
use alephlab_registry::{README_MAX, read_card};
use alephlab_vault::storage::Storage;
use alephlab_vault::{Keys, Reader, SignedHead, VaultError};

type Result<T> = std::result::Result<T, VaultError>;

/// Opens a revision, on a thread of its own: hashing and decrypting the manifest is work that must not hold up other requests.
///
/// # Errors
/// As [`Reader::open`].
pub async fn open(storage: Arc<dyn Storage>, head: SignedHead, keys: Keys) -> Result<Reader> {
    let runtime = tokio::runtime::Handle::current();
    apart(move || runtime.block_on(Reader::open(storage, &head, keys))).await?
}

/// Its files as the sealed manifest lists them, by path.
pub fn files(reader: &Reader) -> Vec<RecordFile> {
    let files = reader.entries().iter().filter(|entry| entry.is_file());
    files
        .map(|entry| RecordFile {
            path: entry.path.clone(),
            size: entry.size,
            sha256: hex::encode(entry.sha256),
        })
        .collect()
}

/// The card that stands in its `README.md`; an empty one where there is none, or one that is too long to be looked into.
///
/// # Errors
/// As [`Reader::read`].
pub async fn card(reader: &Reader) -> Result<Card> {
    let entry = reader.entry("README.md");
    if entry.is_none_or(|entry| !entry.is_file() || entry.size > README_MAX) {
        return Ok(Card::default());
    }
    let bytes = reader.read("README.md").await?;
    Ok(read_card(&String::from_utf8_lossy(&bytes)))
}

/// Adds the numbers of one file of weights; none where its header cannot be read, or those of all are too long.
///
/// # Errors
/// As [`Reader::read_range`].
pub async fn counted(
    reader: &Reader,
    file: &RecordFile,
    mut count: WeightCount,
) -> Result<Option<WeightCount>> {
    let start = reader.read_range(&file.path, 0, 8).await?;
    let Some(bytes) = count.header_bytes(&start) else {
        return Ok(None);
    };
    let header = reader.read_range(&file.path, 0, bytes).await?;
    let size = file.size;
    // Reading JSON is work, too.
    apart(move || count.add(&mut &header[..], size).then_some(count)).await
}

async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| VaultError::Stopped {
        reason: error.to_string(),
    })
}
