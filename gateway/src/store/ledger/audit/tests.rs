//! Every way in which somebody with the file could change the ledger is found, and told as what it is.

use alephlab_api::money::{Amount, Asset};

use super::super::{NewHold, Store};
use crate::receipts::ReceiptKey;
use crate::store::pools;

const ADA: &str = "0x00000000000000000000000000000000000000aD";

/// A wallet of 1,000 with a hold that ended over 60 and one of 300 that has not, as a file without what keeps it from being changed.
async fn unprotected() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = pools::open(folder.path(), None, None).await.unwrap();
    let key = ReceiptKey::open(folder.path(), ADA.parse().unwrap()).unwrap();
    for (name, amount) in [("a", 600), ("b", 400)] {
        let amount = Amount::from_base(amount);
        let credit = store.credit((ADA, ADA), Asset::Credit, amount, name, "");
        credit.await.unwrap();
    }
    for (name, seconds) in [("ended", Some(60)), ("open", None)] {
        let new = NewHold {
            owner: ADA,
            key: name,
            amount: Amount::from_base(300),
            price: Amount::from_base(3_600),
            memo: "kernel",
        };
        let id = store.hold(new).await.unwrap().id;
        if let Some(seconds) = seconds {
            store.end_hold(id, seconds, &key).await.unwrap();
        }
    }
    let triggers: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        .fetch_all(&store.write)
        .await
        .unwrap();
    for trigger in triggers {
        run(&store, &format!("DROP TRIGGER {trigger}")).await;
    }
    run(
        &store,
        "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON",
    )
    .await;
    (folder, store)
}

async fn run(store: &Store, statement: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
        .execute(&store.write)
        .await
        .unwrap();
}

#[tokio::test]
async fn every_change_to_the_file_is_found_and_the_rest_is_audited() {
    let base = |amount: u64| format!("x'{amount:064x}'");
    let (few, many, huge) = (base(1), base(5_000), format!("x'{}'", "ff".repeat(32)));
    let given = "entry IN (SELECT seq FROM entries WHERE kind = 'credit')";
    let first = "entry = (SELECT MIN(seq) FROM entries)";
    let changes = [
        (
            format!("UPDATE ledger_accounts SET debits = {few} WHERE kind = 'wallet'"),
            "is not what its entries say",
        ),
        (
            format!("UPDATE ledger_accounts SET credits = {few} WHERE kind = 'issued'"),
            "the purse issued of gateway in credit is not what its entries say",
        ),
        (
            format!("UPDATE ledger_accounts SET held = {few} WHERE kind = 'wallet'"),
            "its holds are",
        ),
        (
            format!(
                "UPDATE holds SET amount = {many} WHERE state = 'open';
                 UPDATE ledger_accounts SET held = {many} WHERE kind = 'wallet'"
            ),
            "which it does not have",
        ),
        (
            "UPDATE ledger_accounts SET kind = 'other' WHERE kind = 'issued'".to_owned(),
            "is of no known kind",
        ),
        (
            "DELETE FROM ledger_accounts WHERE kind = 'revenue'".to_owned(),
            "is of a purse that is not there",
        ),
        (
            format!("UPDATE legs SET amount = {few} WHERE {first} AND side = 'debit'"),
            "entry 1 takes",
        ),
        (
            format!("UPDATE legs SET amount = {few} WHERE {given}"),
            "owes after entry 3",
        ),
        (
            format!("UPDATE legs SET amount = {huge} WHERE {given}"),
            "more than any amount after entry 2",
        ),
        (
            format!("UPDATE legs SET amount = x'01' WHERE {first}"),
            "entry 1 cannot be read",
        ),
        (
            format!("DELETE FROM legs WHERE {first} AND side = 'credit'"),
            "entry 1 does not have two legs",
        ),
        (
            "INSERT INTO legs (entry, side, account, amount) SELECT 99, side, account, amount FROM legs WHERE entry = 1"
                .to_owned(),
            "there are 8 legs of 3 entries",
        ),
        (
            "UPDATE entries SET asset = 'aleph' WHERE seq = 1".to_owned(),
            "entry 1 moves aleph of the purse",
        ),
        (
            "DELETE FROM holds WHERE state = 'ended'".to_owned(),
            "which is not there",
        ),
        (
            "UPDATE entries SET kind = 'other' WHERE seq = 1".to_owned(),
            "entry 1 cannot be read",
        ),
        (
            format!("UPDATE holds SET charged = {many} WHERE state = 'ended'"),
            "was charged, its entries say",
        ),
        (
            format!("UPDATE holds SET charged = {few} WHERE state = 'ended'"),
            "was charged, its entries say",
        ),
        ("DELETE FROM receipts".to_owned(), "without a receipt"),
    ];
    let (_folder, store) = unprotected().await;
    assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
    for (statement, said) in changes {
        let (_folder, store) = unprotected().await;
        run(&store, &statement).await;
        let audit = store.audit().await.unwrap();
        assert!(
            audit.faults.iter().any(|fault| fault.contains(said)),
            "{statement}: {:?}",
            audit.faults
        );
        assert_eq!(audit.entries, 3, "{statement}");
    }
}
