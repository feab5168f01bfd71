//! Private models: the record of a revision is sealed, and what stands in the clear is what a network needs.
//!
//! The message is a [`ModelRecord`] without card, files and name: under the owner's address stands the model's UUID in the
//! place of its name, and beside it the whole record, sealed for whoever can open the revision. Sealing is the vault's
//! business; here is what belongs to what.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Card, MODEL_RECORD_TYPE, MODEL_TAGS_TYPE, ModelRecord, ModelTags, Visibility};
use crate::problem::Problem;

/// What stands in the place of the name of a private model: `owner/UUID`.
pub fn private_name(owner: &str, uuid: Uuid) -> String {
    format!("{owner}/{uuid}")
}

/// The UUID of the private model that `owner/name` or `name` stands for; none where it is a name.
pub fn private_uuid(name: &str) -> Option<Uuid> {
    /// As [`private_name`] writes it, with hyphens.
    const LENGTH: usize = 36;
    let plain = name.rsplit('/').next().unwrap_or_default();
    let uuid = Uuid::try_parse(plain).ok()?;
    (plain.len() == LENGTH).then_some(uuid)
}

impl ModelRecord {
    /// What the sealed record of this revision is bound to: the same of the record and of what covers it.
    pub fn about(&self) -> String {
        let name = private_name(&self.owner, self.uuid);
        format!("{MODEL_RECORD_TYPE}\n{name}\n{}", self.commit)
    }

    /// What is posted of a private revision, where `sealed` is this record, sealed as [`ModelRecord::about`] says.
    #[must_use]
    pub fn covered(&self, sealed: String) -> Self {
        Self {
            name: private_name(&self.owner, self.uuid),
            parent: None,
            tags: Vec::new(),
            card: Card::default(),
            visibility: Visibility::Private,
            keys: None,
            sealed: Some(sealed),
            files: Vec::new(),
            parameters: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// The record that was sealed in this one, read from its `text`.
    ///
    /// # Errors
    /// A `model_record` problem for one that is malformed, or about something else than this says in the clear.
    pub fn uncovered(&self, text: &str) -> Result<Self, Problem> {
        let bad = |what: &str| {
            Err(Problem::new(
                "model_record",
                format!("the sealed record is refused: {what}"),
            ))
        };
        let Ok(record) = serde_json::from_str::<Self>(text) else {
            return bad("it is none");
        };
        if record.visibility != Visibility::Private || record.sealed.is_some() || record.keys.is_some() {
            return bad("it is not that of a private revision");
        }
        // Everything but what is covered.
        let clear = |record: &Self| {
            (
                record.owner.clone(),
                record.uuid,
                record.commit.clone(),
                record.head.clone(),
                record.created,
                record.price.clone(),
            )
        };
        if clear(&record) != clear(self) {
            return bad("it is of another revision than it stands beside");
        }
        record.check_said()?;
        Ok(record)
    }
}

impl ModelTags {
    /// What the sealed tags of a private model are bound to.
    pub fn about(&self) -> String {
        format!("{MODEL_TAGS_TYPE}\n{}\n{}", self.name, self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    fn private() -> ModelRecord {
        ModelRecord {
            visibility: Visibility::Private,
            parent: Some("c".repeat(40)),
            ..record()
        }
    }

    #[test]
    fn what_covers_a_record_says_nothing_of_it() {
        let inner = ModelRecord {
            card: Card {
                title: "Digits".into(),
                ..Card::default()
            },
            ..private()
        };
        let outer = inner.covered("sealed".into());
        outer.check().unwrap();
        let text = serde_json::to_string(&outer).unwrap();
        for word in [
            "digits",
            "Digits",
            "model.safetensors",
            &"0".repeat(64),
            &"c".repeat(40),
        ] {
            assert!(!text.contains(word), "{word} in {text}");
        }
        assert_eq!(outer.about(), inner.about());
        let written = serde_json::to_string(&inner).unwrap();
        assert_eq!(outer.uncovered(&written).unwrap(), inner);
    }

    #[test]
    fn a_sealed_record_of_something_else_is_refused() {
        let outer = private().covered("sealed".into());
        let faults: [fn(&mut ModelRecord); 8] = [
            |r| r.commit = "d".repeat(40),
            |r| r.uuid = Uuid::from_u128(7),
            |r| r.owner = "0xAc".into(),
            |r| r.created = 9,
            |r| r.head = "e".repeat(64),
            |r| r.visibility = Visibility::Sealed,
            |r| r.sealed = Some("again".into()),
            |r| r.files[0].path = "../x".into(),
        ];
        for (n, fault) in faults.into_iter().enumerate() {
            let mut bad = private();
            fault(&mut bad);
            let text = serde_json::to_string(&bad).unwrap();
            assert_eq!(
                outer.uncovered(&text).unwrap_err().code,
                "model_record",
                "fault {n}"
            );
        }
        assert!(outer.uncovered("{}").is_err());
    }

    #[test]
    fn private_records_show_nothing_and_others_hide_nothing() {
        let outer = private().covered("sealed".into());
        let faults: [fn(&mut ModelRecord); 7] = [
            |r| r.name = "0xAb/digits".into(),
            |r| r.card.title = "Digits".into(),
            |r| r.files = record().files,
            |r| r.tags = vec!["v1".into()],
            |r| r.parent = Some("c".repeat(40)),
            |r| r.sealed = None,
            |r| r.visibility = Visibility::Sealed,
        ];
        for (n, fault) in faults.into_iter().enumerate() {
            let mut bad = outer.clone();
            fault(&mut bad);
            assert_eq!(bad.check().unwrap_err().code, "model_record", "fault {n}");
        }
        // A name that looks like a private model's is nobody's.
        let mut clear = record();
        clear.name = private_name("0xAb", Uuid::nil());
        assert_eq!(clear.check().unwrap_err().code, "model_record");
        assert_eq!(private_uuid(&clear.name), Some(Uuid::nil()));
        assert_eq!(private_uuid("0xAb/digits"), None);
        assert_eq!(private_uuid("00000000000000000000000000000000"), None);
    }
}
