//! GPU instances on Aleph's network: offers from its list of compute nodes (CRN), INSTANCE messages that this gateway's
//! renting account signs and pays for in credits, and FORGET to give a host back.
//!
//! An instance is named by the hash of its signed message, which is written down before it is posted; so a message that is
//! posted twice is one instance, and an instance whose post was cut off is found again. Billing is the network's: it ends
//! with the FORGET, not with the machine.

mod ask;
mod cards;
mod message;
mod nodes;
mod prices;
mod reach;
mod reserve;
mod transfer;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aleph_sdk::client::{AlephAccountClient as _, AlephClient};
use aleph_types::item_hash::ItemHash;
use alephlab_api::agent::Join;
use alephlab_api::money::Amount;
use alephlab_api::offer::{Offer, Offers, usd};
use alephlab_vault::Wallet;
use futures_util::future::{BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::allocations::LeaseSecrets;
use crate::error::{GatewayError, Result};
use crate::host::{Bill, HostProvider, Rented, Seen};
use message::Standing;
use nodes::Place;
use prices::Prices;
use reserve::Held;

pub(crate) use transfer::{Transfers, Verdict};

/// Name of the provider.
const NAME: &str = "Aleph";
/// The network admits a machine when its payer has a day of everything it runs.
const FLOAT_HOURS: u64 = 24;
/// How long a message that no node knows may still arrive, after its post was cut off.
const MAY_ARRIVE: Duration = Duration::from_secs(30);
/// Between two FORGETs of one instance, and between two requests for its port.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Answers of nodes.
const ANSWER: Duration = Duration::from_secs(20);
/// Of that, for the connection: of a node that swallows packets it is said as of one that is not there.
const CONNECTION: Duration = Duration::from_secs(5);

/// How hosts are rented on Aleph's network.
pub struct AlephConfig {
    /// A core node (CCN).
    pub node: Url,
    /// The list of compute nodes.
    pub crns: Url,
    /// Item hash of the STORE message of the image that hosts boot; none rents nothing and says so.
    pub image: Option<String>,
    /// Signs and pays.
    pub wallet: Wallet,
    /// What hosts are given.
    pub secrets: LeaseSecrets,
    /// After which time the network's prices are read again ([`Aleph::PRICES_FOR`] is usual).
    pub prices_for: Duration,
}

/// Rents GPU instances.
pub struct Aleph {
    node: AlephClient,
    http: reqwest::Client,
    crns: Url,
    image: Option<ItemHash>,
    wallet: Wallet,
    secrets: LeaseSecrets,
    prices: Prices,
    /// Credits an hour of what is rented, by lease.
    rented: Mutex<BTreeMap<Uuid, Amount>>,
    /// When a message was found to be unknown first.
    unknown: Mutex<BTreeMap<Uuid, Instant>>,
    /// When the network was told to forget one last.
    told: Mutex<BTreeMap<Uuid, Instant>>,
    /// When a node was asked to lead a port to one last.
    mapped: Mutex<BTreeMap<Uuid, Instant>>,
}

/// Everything about one instance: public, and fixed before it is posted.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Draft {
    lease: Uuid,
    /// The signed message.
    message: Value,
    /// Its item hash.
    hash: ItemHash,
    /// Address of its compute node.
    node: Url,
    /// Credits an hour that the network bills; what its account pays is in the allocation.
    price: Amount,
}

impl Aleph {
    /// For how long prices of the network are usually good.
    pub const PRICES_FOR: Duration = Duration::from_secs(5 * 60);

    /// A provider on this network.
    ///
    /// # Errors
    /// When the image is no item hash.
    pub fn new(config: AlephConfig) -> Result<Self> {
        let image = config.image.as_deref().map(str::parse).transpose();
        let image = image.map_err(|_| GatewayError::Setting {
            setting: "hosts.image",
            reason: "it is no item hash of a STORE message".to_owned(),
        })?;
        let http = reqwest::Client::builder()
            .timeout(ANSWER)
            .connect_timeout(CONNECTION)
            // A node could send the gateway anywhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| host(&error))?;
        Ok(Self {
            node: AlephClient::new(config.node),
            http,
            crns: config.crns,
            image,
            wallet: config.wallet,
            secrets: config.secrets,
            prices: Prices::new(config.prices_for),
            rented: Mutex::default(),
            unknown: Mutex::default(),
            told: Mutex::default(),
            mapped: Mutex::default(),
        })
    }

    /// Cards that can be had on the network: as people call them, and a PCI id of each.
    pub fn cards() -> impl Iterator<Item = (&'static str, &'static str)> {
        cards::models()
    }

    /// Why nothing can be rented at this price, if anything: no image, or too little to be admitted.
    async fn obstacle(&self) -> impl Fn(Amount) -> Option<String> {
        let missing = self
            .image
            .is_none()
            .then(|| "no host image is set (hosts.image)".to_owned());
        let address = self.wallet.address();
        let has = self.node.get_balance(&address.clone().into()).await;
        let runs = {
            let rented = self.rented.lock().unwrap_or_else(PoisonError::into_inner);
            rented
                .values()
                .fold(Amount::ZERO, |sum, price| sum.checked_add(*price).unwrap_or(sum))
        };
        move |price| {
            if missing.is_some() {
                return missing.clone();
            }
            let has = match &has {
                Ok(balance) => Amount::from_whole(balance.credits),
                Err(error) => return Some(format!("the gateway's balance cannot be read: {error}")),
            };
            let needs = runs.checked_add(price)?.part(FLOAT_HOURS, 1)?;
            (has < needs).then(|| {
                format!(
                    "the gateway's account {address} needs {} USD in credits for a day of everything it rents, and has {}",
                    usd(needs),
                    usd(has)
                )
            })
        }
    }

    async fn all_offers(&self) -> Offers {
        let (places, obstacle) = tokio::join!(self.places(), self.obstacle());
        let places = match places {
            Ok(places) => places,
            Err(error) => {
                return Offers {
                    offers: Vec::new(),
                    troubles: vec![format!("Aleph's list of compute nodes cannot be read: {error}.")],
                };
            }
        };
        let mut offers: Vec<_> = places.iter().map(Place::offer).collect();
        for offer in &mut offers {
            if offer.unavailable.is_none() {
                offer.unavailable = obstacle(offer.price);
            }
        }
        Offers {
            offers,
            troubles: Vec::new(),
        }
    }

    /// All free cards, with what they cost now.
    async fn places(&self) -> Result<Vec<Place>> {
        let (listed, table) = tokio::join!(
            nodes::listed(&self.http, &self.crns),
            self.prices.table(&self.node)
        );
        Ok(nodes::places(&listed?, &table, nodes::is_local(&self.crns)))
    }

    async fn write_draft(&self, lease: Uuid, offer: &Offer) -> Result<Value> {
        let image = self.image.clone().ok_or_else(|| host("no host image is set"))?;
        let place = self
            .places()
            .await?
            .into_iter()
            .find(|place| place.id() == offer.id);
        let place = place.ok_or_else(|| host("the card is not free any more"))?;
        if let Some(reason) = place.unavailable() {
            return Err(host(reason));
        }
        let key = reach::public(&self.secrets.ssh_seed(lease))?;
        let (message, hash) = message::instance(&self.wallet, image, &place, key)?;
        let draft = Draft {
            lease,
            message,
            hash,
            price: place.price(),
            node: place.node,
        };
        serde_json::to_value(draft).map_err(|error| host(&error))
    }

    async fn post(&self, draft: &Draft) -> Result<Rented> {
        let standing = match message::standing(&self.node, &draft.hash).await? {
            Standing::Unknown => match self.hold(draft).await? {
                Some(reason) => return Ok(Rented::Refused(reason)),
                None => message::post(&self.node, &draft.message).await?,
            },
            known => known,
        };
        match standing {
            Standing::Unknown => Err(host("the network does not know the message yet")),
            Standing::Refused(reason) => Ok(Rented::Refused(reason)),
            Standing::Over => Ok(Rented::Refused("the network has removed it".to_owned())),
            Standing::Stands => {
                self.remember(draft);
                // The scheduler starts it by itself; this is quicker, and tells when there is no room.
                let refused = nodes::notify(&self.http, &draft.node, &draft.hash).await?;
                Ok(refused.map_or(Rented::Accepted, Rented::Refused))
            }
        }
    }

    /// Has its node hold the card before anything is posted, and so billed; why it will not, if it says so.
    async fn hold(&self, draft: &Draft) -> Result<Option<String>> {
        let content = message::content(&draft.message)?;
        match reserve::reserve(&self.http, &self.wallet, &draft.node, &content).await? {
            Held::Yes => Ok(None),
            Held::Unsaid(reason) => {
                tracing::info!(lease = %draft.lease, reason, "a node does not say whether it holds a card; it is rented without");
                Ok(None)
            }
            Held::Refused(reason) => {
                // An earlier post that was cut off may have arrived meanwhile: then the card is taken by this very machine.
                let standing = message::standing(&self.node, &draft.hash).await?;
                Ok((standing == Standing::Unknown).then_some(reason))
            }
        }
    }

    async fn see(&self, draft: &Draft) -> Result<Seen> {
        self.remember(draft);
        match message::standing(&self.node, &draft.hash).await? {
            Standing::Stands => {}
            Standing::Unknown => return Ok(Seen::Waiting("the network looks at the message".to_owned())),
            Standing::Refused(reason) => return Ok(Seen::Gone(reason)),
            Standing::Over => {
                return Ok(Seen::Gone(
                    "the network ended it, as it does without credits".to_owned(),
                ));
            }
        }
        let Some(machine) = nodes::machine(&self.http, &draft.node, &draft.hash).await? else {
            return Ok(Seen::Waiting("its node starts the machine".to_owned()));
        };
        // A node that could not read its owner's settings leads no port there until it is asked.
        if !machine.is_mapped && is_time(&self.mapped, draft.lease) {
            nodes::map_again(&self.http, &draft.node, &draft.hash).await;
        }
        let Some(address) = machine.ssh else {
            return Ok(Seen::Waiting("its node starts the machine".to_owned()));
        };
        match reach::answers(&address).await {
            true => Ok(Seen::Reachable),
            false => Ok(Seen::Waiting("the machine boots".to_owned())),
        }
    }

    async fn tell(&self, draft: &Draft, join: &Join) -> Result<()> {
        let machine = nodes::machine(&self.http, &draft.node, &draft.hash).await?;
        let address = machine.and_then(|machine| machine.ssh);
        let address = address.ok_or_else(|| host("its node does not say where the machine is"))?;
        let joined = reach::hand_over(&address, &self.secrets.ssh_seed(draft.lease), join).await?;
        tracing::info!(lease = %draft.lease, already = joined.already, "a host has its lease");
        Ok(())
    }

    async fn forget(&self, draft: &Draft) -> Result<Bill> {
        match message::standing(&self.node, &draft.hash).await? {
            Standing::Unknown if !self.is_unknown_for_good(draft.lease) => {
                Ok(Bill::Runs("the order to rent may still arrive".to_owned()))
            }
            Standing::Unknown | Standing::Refused(_) => Ok(self.stopped(draft)),
            Standing::Over => match nodes::machine(&self.http, &draft.node, &draft.hash).await {
                // Its bill ends with the message; what its node does then is not paid. One that does not answer is not
                // waited for.
                Ok(Some(_)) => Ok(Bill::Runs("its node has not stopped the machine yet".to_owned())),
                Ok(None) | Err(_) => Ok(self.stopped(draft)),
            },
            Standing::Stands => {
                if is_time(&self.told, draft.lease) {
                    message::forget(&self.node, &self.wallet, &draft.hash).await?;
                }
                Ok(Bill::Runs("the network is told to forget it".to_owned()))
            }
        }
    }

    fn remember(&self, draft: &Draft) {
        let mut rented = self.rented.lock().unwrap_or_else(PoisonError::into_inner);
        rented.insert(draft.lease, draft.price);
    }

    fn stopped(&self, draft: &Draft) -> Bill {
        self.rented
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&draft.lease);
        for known in [&self.unknown, &self.told, &self.mapped] {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.remove(&draft.lease);
        }
        Bill::Stopped
    }

    fn is_unknown_for_good(&self, lease: Uuid) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.entry(lease).or_insert_with(Instant::now).elapsed() >= MAY_ARRIVE
    }
}

impl HostProvider for Aleph {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offers(&self) -> BoxFuture<'_, Offers> {
        self.all_offers().boxed()
    }

    fn draft<'a>(&'a self, lease: Uuid, offer: &'a Offer) -> BoxFuture<'a, Result<Value>> {
        self.write_draft(lease, offer).boxed()
    }

    fn rent<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Rented>> {
        async move { self.post(&read(draft)?).await }.boxed()
    }

    fn look<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Seen>> {
        async move { self.see(&read(draft)?).await }.boxed()
    }

    fn hand_over<'a>(&'a self, draft: &'a Value, join: &'a Join) -> BoxFuture<'a, Result<()>> {
        async move { self.tell(&read(draft)?, join).await }.boxed()
    }

    fn end<'a>(&'a self, draft: &'a Value) -> BoxFuture<'a, Result<Bill>> {
        async move { self.forget(&read(draft)?).await }.boxed()
    }
}

fn read(draft: &Value) -> Result<Draft> {
    serde_json::from_value(draft.clone()).map_err(|error| host(&error))
}

/// Whether it is time to do again what was done for a lease before.
fn is_time(done: &Mutex<BTreeMap<Uuid, Instant>>, lease: Uuid) -> bool {
    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
    let is_time = done.get(&lease).is_none_or(|done| done.elapsed() >= TOLD_EVERY);
    if is_time {
        done.insert(lease, Instant::now());
    }
    is_time
}

/// What somebody else said, for pages and the log.
fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

fn host(reason: &(impl std::fmt::Display + ?Sized)) -> GatewayError {
    // It may hold what a node answered.
    GatewayError::Host {
        reason: shown(&reason.to_string(), 300),
    }
}
