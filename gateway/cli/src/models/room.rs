//! The room of a record, which is one message of Aleph and is posted last: looked at before anything is uploaded and paid for.

use alephlab_api::model::{ModelRecord, RecordFile, SEALED_MAX, Visibility};
use alephlab_registry::{CUT, cut_card};
use alephlab_vault::message::{MAX_INLINE, post_size};
use uuid::Uuid;

use super::index::Model;
use super::publish::{New, Origin};
use super::{refuse, vault};
use crate::error::Result;

/// What the types and numbers of parameters take, at most.
const PARAMETERS: u64 = 512;
/// What the keys of a public revision take for each object, about, and how large objects are. What they take is seen when it is
/// sealed, and a record that is too large then is refused then.
const KEY: u64 = 160;
const OBJECT_LOG2: u32 = 25;

impl New {
    /// Cuts the card's text to what the names, sizes and hashes of the files leave of a record. The same files and card are cut
    /// alike each time.
    ///
    /// # Errors
    /// When that is nothing.
    pub(super) fn fit(mut self, model: &Model, owner: &str) -> Result<Self> {
        let record = self.longest(model, owner);
        let over = record_over(&record)?;
        if over == 0 {
            return Ok(self);
        }
        let mut card = record.card.clone();
        let keep = usize::try_from(over).ok();
        // What stands in JSON is no shorter than the text.
        let keep = keep.and_then(|over| card.description.len().checked_sub(over + 2 * CUT.len()));
        card.description = keep.map_or_else(String::new, |keep| cut_card(&card.description, keep));
        let cut = ModelRecord {
            card: card.clone(),
            ..record
        };
        if record_over(&cut)? > 0 {
            return Err(refuse(
                "record_too_large",
                format!(
                    "names, sizes and hashes of {} files are more than a model's record holds",
                    cut.files.len()
                ),
                "publish fewer files: pack small ones into an archive, or make models of their own of parts",
            ));
        }
        self.card = Some(card);
        Ok(self)
    }

    /// The record to be, at its longest.
    fn longest(&self, model: &Model, owner: &str) -> ModelRecord {
        let before = model.newest().map(|newest| &newest.record);
        let size = |origin: &Origin| match origin {
            Origin::File(place) => std::fs::metadata(place).map_or(u64::MAX, |meta| meta.len()),
            Origin::Bytes(bytes) => bytes.len() as u64,
            Origin::Kept(from) => before
                .and_then(|before| before.files.iter().find(|file| file.path == *from))
                .map_or(u64::MAX, |file| file.size),
            Origin::Sealed(opened, from) => opened.reader.entry(from).map_or(u64::MAX, |entry| entry.size),
        };
        let file = |(path, origin): &(String, Origin)| RecordFile {
            path: path.clone(),
            size: size(origin),
            sha256: "0".repeat(64),
        };
        let card = self.card.clone().or(before.map(|before| before.card.clone()));
        let visibility = self.visibility.or(before.map(|before| before.visibility));
        ModelRecord {
            name: format!("{owner}/{}", self.name),
            owner: owner.to_owned(),
            uuid: Uuid::nil(),
            commit: "0".repeat(40),
            parent: Some("0".repeat(40)),
            tags: Vec::new(),
            card: card.unwrap_or_default(),
            price: "free".to_owned(),
            visibility: visibility.unwrap_or_default(),
            keys: None,
            sealed: None,
            files: self.files.iter().map(file).collect(),
            parameters: std::collections::BTreeMap::new(),
            head: "0".repeat(64),
            created: u64::MAX,
        }
    }
}

/// By how many bytes a record is too large.
fn record_over(record: &ModelRecord) -> Result<u64> {
    let bytes = post_size(record).map_err(vault("the model was not published"))? + PARAMETERS;
    let room = match record.visibility {
        Visibility::Sealed => MAX_INLINE,
        Visibility::Public => {
            let objects = |file: &RecordFile| (file.size >> OBJECT_LOG2) + 1;
            let objects: u64 = record.files.iter().map(objects).fold(0, u64::saturating_add);
            // Small files share an object: no more than their bytes and one ask for.
            let bytes = record
                .files
                .iter()
                .map(|file| file.size)
                .fold(0, u64::saturating_add);
            let objects = objects.min((bytes >> OBJECT_LOG2) + 2);
            MAX_INLINE.saturating_sub(objects.saturating_mul(KEY).min(MAX_INLINE / 2))
        }
        // Padded by up to an eighth, and written in base64.
        Visibility::Private => SEALED_MAX as u64 * 2 / 3,
    };
    Ok(bytes.saturating_sub(room))
}

#[cfg(test)]
mod tests {
    use alephlab_api::Card;

    use super::*;

    const OWNER: &str = "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e";

    fn new(files: usize, text: &str) -> New {
        let file = |at| (format!("tokens/{at:05}.json"), Origin::Bytes("{}".into()));
        New {
            name: "many".to_owned(),
            files: (0..files).map(file).collect(),
            card: Some(Card {
                description: text.to_owned(),
                ..Card::default()
            }),
            ..New::default()
        }
    }

    #[test]
    fn a_text_gives_way_to_files_before_anything_is_stored() {
        let text = "\"a\" line of it\n".repeat(3_000);
        for (visibility, files) in [
            (Visibility::Sealed, 1_500),
            (Visibility::Public, 1_500),
            (Visibility::Private, 900),
        ] {
            let new = |files| New {
                visibility: Some(visibility),
                ..new(files, &text)
            };
            let few = new(5).fit(&Model::default(), OWNER).unwrap();
            assert_eq!(few.card.unwrap().description, text);
            let many = new(files).fit(&Model::default(), OWNER).unwrap();
            assert_eq!(record_over(&many.longest(&Model::default(), OWNER)).unwrap(), 0);
            let kept = many.card.clone().unwrap();
            assert!(kept.description.ends_with(CUT), "{visibility:?}");
            // Cut alike, and not again.
            assert_eq!(many.fit(&Model::default(), OWNER).unwrap().card.unwrap(), kept);
            let refused = new(3_000).fit(&Model::default(), OWNER).err().unwrap();
            assert!(refused.to_string().contains("3000 files"), "{refused}");
        }
    }
}
