//! Opening for a kernel: name to head and secret, then a delegation of exactly that version to the kernel's key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::broker::Wall;
use alephlab_api::keys::{KeyCall, KeyReply};
use alephlab_api::model::{Visibility, private_name, private_uuid};
use alephlab_vault::message::sign_store;
use alephlab_vault::share::{OpenedShare, narrow};
use alephlab_vault::{
    Address, DatasetId, Delegation, DelegationTerms, EpochSecret, HostReport, Keys, ObjectKeys, Policy,
    Reader, ReaderPublic, SeenHeads, SignedHead, find_grant_and_policy, find_head, heads_of, session_text,
};
use uuid::Uuid;

use super::books::DatasetEntry;
use super::engine::{Elsewhere, Engine, ModelAt, refuse, vault};
use crate::datasets::{Reference, find_granted};
use crate::error::Result;
use crate::models::{self, Model};
use crate::shares;

/// How long a kernel may keep what it was given: the container's default term.
const TERM_SECONDS: u64 = 12 * 60 * 60;
/// Versions whose narrowed keys are kept in memory, so that mounting one again stores no further root.
const NARROWED_MAX: usize = 64;
/// How long what was found of own datasets elsewhere is taken for all that there is.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(2);
const WHAT: &str = "the request to open was not answered";

/// What a reference names.
struct Named {
    name: String,
    owner: String,
    dataset_id: DatasetId,
    pick: Pick,
}

/// Which version.
#[derive(Clone)]
enum Pick {
    Newest,
    /// Of a dataset.
    Version(u64),
    /// Of a model: 40 hex digits.
    Revision(String),
}

impl Pick {
    fn is(&self, head: &SignedHead) -> bool {
        match self {
            Self::Newest => false,
            Self::Version(version) => head.head.version == *version,
            Self::Revision(revision) => head.revision() == *revision,
        }
    }

    /// As it stands behind a name.
    fn suffix(&self) -> Option<String> {
        match self {
            Self::Newest => None,
            Self::Version(version) => Some(format!("@{version}")),
            Self::Revision(revision) => Some(format!("@{revision}")),
        }
    }
}

/// A version as the node has it, not yet trusted to be the newest.
struct Version {
    head: SignedHead,
    message: String,
    /// All heads of the dataset, when the newest one was wanted.
    line: Option<Vec<SignedHead>>,
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
    /// What its owner asks of the hosts on which it is opened.
    pub policy: Option<Policy>,
}

impl Engine {
    /// Answers a request to open.
    pub(super) async fn open(&self, call: &KeyCall, reference: &str) -> Result<KeyReply> {
        let now = alephlab_api::time::unix_now();
        let latest = now.saturating_add(TERM_SECONDS);
        let (head, name, keys, not_after, policy) = match reference.parse::<Uuid>() {
            Ok(share) => {
                let given = shares::open(&self.books, &self.gateway, self.account.name(), share, now).await?;
                let end = given.expires.map_or(latest, |expires| expires.min(latest));
                let OpenedShare { head, keys } = given.opened;
                (head, given.model, Arc::new(Keys::Objects(keys)), end, None)
            }
            Err(_) if let Some((head, name, keys)) = self.open_bought(reference).await? => {
                (head, name, Arc::new(Keys::Objects(keys)), latest, None)
            }
            Err(_) => {
                let opened = self.open_here(reference).await?;
                let (head, name) = (opened.head.clone(), opened.name.clone());
                let policy = opened.policy.clone();
                let end = match &policy {
                    Some(policy) => allowed_until(policy, &call.request.walls, now)?.min(latest),
                    None => latest,
                };
                (head, name, self.narrowed(opened).await?, end, policy)
            }
        };
        let terms = DelegationTerms {
            session: session_text(&call.kernel.id.to_string(), reference),
            kernel_key: ReaderPublic::from_hex(&call.request.kernel_key).map_err(vault(WHAT))?,
            not_after,
            allocation: None,
            policy,
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

    /// Keys of exactly this version, made once while this process runs.
    pub(super) async fn narrowed(&self, opened: Opened) -> Result<Arc<Keys>> {
        let kept = || lock(&self.narrowed);
        let version = opened.head.hash();
        if let Some(keys) = kept().get(&version) {
            return Ok(keys.clone());
        }
        let keys = Arc::new(Keys::Objects(self.narrow(opened, WHAT).await?));
        let mut kept = kept();
        if kept.len() >= NARROWED_MAX {
            kept.pop_first();
        }
        kept.insert(version, keys.clone());
        Ok(keys)
    }

    /// Narrows an epoch's secret, which opens every version of that epoch, to the objects of one version. The manifest
    /// root that they open in place of the head's is stored on the node.
    pub(crate) async fn narrow(&self, opened: Opened, what: &'static str) -> Result<ObjectKeys> {
        let (storage, secret) = (self.storage.clone(), Keys::Epoch(opened.secret));
        let reader = Reader::open(storage, &opened.head, secret)
            .await
            .map_err(vault(what))?;
        let (keys, root) = narrow(&reader, &opened.head_message).map_err(vault(what))?;
        let (hash, size) = (root.item_hash(), root.bytes.len() as u64);
        let store = sign_store(self.account.wallet(), &hash, size).map_err(vault(what))?;
        self.storage.put(root.bytes, &store).await.map_err(vault(what))?;
        Ok(keys)
    }

    /// Finds a version by name and opens its secret on this machine.
    pub(crate) async fn open_here(&self, reference: &str) -> Result<Opened> {
        self.look_up(reference).await?;
        let named = self.resolve(reference)?;
        let version = self.version(&named, reference).await?;
        self.remember(&version)?;
        self.adopt(&named)?;
        let (head, head_message) = (version.head, version.message);
        let now = alephlab_api::time::unix_now();
        head.check_fresh(now).map_err(vault(WHAT))?;
        let (secret, policy) = find_grant_and_policy(&*self.storage, &head, self.account.reader())
            .await
            .map_err(vault(WHAT))?;
        Ok(Opened {
            name: named.name,
            head,
            head_message,
            secret,
            policy,
        })
    }

    /// Every name of what is to be opened. A reference that names nothing here is its own only name.
    pub(super) fn names_to_open(&self, reference: &str) -> Vec<String> {
        if let Ok(share) = reference.parse::<Uuid>() {
            return vec![share.to_string()];
        }
        let Ok(named) = self.resolve(reference) else {
            return vec![reference.to_owned()];
        };
        let mut names = vec![named.name.clone(), named.dataset_id.to_string()];
        if let Some(Reference {
            owner: Some(owner),
            name,
            ..
        }) = Reference::parse(reference)
            && let Some((id, title)) = lock(&self.granted).get(&(owner, name)).cloned()
            // Not where a model of that name is meant.
            && id == named.dataset_id
        {
            names.push(format!("{owner}/{id}"));
            names.extend(title.map(|title| format!("{owner}/{title}")));
        }
        // A model's bare name is its name only where no dataset takes it.
        if let Some((_, bare)) = named.name.split_once('/')
            && self
                .resolve(bare)
                .is_ok_and(|same| same.dataset_id == named.dataset_id)
        {
            names.push(bare.to_owned());
        }
        if let Some(suffix) = named.pick.suffix() {
            let exact: Vec<String> = names.iter().map(|name| format!("{name}{suffix}")).collect();
            names.extend(exact);
        }
        names
    }

    /// Finds another owner's dataset among what was granted to this account, and an own one among what another machine has
    /// published, so that [`Engine::resolve`] knows it.
    pub(super) async fn look_up(&self, reference: &str) -> Result<()> {
        if reference.parse::<Uuid>().is_ok() {
            return Ok(());
        }
        let model = self.find_model(reference).await?;
        if let Some((at, model, true)) = model {
            lock(&self.models).insert(at, model);
            return Ok(());
        }
        let found = self.look_up_dataset(reference).await;
        match model {
            // There is a dataset of this name, or nothing: neither is this model.
            Some((at, ..)) if found.is_ok() => drop(lock(&self.models).remove(&at)),
            // It does not open, and so it will be said.
            Some((at, model, _)) => {
                lock(&self.models).insert(at, model);
                return Ok(());
            }
            None => {
                if let Some(at) = model_of(reference) {
                    lock(&self.models).remove(&at);
                }
            }
        }
        found
    }

    async fn look_up_dataset(&self, reference: &str) -> Result<()> {
        let Some(Reference { owner, name, .. }) = Reference::parse(reference) else {
            return Ok(());
        };
        let own = self.account.wallet().owner();
        let owner = owner.unwrap_or(own);
        if owner == own {
            return match self.resolve(reference) {
                Ok(_) => Ok(()),
                // In the words by which another machine gets its turn.
                Err(unknown) => self.look_elsewhere().await.map_err(|error| {
                    refuse(
                        unknown.code(),
                        format!("{unknown} here, and others were not found: {error}"),
                        "check aleph.url",
                    )
                }),
            };
        }
        let key = (owner, name);
        let is_known = || lock(&self.granted).contains_key(&key);
        if is_known() {
            return Ok(());
        }
        let found = find_granted(&self.storage, &self.account, owner, &key.1).await?;
        lock(&self.granted).insert(key, found);
        Ok(())
    }

    /// Whether a model of this owner is for this account to share.
    pub(crate) fn refuse_foreign(&self, name: &str, owner: Option<Address>) -> Result<()> {
        if owner.is_none_or(|owner| owner == self.account.wallet().owner()) {
            return Ok(());
        }
        let message = format!("{name} belongs to another account, and only its owner shares it");
        Err(refuse("model_foreign", message, "ask its owner for a share"))
    }

    /// What a share of an opened model is said to be of: a private one is not called by its name.
    pub(crate) async fn name_to_share(&self, opened: &Opened) -> Result<String> {
        let own = self.account.address();
        self.refuse_foreign(&opened.name, Some(opened.head.head.owner))?;
        let models = self.index.fresh(&own).await?;
        let commit = opened.head.revision();
        let mut all = models.values().flat_map(Model::ever);
        let record = all.find(|one| one.record.commit == commit).map(|one| &one.record);
        match record {
            Some(record) if record.visibility == Visibility::Private => Ok(private_name(&own, record.uuid)),
            Some(record) => Ok(record.name.clone()),
            None => Err(refuse(
                "revision_unknown",
                format!(
                    "no record of {}@{commit} was found on the Aleph node",
                    opened.name
                ),
                "check aleph.url, or publish it again",
            )),
        }
    }

    /// Own datasets that another machine has published are known from here on, in memory only. Not looked for again at once: a
    /// kernel may ask for any number of names that there are not.
    async fn look_elsewhere(&self) -> Result<()> {
        let looked = lock(&self.elsewhere).looked;
        if looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return Ok(());
        }
        let named = self.library().discover().await?.named;
        *lock(&self.elsewhere) = Elsewhere {
            looked: Some(Instant::now()),
            named,
        };
        Ok(())
    }

    /// A dataset that another machine has published has its name here once it was opened.
    fn adopt(&self, named: &Named) -> Result<()> {
        let is_found = |(name, id): &(String, DatasetId)| *name == named.name && *id == named.dataset_id;
        if lock(&self.elsewhere).named.iter().any(is_found) {
            let dataset_id = named.dataset_id.to_string();
            self.books
                .adopt_dataset(&named.name, DatasetEntry { dataset_id })?;
        }
        Ok(())
    }

    /// What a person sees before agreeing to open. Looks only: what is not agreed to must leave no trace here.
    pub(super) async fn describe_open(&self, reference: &str, walls: &[Wall]) -> Vec<String> {
        if reference.parse::<Uuid>().is_ok() {
            return vec!["share    accepted by this account, one revision of a model".to_owned()];
        }
        let looked_up = self.look_up(reference).await;
        let named = match looked_up.and_then(|()| self.resolve(reference)) {
            Ok(named) => named,
            Err(error) => return vec![format!("unknown: {error}")],
        };
        let found = match self.version(&named, reference).await {
            Ok(found) => found,
            Err(error) => return vec![format!("unknown: {error}")],
        };
        let head = &found.head.head;
        let mut lines = vec![format!("version  {} of {}", head.version, head.dataset_id)];
        let key = self.account.reader();
        let granted = find_grant_and_policy(&*self.storage, &found.head, key).await;
        let policy = granted.ok().and_then(|(_, policy)| policy);
        let asked = policy.as_ref().and_then(|policy| policy.max_term);
        let minutes = asked.map_or(TERM_SECONDS, |asked| asked.min(TERM_SECONDS)) / 60;
        lines.push(match minutes.is_multiple_of(60) {
            true => format!("until    {} hours from now", minutes / 60),
            false => format!("until    {minutes} minutes from now"),
        });
        let missing: Vec<&str> = missing(walls).map(|wall| wall.id.as_str()).collect();
        if !missing.is_empty() {
            lines.push(format!("lacks    {}", missing.join(", ")));
        }
        if let Some(policy) = policy {
            lines.push(format!("policy   {}", policy.in_words()));
        }
        lines
    }

    /// The newest version, or the named revision.
    async fn version(&self, named: &Named, reference: &str) -> Result<Version> {
        let owner = &named.owner;
        let missing = || {
            refuse(
                "not_found",
                format!("no head of {reference} was found on the Aleph node"),
                "check aleph.url, or upload it again",
            )
        };
        let history = heads_of(&*self.storage, owner, &named.dataset_id)
            .await
            .map_err(vault(WHAT))?;
        if !matches!(named.pick, Pick::Newest) {
            let found = history.into_iter().find(|(head, _)| named.pick.is(head));
            let (head, message) = found.ok_or_else(missing)?;
            head.verify().map_err(vault(WHAT))?;
            return Ok(Version {
                head,
                message,
                line: None,
            });
        }
        let newest = find_head(&*self.storage, owner, &named.dataset_id)
            .await
            .map_err(vault(WHAT))?;
        let (head, message) = newest.ok_or_else(missing)?;
        let line = history.into_iter().map(|(head, _)| head).collect();
        Ok(Version {
            head,
            message,
            line: Some(line),
        })
    }

    /// Refuses a newest version that is older than one seen before, and remembers it otherwise.
    fn remember(&self, version: &Version) -> Result<()> {
        let Some(line) = &version.line else {
            return Ok(());
        };
        let (path, _lock) = self.books.seen()?;
        let mut seen = SeenHeads::load(path).map_err(vault(WHAT))?;
        seen.accept(&version.head, line).map_err(vault(WHAT))?;
        Ok(())
    }

    /// A dataset's local name or id with `@version`, one of another owner's that [`Engine::look_up`] has found, or a model
    /// of this account as `name` or `owner/name` with `@revision`.
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
        let (owner, name) = match full.split_once('/') {
            Some((owner, name)) => (Some(owner), name),
            None => (None, full),
        };
        let address = self.account.address();
        if let Some(at) = model_of(reference)
            && let Some(found) = lock(&self.models).get(&at).cloned()
        {
            let owner = at.0.to_string();
            return Ok(Named {
                name: format!("{owner}/{}", found.name),
                owner,
                dataset_id: found.dataset_id,
                pick: Pick::Revision(found.revision),
            });
        }
        if let Some(dataset) = Reference::parse(reference)
            && let Some(named) = self.resolve_dataset(&dataset)?
        {
            return Ok(named);
        }
        if owner.is_some_and(|owner| !owner.eq_ignore_ascii_case(&address)) {
            return Err(unknown());
        }
        let models = self.books.models()?;
        // A private one also by what the gateway calls it.
        let by_uuid = || {
            models
                .iter()
                .find(|(_, entry)| private_uuid(name) == Some(entry.uuid))
        };
        let (name, entry) = models.get_key_value(name).or_else(by_uuid).ok_or_else(unknown)?;
        let newest = entry.revisions.last().ok_or_else(unknown)?;
        let revision = revision
            .filter(|revision| revision != "main")
            .unwrap_or_else(|| newest.revision.clone());
        let name = format!("{address}/{name}");
        Ok(Named {
            name,
            owner: address,
            dataset_id: id(&entry.dataset_id)?,
            pick: Pick::Revision(revision),
        })
    }

    fn resolve_dataset(&self, reference: &Reference) -> Result<Option<Named>> {
        let pick = reference.version.map_or(Pick::Newest, Pick::Version);
        let own = self.account.wallet().owner();
        if let Some(owner) = reference.owner.filter(|owner| *owner != own) {
            let found = lock(&self.granted).get(&(owner, reference.name.clone())).cloned();
            return Ok(found.map(|(dataset_id, _)| Named {
                name: format!("{owner}/{}", reference.name),
                owner: owner.to_string(),
                dataset_id,
                pick,
            }));
        }
        // With the owner's name in front, a model of that name is meant.
        if reference.owner.is_some() && self.books.models()?.contains_key(&reference.name) {
            return Ok(None);
        }
        let mut datasets = self.books.datasets()?;
        for (name, id) in &lock(&self.elsewhere).named {
            let dataset_id = id.to_string();
            datasets
                .entry(name.clone())
                .or_insert(DatasetEntry { dataset_id });
        }
        let by_id = || {
            datasets
                .iter()
                .find(|(_, entry)| entry.dataset_id.eq_ignore_ascii_case(&reference.name))
        };
        let Some((name, entry)) = datasets.get_key_value(&reference.name).or_else(by_id) else {
            return Ok(None);
        };
        Ok(Some(Named {
            name: name.clone(),
            owner: own.to_string(),
            dataset_id: entry.dataset_id.parse().map_err(vault(WHAT))?,
            pick,
        }))
    }
}

/// Until when the policy lets a kernel on this host have the keys, unix seconds; refuses when it does not. What the
/// host says of itself is no proof, but an honest one is kept from what its owner does not want there.
fn allowed_until(policy: &Policy, walls: &[Wall], now: u64) -> Result<u64> {
    let host = HostReport {
        // Nothing attests a host yet.
        attested: false,
        missing: &missing(walls).map(|wall| wall.id.clone()).collect(),
        known: &walls.iter().map(|wall| wall.id.clone()).collect(),
    };
    policy.check(host).map_err(vault(WHAT))?;
    Ok(policy.max_term.map_or(u64::MAX, |term| now.saturating_add(term)))
}

/// Owner, name and revision or tag of what may be a model of a named owner.
pub(super) fn model_of(reference: &str) -> Option<ModelAt> {
    match models::Reference::parse(reference).ok()? {
        models::Reference::Model {
            owner: Some(owner),
            name,
            revision,
        } => Some((owner, name, revision)),
        _ => None,
    }
}

fn missing(walls: &[Wall]) -> impl Iterator<Item = &Wall> {
    walls.iter().filter(|wall| wall.missing.is_some())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// JSON of a vault record, all of which have one.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| refuse("keys_json", error.to_string(), "report this"))
}
