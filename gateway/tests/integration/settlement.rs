//! What accounts may ask for with ALEPH, where there is a chain, where there is none, and where its node is not reached.

use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::client::ClientError;
use alephlab_api::ledger::{EntryKind, NewCredit};
use alephlab_api::money::{Amount, Asset};
use alephlab_api::payout::{Moved, NewConversion, NewWithdrawal, Target, Way, WithdrawalState};
use alephlab_gateway::{ChainConfig, RateSource, SettlementConfig};
use alephlab_vault::Wallet;
use uuid::Uuid;

use crate::support::{OWNER, World, eventually, sign_in};

const RATE: u64 = 60_000;

/// A chain whose node nobody reaches.
fn settlement() -> SettlementConfig {
    let chain = ChainConfig {
        node: Secret::new("http://127.0.0.1:9/a-key"),
        chain_id: 1,
        token: format!("0x{}", "11".repeat(20)),
        contract: format!("0x{}", "22".repeat(20)),
        deposit: Some(format!("0x{}", "33".repeat(20))),
        confirmations: Some(3),
        minimum: Amount::from_whole(10),
        daily: Some(Amount::from_whole(30)),
        fee_max: 1,
        every: Duration::from_secs(1),
    };
    SettlementConfig {
        chain: Some(chain),
        rate: Some(RateSource::Fixed(Amount::from_whole(RATE))),
        credits: None,
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    match outcome.unwrap_err() {
        ClientError::Refused { problem, .. } => problem.code,
        other => panic!("{other}"),
    }
}

fn withdrawal(whole: u64) -> NewWithdrawal {
    NewWithdrawal {
        id: Uuid::new_v4(),
        amount: Amount::from_whole(whole),
    }
}

fn conversion(whole: u64, to: Target, rate: u64) -> NewConversion {
    NewConversion {
        id: Uuid::new_v4(),
        amount: Amount::from_whole(whole),
        to,
        rate: Amount::from_whole(rate),
    }
}

async fn given(world: &World, address: &str) {
    let credit = NewCredit {
        address: address.to_owned(),
        amount: Amount::from_whole(100),
        asset: Asset::Aleph,
        key: address.to_owned(),
        memo: String::new(),
    };
    world.client().give(&credit).await.unwrap();
}

#[tokio::test]
async fn a_withdrawal_goes_to_the_own_address_within_limits_and_waits_for_its_chain() {
    let wallet = Wallet::generate().unwrap();
    let world = World::settling(vec![wallet.address()], settlement()).await;
    let signed = sign_in(&world, &wallet).await.unwrap();
    let (operator, client) = (world.client(), world.client().with_token(signed.token));
    given(&world, &wallet.address()).await;
    let terms = client.withdrawals().await.unwrap();
    assert_eq!((terms.minimum, terms.fee), (Amount::from_whole(10), Amount::ZERO));
    assert_eq!(terms.address, Some(wallet.address()));
    assert_eq!(client.deposit_place().await.unwrap().from, Some(wallet.address()));
    assert_eq!(
        refusal(client.withdraw(&withdrawal(9)).await),
        "withdrawal_too_small"
    );
    assert_eq!(
        refusal(client.withdraw(&withdrawal(31)).await),
        "withdrawal_limit"
    );
    let asked = withdrawal(12);
    for _ in 0..2 {
        let taken = client.withdraw(&asked).await.unwrap();
        assert_eq!(
            (taken.state, taken.address),
            (WithdrawalState::Asked, wallet.address())
        );
    }
    assert_eq!(refusal(client.withdraw(&withdrawal(12)).await), "withdrawal_open");
    assert_eq!(
        refusal(operator.take_withdrawal_back(asked.id).await),
        "withdrawal_unknown"
    );
    assert_eq!(refusal(client.settlement().await), "not_operator");
    assert_eq!(refusal(client.resume_settlement().await), "not_operator");
    let moved = Moved {
        key: "k".to_owned(),
        amount: Amount::from_whole(1),
        way: Way::In,
        memo: String::new(),
    };
    assert_eq!(refusal(client.moved(&moved).await), "not_operator");
    let nothing = Moved {
        amount: Amount::ZERO,
        ..moved
    };
    assert_eq!(refusal(operator.moved(&nothing).await), "move_malformed");
    // The node is not reached: it waits, and the operator sees why, without the node's address.
    let trouble = eventually("the trouble", async || {
        operator.settlement().await.unwrap().trouble
    })
    .await;
    assert!(!trouble.contains("a-key"), "{trouble}");
    let stands = operator.settlement().await.unwrap();
    assert_eq!((stands.asked, stands.asked_total), (1, Amount::from_whole(12)));
    for _ in 0..2 {
        let back = client.take_withdrawal_back(asked.id).await.unwrap();
        assert_eq!(back.state, WithdrawalState::Returned);
    }
    let kinds: Vec<_> = client
        .statement(0)
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.kind)
        .collect();
    assert_eq!(kinds, [EntryKind::Credit, EntryKind::Withdraw, EntryKind::Return]);
}

#[tokio::test]
async fn aleph_becomes_credits_at_the_rate_that_was_shown() {
    let world = World::settling(Vec::new(), settlement()).await;
    let client = world.client();
    given(&world, OWNER).await;
    let known = client.conversions().await.unwrap();
    assert_eq!(known.rate.unwrap().credits, Amount::from_whole(RATE));
    assert_eq!(
        refusal(client.convert(&conversion(1, Target::Compute, RATE + 1)).await),
        "rate_changed"
    );
    assert_eq!(
        refusal(client.convert(&conversion(0, Target::Compute, RATE)).await),
        "amount_unusable"
    );
    assert_eq!(
        refusal(client.convert(&conversion(101, Target::Compute, RATE)).await),
        "balance_too_small"
    );
    assert_eq!(
        refusal(client.convert(&conversion(1, Target::Network, RATE)).await),
        "settlement_off"
    );
    let new = conversion(2, Target::Compute, RATE);
    for _ in 0..2 {
        let done = client.convert(&new).await.unwrap();
        assert_eq!(done.credits, Amount::from_whole(2 * RATE));
    }
    assert_eq!(client.conversions().await.unwrap().conversions.len(), 1);
    let other = NewConversion {
        amount: Amount::from_whole(3),
        ..new
    };
    assert_eq!(refusal(client.convert(&other).await), "key_conflict");
}

#[tokio::test]
async fn a_gateway_without_a_chain_says_so_wherever_it_is_asked() {
    let world = World::settling(Vec::new(), SettlementConfig::default()).await;
    let client = world.client();
    assert_eq!(refusal(client.withdrawals().await), "settlement_off");
    assert_eq!(refusal(client.withdraw(&withdrawal(10)).await), "settlement_off");
    assert_eq!(refusal(client.deposit_place().await), "settlement_off");
    assert_eq!(refusal(client.settlement().await), "settlement_off");
    assert_eq!(client.conversions().await.unwrap().rate, None);
    assert_eq!(
        refusal(client.convert(&conversion(1, Target::Compute, RATE)).await),
        "rate_unknown"
    );
}
