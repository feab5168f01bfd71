//! Batches and deposits on a real local chain, with blocks that go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod anvil;
mod hands;
mod histories;
mod relay;

use alephlab_api::money::Amount;
use alephlab_settlement::{
    Address, B256, Batch, Decision, Deposits, Finality, Node, Outcome, Payer, Payout, Place, Policy,
    Progress, Result, Seen, Sent, SettlementError, Stage, Waiting,
};

use anvil::{CHAIN_ID, Chain, LIMIT, OPERATOR_KEY};

const FINALITY: Finality = Finality::Confirmations(4);
const POLICY: Policy = Policy {
    margin_s: 60,
    patience_s: 3_600,
    fee_max: 1_000_000_000_000,
};

async fn node(chain: &Chain) -> Node {
    Node::connect(&chain.address, CHAIN_ID, FINALITY).await.unwrap()
}

async fn payer(chain: &Chain) -> Payer {
    Payer::connect(node(chain).await, chain.contract, chain.token, OPERATOR_KEY)
        .await
        .unwrap()
}

fn place(chain: &Chain) -> Place {
    Place {
        chain_id: CHAIN_ID,
        contract: chain.contract,
    }
}

/// What is seen, with the chain's time as the machine's: the tests turn the chain's on.
async fn look(payer: &Payer, progress: &Progress) -> Seen {
    let mut seen = payer.look(progress).await.unwrap();
    seen.clock = seen.time;
    seen
}

/// Of one batch, as if the key had no other.
fn decide(progress: &Progress, seen: &Seen) -> Result<Decision> {
    let mut decisions = alephlab_settlement::decide(&[(progress, seen)], &POLICY);
    decisions.remove(0)
}

fn somebody(number: u8) -> Address {
    Address::with_last_byte(number).create(1)
}

/// Ten tokens for each, within an hour.
async fn planned(chain: &Chain, id: u8, people: u8) -> Progress {
    let payouts = (1..=people).map(|number| Payout {
        to: somebody(number),
        amount: Amount::from_whole(10),
    });
    let deadline = chain.time().await + 3_600;
    Progress::new(Batch::new(place(chain), B256::repeat_byte(id), deadline, payouts.collect()).unwrap())
}

/// Looks once and does what is decided, as the gateway will.
async fn step(payer: &Payer, progress: &mut Progress) -> Decision {
    let seen = look(payer, progress).await;
    let decision = decide(progress, &seen).unwrap();
    carry_out(payer, progress, &decision, seen.time).await;
    decision
}

/// With all that are open, oldest first.
async fn step_all(payer: &Payer, open: &mut [Progress]) {
    let mut seen = Vec::new();
    for progress in &*open {
        seen.push(look(payer, progress).await);
    }
    let both: Vec<_> = open.iter().zip(&seen).collect();
    let decisions = alephlab_settlement::decide(&both, &POLICY);
    for ((progress, seen), decision) in open.iter_mut().zip(&seen).zip(decisions) {
        carry_out(payer, progress, &decision.unwrap(), seen.time).await;
    }
}

async fn carry_out(payer: &Payer, progress: &mut Progress, decision: &Decision, time: u64) {
    match decision {
        Decision::Sign { nonce, fees, gas } => {
            progress.signed(payer.sign(&progress.batch, *nonce, *fees, *gas).unwrap());
            send(payer, progress, time).await;
        }
        Decision::Send => send(payer, progress, time).await,
        Decision::Conclude => progress.outcome = Some(payer.conclude(progress).await.unwrap()),
        Decision::Drop => progress.outcome = Some(Outcome::Dropped),
        Decision::Wait(_) | Decision::Nothing => {}
    }
}

async fn send(payer: &Payer, progress: &mut Progress, time: u64) {
    match payer
        .send(&progress.batch, progress.attempts.last().unwrap())
        .await
        .unwrap()
    {
        Sent::Taken => progress.sent(time),
        Sent::Cheap => progress.was_cheap(),
        Sent::Used => {}
    }
}

/// Goes on until the batch has ended, with a block after each step.
async fn to_its_end(chain: &Chain, payer: &Payer, progress: &mut Progress) {
    for _ in 0..40 {
        if progress.outcome.is_some() {
            return;
        }
        step(payer, progress).await;
        chain.mine(1).await;
    }
    panic!("the batch has not ended: {progress:?}");
}

fn paid() -> Option<Outcome> {
    Some(Outcome::Paid { unpaid: Vec::new() })
}

#[tokio::test]
async fn a_batch_goes_from_planned_to_paid_and_says_whom_the_token_refused() {
    let chain = Chain::start("HostileToken").await;
    let payer = payer(&chain).await;
    let refused = [somebody(2).into_word(), B256::with_last_byte(5)];
    chain
        .owner_calls(chain.token, "setAnswer(address,uint8)", &refused)
        .await;
    let mut progress = planned(&chain, 1, 3).await;
    assert_eq!(progress.stage(None), Stage::Planned);
    assert_eq!(
        payer.unpaid(&progress.batch).await.unwrap(),
        Amount::from_whole(10)
    );
    chain.collect().await;
    assert!(matches!(step(&payer, &mut progress).await, Decision::Sign { .. }));
    assert_eq!(progress.stage(None), Stage::Sent);
    assert_eq!(step(&payer, &mut progress).await, Decision::Send);
    chain.mine(1).await;
    let seen = look(&payer, &progress).await;
    assert_eq!(progress.stage(Some(&seen)), Stage::Mined);
    assert_eq!(
        step(&payer, &mut progress).await,
        Decision::Wait(Waiting::ForFinality)
    );
    to_its_end(&chain, &payer, &mut progress).await;
    assert_eq!(progress.outcome, Some(Outcome::Paid { unpaid: vec![1] }));
    assert_eq!(step(&payer, &mut progress).await, Decision::Nothing);
    assert_eq!(chain.has(somebody(1)).await, Amount::from_whole(10));
    assert_eq!(chain.has(somebody(2)).await, Amount::ZERO);
}

#[tokio::test]
async fn a_batch_whose_block_goes_is_sent_again_and_paid_once() {
    let chain = Chain::start("AlephLike").await;
    let payer = payer(&chain).await;
    for depth in 1..4 {
        let number = u8::try_from(depth).unwrap();
        let before = chain.has(somebody(1)).await;
        let mut progress = planned(&chain, number, 2).await;
        step(&payer, &mut progress).await;
        chain.mine(depth).await;
        let seen = look(&payer, &progress).await;
        assert_eq!(progress.stage(Some(&seen)), Stage::Mined);
        chain.reorg(depth + 1).await;
        assert_eq!(chain.has(somebody(1)).await, before, "depth {depth}");
        assert_ne!(
            step(&payer, &mut progress).await,
            Decision::Wait(Waiting::ForFinality)
        );
        to_its_end(&chain, &payer, &mut progress).await;
        assert_eq!(progress.outcome, paid());
        let ten = Amount::from_whole(10);
        assert_eq!(chain.has(somebody(1)).await.checked_sub(before), Some(ten));
    }
}

#[tokio::test]
async fn a_batch_that_the_contract_refuses_waits_and_is_dropped_after_its_deadline() {
    let chain = Chain::start("AlephLike").await;
    let payer = payer(&chain).await;
    let mut progress = planned(&chain, 1, 2).await;
    // It was signed, and then something held it up.
    let seen = look(&payer, &progress).await;
    let Decision::Sign { nonce, fees, gas } = decide(&progress, &seen).unwrap() else {
        panic!("{seen:?}");
    };
    progress.signed(payer.sign(&progress.batch, nonce, fees, gas).unwrap());
    chain.owner_calls(chain.contract, "pause()", &[]).await;
    let reason = "the contract is paused".to_owned();
    assert_eq!(
        step(&payer, &mut progress).await,
        Decision::Wait(Waiting::ForContract { reason })
    );
    chain
        .ask(
            "evm_setNextBlockTimestamp",
            serde_json::json!([progress.batch.deadline() + 1]),
        )
        .await;
    chain.mine(1).await;
    assert_eq!(
        step(&payer, &mut progress).await,
        Decision::Wait(Waiting::ForDeadline)
    );
    chain.mine(4).await;
    assert_eq!(step(&payer, &mut progress).await, Decision::Drop);
    // What was signed comes too late, whoever sends it.
    chain.owner_calls(chain.contract, "unpause()", &[]).await;
    payer
        .send(&progress.batch, progress.attempts.last().unwrap())
        .await
        .unwrap();
    chain.mine(6).await;
    assert_eq!(chain.has(somebody(1)).await, Amount::ZERO);
}

#[tokio::test]
async fn two_that_have_copies_of_one_batch_pay_it_once_and_the_second_says_so() {
    let chain = Chain::start("AlephLike").await;
    let (first, second) = (payer(&chain).await, payer(&chain).await);
    let mut one = planned(&chain, 1, 2).await;
    let mut other = one.clone();
    let mut else_paid = Progress::new(
        Batch::new(
            place(&chain),
            one.batch.id(),
            one.batch.deadline(),
            one.batch.payouts()[..1].to_vec(),
        )
        .unwrap(),
    );
    to_its_end(&chain, &first, &mut one).await;
    assert_eq!(one.outcome, paid());
    let seen = look(&second, &other).await;
    assert_eq!(decide(&other, &seen).unwrap(), Decision::Conclude);
    // It has signed nothing itself, and reads it from the contract's own logs, however many blocks ago.
    assert_eq!(Some(second.conclude(&other).await.unwrap()), one.outcome);
    chain.mine(2_500).await;
    assert_eq!(Some(second.conclude(&other).await.unwrap()), one.outcome);
    other.attempts.clone_from(&one.attempts);
    assert_eq!(Some(second.conclude(&other).await.unwrap()), one.outcome);
    let seen = look(&second, &else_paid).await;
    let error = decide(&else_paid, &seen).unwrap_err();
    assert_eq!(error.code(), "settlement_paid_else");
    assert_eq!(
        second.conclude(&else_paid).await.unwrap_err().code(),
        "settlement_logs"
    );
    else_paid.attempts.clone_from(&one.attempts);
    assert_eq!(
        second.conclude(&else_paid).await.unwrap_err().code(),
        "settlement_logs"
    );
    assert_eq!(chain.has(somebody(1)).await, Amount::from_whole(10));
}

#[tokio::test]
async fn a_batch_of_one_contract_is_nothing_to_another() {
    let mut chain = Chain::start("AlephLike").await;
    let old = payer(&chain).await;
    let mut progress = planned(&chain, 1, 2).await;
    to_its_end(&chain, &old, &mut progress).await;
    progress.outcome = None;
    chain.deploy_payout().await;
    let new = payer(&chain).await;
    let code = |error: SettlementError| error.code();
    let attempt = &progress.attempts[0];
    let batch = &progress.batch;
    let refusals = [
        code(new.look(&progress).await.unwrap_err()),
        code(new.sign(batch, 9, attempt.fees, 500_000).unwrap_err()),
        code(new.send(batch, attempt).await.unwrap_err()),
        code(new.conclude(&progress).await.unwrap_err()),
        code(new.unpaid(batch).await.unwrap_err()),
    ];
    assert_eq!(refusals, ["settlement_not_ours"; 5]);
    let other_chain = Place {
        chain_id: 1,
        contract: chain.contract,
    };
    let batch = Batch::new(
        other_chain,
        batch.id(),
        batch.deadline(),
        batch.payouts().to_vec(),
    )
    .unwrap();
    assert_eq!(
        code(new.look(&Progress::new(batch)).await.unwrap_err()),
        "settlement_not_ours"
    );
    assert_eq!(chain.has(somebody(1)).await, Amount::from_whole(10));
}

#[tokio::test]
async fn a_recipient_that_uses_up_gas_costs_two_transactions_and_no_more() {
    let chain = Chain::start("HostileToken").await;
    let payer = payer(&chain).await;
    let mut progress = planned(&chain, 1, 12).await;
    let estimated = look(&payer, &progress).await;
    // They are cheap while it is estimated, and use all that they get when it is mined.
    chain.collect().await;
    step(&payer, &mut progress).await;
    for person in 1..=12 {
        let burns = [somebody(person).into_word(), B256::with_last_byte(6)];
        chain
            .owner_calls_first(chain.token, "setAnswer(address,uint8)", &burns)
            .await;
    }
    chain.mine(1).await;
    let seen = look(&payer, &progress).await;
    assert_eq!((seen.failures, seen.digest), (1, None), "{seen:?}");
    // Even if it is estimated as low again, there is as much now as they can use up.
    let mut seen_low = seen;
    seen_low.trial = estimated.trial;
    let Decision::Sign { nonce, fees, gas } = decide(&progress, &seen_low).unwrap() else {
        panic!("{seen_low:?}");
    };
    progress.signed(payer.sign(&progress.batch, nonce, fees, gas).unwrap());
    send(&payer, &mut progress, seen_low.time).await;
    chain.mine(1).await;
    to_its_end(&chain, &payer, &mut progress).await;
    assert_eq!(progress.attempts.len(), 2);
    let all = (0..12).collect();
    assert_eq!(progress.outcome, Some(Outcome::Paid { unpaid: all }));
}

#[tokio::test]
async fn two_open_batches_of_one_key_do_not_bid_against_each_other() {
    let chain = Chain::start("AlephLike").await;
    let payer = payer(&chain).await;
    let mut open = [planned(&chain, 1, 2).await, planned(&chain, 2, 2).await];
    chain.collect().await;
    for _ in 0..5 {
        step_all(&payer, &mut open).await;
    }
    assert_eq!((open[0].attempts.len(), open[1].attempts.len()), (1, 0));
    for _ in 0..12 {
        chain.mine(1).await;
        step_all(&payer, &mut open).await;
    }
    for progress in &open {
        assert_eq!((&progress.outcome, progress.attempts.len()), (&paid(), 1));
    }
    assert_eq!(chain.has(somebody(1)).await, Amount::from_whole(20));
}

#[tokio::test]
async fn a_transaction_that_offers_too_little_is_replaced() {
    let chain = Chain::start("AlephLike").await;
    let payer = payer(&chain).await;
    let mut progress = planned(&chain, 1, 2).await;
    chain.collect().await;
    step(&payer, &mut progress).await;
    // Another copy would replace it by one that offers less.
    let first = progress.attempts[0].clone();
    let mut fees = first.fees;
    fees.most -= 1;
    let cheap = payer.sign(&progress.batch, first.nonce, fees, 500_000).unwrap();
    assert_eq!(payer.send(&progress.batch, &cheap).await.unwrap(), Sent::Cheap);
    assert_eq!(payer.send(&progress.batch, &first).await.unwrap(), Sent::Taken);
    progress.signed(cheap);
    progress.was_cheap();
    assert!(matches!(step(&payer, &mut progress).await, Decision::Sign { .. }));
    assert!(progress.attempts[2].sent_at.is_some() && progress.attempts[2].nonce == first.nonce);
    to_its_end(&chain, &payer, &mut progress).await;
    assert_eq!(progress.outcome, paid());
    assert_eq!(payer.send(&progress.batch, &first).await.unwrap(), Sent::Used);
}

#[tokio::test]
async fn two_hundred_payouts_are_one_batch() {
    let chain = Chain::start("AlephLike").await;
    let payer = payer(&chain).await;
    let mut progress = planned(&chain, 1, 200).await;
    to_its_end(&chain, &payer, &mut progress).await;
    assert_eq!(progress.outcome, paid());
    assert_eq!(chain.has(somebody(200)).await, Amount::from_whole(10));
    // More than the contract's limit leaves is refused whole.
    let most = Payout {
        to: somebody(1),
        amount: Amount::from_whole(LIMIT),
    };
    let deadline = chain.time().await + 3_600;
    let mut above =
        Progress::new(Batch::new(place(&chain), B256::repeat_byte(2), deadline, vec![most]).unwrap());
    let Decision::Wait(Waiting::ForContract { reason }) = step(&payer, &mut above).await else {
        panic!("it is above the limit");
    };
    assert_eq!(reason, "998000 are left of the contract's limit for 24 hours");
}

#[tokio::test]
async fn deposits_are_read_once_they_are_final_and_each_once() {
    let chain = Chain::start("AlephLike").await;
    let door = somebody(9);
    let deposits = Deposits::new(node(&chain).await, chain.token, door);
    let start = deposits.now().await.unwrap();
    chain.transfer(door, Amount::from_whole(3)).await;
    chain.transfer(somebody(8), Amount::from_whole(4)).await;
    chain.transfer(door, Amount::ZERO).await;
    let found = deposits.after(start).await.unwrap();
    assert!(found.deposits.is_empty(), "it is in no final block: {found:?}");
    // A deposit whose block goes was never there.
    chain.reorg(2).await;
    chain.transfer(door, Amount::from_whole(5)).await;
    chain.mine(4).await;
    let found = deposits.after(found.cursor).await.unwrap();
    let amounts =
        |found: &[alephlab_settlement::Deposit]| found.iter().map(|one| one.amount).collect::<Vec<_>>();
    assert_eq!(
        amounts(&found.deposits),
        [Amount::from_whole(3), Amount::from_whole(5)]
    );
    assert!(!found.has_more);
    assert_eq!(found.deposits[0].from, anvil::OWNER.parse::<Address>().unwrap());
    // From the same cursor the same, from the next nothing; a long way is gone in parts.
    assert_eq!(deposits.after(start).await.unwrap(), found);
    chain.mine(1_500).await;
    let next = deposits.after(found.cursor).await.unwrap();
    assert!(next.deposits.is_empty() && next.has_more);
    let next = deposits.after(next.cursor).await.unwrap();
    assert!(!next.has_more);
    // A chain that takes back what was final is not believed any more.
    chain.reorg(20).await;
    let error = deposits.after(next.cursor).await.unwrap_err();
    assert_eq!(error.code(), "settlement_final_changed");
}

#[tokio::test]
async fn a_deposit_is_not_passed_over_where_nodes_behind_one_address_are_not_equally_far() {
    let chain = Chain::start("AlephLike").await;
    let service = relay::start(&chain.address);
    let node = Node::connect(&service, CHAIN_ID, FINALITY).await.unwrap();
    let deposits = Deposits::new(node, chain.token, somebody(9));
    let start = deposits.now().await.unwrap();
    chain.transfer(somebody(9), Amount::from_whole(3)).await;
    chain.mine(6).await;
    let found = deposits.after(start).await.unwrap();
    assert_eq!(found.deposits.len(), 1, "{found:?}");
}

#[tokio::test]
async fn a_chain_contract_or_key_that_is_not_the_one_of_the_settings_is_refused() {
    let chain = Chain::start("AlephLike").await;
    let code = |result: alephlab_settlement::Result<Payer>| result.unwrap_err().code();
    let other_chain = Node::connect(&chain.address, 1, FINALITY).await.unwrap_err();
    assert_eq!(other_chain.code(), "settlement_not_ours");
    let newest = Finality::Confirmations(0);
    let error = Node::connect(&chain.address, CHAIN_ID, newest).await.unwrap_err();
    assert_eq!(error.code(), "settlement_setting");
    for address in ["http://example.org", "ftp://127.0.0.1", "nothing"] {
        let error = Node::connect(address, CHAIN_ID, FINALITY).await.unwrap_err();
        assert_eq!(error.code(), "settlement_setting");
    }
    let gone = Node::connect("http://127.0.0.1:1/SECRET", CHAIN_ID, FINALITY)
        .await
        .unwrap_err();
    assert_eq!(gone.code(), "settlement_node");
    assert!(!format!("{gone} {gone:?}").contains("SECRET"), "{gone:?}");
    let with_key = format!("{}/?key=SECRET", chain.address);
    let node = Node::connect(&with_key, CHAIN_ID, FINALITY).await.unwrap();
    assert!(!format!("{node:?}").contains("SECRET"), "{node:?}");
    let connect = |contract, token, key| Payer::connect(node.clone(), contract, token, key);
    let (contract, token) = (chain.contract, chain.token);
    assert_eq!(
        code(connect(contract, somebody(1), OPERATOR_KEY).await),
        "settlement_not_ours"
    );
    let key = format!("0x{}", "11".repeat(32));
    assert_eq!(code(connect(contract, token, &key).await), "settlement_not_ours");
    assert_eq!(code(connect(contract, token, "0x12").await), "settlement_setting");
    assert_eq!(
        code(connect(somebody(1), token, OPERATOR_KEY).await),
        "settlement_node"
    );
}

#[tokio::test]
async fn a_chain_that_says_what_is_final_is_believed() {
    let chain = Chain::start("AlephLike").await;
    let node = Node::connect(&chain.address, CHAIN_ID, Finality::Tag)
        .await
        .unwrap();
    chain.mine(100).await;
    let (last, newest) = (
        node.newest_final().await.unwrap().unwrap(),
        node.newest().await.unwrap(),
    );
    assert!(last.number < newest.number);
    let payer = Payer::connect(node, chain.contract, chain.token, OPERATOR_KEY)
        .await
        .unwrap();
    let mut progress = planned(&chain, 1, 1).await;
    step(&payer, &mut progress).await;
    chain.mine(newest.number - last.number - 1).await;
    assert_eq!(
        step(&payer, &mut progress).await,
        Decision::Wait(Waiting::ForFinality)
    );
    chain.mine(2).await;
    step(&payer, &mut progress).await;
    assert_eq!(progress.outcome, paid());
}
