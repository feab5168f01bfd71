//! Chains of receipts, and every change to them.

use alephlab_api::money::{Amount, Asset};
use alephlab_api::receipt::{RECEIPT_VERSION, ReceiptKind, Unit};
use uuid::Uuid;

use super::*;

fn chain(key: &ReceiptKey, payer: &str, count: u64) -> Vec<SignedReceipt> {
    let mut previous = "00".repeat(32);
    (1..=count)
        .map(|sequence| {
            let receipt = Receipt {
                version: RECEIPT_VERSION,
                id: Uuid::from_u128(u128::from(sequence)),
                payer: payer.to_owned(),
                payee: key.payee.to_string(),
                kind: ReceiptKind::Compute,
                subject: format!("kernel {sequence}"),
                model: None,
                commit: None,
                units: 100,
                unit: Unit::Hour,
                unit_price: Amount::from_whole(3_600),
                amount: Amount::from_whole(100),
                asset: Asset::Credit,
                sequence,
                entry: sequence * 7,
                previous: previous.clone(),
                time: 1_795_000_000,
            };
            previous = hex::encode(hash(&receipt).unwrap());
            key.sign(receipt).unwrap().0
        })
        .collect()
}

#[test]
fn chain_holds_and_every_change_to_it_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let payer = Wallet::generate().unwrap();
    let key = ReceiptKey::open(folder.path(), payer.owner()).unwrap();
    let again = ReceiptKey::open(folder.path(), payer.owner()).unwrap();
    let signer = key.address();
    assert_eq!(again.address(), signer, "a key is made once");
    let receipts = chain(&key, &payer.address(), 4);
    check_chain(&receipts, &signer).unwrap();
    check_chain(&receipts[2..], &signer).unwrap();
    assert!(matches!(
        check_chain(&receipts, &payer.address()),
        Err(ReceiptError::Signature { sequence: 1, .. })
    ));
    let mut without = receipts.clone();
    without.remove(1);
    assert!(matches!(
        check_chain(&without, &signer),
        Err(ReceiptError::Chain { sequence: 3 })
    ));
    let twice = [&receipts[..1], &receipts[..]].concat();
    assert!(matches!(
        check_chain(&twice, &signer),
        Err(ReceiptError::Chain { sequence: 1 })
    ));
    let changes: [fn(&mut Receipt); 16] = [
        |one| one.payer = one.payee.replace('0', "1"),
        |one| one.payee = "0x00000000000000000000000000000000000000aD".into(),
        |one| one.kind = ReceiptKind::Use,
        |one| one.model = Some(Uuid::nil()),
        |one| one.commit = Some("ab".repeat(20)),
        |one| one.unit = Unit::One,
        |one| one.version = 1,
        |one| one.version = 3,
        |one| one.subject.push('x'),
        |one| one.units += 1,
        |one| one.unit_price = Amount::from_whole(3_601),
        |one| one.amount = Amount::from_whole(99),
        |one| one.asset = Asset::Aleph,
        |one| one.entry += 1,
        |one| one.time += 1,
        |one| one.id = Uuid::nil(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = receipts.clone();
        let before = changed[1].receipt.clone();
        change(&mut changed[1].receipt);
        assert!(
            changed[1].receipt == before || check_chain(&changed, &signer).is_err(),
            "{number}"
        );
    }
}

#[test]
fn receipt_over_more_than_its_units_cost_is_refused_though_it_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let payer = Wallet::generate().unwrap();
    let key = ReceiptKey::open(folder.path(), payer.owner()).unwrap();
    let mut receipt = chain(&key, &payer.address(), 1).remove(0).receipt;
    receipt.amount = Amount::from_whole(101);
    let signed = key.sign(receipt).unwrap().0;
    let refused = check_chain(&[signed], &key.address());
    assert!(matches!(refused, Err(ReceiptError::Amount { sequence: 1 })));
}
