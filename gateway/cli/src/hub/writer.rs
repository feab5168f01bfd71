//! What Hub clients change. A commit is one revision: sealed, signed and posted before it is answered, because the commit
//! that a client is told is the hash of the signed head. A repo without one is a draft of this machine (ADR 32).

use alephlab_api::model::{RecordFile, Visibility, is_tag};
use alephlab_api::time::unix_now;
use alephlab_api::{Card, Secret};
use alephlab_registry::{
    Answer, Caller, Change, Committed, Gated, NewCommit, NewRepo, README_MAX, RefKind, RegistryError,
    Settings, Writer, read_card,
};
use futures_util::FutureExt as _;

use super::Sealed;
use super::drafts::Draft;
use super::repo::{content, storage};
use crate::error::CliError;
use crate::models::{Model, New, Origin};

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Said once of a commit that brings a card.
const CARD_PUBLIC: &str = "the text of its README.md is public now, for good: it is the model's card, which stands in the signed record; \
    what is in the other files is not";

/// An own repo as it is now.
pub(super) struct Own {
    /// Its plain name.
    pub(super) name: String,
    /// Revisions, where there are any that stand.
    pub(super) model: Option<Model>,
    pub(super) draft: Option<Draft>,
}

impl Own {
    /// What `main` stands for.
    fn head(&self) -> String {
        let newest = self.model.as_ref().and_then(Model::newest);
        match (newest, &self.draft) {
            (Some(newest), _) => newest.record.commit.clone(),
            (None, Some(draft)) => draft.revision(&self.name),
            (None, None) => String::new(),
        }
    }

    fn files(&self) -> Vec<RecordFile> {
        let newest = self.model.as_ref().and_then(Model::newest);
        newest
            .map(|newest| newest.record.files.clone())
            .unwrap_or_default()
    }

    /// Whether it is private, and an earlier revision in the clear still stands.
    fn is_half_hidden(&self) -> bool {
        let is_shown = self.model.as_ref().is_some_and(|model| model.has(false));
        is_shown && self.visibility() == Visibility::Private
    }

    pub(super) fn visibility(&self) -> Visibility {
        let newest = self.model.as_ref().and_then(Model::newest);
        let of_draft = self.draft.as_ref().map(|draft| draft.visibility);
        newest
            .map(|newest| newest.record.visibility)
            .or(of_draft)
            .unwrap_or_default()
    }
}

impl Sealed {
    /// An own repo, that the caller sees and may change.
    async fn owned(&self, id: &str) -> Result<Own> {
        let name = self.own_name(id);
        let Some(name) = name else {
            // Whether another's is there that this account sees is no secret to it.
            return match self.repo_is_there(id).await? {
                true => Err(self.foreign()),
                false => Err(RegistryError::RepoNotFound),
            };
        };
        let own = self.own_repo(name).await?;
        match (&own.model, &own.draft) {
            (None, None) => Err(RegistryError::RepoNotFound),
            _ => Ok(own),
        }
    }

    async fn own_repo(&self, name: String) -> Result<Own> {
        let owner = self.registry.account().wallet().owner();
        let model = self.registry.model(owner, &name).await;
        let model = model.map_err(|error| content(&error))?;
        let draft = self.drafts.get(&name).map_err(|error| storage(&error))?;
        Ok(Own {
            model: model.filter(|model| model.newest().is_some()),
            draft,
            name,
        })
    }

    async fn repo_is_there(&self, id: &str) -> Result<bool> {
        let token = self.token.clone();
        let found = alephlab_registry::Library::repo(self, id, Some(&token)).await?;
        Ok(found.is_some())
    }

    fn foreign(&self) -> RegistryError {
        RegistryError::Forbidden {
            reason: format!(
                "this hub publishes below {} only",
                self.registry.account().address()
            ),
        }
    }

    async fn create_repo(&self, new: &NewRepo) -> Result<()> {
        let name = self.own_name(&new.id).ok_or_else(|| self.foreign())?;
        let _changing = self.changing.lock().await;
        let own = self.own_repo(name.clone()).await?;
        if own.model.is_some() || own.draft.is_some() {
            return Err(RegistryError::Exists {
                what: format!("the repository {}", new.id),
                url: None,
            });
        }
        let said = visibility(new.private, None, Visibility::default());
        let draft = Draft {
            created: unix_now(),
            visibility: match said {
                Some(said) => said,
                // What was private before it was deleted stays so.
                None => {
                    let next = self.registry.next_visibility(&name).await;
                    next.map_err(|error| content(&error))?
                }
            },
        };
        match self
            .drafts
            .set(&name, Some(draft))
            .map_err(|error| storage(&error))?
        {
            true => Ok(()),
            false => Err(RegistryError::TooLarge {
                what: "one more repository without a revision".to_owned(),
                most: "drafts".to_owned(),
            }),
        }
    }

    async fn delete_repo(&self, id: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        let own = self.owned(id).await?;
        if own.model.is_some() {
            let withdrawn = self.registry.withdraw(&own.name, None).await;
            let withdrawn = withdrawn.map_err(|error| storage(&error))?;
            say_untold(withdrawn.untold.as_ref());
        }
        self.drafts
            .set(&own.name, None)
            .map_err(|error| storage(&error))?;
        Ok(())
    }

    async fn rename_repo(&self, from: &str, to: &str) -> Result<()> {
        let new_name = self.own_name(to).ok_or_else(|| self.foreign())?;
        let _changing = self.changing.lock().await;
        let own = self.owned(from).await?;
        if own.model.is_some() {
            return Err(RegistryError::Invalid {
                reason: format!(
                    "{from} keeps its name: its revisions are signed with it; publish it anew as {to} and delete {from}"
                ),
            });
        }
        let other = self.own_repo(new_name.clone()).await?;
        if other.model.is_some() || other.draft.is_some() {
            return Err(RegistryError::Exists {
                what: format!("the repository {to}"),
                url: None,
            });
        }
        let failed = |error: CliError| storage(&error);
        self.drafts.set(&new_name, own.draft).map_err(failed)?;
        self.drafts.set(&own.name, None).map_err(failed)?;
        Ok(())
    }

    async fn set_repo(&self, id: &str, settings: &Settings) -> Result<Option<String>> {
        let _changing = self.changing.lock().await;
        let own = self.owned(id).await?;
        let before = own.visibility();
        let wanted = visibility(settings.private, settings.gated, before);
        if wanted.is_none() && settings.gated == Some(Gated::No) && before == Visibility::Sealed {
            return Err(RegistryError::Invalid {
                reason: format!(
                    "{id} is sealed, and so always gated; to let anyone in, for good, make it public"
                ),
            });
        }
        // Also where it is private already and something of before is still shown: hiding that was cut.
        let is_new = |wanted: &Visibility| *wanted != before || own.is_half_hidden();
        let Some(wanted) = wanted.filter(is_new) else {
            return Ok(None);
        };
        if own.model.is_none() {
            let draft = own.draft.map(|draft| Draft {
                visibility: wanted,
                ..draft
            });
            self.drafts
                .set(&own.name, draft)
                .map_err(|error| storage(&error))?;
            return Ok(None);
        }
        // Who may open a revision stands in its signed record: another answer is another revision, of the same objects.
        let kept = own
            .files()
            .into_iter()
            .map(|file| (file.path.clone(), Origin::Kept(file.path)));
        let new = New {
            name: own.name.clone(),
            files: kept.collect(),
            visibility: Some(wanted),
            ..New::default()
        };
        self.publish(new).await?;
        Ok(Some(wanted.consequence(before).to_owned()))
    }

    async fn commit_to(&self, caller: &Caller, id: &str, commit: NewCommit) -> Result<Committed> {
        let branch = commit
            .branch
            .strip_prefix("refs/heads/")
            .unwrap_or(&commit.branch);
        if branch != "main" {
            return Err(one_branch());
        }
        let _changing = self.changing.lock().await;
        let own = self.owned(id).await?;
        let head = own.head();
        if commit.parent.as_ref().is_some_and(|parent| *parent != head) {
            return Err(RegistryError::StaleParent { head });
        }
        let before = own.files();
        let files = commit.apply(&before, &head)?;
        if files == before && !own.is_half_hidden() {
            return Ok(Committed {
                revision: head,
                told: None,
            });
        }
        if files.is_empty() {
            return Err(RegistryError::Invalid {
                reason: "a revision without files cannot be published: delete the repository instead"
                    .to_owned(),
            });
        }
        let mut origins = Vec::new();
        for file in &files {
            let origin = self.origin(&own, &before, file, &commit).await?;
            origins.push((file.path.clone(), origin));
        }
        let readme = readme(&files, &before).cloned();
        let published = self.publish_from(&own, origins.clone(), files, readme).await;
        let committed = published.inspect_err(|_| self.distrust(&origins))?;
        self.drafts
            .set(&own.name, None)
            .map_err(|error| storage(&error))?;
        // Sealed: the plaintext need not lie here any longer.
        for change in &commit.changes {
            if let Change::Put { content, .. } = change
                && content.staged.is_some()
            {
                self.staging
                    .forget(&self.staging.key(&caller.account), &content.sha256);
            }
        }
        Ok(committed)
    }

    /// Publishes what a commit makes of a repo.
    async fn publish_from(
        &self,
        own: &Own,
        origins: Vec<(String, Origin)>,
        files: Vec<RecordFile>,
        readme: Option<RecordFile>,
    ) -> Result<Committed> {
        if !self.unchecked {
            self.refuse(own, &origins).await?;
        }
        let card = match &readme {
            Some(readme) => Some(self.card(&origins, readme).await?),
            None => None,
        };
        // Of a public model all is public, of a private one nothing.
        let told = (card.is_some() && own.visibility() == Visibility::Sealed).then(|| CARD_PUBLIC.to_owned());
        let new = New {
            name: own.name.clone(),
            files: origins,
            known: Some(files),
            card,
            visibility: Some(own.visibility()),
            ..New::default()
        };
        let revision = self.publish(new).await?;
        Ok(Committed { revision, told })
    }

    /// The card of a `README.md` that this commit brings.
    async fn card(&self, origins: &[(String, Origin)], readme: &RecordFile) -> Result<Card> {
        let origin = origins.iter().find(|(path, _)| *path == readme.path);
        let Some((_, Origin::File(place))) = origin else {
            return Ok(Card::default());
        };
        if readme.size > README_MAX {
            return Ok(Card::default());
        }
        let bytes = tokio::fs::read(place).await;
        let bytes = bytes.map_err(|source| storage(&CliError::file("read", place, source)))?;
        Ok(read_card(&String::from_utf8_lossy(&bytes)))
    }

    async fn publish(&self, new: New) -> Result<String> {
        // To its end, also if the client goes away: what is half posted helps nobody.
        let hub = self.clone();
        let published = tokio::spawn(async move { hub.registry.publish(new, &|_, _, _| {}).await }).await;
        let published = published.map_err(|error| {
            storage(&CliError::Stopped {
                doing: format!("publishing ({error})"),
            })
        })?;
        let published = published.map_err(|error| storage(&error))?;
        say_untold(published.untold.as_ref());
        Ok(published.record.commit.clone())
    }
}

/// The `README.md` of a revision, if it is not that of the one before.
fn readme<'a>(files: &'a [RecordFile], before: &[RecordFile]) -> Option<&'a RecordFile> {
    let of = |file: &&RecordFile| file.path == "README.md";
    let (new, old) = (files.iter().find(of), before.iter().find(of));
    match (new, old) {
        (Some(new), Some(old)) if new.sha256 == old.sha256 => None,
        (new, _) => new,
    }
}

/// What the Hub's two settings mean for a repo that is as it is now.
fn visibility(private: Option<bool>, gated: Option<Gated>, now: Visibility) -> Option<Visibility> {
    let is_gated = matches!(gated, Some(Gated::Auto | Gated::Manual));
    match private {
        Some(true) => Some(Visibility::Private),
        Some(false) if is_gated => Some(Visibility::Sealed),
        Some(false) => Some(Visibility::Public),
        // A gate before what nobody sees publishes nothing of it.
        None if is_gated && now != Visibility::Private => Some(Visibility::Sealed),
        // No gate is not yet a published key.
        None => None,
    }
}

fn one_branch() -> RegistryError {
    RegistryError::Invalid {
        reason: "a model has one branch, `main`: name revisions by tags".to_owned(),
    }
}

fn say_untold(error: Option<&CliError>) {
    if let Some(error) = error {
        tracing::warn!(%error, "published on Aleph, and the gateway was not told");
    }
}

impl Writer for Sealed {
    fn caller<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<Caller>> {
        let known = self.is_account(Some(bearer)).unwrap_or(false);
        let caller = known.then(|| Caller {
            account: self.registry.account().address(),
            may_write: true,
        });
        async move { Ok(caller) }.boxed()
    }

    fn may_write<'a>(&'a self, _: &'a Caller, id: &'a str) -> Answer<'a, ()> {
        async move { self.owned(id).await.map(|_| ()) }.boxed()
    }

    fn create<'a>(&'a self, _: &'a Caller, new: &'a NewRepo) -> Answer<'a, ()> {
        self.create_repo(new).boxed()
    }

    fn delete<'a>(&'a self, _: &'a Caller, id: &'a str) -> Answer<'a, ()> {
        self.delete_repo(id).boxed()
    }

    fn rename<'a>(&'a self, _: &'a Caller, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        self.rename_repo(from, to).boxed()
    }

    fn set<'a>(&'a self, _: &'a Caller, id: &'a str, settings: &'a Settings) -> Answer<'a, Option<String>> {
        self.set_repo(id, settings).boxed()
    }

    fn holds<'a>(&'a self, _: &'a Caller, id: &'a str, sha256: &'a str) -> Answer<'a, Option<u64>> {
        async move {
            let own = self.owned(id).await?;
            let found = self.readable(&own, sha256).await?;
            Ok(found.and_then(|(record, _)| {
                let file = record.files.iter().find(|file| file.sha256 == sha256)?;
                Some(file.size)
            }))
        }
        .boxed()
    }

    fn commit<'a>(&'a self, caller: &'a Caller, id: &'a str, commit: NewCommit) -> Answer<'a, Committed> {
        self.commit_to(caller, id, commit).boxed()
    }

    fn set_ref<'a>(
        &'a self,
        _: &'a Caller,
        id: &'a str,
        kind: RefKind,
        name: &'a str,
        revision: &'a str,
    ) -> Answer<'a, ()> {
        async move {
            let _changing = self.changing.lock().await;
            let own = self.owned(id).await?;
            if kind == RefKind::Branch {
                return Err(one_branch());
            }
            if !is_tag(name) {
                return Err(RegistryError::Invalid {
                    reason: format!(
                        "`{name}` cannot be a tag here: use letters, digits, dots, hyphens and underscores"
                    ),
                });
            }
            let unknown = || RegistryError::RevisionNotFound {
                revision: revision.to_owned(),
            };
            let model = own.model.ok_or_else(unknown)?;
            let commit = model.find(revision).ok_or_else(unknown)?.record.commit.clone();
            if model.tags.contains_key(name) {
                return Err(RegistryError::Exists {
                    what: format!("the name {name}"),
                    url: None,
                });
            }
            let posted = self.registry.tag(&own.name, name, &commit).await;
            let posted = posted.map_err(|error| storage(&error))?;
            say_untold(posted.as_ref().and_then(|posted| posted.untold.as_ref()));
            Ok(())
        }
        .boxed()
    }

    fn remove_ref<'a>(&'a self, _: &'a Caller, id: &'a str, kind: RefKind, name: &'a str) -> Answer<'a, ()> {
        async move {
            let _changing = self.changing.lock().await;
            let own = self.owned(id).await?;
            let is_there = own.model.is_some_and(|model| model.tags.contains_key(name));
            if kind == RefKind::Branch || !is_there {
                return Err(RegistryError::RevisionNotFound {
                    revision: name.to_owned(),
                });
            }
            let posted = self.registry.untag(&own.name, name).await;
            let posted = posted.map_err(|error| storage(&error))?;
            say_untold(posted.as_ref().and_then(|posted| posted.untold.as_ref()));
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_hub_publish_nothing_that_was_not_asked_for() {
        use Visibility::{Private, Public, Sealed};
        for now in [Sealed, Public, Private] {
            assert_eq!(visibility(Some(true), None, now), Some(Private));
            assert_eq!(visibility(Some(true), Some(Gated::Auto), now), Some(Private));
            assert_eq!(visibility(Some(false), None, now), Some(Public));
            assert_eq!(visibility(Some(false), Some(Gated::Manual), now), Some(Sealed));
            assert_eq!(visibility(None, Some(Gated::No), now), None);
        }
        assert_eq!(visibility(None, Some(Gated::Auto), Public), Some(Sealed));
        assert_eq!(visibility(None, Some(Gated::Auto), Private), None);
    }
}
