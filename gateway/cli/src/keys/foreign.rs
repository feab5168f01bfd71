//! Models of other owners: which revision is meant, and whether this account may open it, by a grant or because it has bought it.

use alephlab_vault::{ObjectKeys, SignedHead, VaultError, find_grant_and_policy, find_release, heads_of};

use super::engine::{Engine, GrantedModel, ModelAt, vault};
use super::open::{LOOK_AGAIN, model_of};
use crate::error::Result;
use crate::models;

const WHAT: &str = "the request to open was not answered";

impl Engine {
    /// Finds a revision of another owner's model, and whether it opens before a dataset of that name does: one that this account
    /// may open, unless the reference is a dataset's `@NUMBER`. Of private models those are there that it may open.
    pub(super) async fn find_model(&self, reference: &str) -> Result<Option<(ModelAt, GrantedModel, bool)>> {
        let own = self.account.wallet().owner();
        let Some(at) = model_of(reference).filter(|(owner, ..)| *owner != own) else {
            return Ok(None);
        };
        let models = self.index.recent(&at.0.to_string(), LOOK_AGAIN).await?;
        let revision = models::named(&models, &at.1).and_then(|(name, model)| {
            let revision = model.find(at.2.as_deref().unwrap_or("main"))?;
            Some((name, &revision.record))
        });
        let Some((name, record)) = revision else {
            return Ok(None);
        };
        let post = self.storage.post(&record.head).await.map_err(vault(WHAT))?;
        let Some(head) = post.and_then(|post| SignedHead::from_post(&post.content).ok()) else {
            return Ok(None);
        };
        let is_version = at.2.as_ref().is_some_and(|at| at.parse::<u64>().is_ok());
        let granted = find_grant_and_policy(&*self.storage, &head, self.account.reader()).await;
        let opens = match granted {
            Ok(_) => !is_version,
            Err(error @ VaultError::Unavailable { .. }) => return Err(vault(WHAT)(error)),
            Err(_) => {
                let (buyer, key) = (self.account.wallet().owner(), self.account.reader());
                let released = find_release(&*self.storage, &head, buyer, key).await;
                !is_version && released.is_ok_and(|keys| keys.is_some())
            }
        };
        let found = GrantedModel {
            name: name.to_owned(),
            dataset_id: head.head.dataset_id,
            revision: record.commit.clone(),
        };
        Ok(Some((at, found, opens)))
    }

    /// A revision of another owner's model that this account has bought, and that was not granted to it.
    pub(super) async fn open_bought(
        &self,
        reference: &str,
    ) -> Result<Option<(SignedHead, String, ObjectKeys)>> {
        let Some((at, found, true)) = self.find_model(reference).await? else {
            return Ok(None);
        };
        let owner = at.0.to_string();
        let heads = heads_of(&*self.storage, &owner, &found.dataset_id).await;
        let mut heads = heads.map_err(vault(WHAT))?.into_iter();
        let Some((head, _)) = heads.find(|(head, _)| head.revision() == found.revision) else {
            return Ok(None);
        };
        let key = self.account.reader();
        if find_grant_and_policy(&*self.storage, &head, key).await.is_ok() {
            return Ok(None);
        }
        let buyer = self.account.wallet().owner();
        let keys = find_release(&*self.storage, &head, buyer, key).await;
        let name = format!("{owner}/{}", found.name);
        Ok(keys.map_err(vault(WHAT))?.map(|keys| (head, name, keys)))
    }
}
