//! The journal of an upload on the owner's machine: with it an upload that was cut at any point goes on, and nothing is
//! stored twice and no version gets two heads.
//!
//! Lines of JSON in a 0600 file, each synced before what it allows: first the seed and, where an epoch begins, its secret;
//! then each signed STORE before its object is uploaded; then the signed grants and head before the first is posted. Of a
//! revision of a model its record comes between them: so grants and head are noted once before, when they are shown to who
//! makes the record. Removed when the head is posted.

use crate::encoding::hex_bytes;
use crate::head::SignedHead;
use crate::keys::{EpochSecret, random};
use crate::message::SignedMessage;
use crate::seen::now;
use crate::source::io;
use crate::{Result, VaultError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// An open journal; no other process has it.
pub(crate) struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: File,
    begun: Option<Begun>,
    /// Signed STOREs by the object that they name.
    stores: HashMap<String, SignedMessage>,
    /// Signed grants and head of a revision whose record is still to come.
    sealed: Vec<SignedMessage>,
    /// Signed grants and head, all else of the version between them.
    last: Vec<SignedMessage>,
}

/// What an upload was begun with. No `Debug`: it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) version: u64,
    /// Hash of the head before.
    #[serde(with = "hex_bytes")]
    pub(crate) prev: [u8; 32],
    #[serde(with = "hex_bytes")]
    pub(crate) id_random: [u8; 16],
    #[serde(with = "hex_bytes")]
    pub(crate) seed: [u8; 32],
    /// Epoch of the version.
    pub(crate) epoch: u32,
    /// Its secret, when the epoch begins with this version: nobody else has it yet.
    pub(crate) secret: Option<String>,
    /// Unix seconds: the manifest says it, and must say the same again.
    pub(crate) created: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begun(Begun),
    Store(Value),
    Sealed(Vec<Value>),
    Last(Vec<Value>),
}

impl Journal {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// `E_IO`; `E_STOPPED` when another process uploads with it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(path).map_err(io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(VaultError::Stopped {
                    reason: "another process uploads this dataset".into(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", path)(error)),
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(io("read", path))?);
        let mut state = State {
            file,
            begun: None,
            stores: HashMap::new(),
            sealed: Vec::new(),
            last: Vec::new(),
        };
        let mut whole = 0;
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let Ok(parsed) = serde_json::from_str(line) else {
                break;
            };
            state.take(parsed);
            whole += line.len() as u64;
        }
        // A line that was cut by a crash allowed nothing yet. The next one must not stand behind it.
        state.file.set_len(whole).map_err(io("shorten", path))?;
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// The head that an earlier run signed, with all messages to be posted, the head's last.
    pub(crate) fn signed(&self) -> Option<(SignedHead, Vec<SignedMessage>)> {
        with_head(&self.lock().last)
    }

    /// The head that an earlier run signed of a revision, with the messages to be posted but its record. Nothing of it was
    /// posted.
    pub(crate) fn sealed(&self) -> Option<(SignedHead, Vec<SignedMessage>)> {
        with_head(&self.lock().sealed)
    }

    /// Notes grants and head before anybody is told of the head.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn seal(&self, messages: &[SignedMessage]) -> Result<()> {
        let values = messages.iter().cloned().map(Value::from).collect();
        self.append(&mut self.lock(), Line::Sealed(values))
    }

    /// Goes on with the upload of this version when it is the one in the file, or begins it.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn begin(
        &self,
        version: u64,
        prev: [u8; 32],
        id_random: [u8; 16],
        (epoch, secret): (u32, Option<&EpochSecret>),
    ) -> Result<Begun> {
        let mut state = self.lock();
        if let Some(begun) = &state.begun
            && begun.version == version
            && begun.prev == prev
            && begun.epoch == epoch
            && begun.secret.is_some() == secret.is_some()
            && state.last.is_empty()
        {
            return Ok(begun.clone());
        }
        self.empty(&mut state)?;
        let begun = Begun {
            version,
            prev,
            id_random,
            seed: random()?,
            epoch,
            secret: secret.map(|secret| hex::encode(secret.expose())),
            created: now(),
        };
        self.append(&mut state, Line::Begun(begun.clone()))?;
        Ok(begun)
    }

    /// The STORE of an object, and whether it was signed before; or one that is signed now.
    ///
    /// # Errors
    /// `E_IO`, and what signing gives.
    pub(crate) fn store(
        &self,
        item_hash: &str,
        sign: impl FnOnce() -> Result<SignedMessage>,
    ) -> Result<(SignedMessage, bool)> {
        let mut state = self.lock();
        if let Some(known) = state.stores.get(item_hash) {
            return Ok((known.clone(), true));
        }
        let signed = sign()?;
        self.append(&mut state, Line::Store(signed.clone().into()))?;
        Ok((signed, false))
    }

    /// Notes grants and head before the first of them is posted.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn last(&self, messages: &[SignedMessage]) -> Result<()> {
        let values = messages.iter().cloned().map(Value::from).collect();
        self.append(&mut self.lock(), Line::Last(values))
    }

    /// The upload has ended.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        // Emptied first: whoever has it open already finds nothing.
        self.empty(&mut state)?;
        std::fs::remove_file(&self.path).map_err(io("remove", &self.path))
    }

    fn empty(&self, state: &mut State) -> Result<()> {
        state.file.set_len(0).map_err(io("empty", &self.path))?;
        state.begun = None;
        state.stores.clear();
        state.sealed.clear();
        state.last.clear();
        Ok(())
    }

    fn append(&self, state: &mut State, line: Line) -> Result<()> {
        let malformed = |error: serde_json::Error| VaultError::Malformed {
            what: "the upload's journal",
            reason: error.to_string(),
        };
        let mut text = Zeroizing::new(serde_json::to_vec(&line).map_err(malformed)?);
        text.push(b'\n');
        let written = state.file.write_all(&text).and_then(|()| state.file.sync_data());
        written.map_err(io("write", &self.path))?;
        state.take(line);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, line: Line) {
        match line {
            Line::Begun(begun) => self.begun = Some(begun),
            Line::Store(message) => {
                if let Ok(message) = SignedMessage::try_from(message)
                    && let Ok(file) = message.stored_file()
                {
                    self.stores.insert(file, message);
                }
            }
            Line::Sealed(messages) => self.sealed = read(messages),
            Line::Last(messages) => self.last = read(messages),
        }
    }
}

fn read(messages: Vec<Value>) -> Vec<SignedMessage> {
    let messages = messages.into_iter().map(SignedMessage::try_from);
    messages.collect::<Result<_>>().unwrap_or_default()
}

/// The messages and the head that the last of them carries.
fn with_head(messages: &[SignedMessage]) -> Option<(SignedHead, Vec<SignedMessage>)> {
    let content = messages.last()?.content().ok()?;
    let head = SignedHead::from_post(content.get("content")?).ok()?;
    Some((head, messages.to_vec()))
}

/// The right to publish the next version of one dataset from this machine, held while an upload from elsewhere is signed: no
/// upload or revocation of this account runs meanwhile.
pub struct Turn {
    _journal: Journal,
    /// To be removed again: without an upload that was cut there is no journal.
    made: Option<PathBuf>,
}

impl Turn {
    /// Takes it, by the lock of the dataset's journal.
    ///
    /// # Errors
    /// `E_STOPPED` when another process uploads this dataset; `E_IO`.
    pub fn take(journal: &Path) -> Result<Self> {
        let made = (!journal.exists()).then(|| journal.to_owned());
        Ok(Self {
            _journal: Journal::open(journal)?,
            made,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            // Still locked, and empty.
            let _ = std::fs::remove_file(made);
        }
    }
}
