//! Receipts: what an account paid, for what, and the receipt before, signed by the gateway; and what shows that one stands among
//! those whose root the gateway has posted on Aleph.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::{Amount, Asset};

/// Type of the POST that states a root over all receipts of a gateway: a [`ReceiptHead`].
pub const RECEIPT_HEAD_TYPE: &str = "alephlab-receipts";
/// The form of receipts that are written now.
pub const RECEIPT_VERSION: u8 = 2;

/// What was paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptKind {
    /// A kernel's time.
    Compute,
    /// A model, to have.
    Sale,
    /// A model's time in a kernel.
    Use,
    /// Credits, for ALEPH.
    Convert,
    /// What left the gateway.
    Withdraw,
}

impl ReceiptKind {
    /// As it is signed and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Sale => "sale",
            Self::Use => "use",
            Self::Convert => "convert",
            Self::Withdraw => "withdraw",
        }
    }

    /// What its price is for.
    pub fn unit(self) -> Unit {
        match self {
            Self::Compute | Self::Use => Unit::Hour,
            Self::Sale | Self::Convert | Self::Withdraw => Unit::One,
        }
    }
}

/// What a price is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// An hour; units are its seconds.
    #[default]
    Hour,
    /// One of what is counted.
    One,
}

impl Unit {
    /// As it is signed and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::One => "one",
        }
    }

    /// How many units the price is for.
    pub fn parts(self) -> u64 {
        match self {
            Self::Hour => 3_600,
            Self::One => 1,
        }
    }
}

/// One statement of a gateway. Its hash is that of EIP-712 typed data; each names the hash of the payer's receipt before,
/// so that none can be taken out or changed later without the payer seeing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version of what is signed, and of its domain. The first has no model, no commit and no unit, and says no version.
    #[serde(default = "first")]
    pub version: u8,
    /// The receipt.
    pub id: Uuid,
    /// Who paid: an address, EIP-55, or the account's id where it began without one. In what is signed such an id stands as the
    /// last 20 bytes of its Keccak-256.
    pub payer: String,
    /// Who was paid, as the payer is named.
    pub payee: String,
    /// What for.
    pub kind: ReceiptKind,
    /// For what, such as `kernel` and its id.
    pub subject: String,
    /// The model that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Uuid>,
    /// The model's revision, 40 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// How much was used: seconds, or how many.
    pub units: u64,
    /// What the price is for.
    #[serde(default)]
    pub unit: Unit,
    /// Price of a unit.
    pub unit_price: Amount,
    /// What was paid.
    pub amount: Amount,
    /// Of what.
    pub asset: Asset,
    /// Counts the payer's receipts, from 1.
    pub sequence: u64,
    /// Last entry of the gateway's ledger that it is about.
    pub entry: u64,
    /// Hash of the payer's receipt before, 64 hex digits; zeros for the first.
    pub previous: String,
    /// Unix seconds.
    pub time: u64,
}

fn first() -> u8 {
    1
}

/// A receipt with the signature of the gateway's receipt key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// What is signed.
    #[serde(flatten)]
    pub receipt: Receipt,
    /// 65 bytes r, s, v, hex with `0x`.
    pub signature: String,
}

/// `GET /v1/receipts?after=SEQUENCE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipts {
    /// Address of the key that signs, EIP-55.
    pub signer: String,
    /// In order.
    pub receipts: Vec<SignedReceipt>,
}

/// Content of a POST of type [`RECEIPT_HEAD_TYPE`]: a root over the hashes of a gateway's first receipts, as in a log of RFC 9162.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptHead {
    /// Address of the key that signs receipts, EIP-55.
    pub signer: String,
    /// Of how many receipts, in the order in which they were written.
    pub size: u64,
    /// The root, 64 hex digits.
    pub root: String,
    /// Item hash of the POST before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Of the key that signs receipts, over size, root, the address that posts and the POST before: nobody else can post for it.
    pub signature: String,
}

/// `GET /v1/receipts/head`: who signs, and what stands on Aleph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLog {
    /// Address of the key that signs receipts, EIP-55.
    pub signer: String,
    /// The newest root; none before the first is posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<PostedHead>,
    /// Why no more are posted: what stands on Aleph is not in the gateway's database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A root that stands on Aleph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostedHead {
    /// Who signed the POST.
    pub poster: String,
    /// Item hash of the POST.
    pub message: String,
    /// What it says.
    #[serde(flatten)]
    pub head: ReceiptHead,
}

/// `GET /v1/receipts/{id}/proof`: that a receipt is one of those under a posted root. Says nothing of others but hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptProof {
    /// Place of the receipt among all of the gateway, from 0.
    pub place: u64,
    /// Of how many receipts the root is.
    pub size: u64,
    /// The root, 64 hex digits.
    pub root: String,
    /// Hashes beside the way from the receipt to the root, 64 hex digits each.
    pub path: Vec<String>,
    /// Who signed the POST that has the root.
    pub poster: String,
    /// Item hash of that POST.
    pub message: String,
}

/// `GET /v1/receipts/{id}`: all that a third party needs to check a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptFile {
    /// Address of the key that signs, EIP-55.
    pub signer: String,
    /// What was paid.
    pub receipt: SignedReceipt,
    /// None before the next root is posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ReceiptProof>,
}

/// `GET /v1/receipts/consistency?from=SIZE&to=SIZE`: that the receipts under one posted root are the first of those under a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// Size of the earlier root.
    pub from: u64,
    /// Size of the later one.
    pub to: u64,
    /// 64 hex digits each.
    pub path: Vec<String>,
}
