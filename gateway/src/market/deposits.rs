//! Keys that owners give this gateway to sell: sealed at rest for a key that is a 0600 file of its own, and opened to make a share for
//! who has paid. Its operator can read such a model, and every place that sells one says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::market::{Bought, MarketInfo, NewDeposit, OrderState, ReleaseWay, SoldShare, deposit_text};
use alephlab_api::model::{RecordFile, Visibility};
use alephlab_api::time::unix_now;
use alephlab_vault::share::{ShareTerms, ShareToken, seal_share};
use alephlab_vault::{Keys, ObjectKeys, Reader, ReaderKey, Release, SignedHead, VaultError};
use axum::http::StatusCode;
use futures_util::{StreamExt as _, stream};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use uuid::Uuid;

use super::shown;
use crate::auth::Account;
use crate::error::{GatewayError, Result};
use crate::state::App;
use crate::store::{StoredOrder, StoredShare, sha256};

/// Objects of a deposited revision that are tried, and how many of them at once.
const OBJECTS_MAX: usize = 128;
const OBJECTS_AT_ONCE: usize = 8;

/// The key that deposits are sealed for.
pub(crate) struct DepositKey {
    key: ReaderKey,
    /// The receipt key's word that it is this gateway's.
    signature: String,
}

impl DepositKey {
    /// The key in `folder`, made when there is none.
    pub(crate) fn open(folder: &Path, sign: impl FnOnce(&str) -> Result<String>) -> Result<Self> {
        let path = folder.join("selling.key");
        let unusable = |error: VaultError| GatewayError::Setting {
            setting: "the selling key",
            reason: error.to_string(),
        };
        let key = if path.exists() {
            ReaderKey::load(&path, None).map_err(unusable)?
        } else {
            let key = ReaderKey::generate().map_err(unusable)?;
            key.save(&path, None).map_err(unusable)?;
            key
        };
        let signature = sign(&deposit_text(&key.public().to_hex()))?;
        Ok(Self { key, signature })
    }
}

/// What is asked of sales here, and where keys can be deposited.
pub(crate) fn info(app: &App) -> MarketInfo {
    let market = &app.market;
    MarketInfo {
        gateway: market.signer(),
        fee: market.config.fee,
        settle_seconds: market.config.settle.as_secs(),
        deposit_key: market.deposits.key.public().to_hex(),
        deposit_signature: market.deposits.signature.clone(),
    }
}

/// Takes the key of a revision of the account's own, once it opens what it is said to.
pub(crate) async fn deposit(app: &App, account: &Account, new: NewDeposit) -> Result<()> {
    let owner = account.needs_address("selling")?;
    let refused =
        |text: &str| GatewayError::refused(StatusCode::UNPROCESSABLE_ENTITY, "deposit_refused", text);
    let is_own = new.model.split_once('/').is_some_and(|(of, _)| of == owner);
    let sealed: Release = serde_json::from_value(new.sealed).map_err(|_| refused("it is no sealed key"))?;
    let stored = app.store.model(&new.model, &sealed.revision()).await?;
    let stored = stored.filter(|stored| is_own && stored.record.visibility == Visibility::Sealed);
    let stored = stored.ok_or_else(|| refused("this account has no such sealed revision here"))?;
    let keys = sealed.open(&app.market.deposits.key, &stored.head)?;
    // What does not open would be sold, and given back each time.
    let reader = open(app, stored.head, keys).await?;
    let same = |file: &RecordFile| {
        let entry = reader.entry(&file.path).filter(|entry| entry.is_file());
        entry.is_some_and(|entry| entry.size == file.size && hex::encode(entry.sha256) == file.sha256)
    };
    let files = &stored.record.files;
    if reader.files() != files.len() as u64 || !files.iter().all(same) {
        return Err(refused("it opens other files than the record names"));
    }
    try_objects(&reader).await?;
    app.store.put_deposit(&new.model, &sealed, unix_now()).await?;
    app.models.look_again(&new.model).await
}

/// Forgets the keys of a model of the account's own, but those that somebody has paid for.
pub(crate) async fn forget(app: &App, account: &Account, name: &str) -> Result<()> {
    let owner = account.needs_address("selling")?;
    if name.split_once('/').is_none_or(|(of, _)| of != owner) {
        return Err(GatewayError::not_found(
            "model_unknown",
            "this account has no such model",
        ));
    }
    app.store.remove_deposits(name).await?;
    app.models.look_again(name).await
}

/// Gives the buyer of a deposited revision a share of it, with a token that is drawn now.
async fn deliver(app: &App, order: StoredOrder) -> Result<Bought> {
    let (mut order, mut share) = given(app, order, ShareToken::generate()?).await?;
    if share.is_none() {
        // Another answer was first, and the share has the UUID that it drew.
        (order, share) = given(app, order, ShareToken::generate()?).await?;
    }
    Ok(Bought {
        order: shown(app, order).await?,
        share,
    })
}

/// Gives a share with this token; none where another answer was first.
pub(super) async fn given(
    app: &App,
    order: StoredOrder,
    token: ShareToken,
) -> Result<(StoredOrder, Option<SoldShare>)> {
    let (id, now) = (order.id(), unix_now());
    let purchase = &order.signed.purchase;
    let unavailable = || {
        let text = format!("the key of {} is not deposited here any more", purchase.model);
        let error = GatewayError::refused(StatusCode::CONFLICT, "deposit_unavailable", text);
        match order.state {
            OrderState::Paid => error.with_hint("what was paid can be taken back: alephlab model refund"),
            _ => error,
        }
    };
    let sealed = app.store.deposit(&purchase.model, &purchase.revision).await?;
    // What was paid for is given, also when it was withdrawn since.
    let stored = app.store.model_ever(&purchase.model, &purchase.revision).await?;
    let (sealed, stored) = sealed.zip(stored).ok_or_else(unavailable)?;
    let keys = sealed.open(&app.market.deposits.key, &stored.head)?;
    let known = order.proof.first();
    let uuid = known
        .and_then(|known| known.parse().ok())
        .unwrap_or_else(Uuid::new_v4);
    let terms = ShareTerms {
        uuid,
        model: purchase.model.clone(),
        revision: purchase.revision.clone(),
        expires: None,
    };
    let share = StoredShare {
        uuid,
        auth_sha256: sha256(&*token.auth()),
        sealed: seal_share(&token, &terms, &keys)?,
        model: terms.model,
        revision: terms.revision,
        expires: None,
        created: now,
        limits: Default::default(),
        used: Default::default(),
    };
    let (order, is_given) = app.store.deliver_order(id, &share, now).await?;
    // Who is open by the token before is not by this one.
    app.opened.forget(uuid);
    let share = is_given.then(|| SoldShare {
        uuid,
        token: Secret::new(token.expose()),
    });
    Ok((order, share))
}

/// Reads a little of the objects that hold the files: keys that open no more than the list of them are not taken. Of a very large
/// model those are looked at that are drawn.
async fn try_objects(reader: &Reader) -> Result<()> {
    let mut places = BTreeMap::new();
    for entry in reader.entries() {
        let mut at = 0;
        for extent in &entry.extents {
            places.entry(extent.object).or_insert((entry.path.as_str(), at));
            at += extent.length;
        }
    }
    let mut places: Vec<_> = places.into_values().collect();
    let (drawn, _) = places.partial_shuffle(&mut StdRng::from_rng(&mut rand::rng()), OBJECTS_MAX);
    let reads: Vec<_> = drawn
        .iter()
        .map(|(path, at)| reader.stream_slices(path, *at..at + 1))
        .collect::<std::result::Result<_, _>>()?;
    let mut read = stream::iter(reads).flatten_unordered(OBJECTS_AT_ONCE);
    while let Some(piece) = read.next().await {
        piece?;
    }
    Ok(())
}

/// What an order is answered with: of a deposited key the share, too.
pub(super) async fn answered(app: &App, order: StoredOrder) -> Result<Bought> {
    if order.way == ReleaseWay::Deposit && order.state != OrderState::Refunded {
        return deliver(app, order).await;
    }
    Ok(Bought {
        order: shown(app, order).await?,
        share: None,
    })
}

/// On a thread of its own: hashing and decrypting the manifest is work that must not hold up other requests.
async fn open(app: &App, head: SignedHead, keys: ObjectKeys) -> Result<Reader> {
    let (storage, runtime) = (Arc::clone(&app.storage), tokio::runtime::Handle::current());
    let opened = tokio::task::spawn_blocking(move || {
        runtime.block_on(Reader::open(storage, &head, Keys::Objects(keys)))
    });
    let opened = opened.await.unwrap_or_else(|error| {
        let reason = error.to_string();
        Err(VaultError::Stopped { reason })
    });
    opened.map_err(GatewayError::from)
}
