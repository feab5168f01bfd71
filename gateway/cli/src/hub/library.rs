//! What this hub shows: to the bearer of its token the account's own models, what others have published, and the shares
//! whose token the account keeps, as `m/UUID`; to everybody else on this machine, public models only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::model::Visibility;
use alephlab_registry::{
    Answer, CommitInfo, Library, NamedRevision, Page, Refs, RegistryError, Repo, RepoInfo, Search,
};
use alephlab_vault::Address;
use futures_util::FutureExt as _;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::Sealed;
use super::repo::{SealedRepo, content, info};
use crate::models::{Model, listed};

/// What an id names here.
pub(super) enum Named {
    Share(Uuid),
    Model {
        owner: Address,
        name: String,
        is_own: bool,
    },
}

/// What was found under an id.
enum Seen {
    Share(Uuid),
    /// Of this account, without a revision.
    Draft(super::drafts::Draft),
    Model(Model),
}

impl Sealed {
    /// Whether this is the token that stands for the account.
    ///
    /// # Errors
    /// [`RegistryError::Token`] for another one.
    pub(super) fn is_account(&self, bearer: Option<&Secret>) -> Result<bool, RegistryError> {
        match bearer {
            None => Ok(false),
            Some(bearer) => {
                let same = bearer.expose().as_bytes().ct_eq(self.token.expose().as_bytes());
                bool::from(same).then_some(true).ok_or(RegistryError::Token)
            }
        }
    }

    /// The plain name, if the id is in this account's namespace, however its address is written.
    pub(super) fn own_name(&self, id: &str) -> Option<String> {
        match self.named(id)? {
            Named::Model {
                name, is_own: true, ..
            } => Some(name),
            _ => None,
        }
    }

    pub(super) fn named(&self, id: &str) -> Option<Named> {
        let (owner, name) = id.split_once('/')?;
        if owner == "m" {
            return name.parse().ok().map(Named::Share);
        }
        let owner: Address = owner.parse().ok()?;
        Some(Named::Model {
            owner,
            name: name.to_owned(),
            is_own: owner == self.registry.account().wallet().owner(),
        })
    }

    /// What the bearer sees under an id; revisions that it must not see are not in it.
    async fn seen(&self, id: &str, bearer: Option<&Secret>) -> Result<Option<Seen>, RegistryError> {
        let is_account = self.is_account(bearer)?;
        match self.named(id) {
            None => Ok(None),
            Some(Named::Share(share)) => Ok(is_account.then_some(Seen::Share(share))),
            Some(Named::Model { owner, name, is_own }) => {
                let found = self.registry.model(owner, &name).await;
                let model = found.map_err(|error| content(&error))?;
                let model = model.map(|model| if is_account { model } else { only_public(model) });
                if let Some(model) = model.filter(|model| model.newest().is_some()) {
                    return Ok(Some(Seen::Model(model)));
                }
                let draft = match is_own && is_account {
                    true => self.drafts.get(&name).map_err(|error| content(&error))?,
                    false => None,
                };
                Ok(draft.map(Seen::Draft))
            }
        }
    }

    async fn open_at(
        &self,
        id: &str,
        revision: &str,
        bearer: Option<&Secret>,
    ) -> Result<Option<Arc<dyn Repo>>, RegistryError> {
        let unknown = || RegistryError::RevisionNotFound {
            revision: revision.to_owned(),
        };
        let is_main = matches!(revision, "main" | "refs/heads/main");
        match self.seen(id, bearer).await? {
            None => Ok(None),
            Some(Seen::Share(share)) => {
                let opened = match self.registry.open_share(share).await {
                    Ok(opened) => opened,
                    // One whose token is not kept, and one that the gateway does not open any more.
                    Err(crate::error::CliError::Refused { .. }) => return Ok(None),
                    Err(error) => return Err(content(&error)),
                };
                if !is_main && revision != opened.revision {
                    return Err(unknown());
                }
                Ok(Some(Arc::new(SealedRepo::shared(id.to_owned(), opened))))
            }
            Some(Seen::Draft(draft)) => {
                let (owner, name) = id.split_once('/').unwrap_or_default();
                let repo = SealedRepo::draft(id.to_owned(), owner.to_owned(), name, &draft);
                if !is_main && revision != repo.info().revision {
                    return Err(unknown());
                }
                Ok(Some(Arc::new(repo)))
            }
            Some(Seen::Model(model)) => {
                let bought = match model.find(revision) {
                    Some(_) => None,
                    None if self.own_name(id).is_some() => None,
                    None => {
                        let bought = self.registry.bought(&model, revision).await;
                        bought.map_err(|error| content(&error))?
                    }
                };
                let revision = model.find(revision).or(bought.as_ref()).ok_or_else(unknown)?;
                let info = info(&model, revision);
                let record = &revision.record;
                let is_own = self.own_name(id).is_some();
                if is_own || record.visibility == Visibility::Public {
                    return Ok(Some(Arc::new(SealedRepo::closed(self.clone(), info, revision))));
                }
                let opened = self.registry.open(record).await;
                let opened = opened.map_err(|error| content(&error))?;
                let price = match opened {
                    Some(_) => None,
                    None => self.registry.price_of(record).await,
                };
                Ok(Some(Arc::new(SealedRepo::judged(info, opened, price))))
            }
        }
    }

    /// Everything that this bearer may see of this machine's own knowledge, each at its newest revision.
    async fn known(&self, is_account: bool) -> Result<BTreeMap<String, RepoInfo>, RegistryError> {
        let mut found = BTreeMap::new();
        let own = self.registry.own().await.map_err(|error| content(&error))?;
        let mut add = |model: &Model| {
            let newest = model.newest().map(|newest| info(model, newest));
            if let Some(info) = newest {
                found.insert(info.id.clone(), info);
            }
        };
        for model in own.values() {
            match is_account {
                true => add(model),
                false => add(&only_public(model.clone())),
            }
        }
        if is_account {
            let granted = self.registry.granted().await.map_err(|error| content(&error))?;
            granted.iter().for_each(add);
            let address = self.registry.account().address();
            for (name, draft) in self.drafts.all().map_err(|error| content(&error))? {
                let id = format!("{address}/{name}");
                let repo = SealedRepo::draft(id.clone(), address.clone(), &name, &draft);
                found.entry(id).or_insert_with(|| repo.info().clone());
            }
        }
        Ok(found)
    }
}

/// A model as who has no token sees it.
fn only_public(mut model: Model) -> Model {
    model
        .revisions
        .retain(|one| one.record.visibility == Visibility::Public);
    let is_there = |commit: &String| model.revisions.iter().any(|one| one.record.commit == *commit);
    model.tags.retain(|_, commit| is_there(commit));
    model
}

impl Library for Sealed {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Arc<dyn Repo>>> {
        self.open_at(id, revision, bearer).boxed()
    }

    fn refs<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Refs>> {
        async move {
            if let Some(Seen::Model(model)) = self.seen(id, bearer).await? {
                let named = |name: &str, revision: &str| NamedRevision {
                    name: name.to_owned(),
                    revision: revision.to_owned(),
                };
                let newest = model.newest();
                return Ok(Some(Refs {
                    branches: newest
                        .map(|newest| named("main", &newest.record.commit))
                        .into_iter()
                        .collect(),
                    tags: model
                        .tags
                        .iter()
                        .map(|(tag, commit)| named(tag, commit))
                        .collect(),
                }));
            }
            let repo = self.repo(id, bearer).await?;
            Ok(repo.map(|repo| Refs {
                branches: vec![NamedRevision {
                    name: "main".to_owned(),
                    revision: repo.info().revision.clone(),
                }],
                tags: Vec::new(),
            }))
        }
        .boxed()
    }

    fn commits<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Vec<CommitInfo>>> {
        async move {
            let Some(Seen::Model(model)) = self.seen(id, bearer).await? else {
                let repo = self.at(id, revision, bearer).await?;
                // A draft has no history; a share shows one revision.
                return Ok(repo.map(|_| Vec::new()));
            };
            let found = model
                .find(revision)
                .ok_or_else(|| RegistryError::RevisionNotFound {
                    revision: revision.to_owned(),
                })?;
            let until = model.revisions.iter().position(|one| one == found).unwrap_or(0);
            let history = model.revisions.iter().take(until + 1).enumerate().rev();
            Ok(Some(
                history
                    .map(|(at, one)| CommitInfo {
                        revision: one.record.commit.clone(),
                        title: format!("revision {}, {}", at + 1, one.record.visibility.word()),
                        message: String::new(),
                        author: one.record.owner.clone(),
                        created: one.record.created,
                    })
                    .collect(),
            ))
        }
        .boxed()
    }

    fn list<'a>(&'a self, search: &'a Search, bearer: Option<&'a Secret>) -> Answer<'a, Page> {
        async move {
            let is_account = self.is_account(bearer)?;
            let mut found = self.known(is_account).await?;
            if let Some(gateway) = self.registry.gateway_if_any() {
                // What the gateway does not answer is not listed; what this machine knows itself is.
                match listed(gateway, search).await {
                    Ok(others) => {
                        for other in others {
                            found.entry(other.id.clone()).or_insert(other);
                        }
                    }
                    Err(error) => tracing::warn!(%error, "the gateway lists no models"),
                }
            }
            Ok(search.page(found.into_values()))
        }
        .boxed()
    }

    fn who<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<String>> {
        let known = self.is_account(Some(bearer)).unwrap_or(false);
        let name = known.then(|| self.registry.account().address());
        async move { Ok(name) }.boxed()
    }

    /// It answers one machine, and its token cannot be guessed.
    fn refused(&self, _: SocketAddr) -> bool {
        false
    }
}
