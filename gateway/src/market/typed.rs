//! What is signed of a sale, as typed data (EIP-712): the purchase, by the buyer's wallet, and that it is paid, by the gateway's
//! receipt key. The seller's machine checks both by itself, and so can anybody.

use alephlab_api::market::{NewOrder, Paid, Purchase, SignedPaid};
use alephlab_vault::{Address, recover_hash};

use crate::receipts::keccak;

const DOMAIN_TYPE: &[u8] = b"EIP712Domain(string name,string version)";
const DOMAIN_NAME: &[u8] = b"Alephlab purchase";
const DOMAIN_VERSION: &[u8] = b"1";
const PURCHASE_TYPE: &[u8] =
    b"Purchase(string order,address buyer,string model,string uuid,string revision,uint256 price,\
string asset,address gateway,uint256 time)";
const PAID_TYPE: &[u8] =
    b"Paid(string order,address buyer,string model,string revision,uint256 price,string asset,uint256 time)";

/// Why what is signed of a sale does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurchaseError {
    /// A field is not of its form.
    #[error("the {field} of an order is no address")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// Another key signed it, or it was changed.
    #[error("the {what} is not signed by {signer}")]
    Signature {
        /// What.
        what: &'static str,
        /// Who should have signed.
        signer: String,
    },
}

impl PurchaseError {
    /// Stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "order_malformed",
            Self::Signature { .. } => "order_signature",
        }
    }
}

/// What a buyer signs.
///
/// # Errors
/// [`PurchaseError::Malformed`].
pub fn purchase_hash(purchase: &Purchase) -> Result<[u8; 32], PurchaseError> {
    Ok(typed(&[
        &keccak(&[PURCHASE_TYPE]),
        &text(&purchase.order.to_string()),
        &address(&purchase.buyer, "buyer")?,
        &text(&purchase.model),
        &text(&purchase.uuid.to_string()),
        &text(&purchase.revision),
        &purchase.price.to_bytes(),
        &text(purchase.asset.name()),
        &address(&purchase.gateway, "gateway")?,
        &number(purchase.time),
    ]))
}

/// What a gateway signs.
///
/// # Errors
/// [`PurchaseError::Malformed`].
pub fn paid_hash(paid: &Paid) -> Result<[u8; 32], PurchaseError> {
    Ok(typed(&[
        &keccak(&[PAID_TYPE]),
        &text(&paid.order.to_string()),
        &address(&paid.buyer, "buyer")?,
        &text(&paid.model),
        &text(&paid.revision),
        &paid.price.to_bytes(),
        &text(paid.asset.name()),
        &number(paid.time),
    ]))
}

/// Checks that the buyer who is named signed the purchase.
///
/// # Errors
/// [`PurchaseError`].
pub fn check_purchase(order: &NewOrder) -> Result<(), PurchaseError> {
    let purchase = &order.purchase;
    signed(
        "purchase",
        &purchase_hash(purchase)?,
        &order.signature,
        &purchase.buyer,
    )
}

/// Checks that the receipt key of this address says that this purchase is paid.
///
/// # Errors
/// [`PurchaseError`]; one about another order is not signed for this one.
pub fn check_paid(paid: &SignedPaid, of: &Purchase, signer: &str) -> Result<(), PurchaseError> {
    let said = &paid.paid;
    let same = said.order == of.order
        && said.buyer == of.buyer
        && said.model == of.model
        && said.revision == of.revision
        && said.price == of.price
        && said.asset == of.asset;
    if !same {
        return Err(PurchaseError::Signature {
            what: "payment of this order",
            signer: signer.to_owned(),
        });
    }
    signed(
        "payment of this order",
        &paid_hash(said)?,
        &paid.signature,
        signer,
    )
}

fn signed(what: &'static str, hash: &[u8; 32], signature: &str, signer: &str) -> Result<(), PurchaseError> {
    let by = recover_hash(hash, signature);
    if by.is_ok_and(|by| by.to_string().eq_ignore_ascii_case(signer)) {
        return Ok(());
    }
    let signer = signer.to_owned();
    Err(PurchaseError::Signature { what, signer })
}

fn typed(parts: &[&[u8]]) -> [u8; 32] {
    let domain = keccak(&[
        &keccak(&[DOMAIN_TYPE]),
        &keccak(&[DOMAIN_NAME]),
        &keccak(&[DOMAIN_VERSION]),
    ]);
    keccak(&[b"\x19\x01", &domain, &keccak(parts)])
}

fn text(text: &str) -> [u8; 32] {
    keccak(&[text.as_bytes()])
}

fn number(number: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}

fn address(address: &str, field: &'static str) -> Result<[u8; 32], PurchaseError> {
    let address: Address = address.parse().map_err(|_| PurchaseError::Malformed { field })?;
    let mut word = [0; 32];
    word[12..].copy_from_slice(&address.0);
    Ok(word)
}

#[cfg(test)]
mod tests {
    use alephlab_api::money::{Amount, Asset};
    use alephlab_vault::Wallet;
    use uuid::Uuid;

    use super::*;

    fn purchase(buyer: &Wallet) -> Purchase {
        let owner = format!("0x{}", "a1".repeat(20));
        Purchase {
            order: Uuid::from_u128(7),
            buyer: buyer.address(),
            model: format!("{owner}/digits"),
            uuid: Uuid::from_u128(9),
            revision: "a".repeat(40),
            price: Amount::from_whole(240),
            asset: Asset::Aleph,
            gateway: format!("0x{}", "c3".repeat(20)),
            time: 1_795_000_000,
        }
    }

    #[test]
    fn every_change_to_what_was_signed_is_seen() {
        let buyer = Wallet::generate().unwrap();
        let purchase = purchase(&buyer);
        let signature = buyer.sign_hash(&purchase_hash(&purchase).unwrap()).unwrap();
        let order = NewOrder { purchase, signature };
        check_purchase(&order).unwrap();
        let changes: [fn(&mut Purchase); 9] = [
            |one| one.order = Uuid::nil(),
            |one| one.buyer = one.gateway.clone(),
            |one| one.model.push('x'),
            |one| one.uuid = Uuid::nil(),
            |one| one.revision = "b".repeat(40),
            |one| one.price = Amount::from_whole(239),
            |one| one.asset = Asset::Credit,
            |one| one.gateway = format!("0x{}", "c4".repeat(20)),
            |one| one.time += 1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = order.clone();
            change(&mut changed.purchase);
            assert_eq!(
                check_purchase(&changed).unwrap_err().code(),
                "order_signature",
                "{number}"
            );
        }
    }

    #[test]
    fn a_payment_is_of_one_order_and_of_one_gateway() {
        let (buyer, gateway) = (Wallet::generate().unwrap(), Wallet::generate().unwrap());
        let purchase = purchase(&buyer);
        let said = Paid {
            order: purchase.order,
            buyer: purchase.buyer.clone(),
            model: purchase.model.clone(),
            revision: purchase.revision.clone(),
            price: purchase.price,
            asset: purchase.asset,
            time: purchase.time,
        };
        let signature = gateway.sign_hash(&paid_hash(&said).unwrap()).unwrap();
        let paid = SignedPaid {
            paid: said,
            signature,
        };
        check_paid(&paid, &purchase, &gateway.address()).unwrap();
        assert!(check_paid(&paid, &purchase, &buyer.address()).is_err());
        let mut other = purchase.clone();
        other.order = Uuid::nil();
        assert!(check_paid(&paid, &other, &gateway.address()).is_err());
        let mut later = paid;
        later.paid.time += 1;
        assert!(check_paid(&later, &purchase, &gateway.address()).is_err());
    }
}
