//! What the rows refuse, and what becomes of withdrawals without a chain.

use alephlab_api::payout::{Rate, Target, Way};
use alephlab_settlement::{Address, B256, Cursor, Deposit, Found, Place as ChainPlace};

use super::*;

const ADA: &str = "0x00000000000000000000000000000000000000aD";
const BOB: &str = "0x00000000000000000000000000000000000000bE";
const CYD: &str = "0x00000000000000000000000000000000000000cF";
/// Whoever has one ALEPH.
const PEOPLE: [&str; 3] = [ADA, BOB, CYD];

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    store
        .configure(ADA, &[1; 32], &[BOB.to_owned(), CYD.to_owned()], None)
        .await
        .unwrap();
    for owner in PEOPLE {
        let given = store.credit((ADA, owner), Asset::Aleph, Amount::from_whole(10), owner, "");
        given.await.unwrap();
    }
    (folder, store)
}

fn asked(account: &str, whole: u64) -> AskedWithdrawal<'_> {
    AskedWithdrawal {
        id: Uuid::new_v4(),
        account,
        address: account,
        amount: Amount::from_whole(whole),
        daily: None,
        times: 10,
    }
}

fn planning(id: u8, most: u64) -> Planning {
    Planning {
        place: ChainPlace {
            chain_id: 1,
            contract: Address::repeat_byte(9),
        },
        id: B256::repeat_byte(id),
        now: unix_now(),
        deadline: unix_now() + 3_600,
        most: Amount::from_whole(most),
    }
}

async fn available(store: &Store, account: &str, asset: Asset) -> String {
    let balances = store.balances(account).await.unwrap();
    let found = balances.iter().find(|balance| balance.asset == asset);
    found.map_or("0".to_owned(), |balance| balance.available.to_string())
}

async fn waits_no_longer(store: &Store) {
    sqlx::query("UPDATE withdrawals SET not_before = 0 WHERE ended IS NULL")
        .execute(&store.write)
        .await
        .unwrap();
}

async fn is_sound(store: &Store) {
    assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
}

#[tokio::test]
async fn a_withdrawal_is_taken_once_and_an_account_has_one_at_a_time() {
    let (_folder, store) = store().await;
    let first = asked(ADA, 4);
    for _ in 0..2 {
        let taken = store.ask_withdrawal(first).await.unwrap();
        assert_eq!((taken.state, taken.id), (WithdrawalState::Asked, first.id));
        assert_eq!(available(&store, ADA, Asset::Aleph).await, "6");
    }
    let code = async |asked| store.ask_withdrawal(asked).await.unwrap_err().code().to_owned();
    let other_content = AskedWithdrawal {
        amount: Amount::from_whole(5),
        ..first
    };
    assert_eq!(code(other_content).await, "key_conflict");
    assert_eq!(
        code(AskedWithdrawal {
            account: BOB,
            ..first
        })
        .await,
        "key_conflict"
    );
    assert_eq!(code(asked(ADA, 1)).await, "withdrawal_open");
    assert_eq!(code(asked(BOB, 11)).await, "balance_too_small");
    let limited = AskedWithdrawal {
        daily: Some(Amount::from_whole(3)),
        ..asked(BOB, 4)
    };
    assert_eq!(code(limited).await, "withdrawal_limit");
    let often = AskedWithdrawal {
        times: 0,
        ..asked(BOB, 4)
    };
    assert_eq!(code(often).await, "withdrawal_limit");
    assert_eq!(available(&store, BOB, Asset::Aleph).await, "10");
    assert_eq!(store.payouts_of(BOB).await.unwrap(), []);
    is_sound(&store).await;
}

#[tokio::test]
async fn a_batch_is_booked_once_and_who_was_not_paid_goes_into_another() {
    let (_folder, store) = store().await;
    for owner in PEOPLE {
        store.ask_withdrawal(asked(owner, 2)).await.unwrap();
    }
    let batch = store.plan_batch(&planning(1, 100)).await.unwrap().unwrap();
    assert_eq!((batch.payouts().len(), batch.total()), (3, Amount::from_whole(6)));
    assert!(
        store.plan_batch(&planning(2, 100)).await.unwrap().is_none(),
        "one is open"
    );
    let open = store.open_batch().await.unwrap().unwrap();
    assert_eq!(open.progress.batch, batch);
    let refused = batch
        .payouts()
        .iter()
        .position(|one| one.to == BOB.parse::<Address>().unwrap())
        .unwrap();
    for _ in 0..2 {
        store.conclude_batch(&batch, &[refused]).await.unwrap();
        store.drop_batch(&batch, false).await.unwrap();
    }
    let state = async |owner| store.payouts_of(owner).await.unwrap().remove(0).state;
    assert_eq!(state(ADA).await, WithdrawalState::Paid);
    assert_eq!(state(BOB).await, WithdrawalState::Asked);
    assert!(
        store.plan_batch(&planning(2, 100)).await.unwrap().is_none(),
        "it waits first"
    );
    for id in 2..6 {
        waits_no_longer(&store).await;
        let batch = store.plan_batch(&planning(id, 100)).await.unwrap().unwrap();
        store.conclude_batch(&batch, &[0]).await.unwrap();
    }
    assert_eq!(state(BOB).await, WithdrawalState::Returned);
    assert_eq!(available(&store, BOB, Asset::Aleph).await, "10");
    assert_eq!(available(&store, ADA, Asset::Aleph).await, "8");
    // What is over does not hold up the next one.
    store.ask_withdrawal(asked(BOB, 1)).await.unwrap();
    is_sound(&store).await;
}

#[tokio::test]
async fn a_batch_that_needs_halves_gets_them_and_who_is_alone_in_the_end_has_it_back() {
    let (_folder, store) = store().await;
    for owner in PEOPLE {
        store.ask_withdrawal(asked(owner, 2)).await.unwrap();
    }
    let mut sizes = Vec::new();
    for id in 1..60 {
        waits_no_longer(&store).await;
        let Some(batch) = store.plan_batch(&planning(id, 100)).await.unwrap() else {
            break;
        };
        sizes.push(batch.payouts().len());
        // Cyd's code uses up whatever it gets.
        match batch
            .payouts()
            .iter()
            .any(|one| one.to == CYD.parse::<Address>().unwrap())
        {
            true => store.drop_batch(&batch, true).await.unwrap(),
            false => store.conclude_batch(&batch, &[]).await.unwrap(),
        }
    }
    assert_eq!((sizes[0], sizes[1]), (3, 2), "{sizes:?}");
    let states = PEOPLE.map(|owner| store.payouts_of(owner));
    let states = futures_util::future::join_all(states).await;
    let states: Vec<_> = states.into_iter().map(|found| found.unwrap()[0].state).collect();
    use WithdrawalState::{Paid, Returned};
    assert_eq!(states, [Paid, Paid, Returned]);
    is_sound(&store).await;
}

#[tokio::test]
async fn what_the_contract_cannot_pay_now_waits_and_holds_nobody_up() {
    let (_folder, store) = &store().await;
    store.ask_withdrawal(asked(ADA, 9)).await.unwrap();
    store.ask_withdrawal(asked(BOB, 3)).await.unwrap();
    store.ask_withdrawal(asked(CYD, 2)).await.unwrap();
    let batch = store.plan_batch(&planning(1, 4)).await.unwrap().unwrap();
    assert_eq!(batch.payouts().len(), 1, "the other one is for the next");
    let waiting = store.payouts_of(ADA).await.unwrap().remove(0);
    assert!(
        waiting.reason.unwrap().contains("4.00 ALEPH"),
        "it says what can be paid"
    );
    let back = async |account, id| store.take_withdrawal_back(account, id).await;
    let code = |refused: Result<Withdrawal>| refused.unwrap_err().code().to_owned();
    assert_eq!(code(back(BOB, waiting.id).await), "withdrawal_unknown");
    let moving =
        PEOPLE.map(|account| async move { (account, store.payouts_of(account).await.unwrap().remove(0)) });
    for (account, one) in futures_util::future::join_all(moving).await {
        if one.state == WithdrawalState::InBatch {
            assert_eq!(code(back(account, one.id).await), "withdrawal_under_way");
        }
    }
    store.conclude_batch(&batch, &[]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            back(ADA, waiting.id).await.unwrap().state,
            WithdrawalState::Returned
        );
        assert_eq!(available(store, ADA, Asset::Aleph).await, "10");
    }
    let batch = store.plan_batch(&planning(2, 100)).await.unwrap().unwrap();
    assert_eq!(batch.payouts().len(), 1);
    is_sound(store).await;
}

#[tokio::test]
async fn a_conversion_is_made_once_and_has_no_way_back() {
    let (_folder, store) = store().await;
    let rate = Rate {
        credits: "60000.5".parse().unwrap(),
        time: 7,
    };
    let aleph: Amount = "1.5".parse().unwrap();
    let new = AskedConversion {
        id: Uuid::new_v4(),
        account: ADA,
        aleph,
        credits: rate.converted(aleph, Target::Compute).unwrap(),
        rate,
        address: None,
    };
    for _ in 0..2 {
        let done = store.convert(new).await.unwrap();
        assert_eq!(
            (done.credits.to_string(), done.rate),
            ("90000.75".to_owned(), rate)
        );
    }
    assert_eq!(available(&store, ADA, Asset::Credit).await, "90000.75");
    assert_eq!(available(&store, ADA, Asset::Aleph).await, "8.5");
    let other = AskedConversion { account: BOB, ..new };
    assert_eq!(store.convert(other).await.unwrap_err().code(), "key_conflict");
    let more = AskedConversion {
        id: Uuid::new_v4(),
        aleph: Amount::from_whole(9),
        ..new
    };
    assert_eq!(store.convert(more).await.unwrap_err().code(), "balance_too_small");
    let sent = AskedConversion {
        id: Uuid::new_v4(),
        account: BOB,
        address: Some(BOB),
        ..new
    };
    store.convert(sent).await.unwrap();
    let beside = AskedConversion {
        id: Uuid::new_v4(),
        ..sent
    };
    assert_eq!(store.convert(beside).await.unwrap_err().code(), "conversion_open");
    assert_eq!(
        store
            .write_transfer(sent.id, "{}", &"a".repeat(64))
            .await
            .unwrap(),
        "{}"
    );
    assert_eq!(
        store
            .write_transfer(sent.id, "{1}", &"b".repeat(64))
            .await
            .unwrap(),
        "{}",
        "the first stays"
    );
    for _ in 0..2 {
        store.return_transfer(sent.id, "no").await.unwrap();
        store.settle_transfer(sent.id).await.unwrap();
    }
    assert_eq!(available(&store, BOB, Asset::Credit).await, "0");
    assert_eq!(
        available(&store, BOB, Asset::Aleph).await,
        "10",
        "it is ALEPH again"
    );
    is_sound(&store).await;
}

fn watched() -> Watched {
    Watched {
        chain_id: 1,
        token: Address::repeat_byte(1),
        address: Address::repeat_byte(2),
        contract: Address::repeat_byte(3),
    }
}

fn cursor(number: u64) -> Cursor {
    Cursor {
        number,
        hash: B256::with_last_byte(u8::try_from(number).unwrap()),
    }
}

/// Deposits of nobody in blocks up to there: a transaction each, at a place in its block.
fn found(end: u64, transactions: &[(u8, u64)]) -> Found {
    let deposit = |(transaction, log): &(u8, u64)| Deposit {
        transaction: B256::repeat_byte(*transaction),
        log: *log,
        from: Address::repeat_byte(4),
        amount: Amount::from_whole(5),
    };
    Found {
        deposits: transactions.iter().map(deposit).collect(),
        cursor: cursor(end),
        has_more: false,
    }
}

#[tokio::test]
async fn a_transaction_that_is_mined_again_is_booked_once_and_stops_what_goes_out() {
    let (_folder, store) = store().await;
    store.begin_settlement(&watched(), cursor(1)).await.unwrap();
    // Two transfers of one transaction are two deposits.
    let first = found(5, &[(7, 0), (7, 3)]);
    store.take_deposits(&watched(), cursor(1), &first).await.unwrap();
    let booked = store.unknown_deposits().await.unwrap();
    assert_eq!(booked, (2, Amount::from_whole(10)));
    // At its old place and at another, with one that is new.
    let again = found(9, &[(7, 0), (7, 4), (8, 5)]);
    store.take_deposits(&watched(), cursor(5), &again).await.unwrap();
    let booked = store.unknown_deposits().await.unwrap();
    assert_eq!(booked, (3, Amount::from_whole(15)));
    let standing = store.settlement(&watched()).await.unwrap().unwrap();
    assert_eq!(standing.cursor, cursor(9), "those after it are read");
    assert_eq!(standing.stop.unwrap().code, "settlement_twice");
    let rate = Rate {
        credits: Amount::from_whole(2),
        time: 7,
    };
    for address in [None, Some(ADA)] {
        let new = AskedConversion {
            id: Uuid::new_v4(),
            account: ADA,
            aleph: Amount::from_whole(1),
            credits: Amount::from_whole(2),
            rate,
            address,
        };
        let refused = store.convert(new).await.unwrap_err();
        assert_eq!(refused.code(), "withdrawals_stopped");
    }
    let stale = Some((&watched(), cursor(5), cursor(1)));
    let refused = store.resume_settlement(ADA, stale).await.unwrap_err();
    assert_eq!(refused.code(), "settlement_moving");
    store.resume_settlement(ADA, None).await.unwrap();
    is_sound(&store).await;
}

#[tokio::test]
async fn what_was_put_in_is_recorded_when_it_was_seen_and_no_more_than_that() {
    let (_folder, store) = store().await;
    store.begin_settlement(&watched(), cursor(1)).await.unwrap();
    let put = async |key, whole| {
        let amount = Amount::from_whole(whole);
        store.move_custody(ADA, Way::In, amount, (key, "")).await
    };
    let code = |refused: Result<()>| refused.unwrap_err().code().to_owned();
    assert_eq!(code(put("a", 40).await), "move_not_seen");
    let there = Amount::from_whole(100);
    assert_eq!(store.compare_custody(there, 5).await.unwrap().unbooked, there);
    for _ in 0..2 {
        put("a", 40).await.unwrap();
    }
    assert_eq!(code(put("b", 61).await), "move_not_seen");
    put("b", 60).await.unwrap();
    assert_eq!(code(put("c", 60).await), "move_not_seen");
    let compared = store.compare_custody(there, 6).await.unwrap();
    assert_eq!(
        (compared.missing, compared.unbooked),
        (Amount::ZERO, Amount::ZERO)
    );
    is_sound(&store).await;
}
