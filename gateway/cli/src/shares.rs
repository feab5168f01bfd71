//! Makes a share on the owner's machine: the token is born here, and the gateway gets only what cannot open anything.
//!
//! Used by `share create` and `quickstart`.

use alephlab_api::share::{NewShare, ShareLimits};
use alephlab_vault::share::{ShareTerms, ShareToken, seal_share};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::error::{CliError, Result};
use crate::keys::Engine;

const WHAT: &str = "the share was not made";

/// A share that was just made. No `Debug`: the token is shown once, by the command.
pub(crate) struct Shared {
    /// The share's id.
    pub uuid: Uuid,
    /// What opens it.
    pub token: ShareToken,
    /// `owner/name`.
    pub model: String,
    /// 40 hex digits.
    pub revision: String,
}

/// Shares one revision of a model of this account, until `expires` in unix seconds if given.
pub(crate) async fn create(engine: &Engine, reference: &str, expires: Option<u64>) -> Result<Shared> {
    let fail = |error| CliError::vault(WHAT, &error);
    let opened = engine.open_here(reference).await?;
    if !opened.name.contains('/') {
        return Err(CliError::Usage {
            message: format!("{reference} is a dataset, and only models can be shared"),
            hint: "write the name of a model that this account has published".to_owned(),
        });
    }
    let (model, revision) = (opened.name.clone(), opened.head.revision());
    let keys = engine.narrow(opened, WHAT).await?;
    let token = ShareToken::generate().map_err(fail)?;
    let terms = ShareTerms {
        uuid: Uuid::new_v4(),
        model,
        revision,
        expires,
    };
    let sealed = seal_share(&token, &terms, &keys).map_err(fail)?;
    let new = NewShare {
        uuid: terms.uuid,
        model: terms.model.clone(),
        revision: terms.revision.clone(),
        expires,
        auth_sha256: token.auth_sha256(),
        limits: ShareLimits::default(),
        sealed: STANDARD.encode(sealed),
    };
    engine.gateway().new_share(&new).await?;
    Ok(Shared {
        uuid: terms.uuid,
        token,
        model: terms.model,
        revision: terms.revision,
    })
}
