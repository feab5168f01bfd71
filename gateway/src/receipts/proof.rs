//! What a third party checks of a receipt: the message on Aleph, the way from the receipt to its root, and that later roots continue it.

use alephlab_api::receipt::{Consistency, RECEIPT_HEAD_TYPE, ReceiptHead, ReceiptProof, SignedReceipt};
use alephlab_vault::storage::StoredPost;

use super::log::{Hash, is_continued, is_included, leaf};
use super::{ReceiptError, hash, head_hash, is_signed};

/// The root that a message on Aleph posts for the key that signs receipts. Storages check hash and signature of each message;
/// here the receipt key's own signature is checked, which nobody else can put under a root, nor under another poster's.
///
/// # Errors
/// [`ReceiptError::Head`].
pub fn check_head(post: &StoredPost, signer: &str) -> Result<ReceiptHead, ReceiptError> {
    let refused = |reason| ReceiptError::Head {
        message: post.item_hash.clone(),
        signer: signer.to_owned(),
        reason,
    };
    if post.post_type != RECEIPT_HEAD_TYPE {
        return Err(refused("it is a post of another type"));
    }
    if !post.sender.eq_ignore_ascii_case(&post.address) {
        return Err(refused("it was posted in another account's name"));
    }
    let head: ReceiptHead =
        serde_json::from_value(post.content.clone()).map_err(|_| refused("its content is none"))?;
    if !head.signer.eq_ignore_ascii_case(signer) {
        return Err(refused("it is of another gateway"));
    }
    let signed = head_hash(&head, &post.sender).ok_or_else(|| refused("its root is none"))?;
    if !is_signed(&signed, &head.signature, signer) {
        return Err(refused("that key did not sign this root for this poster"));
    }
    Ok(head)
}

/// Checks that a receipt is under a posted root. Its own signature is [`super::check_chain`]'s.
///
/// # Errors
/// [`ReceiptError::Inclusion`].
pub fn check_proof(
    receipt: &SignedReceipt,
    proof: &ReceiptProof,
    head: &ReceiptHead,
) -> Result<(), ReceiptError> {
    let refused = |reason| ReceiptError::Inclusion {
        sequence: receipt.receipt.sequence,
        size: head.size,
        message: proof.message.clone(),
        reason,
    };
    if proof.size != head.size || !proof.root.eq_ignore_ascii_case(&head.root) {
        return Err(refused("the proof is of another root"));
    }
    let (path, root) = hashes(&proof.path)
        .zip(one(&head.root))
        .ok_or_else(|| refused("its hashes are none"))?;
    let leaf = leaf(&hash(&receipt.receipt)?);
    match is_included(leaf, (proof.place, proof.size), &path, &root) {
        true => Ok(()),
        false => Err(refused("the proof does not lead from it to the root")),
    }
}

/// Checks that all receipts under one root are the first under a later one.
///
/// # Errors
/// [`ReceiptError::Consistency`].
pub fn check_consistency(
    before: &ReceiptHead,
    after: &ReceiptHead,
    proof: &Consistency,
) -> Result<(), ReceiptError> {
    let holds = || {
        let (path, roots) = (hashes(&proof.path)?, one(&before.root).zip(one(&after.root))?);
        Some(is_continued(
            (before.size, &roots.0),
            (after.size, &roots.1),
            &path,
        ))
    };
    match holds() {
        Some(true) => Ok(()),
        _ => Err(ReceiptError::Consistency {
            from: before.size,
            to: after.size,
        }),
    }
}

fn one(digits: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(digits, &mut hash).ok()?;
    Some(hash)
}

fn hashes(path: &[String]) -> Option<Vec<Hash>> {
    path.iter().map(|digits| one(digits)).collect()
}
