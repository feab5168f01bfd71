//! Amounts of value, in base units of which an asset has 10^18: never a float, and wider than 64 bits.
//!
//! In JSON an amount is the decimal number of its base units as text; people read and write it in whole assets, such as
//! `71.875`.

use std::fmt;
use std::str::FromStr;

use ruint::aliases::{U256, U512};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Digits behind the point.
const DECIMALS: usize = 18;

/// What an amount is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asset {
    /// Prepaid compute: 1 USD buys 1,000,000 (Aleph protocol, credits).
    Credit,
    /// The ALEPH token.
    Aleph,
}

impl Asset {
    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Aleph => "aleph",
        }
    }
}

impl Asset {
    /// As people read it behind an amount.
    pub fn label(self) -> &'static str {
        match self {
            Self::Credit => "credits",
            Self::Aleph => "ALEPH",
        }
    }
}

impl FromStr for Asset {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        match text {
            "credit" => Ok(Self::Credit),
            "aleph" => Ok(Self::Aleph),
            _ => Err(AmountError::Asset {
                text: text.chars().take(40).collect(),
            }),
        }
    }
}

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It is not a number.
    #[error("{text:?} is no amount: write digits, and a point if need be, such as 71.875")]
    Malformed {
        /// What was read.
        text: String,
    },
    /// Finer than base units.
    #[error("{text:?} has more than 18 digits behind the point")]
    TooFine {
        /// What was read.
        text: String,
    },
    /// More than 256 bits.
    #[error("{text:?} is larger than any amount")]
    TooLarge {
        /// What was read.
        text: String,
    },
    /// Not an asset.
    #[error("{text:?} is no asset: write credit or aleph")]
    Asset {
        /// What was read.
        text: String,
    },
}

/// A number of base units; not negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(U256);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(U256::ZERO);

    /// So many base units.
    pub fn from_base(units: u128) -> Self {
        Self(U256::from(units))
    }

    /// So many whole assets.
    pub fn from_whole(whole: u64) -> Self {
        Self(U256::from(whole) * U256::from(10_u64.pow(18)))
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// The sum; none when it is larger than any amount.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference; none when it would be negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The difference, or nothing.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self` × `times` / `of`, rounded down: for who pays. None when it is larger than any amount, or `of` is 0.
    #[must_use]
    pub fn part(self, times: u64, of: u64) -> Option<Self> {
        let product: U512 = self.0.widening_mul(U256::from(times));
        let quotient = product.checked_div(U512::from(of))?;
        U256::checked_from_limbs_slice(quotient.as_limbs()).map(Self)
    }

    /// In whole assets with what they are of, as people read it: `240.00 ALEPH`. All of it, and two digits behind the point at least.
    pub fn of(self, asset: Asset) -> String {
        let text = self.to_string();
        let fine = text.split_once('.').map_or(0, |(_, fine)| fine.len());
        let (point, zeros) = (
            if fine == 0 { "." } else { "" },
            "0".repeat(2_usize.saturating_sub(fine)),
        );
        format!("{text}{point}{zeros} {}", asset.label())
    }

    /// How often `other` is in it, rounded down; the most there is for nothing.
    pub fn times(self, other: Self) -> u64 {
        self.0
            .checked_div(other.0)
            .map_or(u64::MAX, |times| times.saturating_to())
    }

    /// So many of another asset, at so much of it for a whole one of this, rounded down. None when that is larger than any amount.
    #[must_use]
    pub fn at_rate(self, rate: Self) -> Option<Self> {
        let product: U512 = self.0.widening_mul(rate.0);
        let quotient = product.checked_div(U512::from(10_u64.pow(18)))?;
        U256::checked_from_limbs_slice(quotient.as_limbs()).map(Self)
    }

    /// The whole ones, rounded down; none when they are more than 64 bits count.
    pub fn whole(self) -> Option<u64> {
        let whole = self.0.checked_div(U256::from(10_u64.pow(18)))?;
        u64::try_from(whole).ok()
    }

    /// Big-endian: such bytes compare as the amounts do.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.to_be_bytes()
    }

    /// As [`Amount::to_bytes`] made them.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(U256::from_be_bytes(bytes))
    }
}

/// In whole assets, without zeros at the end.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:0>width$}", self.0.to_string(), width = DECIMALS + 1);
        let (whole, fine) = digits.split_at(digits.len() - DECIMALS);
        match fine.trim_end_matches('0') {
            "" => f.write_str(whole),
            fine => write!(f, "{whole}.{fine}"),
        }
    }
}

/// From whole assets.
impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let said = || text.chars().take(100).collect::<String>();
        let malformed = || AmountError::Malformed { text: said() };
        let (whole, fine) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fine) {
            return Err(malformed());
        }
        let fine = fine.trim_end_matches('0');
        if fine.len() > DECIMALS {
            return Err(AmountError::TooFine { text: said() });
        }
        let units = format!("{whole}{fine:0<DECIMALS$}");
        let units = units.trim_start_matches('0');
        let units = if units.is_empty() { "0" } else { units };
        U256::from_str_radix(units, 10)
            .map(Self)
            .map_err(|_| AmountError::TooLarge { text: said() })
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(serde::de::Error::custom("an amount is a text of decimal digits"));
        }
        U256::from_str_radix(&text, 10)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("an amount has at most 256 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_and_shown_in_whole_assets() {
        for (text, shown, base) in [
            ("71.875", "71.875", 71_875_000_000_000_000_000_u128),
            ("0", "0", 0),
            ("007.10", "7.1", 7_100_000_000_000_000_000),
            ("0.000000000000000001", "0.000000000000000001", 1),
            ("1000000", "1000000", 1_000_000_000_000_000_000_000_000),
        ] {
            let amount: Amount = text.parse().unwrap();
            assert_eq!(
                (amount, amount.to_string().as_str()),
                (Amount::from_base(base), shown)
            );
        }
        for text in [
            "", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "1 ", "0x1", "1.2.3", "½",
        ] {
            assert!(
                matches!(text.parse::<Amount>(), Err(AmountError::Malformed { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            "0.0000000000000000001".parse::<Amount>(),
            Err(AmountError::TooFine { .. })
        ));
        assert!(matches!(
            "1".repeat(80).parse::<Amount>(),
            Err(AmountError::TooLarge { .. })
        ));
    }

    #[test]
    fn crosses_json_as_text_and_the_database_as_bytes_in_order() {
        let (small, large) = (Amount::from_base(255), Amount::from_whole(u64::MAX));
        for amount in [Amount::ZERO, small, large] {
            let json = serde_json::to_string(&amount).unwrap();
            assert!(json.starts_with('"'), "{json}");
            assert_eq!(serde_json::from_str::<Amount>(&json).unwrap(), amount);
            assert_eq!(Amount::from_bytes(amount.to_bytes()), amount);
        }
        assert!(small.to_bytes() < large.to_bytes() && small < large);
        for wrong in ["1", "\"\"", "\"-1\"", "\"1.0\"", "\"0x1\""] {
            assert!(serde_json::from_str::<Amount>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn people_read_two_digits_behind_the_point_and_never_less_than_all() {
        for (text, shown) in [
            ("240", "240.00"),
            ("0.5", "0.50"),
            ("1.25", "1.25"),
            ("0.000001", "0.000001"),
        ] {
            let amount: Amount = text.parse().unwrap();
            assert_eq!(amount.of(Asset::Aleph), format!("{shown} ALEPH"));
        }
    }

    #[test]
    fn a_part_is_rounded_down_and_never_overflows_on_the_way() {
        let hour = Amount::from_whole(258_750);
        assert_eq!(hour.part(1, 3_600).unwrap().to_string(), "71.875");
        assert_eq!(hour.part(3_600, 3_600), Some(hour));
        assert_eq!(Amount::from_base(10).part(1, 3), Some(Amount::from_base(3)));
        let most = Amount::from_bytes([255; 32]);
        assert_eq!(most.part(7, 7), Some(most));
        assert_eq!((most.part(2, 1), hour.part(1, 0)), (None, None));
        assert_eq!(most.checked_add(Amount::from_base(1)), None);
        assert_eq!(Amount::ZERO.checked_sub(Amount::from_base(1)), None);
    }
}
