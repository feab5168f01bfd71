//! Random histories against a small model of chain and contract: blocks go, nodes forget and lag, others send what was signed.

use alephlab_api::money::Amount;
use alloy_primitives::Address;
use proptest::prelude::*;

use super::*;
use crate::batch::{Payout, Place};

/// Blocks on top of one that is final.
const FINAL: usize = 3;
const KEY: Address = Address::repeat_byte(4);
const START: u64 = 1_000_000;
const DEADLINE: u64 = START + 600;
const POLICY: Policy = Policy {
    margin_s: 30,
    patience_s: 60,
    fee_max: 1_000,
};

fn batch() -> Batch {
    let payout = Payout {
        to: Address::repeat_byte(1),
        amount: Amount::from_base(5),
    };
    let place = Place {
        chain_id: 1,
        contract: Address::repeat_byte(3),
    };
    Batch::new(place, B256::repeat_byte(7), DEADLINE, vec![payout]).unwrap()
}

#[derive(Debug, Clone)]
struct Transaction {
    nonce: u64,
    fee: u128,
    /// Whether it is the batch; the key sends others, too.
    pays: bool,
}

#[derive(Debug, Clone)]
struct MinedBlock {
    time: u64,
    nonce: u64,
    paid: Option<B256>,
    transactions: Vec<Transaction>,
}

/// One chain, the pool of its nodes, and everything that was ever signed.
#[derive(Debug)]
struct Model {
    blocks: Vec<MinedBlock>,
    /// Place of the newest block that was ever final: none up to it goes.
    settled: usize,
    pool: Vec<Transaction>,
    is_paused: bool,
    fee: u128,
    digest: B256,
}

impl Model {
    fn new() -> Self {
        let first = MinedBlock {
            time: START,
            nonce: 0,
            paid: None,
            transactions: Vec::new(),
        };
        Self {
            blocks: vec![first; 2 * FINAL + 1],
            settled: FINAL,
            pool: Vec::new(),
            is_paused: false,
            fee: 10,
            digest: batch().digest(),
        }
    }

    fn newest(&self) -> &MinedBlock {
        self.blocks.last().unwrap()
    }

    fn mine(&mut self, seconds: u64, has_room: bool) {
        let mut block = self.newest().clone();
        block.transactions.clear();
        block.time += seconds;
        let next = |pool: &[Transaction], nonce: u64| {
            let fitting = pool.iter().filter(|one| has_room && one.nonce == nonce);
            fitting.max_by_key(|one| one.fee).cloned()
        };
        while let Some(best) = next(&self.pool, block.nonce) {
            let is_taken = best.pays && !self.is_paused && block.time <= DEADLINE && block.paid.is_none();
            block.paid = if is_taken { Some(self.digest) } else { block.paid };
            block.nonce += 1;
            block.transactions.push(best);
        }
        self.pool.retain(|one| one.nonce >= block.nonce);
        self.blocks.push(block);
        self.settled = self.settled.max(self.blocks.len() - 1 - FINAL);
    }

    fn reorg(&mut self, depth: usize, comes_back: bool) {
        for _ in 0..depth.min(self.blocks.len() - 1 - self.settled) {
            let gone = self.blocks.pop().unwrap();
            if comes_back {
                self.pool.extend(gone.transactions);
            }
        }
    }

    /// As a node sees it that is some blocks behind.
    fn seen(&self, behind: usize) -> Seen {
        let newest = self.blocks.len() - 1 - behind.min(self.blocks.len() - 1 - FINAL);
        let (block, last) = (&self.blocks[newest], &self.blocks[newest - FINAL]);
        let trial = if self.is_paused || block.paid.is_some() {
            Trial::Refused {
                reason: "EnforcedPause".to_owned(),
            }
        } else {
            Trial::Works { gas: 100 }
        };
        Seen {
            clock: block.time,
            sender: KEY,
            failures: 0,
            final_time: last.time,
            final_digest: last.paid,
            time: block.time,
            digest: block.paid,
            nonce: block.nonce,
            fees: Fees {
                most: self.fee,
                tip: 1,
            },
            trial,
        }
    }

    /// A node's answer to what is sent: whether it wants more.
    fn take(&mut self, transaction: Transaction) -> bool {
        // A third of what is usual: what a block takes at least.
        if transaction.fee < self.fee / 3 {
            return false;
        }
        let waits = self.pool.iter().find(|one| one.nonce == transaction.nonce);
        if waits.is_some_and(|one| transaction.fee < one.fee + one.fee / 10 && transaction.fee != one.fee) {
            return false;
        }
        self.pool.retain(|one| one.nonce != transaction.nonce);
        if transaction.nonce >= self.newest().nonce {
            self.pool.push(transaction);
        }
        true
    }
}

/// What happens next in a history.
#[derive(Debug, Clone)]
enum Event {
    /// The gateway looks, and does what is decided; or is killed between writing down and sending.
    Look {
        behind: usize,
        is_killed: bool,
    },
    Mine {
        seconds: u64,
        has_room: bool,
    },
    Reorg {
        depth: usize,
        comes_back: bool,
    },
    Forget,
    Pause,
    Fees(u128),
    /// Somebody sends an attempt that was signed earlier.
    Again(usize),
    /// The key is used for something else.
    Other,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3_usize, any::<bool>()).prop_map(|(behind, is_killed)| Event::Look { behind, is_killed }),
        6 => (1..90_u64, any::<bool>()).prop_map(|(seconds, has_room)| Event::Mine { seconds, has_room }),
        2 => (1..=FINAL, any::<bool>()).prop_map(|(depth, comes_back)| Event::Reorg { depth, comes_back }),
        1 => Just(Event::Forget),
        1 => Just(Event::Pause),
        1 => (1..2_000_u128).prop_map(Event::Fees),
        2 => (0..8_usize).prop_map(Event::Again),
        1 => Just(Event::Other),
    ]
}

fn look(model: &mut Model, progress: &mut Progress, behind: usize, is_killed: bool) {
    let seen = model.seen(behind);
    match progress.decide(&seen, &POLICY).unwrap() {
        Decision::Sign { nonce, fees, .. } => {
            assert!(fees.most <= POLICY.fee_max && progress.outcome.is_none());
            progress.signed(Attempt {
                sender: KEY,
                nonce,
                fees,
                hash: B256::ZERO,
                raw: Vec::new(),
                sent_at: None,
                is_cheap: false,
            });
            if !is_killed {
                send(model, progress, seen.time);
            }
        }
        Decision::Send if !is_killed => send(model, progress, seen.time),
        Decision::Conclude => progress.outcome = Some(Outcome::Paid { unpaid: Vec::new() }),
        Decision::Drop => progress.outcome = Some(Outcome::Dropped),
        Decision::Send | Decision::Wait(_) | Decision::Nothing => {}
    }
}

fn send(model: &mut Model, progress: &mut Progress, time: u64) {
    let newest = progress.attempts.last().unwrap();
    if model.take(of_attempt(newest)) {
        progress.sent(time);
    } else {
        progress.was_cheap();
    }
}

fn of_attempt(attempt: &Attempt) -> Transaction {
    Transaction {
        nonce: attempt.nonce,
        fee: attempt.fees.most,
        pays: true,
    }
}

fn happen(model: &mut Model, progress: &mut Progress, event: &Event) {
    match *event {
        Event::Look { behind, is_killed } => look(model, progress, behind, is_killed),
        Event::Mine { seconds, has_room } => model.mine(seconds, has_room),
        Event::Reorg { depth, comes_back } => model.reorg(depth, comes_back),
        Event::Forget => model.pool.clear(),
        Event::Pause => model.is_paused = !model.is_paused,
        Event::Fees(fee) => model.fee = fee,
        Event::Again(which) => {
            if let Some(attempt) = progress.attempts.get(which) {
                model.take(of_attempt(attempt));
            }
        }
        Event::Other => {
            let (nonce, fee) = (model.newest().nonce, model.fee);
            model.take(Transaction {
                nonce,
                fee,
                pays: false,
            });
        }
    }
}

/// Whatever was signed is sent again and mined, block after block.
fn everything_is_tried_again(model: &mut Model, progress: &Progress) {
    model.is_paused = false;
    for attempt in &progress.attempts {
        while model.newest().nonce < attempt.nonce {
            let nonce = model.newest().nonce;
            model.pool = vec![Transaction {
                nonce,
                fee: 1,
                pays: false,
            }];
            model.mine(1, true);
        }
        model.pool = vec![of_attempt(attempt)];
        model.mine(1, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn what_is_concluded_stays_true_whatever_is_sent_afterwards(events in prop::collection::vec(event(), 1..80)) {
        let (mut model, mut progress) = (Model::new(), Progress::new(batch()));
        for event in &events {
            happen(&mut model, &mut progress, event);
        }
        let outcome = progress.outcome.clone();
        everything_is_tried_again(&mut model, &progress);
        match outcome {
            Some(Outcome::Paid { .. }) => prop_assert!(model.newest().paid.is_some()),
            Some(Outcome::Dropped) => prop_assert!(model.newest().paid.is_none()),
            None => {}
        }
    }

    #[test]
    fn a_batch_is_paid_once_the_chain_goes_on_and_ends_when_it_does_not(
        events in prop::collection::vec(event(), 1..20),
        goes_on in any::<bool>(),
    ) {
        let (mut model, mut progress) = (Model::new(), Progress::new(batch()));
        for event in &events {
            happen(&mut model, &mut progress, event);
        }
        let in_time = model.newest().time + 200 < DEADLINE;
        model.fee = 10;
        model.is_paused = !goes_on;
        for _ in 0..200 {
            look(&mut model, &mut progress, 0, false);
            model.mine(6, goes_on);
        }
        let outcome = progress.outcome.clone();
        prop_assert!(outcome.is_some());
        prop_assert_eq!(outcome == Some(Outcome::Dropped), model.newest().paid.is_none());
        if goes_on && in_time {
            prop_assert_ne!(outcome, Some(Outcome::Dropped));
        }
    }
}

#[test]
fn something_else_under_the_id_is_an_error_and_nothing_more_is_sent() {
    let (model, progress) = (Model::new(), Progress::new(batch()));
    let mut seen = model.seen(0);
    seen.digest = Some(B256::repeat_byte(9));
    let error = progress.decide(&seen, &POLICY).unwrap_err();
    assert_eq!(error.code(), "settlement_paid_else");
    seen.final_digest = seen.digest;
    assert_eq!(progress.decide(&seen, &POLICY).unwrap_err(), error);
}

#[test]
fn a_slow_transaction_is_replaced_by_a_dearer_one_up_to_the_most_that_is_allowed() {
    let (mut model, mut progress) = (Model::new(), Progress::new(batch()));
    let mut fees = Vec::new();
    for _ in 0..9 {
        look(&mut model, &mut progress, 0, false);
        fees.push(progress.attempts.last().unwrap().fees.most);
        model.mine(61, false);
    }
    assert_eq!(fees, [10, 12, 14, 16, 19, 22, 25, 29, 33]);
    assert_eq!(progress.stage(None), Stage::Sent);
    model.fee = POLICY.fee_max + 1;
    let seen = model.seen(0);
    assert_eq!(progress.decide(&seen, &POLICY).unwrap(), Decision::Send);
    // Dear times may pass: it is sent on, and nothing dearer is signed.
    progress.was_cheap();
    assert_eq!(progress.decide(&seen, &POLICY).unwrap(), Decision::Send);
    progress.sent(seen.time);
    assert!(!progress.attempts.last().unwrap().is_cheap);
    let nothing_signed = Progress::new(batch());
    let decision = nothing_signed.decide(&seen, &POLICY).unwrap();
    assert_eq!(decision, Decision::Wait(Waiting::ForFees { most: 1_001 }));
}

#[test]
fn a_transaction_whose_number_is_not_the_next_gives_way_to_a_new_one() {
    let (mut model, mut progress) = (Model::new(), Progress::new(batch()));
    happen(&mut model, &mut progress, &Event::Other);
    model.mine(10, true);
    look(&mut model, &mut progress, 0, false);
    assert_eq!(progress.attempts[0].nonce, 1);
    // The block with the earlier transaction goes, and that does not come back.
    model.reorg(1, false);
    let decision = progress.decide(&model.seen(0), &POLICY).unwrap();
    assert!(
        matches!(decision, Decision::Sign { nonce: 0, .. }),
        "{decision:?}"
    );
}

#[test]
fn nothing_is_given_back_against_evidence() {
    let (model, progress) = (Model::new(), Progress::new(batch()));
    let mut seen = model.seen(0);
    (seen.final_time, seen.time, seen.clock) = (DEADLINE + 1, DEADLINE + 40, DEADLINE);
    let waits = Ok(Decision::Wait(Waiting::ForDeadline));
    assert_eq!(
        progress.decide(&seen, &POLICY),
        waits,
        "by the own clock it is early"
    );
    seen.clock += 1;
    assert_eq!(progress.decide(&seen, &POLICY), Ok(Decision::Drop));
    // The newest block has it, so that a final one after its deadline must.
    seen.digest = Some(batch().digest());
    let error = progress.decide(&seen, &POLICY).unwrap_err();
    assert_eq!(error.code(), "settlement_contradiction");
}

#[test]
fn of_two_batches_only_the_oldest_signs_or_sends() {
    let (mut model, mut older) = (Model::new(), Progress::new(batch()));
    let younger = Progress::new(batch());
    let both = |older: &Progress, seen: &Seen, of_younger: &Seen| {
        let decisions = decide(&[(older, seen), (&younger, of_younger)], &POLICY);
        decisions.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let turn = Decision::Wait(Waiting::ForTurn);
    let start = model.seen(0);
    let decisions = both(&older, &start, &start);
    assert!(matches!(decisions[0], Decision::Sign { .. }) && decisions[1] == turn);
    look(&mut model, &mut older, 0, false);
    assert_eq!(
        both(&older, &model.seen(0), &start),
        [Decision::Send, turn.clone()]
    );
    model.is_paused = true;
    assert_eq!(both(&older, &model.seen(0), &start)[1], turn);
    model.is_paused = false;
    model.mine(10, true);
    let decisions = both(&older, &model.seen(0), &start);
    assert_eq!(decisions[0], Decision::Wait(Waiting::ForFinality));
    assert!(matches!(decisions[1], Decision::Sign { .. }));
}

#[test]
fn what_failed_gets_gas_that_nobody_can_use_up_and_then_no_third_time() {
    let (model, progress) = (Model::new(), Progress::new(batch()));
    let mut seen = model.seen(0);
    let mut gas_after = |failures, estimate| {
        seen.failures = failures;
        seen.trial = Trial::Works { gas: estimate };
        match progress.decide(&seen, &POLICY).unwrap() {
            Decision::Sign { gas, .. } => Some(gas),
            decision => {
                assert_eq!(decision, Decision::Wait(Waiting::ForSmaller));
                None
            }
        }
    };
    assert_eq!(gas_after(0, 100_000), Some(100_000 + PAYOUT_GAS));
    assert_eq!(gas_after(0, 4_000_000), Some(5_000_000));
    assert_eq!(gas_after(0, 15_000_000), Some(GAS_MAX));
    assert_eq!(gas_after(1, 100_000), Some(PAYOUT_GAS + BATCH_GAS));
    assert_eq!(gas_after(2, 100_000), None);
    assert_eq!(gas_after(0, GAS_MAX + 1), None);
}

#[test]
fn an_attempt_of_another_key_is_not_sent_for_this_one() {
    let (mut model, mut progress) = (Model::new(), Progress::new(batch()));
    look(&mut model, &mut progress, 0, false);
    let mut seen = model.seen(0);
    assert_eq!(progress.decide(&seen, &POLICY).unwrap(), Decision::Send);
    seen.sender = Address::repeat_byte(5);
    assert!(matches!(
        progress.decide(&seen, &POLICY).unwrap(),
        Decision::Sign { .. }
    ));
}

#[test]
fn what_no_node_says_is_waited_for_and_the_end_is_seen_all_the_same() {
    let (model, progress) = (Model::new(), Progress::new(batch()));
    let mut seen = model.seen(0);
    let reason = "timeout".to_owned();
    seen.trial = Trial::Unknown {
        reason: reason.clone(),
    };
    assert_eq!(
        progress.decide(&seen, &POLICY).unwrap(),
        Decision::Wait(Waiting::ForNode { reason })
    );
    seen.final_digest = Some(batch().digest());
    assert_eq!(progress.decide(&seen, &POLICY).unwrap(), Decision::Conclude);
}
