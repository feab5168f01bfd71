//! Models that any payment client can buy: x402, version 2, scheme `exact` by a signed authorization (EIP-3009), ADR 42.
//!
//! The gateway is its own facilitator. It looks at what a payer signed, keeps it, sends it with a key that only pays gas, and waits until
//! the deposit is booked like any other: from a final block. Then it sells and gives the share. `moving` carries payments on, `wire` reads
//! and writes headers; rows are in `store::payments`. One authorization opens one answer, because what was sent can be read by all.

mod moving;
mod wire;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use alephlab_api::Secret;
use alephlab_api::money::Amount;
use alephlab_api::time::unix_now;
use alephlab_registry::{Price, RegistryError};
use alephlab_settlement::{Authorization, Relay};
use alephlab_vault::share::ShareToken;
use alephlab_vault::{Wallet, random_key, recover_hash};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::error::{GatewayError, Result};
use crate::market::{Agreed, agree};
use crate::state::App;
use crate::store::{PaymentState, SOLD_FOR, StoredPayment, Taken};

pub(crate) use moving::run;
use wire::{Accepts, Exact};

/// How long a request waits for the chain.
const WAIT: Duration = Duration::from_secs(100);
/// An authorization that ends sooner is not sent.
const LEAST_LEFT: u64 = 60;
/// One that holds much longer than it was asked to would keep its payment open as long.
const MOST_LEFT: u64 = wire::TIMEOUT + 300;
/// What a payer whose payment is not through is told to wait, seconds.
const LATER: u64 = 15;

/// What is kept of a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    exact: Exact,
    agreed: Agreed,
    accepts: Accepts,
    /// The buyer's token, sealed: it is given out again to whoever shows that they are the payer.
    token: String,
}

type Stored = StoredPayment<Kept>;

/// What payments need of a running gateway.
pub(crate) struct X402 {
    key: Secret,
    cipher: Aes256Gcm,
    /// None where payments cannot be taken now.
    relay: RwLock<Option<Arc<Relay>>>,
    /// There is something to send.
    wake: Notify,
    /// Counts what ended.
    ended: watch::Sender<u64>,
}

/// What who has paid is given.
pub(crate) struct Paid {
    /// Opens the revision.
    pub(crate) share: Uuid,
    pub(crate) token: Secret,
    /// Of `PAYMENT-RESPONSE`.
    pub(crate) response: String,
}

impl X402 {
    /// With the key that pays gas, and seals tokens, in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let key = random_key(&folder.join("x402.key")).map_err(|error| GatewayError::Setting {
            setting: "the key for payments",
            reason: error.to_string(),
        })?;
        let sealing = Sha256::new()
            .chain_update("alephlab x402 tokens v1")
            .chain_update(*key)
            .finalize();
        Ok(Self {
            cipher: Aes256Gcm::new(&sealing),
            key: Secret::new(hex::encode(*key)),
            relay: RwLock::default(),
            wake: Notify::new(),
            ended: watch::Sender::new(0),
        })
    }

    fn relay(&self) -> Option<Arc<Relay>> {
        let relay = self.relay.read().unwrap_or_else(PoisonError::into_inner);
        relay.clone()
    }

    fn set_relay(&self, relay: Option<Arc<Relay>>) {
        *self.relay.write().unwrap_or_else(PoisonError::into_inner) = relay;
    }

    /// Address of the key that pays gas.
    fn sender(&self) -> Option<String> {
        let key = hex::decode(self.key.expose()).ok()?.try_into().ok()?;
        Wallet::from_secret(&key).ok().map(|wallet| wallet.address())
    }

    fn seal(&self, order: Uuid, token: &ShareToken) -> Option<String> {
        let nonce: [u8; 12] = rand::random();
        let payload = Payload {
            msg: token.expose().as_bytes(),
            aad: order.as_bytes(),
        };
        let sealed = self.cipher.encrypt(&nonce.into(), payload).ok()?;
        Some(hex::encode([nonce.as_slice(), &sealed].concat()))
    }

    fn unseal(&self, order: Uuid, sealed: &str) -> Option<Secret> {
        let bytes = hex::decode(sealed).ok()?;
        let (nonce, msg) = bytes.split_at_checked(12)?;
        let nonce: [u8; 12] = nonce.try_into().ok()?;
        let aad = order.as_bytes().as_slice();
        let opened = self.cipher.decrypt(&nonce.into(), Payload { msg, aad }).ok()?;
        String::from_utf8(opened).ok().map(Secret::new)
    }
}

/// What a payment client is asked for; none where it cannot pay here now.
fn accepts(app: &App, price: Amount) -> Option<Accepts> {
    let relay = app.x402.relay()?;
    let terms = app.settlement.terms().ok()?;
    // What is sold for less may not be worth its gas.
    if price < terms.minimum {
        return None;
    }
    let (name, version) = relay.domain();
    Some(Accepts {
        scheme: "exact".to_owned(),
        network: format!("eip155:{}", terms.watched.chain_id),
        asset: terms.watched.token.to_string(),
        amount: price,
        pay_to: terms.watched.address.to_string(),
        max_timeout_seconds: wire::TIMEOUT,
        extra: json!({"assetTransferMethod": "eip3009", "name": name, "version": version}),
    })
}

/// What the 402 of a revision whose key is deposited says to a payment client.
pub(crate) fn price(app: &App, (id, revision): (&str, &str), price: Amount, error: &str) -> Price {
    let required = accepts(app, price).map(|accepts| {
        let base = app.public_url.as_str().trim_end_matches('/');
        let url = format!("{base}/models/{id}?rev={revision}");
        wire::required(&accepts, (&url, id), error)
    });
    Price { required }
}

/// Takes what a payer signed for a revision, and gives what it bought once that is through.
pub(crate) async fn pay(
    app: &App,
    place: (&str, &str),
    asked: Amount,
    header: &str,
) -> std::result::Result<Paid, RegistryError> {
    let refused = |text: &str| RegistryError::Gated {
        message: format!("not paid: {text}"),
        price: Some(price(app, place, asked, text)),
    };
    let (Some(accepts), Some(relay)) = (accepts(app, asked), app.x402.relay()) else {
        return Err(refused("payments by x402 are not taken here now"));
    };
    let exact = wire::payment(header, &accepts).map_err(refused)?;
    let authorization = checked(&relay, &exact, &accepts).map_err(refused)?;
    let payer = authorization.from.to_string();
    let known = taken(app, place, &relay, (exact, authorization, accepts)).await;
    let id = known.map_err(|error| match error {
        Refusal::Payer(text) => refused(&text),
        Refusal::Books(error) => inside(&error),
    })?;
    wait_for(app, id, &payer).await.map_err(|error| match error {
        Refusal::Payer(text) => refused(&text),
        Refusal::Books(error) => inside(&error),
    })?
    .ok_or_else(|| RegistryError::Limited {
        message: "the payment is on its way and its block is not final yet; ask again, and sign again: it is not charged twice"
            .to_owned(),
        wait: LATER,
    })
}

enum Refusal {
    Payer(String),
    Books(GatewayError),
}

impl From<GatewayError> for Refusal {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::Refused { problem, .. } => Self::Payer(problem.message),
            error => Self::Books(error),
        }
    }
}

fn inside(error: &GatewayError) -> RegistryError {
    tracing::error!(%error, "a payment could not be looked up");
    RegistryError::Limited {
        message: "the gateway could not look this up; ask again: nothing is charged twice".to_owned(),
        wait: LATER,
    }
}

/// What can be said without the chain.
fn checked(
    relay: &Relay,
    exact: &Exact,
    asked: &Accepts,
) -> std::result::Result<Authorization, &'static str> {
    let unreadable = "what was signed cannot be read";
    let authorization = exact.authorization().ok_or(unreadable)?;
    if authorization.value != asked.amount || authorization.to.to_string() != asked.pay_to {
        return Err("another amount or recipient was signed than is asked for");
    }
    let now = unix_now();
    if authorization.valid_after >= now {
        return Err("the authorization does not hold yet");
    }
    if authorization.valid_before < now + LEAST_LEFT {
        return Err("the authorization has ended, or ends too soon");
    }
    if authorization.valid_before > now + MOST_LEFT {
        return Err("the authorization holds too long");
    }
    let signature = exact.signature().ok_or(unreadable)?;
    let by = recover_hash(&relay.digest(&authorization), &hex::encode(signature));
    if by.is_ok_and(|by| by.to_string() == authorization.from.to_string()) {
        return Ok(authorization);
    }
    Err("the authorization is not signed by who is to pay")
}

/// Writes the payment down, where none stands for this payer and revision; gives the one that does.
async fn taken(
    app: &App,
    (model, revision): (&str, &str),
    relay: &Relay,
    (exact, authorization, accepts): (Exact, Authorization, Accepts),
) -> std::result::Result<Uuid, Refusal> {
    let payer = authorization.from.to_string();
    let signature = exact.signature().unwrap_or([0; 65]);
    let again = || Refusal::Payer("this authorization came before; sign another one".to_owned());
    let standing = app.store.standing_payment(&payer, model, revision).await?;
    if standing.is_some() {
        // One that is used can be read by everybody.
        let look = relay.look(&authorization, u64::MAX).await;
        return match (look, standing) {
            (Ok(alephlab_settlement::Moved::Open), Some(id)) => {
                match app.store.see_authorization(&payer, authorization.nonce).await? {
                    true => Ok(id),
                    false => Err(again()),
                }
            }
            (Ok(_), _) => Err(again()),
            (Err(error), _) => Err(Refusal::Payer(error.to_string())),
        };
    }
    let block = relay.check(&authorization, &signature).await;
    let block = block.map_err(|error| Refusal::Payer(error.to_string()))?;
    if app.store.settlement_stop().await?.is_some() {
        return Err(Refusal::Payer(
            "the gateway's operator has stopped payments".to_owned(),
        ));
    }
    let agreed = agree(app, &payer, model, revision).await?;
    let unsealed = || Refusal::Payer("no token could be made".to_owned());
    let token = ShareToken::generate().map_err(|_| unsealed())?;
    let id = agreed.purchase.order;
    if agreed.purchase.price != accepts.amount {
        let now = agreed.purchase.price.of(SOLD_FOR);
        return Err(Refusal::Payer(format!("it costs {now} now")));
    }
    let new = Stored {
        id,
        payer,
        model: model.to_owned(),
        revision: revision.to_owned(),
        payment: Kept {
            exact,
            accepts,
            token: app.x402.seal(id, &token).ok_or_else(unsealed)?,
            agreed,
        },
        block,
        state: PaymentState::Open,
    };
    match app.store.take_payment(authorization.nonce, &new).await? {
        Taken::New => {
            app.x402.wake.notify_one();
            Ok(id)
        }
        Taken::Known(id) => Ok(id),
        Taken::Again => Err(again()),
    }
}

/// Waits until a payment has ended; none when that takes too long.
async fn wait_for(app: &App, id: Uuid, payer: &str) -> std::result::Result<Option<Paid>, Refusal> {
    let mut ended = app.x402.ended.subscribe();
    let end = tokio::time::Instant::now() + WAIT;
    loop {
        ended.mark_unchanged();
        let Some(stored) = app.store.payment::<Kept>(id).await? else {
            return Ok(None);
        };
        match &stored.state {
            PaymentState::Bought(transaction) => {
                return given(app, &stored, payer, transaction).await.map(Some);
            }
            PaymentState::Failed(reason) => return Err(Refusal::Payer(reason.clone())),
            PaymentState::Open => {}
        }
        if tokio::time::timeout_at(end, ended.changed()).await.is_err() {
            return Ok(None);
        }
    }
}

async fn given(
    app: &App,
    stored: &Stored,
    payer: &str,
    transaction: &str,
) -> std::result::Result<Paid, Refusal> {
    let lost =
        || Refusal::Payer("its token cannot be opened any more; ask the gateway's operator".to_owned());
    let token = app
        .x402
        .unseal(stored.id, &stored.payment.token)
        .ok_or_else(lost)?;
    let order = app.store.order(stored.id).await?.ok_or_else(lost)?;
    let share: Uuid = order
        .proof
        .first()
        .and_then(|share| share.parse().ok())
        .ok_or_else(lost)?;
    let (id, name) = (stored.id.to_string(), format!("m/{share}"));
    let response = wire::response(&stored.payment.accepts, payer, transaction, (&id, &name, &token));
    Ok(Paid {
        share,
        token,
        response,
    })
}
