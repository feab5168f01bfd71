//! What x402 (version 2, scheme `exact`) puts into headers: base64 of JSON.

use alephlab_api::Secret;
use alephlab_api::money::Amount;
use alephlab_settlement::{Authorization, B256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest header that is read.
const HEADER_MAX: usize = 16 * 1024;
/// How long an authorization should hold.
pub(super) const TIMEOUT: u64 = 600;

/// One way to pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepts {
    pub(super) scheme: String,
    /// CAIP-2.
    pub(super) network: String,
    pub(super) asset: String,
    pub(super) amount: Amount,
    pub(super) pay_to: String,
    pub(super) max_timeout_seconds: u64,
    pub(super) extra: Value,
}

/// What is sent and signed on the chain; kept with its payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SignedAuthorization {
    from: String,
    to: String,
    value: Amount,
    valid_after: String,
    valid_before: String,
    nonce: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exact {
    pub(super) signature: String,
    pub(super) authorization: SignedAuthorization,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payment {
    x402_version: u32,
    payload: Exact,
    accepted: Accepts,
}

/// The value of `PAYMENT-REQUIRED`.
pub(super) fn required(accepts: &Accepts, (url, description): (&str, &str), error: &str) -> String {
    let value = json!({
        "x402Version": 2,
        "error": error,
        "resource": {"url": url, "description": description, "mimeType": "application/octet-stream"},
        "accepts": [accepts],
    });
    STANDARD.encode(value.to_string())
}

/// The value of `PAYMENT-RESPONSE`, with the share that opens the rest of the revision.
pub(super) fn response(
    accepts: &Accepts,
    payer: &str,
    transaction: &str,
    (order, share, token): (&str, &str, &Secret),
) -> String {
    let value = json!({
        "success": true,
        "payer": payer,
        "transaction": transaction,
        "network": accepts.network,
        "amount": accepts.amount,
        "extra": {"order": order, "share": share, "token": token.expose()},
    });
    STANDARD.encode(value.to_string())
}

/// Reads a `PAYMENT-SIGNATURE`, or says what is wrong with it.
pub(super) fn payment(header: &str, asked: &Accepts) -> Result<Exact, &'static str> {
    if header.len() > HEADER_MAX {
        return Err("the payment is too long");
    }
    let bytes = STANDARD
        .decode(header.trim())
        .map_err(|_| "the payment is not base64")?;
    let payment: Payment = serde_json::from_slice(&bytes)
        .map_err(|_| "the payment is not one of scheme exact by an authorization")?;
    if payment.x402_version != 2 {
        return Err("only version 2 of x402 is spoken here");
    }
    let accepted = &payment.accepted;
    let is_same = accepted.scheme == asked.scheme
        && accepted.network == asked.network
        && accepted.asset.eq_ignore_ascii_case(&asked.asset)
        && accepted.pay_to.eq_ignore_ascii_case(&asked.pay_to)
        && accepted.amount == asked.amount;
    is_same
        .then_some(payment.payload)
        .ok_or("the payment is for other terms than those in force")
}

impl Exact {
    /// What was signed, if it can be read.
    pub(super) fn authorization(&self) -> Option<Authorization> {
        let signed = &self.authorization;
        Some(Authorization {
            from: signed.from.parse().ok()?,
            to: signed.to.parse().ok()?,
            value: signed.value,
            valid_after: signed.valid_after.parse().ok()?,
            valid_before: signed.valid_before.parse().ok()?,
            nonce: signed.nonce.parse::<B256>().ok()?,
        })
    }

    /// Its 65 bytes r, s, v.
    pub(super) fn signature(&self) -> Option<[u8; 65]> {
        let bytes = hex::decode(self.signature.strip_prefix("0x")?).ok()?;
        let mut bytes: [u8; 65] = bytes.try_into().ok()?;
        // Some wallets count from 0.
        if bytes[64] < 27 {
            bytes[64] += 27;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts() -> Accepts {
        Accepts {
            scheme: "exact".into(),
            network: "eip155:8453".into(),
            asset: "0xAb".into(),
            amount: Amount::from_base(5),
            pay_to: "0xCd".into(),
            max_timeout_seconds: TIMEOUT,
            extra: json!({"name": "ALEPH", "version": "1"}),
        }
    }

    fn header(accepted: &Accepts, version: u32) -> String {
        let nonce = format!("0x{:064x}", 1);
        let address = format!("0x{:040x}", 2);
        let value = json!({
            "x402Version": version,
            "accepted": accepted,
            "payload": {
                "signature": format!("0x{}00", "11".repeat(64)),
                "authorization": {"from": address, "to": address, "value": "5", "validAfter": "0",
                    "validBefore": "9", "nonce": nonce},
            },
        });
        STANDARD.encode(value.to_string())
    }

    #[test]
    fn only_what_was_asked_for_is_read() {
        let asked = accepts();
        let read = payment(&header(&asked, 2), &asked).unwrap();
        assert_eq!(read.authorization().unwrap().value, Amount::from_base(5));
        assert_eq!(read.signature().unwrap()[64], 27);
        assert!(payment(&header(&asked, 1), &asked).is_err());
        for change in [
            Accepts {
                amount: Amount::from_base(4),
                ..accepts()
            },
            Accepts {
                network: "eip155:1".into(),
                ..accepts()
            },
            Accepts {
                pay_to: "0xEf".into(),
                ..accepts()
            },
            Accepts {
                asset: "0xEf".into(),
                ..accepts()
            },
            Accepts {
                scheme: "upto".into(),
                ..accepts()
            },
        ] {
            assert!(payment(&header(&change, 2), &asked).is_err());
        }
        assert!(payment("no base64!", &asked).is_err());
        assert!(payment(&STANDARD.encode("{}"), &asked).is_err());
    }
}
