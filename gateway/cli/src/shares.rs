//! Makes a share on the owner's machine: the token is born here, and the gateway gets only what cannot open anything. And
//! opens one whose token an account was given.
//!
//! Used by `share create`, `model share`, `quickstart`; by `keys`, `model` and `hub`.

use alephlab_api::client::GatewayClient;
use alephlab_api::share::{NewShare, ShareLimits};
use alephlab_api::{Card, Problem, Secret};
use alephlab_vault::share::{OpenedShare, ShareEnvelope, ShareTerms, ShareToken, open_envelope, seal_share};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::datasets::Reference;
use crate::error::{CliError, Result};
use crate::keys::{Books, Engine};

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
    /// How it is used, a page of the gateway.
    pub page: String,
}

/// What a share opens, of which model and until when.
pub(crate) struct Given {
    /// Head and keys.
    pub opened: OpenedShare,
    /// `owner/name`.
    pub model: String,
    /// Unix seconds; none for no end.
    pub expires: Option<u64>,
    /// The card from the signed record, by the gateway's word.
    pub card: Option<Card>,
}

/// Opens a share whose token `account` keeps in its books. The gateway gets a value derived from the token, never the token.
/// `now` in unix seconds.
pub(crate) async fn open(
    books: &Books,
    gateway: &GatewayClient,
    account: &str,
    share: Uuid,
    now: u64,
) -> Result<Given> {
    let fail = |error| CliError::vault("the share was not opened", &error);
    let token = books.accepted(share)?.ok_or_else(|| CliError::Refused {
        problem: Problem::new(
            "unknown_share",
            format!("the account {account} keeps no token of the share {share}"),
        )
        .with_hint("give it one: alephlab share accept UUID"),
    })?;
    let token = ShareToken::parse(token.expose()).map_err(fail)?;
    let envelope = gateway
        .share(share, &Secret::new(token.auth_hex().as_str()))
        .await?;
    let sent = ShareEnvelope {
        model: &envelope.model,
        revision: &envelope.revision,
        expires: envelope.expires,
        sealed: &envelope.sealed,
        head: &envelope.head,
    };
    let opened = open_envelope(&token, share, &sent, now).map_err(fail)?;
    Ok(Given {
        opened,
        model: envelope.model,
        expires: envelope.expires,
        card: envelope.card,
    })
}

/// Shares one revision of a model of this account, until `expires` in unix seconds if given, within these limits.
pub(crate) async fn create(
    engine: &Engine,
    reference: &str,
    expires: Option<u64>,
    limits: ShareLimits,
) -> Result<Shared> {
    let fail = |error| CliError::vault(WHAT, &error);
    let (name, _) = reference.split_once('@').unwrap_or((reference, ""));
    let owner = Reference::parse(name).and_then(|reference| reference.owner);
    engine.refuse_foreign(reference, owner)?;
    let opened = engine.open_here(reference).await?;
    if !opened.name.contains('/') {
        return Err(CliError::Usage {
            message: format!("{reference} is a dataset, and only models can be shared"),
            hint: "write the name of a model that this account has published".to_owned(),
        });
    }
    let (model, revision) = (engine.name_to_share(&opened).await?, opened.head.revision());
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
        limits,
        sealed: STANDARD.encode(sealed),
    };
    let gateway = engine.gateway();
    gateway.new_share(&new).await?;
    Ok(Shared {
        page: format!(
            "{}/m/{}",
            gateway.base().as_str().trim_end_matches('/'),
            terms.uuid
        ),
        uuid: terms.uuid,
        token,
        model: terms.model,
        revision: terms.revision,
    })
}
