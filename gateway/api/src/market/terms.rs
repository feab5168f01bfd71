//! What an owner asks for a model, and who has what of it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ROYALTY_MAX, WHOLE};
use crate::model::{is_owned, private_uuid};
use crate::money::{Amount, Asset};
use crate::problem::Problem;

/// Addresses that a sale is split among, at most.
const SPLIT_MAX: usize = 16;

/// What the owner of a sealed model asks for it, signed by being the content of the owner's Aleph POST message of type
/// [`MODEL_TERMS_TYPE`]. Of several the one with the latest `created` counts, and of equal ones the one with the smaller item
/// hash. Public revisions stay free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTerms {
    /// Address of the owner, EIP-55.
    pub owner: String,
    /// `owner/name`.
    pub name: String,
    /// Identity of the model across revisions.
    pub uuid: Uuid,
    /// For one revision, in base units; none where it is not sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Amount>,
    /// Of what.
    pub asset: Asset,
    /// What sellers of models that are made from this one pay of their price, basis points; half of it where another model is
    /// between, a quarter where two are, and nothing further down.
    #[serde(default)]
    pub royalty: u16,
    /// Who else is paid of what the seller gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<Split>,
    /// How a buyer gets the key.
    pub release: ReleaseWay,
    /// Address of the receipt key of the gateway that it is sold through, EIP-55: on its word that a buyer has paid, the
    /// owner's machine lets the buyer in.
    pub gateway: String,
    /// For an hour of use; not sold yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<Amount>,
    /// Seconds since 1970.
    pub created: u64,
}

/// Somebody who is paid a part of each sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Address, EIP-55.
    pub to: String,
    /// Of what the seller gets, basis points.
    pub share: u16,
}

/// Basis points of `5%`, `2.5 %` or `30`, as people write percentages.
///
/// # Errors
/// What to write instead.
pub fn basis_points(text: &str) -> Result<u16, String> {
    let wrong =
        || "write a percentage with at most two digits behind the point, such as 5% or 2.5%".to_owned();
    let number = text.trim();
    let number = number.strip_suffix('%').unwrap_or(number).trim();
    let amount: Amount = number.parse().map_err(|_| wrong())?;
    let points = amount.part(100, 1).ok_or_else(wrong)?;
    let whole = points.times(Amount::from_whole(1));
    let is_exact = Amount::from_whole(whole) == points;
    let points = u16::try_from(whole)
        .ok()
        .filter(|points| is_exact && *points <= WHOLE);
    points.ok_or_else(wrong)
}

/// How a buyer gets the key of what was bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseWay {
    /// The owner's machine grants it: `alephlab keys` there.
    Keys,
    /// The gateway has it, and gives it out at once.
    Deposit,
}

impl ReleaseWay {
    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Deposit => "deposit",
        }
    }

    /// As [`ReleaseWay::name`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Keys, Self::Deposit]
            .into_iter()
            .find(|way| way.name() == text)
    }

    /// Who can read what is sold so, for who decides.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Keys => {
                "the seller's machine grants it to your key; this gateway's operator cannot read it"
            }
            Self::Deposit => {
                "this gateway has the key and gives it out at once; its operator can read this model"
            }
        }
    }
}

impl ModelTerms {
    /// Who is named in them, besides the owner: the gateway, and whom the split pays.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let split = self.split.iter().map(|split| split.to.as_str());
        std::iter::once(self.gateway.as_str()).chain(split)
    }

    /// Checks the form of terms that came from outside.
    ///
    /// # Errors
    /// A `model_terms` problem that names the fault; `per_use_unavailable` for what cannot be sold yet.
    pub fn check(&self) -> Result<(), Problem> {
        let bad = |what: &str| {
            Err(Problem::new(
                "model_terms",
                format!("the terms are refused: {what}"),
            ))
        };
        if !is_owned(&self.owner, &self.name) {
            return bad("their model is not the owner's address, a slash and a plain name");
        }
        if private_uuid(&self.name).is_some() {
            return bad("a private model is not offered to anybody");
        }
        if self.per_hour.is_some() {
            let text = "a price for an hour of use is not available yet";
            return Err(Problem::new("per_use_unavailable", text).with_hint("name a price: --price"));
        }
        if self.price.is_some_and(Amount::is_zero) {
            return bad("the price is nothing; a model that is free is published as public");
        }
        if self.asset != Asset::Aleph {
            return bad("models are sold for ALEPH");
        }
        if self.royalty > ROYALTY_MAX {
            return bad("the royalty is over 30 %");
        }
        if !is_address(&self.gateway) {
            return bad("they name no gateway");
        }
        let mut to: Vec<_> = self.split.iter().map(|split| split.to.as_str()).collect();
        to.sort_unstable();
        to.dedup();
        let shares: u32 = self.split.iter().map(|split| u32::from(split.share)).sum();
        if to.len() != self.split.len() || to.len() > SPLIT_MAX {
            return bad("an address is in the split twice, or there are more than 16");
        }
        if to.iter().any(|to| !is_address(to) || *to == self.owner) {
            return bad("the split names what is no address, or the owner, who gets what is left");
        }
        if self.split.iter().any(|split| split.share == 0) || shares >= u32::from(WHOLE) {
            return bad("the split gives nothing to somebody, or all of it away");
        }
        Ok(())
    }
}

pub(super) fn is_address(text: &str) -> bool {
    text.len() == 42 && text.starts_with("0x") && text.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit())
}

/// Terms as a gateway knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedTerms {
    /// What was signed.
    pub terms: ModelTerms,
    /// Item hash of their message.
    pub message: String,
    /// Whether this gateway sells it: another's receipt key may be named.
    pub here: bool,
}
