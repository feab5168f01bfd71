//! Opening for a kernel: name to head and secret, then a delegation of exactly that version to the kernel's key.

use alephlab_api::Secret;
use alephlab_api::keys::{KeyCall, KeyReply};
use alephlab_vault::share::{ShareTerms, ShareToken, open_share};
use alephlab_vault::{
    DatasetId, Delegation, DelegationTerms, EpochSecret, Keys, ObjectKeys, ReaderPublic, SeenHeads,
    SignedHead, find_grant, find_head, heads_of,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::engine::{Engine, refuse, vault};
use crate::error::Result;

/// How long a kernel may keep what it was given: the container's default term.
const TERM_SECONDS: u64 = 12 * 60 * 60;
const WHAT: &str = "the request to open was not answered";

/// What a reference names.
struct Named {
    name: String,
    dataset_id: DatasetId,
    revision: Option<String>,
}

/// A version with the secret that opens it.
pub(crate) struct Opened {
    /// `digits`, or `owner/name` of a model.
    pub name: String,
    /// The head of the version.
    pub head: SignedHead,
    /// Item hash of the head's message.
    pub head_message: String,
    /// The secret of its epoch.
    pub secret: EpochSecret,
}

/// What a share opens.
struct Given {
    head: SignedHead,
    model: String,
    keys: ObjectKeys,
    expires: Option<u64>,
}

impl Engine {
    /// Answers a request to open.
    pub(super) async fn open(&self, call: &KeyCall, reference: &str) -> Result<KeyReply> {
        let now = alephlab_api::time::unix_now();
        let latest = now.saturating_add(TERM_SECONDS);
        let (head, name, keys, not_after) = match reference.parse::<Uuid>() {
            Ok(share) => {
                let given = self.open_accepted(share, now).await?;
                let end = given.expires.map_or(latest, |expires| expires.min(latest));
                (given.head, given.model, Keys::Objects(given.keys), end)
            }
            Err(_) => {
                let opened = self.open_here(reference).await?;
                (opened.head, opened.name, Keys::Epoch(opened.secret), latest)
            }
        };
        let terms = DelegationTerms {
            session: call.kernel.id.to_string(),
            kernel_key: ReaderPublic::from_hex(&call.request.kernel_key).map_err(vault(WHAT))?,
            not_after,
            allocation: None,
        };
        let delegation =
            Delegation::seal(self.account.wallet(), &head, terms, &keys, now).map_err(vault(WHAT))?;
        tracing::info!(kernel = %call.kernel.id, version = head.head.version, "a version was delegated");
        Ok(KeyReply::Opened {
            head: to_json(&head)?,
            delegation: to_json(&delegation)?,
            name,
        })
    }

    /// Opens a share whose token this account keeps. The gateway gets a value derived from the token, never the token,
    /// and neither does the kernel.
    async fn open_accepted(&self, share: Uuid, now: u64) -> Result<Given> {
        let unknown = || {
            let message = format!(
                "the account {} keeps no token of the share {share}",
                self.account.name()
            );
            refuse(
                "unknown_share",
                message,
                "give it one: alephlab share accept UUID",
            )
        };
        let token = self.books.accepted(share)?.ok_or_else(unknown)?;
        let token = ShareToken::parse(token.expose()).map_err(vault(WHAT))?;
        let envelope = self
            .gateway
            .share(share, &Secret::new(token.auth_hex().as_str()))
            .await?;
        let forged = || {
            let message = format!("the gateway sent something else than the share {share}");
            refuse("share_envelope", message, "ask the owner for a new share")
        };
        let sealed = STANDARD.decode(&envelope.sealed).map_err(|_| forged())?;
        let (model, revision, expires) = (envelope.model, envelope.revision, envelope.expires);
        let terms = ShareTerms {
            uuid: share,
            model: model.clone(),
            revision,
            expires,
        };
        let keys = open_share(&token, &terms, &sealed, now).map_err(vault(WHAT))?;
        let head = SignedHead::from_post(&envelope.head).map_err(vault(WHAT))?;
        head.verify().map_err(vault(WHAT))?;
        let owner = model.split('/').next().unwrap_or_default();
        if head.revision() != terms.revision || !head.head.owner.to_string().eq_ignore_ascii_case(owner) {
            return Err(forged());
        }
        Ok(Given {
            head,
            model,
            keys,
            expires,
        })
    }

    /// Finds a version by name and opens its secret on this machine.
    pub(crate) async fn open_here(&self, reference: &str) -> Result<Opened> {
        let named = self.resolve(reference)?;
        let (head, head_message) = self.head(&named, reference).await?;
        let now = alephlab_api::time::unix_now();
        head.check_fresh(now).map_err(vault(WHAT))?;
        let secret = find_grant(&*self.storage, &head, self.account.reader())
            .await
            .map_err(vault(WHAT))?;
        Ok(Opened {
            name: named.name,
            head,
            head_message,
            secret,
        })
    }

    /// What a person sees before agreeing to open.
    pub(super) async fn describe_open(&self, reference: &str) -> Vec<String> {
        if reference.parse::<Uuid>().is_ok() {
            return vec!["share    accepted by this account, one revision of a model".to_owned()];
        }
        let named = match self.resolve(reference) {
            Ok(named) => named,
            Err(error) => return vec![format!("unknown: {error}")],
        };
        let version = match self.head(&named, reference).await {
            Ok((head, _)) => format!("version  {} of {}", head.head.version, head.head.dataset_id),
            Err(error) => format!("unknown: {error}"),
        };
        vec![
            version,
            format!("until    {} hours from now", TERM_SECONDS / 3600),
        ]
    }

    /// The newest head, or that of the named revision; never one older than was seen before.
    async fn head(&self, named: &Named, reference: &str) -> Result<(SignedHead, String)> {
        let owner = self.account.address();
        let missing = || {
            refuse(
                "not_found",
                format!("no head of {reference} was found on the Aleph node"),
                "check aleph.url, or upload it again",
            )
        };
        let history = heads_of(&*self.storage, &owner, &named.dataset_id)
            .await
            .map_err(vault(WHAT))?;
        if let Some(revision) = &named.revision {
            let found = history.into_iter().find(|(head, _)| head.revision() == *revision);
            let (head, message) = found.ok_or_else(missing)?;
            head.verify().map_err(vault(WHAT))?;
            return Ok((head, message));
        }
        let newest = find_head(&*self.storage, &owner, &named.dataset_id)
            .await
            .map_err(vault(WHAT))?;
        let (head, message) = newest.ok_or_else(missing)?;
        let heads: Vec<SignedHead> = history.into_iter().map(|(head, _)| head).collect();
        let mut seen = SeenHeads::load(self.books.seen()).map_err(vault(WHAT))?;
        seen.accept(&head, &heads).map_err(vault(WHAT))?;
        Ok((head, message))
    }

    /// A dataset's local name or id, or a model of this account as `name` or `owner/name`, with `@revision`.
    fn resolve(&self, reference: &str) -> Result<Named> {
        let unknown = || {
            refuse(
                "unknown_name",
                format!(
                    "the account {} knows no dataset or model called {reference:?}",
                    self.account.name()
                ),
                "names are local to the owner's machine: see accounts/NAME/datasets.json there",
            )
        };
        let (full, revision) = match reference.split_once('@') {
            Some((full, revision)) => (full, Some(revision.to_owned())),
            None => (reference, None),
        };
        let id = |text: &str| text.parse::<DatasetId>().map_err(vault(WHAT));
        if revision.is_none() {
            let datasets = self.books.datasets()?;
            let by_id = || {
                datasets
                    .iter()
                    .find(|(_, entry)| entry.dataset_id.eq_ignore_ascii_case(full))
            };
            if let Some((name, entry)) = datasets.get_key_value(full).or_else(by_id) {
                return Ok(Named {
                    name: name.clone(),
                    dataset_id: id(&entry.dataset_id)?,
                    revision: None,
                });
            }
        }
        let (owner, name) = match full.split_once('/') {
            Some((owner, name)) => (Some(owner), name),
            None => (None, full),
        };
        let address = self.account.address();
        if owner.is_some_and(|owner| !owner.eq_ignore_ascii_case(&address)) {
            return Err(unknown());
        }
        let models = self.books.models()?;
        let entry = models.get(name).ok_or_else(unknown)?;
        let newest = entry.revisions.last().ok_or_else(unknown)?;
        let revision = revision
            .filter(|revision| revision != "main")
            .unwrap_or_else(|| newest.revision.clone());
        let name = format!("{address}/{name}");
        Ok(Named {
            name,
            dataset_id: id(&entry.dataset_id)?,
            revision: Some(revision),
        })
    }
}

/// JSON of a vault record, all of which have one.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| refuse("keys_json", error.to_string(), "report this"))
}
