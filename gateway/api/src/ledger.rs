//! What an account has at a gateway, how it came to that, and what of it is set aside for a kernel.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::{Amount, Asset};

/// One asset of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Which.
    pub asset: Asset,
    /// What it has, holds included.
    pub total: Amount,
    /// Set aside for what runs.
    pub held: Amount,
    /// What it can set aside or spend.
    pub available: Amount,
}

/// `GET /v1/balance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balances {
    /// The account: an address, EIP-55, or an id where it began without one.
    pub address: String,
    /// One for each asset that it ever had.
    pub balances: Vec<Balance>,
}

/// `POST /v1/credits`, by the operator: gives an account something to spend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCredit {
    /// To whom: an address or an account's id.
    pub address: String,
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub asset: Asset,
    /// Chosen by the sender: the same key is carried out once.
    pub key: String,
    /// In the operator's words, shown to the account.
    #[serde(default)]
    pub memo: String,
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// The operator gave it.
    Credit,
    /// Compute that was used.
    Charge,
    /// ALEPH that came in on the chain.
    Deposit,
    /// A model that was sold.
    Sale,
    /// What the owner of a model has of the sale of one that was made from it.
    Royalty,
    /// What the gateway has of a sale.
    Fee,
    /// A model's use by time.
    Use,
    /// A purchase that was given back.
    Refund,
    /// Earnings that are final.
    Release,
    /// ALEPH that became credits.
    Convert,
    /// ALEPH or credits that were asked to be sent out.
    Withdraw,
    /// What was asked for was sent.
    Settle,
    /// What could not be sent came back.
    Return,
}

impl EntryKind {
    const ALL: [Self; 13] = [
        Self::Credit,
        Self::Charge,
        Self::Deposit,
        Self::Sale,
        Self::Royalty,
        Self::Fee,
        Self::Use,
        Self::Refund,
        Self::Release,
        Self::Convert,
        Self::Withdraw,
        Self::Settle,
        Self::Return,
    ];

    /// As it is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Charge => "charge",
            Self::Deposit => "deposit",
            Self::Sale => "sale",
            Self::Royalty => "royalty",
            Self::Fee => "fee",
            Self::Use => "use",
            Self::Refund => "refund",
            Self::Release => "release",
            Self::Convert => "convert",
            Self::Withdraw => "withdraw",
            Self::Settle => "settle",
            Self::Return => "return",
        }
    }

    /// As [`EntryKind::name`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }
}

/// One line of an account's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the gateway's ledger: grows with every entry of any account.
    pub seq: u64,
    /// The entry.
    pub id: Uuid,
    /// What for.
    pub kind: EntryKind,
    /// Of what.
    pub asset: Asset,
    /// Moved into the account, or out of it.
    pub amount: Amount,
    /// Into the account.
    pub incoming: bool,
    /// In the words of who made it.
    pub memo: String,
    /// Unix seconds.
    pub time: u64,
}

/// `GET /v1/kernels/{id}/cap`: what is set aside for a kernel that costs something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCap {
    /// The kernel.
    pub id: Uuid,
    /// Most that is charged, credits.
    pub cap: Amount,
    /// Charged so far.
    pub charged: Amount,
    /// For how many seconds.
    pub seconds: u64,
    /// Credits an hour.
    pub price: Amount,
    /// For how many more seconds the cap lasts.
    pub seconds_left: u64,
    /// Nothing more is charged, and what was left was given back.
    pub ended: bool,
}

/// `PUT /v1/kernels/{id}/cap`: raises it while the kernel runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCap {
    /// The whole cap in credits, not what is added: asked for again, it changes nothing.
    pub cap: Amount,
}
