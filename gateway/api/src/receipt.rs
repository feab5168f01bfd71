//! Receipts: what an account paid, for what, and the receipt before, signed by the gateway.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::money::{Amount, Asset};

/// One statement of a gateway. Its hash is that of EIP-712 typed data; each names the hash of the payer's receipt before,
/// so that none can be taken out or changed later without the payer seeing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The receipt.
    pub id: Uuid,
    /// Who paid: an address, EIP-55, or the account's id where it began without one. In what is signed such an id stands as the
    /// last 20 bytes of its Keccak-256.
    pub payer: String,
    /// Who was paid, EIP-55.
    pub payee: String,
    /// `compute`.
    pub kind: String,
    /// For what, such as `kernel` and its id.
    pub subject: String,
    /// How much was used: seconds.
    pub units: u64,
    /// Of an hour.
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
