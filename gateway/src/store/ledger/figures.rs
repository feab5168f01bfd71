//! Figures of the ledger and of receipts, for docs/benchmarks.md; printed, and nothing is asserted of time:
//!
//! `ALEPHLAB_LEDGER_FIGURES=1 cargo test --release -p alephlab-gateway --lib ledger::figures -- --nocapture`
//!
//! with `ALEPHLAB_TEST_DATABASE` on PostgreSQL.

use std::time::{Duration, Instant};

use alephlab_api::market::{NewOrder, Paid, Part, PartKind, Purchase, ReleaseWay, SignedPaid};
use alephlab_api::receipt::ReceiptKind;
use sqlx::Executor as _;

use super::super::market::NewSale;
use super::super::receipts::{NewReceipt, path_of, write};
use super::*;

const MILLION: u32 = 1_000_000;
/// Accounts that a million entries are of.
const ACCOUNTS: u32 = 10_000;
const PURCHASES: u32 = 1_000;

struct World {
    _folder: tempfile::TempDir,
    store: Store,
    key: ReceiptKey,
    is_file: bool,
}

async fn world() -> World {
    let folder = tempfile::tempdir_in(std::env::var_os("ALEPHLAB_FIGURES_IN").unwrap_or("/tmp".into()));
    let folder = folder.unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let key = ReceiptKey::open(folder.path(), address(0).parse().unwrap()).unwrap();
    World {
        key,
        is_file: store.is_file(),
        store,
        _folder: folder,
    }
}

fn address(number: u32) -> String {
    let address: alephlab_vault::Address = format!("0x{number:040x}").parse().unwrap();
    address.to_string()
}

fn sale<'a>(about: &'a str, payer: &'a str, payee: &'a str) -> NewReceipt<'a> {
    NewReceipt {
        about,
        payer,
        payee,
        kind: ReceiptKind::Sale,
        subject: "ada/digits",
        model: Some(Uuid::nil()),
        commit: Some("abababababababababababababababababababab"),
        units: 1,
        unit_price: Amount::from_whole(1),
        amount: Amount::from_whole(1),
        asset: Asset::Aleph,
        entry: None,
    }
}

/// The real order: its row and three parts, three transfers and a receipt in one transaction. That it is signed is checked before.
async fn buy(world: &World, number: u32) {
    let (buyer, seller) = (address(1 + number % 50), address(100 + number % 7));
    let purchase = Purchase {
        order: Uuid::new_v4(),
        buyer: buyer.clone(),
        model: format!("{seller}/digits"),
        uuid: Uuid::nil(),
        revision: format!("{number:040x}"),
        price: Amount::from_whole(1),
        asset: Asset::Aleph,
        gateway: world.key.address(),
        time: 1,
    };
    let part = |kind, percent, to: &str| Part {
        kind,
        to: to.to_owned(),
        amount: purchase.price.part(percent, 100).unwrap(),
        model: purchase.model.clone(),
    };
    let parts = [
        part(PartKind::Sale, 85, &seller),
        part(PartKind::Royalty, 10, &address(200)),
        part(PartKind::Fee, 5, "gateway"),
    ];
    let paid = Paid {
        order: purchase.order,
        buyer: buyer.clone(),
        model: purchase.model.clone(),
        revision: purchase.revision.clone(),
        price: purchase.price,
        asset: purchase.asset,
        time: 1,
    };
    // As a word of the gateway is signed for each order.
    let signature = world.key.sign_hash(&[7; 32]).unwrap();
    let new = NewSale {
        signed: &NewOrder {
            purchase,
            signature: signature.clone(),
        },
        paid: &SignedPaid { paid, signature },
        buyer: &buyer,
        seller: &seller,
        way: ReleaseWay::Keys,
        terms: &"0".repeat(64),
        parts: &parts,
        most_per_hour: u32::MAX,
        settles: 2,
        receipts: &world.key,
    };
    world.store.buy(&new).await.unwrap();
}

/// A kernel as far as the ledger goes: three transactions.
async fn run(world: &World, number: u32) {
    let owner = address(1 + number % 50);
    let new = NewHold {
        owner: &owner,
        key: &format!("kernel {number}"),
        amount: Amount::from_whole(1),
        price: Amount::from_whole(3_600),
        memo: "kernel",
    };
    let hold = world.store.hold(new).await.unwrap();
    world.store.charge(hold.id, 1).await.unwrap();
    world.store.end_hold(hold.id, 1, &world.key).await.unwrap();
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    format!("p50 {} us, p99 {} us", at(50), at(99))
}

async fn purchases(world: &World) {
    for number in 1..=50 {
        let owner = address(number);
        let gift = (owner.as_str(), owner.as_str());
        for asset in [Asset::Credit, Asset::Aleph] {
            let key = format!("{number}{}", asset.name());
            let credit = world
                .store
                .credit(gift, asset, Amount::from_whole(1_000_000), &key, "");
            credit.await.unwrap();
        }
    }
    let mut done = 0;
    let durable = [
        ("NORMAL", "on the disk later"),
        ("FULL", "on the disk at each commit, as it is written"),
    ];
    for (synchronous, said) in if world.is_file {
        &durable[..]
    } else {
        &durable[1..]
    } {
        if world.is_file {
            let pragma = format!("PRAGMA synchronous = {synchronous}");
            world
                .store
                .write
                .execute(sqlx::AssertSqlSafe(pragma))
                .await
                .unwrap();
        }
        let (begin, mut times) = (Instant::now(), Vec::new());
        for number in 0..PURCHASES {
            let one = Instant::now();
            buy(world, done + number).await;
            times.push(one.elapsed());
        }
        let rate = f64::from(PURCHASES) / begin.elapsed().as_secs_f64();
        println!("purchases, {said}: {rate:.0} a second, {}", percentiles(times));
        let begin = Instant::now();
        for number in 0..PURCHASES {
            run(world, done + number).await;
        }
        let rate = f64::from(PURCHASES) / begin.elapsed().as_secs_f64();
        println!("kernels held, charged and ended, {said}: {rate:.0} a second");
        done += PURCHASES;
    }
    let mut transaction = world.store.begin().await.unwrap();
    let (buyer, seller, mut times) = (address(1), address(100), Vec::new());
    for number in 0..PURCHASES {
        let about = format!("alone:{number}");
        let one = Instant::now();
        write(&mut transaction, &sale(&about, &buyer, &seller), &world.key)
            .await
            .unwrap();
        times.push(one.elapsed());
    }
    transaction.rollback().await.unwrap();
    println!("a receipt within a transaction: {}", percentiles(times));
}

/// A million entries, written at once and not by transfers: only their audit is measured.
async fn audit(world: &World) {
    let one = Amount::from_base(1).to_bytes();
    let each = Amount::from_base(u128::from(MILLION / ACCOUNTS)).to_bytes();
    let all = Amount::from_base(u128::from(MILLION)).to_bytes();
    let nothing = Amount::ZERO.to_bytes();
    let mut change = world.store.begin().await.unwrap();
    let numbers = |most: u32| {
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most})")
    };
    let purses = format!(
        "{} INSERT INTO ledger_accounts (owner, asset, kind, debits, credits, held)
         SELECT 'acct_' || i, 'credit', 'wallet', $1, $2, $1 FROM n",
        numbers(ACCOUNTS)
    );
    let purses = sqlx::query(sqlx::AssertSqlSafe(purses))
        .bind(&nothing[..])
        .bind(&each[..]);
    purses.execute(&mut *change).await.unwrap();
    sqlx::query(
        "INSERT INTO ledger_accounts (owner, asset, kind, debits, credits, held)
         VALUES ('gateway', 'credit', 'issued', $1, $2, $2)",
    )
    .bind(&all[..])
    .bind(&nothing[..])
    .execute(&mut *change)
    .await
    .unwrap();
    let entries = format!(
        "{} INSERT INTO entries (id, key, kind, asset, memo, time)
         SELECT 'id' || i, 'key' || i, 'credit', 'credit', 'welcome', 0 FROM n",
        numbers(MILLION)
    );
    change.execute(sqlx::AssertSqlSafe(entries)).await.unwrap();
    let giver = "(SELECT id FROM ledger_accounts WHERE kind = 'issued')";
    let taker = format!("(SELECT MIN(id) FROM ledger_accounts WHERE kind = 'wallet') + seq % {ACCOUNTS}");
    for (side, account) in [("debit", giver), ("credit", taker.as_str())] {
        let legs = format!(
            "INSERT INTO legs (entry, side, account, amount) SELECT seq, '{side}', {account}, $1 FROM entries"
        );
        let legs = sqlx::query(sqlx::AssertSqlSafe(legs)).bind(&one[..]);
        legs.execute(&mut *change).await.unwrap();
    }
    change.commit().await.unwrap();
    for _ in 0..3 {
        let begin = Instant::now();
        let audit = world.store.audit().await.unwrap();
        assert_eq!((audit.entries, audit.faults), (u64::from(MILLION), Vec::new()));
        println!(
            "audit of {MILLION} entries: {:.1} s",
            begin.elapsed().as_secs_f64()
        );
    }
}

/// A million receipts, of which only the hashes are anything.
async fn proofs(world: &World) {
    let hash = if world.is_file {
        "randomblob(32)"
    } else {
        "sha256(i::text::bytea)"
    };
    let rows = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {MILLION} - 1)
         INSERT INTO receipts (place, id, payer, sequence, about, hash, signed)
         SELECT i, 'r' || i, 'acct_1', i + 1, 'order:' || i, {hash}, '{{}}' FROM n"
    );
    world
        .store
        .write
        .execute(sqlx::AssertSqlSafe(rows))
        .await
        .unwrap();
    let begin = Instant::now();
    let root = world.store.receipt_root(u64::from(MILLION)).await.unwrap();
    println!(
        "the first root of {MILLION} receipts: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let begin = Instant::now();
    assert_eq!(world.store.receipt_root(u64::from(MILLION)).await.unwrap(), root);
    println!("the same again: {} us", begin.elapsed().as_micros());
    let (mut times, size) = (Vec::new(), u64::from(MILLION));
    for number in 0..1_000_u64 {
        let place = number * 7_919 % size;
        let begin = Instant::now();
        let path = path_of(&mut world.store.read.begin().await.unwrap(), place, size)
            .await
            .unwrap();
        times.push(begin.elapsed());
        assert!(!path.is_empty());
    }
    println!("a proof among {MILLION} receipts: {}", percentiles(times));
}

#[tokio::test]
async fn the_figures_of_the_ledger_are_printed_where_they_are_asked_for() {
    if std::env::var_os("ALEPHLAB_LEDGER_FIGURES").is_none() {
        return;
    }
    purchases(&world().await).await;
    audit(&world().await).await;
    proofs(&world().await).await;
}
