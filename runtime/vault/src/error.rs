//! The one error type of the crate: stable codes from `reference/dataset-container.md` section 13, and those
//! of storage, key files and shares. Nothing here carries a key or plaintext.

use std::path::PathBuf;

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, VaultError>;

/// Why the vault refused or failed. [`VaultError::code`] is stable; messages are for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The node returned another number of bytes than the manifest says.
    #[error(
        "object {object} has {got} bytes where the manifest says {expected}, so the node's copy is not the one that was sealed"
    )]
    Length {
        /// Item hash of the object.
        object: String,
        /// Bytes that the manifest or head names.
        expected: u64,
        /// Bytes received.
        got: u64,
    },
    /// The node's bytes do not have the hash that the manifest says.
    #[error("object {object} was changed or damaged in storage: its SHA-256 is {got}")]
    Hash {
        /// Item hash of the object.
        object: String,
        /// SHA-256 of what came, hex.
        got: String,
    },
    /// The 88-byte frame does not say what the manifest says.
    #[error("object {object} has a wrong frame: {reason}")]
    Frame {
        /// Item hash of the object.
        object: String,
        /// Which field, and how.
        reason: String,
    },
    /// A container version that this program does not know.
    #[error("object {object} has container version {version}, and only version 1 is known")]
    Version {
        /// Item hash of the object.
        object: String,
        /// The version byte.
        version: u8,
    },
    /// A cipher suite that this program refuses.
    #[error("object {object} has cipher suite {suite}, and only suite 1 is accepted")]
    Suite {
        /// Item hash of the object.
        object: String,
        /// The suite byte.
        suite: u8,
    },
    /// Flag bits that must be zero.
    #[error("object {object} has flags {flags:#04x}, which must be zero")]
    Flags {
        /// Item hash of the object.
        object: String,
        /// The flags byte.
        flags: u8,
    },
    /// A kind of object that does not exist.
    #[error("object {object} is of kind {kind}, which does not exist")]
    Kind {
        /// Item hash of the object.
        object: String,
        /// The kind byte.
        kind: u8,
    },
    /// The key commitment differs: wrong key, or a malicious writer.
    #[error("object {object} was not sealed under this key")]
    Commit {
        /// Item hash of the object.
        object: String,
    },
    /// A chunk's authentication tag differs.
    #[error("object {object} can not be opened: chunk {chunk} fails its check")]
    Tag {
        /// Item hash of the object.
        object: String,
        /// Number of the chunk from 0.
        chunk: u64,
    },
    /// The epoch or its secret is not the right one.
    #[error("the epoch's key does not fit: {reason}")]
    Epoch {
        /// What does not fit.
        reason: String,
    },
    /// Not the deterministic CBOR that the specification asks for.
    #[error("the {what} is not in canonical form: {reason}")]
    Cbor {
        /// Which record.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A limit of the specification is exceeded.
    #[error("{what} is over the limit of {limit}")]
    Limit {
        /// What is too large.
        what: String,
        /// The limit, in the unit that `what` names.
        limit: u64,
    },
    /// A path that a dataset may not contain.
    #[error("the path {path:?} is not allowed: {reason}")]
    Path {
        /// The offending path.
        path: String,
        /// Which rule.
        reason: String,
    },
    /// A file's extents do not fit the objects.
    #[error("{path:?} is described wrongly in the manifest: {reason}")]
    Extent {
        /// Path of the file.
        path: String,
        /// Which rule.
        reason: String,
    },
    /// A compression codec that this program does not have.
    #[error("{path:?} is compressed with codec {codec}, which is not supported")]
    Codec {
        /// Path of the file.
        path: String,
        /// The codec number.
        codec: u64,
    },
    /// A hash over several things in the manifest differs.
    #[error("the manifest contradicts itself: {what}")]
    Tree {
        /// Which sum or hash.
        what: String,
    },
    /// The head is not signed by whom it names.
    #[error("the head is not validly signed: {reason}")]
    HeadSig {
        /// What is wrong.
        reason: String,
    },
    /// The head says itself that it is no longer fresh.
    #[error("the head was valid until unix time {not_after} only, so a newer one should exist")]
    HeadExpired {
        /// Unix seconds.
        not_after: u64,
    },
    /// An older version than one already seen.
    #[error("version {offered} was offered, but version {seen} of this dataset was already seen")]
    Rollback {
        /// Version on record.
        seen: u64,
        /// Version offered.
        offered: u64,
    },
    /// Two heads for one version.
    #[error("there are two different heads for version {version}: {ours} and {theirs}")]
    Fork {
        /// The version.
        version: u64,
        /// Hash of the head seen before, hex.
        ours: String,
        /// Hash of the other head, hex.
        theirs: String,
    },
    /// A grant sent by somebody who may not grant.
    #[error("the grant was sent by {sender}, who may not grant for {owner}")]
    GrantSender {
        /// Who signed the message.
        sender: String,
        /// Owner of the dataset.
        owner: String,
    },
    /// A grant or other envelope that this key does not open.
    #[error("the key envelope can not be opened: {reason}")]
    GrantOpen {
        /// Why.
        reason: String,
    },
    /// A grant outside its time.
    #[error("the grant is valid from unix time {not_before} to {not_after} only")]
    GrantExpired {
        /// Unix seconds.
        not_before: u64,
        /// Unix seconds.
        not_after: u64,
    },
    /// A public key that is no usable curve point.
    #[error("the public key is not usable")]
    KeyPoint,
    /// This machine's reader key was taken back by its account.
    #[error("this machine's reader key {id} was revoked")]
    KeyRevoked {
        /// Key id, hex.
        id: String,
    },
    /// A delegation that is forged, expired or for something else.
    #[error("the delegation is refused: {reason}")]
    Delegation {
        /// Why.
        reason: String,
    },
    /// The host is not one that the owner's policy allows.
    #[error("the owner's policy does not allow this host: {reason}")]
    Attest {
        /// What is missing.
        reason: String,
    },
    /// A node answers a query with more than anybody can have published, or does not come to an end.
    #[error("the Aleph node's list of messages is refused: it {reason}")]
    Listing {
        /// Which bound it goes over.
        reason: String,
    },
    /// Storage did not answer, or does not have it.
    #[error("{what} is not available: {reason}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What the node or network said.
        reason: String,
    },
    /// The account has published no key that a grant could be made for.
    #[error("the account {account} has registered no reader key")]
    NoReaderKey {
        /// Its address.
        account: String,
    },
    /// A reader that cannot be shut out, because it was not let in.
    #[error("{reader} holds no grant of this dataset")]
    NotGranted {
        /// Its address.
        reader: String,
    },
    /// The path is not in the manifest.
    #[error("{path:?} is not in this dataset")]
    NotFound {
        /// The path asked for.
        path: String,
    },
    /// A local file or folder could not be used.
    #[error("can not {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key file that is unreadable, open to others, or in the way.
    #[error("the key file {path} can not be used: {reason}", path = path.display())]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A key file that only a passphrase opens, and none was given.
    #[error("the key file {path} is locked by a passphrase", path = path.display())]
    Locked {
        /// Which file.
        path: PathBuf,
    },
    /// Another passphrase, or a key file that was changed: they cannot be told apart.
    #[error("the passphrase does not open the key file {path}", path = path.display())]
    Passphrase {
        /// Which file.
        path: PathBuf,
    },
    /// Not a share token.
    #[error("this is not a valid share token: {reason}")]
    Token {
        /// Why; never the token itself.
        reason: &'static str,
    },
    /// The share envelope does not open with this token, model, revision and expiry.
    #[error("the share can not be opened with this token")]
    Share,
    /// A malformed, wrongly hashed or wrongly signed Aleph message.
    #[error("the Aleph message {message} is refused: {reason}")]
    Message {
        /// Item hash or type of the message.
        message: String,
        /// Why.
        reason: String,
    },
    /// The account has not the credits for a STORE (HTTP 402).
    #[error("the node refused to store {what} because the account has not enough credits")]
    Payment {
        /// What was to be stored.
        what: String,
    },
    /// The node did not accept the signature (HTTP 403).
    #[error("the node refused the signature on {what}: {reason}")]
    Forbidden {
        /// What was sent.
        what: String,
        /// The node's words.
        reason: String,
    },
    /// Larger than the node takes (HTTP 413).
    #[error("the node refused {what} because it is too large")]
    TooLarge {
        /// What was sent.
        what: String,
    },
    /// The node looked at the message and refused it (HTTP 422).
    #[error("the node rejected {what}: {reason}")]
    Rejected {
        /// What was sent.
        what: String,
        /// The node's words.
        reason: String,
    },
    /// A text that should be hexadecimal, an address or the like.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which value.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The caller gave up, or a task of ours ended early.
    #[error("the work was stopped before it was done: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl VaultError {
    /// The stable name of this error, `E_…`; names of section 13 of the container specification where it has one.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "E_LENGTH",
            Self::Hash { .. } => "E_HASH",
            Self::Frame { .. } => "E_FRAME",
            Self::Version { .. } => "E_VERSION",
            Self::Suite { .. } => "E_SUITE",
            Self::Flags { .. } => "E_FLAGS",
            Self::Kind { .. } => "E_KIND",
            Self::Commit { .. } => "E_COMMIT",
            Self::Tag { .. } => "E_TAG",
            Self::Epoch { .. } => "E_EPOCH",
            Self::Cbor { .. } => "E_CBOR",
            Self::Limit { .. } => "E_LIMIT",
            Self::Path { .. } => "E_PATH",
            Self::Extent { .. } => "E_EXTENT",
            Self::Codec { .. } => "E_CODEC",
            Self::Tree { .. } => "E_TREE",
            Self::HeadSig { .. } => "E_HEAD_SIG",
            Self::HeadExpired { .. } => "E_HEAD_EXPIRED",
            Self::Rollback { .. } => "E_ROLLBACK",
            Self::Fork { .. } => "E_FORK",
            Self::GrantSender { .. } => "E_GRANT_SENDER",
            Self::GrantOpen { .. } => "E_GRANT_OPEN",
            Self::GrantExpired { .. } => "E_GRANT_EXPIRED",
            Self::KeyPoint => "E_KEY_POINT",
            Self::KeyRevoked { .. } => "E_KEY_REVOKED",
            Self::Delegation { .. } => "E_DELEGATION",
            Self::Attest { .. } => "E_ATTEST",
            Self::Listing { .. } => "E_LISTING",
            Self::Unavailable { .. } => "E_UNAVAILABLE",
            Self::NoReaderKey { .. } => "E_NO_READER_KEY",
            Self::NotGranted { .. } => "E_NOT_GRANTED",
            Self::NotFound { .. } => "E_NOT_FOUND",
            Self::Io { .. } => "E_IO",
            Self::KeyFile { .. } => "E_KEY_FILE",
            Self::Locked { .. } => "E_LOCKED",
            Self::Passphrase { .. } => "E_PASSPHRASE",
            Self::Token { .. } => "E_TOKEN",
            Self::Share => "E_SHARE",
            Self::Message { .. } => "E_MESSAGE",
            Self::Payment { .. } => "E_PAYMENT",
            Self::Forbidden { .. } => "E_FORBIDDEN",
            Self::TooLarge { .. } => "E_TOO_LARGE",
            Self::Rejected { .. } => "E_REJECTED",
            Self::Malformed { .. } => "E_MALFORMED",
            Self::Stopped { .. } => "E_STOPPED",
        }
    }

    /// Code and message for cells and for the network. A wrong key and a wrong tag look the same there, so that the
    /// answer tells nobody which of the two a made-up object failed (container section 13); the log of whoever holds
    /// the keys has [`VaultError::code`] and the whole reason.
    pub fn told(&self) -> (&'static str, String) {
        match self {
            Self::Commit { object } | Self::Tag { object, .. } => (
                "E_OBJECT",
                format!("object {object} can not be opened with this key"),
            ),
            other => (other.code(), other.to_string()),
        }
    }

    /// What the person can do about it, if anything.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Length { .. } | Self::Hash { .. } => {
                "ask another Aleph node, or have the owner upload the dataset again"
            }
            Self::Commit { .. } | Self::Tag { .. } | Self::Epoch { .. } => {
                "ask the owner for a new grant; if it fails again, do not trust this dataset"
            }
            Self::Version { .. } | Self::Suite { .. } | Self::Codec { .. } => "update alephlab",
            Self::Path { .. } => "rename or remove it, then try again",
            Self::HeadExpired { .. } => "ask the owner to publish again, or check this machine's clock",
            Self::Rollback { .. } => {
                "a node may be hiding newer versions: try another node, and do not use this version unknowingly"
            }
            Self::Fork { .. } => "ask the owner which one is right; alephlab never chooses",
            Self::GrantOpen { .. } => {
                "check that this machine has the reader key that the grant was made for"
            }
            Self::KeyRevoked { .. } => "import the account under another name, which makes a new key",
            Self::NoReaderKey { .. } => "have them run `alephlab wallet register-key`",
            Self::NotGranted { .. } => "`alephlab dataset readers NAME` lists who can read it",
            Self::Attest { .. } => {
                "open it on a host that has what is missing, or ask the owner for a grant that does not want it"
            }
            Self::GrantExpired { .. } => "ask the owner for a new grant, or check this machine's clock",
            Self::Listing { .. } => "ask another Aleph node",
            Self::Unavailable { .. } => "check that the Aleph node runs and has it, then try again",
            Self::KeyFile { .. } => "key files must belong to you with mode 0600, and are never overwritten",
            Self::Locked { .. } => {
                "run it at a terminal, or name a file with the passphrase in account.passphrase_file"
            }
            Self::Passphrase { .. } => "type it again; a lost passphrase cannot be brought back",
            Self::Token { .. } => "copy the whole token again, from hf_ to its last character",
            Self::Share => "check UUID and token; the share may also be expired or withdrawn",
            Self::Payment { .. } => {
                "credits must cover 24 hours of everything that the account stores and runs: add credits"
            }
            Self::Forbidden { .. } => "check that the message was signed by the account that it names",
            Self::TooLarge { .. } => {
                "a node takes at most 100 MiB an object: seal with a smaller object size"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_and_a_wrong_tag_are_told_alike() {
        let object = || "ab".repeat(32);
        let commit = VaultError::Commit { object: object() };
        let tag = VaultError::Tag {
            object: object(),
            chunk: 7,
        };
        assert_eq!((commit.code(), tag.code()), ("E_COMMIT", "E_TAG"));
        assert_eq!((commit.told(), commit.hint()), (tag.told(), tag.hint()));
        assert_eq!(VaultError::Share.told().0, "E_SHARE");
    }
}
