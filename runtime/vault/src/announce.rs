//! The messages that make a sealed version visible: the grants of a new epoch's secret, and last its head. Runs on the
//! owner's machine, where the wallet is.

use std::collections::BTreeSet;

use crate::find::find_head;
use crate::grant::{GRANT_POST_TYPE, Grant};
use crate::head::{HEAD_POST_TYPE, SignedHead, UnsignedHead};
use crate::keys::{Address, EpochSecret};
use crate::message::{SignedMessage, sign_post};
use crate::readerkey::ReaderKey;
use crate::sharing::{Recipient, grants_of, next_readers};
use crate::storage::Storage;
use crate::wallet::Wallet;
use crate::{Result, VaultError};

/// A version that is signed and not yet posted.
#[derive(Debug)]
pub struct Announced {
    /// Its head.
    pub head: SignedHead,
    /// Grants and, last, the head: to be posted in this order, unchanged however often.
    pub messages: Vec<SignedMessage>,
    /// Accounts that could read the version before and have registered no key any more.
    pub without_key: Vec<Address>,
}

/// Signs a version that was sealed elsewhere under a fresh secret, such as beside a kernel: wraps the secret for the owner and
/// for everybody whose grant of the `previous` version holds, and signs the head. Posts nothing.
///
/// The caller has checked that `head` is the one that it asked for; that it follows `previous`, and that nobody has published
/// this version meanwhile, is checked here.
///
/// # Errors
/// `E_STOPPED` when it does not follow or was published meanwhile, those of storage.
pub async fn sign_version(
    storage: &dyn Storage,
    wallet: &Wallet,
    reader_key: &ReaderKey,
    previous: Option<&SignedHead>,
    head: UnsignedHead,
    secret: &EpochSecret,
) -> Result<Announced> {
    let follows = match previous {
        None => head.version == 1,
        Some(before) => {
            head.version == before.head.version + 1
                && head.dataset_id == before.head.dataset_id
                && head.prev == before.hash()
                && head.epoch > before.head.epoch
        }
    };
    if !follows || secret.commitment(&head.dataset_id, head.epoch) != head.epoch_commitment {
        return Err(VaultError::Stopped {
            reason: "this head does not follow the version before, or commits to another secret".into(),
        });
    }
    let (grants, epoch) = match previous {
        Some(before) => (grants_of(storage, before).await?, before.head.epoch),
        None => (Vec::new(), 0),
    };
    let (readers, without_key) =
        next_readers(storage, wallet.owner(), reader_key, &grants, epoch, None).await?;
    let head = head.sign(wallet)?;
    check_next(storage, &head).await?;
    Ok(Announced {
        messages: messages(wallet, &head, secret, &readers)?,
        head,
        without_key,
    })
}

/// Who is granted the version that follows `previous` when it is signed, and who could read that one and has registered no key
/// any more; without its owner.
///
/// # Errors
/// Those of storage.
pub async fn next_granted(
    storage: &dyn Storage,
    reader_key: &ReaderKey,
    previous: &SignedHead,
) -> Result<(Vec<Address>, Vec<Address>)> {
    let (owner, epoch) = (previous.head.owner, previous.head.epoch);
    let grants = grants_of(storage, previous).await?;
    let (readers, without_key) = next_readers(storage, owner, reader_key, &grants, epoch, None).await?;
    let others = readers.iter().map(|reader| reader.address);
    let others: BTreeSet<Address> = others.filter(|address| *address != owner).collect();
    Ok((others.into_iter().collect(), without_key))
}

/// Signs the grants of `secret`, the head's, for these readers, and the head's message.
pub(crate) fn messages(
    wallet: &Wallet,
    head: &SignedHead,
    secret: &EpochSecret,
    readers: &[Recipient],
) -> Result<Vec<SignedMessage>> {
    let (id, epoch) = (head.head.dataset_id, head.head.epoch);
    let mut messages = Vec::with_capacity(readers.len() + 1);
    for reader in readers {
        let terms = reader.terms.clone();
        let grant = Grant::seal(id, epoch, secret, reader.address, &reader.key, terms)?;
        messages.push(sign_post(wallet, GRANT_POST_TYPE, grant.post_content()?, None)?);
    }
    messages.push(sign_post(wallet, HEAD_POST_TYPE, head.post_content()?, None)?);
    Ok(messages)
}

/// Nobody has published this version meanwhile, on another machine perhaps: two heads of one version are a fork, which
/// nothing can mend.
pub(crate) async fn check_next(storage: &dyn Storage, head: &SignedHead) -> Result<()> {
    let found = find_head(storage, &head.head.owner.to_string(), &head.head.dataset_id).await?;
    match found {
        Some((found, _)) if found.head.version >= head.head.version => Err(VaultError::Stopped {
            reason: format!(
                "version {} was published meanwhile: put it again",
                found.head.version
            ),
        }),
        _ => Ok(()),
    }
}
