//! Section `market`: what is asked of sales of models, and when they are settled.

use std::time::Duration;

use alephlab_gateway::MarketConfig;
use serde::{Deserialize, Serialize};

use super::values::{a_share, a_while, often};

/// Section `market`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Market {
    /// What the gateway takes of each sale, hundredths of a percent.
    #[serde(default = "fee", deserialize_with = "a_share")]
    pub fee_points: u16,
    /// Orders of one account.
    #[serde(default = "orders", deserialize_with = "often")]
    pub orders_per_hour: u32,
    /// Between paying and settling.
    #[serde(default = "settle", deserialize_with = "a_while")]
    pub settle_seconds: u32,
}

impl Default for Market {
    fn default() -> Self {
        Self {
            fee_points: fee(),
            orders_per_hour: orders(),
            settle_seconds: settle(),
        }
    }
}

impl Market {
    /// As the gateway takes it.
    pub(crate) fn config(&self) -> MarketConfig {
        MarketConfig {
            fee: self.fee_points,
            orders_per_hour: self.orders_per_hour,
            settle: Duration::from_secs(u64::from(self.settle_seconds)),
        }
    }
}

fn fee() -> u16 {
    MarketConfig::default().fee
}

fn orders() -> u32 {
    MarketConfig::default().orders_per_hour
}

fn settle() -> u32 {
    86_400
}
