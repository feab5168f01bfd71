//! Section `settlement`: the chain on which ALEPH comes in and goes out, and what it is worth in credits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::money::Amount;
use alephlab_gateway::{ChainConfig, RateSource};
use serde::{Deserialize, Serialize};

use super::values::{amount, count};
use crate::error::{CliError, Result};

/// Wei of one gwei.
const GWEI: u128 = 1_000_000_000;

/// Section `settlement`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settlement {
    /// Address of a node of the chain; not shown, because a key is often in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Which chain.
    #[serde(deserialize_with = "count")]
    pub chain_id: usize,
    /// The token's contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The contract that pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
    /// Where deposits are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<String>,
    /// Blocks upon one before it is final.
    #[serde(deserialize_with = "count")]
    pub confirmations: usize,
    /// Least that is paid out.
    #[serde(deserialize_with = "amount")]
    pub minimum: String,
    /// Most that an account has paid out in a day.
    #[serde(deserialize_with = "amount")]
    pub daily: String,
    /// Most that one gas may cost.
    #[serde(deserialize_with = "count")]
    pub max_gwei: usize,
    /// How often the chain is looked at.
    #[serde(deserialize_with = "count")]
    pub every_seconds: usize,
    /// Credits for one ALEPH.
    #[serde(deserialize_with = "amount")]
    pub rate: String,
    /// A file with that number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_file: Option<PathBuf>,
}

impl Default for Settlement {
    fn default() -> Self {
        Self {
            node: None,
            chain_id: 1,
            token: None,
            contract: None,
            deposit: None,
            confirmations: 0,
            minimum: "10".to_owned(),
            daily: "0".to_owned(),
            max_gwei: 100,
            every_seconds: 15,
            rate: "0".to_owned(),
            rate_file: None,
        }
    }
}

impl Settlement {
    /// The chain; none where no node is set.
    pub(crate) fn chain(&self) -> Result<Option<ChainConfig>> {
        let Some(node) = &self.node else {
            return Ok(None);
        };
        let needed = |key: &str, value: &Option<String>| {
            let message = format!("settlement.node is set, and settlement.{key} is not");
            value.clone().ok_or(CliError::Setting { message })
        };
        Ok(Some(ChainConfig {
            node: Secret::new(node.trim()),
            chain_id: self.chain_id as u64,
            token: needed("token", &self.token)?,
            contract: needed("contract", &self.contract)?,
            deposit: self.deposit.clone(),
            confirmations: (self.confirmations > 0).then_some(self.confirmations as u64),
            minimum: whole(&self.minimum),
            daily: Some(whole(&self.daily)).filter(|daily| !daily.is_zero()),
            fee_max: self.max_gwei as u128 * GWEI,
            every: Duration::from_secs(self.every_seconds.max(1) as u64),
        }))
    }

    /// Where the rate comes from; none where neither is set.
    pub(crate) fn rate(&self, data: &Path) -> Result<Option<RateSource>> {
        let fixed = whole(&self.rate);
        match (&self.rate_file, fixed.is_zero()) {
            (None, true) => Ok(None),
            (None, false) => Ok(Some(RateSource::Fixed(fixed))),
            (Some(file), true) => Ok(Some(RateSource::File(data.join(file)))),
            (Some(_), false) => {
                let message = "settlement.rate and settlement.rate_file are both set".to_owned();
                Err(CliError::Setting { message })
            }
        }
    }
}

/// What was checked when it was read.
fn whole(text: &str) -> Amount {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_needs_its_token_and_contract_and_there_is_one_rate() {
        let refused = |section: Settlement| section.chain().err().unwrap().to_string();
        assert!(Settlement::default().chain().unwrap().is_none());
        let mut section = Settlement {
            node: Some("https://node.example/v2/key".to_owned()),
            ..Settlement::default()
        };
        let said = refused(section.clone());
        assert!(
            said.contains("settlement.token") && !said.contains("key"),
            "{said}"
        );
        section.token = Some("0x1".to_owned());
        assert!(refused(section.clone()).contains("settlement.contract"));
        section.contract = Some("0x2".to_owned());
        let chain = section.chain().unwrap().unwrap();
        assert_eq!((chain.confirmations, chain.daily), (None, None));
        assert_eq!(
            (chain.minimum, chain.fee_max),
            (Amount::from_whole(10), 100 * GWEI)
        );
        let data = Path::new("/data");
        assert!(section.rate(data).unwrap().is_none());
        section.rate_file = Some("rate".into());
        let file = section.rate(data).unwrap();
        assert!(matches!(file, Some(RateSource::File(path)) if path == Path::new("/data/rate")));
        section.rate = "60000".to_owned();
        assert!(section.rate(data).is_err());
    }
}
