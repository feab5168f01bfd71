//! Random histories against a plain model, and histories whose calls are dropped half-way.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const OWNERS: [&str; 3] = [
    "0x00000000000000000000000000000000000000aD",
    "0x00000000000000000000000000000000000000bE",
    "0x00000000000000000000000000000000000000cF",
];
/// Who gives.
const GIVER: &str = "0x00000000000000000000000000000000000000dF";
/// An hour; so a second is 7 base units, which no amount here divides.
const PRICE: u128 = 7 * 3_600 + 1;

async fn store() -> (tempfile::TempDir, Store, ReceiptKey) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let key = ReceiptKey::open(folder.path(), OWNERS[0].parse().unwrap()).unwrap();
    (folder, store, key)
}

/// All receipts of all owners hold; how many there are.
async fn check_receipts(store: &Store, key: &ReceiptKey) -> usize {
    let mut count = 0;
    for owner in OWNERS {
        let receipts = store.receipts(owner, 0, 10_000).await.unwrap();
        crate::receipts::check_chain(&receipts, &key.address()).unwrap();
        assert!(receipts.first().is_none_or(|first| first.receipt.sequence == 1));
        count += receipts.len();
    }
    count
}

#[derive(Default, Clone)]
struct Model {
    total: u128,
    held: u128,
}

/// What the model knows of a hold: owner, amount, charged, seconds; none of an ended one.
type Open = (usize, u128, u128, u64);

fn new_hold<'a>(owner: usize, key: &'a str, amount: u128) -> NewHold<'a> {
    NewHold {
        owner: OWNERS[owner],
        key,
        amount: Amount::from_base(amount),
        price: Amount::from_base(PRICE),
        memo: "kernel",
    }
}

async fn check(store: &Store, model: &[Model; 3]) {
    for (owner, model) in OWNERS.iter().zip(model) {
        let found = store.balances(owner).await.unwrap().pop();
        let found = found.map_or((Amount::ZERO, Amount::ZERO), |balance| {
            (balance.total, balance.held)
        });
        assert_eq!(
            found,
            (Amount::from_base(model.total), Amount::from_base(model.held))
        );
    }
    assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
}

/// Raises a hold of the model, or finds it refused as the model says; gives what it then amounts to.
async fn raise(
    store: &Store,
    (owner, model): (usize, &mut Model),
    key: &str,
    (before, amount): (u128, u128),
) -> u128 {
    let asked = || store.raise_hold(OWNERS[owner], key, Amount::from_base(amount));
    let refused = match amount.checked_sub(before) {
        None => Some("cap_too_small"),
        Some(more) if more > model.total - model.held => Some("balance_too_small"),
        Some(_) => None,
    };
    if let Some(code) = refused {
        assert_eq!(asked().await.unwrap_err().code(), code);
        return before;
    }
    for _ in 0..2 {
        assert_eq!(asked().await.unwrap().amount, Amount::from_base(amount));
    }
    model.held += amount - before;
    amount
}

#[tokio::test]
async fn random_histories_end_as_a_plain_model_says() {
    for seed in 0..20 {
        let (_folder, store, receipts) = store().await;
        let (mut random, mut model) = (
            StdRng::seed_from_u64(seed),
            [const { Model { total: 0, held: 0 } }; 3],
        );
        let (mut holds, mut ended): (HashMap<Uuid, Open>, usize) = (HashMap::new(), 0);
        let mut keys: HashMap<Uuid, String> = HashMap::new();
        for step in 0..60 {
            let owner = random.random_range(0..3_usize);
            let amount = u128::from(random.random_range(1..5_000_u32));
            let any = holds.keys().min_by_key(|_| random.random::<u32>()).copied();
            match (random.random_range(0..5), any) {
                (0, _) => {
                    let key = format!("{seed}.{step}");
                    for _ in 0..2 {
                        let given = store.credit(
                            (GIVER, OWNERS[owner]),
                            Asset::Credit,
                            Amount::from_base(amount),
                            &key,
                            "",
                        );
                        given.await.unwrap();
                    }
                    model[owner].total += amount;
                }
                (1, _) | (_, None) => {
                    let key = format!("hold {seed}.{step}");
                    let held = store.hold(new_hold(owner, &key, amount)).await;
                    if model[owner].total - model[owner].held < amount {
                        assert_eq!(held.unwrap_err().code(), "balance_too_small");
                        continue;
                    }
                    let held = held.unwrap();
                    assert_eq!(
                        store.hold(new_hold(owner, &key, amount)).await.unwrap().id,
                        held.id
                    );
                    let other = store.hold(new_hold(owner, &key, amount + 1)).await;
                    assert_eq!(other.unwrap_err().code(), "key_conflict");
                    model[owner].held += amount;
                    holds.insert(held.id, (owner, amount, 0, 0));
                    keys.insert(held.id, key);
                }
                (4, Some(id)) => {
                    let (owner, before, charged, seconds) = holds[&id];
                    let whole = (before, 2 * amount);
                    let amount = raise(&store, (owner, &mut model[owner]), &keys[&id], whole).await;
                    holds.insert(id, (owner, amount, charged, seconds));
                }
                (kind, Some(id)) => {
                    let (owner, amount, charged, before) = holds[&id];
                    let seconds = random.random_range(0..400);
                    let now = before.max(seconds);
                    // What was used beyond a cap that was raised then is charged with the next second.
                    let due = match seconds > before {
                        true => (PRICE * u128::from(now) / 3_600).min(amount),
                        false => charged,
                    };
                    let hold = match kind {
                        2 => store.charge(id, seconds).await.unwrap(),
                        _ => store.end_hold(id, seconds, &receipts).await.unwrap(),
                    };
                    assert_eq!((hold.charged, hold.seconds), (Amount::from_base(due), now));
                    model[owner].total -= due - charged;
                    model[owner].held -= due - charged;
                    holds.insert(id, (owner, amount, due, now));
                    if kind == 3 {
                        ended += usize::from(due > 0);
                        model[owner].held -= amount - due;
                        holds.remove(&id);
                        // What has ended stays as it was.
                        assert_eq!(
                            store.charge(id, 1_000).await.unwrap().charged,
                            Amount::from_base(due)
                        );
                        assert_eq!(store.end_hold(id, 1_000, &receipts).await.unwrap().seconds, now);
                        let raised = store.raise_hold(OWNERS[owner], &keys[&id], Amount::from_base(amount));
                        assert_eq!(raised.await.unwrap_err().code(), "hold_ended");
                    }
                }
            }
        }
        check(&store, &model).await;
        assert_eq!(store.open_holds().await.unwrap().len(), holds.len());
        assert_eq!(
            check_receipts(&store, &receipts).await,
            ended,
            "one for each that was charged"
        );
    }
}

/// Drops a call when it has waited for the database so often; whether it came to that before its end.
async fn is_dropped(waits: u32, call: impl Future) -> bool {
    let (mut call, mut left) = (Box::pin(call), waits);
    poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if left == 0 => Poll::Ready(true),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn a_call_that_is_dropped_half_way_did_all_of_it_or_nothing() {
    let (_folder, store, receipts) = store().await;
    let mut random = StdRng::seed_from_u64(1);
    let (mut model, mut dropped) = ([const { Model { total: 0, held: 0 } }; 3], 0);
    for step in 0..150_u64 {
        let owner = random.random_range(0..3_usize);
        let key = format!("{step}");
        // Somewhere in its transaction, mostly; then the same again, as a client does that got no answer.
        let waits = random.random_range(0..12);
        let give = || {
            store.credit(
                (GIVER, OWNERS[owner]),
                Asset::Credit,
                Amount::from_base(1_000),
                &key,
                "",
            )
        };
        dropped += u32::from(is_dropped(waits, give()).await);
        assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
        give().await.unwrap();
        let hold = || store.hold(new_hold(owner, &key, 900));
        dropped += u32::from(is_dropped(waits, hold()).await);
        let id = hold().await.unwrap().id;
        let raise = || store.raise_hold(OWNERS[owner], &key, Amount::from_base(950));
        dropped += u32::from(is_dropped(waits, raise()).await);
        assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
        assert_eq!(raise().await.unwrap().amount, Amount::from_base(950));
        dropped += u32::from(is_dropped(waits, store.charge(id, 60)).await);
        assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
        dropped += u32::from(is_dropped(waits, store.end_hold(id, 61, &receipts)).await);
        let ended = store.end_hold(id, 61, &receipts).await.unwrap();
        // The last second may be charged by the call that was dropped, and counts once.
        assert_eq!(ended.charged, Amount::from_base(PRICE * 61 / 3_600));
        model[owner].total += 1_000 - PRICE * 61 / 3_600;
    }
    check(&store, &model).await;
    assert_eq!(check_receipts(&store, &receipts).await, 150);
    assert!(dropped > 50, "only {dropped} calls were dropped");
}

#[tokio::test]
async fn several_writers_of_one_database_never_spend_more_than_there_is() {
    const FITS: u128 = 20;
    const AMOUNT: u128 = 900;
    let (folder, first, receipts) = store().await;
    let mut stores = vec![first];
    for _ in 0..3 {
        stores.push(Store::open(folder.path()).await.unwrap());
    }
    let all = Amount::from_base(FITS * AMOUNT);
    let gifts = stores
        .iter()
        .map(|store| store.credit((GIVER, OWNERS[0]), Asset::Credit, all, "one gift", ""));
    for given in join_all(gifts).await {
        given.unwrap();
    }
    // Three times as many as there is money for, each asked for by two of them.
    let keys: Vec<String> = (0..3 * FITS).map(|number| number.to_string()).collect();
    let asked = keys.iter().enumerate().flat_map(|(number, key)| {
        [number, number + 1].map(|at| stores[at % 4].hold(new_hold(0, key, AMOUNT)))
    });
    let mut holds = Vec::new();
    for pair in join_all(asked).await.chunks(2) {
        match pair {
            [Ok(one), Ok(other)] => {
                assert_eq!(one.id, other.id);
                holds.push(one.id);
            }
            pair => {
                for refused in pair {
                    assert_eq!(refused.as_ref().unwrap_err().code(), "balance_too_small");
                }
            }
        }
    }
    assert_eq!(holds.len(), usize::try_from(FITS).unwrap());
    let charges = holds.iter().flat_map(|hold| {
        let stores = stores.iter().zip([7, 31, 60, 60]);
        stores.map(|(store, seconds)| store.charge(*hold, seconds))
    });
    for charged in join_all(charges).await {
        charged.unwrap();
    }
    let ends = holds
        .iter()
        .flat_map(|hold| stores.iter().map(|store| store.end_hold(*hold, 61, &receipts)));
    for ended in join_all(ends).await {
        assert_eq!(ended.unwrap().charged, Amount::from_base(PRICE * 61 / 3_600));
    }
    let mut model = [const { Model { total: 0, held: 0 } }; 3];
    model[0].total = FITS * (AMOUNT - PRICE * 61 / 3_600);
    check(&stores[0], &model).await;
    assert_eq!(check_receipts(&stores[1], &receipts).await, holds.len());
}

#[tokio::test]
async fn a_hold_is_raised_by_its_owner_while_it_is_open_and_never_lowered() {
    let (_folder, store, receipts) = store().await;
    let given = Amount::from_base(1_000);
    let credit = store.credit((GIVER, OWNERS[0]), Asset::Credit, given, "a", "");
    credit.await.unwrap();
    let hold = store.hold(new_hold(0, "k", 400)).await.unwrap();
    let raise = async |owner: usize, key: &str, amount: u128| {
        let raised = store
            .raise_hold(OWNERS[owner], key, Amount::from_base(amount))
            .await;
        raised.map_err(|error| error.code().to_owned())
    };
    let mut model = [const { Model { total: 0, held: 0 } }; 3];
    (model[0].total, model[0].held) = (1_000, 400);
    for (owner, key, amount, code) in [
        (0, "another", 500, "hold_unknown"),
        (1, "k", 500, "hold_unknown"),
        (0, "k", 399, "cap_too_small"),
        (0, "k", 1_001, "balance_too_small"),
    ] {
        assert_eq!(raise(owner, key, amount).await.unwrap_err(), code);
        check(&store, &model).await;
    }
    assert_eq!(raise(0, "k", 400).await.unwrap(), hold, "as much as it is");
    // Used up, which stops nothing here, and raised to all that there is.
    assert_eq!(store.charge(hold.id, 60).await.unwrap().seconds_left(), 0);
    for _ in 0..2 {
        let raised = raise(0, "k", 1_000).await.unwrap();
        assert_eq!((raised.left(), raised.seconds), (Amount::from_base(600), 60));
    }
    (model[0].total, model[0].held) = (600, 600);
    check(&store, &model).await;
    assert_eq!(
        store.own_hold(OWNERS[0], "k").await.unwrap().seconds_left(),
        142 - 60
    );
    assert!(store.own_hold(OWNERS[1], "k").await.is_err());
    let ended = store.end_hold(hold.id, 100, &receipts).await.unwrap();
    assert_eq!(ended.charged, Amount::from_base(PRICE * 100 / 3_600));
    assert_eq!(raise(0, "k", 1_001).await.unwrap_err(), "hold_ended");
    (model[0].total, model[0].held) = (1_000 - PRICE * 100 / 3_600, 0);
    check(&store, &model).await;
    assert_eq!(check_receipts(&store, &receipts).await, 1);
}

#[tokio::test]
async fn of_a_raise_and_an_end_at_once_the_last_one_decides() {
    let (folder, one, receipts) = store().await;
    let other = Store::open(folder.path()).await.unwrap();
    let given = Amount::from_base(1_000_000);
    let credit = one.credit((GIVER, OWNERS[0]), Asset::Credit, given, "a", "");
    credit.await.unwrap();
    let mut model = [const { Model { total: 0, held: 0 } }; 3];
    model[0].total = 1_000_000;
    for round in 0..20 {
        let key = round.to_string();
        let id = one.hold(new_hold(0, &key, 900)).await.unwrap().id;
        let (raised, ended) = tokio::join!(
            other.raise_hold(OWNERS[0], &key, Amount::from_base(5_000)),
            one.end_hold(id, 60, &receipts)
        );
        let amount = match raised {
            Ok(raised) => raised.amount,
            Err(error) => {
                assert_eq!(error.code(), "hold_ended");
                Amount::from_base(900)
            }
        };
        assert_eq!(ended.unwrap().amount, amount);
        model[0].total -= PRICE * 60 / 3_600;
        check(&one, &model).await;
    }
}

#[tokio::test]
async fn the_database_itself_keeps_entries_and_refuses_debts() {
    let (_folder, store, _) = store().await;
    store
        .credit((GIVER, OWNERS[0]), Asset::Credit, Amount::from_base(10), "a", "")
        .await
        .unwrap();
    store.hold(new_hold(0, "k", 4)).await.unwrap();
    for column in ["amount", "price"] {
        let lowered = format!("UPDATE holds SET {column} = $1");
        let less = Amount::from_base(3).to_bytes();
        let done = sqlx::query(sqlx::AssertSqlSafe(lowered)).bind(&less[..]);
        assert!(done.execute(&store.write).await.is_err(), "{column}");
    }
    let mut huge = [0; 32];
    huge[0] = 0xff;
    for statement in [
        "UPDATE entries SET memo = 'another'",
        "DELETE FROM entries",
        "UPDATE legs SET side = 'debit'",
        "DELETE FROM legs",
    ] {
        let done = sqlx::query(statement).execute(&store.write).await;
        assert!(done.is_err(), "{statement}");
    }
    for kind in ["pending", "fee", "revenue", "payouts", "suspense"] {
        let owing = "INSERT INTO ledger_accounts (owner, asset, kind, debits, credits, held) VALUES ('gateway', 'aleph', $1, $2, $3, $3)";
        let done = sqlx::query(owing)
            .bind(kind)
            .bind(&huge[..])
            .bind(&[0_u8; 32][..]);
        assert!(done.execute(&store.write).await.is_err(), "{kind} owes");
    }
    for statement in [
        "UPDATE ledger_accounts SET debits = $1 WHERE kind = 'wallet'",
        "UPDATE ledger_accounts SET held = $1 WHERE kind = 'issued'",
    ] {
        let done = sqlx::query(statement).bind(&huge[..]).execute(&store.write).await;
        let refused = done.unwrap_err().into_database_error().unwrap();
        assert!(refused.is_check_violation(), "{statement}: {refused}");
    }
    // And the audit finds what it cannot refuse.
    sqlx::query("UPDATE ledger_accounts SET held = credits WHERE kind = 'wallet'")
        .execute(&store.write)
        .await
        .unwrap();
    assert_eq!(store.audit().await.unwrap().faults.len(), 1);
}

async fn moved(store: &Store, one: &Transfer<'_>) -> Result<bool> {
    let mut transaction = store.begin().await?;
    let done = transfer(&mut transaction, one).await?;
    transaction.commit().await?;
    Ok(done)
}

#[tokio::test]
async fn a_transfer_is_carried_out_once_and_leaves_no_purse_in_debt() {
    let (_folder, store, _) = store().await;
    let deposit = Transfer {
        key: "chain:1",
        kind: EntryKind::Deposit,
        asset: Asset::Aleph,
        amount: Amount::from_base(100),
        hold: None,
        memo: "",
        from: Place::gateway(PurseKind::Custody),
        to: Place::wallet(OWNERS[0]),
    };
    assert!(moved(&store, &deposit).await.unwrap());
    assert!(!moved(&store, &deposit).await.unwrap(), "known by its key");
    let other = Transfer {
        amount: Amount::from_base(101),
        ..deposit
    };
    assert_eq!(moved(&store, &other).await.unwrap_err().code(), "key_conflict");
    let pending = Place {
        owner: OWNERS[1],
        kind: PurseKind::Pending,
    };
    let sale = Transfer {
        key: "sale:1",
        kind: EntryKind::Sale,
        amount: Amount::from_base(101),
        from: Place::wallet(OWNERS[0]),
        to: pending,
        ..deposit
    };
    let refused = moved(&store, &sale).await.unwrap_err();
    assert_eq!(refused.code(), "balance_too_small");
    assert!(
        refused.to_string().contains("0.000000000000000101 ALEPH"),
        "{refused}"
    );
    let sale = Transfer {
        amount: Amount::from_base(60),
        ..sale
    };
    assert!(moved(&store, &sale).await.unwrap());
    // More than was earned is not given back, though the database would say so only after the wallet had it.
    let refund = Transfer {
        key: "refund:1",
        kind: EntryKind::Refund,
        amount: Amount::from_base(61),
        from: pending,
        to: Place::wallet(OWNERS[0]),
        ..deposit
    };
    assert!(moved(&store, &refund).await.is_err());
    let nothing = Transfer {
        key: "refund:2",
        amount: Amount::ZERO,
        ..refund
    };
    assert!(!moved(&store, &nothing).await.unwrap());
    let left = store.balances(OWNERS[0]).await.unwrap().pop().unwrap();
    assert_eq!((left.asset, left.total), (Asset::Aleph, Amount::from_base(40)));
    let audit = store.audit().await.unwrap();
    assert_eq!((audit.entries, audit.faults), (2, vec![]));
}
