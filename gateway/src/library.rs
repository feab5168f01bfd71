//! The registry's view of this gateway, for the Hub's routes: shares as repos `m/<uuid>`, models as `owner/name`,
//! to their owner private ones as `owner/<uuid>`.

mod downloads;
mod models;
mod pace;
mod private;
mod shares;

use std::net::SocketAddr;
use std::sync::Arc;

use alephlab_api::{Problem, Secret};
use alephlab_registry::{Answer, Bought, CommitInfo, Library, Page, Refs, RegistryError, Repo, Search};
use alephlab_vault::VaultError;
use futures_util::future::FutureExt as _;

use crate::error::GatewayError;
use crate::state::{App, address};

use models::Offered;
pub(crate) use models::{PublicModels, none_open};
pub(crate) use pace::Pace;
use private::Private;
use shares::Shares;
pub(crate) use shares::{SharedModel, USED_UP, tidy};

/// Everything that the Hub's routes of this gateway can show.
pub(crate) struct Registry {
    app: Arc<App>,
    shares: Shares,
    offered: Offered,
    private: Private,
}

impl Registry {
    pub(crate) fn new(app: &Arc<App>) -> Self {
        Self {
            app: Arc::clone(app),
            shares: Shares::new(Arc::clone(app)),
            offered: Offered::new(Arc::clone(app)),
            private: Private::new(Arc::clone(app)),
        }
    }

    /// Where a repo of this id would be. No address is `m`, so no model is taken for a share; no model has a name that stands
    /// for a private one.
    fn of(&self, id: &str) -> &dyn Library {
        if id.starts_with("m/") {
            &self.shares
        } else if Private::may_be(id) {
            &self.private
        } else {
            &self.offered
        }
    }
}

impl Library for Registry {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Arc<dyn Repo>>> {
        self.of(id).at(id, revision, bearer)
    }

    fn refs<'a>(&'a self, id: &'a str, bearer: Option<&'a Secret>) -> Answer<'a, Option<Refs>> {
        self.of(id).refs(id, bearer)
    }

    fn commits<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> Answer<'a, Option<Vec<CommitInfo>>> {
        self.of(id).commits(id, revision, bearer)
    }

    fn list<'a>(&'a self, search: &'a Search, bearer: Option<&'a Secret>) -> Answer<'a, Page> {
        async move {
            let own = self.private.entries(bearer).await?;
            self.offered.page(search, &own).await
        }
        .boxed()
    }

    fn pay<'a>(&'a self, id: &'a str, revision: &'a str, payment: &'a str) -> Answer<'a, Option<Bought>> {
        self.of(id).pay(id, revision, payment)
    }

    fn who<'a>(&'a self, bearer: &'a Secret) -> Answer<'a, Option<String>> {
        self.shares.who(bearer)
    }

    fn refused(&self, peer: SocketAddr) -> bool {
        self.app.refuse(address(peer))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn content(error: VaultError) -> RegistryError {
    tracing::warn!(code = error.code(), "a file cannot be read");
    let (code, message) = error.told();
    RegistryError::Content {
        problem: Problem {
            code: code.to_owned(),
            message,
            hint: error.hint(),
        },
    }
}

fn inside(error: GatewayError) -> RegistryError {
    // What is wrong with content may be told; what failed here is for the log.
    if let GatewayError::Refused { problem, .. } = error {
        return RegistryError::Content { problem };
    }
    tracing::error!(%error, "the registry's database failed");
    let message = "the gateway could not look this up";
    RegistryError::Content {
        problem: Problem::new("gateway_database", message),
    }
}
