//! What cards cost and need on the network now: the `pricing` and `settings` aggregates of its foundation, and the table of
//! `cards` where they cannot be read or lack a card.
//!
//! They decide what this gateway charges others and is billed itself, so they are not believed blindly: an offer whose price
//! is far from everything that is known of such a card is there, and cannot be had. What was offered, quoted or rented
//! before keeps the price that it was given.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aleph_sdk::aggregate_models::pricing::{PricingData, PricingPerEntity, Tier};
use aleph_sdk::aggregate_models::settings::CompatibleGpu;
use aleph_sdk::client::{AlephAggregateClient as _, AlephClient, MessageError};
use alephlab_api::money::Amount;
use alephlab_api::offer::usd;
use tokio::time::{Instant, timeout};

use super::cards::{Class, Model, UNIT_DISK_GIB, UNIT_MEMORY_GIB, model};
use super::shown;

/// How long the network may take to say its prices: offers do not wait long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts where they could not be read.
const PAUSE: Duration = Duration::from_secs(30);
/// How long they are good when newer ones cannot be read.
const STALE: Duration = Duration::from_secs(60 * 60);
/// A price that is so many times more or less than the table's is not believed.
const FAR: u64 = 10;
/// Most processors of a machine on the network.
const MAX_VCPUS: u32 = 256;
/// Most memory of one, MiB.
const MAX_MEMORY_MIB: u64 = 1 << 20;
/// Most disk of one, MiB.
const MAX_DISK_MIB: u64 = 64 << 20;
const MIB_PER_GIB: u64 = 1024;

/// A card as the network rents it out: with a machine of just this size, at this price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// As people call it.
    pub(super) model: String,
    /// Its own memory, GiB.
    pub(super) memory_gib: u32,
    pub(super) size: Size,
    /// Credits an hour; the table's when the network's is not believed.
    pub(super) price: Amount,
    /// Why the network's price or size is not believed, if it is not.
    pub(super) doubt: Option<String>,
}

/// A machine's size. The network takes it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) vcpus: u32,
    pub(super) memory_mib: u64,
    pub(super) disk_mib: u64,
}

/// What the network said last, and of what it was said that it is missing.
pub(super) struct Prices {
    fresh: Duration,
    last: tokio::sync::Mutex<Last>,
    missed: Arc<Missed>,
}

#[derive(Default)]
struct Last {
    asked: Option<Instant>,
    pricing: Option<Said<PricingData>>,
    cards: Option<Said<Vec<CompatibleGpu>>>,
}

struct Said<T> {
    at: Instant,
    value: Arc<T>,
}

/// What was missing: each is said once.
#[derive(Default)]
struct Missed(Mutex<BTreeSet<String>>);

/// Both lists at one moment.
#[derive(Clone)]
pub(super) struct Table {
    pricing: Option<Arc<PricingData>>,
    cards: Option<Arc<Vec<CompatibleGpu>>>,
    missed: Arc<Missed>,
}

impl Prices {
    /// Prices that are read again when they are older than this.
    pub(super) fn new(fresh: Duration) -> Self {
        Self {
            fresh,
            last: tokio::sync::Mutex::default(),
            missed: Arc::default(),
        }
    }

    /// What the network says now, or said a short time ago.
    pub(super) async fn table(&self, node: &AlephClient) -> Table {
        let mut last = self.last.lock().await;
        let wait = match last.pricing.is_some() && last.cards.is_some() {
            true => self.fresh,
            false => PAUSE.min(self.fresh),
        };
        if last.asked.is_none_or(|asked| asked.elapsed() >= wait) {
            self.ask(node, &mut last).await;
        }
        Table {
            pricing: last.pricing.as_ref().map(|said| Arc::clone(&said.value)),
            cards: last.cards.as_ref().map(|said| Arc::clone(&said.value)),
            missed: Arc::clone(&self.missed),
        }
    }

    async fn ask(&self, node: &AlephClient, last: &mut Last) {
        let (pricing, settings) = tokio::join!(
            timeout(PATIENCE, node.get_pricing_aggregate()),
            timeout(PATIENCE, node.get_settings_aggregate()),
        );
        last.asked = Some(Instant::now());
        let pricing = answered(pricing).map(|said| said.pricing);
        let cards = answered(settings).map(|said| said.settings.compatible_gpus);
        self.renew(&mut last.pricing, pricing, "prices");
        self.renew(&mut last.cards, cards, "list of cards");
    }

    fn renew<T>(&self, last: &mut Option<Said<T>>, read: Result<T, String>, name: &str) {
        match read {
            Ok(value) => {
                let (at, value) = (Instant::now(), Arc::new(value));
                *last = Some(Said { at, value });
                self.missed.comes_back(name);
            }
            Err(error) => {
                last.take_if(|said| said.at.elapsed() >= STALE);
                if self.missed.is_new(name) {
                    tracing::warn!(%error, "the network's {name} cannot be read; {} are used", match last {
                        Some(_) => "those it said last",
                        None => "built-in ones",
                    });
                }
            }
        }
    }
}

fn answered<T>(read: Result<Result<T, MessageError>, tokio::time::error::Elapsed>) -> Result<T, String> {
    let seconds = PATIENCE.as_secs();
    let read = read.map_err(|_| format!("no answer within {seconds} s"))?;
    read.map_err(|error| shown(&error.to_string(), 300))
}

impl Missed {
    fn is_new(&self, what: &str) -> bool {
        let mut missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        missed.insert(what.to_owned())
    }

    fn comes_back(&self, what: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }
}

impl Table {
    /// What the network asks with and for the card with this PCI id; none when nobody knows it.
    pub(super) fn card(&self, device_id: &str) -> Option<Card> {
        let (known, allowed) = (model(device_id), self.allowed(device_id));
        let names = [allowed, known.map(|known| known.name)];
        let row = names.iter().flatten().find_map(|name| self.row(name));
        if let Some(known) = known {
            self.say_once(
                known.name,
                self.cards.is_some() && allowed.is_none(),
                "list of cards",
            );
            self.say_once(known.name, self.pricing.is_some() && row.is_none(), "prices");
        }
        match (row, known) {
            (Some(row), _) => {
                // The name that a kind of hardware has had stays.
                let name = known.map(|known| known.name).or(allowed)?;
                Some(row.card(name, known))
            }
            (None, known) => known.map(Model::card),
        }
    }

    fn say_once(&self, card: &str, is_missing: bool, list: &str) {
        if is_missing && self.missed.is_new(&format!("{card} in {list}")) {
            tracing::warn!(
                card,
                "the network's {list} lacks a card or is not clear about it; what is built in is used"
            );
        }
    }

    /// The model that the network's settings give a PCI id; none also where they give it several.
    fn allowed(&self, device_id: &str) -> Option<&str> {
        let cards = self.cards.as_ref()?.iter();
        let mut models = cards
            .filter(|card| card.device_id.eq_ignore_ascii_case(device_id))
            .map(|card| card.model.as_str());
        let first = models.next()?;
        models.all(|other| other == first).then_some(first)
    }

    fn row(&self, name: &str) -> Option<Row<'_>> {
        let pricing = self.pricing.as_ref()?;
        let classes = [
            (Class::Premium, &pricing.instance_gpu_premium),
            (Class::Standard, &pricing.instance_gpu_standard),
        ];
        classes.into_iter().find_map(|(class, entity)| {
            let is_it = |tier: &&Tier| {
                let model = tier.model.as_deref();
                model.is_some_and(|model| model.eq_ignore_ascii_case(name))
            };
            let tier = entity.tiers.iter().find(is_it)?;
            Some(Row { class, entity, tier })
        })
    }
}

/// A card's row of the network's prices.
struct Row<'a> {
    class: Class,
    entity: &'a PricingPerEntity,
    tier: &'a Tier,
}

impl Row<'_> {
    fn card(&self, name: &str, known: Option<&Model>) -> Card {
        let usual = match known {
            Some(known) => known.price(),
            // Of a card that is new here, what others of its class cost.
            None => times(self.class.unit_price(), self.tier.compute_units),
        };
        let memory_gib = self
            .tier
            .vram
            .and_then(|mib| u32::try_from(mib / MIB_PER_GIB).ok())
            .or(known.map(|known| known.memory_gib))
            .unwrap_or_default();
        let (believed, size) = (self.price(usual), self.size());
        let doubt = believed.as_ref().err().or(size.as_ref().err()).cloned();
        let units = known.map_or(1, |known| known.units);
        Card {
            model: shown(name, 40),
            memory_gib,
            size: size.unwrap_or_else(|_| Size::of_units(units)),
            price: believed.unwrap_or(usual),
            doubt,
        }
    }

    fn size(&self) -> Result<Size, String> {
        let (units, unit) = (self.tier.compute_units, &self.entity.compute_unit);
        let size = Size {
            vcpus: units.saturating_mul(unit.vcpus),
            memory_mib: unit.memory_mib.saturating_mul(units.into()),
            disk_mib: unit.disk_mib.saturating_mul(units.into()),
        };
        let fits = (1..=MAX_VCPUS).contains(&size.vcpus)
            && (1..=MAX_MEMORY_MIB).contains(&size.memory_mib)
            && (1..=MAX_DISK_MIB).contains(&size.disk_mib);
        match fits {
            true => Ok(size),
            false => Err(format!(
                "the network wants a machine of {} processors, {} MiB of memory and {} MiB of disk for it, which cannot be",
                size.vcpus, size.memory_mib, size.disk_mib
            )),
        }
    }

    /// Credits an hour, if they can be believed of what usually costs this.
    fn price(&self, usual: Amount) -> Result<Amount, String> {
        let Some(said) = self.entity.price.get("compute_unit") else {
            return Err("the network says no price for it".to_owned());
        };
        let unit: Amount = said.credit.parse().map_err(|_| {
            let said = shown(&said.credit, 40);
            format!("the network's price for it is no price: \"{said}\" credits")
        })?;
        let price = times(unit, self.tier.compute_units);
        if unit.is_zero() || price > times_of(usual, FAR) || times_of(price, FAR) < usual {
            return Err(format!(
                "the network's price for it, {price} credits an hour, is not believed: such a card costs about {} USD an hour",
                usd(usual)
            ));
        }
        Ok(price)
    }
}

impl Model {
    fn card(&self) -> Card {
        Card {
            model: self.name.to_owned(),
            memory_gib: self.memory_gib,
            size: Size::of_units(self.units),
            price: self.price(),
            doubt: None,
        }
    }
}

impl Size {
    fn of_units(units: u32) -> Self {
        Self {
            vcpus: units,
            memory_mib: u64::from(units * UNIT_MEMORY_GIB) * MIB_PER_GIB,
            disk_mib: u64::from(units * UNIT_DISK_GIB) * MIB_PER_GIB,
        }
    }

    /// Memory in whole GiB.
    pub(super) fn memory_gib(self) -> u32 {
        u32::try_from(self.memory_mib / MIB_PER_GIB).unwrap_or(u32::MAX)
    }

    /// Disk in whole GiB.
    pub(super) fn disk_gib(self) -> u32 {
        u32::try_from(self.disk_mib / MIB_PER_GIB).unwrap_or(u32::MAX)
    }
}

fn times(price: Amount, units: u32) -> Amount {
    times_of(price, units.into())
}

/// The most there is when it is larger than any amount: that is believed of nothing.
fn times_of(price: Amount, times: u64) -> Amount {
    price.part(times, 1).unwrap_or(Amount::from_bytes([0xff; 32]))
}

#[cfg(test)]
impl Table {
    /// As it is where the network says nothing.
    pub(super) fn built_in() -> Self {
        Self {
            pricing: None,
            cards: None,
            missed: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Lists in which an RTX 4090 costs `credits` a unit.
    fn table(credits: &str, change: impl FnOnce(&mut Value, &mut Value)) -> Table {
        let row = |unit: Value, tiers: Value, credits: &str| {
            json!({
                "compute_unit": unit, "tiers": tiers,
                "price": {"compute_unit": {"credit": credits}, "storage": {"credit": "0.17"}},
            })
        };
        let unit = || json!({"vcpus": 1, "memory_mib": 6_144, "disk_mib": 61_440});
        let tier = |model: &str, units: u32, vram: u64| json!({"id": "tier-1", "compute_units": units, "model": model, "vram": vram});
        let mut pricing = json!({
            "instance": row(unit(), json!([]), "1"),
            "instance_confidential": row(unit(), json!([]), "1"),
            "instance_gpu_standard": row(unit(), json!([tier("RTX 4090", 6, 24_576), tier("B40", 5, 49_152)]), credits),
            "instance_gpu_premium": row(unit(), json!([tier("A100", 16, 81_920)]), "90000"),
        });
        let card =
            |id: &str, model: &str| json!({"name": "x", "model": model, "vendor": "NVIDIA", "device_id": id});
        let mut cards = json!([
            card("10de:2684", "RTX 4090"),
            card("10de:2685", "RTX 4090"),
            card("10de:ffff", "B40"),
            card("10de:eeee", "RTX 4090"),
            card("10de:eeee", "B40"),
        ]);
        change(&mut pricing, &mut cards);
        Table {
            pricing: Some(Arc::new(serde_json::from_value(pricing).unwrap())),
            cards: Some(Arc::new(serde_json::from_value(cards).unwrap())),
            missed: Arc::default(),
        }
    }

    #[test]
    fn the_network_says_what_a_card_costs_and_needs() {
        let said = table("50000.5", |_, _| {});
        let card = said.card("10DE:2684").unwrap();
        assert_eq!(card.price, "300003".parse().unwrap());
        assert_eq!((card.model.as_str(), card.memory_gib), ("RTX 4090", 24));
        assert_eq!(card.size, Size::of_units(6));
        assert_eq!(card.doubt, None);
        // Another variant of the model, and a model that is new, as the network's settings have them.
        assert_eq!(said.card("10de:2685").unwrap().model, "RTX 4090");
        let new = said.card("10de:ffff").unwrap();
        assert_eq!(
            (new.model.as_str(), new.memory_gib, new.size.vcpus),
            ("B40", 48, 5)
        );
        // Of two names for one card none is believed.
        assert_eq!(said.card("10de:eeee"), None);
        assert_eq!(said.card("10de:0000"), None);
        let larger = table("43125", |pricing, _| {
            pricing["instance_gpu_standard"]["compute_unit"]["memory_mib"] = json!(6_000);
        });
        assert_eq!(larger.card("10de:2684").unwrap().size.memory_mib, 36_000);
    }

    #[test]
    fn a_card_that_the_network_lacks_has_the_built_in_price_and_it_is_said_once() {
        let said = table("50000", |_, _| {});
        let card = said.card("10de:2330").unwrap();
        assert_eq!((card.price, card.doubt), (Amount::from_whole(2_070_000), None));
        assert!(!said.missed.is_new("H100 in prices") && !said.missed.is_new("H100 in list of cards"));
        // One that only the list of allowed cards lacks is priced by its name.
        let unlisted = table("50000", |_, cards| *cards = json!([]));
        assert_eq!(
            unlisted.card("10de:2684").unwrap().price,
            Amount::from_whole(300_000)
        );
        assert_eq!(
            Table::built_in().card("10de:2684").unwrap().price,
            Amount::from_whole(258_750)
        );
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let doubt = |credits: &str| table(credits, |_, _| {}).card("10de:2684").unwrap().doubt;
        for believed in ["43125", "4312.5", "431250"] {
            assert_eq!(doubt(believed), None, "{believed}");
        }
        for wrong in [
            "0",
            "0.0",
            "-1",
            "",
            "1e9",
            "NaN",
            "4312.4",
            "431250.1",
            "9\u{1b}[2J",
        ] {
            let reason = doubt(wrong).expect(wrong);
            assert!(!reason.chars().any(char::is_control), "{reason:?}");
        }
        let card = table("9000000", |_, _| {}).card("10de:2684").unwrap();
        assert_eq!(card.price, Amount::from_whole(258_750), "what is shown is not it");
        let new = table("431251", |_, _| {}).card("10de:ffff").unwrap();
        assert!(new.doubt.is_some(), "nor of a card that is new");
        for (of, value) in [
            ("vcpus", 0),
            ("vcpus", 43),
            ("memory_mib", 0),
            ("disk_mib", u64::MAX),
        ] {
            let sized = table("43125", |pricing, _| {
                pricing["instance_gpu_standard"]["compute_unit"][of] = json!(value);
            });
            let card = sized.card("10de:2684").unwrap();
            assert!(card.doubt.unwrap().contains("cannot be"), "{of} {value}");
        }
        let none = table("43125", |pricing, _| {
            pricing["instance_gpu_standard"]["price"] = json!({});
        });
        assert!(
            none.card("10de:2684")
                .unwrap()
                .doubt
                .unwrap()
                .contains("no price")
        );
    }
}
