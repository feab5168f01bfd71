//! ALEPH that comes in and goes out on the chain, and ALEPH that becomes credits.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::Amount;

/// `POST /v1/withdrawals`: to the account's own address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewWithdrawal {
    /// Chosen by the sender: the same id is one withdrawal.
    pub id: Uuid,
    /// Of ALEPH.
    pub amount: Amount,
}

/// How far a withdrawal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithdrawalState {
    /// It waits for a batch.
    Asked,
    /// It is in a batch, of which nothing was sent.
    InBatch,
    /// A node has the batch's transaction.
    Sent,
    /// The batch is paid in a block that may still go.
    Mined,
    /// The tokens are at the address for good.
    Paid,
    /// It could not be paid, and the amount is back in the account.
    Returned,
}

impl WithdrawalState {
    /// In words, as people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Asked => "asked, waits for a batch",
            Self::InBatch => "in a batch",
            Self::Sent => "sent",
            Self::Mined => "mined, not final",
            Self::Paid => "paid",
            Self::Returned => "returned",
        }
    }
}

/// One withdrawal of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The sender's id.
    pub id: Uuid,
    /// Of ALEPH.
    pub amount: Amount,
    /// To whom.
    pub address: String,
    /// How far it is.
    pub state: WithdrawalState,
    /// The batch that it is in, or was in last, as the contract names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// The newest transaction that was signed for that batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// What it waits for, or why it came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since 1970.
    pub asked: u64,
    /// When it was paid for good or came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
}

/// `GET /v1/withdrawals`: newest first, and what holds for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawals {
    /// Least that is paid out.
    pub minimum: Amount,
    /// Most that an account has paid out in 24 hours; none for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<Amount>,
    /// What the gateway takes of it: nothing, it pays the chain itself.
    pub fee: Amount,
    /// Where it goes; none while the account has proven no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The chain, as EIP-155 counts them.
    pub chain_id: u64,
    /// Why none is taken now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// The last 200.
    pub withdrawals: Vec<Withdrawal>,
}

/// `GET /v1/deposit`: where tokens are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepositPlace {
    /// To this address.
    pub address: String,
    /// The token's contract.
    pub token: String,
    /// The chain, as EIP-155 counts them.
    pub chain_id: u64,
    /// Blocks upon the deposit's before it counts; none where the chain says when a block is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmations: Option<u64>,
    /// Only what comes from this address is the account's; none while it has proven none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What ALEPH becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Credits of the account here, for kernels.
    Compute,
    /// Credits of the account's own address on the Aleph network.
    Network,
}

impl Target {
    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Network => "network",
        }
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Compute, Self::Network]
            .into_iter()
            .find(|target| target.name() == text)
            .ok_or_else(|| "write compute or network".to_owned())
    }
}

/// What one ALEPH is worth in credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Credits for one ALEPH.
    pub credits: Amount,
    /// Since when, in seconds since 1970.
    pub time: u64,
}

impl Rate {
    /// What an amount of ALEPH becomes, rounded down: for this account to whole credits on the network, which knows no smaller ones.
    pub fn converted(&self, aleph: Amount, target: Target) -> Option<Amount> {
        let credits = aleph.at_rate(self.credits)?;
        match target {
            Target::Compute => Some(credits),
            Target::Network => Some(Amount::from_whole(credits.whole()?)),
        }
    }
}

/// `POST /v1/conversions`: there is no way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewConversion {
    /// Chosen by the sender: the same id is one conversion.
    pub id: Uuid,
    /// Of ALEPH.
    pub amount: Amount,
    /// What it becomes.
    pub to: Target,
    /// The rate that the sender was shown: at another one nothing is done.
    pub rate: Amount,
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversionState {
    /// The credits are in the account.
    Done,
    /// The credits are to be sent.
    Asked,
    /// The network has the message.
    Posted,
    /// The network has carried it out.
    Seen,
    /// The network refused it, and the credits are in the account.
    Returned,
}

impl ConversionState {
    const ALL: [Self; 5] = [Self::Done, Self::Asked, Self::Posted, Self::Seen, Self::Returned];

    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Asked => "asked",
            Self::Posted => "posted",
            Self::Seen => "seen",
            Self::Returned => "returned",
        }
    }

    /// As [`ConversionState::name`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == text)
    }
}

/// ALEPH that became credits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// The sender's id.
    pub id: Uuid,
    /// What it became.
    pub to: Target,
    /// How much there was of it.
    pub aleph: Amount,
    /// How many credits there are of it.
    pub credits: Amount,
    /// At which rate.
    pub rate: Rate,
    /// How far it is.
    pub state: ConversionState,
    /// Of `network`: to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Of `network`: the item hash of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it waits for, or why the credits stayed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since 1970.
    pub asked: u64,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
}

/// `GET /v1/conversions`: newest first, and the rate of the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversions {
    /// None where none is known that is new enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Whether credits can be sent to the account's own address.
    pub network: bool,
    /// The last 200.
    pub conversions: Vec<Conversion>,
}

/// Why withdrawals are stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Stable name of the reason.
    pub code: String,
    /// In words.
    pub reason: String,
    /// Seconds since 1970.
    pub since: u64,
}

/// Tokens on the chain against the books, both as of one final block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Seconds since 1970.
    pub time: u64,
    /// The block.
    pub block: u64,
    /// What the contract and the deposit address have.
    pub on_chain: Amount,
    /// What should be there and is not.
    pub missing: Amount,
    /// What is there and in no book: a top-up that was not recorded, or a stranger's present.
    pub unbooked: Amount,
}

/// The batch that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenBatch {
    /// Its name on the chain.
    pub id: String,
    /// `planned`, `signed`, `sent` or `mined`.
    pub stage: String,
    /// Its sum.
    pub total: Amount,
    /// How many it pays.
    pub payouts: u64,
    /// Last second of a block that may have it.
    pub deadline: u64,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// `GET /v1/settlement`, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The chain, as EIP-155 counts them.
    pub chain_id: u64,
    /// The token.
    pub token: String,
    /// The contract that pays.
    pub contract: String,
    /// Where deposits are taken.
    pub deposit: String,
    /// The contract's operator, which pays for gas.
    pub payout_key: String,
    /// Block up to which deposits were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_to: Option<u64>,
    /// What is wrong with the chain's node or the settings; nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Why withdrawals are stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stop>,
    /// The last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Comparison>,
    /// The open one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<OpenBatch>,
    /// Withdrawals that wait for a batch, and what they come to.
    pub asked: u64,
    /// Their sum.
    pub asked_total: Amount,
    /// Deposits of nobody who is known, and what they come to.
    pub unknown: u64,
    /// Their sum.
    pub unknown_total: Amount,
}

/// `POST /v1/settlement/moves`, by the operator: tokens that the owner put in or took out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Chosen by the sender: the same key is recorded once.
    pub key: String,
    /// Of ALEPH.
    pub amount: Amount,
    /// Which way they went.
    pub way: Way,
    /// In the operator's words.
    #[serde(default)]
    pub memo: String,
}

/// Which way tokens went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Into the contract or to the deposit address.
    In,
    /// Out of them.
    Out,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rounds_down_for_who_is_paid_and_the_network_knows_whole_credits_only() {
        let rate = Rate {
            credits: "60000.5".parse().unwrap(),
            time: 0,
        };
        let aleph: Amount = "1.5".parse().unwrap();
        assert_eq!(
            rate.converted(aleph, Target::Compute).unwrap().to_string(),
            "90000.75"
        );
        assert_eq!(
            rate.converted(aleph, Target::Network).unwrap().to_string(),
            "90000"
        );
        let least = Amount::from_base(1);
        assert_eq!(
            rate.converted(least, Target::Compute),
            Some(Amount::from_base(60_000))
        );
        assert_eq!(rate.converted(least, Target::Network), Some(Amount::ZERO));
        let most = Amount::from_bytes([255; 32]);
        assert_eq!(rate.converted(most, Target::Compute), None);
        assert_eq!("network".parse(), Ok(Target::Network));
        assert!("aleph".parse::<Target>().is_err());
    }
}
