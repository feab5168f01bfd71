//! Who downloaded what: counted for a model when the last byte of its weights goes out, once a day for each file and bearer.

use alephlab_api::model::RecordFile;
use alephlab_api::time::unix_now;
use alephlab_registry::ReadBy;

use crate::error::Result;
use crate::models::Models;
use crate::state::address;
use crate::store::sha256;

const DAY: u64 = 86_400;

/// A file that somebody is about to have whole.
#[derive(Debug, Clone)]
pub(super) struct Download {
    model: String,
    /// Hash of who and what: neither a token nor an address is kept.
    who: Option<[u8; 32]>,
}

/// Who reads this file of a model.
pub(super) fn reader_of(model: &str, revision: &str, file: &RecordFile, by: ReadBy<'_>) -> Download {
    let bearer = by.bearer.map(|bearer| bearer.expose().to_owned());
    let who = bearer.unwrap_or_else(|| address(by.peer).to_string());
    let text = format!("{who}\n{model}\n{revision}\n{}", file.path);
    Download {
        model: model.to_owned(),
        who: is_weights(&file.path).then(|| sha256(text.as_bytes())),
    }
}

impl Download {
    /// Counts it.
    pub(super) async fn note(&self, models: &Models) -> Result<()> {
        match &self.who {
            Some(who) => models.downloaded(&self.model, who, unix_now() / DAY).await,
            None => Ok(()),
        }
    }
}

fn is_weights(path: &str) -> bool {
    [".safetensors", ".gguf", ".onnx", ".bin", ".pt", ".pth"]
        .iter()
        .any(|end| path.ends_with(end))
}
