//! A revision that is sealed beside a kernel takes over what the one before has, although the kernel is not given its secret.
//!
//! The kernel's side looks at what it would seal ([`Survey`]) and sends digest and length of each object, sealed to the owner's
//! reader key, with a fresh key for the answer. The owner's machine ([`match_survey`]) compares them with the objects of the
//! newest revision by its own keyed ids, fetching no content, and answers for each either its row and the secret of the epoch
//! that is this one object's, or the id that a new object gets. [`seal_matched`] seals the rest like the owner's machine would:
//! each object in an epoch of its own, the manifest in the one after them.
//!
//! Whoever names the digest of an object is given its key, so a digest stands for the bytes. It is the root of a tree of hashes
//! over the padded plaintext of an object as it is packed, with a prefix in each hash: no record says it, nor any file's own
//! SHA-256, and it never leaves a machine but in this envelope, which opens for the owner alone (ADR 37).

use crate::cbor::{Reader as CborReader, Writer};
use crate::draw::Draw;
use crate::head::SignedHead;
use crate::keys::{DatasetId, EpochSecret};
use crate::manifest::Row;
use crate::pack::Seen;
use crate::readerkey::{ReaderKey, ReaderPublic};
use crate::repack::look;
use crate::seal::{Packing, SealParams, SealedObject, SealedTree, number, seal_with};
use crate::sealed::Sealed;
use crate::source::SourceFile;
use crate::storage::Storage;
use crate::taken::{Taken, Told, head_epochs};
use crate::{Result, VaultError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Most objects of one survey, 1.5 TiB of them: what is told of each is some 200 bytes.
pub const SURVEY_MAX: usize = 50_000;

/// What the objects of some files would hold.
#[derive(Clone, Debug)]
pub struct Survey(Vec<Seen>);

/// What the owner's machine told of the objects of a survey.
pub struct Matched(Taken);

impl Survey {
    /// Reads all files, and packs them as [`seal_matched`] will. Blocking.
    ///
    /// # Errors
    /// `E_IO` when a file can not be read or changes meanwhile, `E_LIMIT` for too many objects.
    pub fn of(files: &[SourceFile], obj_log2: u8) -> Result<Self> {
        let seen = look(files, obj_log2)?;
        if seen.len() > SURVEY_MAX {
            return Err(VaultError::Limit {
                what: "the number of a revision's objects".into(),
                limit: SURVEY_MAX as u64,
            });
        }
        Ok(Self(seen))
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.0.len()
    }

    /// For the owner alone, who answers for `reply_to` alone. `epoch` is the first of the revision.
    ///
    /// # Errors
    /// `E_KEY_POINT` for an unusable reader key.
    pub fn seal(
        &self,
        to: &ReaderPublic,
        (dataset, epoch): (&DatasetId, u32),
        reply_to: &ReaderPublic,
    ) -> Result<Sealed> {
        let bytes = Zeroizing::new(self.encode(&reply_to.to_hex()));
        Sealed::seal(to, &info(SURVEY, dataset, epoch), |_| Vec::new(), &bytes)
    }

    /// What [`Matched`] the owner's answer is.
    ///
    /// # Errors
    /// `E_GRANT_OPEN` when it was made for another key or survey, `E_CBOR` and `E_EPOCH` when it says something else.
    pub fn open(
        &self,
        key: &ReaderKey,
        (dataset, epoch): (&DatasetId, u32),
        answer: &Sealed,
    ) -> Result<Matched> {
        let opened = answer.open(key, &info(ANSWER, dataset, epoch), &[])?;
        let mut from = CborReader::new("answer to a survey", &opened)?;
        from.tuple(self.0.len() as u64)?;
        let (mut rows, mut told) = (BTreeMap::new(), HashMap::new());
        for (at, (digest, length)) in self.0.iter().enumerate() {
            let at = number(at)?;
            from.tuple(2)?;
            let id = from.bytes()?;
            if from.null()? {
                told.insert(*digest, Told::New(id));
                continue;
            }
            from.tuple(2)?;
            let row = Row::read(&mut from)?;
            let secret = EpochSecret::from_bytes(from.bytes()?);
            // Its epoch is older than the first of this revision.
            row.check(epoch.saturating_sub(1), 26)?;
            if row.plaintext_len != *length || row.leaves.is_some() {
                return Err(from.refuse("an object is of another length than it was asked for"));
            }
            told.insert(*digest, Told::Old(at));
            rows.insert(at, (row, secret));
        }
        Ok(Matched(Taken::told(rows, told, epoch)))
    }

    /// Whether an object has this digest.
    #[cfg(test)]
    pub(crate) fn holds(&self, digest: &[u8; 32]) -> bool {
        self.0.iter().any(|(known, _)| known == digest)
    }

    fn encode(&self, reply_to: &str) -> Vec<u8> {
        let mut to = Writer::new();
        to.array(2).text(reply_to).array(self.0.len());
        for (digest, length) in &self.0 {
            to.array(2).bytes(digest).uint(*length);
        }
        to.finish()
    }

    /// Itself, and whom to answer.
    fn decode(bytes: &[u8]) -> Result<(Self, ReaderPublic)> {
        let mut from = CborReader::new("survey", bytes)?;
        from.tuple(2)?;
        let reply_to = from.text()?;
        let count = from.array()?;
        if count > SURVEY_MAX as u64 {
            return Err(from.refuse("it has too many objects"));
        }
        let mut seen = Vec::new();
        for _ in 0..count {
            from.tuple(2)?;
            seen.push((from.bytes()?, from.uint()?));
        }
        let survey = Self(seen);
        from.end(&survey.encode(&reply_to))?;
        Ok((survey, ReaderPublic::from_hex(&reply_to)?))
    }
}

impl Matched {
    /// How many objects need not be stored again.
    pub fn taken_over(&self) -> usize {
        self.0.rows().len()
    }
}

/// On the owner's machine: answers a survey of the revision that begins with `epoch` and follows `previous`, and says how many
/// objects it was of.
///
/// # Errors
/// `E_GRANT_OPEN` when it was made for another key, model or revision, or when the revision before is not this key's; those of
/// opening a manifest.
pub async fn match_survey(
    storage: &Arc<dyn Storage>,
    key: &ReaderKey,
    (dataset, epoch): (&DatasetId, u32),
    previous: Option<&SignedHead>,
    sealed: &Sealed,
) -> Result<(Sealed, usize)> {
    let opened = sealed.open(key, &info(SURVEY, dataset, epoch), &[])?;
    let (survey, reply_to) = Survey::decode(&opened)?;
    let dedup = key.dedup_key(dataset);
    let taken = match previous {
        None => Taken::nothing(dedup),
        Some(head) => {
            let (reader, _) = crate::dataset::open_own(storage, key, head).await?;
            let heads = head_epochs(&**storage, head).await?;
            Taken::rows_of(&reader, &heads, dedup)?
        }
    };
    if taken.base() != epoch {
        return Err(VaultError::Epoch {
            reason: format!("the revision begins with epoch {}, not {epoch}", taken.base()),
        });
    }
    let mut to = Writer::new();
    to.array(survey.0.len());
    for (digest, length) in &survey.0 {
        to.array(2).bytes(&taken.id(digest)?);
        let row = taken.object(digest, *length).and_then(|old| taken.row(old));
        match row.and_then(|row| Some((row, taken.secrets().get(&row.epoch)?))) {
            None => {
                to.null();
            }
            Some((row, secret)) => {
                to.array(2);
                row.write(&mut to);
                to.bytes(secret.expose());
            }
        }
    }
    let bytes = Zeroizing::new(to.finish());
    let answer = Sealed::seal(&reply_to, &info(ANSWER, dataset, epoch), |_| Vec::new(), &bytes)?;
    Ok((answer, survey.0.len()))
}

/// Seals `files` as a revision: each object that the one before does not have in an epoch of its own, from `params.epoch` on, and
/// the manifest under `secret` in the epoch that the tree names. `sink` gets each new object once, the root last.
///
/// # Errors
/// As [`crate::seal_tree`]; `E_STOPPED` when the files are not those of the survey any more.
pub fn seal_matched(
    files: &[SourceFile],
    params: &SealParams,
    secret: &EpochSecret,
    matched: &Matched,
    sink: &mut (dyn FnMut(SealedObject) -> Result<()> + Send),
) -> Result<SealedTree> {
    let mut relay = |object, _| sink(object);
    let packing = Packing::Revision(&matched.0);
    let room = (&|| Ok(None)) as &crate::seal::Room<'_>;
    seal_with(files, params, secret, packing, &Draw::Fresh, (room, &mut relay))
}

const SURVEY: &[u8] = b"alephlab/publish/v1/survey\0";
const ANSWER: &[u8] = b"alephlab/publish/v1/matched\0";

fn info(label: &[u8], dataset: &DatasetId, epoch: u32) -> Vec<u8> {
    [label, &dataset.0, &epoch.to_be_bytes()].concat()
}
