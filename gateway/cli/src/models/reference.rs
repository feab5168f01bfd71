//! What somebody writes to name a model, or one revision of it.

use alephlab_api::model::is_name;
use alephlab_vault::Address;
use uuid::Uuid;

use crate::error::{CliError, Result};

/// `NAME` of this account, `OWNER/NAME` of another, either with `@REVISION` or `@TAG`; or the UUID of a share, also as
/// `m/UUID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A share whose token this account keeps.
    Share(Uuid),
    /// A model.
    Model {
        /// None for the account's own.
        owner: Option<Address>,
        /// Its plain name.
        name: String,
        /// The newest when none is named.
        revision: Option<String>,
    },
}

impl Reference {
    /// # Errors
    /// One sentence that says which part cannot be, and how to write it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Ok(share) = text.strip_prefix("m/").unwrap_or(text).parse() {
            return Ok(Self::Share(share));
        }
        let wrong = |message: String| CliError::Usage {
            message,
            hint: "write NAME, OWNER/NAME or either with @REVISION or @TAG; or the UUID of a share"
                .to_owned(),
        };
        let (full, revision) = match text.split_once('@') {
            Some((_, "")) => return Err(wrong(format!("{text:?} names no revision behind its @"))),
            Some((full, revision)) => (full, Some(revision.to_owned())),
            None => (text, None),
        };
        let (owner, name) = match full.split_once('/') {
            Some((owner, name)) => {
                let address = owner.parse();
                let refused = |_| wrong(format!("{owner:?} is no account: models stand under addresses"));
                (Some(address.map_err(refused)?), name)
            }
            None => (None, full),
        };
        if !is_name(name) {
            return Err(wrong(format!("{name:?} cannot be the name of a model")));
        }
        Ok(Self::Model {
            owner,
            name: name.to_owned(),
            revision: revision.filter(|revision| revision != "main"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_owner_and_revision_or_a_share() {
        let owner = "0x1111111111111111111111111111111111111111";
        let parsed = Reference::parse(&format!("{owner}/digits@v1")).unwrap();
        let wanted = Reference::Model {
            owner: owner.parse().ok(),
            name: "digits".into(),
            revision: Some("v1".into()),
        };
        assert_eq!(parsed, wanted);
        let newest = Reference::Model {
            owner: None,
            name: "digits".into(),
            revision: None,
        };
        assert_eq!(Reference::parse("digits").unwrap(), newest);
        assert_eq!(Reference::parse("digits@main").unwrap(), newest);
        let uuid = Uuid::new_v4();
        for text in [uuid.to_string(), format!("m/{uuid}")] {
            assert_eq!(Reference::parse(&text).unwrap(), Reference::Share(uuid));
        }
        for wrong in [
            "",
            "@v1",
            "digits@",
            "someone/digits",
            "/digits",
            "a b",
            "a/b/c",
            "x--y",
        ] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }
}
