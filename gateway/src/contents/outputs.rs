//! Outputs put into a notebook's file while no page has it open.

use serde_json::Value;

use super::Files;
use super::model::{Asked, Content, Kind};
use super::place::{Place, failed};
use super::room::bytes_of;
use super::save::{notebook, replace};
use crate::error::{GatewayError, Result};
use crate::outputs::joined_lines;
use crate::recorder::Recorded;
use crate::store::sha256;

/// A notebook that was written with outputs of its cells: SHA-256 of the file before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rewritten {
    pub(crate) before: [u8; 32],
    pub(crate) after: [u8; 32],
}

impl Files {
    /// Gives cells their outputs. A cell whose text is another by now keeps what it has. Tells the hashes of the file before and
    /// after, where it changed.
    pub(crate) fn put_outputs(&self, place: &Place, recorded: &[Recorded]) -> Result<Option<Rewritten>> {
        let _one = self.change();
        let asked = Asked {
            content: true,
            hash: true,
            kind: Some(Kind::Notebook),
            ..Asked::default()
        };
        let model = self.get(place, &asked)?;
        let before_sha256 = model.sha256();
        let Some(Content::Notebook(mut whole)) = model.content else {
            return Ok(None);
        };
        let mut changed = false;
        let cells = whole.get_mut("cells").and_then(Value::as_array_mut);
        for cell in cells.into_iter().flatten() {
            let found = recorded.iter().rfind(|one| cell["id"] == one.id.as_str());
            let is_same = |one: &&Recorded| one.code == sha256(joined_lines(&cell["source"]).as_bytes());
            let Some(one) = found.filter(is_same) else {
                continue;
            };
            cell["outputs"] = Value::Array(one.outputs.clone());
            if one.count.is_some() {
                cell["execution_count"] = one.count.into();
            }
            changed = true;
        }
        if !changed {
            return Ok(None);
        }
        let bytes = notebook(&whole).map_err(|error| {
            GatewayError::bad_request(
                "notebook_unreadable",
                format!("`{}` cannot be written: {error}", place.path()),
            )
        })?;
        let path = place.on_disk(&self.root)?;
        // Counted, but not refused: what cells have put out is not lost for want of room.
        let before = bytes_of(&path);
        replace(&path, &bytes).map_err(|error| failed("saved", &place.path(), &error))?;
        self.moved(before, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(before_sha256.map(|before| Rewritten {
            before,
            after: sha256(&bytes),
        }))
    }
}
