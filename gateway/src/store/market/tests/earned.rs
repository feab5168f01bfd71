//! What sales have earned: whose it is, and what of it is left.

use alephlab_api::market::WaitingReason;

use super::*;
use crate::store::AskedWithdrawal;

#[tokio::test]
async fn what_leaves_a_balance_counts_as_earned_first_and_what_comes_back_makes_up_for_it() {
    let (_folder, store) = store().await;
    let (own, terms) = (NAMES[1], "d".repeat(64));
    // What the seller has beside it is START; of the price 850 are the seller's.
    let sold = asked(0, 1, (1, 1_000, 0));
    let figures = async || {
        let found = store.earnings(own).await.unwrap();
        let waits: Vec<_> = found.waiting.iter().map(|one| (one.reason, one.first)).collect();
        ([found.pending, found.available, found.paid_out].map(units), waits)
    };
    store.buy(&sold.new_sale(&terms)).await.unwrap();
    assert_eq!(figures().await, ([850, 0, 0], vec![(WaitingReason::NoKey, 100)]));
    store
        .release_order(sold.id(), &["c".repeat(64)], 1)
        .await
        .unwrap();
    assert_eq!(
        figures().await,
        ([850, 0, 0], vec![(WaitingReason::Settling, 100)])
    );
    store.finish_order(sold.id(), 2).await.unwrap();
    assert_eq!(figures().await, ([0, 850, 0], vec![]));
    let withdrawal = AskedWithdrawal {
        id: Uuid::new_v4(),
        account: own,
        address: own,
        amount: Amount::from_base(600),
        daily: None,
        times: 10,
    };
    let id = withdrawal.id;
    store.ask_withdrawal(withdrawal).await.unwrap();
    assert_eq!(figures().await.0, [0, 250, 600]);
    store.take_withdrawal_back(own, id).await.unwrap();
    assert_eq!(figures().await.0, [0, 850, 0]);
    let bought = asked(1, 2, (1, 2_000, 0));
    store.buy(&bought.new_sale(&terms)).await.unwrap();
    assert_eq!(figures().await.0, [0, 0, 850]);
    store.refund_order(None, bought.id(), 2).await.unwrap();
    assert_eq!(figures().await.0, [0, 850, 0]);
}

#[tokio::test]
async fn what_an_address_earned_is_that_of_the_account_that_links_it() {
    const ARTIST: &str = "0x00000000000000000000000000000000000000f1";
    let (_folder, store) = store().await;
    let terms = "d".repeat(64);
    let mut orders = Vec::new();
    for revision in 0..3 {
        let mut asked = asked(0, 1, (revision, 1_000, 1));
        asked.parts[1].to = ARTIST.to_owned();
        store.buy(&asked.new_sale(&terms)).await.unwrap();
        orders.push(asked);
    }
    let proof = ["c".repeat(64)];
    for asked in &orders[..2] {
        store.release_order(asked.id(), &proof, 2).await.unwrap();
    }
    store.finish_order(orders[0].id(), 3).await.unwrap();
    let identity = crate::store::Identity {
        issuer: "https://id.example".to_owned(),
        subject: "1".to_owned(),
        label: "Eve".to_owned(),
    };
    let (eve, _) = store.identify(&identity, true).await.unwrap();
    assert_eq!(
        store.link_address(&eve, ARTIST).await.unwrap(),
        crate::store::Linking::Linked
    );
    // One was final before, one becomes so, one goes back.
    store.finish_order(orders[1].id(), 4).await.unwrap();
    store.refund_order(None, orders[2].id(), 4).await.unwrap();
    let has = store.balances(&eve).await.unwrap().pop().unwrap();
    assert_eq!(units(has.available), 200);
    let earned = store.earnings(&eve).await.unwrap();
    assert_eq!((units(earned.earned), units(earned.pending)), (200, 0));
    let left = store.balances(ARTIST).await.unwrap();
    assert!(left.iter().all(|balance| balance.total.is_zero()), "{left:?}");
    assert_eq!(store.audit().await.unwrap().faults, Vec::<String>::new());
    for order in store.orders_of(NAMES[0]).await.unwrap() {
        let sum: u64 = order.parts.iter().map(|part| units(part.amount)).sum();
        assert_eq!((order.parts.len(), sum), (3, 1_000));
    }
    let sold = store.sales_of(NAMES[1], false).await.unwrap();
    assert_eq!(sold.iter().filter(|sale| sale.order.parts.len() == 3).count(), 3);
}
