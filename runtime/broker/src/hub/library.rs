//! What this kernel's hub shows: a share to who has its token; to the bearer of the kernel's own token everything that its
//! account may read, once the account's machine opens it for this kernel where it is not public. To all others nothing.
//!
//! What a name means is asked of the gateway, whose index everybody sees; the record that it names is read from Aleph and must be
//! of this name, so that nothing is shown in an owner's name which that owner has not signed. Which of the signed revisions `main`
//! and tags are stays the gateway's word. What the gateway does not know may be private: then it is for the account's own machine
//! to say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alephlab_api::model::{IndexedModel, MODEL_RECORD_TYPE, ModelPage, ModelRecord, Visibility, is_name};
use alephlab_api::{Problem, Secret};
use alephlab_registry::{Answer, Library, NamedRevision, Page, Refs, RegistryError, Repo, RepoInfo, Search};
use alephlab_vault::share::ShareToken;
use alephlab_vault::{Address, HEAD_POST_TYPE, Keys, ObjectKeys, SignedHead};
use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::lookup::{Opened, Questions};
use super::readers::{Audience, Held};
use super::revision::{OpenedRevision, content};
use crate::opened::open_reader;
use crate::report::Report;
use crate::{Broker, BrokerError};

/// How long what the gateway said of a model is taken for what it says: a client asks several times for each file.
const RECENT: Duration = Duration::from_secs(3);
/// Models of which it is kept.
const PAGES_MAX: usize = 64;

/// When the gateway was asked, and what it shows.
type Read = (Instant, Option<Arc<ModelPage>>);

/// The models of one kernel.
pub(super) struct KernelLibrary {
    broker: Arc<Broker>,
    /// Stands for the kernel's account.
    token: Secret,
    questions: Questions,
    pages: Mutex<HashMap<String, Read>>,
    /// Records that were found to be signed, by their messages.
    records: Mutex<HashMap<String, ModelRecord>>,
}

/// Who asks.
enum Asker {
    /// Cells of this kernel.
    Kernel,
    /// Somebody with the token of a share.
    Share(ShareToken),
}

/// What an id names.
enum Named {
    Share(Uuid),
    Model,
}

impl KernelLibrary {
    pub(super) fn new(broker: Arc<Broker>, token: Secret) -> Self {
        Self {
            broker,
            token,
            questions: Questions::default(),
            pages: Mutex::default(),
            records: Mutex::default(),
        }
    }

    fn is_kernel(&self, bearer: &Secret) -> bool {
        bearer
            .expose()
            .as_bytes()
            .ct_eq(self.token.expose().as_bytes())
            .into()
    }

    /// # Errors
    /// [`RegistryError::RepoNotFound`] for who has no token, whatever is named: this kernel does nothing for other programs of the
    /// machine. [`RegistryError::Token`] for what is neither this kernel's token nor one of a share.
    fn asker(&self, bearer: Option<&Secret>) -> Result<Asker, RegistryError> {
        let bearer = bearer.ok_or(RegistryError::RepoNotFound)?;
        if self.is_kernel(bearer) {
            return Ok(Asker::Kernel);
        }
        let share = ShareToken::parse(bearer.expose());
        share.map(Asker::Share).map_err(|_| RegistryError::Token)
    }

    async fn found(
        &self,
        id: &str,
        revision: &str,
        bearer: Option<&Secret>,
    ) -> Result<Option<Arc<dyn Repo>>, RegistryError> {
        let asker = self.asker(bearer)?;
        let revision = plain(revision);
        match (named(id), &asker) {
            (Some(Named::Share(share)), _) => self.shared((id, share), revision, &asker).await,
            (Some(Named::Model), Asker::Kernel) => match self.page(id).await?.as_deref() {
                Some(page) => self.listed((id, page), revision).await,
                None => self.unlisted(id, revision).await,
            },
            (None, Asker::Kernel) => Err(elsewhere(id)),
            (Some(Named::Model) | None, Asker::Share(_)) => Ok(None),
        }
    }

    /// A share: of who has its token, or of the kernel's account, whose machine keeps the token.
    async fn shared(
        &self,
        (id, share): (&str, Uuid),
        revision: &str,
        asker: &Asker,
    ) -> Result<Option<Arc<dyn Repo>>, RegistryError> {
        let held = match asker {
            Asker::Kernel => match self.broker.readers.at(id, "main", Audience::Kernel) {
                Some(held) => held,
                None => match self.questions.open(&self.broker, id, "main").await? {
                    Opened::Open(held) => held,
                    Opened::Refused(_) => return Ok(None),
                },
            },
            Asker::Share(token) => match self.by_token((id, share), token).await {
                Ok(held) => held,
                Err(error) => {
                    tracing::info!(code = error.code(), "a share was not opened for the hub");
                    return Ok(None);
                }
            },
        };
        at_revision(held, revision).await
    }

    /// Opens a share for who has its token, and for nobody else. Not at each request: each opening is counted.
    async fn by_token(&self, (id, share): (&str, Uuid), token: &ShareToken) -> crate::Result<Arc<Held>> {
        let readers = &self.broker.readers;
        let audience = Audience::Token(Sha256::digest(token.expose()).into());
        if let Some(held) = readers.at(id, "main", audience) {
            return Ok(held);
        }
        let (reader, _, expires, card) = self.broker.open_shared(share, token, &silent()).await?;
        Ok(readers.keep(Held {
            id: id.to_owned(),
            asked: "main".to_owned(),
            audience,
            expires,
            card,
            reader,
        }))
    }

    /// A model whose record everybody sees.
    async fn listed(
        &self,
        (id, page): (&str, &ModelPage),
        revision: &str,
    ) -> Result<Option<Arc<dyn Repo>>, RegistryError> {
        let found = revision_of(page, revision).ok_or_else(|| RegistryError::RevisionNotFound {
            revision: revision.to_owned(),
        })?;
        self.signed(id, found).await.map_err(content)?;
        let commit = &found.record.commit;
        let held = match found.record.visibility {
            Visibility::Public => self.public(found).await.map_err(content)?,
            Visibility::Sealed => {
                let known = self.broker.readers.at(id, commit, Audience::Kernel);
                match known {
                    Some(held) => held,
                    None => match self.questions.open(&self.broker, id, commit).await? {
                        Opened::Open(held) => held,
                        Opened::Refused(problem) => {
                            let info = info(page, found);
                            let closed = OpenedRevision::recorded(info, Err(problem.to_string()));
                            return Ok(Some(Arc::new(closed)));
                        }
                    },
                }
            }
            Visibility::Private => return Ok(None),
        };
        if !held.revision().eq_ignore_ascii_case(commit) || !is_of(id, &held) {
            return Err(content(unfit(
                &found.record,
                "another revision was opened in its place",
            )));
        }
        // What its record says of the files is shown only as far as the owner's own manifest agrees.
        let repo = match same_files(&found.record, &held) {
            true => OpenedRevision::recorded(info(page, found), Ok(held)),
            false => OpenedRevision::of(held).await?,
        };
        Ok(Some(Arc::new(repo)))
    }

    /// A model that no index shows: a private one, or none.
    async fn unlisted(&self, id: &str, revision: &str) -> Result<Option<Arc<dyn Repo>>, RegistryError> {
        let held = match self.broker.readers.at(id, revision, Audience::Kernel) {
            Some(held) => held,
            None => match self.questions.open(&self.broker, id, revision).await? {
                Opened::Open(held) => held,
                Opened::Refused(_) => return Ok(None),
            },
        };
        if !is_of(id, &held) {
            let reason = format!("a model of another owner was opened in the place of {id}");
            return Err(content(BrokerError::Answer { reason }));
        }
        Ok(Some(Arc::new(OpenedRevision::of(held).await?)))
    }

    /// What the gateway's index shows of a model.
    async fn page(&self, id: &str) -> Result<Option<Arc<ModelPage>>, RegistryError> {
        let key = id.to_ascii_lowercase();
        let known = {
            let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
            let found = pages.get(&key).filter(|(read, _)| read.elapsed() < RECENT);
            found.map(|(_, page)| page.clone())
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let page = self.broker.gateway.model_if_any(id).await;
        let page = page.map_err(|source| content(source.into()))?.map(Arc::new);
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() >= PAGES_MAX {
            pages.clear();
        }
        pages.insert(key, (Instant::now(), page.clone()));
        Ok(page)
    }

    /// Whether what the gateway says of a model is what the owner in its name signed for it.
    async fn signed(&self, id: &str, found: &IndexedModel) -> Result<(), BrokerError> {
        let (told, owner) = (&found.record, &found.record.owner);
        let is_its = told.name.eq_ignore_ascii_case(id)
            && id
                .split_once('/')
                .is_some_and(|(of, _)| of.eq_ignore_ascii_case(owner));
        if !is_its {
            let reason = format!("the gateway names the record of {} for {id}", told.name);
            return Err(BrokerError::Answer { reason });
        }
        let is_known = {
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            records.get(&found.message) == Some(told)
        };
        if is_known {
            return Ok(());
        }
        let record = self.broker.storage.post(&found.message).await?;
        let record = record
            .filter(|post| post.post_type == MODEL_RECORD_TYPE && post.address.eq_ignore_ascii_case(owner))
            .and_then(|post| serde_json::from_value::<ModelRecord>(post.content).ok());
        let record = record.filter(|record| record == told && record.check().is_ok());
        let record = record.ok_or_else(|| unfit(told, "its record is not the one that its owner signed"))?;
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= PAGES_MAX {
            records.clear();
        }
        records.insert(found.message.clone(), record);
        Ok(())
    }

    /// Opens a public revision with the keys in its record, which was found to be signed.
    async fn public(&self, found: &IndexedModel) -> Result<Arc<Held>, BrokerError> {
        let (broker, record) = (&self.broker, &found.record);
        if let Some(held) = broker.readers.at(&record.name, &record.commit, Audience::Kernel) {
            return Ok(held);
        }
        let unfit = |reason: &str| unfit(record, reason);
        let head = broker.storage.post(&found.record.head).await?;
        let head = head.filter(|post| post.post_type == HEAD_POST_TYPE);
        let head = head.ok_or_else(|| unfit("the Aleph node does not have its head"))?;
        let head = SignedHead::from_post(&head.content)?;
        head.verify()?;
        let keys = ObjectKeys::from_public(found.record.keys.as_deref().unwrap_or_default())?;
        let is_its = head.revision() == found.record.commit
            && head.head.owner.to_string().eq_ignore_ascii_case(&record.owner)
            && keys.head_hash == head.hash()
            && keys.head_message == found.record.head;
        if !is_its {
            return Err(unfit("its head or its keys are those of another revision"));
        }
        let reader = open_reader(broker.storage.clone(), head, Keys::Objects(keys)).await?;
        Ok(broker.readers.keep(Held {
            id: found.record.name.clone(),
            asked: found.record.commit.clone(),
            audience: Audience::Kernel,
            expires: None,
            card: Some(found.record.card.clone()),
            reader,
        }))
    }
}

/// `main` by its other name.
fn plain(revision: &str) -> &str {
    match revision {
        "refs/heads/main" => "main",
        other => other.strip_prefix("refs/tags/").unwrap_or(other),
    }
}

fn named(id: &str) -> Option<Named> {
    let (owner, name) = id.split_once('/')?;
    match owner {
        "m" => name.parse().ok().map(Named::Share),
        _ => owner
            .parse::<Address>()
            .ok()
            .filter(|_| is_name(name))
            .map(|_| Named::Model),
    }
}

/// For what cannot be here: whoever names it means another hub.
fn elsewhere(id: &str) -> RegistryError {
    let message =
        format!("{id} is no model of Alephlab, and this is the hub of a kernel, which has no others");
    let hint =
        "for models of another hub set HF_ENDPOINT, HF_HOME and HF_TOKEN, none of them to this kernel's";
    RegistryError::Route {
        problem: Problem::new("model_elsewhere", format!("{message}: {hint}")),
    }
}

/// Whether the owner in this id signed the head of what is open.
fn is_of(id: &str, held: &Held) -> bool {
    let owner = held.reader.head().head.owner.to_string();
    id.split_once('/')
        .is_some_and(|(of, _)| of.eq_ignore_ascii_case(&owner))
}

fn unfit(record: &ModelRecord, reason: &str) -> BrokerError {
    BrokerError::Answer {
        reason: format!("{} at {}: {reason}", record.name, record.commit),
    }
}

fn revision_of<'a>(page: &'a ModelPage, revision: &str) -> Option<&'a IndexedModel> {
    if revision == "main" {
        return page.revisions.first();
    }
    let commit = page.tags.get(revision).map_or(revision, String::as_str);
    page.revisions.iter().find(|one| one.record.commit == commit)
}

/// The facts of a revision that everybody sees.
fn info(page: &ModelPage, found: &IndexedModel) -> RepoInfo {
    let record = &found.record;
    let tags = page.tags.iter().filter(|(_, commit)| **commit == record.commit);
    let first = page
        .revisions
        .last()
        .map_or(record.created, |first| first.record.created);
    RepoInfo {
        tags: tags.map(|(tag, _)| tag.clone()).collect(),
        created: first,
        downloads: page.downloads,
        aleph: Some(serde_json::json!({
            "uuid": record.uuid, "visibility": record.visibility.word(), "record": found.message, "head": record.head,
        })),
        ..RepoInfo::of(record)
    }
}

/// Whether the record names what was sealed.
fn same_files(record: &ModelRecord, held: &Held) -> bool {
    let reader = &held.reader;
    let is_same = |file: &alephlab_api::model::RecordFile| {
        let entry = reader.entry(&file.path).filter(|entry| entry.is_file());
        entry.is_some_and(|entry| entry.size == file.size && hex::encode(entry.sha256) == file.sha256)
    };
    reader.files() == record.files.len() as u64 && record.files.iter().all(is_same)
}

async fn at_revision(held: Arc<Held>, revision: &str) -> Result<Option<Arc<dyn Repo>>, RegistryError> {
    if revision != "main" && revision != held.revision() {
        return Err(RegistryError::RevisionNotFound {
            revision: revision.to_owned(),
        });
    }
    Ok(Some(Arc::new(OpenedRevision::of(held).await?)))
}

/// For what no cell waits for.
fn silent() -> Report {
    Report::new(0, mpsc::channel(1).0)
}

impl Library for KernelLibrary {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Arc<dyn Repo>>> {
        self.found(id, revision, bearer).boxed()
    }

    fn refs<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Refs>> {
        async move {
            let Some(repo) = self.found(id, "main", bearer).await? else {
                return Ok(None);
            };
            let named = |name: &str, revision: &str| NamedRevision {
                name: name.to_owned(),
                revision: revision.to_owned(),
            };
            let tags = match self.page(id).await? {
                Some(page) => page.tags.iter().map(|(tag, commit)| named(tag, commit)).collect(),
                None => Vec::new(),
            };
            Ok(Some(Refs {
                branches: vec![named("main", &repo.info().revision)],
                tags,
            }))
        }
        .boxed()
    }

    /// What is open: the whole registry is searched at a gateway.
    fn list<'a>(&'a self, search: &'a Search, bearer: Option<&'a Secret>) -> Answer<'a, Page> {
        async move {
            let mut found = Vec::new();
            if matches!(self.asker(bearer)?, Asker::Kernel) {
                for held in self.broker.readers.all() {
                    found.push(OpenedRevision::of(held).await?.info().clone());
                }
            }
            Ok(search.page(found))
        }
        .boxed()
    }

    fn who<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<String>> {
        let name = self.is_kernel(bearer).then(|| self.broker.account.clone());
        async move { Ok(name) }.boxed()
    }

    /// It answers one machine, and its token cannot be guessed.
    fn refused(&self, _: SocketAddr) -> bool {
        false
    }
}
