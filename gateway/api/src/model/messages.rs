//! What is said of a model after its record: tags, a withdrawal, evidence. Each is the content of one signed Aleph POST message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{KEYS_MAX, TAGS_MAX, is_hex, is_owned, is_tag, private_uuid};
use crate::problem::Problem;

/// Type of the Aleph POST message whose content is a [`ModelTags`].
pub const MODEL_TAGS_TYPE: &str = "alephlab-model-tags";

/// Type of the Aleph POST message whose content is a [`ModelWithdrawal`].
pub const MODEL_WITHDRAWAL_TYPE: &str = "alephlab-model-withdrawal";

/// Type of the Aleph POST message whose content is a [`ModelEvidence`].
pub const MODEL_EVIDENCE_TYPE: &str = "alephlab-model-evidence";

/// Type of the Aleph POST message whose content is a [`PublishingKey`].
pub const PUBLISHING_KEY_TYPE: &str = "alephlab-publishing-key";

/// The longest public key, in characters of PEM; one of P-256 has 178.
const PEM_MAX: usize = 512;

/// A key of another kind that an owner's wallet says is the owner's own, signed by being the content of the owner's Aleph POST message of
/// type [`PUBLISHING_KEY_TYPE`]. It signs `model.sig`, for programs that know no wallets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishingKey {
    /// Address of the owner, EIP-55.
    pub owner: String,
    /// Public key, PEM (SubjectPublicKeyInfo).
    pub key: String,
    /// What shows that the owner has the private key: its signature over [`PublishingKey::about`], DER, base64. Without it anybody could say
    /// that a key of others is their own. None where the key ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Whether nothing that it signs counts any more.
    #[serde(default)]
    pub ended: bool,
    /// Seconds since 1970.
    pub created: u64,
}

impl PublishingKey {
    /// Checks the form of one that came from outside.
    ///
    /// # Errors
    /// A `publishing_key` problem.
    pub fn check(&self) -> Result<(), Problem> {
        let is_pem = self.key.starts_with("-----BEGIN PUBLIC KEY-----\n") && self.key.len() <= PEM_MAX;
        if is_pem && self.key.is_ascii() {
            return Ok(());
        }
        let message = "the publishing key is refused: it is no public key in PEM";
        Err(Problem::new("publishing_key", message)
            .with_hint("openssl pkey -in FILE -pubout writes that of a private key"))
    }

    /// What the key signs once, to show that the owner has it.
    pub fn about(owner: &str) -> String {
        format!("alephlab/publishing-key/v1\n{owner}")
    }
}

/// All tags of a model, signed by being the content of the owner's Aleph POST message of type [`MODEL_TAGS_TYPE`]. Of several
/// the one with the highest `serial` counts, and of equal ones the one with the smaller item hash, so that every gateway that
/// has seen the same messages shows the same tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTags {
    /// Address of the owner, EIP-55.
    pub owner: String,
    /// `owner/name`.
    pub name: String,
    /// Tag to revision, of 40 hex digits. Under another name on the network, which takes a post's `tags` for a list of words.
    #[serde(rename = "named")]
    pub tags: BTreeMap<String, String>,
    /// Of a private model: the tags, which do not stand beside it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedTags>,
    /// One more than that of the tags before.
    pub serial: u64,
    /// Seconds since 1970.
    pub created: u64,
}

/// The tags of a private model, for whoever can open one of its revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedTags {
    /// The revision whose key opens them.
    pub commit: String,
    /// Tag to revision as JSON, sealed as [`ModelTags::about`] says, base64.
    pub text: String,
}

impl ModelTags {
    /// Checks the form of tags that came from outside.
    ///
    /// # Errors
    /// A `model_tags` problem that names the fault.
    pub fn check(&self) -> Result<(), Problem> {
        let bad = |what: String| {
            Err(Problem::new(
                "model_tags",
                format!("the tags are refused: {what}"),
            ))
        };
        if !is_owned(&self.owner, &self.name) {
            return bad("their model is not the owner's address, a slash and a plain name".to_owned());
        }
        if self.tags.len() > TAGS_MAX {
            return bad(format!("there are more than {TAGS_MAX}"));
        }
        if self.sealed.is_some() != private_uuid(&self.name).is_some() {
            return bad("a private model has sealed tags, and no other has".to_owned());
        }
        if let Some(sealed) = &self.sealed
            && (!self.tags.is_empty() || !is_hex(&sealed.commit, 40) || sealed.text.len() > KEYS_MAX)
        {
            return bad("sealed tags stand alone, and name the revision that opens them".to_owned());
        }
        for (tag, revision) in &self.tags {
            if !is_tag(tag) {
                return bad(format!("{tag:?} cannot be a tag"));
            }
            if !is_hex(revision, 40) {
                return bad(format!("{tag} does not name a revision of 40 hex digits"));
            }
        }
        Ok(())
    }
}

/// The owner's word that a revision, or the whole model, is not offered any more, signed by being the content of the owner's
/// Aleph POST message of type [`MODEL_WITHDRAWAL_TYPE`]. Who opened it before can keep it. A record that was made after the
/// withdrawal of a whole model begins it anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelWithdrawal {
    /// Address of the owner, EIP-55.
    pub owner: String,
    /// `owner/name`.
    pub name: String,
    /// The revision, of 40 hex digits; all that were made until `created` where there is none.
    #[serde(default)]
    pub commit: Option<String>,
    /// Seconds since 1970.
    pub created: u64,
}

impl ModelWithdrawal {
    /// Checks the form of a withdrawal that came from outside.
    ///
    /// # Errors
    /// A `model_withdrawal` problem.
    pub fn check(&self) -> Result<(), Problem> {
        let bad = |what: &str| {
            Err(Problem::new(
                "model_withdrawal",
                format!("the withdrawal is refused: {what}"),
            ))
        };
        if !is_owned(&self.owner, &self.name) {
            return bad("its model is not the owner's address, a slash and a plain name");
        }
        if self.commit.as_deref().is_some_and(|commit| !is_hex(commit, 40)) {
            return bad("its revision is not 40 hex digits");
        }
        Ok(())
    }
}

/// What a verifier found of one revision, signed by being the content of the verifier's Aleph POST message of type
/// [`MODEL_EVIDENCE_TYPE`]. Whose word counts for a badge is each gateway's own decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelEvidence {
    /// Address of the verifier, EIP-55.
    pub verifier: String,
    /// `owner/name`.
    pub name: String,
    /// 40 hex digits.
    pub commit: String,
    /// `alephlab-verify`'s report, as it writes it; opaque here.
    pub report: serde_json::Value,
    /// Seconds since 1970.
    pub created: u64,
}

impl ModelEvidence {
    /// Checks the form of evidence that came from outside; the report is read by who has `alephlab-verify`.
    ///
    /// # Errors
    /// A `model_evidence` problem.
    pub fn check(&self) -> Result<(), Problem> {
        let bad = |what: &str| {
            Err(Problem::new(
                "model_evidence",
                format!("the evidence is refused: {what}"),
            ))
        };
        let owner = self.name.split_once('/').map_or("", |(owner, _)| owner);
        if !is_owned(owner, &self.name) {
            return bad("its model is not an owner's address, a slash and a plain name");
        }
        if !is_hex(&self.commit, 40) {
            return bad("its revision is not 40 hex digits");
        }
        if !self.report.is_object() {
            return bad("its report is not an object");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_came_from_outside_are_checked() {
        let tags = ModelTags {
            owner: "0xAb".into(),
            name: "0xAb/digits".into(),
            tags: BTreeMap::from([("v1".to_owned(), "a".repeat(40))]),
            sealed: None,
            serial: 1,
            created: 1,
        };
        tags.check().unwrap();
        assert!(!serde_json::to_string(&tags).unwrap().contains("\"tags\""));
        let faults: [fn(&mut ModelTags); 4] = [
            |t| t.name = "0xAb/00000000-0000-0000-0000-000000000000".into(),
            |t| t.owner = "0xAc".into(),
            |t| drop(t.tags.insert("v2".into(), "main".into())),
            |t| drop(t.tags.insert("main".into(), "a".repeat(40))),
        ];
        for (n, fault) in faults.into_iter().enumerate() {
            let mut bad = tags.clone();
            fault(&mut bad);
            assert_eq!(bad.check().unwrap_err().code, "model_tags", "fault {n}");
        }
    }
}
