//! Models on the machine of who publishes and of who reads them: sealed here, signed here, opened here.
//!
//! `index` reads what owners have signed on Aleph, `private` what of it is sealed for this account, `open` opens a revision with this account's keys,
//! `publish` makes one, `room` looks first whether its record fits, `ledger` keeps the books, `market` sells and buys, `names` moves tags and withdraws, `signature` makes `model.sig`, `pull` puts files into a folder, `check` verifies. The gateway is told what was
//! published, and asked for what others publish; nothing here needs its word for what a model is. Used by `alephlab model`
//! and `alephlab hub`.

mod check;
mod index;
mod ledger;
mod listing;
mod market;
mod names;
mod open;
mod private;
mod publish;
mod pull;
mod reference;
mod room;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Problem;
use alephlab_api::client::GatewayClient;
use alephlab_vault::storage::Storage;
use alephlab_vault::{Address, VaultError};
use tokio::sync::OnceCell;

use crate::account::Account;
use crate::error::{CliError, Result};
use crate::keys::{Books, Engine};

pub(crate) use check::{Checked, Lies, Scanners, check_files, refusal, refuse_code, unchecked};
pub(crate) use index::{Index, Model, Models, Revision, named};
pub(crate) use ledger::{complete, forget_clear, half_posted};
pub(crate) use listing::listed;
pub(crate) use market::Asks;
pub(crate) use names::{carried_tags, withdrawal};
pub(crate) use open::{Entitled, Opened};
pub(crate) use private::Secret;
pub(crate) use publish::{New, Origin};
pub(crate) use pull::{hash_of, into_folder};
pub(crate) use reference::Reference;

/// How long what another account has signed is taken for its newest. Own messages are read anew after each change.
const RECENT: Duration = Duration::from_secs(3);

/// One account's view of models.
pub(crate) struct Registry {
    account: Arc<Account>,
    storage: Arc<dyn Storage>,
    /// None where none runs: what is on Aleph can be read without.
    gateway: Option<GatewayClient>,
    books: Books,
    index: Index,
    readers: open::Readers,
    /// Address by which terms name the gateway, once it is known.
    signer: OnceCell<String>,
}

/// A model that was found, at one revision.
#[derive(Clone)]
pub(crate) struct Found {
    /// `owner/name`.
    pub(crate) name: String,
    /// All of it.
    pub(crate) model: Model,
    /// The revision that was named.
    pub(crate) revision: Revision,
}

impl Registry {
    pub(crate) fn new(
        account: Arc<Account>,
        storage: Arc<dyn Storage>,
        gateway: Option<GatewayClient>,
    ) -> Self {
        Self {
            books: Books::of(&account),
            index: Index::new(Arc::clone(&account), Arc::clone(&storage)),
            readers: open::Readers::default(),
            signer: OnceCell::new(),
            account,
            storage,
            gateway,
        }
    }

    /// The account, whose address is the namespace of its models.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// The gateway.
    ///
    /// # Errors
    /// Where none is known.
    pub(crate) fn gateway(&self) -> Result<&GatewayClient> {
        self.gateway.as_ref().ok_or_else(|| CliError::Usage {
            message: "this needs a gateway, and none is known".to_owned(),
            hint: "start `alephlab up`, or name one with --gateway".to_owned(),
        })
    }

    /// The gateway, where one is known.
    pub(crate) fn gateway_if_any(&self) -> Option<&GatewayClient> {
        self.gateway.as_ref()
    }

    /// The keys of this account, for what needs a gateway.
    pub(crate) fn engine(&self) -> Result<Engine> {
        let gateway = self.gateway()?.clone();
        Ok(Engine::new(self.account.clone(), self.storage.clone(), gateway))
    }

    /// What this account has published, by plain name.
    pub(crate) async fn own(&self) -> Result<Arc<Models>> {
        self.index.recent(&self.account.address(), RECENT).await
    }

    /// One model by owner and plain name, or what stands for the name of a private one; none that was never published. Recent, and of an own one always the newest.
    pub(crate) async fn model(&self, owner: Address, name: &str) -> Result<Option<Model>> {
        let models = self.index.recent(&owner.to_string(), RECENT).await?;
        Ok(named(&models, name).map(|(_, model)| model.clone()))
    }

    /// Models of another account by plain name.
    pub(crate) async fn of(&self, owner: Address) -> Result<Arc<Models>> {
        self.index.recent(&owner.to_string(), RECENT).await
    }

    /// Finds the revision that a person named.
    ///
    /// # Errors
    /// One sentence that says what there is none of.
    pub(crate) async fn find(&self, owner: Option<Address>, name: &str, at: Option<&str>) -> Result<Found> {
        let own = self.account.wallet().owner();
        let address = owner.unwrap_or(own);
        let missing = |message: String| CliError::Usage {
            message,
            hint: match address == own {
                true => "`alephlab model ls` lists what this account has published".to_owned(),
                false => {
                    "check owner and name; `alephlab model ls --all` lists what the gateway knows".to_owned()
                }
            },
        };
        let unpublished = || match address == own {
            true => missing(format!(
                "the account {} has published no model called {name:?}",
                self.account.name()
            )),
            false => missing(format!("{address} has published no model called {name:?}")),
        };
        let models = self.index.recent(&address.to_string(), RECENT).await?;
        let (name, model) = named(&models, name).ok_or_else(unpublished)?;
        let (full, model) = (format!("{address}/{name}"), model.clone());
        let revision = match at {
            None => model.newest().cloned(),
            Some(at) => match model.find(at) {
                Some(found) => Some(found.clone()),
                None if address != own => self.bought(&model, at).await?,
                None => None,
            },
        };
        let revision = revision.ok_or_else(|| match at {
            None => missing(format!("{full} was withdrawn")),
            Some(at) => missing(format!("{full} has no revision or tag {at:?}")),
        })?;
        Ok(Found {
            name: full,
            model,
            revision,
        })
    }

    /// Finds an own model, of which something is to be changed.
    pub(crate) async fn find_own(&self, reference: &Reference) -> Result<(String, Found)> {
        match reference {
            Reference::Model {
                owner,
                name,
                revision,
            } => {
                let own = self.account.wallet().owner();
                if owner.is_some_and(|owner| owner != own) {
                    return Err(CliError::Usage {
                        message: format!("{name} belongs to another account, who alone changes it"),
                        hint: "name a model of this account".to_owned(),
                    });
                }
                let found = self.find(None, name, revision.as_deref()).await?;
                let plain = found.name.rsplit('/').next().unwrap_or(name).to_owned();
                Ok((plain, found))
            }
            Reference::Share(_) => Err(CliError::Usage {
                message: "a share cannot be changed by who was given it".to_owned(),
                hint: "name a model of this account".to_owned(),
            }),
        }
    }
}

/// Makes a vault error ours.
fn vault(what: &'static str) -> impl Fn(VaultError) -> CliError {
    move |error| CliError::vault(what, &error)
}

/// A refusal in our own words.
fn refuse(code: &str, message: impl Into<String>, hint: &str) -> CliError {
    CliError::Refused {
        problem: Problem::new(code, message).with_hint(hint),
    }
}

#[cfg(test)]
mod tests;
