//! What the network's foundation says of prices and cards: the `pricing` and `settings` aggregates of its address.
//!
//! On the real network they are messages. Nobody here has the foundation's key, so here they are made of the tables that
//! `ledger` and `content` have; a test changes a price through [`Foundation`], and everything that is posted from then on
//! costs that. Rows of other products (programs, web hosting) are not there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    aggregates::{Aggregate, Fields},
    content::{Class, MODELS},
    ledger::{CREDITS_PER_MIB_HOUR, unit},
};

/// The foundation's address on the real network.
pub(crate) const ADDRESS: &str = "0xFba561a84A537fCaa567bb7A2257e7142701ae2A";

/// Sizes that machines without a card are sold in, in compute units.
const SIZES: [u32; 6] = [1, 2, 4, 6, 8, 12];

/// What the foundation of one node says; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Foundation(Arc<Mutex<BTreeMap<String, String>>>);

impl Foundation {
    /// Sets the credits for a compute unit and hour of a row of the `pricing` aggregate, for example
    /// `instance_gpu_standard`; the text goes out as it is. A text that is no price is said, and charged as before.
    pub fn set_price(&self, entity: &str, credits: &str) {
        let mut prices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        prices.insert(entity.to_owned(), credits.to_owned());
    }

    fn said(&self, class: Class) -> String {
        let prices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = prices.get(class.entity()).cloned();
        said.unwrap_or_else(|| unit(class).credits.to_string())
    }

    /// Credits for a compute unit and hour of a class.
    pub(crate) fn unit_price(&self, class: Class) -> f64 {
        let said = self.said(class).parse().ok();
        let said = said.filter(|price: &f64| price.is_finite() && *price >= 0.0);
        said.unwrap_or(unit(class).credits as f64)
    }

    /// Both aggregates.
    pub(crate) fn aggregates(&self) -> Vec<Aggregate> {
        let all = [("pricing", self.pricing()), ("settings", settings())];
        let all = all.into_iter().map(|(key, value)| Aggregate {
            key: key.to_owned(),
            value,
            info: Value::Null,
        });
        all.collect()
    }

    fn pricing(&self) -> Fields {
        let storage = json!({"credit": CREDITS_PER_MIB_HOUR.to_string()});
        let mut rows = Map::new();
        rows.insert("storage".into(), json!({"price": {"storage": storage}}));
        for class in Class::ALL {
            let unit = unit(class);
            let row = json!({
                "price": {"storage": storage, "compute_unit": {"credit": self.said(class)}},
                "tiers": tiers(class),
                "compute_unit": {"vcpus": 1, "memory_mib": unit.memory_mib, "disk_mib": unit.disk_mib},
            });
            rows.insert(class.entity().to_owned(), row);
        }
        fields(rows)
    }
}

fn tiers(class: Class) -> Vec<Value> {
    let id = |place: usize| format!("tier-{}", place + 1);
    match class {
        Class::Instance | Class::Confidential => SIZES
            .iter()
            .enumerate()
            .map(|(place, units)| json!({"id": id(place), "compute_units": units}))
            .collect(),
        Class::GpuStandard | Class::GpuPremium => MODELS
            .iter()
            .filter(|model| model.class == class)
            .enumerate()
            .map(|(place, model)| {
                json!({
                    "id": id(place), "compute_units": model.units, "model": model.name,
                    "vram": model.memory_gib * 1_024,
                })
            })
            .collect(),
    }
}

fn settings() -> Fields {
    let cards = MODELS.iter().flat_map(|model| {
        model
            .ids
            .iter()
            .map(|id| json!({"name": model.name, "model": model.name, "vendor": "NVIDIA", "device_id": id}))
    });
    let mut settings = Map::new();
    settings.insert("compatible_gpus".into(), cards.collect());
    fields(settings)
}

/// Values are text and numbers, which can be written.
fn fields(values: Map<String, Value>) -> Fields {
    let raw = values
        .into_iter()
        .filter_map(|(key, value)| Some((key, to_raw_value(&value).ok()?)));
    raw.collect()
}
