//! Hosts that can be rented: offers, quotes, and what becomes of an allocation.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::{Amount, AmountError};

/// Credits that one US dollar buys (Aleph's fixed rate).
pub const CREDITS_PER_USD: u64 = 1_000_000;

/// One kind of card in a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// As people call it, for example `RTX 4090`.
    pub model: String,
    /// PCI vendor and device, for example `10de:2684`.
    pub device_id: String,
    /// How many.
    pub count: u32,
    /// Memory of one, GiB.
    pub memory_gib: u32,
}

/// A host that somebody rents out, at a price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Names it among the offers of this gateway, for as long as it is there.
    pub id: String,
    /// Who rents it out.
    pub provider: String,
    /// The kernelspec that starts kernels on hosts of this kind.
    pub kernelspec: String,
    /// What it is, in words.
    pub hardware: String,
    /// Its cards; none has none.
    pub gpu: Option<Gpu>,
    /// Processors.
    pub vcpus: u32,
    /// Memory, GiB.
    pub memory_gib: u32,
    /// Disk, GiB.
    pub disk_gib: u32,
    /// Whose machine it is, or where.
    pub place: String,
    /// Credits an hour.
    pub price: Amount,
    /// The trust line.
    pub trust: String,
    /// How long it takes until cells run, in words.
    pub starts: String,
    /// Why it cannot be had now; none when it can.
    pub unavailable: Option<String>,
}

/// `GET /v1/offers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offers {
    /// Those that can be had first, cheapest first.
    pub offers: Vec<Offer>,
    /// What could not be asked, one sentence each.
    pub troubles: Vec<String>,
}

/// `POST /v1/quotes`: asks for a firm price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewQuote {
    /// The offer.
    pub offer: String,
    /// Most that may be spent, in credits; what the account has, up to twelve hours, when not given.
    #[serde(default)]
    pub cap: Option<Amount>,
    /// Seconds without a cell after which the kernel is stopped; none for the gateway's rule.
    #[serde(default)]
    pub idle_seconds: Option<u64>,
}

/// A firm price for one start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Starts a kernel at this price, once, as `KERNEL_QUOTE`.
    pub id: Uuid,
    /// What is rented.
    pub offer: Offer,
    /// Most that is charged, credits.
    pub cap: Amount,
    /// For how long that lasts, seconds.
    pub seconds: u64,
    /// Seconds without a cell after which the kernel is stopped; none for the gateway's rule.
    pub idle_seconds: Option<u64>,
    /// What the account has left when it is set aside.
    pub balance_after: Amount,
    /// Unix seconds until which it can be used.
    pub expires: u64,
}

/// Where an allocation stands. Each follows the one before it; every one but `Ended` may become `Ending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The most that it may cost is set aside; nothing is rented.
    Held,
    /// The provider is asked for the host.
    Renting,
    /// The host is rented and starts.
    Booting,
    /// The host is reached; its agent gets its lease.
    Joining,
    /// Its agent is known, and kernels run.
    Running,
    /// It is given back.
    Ending,
    /// Nothing runs, and the provider bills nothing more.
    Ended,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 7] = [
        Self::Held,
        Self::Renting,
        Self::Booting,
        Self::Joining,
        Self::Running,
        Self::Ending,
        Self::Ended,
    ];

    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Renting => "renting",
            Self::Booting => "booting",
            Self::Joining => "joining",
            Self::Running => "running",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// An account's right to a kernel on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationModel {
    /// The kernel, and the allocation.
    pub id: Uuid,
    /// What was rented, at which price.
    pub offer: Offer,
    /// Where it stands.
    pub stage: Stage,
    /// What it waits for, or why it ended.
    pub detail: Option<String>,
    /// Most that is charged, credits.
    pub cap: Amount,
    /// Charged so far.
    pub charged: Amount,
    /// For how many seconds.
    pub seconds: u64,
    /// When it was asked for, unix seconds.
    pub created: u64,
    /// When it came to this stage, unix seconds.
    pub changed: u64,
}

/// `GET /v1/allocations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    /// Newest first.
    pub allocations: Vec<AllocationModel>,
}

/// Credits an hour as dollars: `0.26`, two digits below one, too, unless that would say nothing.
pub fn usd(credits: Amount) -> String {
    // Rounded to a hundredth of a cent; more is never shown.
    let units = credits.times(Amount::from_whole(CREDITS_PER_USD / 10_000));
    let (whole, fine) = (units / 10_000, units % 10_000);
    match (whole, fine) {
        (0, 1..100) => format!("0.{fine:04}").trim_end_matches('0').to_owned(),
        _ => {
            let cents = whole * 100 + (fine + 50) / 100;
            format!("{}.{:02}", cents / 100, cents % 100)
        }
    }
}

/// Dollars as people type them, in credits: `2`, `0.50`.
///
/// # Errors
/// When it is no amount.
pub fn from_usd(text: &str) -> Result<Amount, AmountError> {
    let dollars: Amount = text.trim().parse()?;
    let too_large = || AmountError::TooLarge {
        text: text.chars().take(100).collect(),
    };
    dollars.part(CREDITS_PER_USD, 1).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_shown_as_dollars() {
        let shown = |credits: u64| usd(Amount::from_whole(credits));
        assert_eq!(shown(258_750), "0.26");
        assert_eq!(shown(2_070_000), "2.07");
        assert_eq!(shown(10_000), "0.01");
        assert_eq!(shown(4_700), "0.0047");
        assert_eq!(shown(999_999), "1.00");
        assert_eq!(shown(0), "0.00");
        assert_eq!(from_usd(" 0.50"), Ok(Amount::from_whole(500_000)));
        assert!(from_usd("a lot").is_err());
    }

    #[test]
    fn stages_have_one_name_each() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.name()), Some(stage));
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
        }
        assert_eq!(Stage::parse("Held"), None);
    }
}
