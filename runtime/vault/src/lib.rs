//! Encrypted datasets and models on the Aleph network.
//!
//! Seals a folder into objects, opens it again, signs heads, and wraps keys for readers, kernels and share
//! links, byte for byte as `reference/dataset-container.md` says. It knows content, not names: registry names,
//! prices and pages are elsewhere. Beside a kernel only the broker links this crate; on a user's own machine
//! the `alephlab` command does; the gateway uses what is public in it (heads, messages, signatures).

mod announce;
mod beside;
mod cbor;
mod cuts;
mod dataset;
mod delegation;
mod digest;
mod draw;
mod encoding;
mod entry;
mod error;
mod fetch;
mod find;
mod forget;
mod grant;
mod head;
mod journal;
mod keyfile;
mod keys;
mod keystore;
mod manifest;
mod matching;
mod merkle;
pub mod message;
mod object;
mod open;
mod opened;
mod pack;
mod paths;
mod policy;
mod reader;
mod readerkey;
mod registered;
mod release;
mod repack;
mod reuse;
mod revision;
mod ring;
mod scope;
mod seal;
mod sealed;
mod seen;
pub mod share;
mod sharing;
mod signer;
mod sliced;
mod source;
pub mod storage;
mod taken;
mod wallet;
mod whole;

#[cfg(test)]
mod tests;

pub use announce::{Announced, next_granted, sign_version};
pub use beside::{open_beside, seal_beside};
pub use dataset::{Known, Progress, Put, PutOutcome, put_dataset, put_resumable};
pub use delegation::{Delegation, DelegationTerms, session_text};
pub use entry::{Entry, EntryKind, Extent};
pub use error::{Result, VaultError};
pub use find::{find_grant, find_grant_and_policy, find_grants, find_head, heads_of};
pub use forget::{Forget, Forgotten, forget_dataset};
pub use grant::{GRANT_POST_TYPE, Grant, GrantTerms};
pub use head::{HEAD_POST_TYPE, RootRef, SignedHead, UnsignedHead, Writer};
pub use journal::Turn;
pub use keyfile::random_key;
pub use keys::{Address, DatasetId, EpochSecret, dataset_id, new_id_random};
pub use keystore::Passphrase;
pub use manifest::Meta;
pub use matching::{Matched, SURVEY_MAX, Survey, match_survey, seal_matched};
pub use message::SignedMessage;
pub use object::Kind;
pub use policy::{HostReport, Policy};
pub use reader::Reader;
pub use readerkey::{ReaderKey, ReaderPublic, fingerprint};
pub use registered::{
    READER_KEYS_AGGREGATE, RegisteredKey, reader_keys_of, register_reader_key, registered_keys,
    revoke_reader_key,
};
pub use release::{RELEASE_POST_TYPE, Release, find_release, release_in_time, release_revision, releases_of};
pub use reuse::Unchanged;
pub use revision::{
    Begun, Finished, PutRevision, SealedRevision, Sealing, finish_revision, forget_revision, seal_revision,
};
pub use ring::Keys;
pub use scope::{ObjectKeys, SealedRoot, narrow};
pub use seal::{DEFAULT_OBJ_LOG2, SealParams, SealedObject, SealedTree, seal_next, seal_tree};
pub use sealed::{Sealed, open_epoch_secret, seal_epoch_secret};
pub use seen::{SeenHeads, Trust};
pub use sharing::{
    Granted, REVOKE_POST_TYPE, Revocation, Revoke, Revoking, grant_dataset, granted_to, grants_of,
    revoke_reader,
};
pub use signer::{Program, Signer};
pub use source::{Bounds, Source, SourceFile, open_within, walk};
pub use wallet::{Wallet, recover_hash, recover_text, verify_text};
