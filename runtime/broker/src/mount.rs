//! Mounting: the owner's machine delegates the keys of one version, the broker checks everything it was given and
//! makes the files readable in its private folder.

use alephlab_api::broker::{Access, Mounted, Wall};
use alephlab_api::keys::{Ask, KeyReply};
use alephlab_vault::{Delegation, HostReport, Policy, Reader, ReaderKey, SignedHead, session_text};

use crate::ask::unfit;
use crate::opened::{Way, open_reader};
use crate::report::Report;
use crate::{Broker, BrokerError, Result, now};

/// How far the clocks of two machines may be apart, seconds.
const CLOCKS: u64 = 300;

/// Who can read what is mounted, in the words that cells show.
const AS_READ: &str =
    "decrypted in this machine's memory as it is read, where whoever runs the machine could read it";
/// The same where all of it is copied into memory.
const IN_MEMORY: &str = "decrypted in this machine's memory, where whoever runs the machine could read it";
/// The same where there is no memory to copy it into.
const ON_DISK: &str = "decrypted on this machine's disk (it has no memory file system), where whoever runs the \
                       machine could read it";

impl Broker {
    pub(crate) async fn mount(&self, reference: &str, peer: Option<i32>, report: &Report) -> Result<Mounted> {
        let (reader, name, expires) = self.open_delegated(reference, peer, report).await?;
        let opened = self
            .opened
            .open(&reader, &name, Some(expires), Way::Mount, report);
        let (path, access) = opened.await?;
        let head = &reader.head().head;
        let meta = reader.meta().clone();
        tracing::info!(dataset = %head.dataset_id, version = head.version, files = reader.files(), "mounted");
        Ok(Mounted {
            path,
            dataset_id: head.dataset_id.to_string(),
            name,
            version: head.version,
            title: meta.title.unwrap_or_default(),
            description: meta.description.unwrap_or_default(),
            licence: meta.licence.unwrap_or_default(),
            files: reader.files(),
            bytes: reader.bytes(),
            trust: match access {
                Access::Mounted => AS_READ,
                Access::Copied { .. } if self.opened.is_in_memory() => IN_MEMORY,
                Access::Copied { .. } => ON_DISK,
            }
            .to_owned(),
            owner: head.owner.to_string(),
            expires,
            access,
        })
    }

    /// Has a dataset or model opened for this kernel: its reader, its name, and until when (unix seconds).
    pub(crate) async fn open_delegated(
        &self,
        reference: &str,
        peer: Option<i32>,
        report: &Report,
    ) -> Result<(Reader, String, u64)> {
        report.progress("ask for the key", 0, 0, "");
        let ask = Ask::Open {
            reference: reference.to_owned(),
        };
        let kernel_key = ReaderKey::generate()?;
        let walls = self.walls(peer);
        let KeyReply::Opened {
            head,
            delegation,
            name,
        } = self.ask_with(&kernel_key, walls.clone(), ask, report).await?
        else {
            return Err(unfit("the request to open"));
        };
        let malformed = |error: serde_json::Error| BrokerError::Answer {
            reason: error.to_string(),
        };
        let head = SignedHead::from_post(&head)?;
        fits(reference, &head)?;
        let delegation: Delegation = serde_json::from_value(delegation).map_err(malformed)?;
        let expires = delegation.terms.not_after;
        // Checks signatures of head and delegation, the pinned version and hash, and the term.
        let keys = delegation.open(&kernel_key, &head, &self.account, now())?;
        if delegation.terms.session != session_text(&self.kernel.to_string(), reference) {
            return Err(BrokerError::Answer {
                reason: format!("the delegation was signed for another request than to open {reference}"),
            });
        }
        if let Some(policy) = &delegation.terms.policy {
            check_policy(policy, &walls, expires)?;
        }
        report.progress("fetch the manifest", 0, 0, "");
        let reader = open_reader(self.storage.clone(), head, keys).await?;
        Ok((reader, name, expires))
    }
}

/// Refuses what its owner does not allow on this host, although the reader's machine gave the keys.
fn check_policy(policy: &Policy, walls: &[Wall], expires: u64) -> Result<()> {
    let longest = policy
        .max_term
        .map(|term| now().saturating_add(term).saturating_add(CLOCKS));
    if longest.is_some_and(|longest| expires > longest) {
        return Err(BrokerError::Answer {
            reason: "the delegation lasts longer than the owner's policy allows".to_owned(),
        });
    }
    let missing = walls.iter().filter(|wall| wall.missing.is_some());
    policy.check(HostReport {
        // Nothing attests a host yet.
        attested: false,
        missing: &missing.map(|wall| wall.id.clone()).collect(),
        known: &walls.iter().map(|wall| wall.id.clone()).collect(),
    })?;
    Ok(())
}

/// Refuses a head that the reference cannot mean. What a name means only the owner's machine knows, but an id, an
/// owner or a revision in it is checked here, whatever was signed.
fn fits(reference: &str, head: &SignedHead) -> Result<()> {
    let (name, revision) = match reference.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (reference, None),
    };
    let is_hex = |text: &str, digits| text.len() == digits && text.chars().all(|c| c.is_ascii_hexdigit());
    let owner = name.split_once('/').map(|(owner, _)| owner);
    let fits = revision
        .is_none_or(|revision| !is_hex(revision, 40) || head.revision().eq_ignore_ascii_case(revision))
        && (!is_hex(name, 64) || head.head.dataset_id.to_string().eq_ignore_ascii_case(name))
        && owner.is_none_or(|owner| head.head.owner.to_string().eq_ignore_ascii_case(owner));
    if fits {
        return Ok(());
    }
    Err(BrokerError::Answer {
        reason: format!("the answer opens something else than {reference}"),
    })
}
