//! Random histories of several batches on a real local chain: what the outcomes say is what accounts have.

use alephlab_api::money::Amount;
use alephlab_settlement::{Batch, Decision, Outcome, Payer, Payout, Progress};
use alloy_primitives::{B256, keccak256};
use serde_json::json;

use crate::anvil::Chain;
use crate::{decide, look, payer, place, send, somebody, step, to_its_end};

const HISTORIES: usize = 4;
const BATCHES: u64 = 4;
/// The one whose deadline passes between signing and sending.
const LATE: u64 = 1;
const STEPS: usize = 20;
const PEOPLE: u8 = 5;

/// Numbers that follow from a seed.
struct Dice(B256);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = keccak256(self.0);
        let bytes = self.0.first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(bytes) % end
    }

    fn amount(&mut self) -> Amount {
        Amount::from_base(u128::from(self.below(1_000_000_000) + 1))
    }
}

#[tokio::test]
async fn what_the_outcomes_say_is_what_accounts_have_after_random_histories() {
    let (mut ended, mut dropped, mut sent) = (0, 0, 0);
    for seed in (0..).take(HISTORIES) {
        let chain = Chain::start("HostileToken").await;
        let payer = payer(&chain).await;
        let mut dice = Dice(B256::from(Amount::from_whole(seed).to_bytes()));
        let mut done: Vec<Progress> = Vec::new();
        for number in 0..BATCHES {
            let mut progress = plan(&chain, &mut dice, number).await;
            if number == LATE {
                sign_only(&payer, &mut progress).await;
                let late = json!([progress.batch.deadline() + 1]);
                chain.ask("evm_setNextBlockTimestamp", late).await;
                // Final at once: a block that goes would turn the time back.
                chain.mine(5).await;
            }
            for _ in 0..STEPS {
                happen(&chain, &payer, &mut dice, &mut progress, &done).await;
            }
            set_paused(&chain, false).await;
            to_its_end(&chain, &payer, &mut progress).await;
            done.push(progress);
        }
        // Whatever was signed is sent once more.
        for progress in &done {
            for attempt in &progress.attempts {
                // Most have their number used up.
                let _ = payer.send(&progress.batch, attempt).await;
                chain.mine(1).await;
            }
        }
        assert_eq!(has(&chain).await, said(&done), "seed {seed}: {done:#?}");
        ended += done.len();
        dropped += done
            .iter()
            .filter(|one| one.outcome == Some(Outcome::Dropped))
            .count();
        sent += done.iter().map(|one| one.attempts.len()).sum::<usize>();
    }
    println!("{ended} batches ended, {dropped} of them dropped, {sent} transactions signed");
    assert!(dropped >= HISTORIES && dropped < ended && sent >= ended);
}

async fn plan(chain: &Chain, dice: &mut Dice, number: u64) -> Progress {
    let payouts = (1..=PEOPLE).map(|person| Payout {
        to: somebody(person),
        amount: dice.amount(),
    });
    let id = keccak256(number.to_be_bytes());
    Progress::new(Batch::new(place(chain), id, chain.time().await + 600, payouts.collect()).unwrap())
}

async fn happen(chain: &Chain, payer: &Payer, dice: &mut Dice, progress: &mut Progress, done: &[Progress]) {
    match dice.below(12) {
        0..=3 => {
            step(payer, progress).await;
        }
        4..=5 => chain.mine(dice.below(3) + 1).await,
        6..=7 => chain.reorg(dice.below(4) + 1).await,
        8 => {
            let barred = [
                somebody(u8::try_from(dice.below(u64::from(PEOPLE))).unwrap() + 1).into_word(),
                B256::with_last_byte(if dice.below(2) == 0 { 5 } else { 0 }),
            ];
            chain
                .owner_calls(chain.token, "setAnswer(address,uint8)", &barred)
                .await;
        }
        9 => set_paused(chain, dice.below(2) == 0).await,
        10 => sign_only(payer, progress).await,
        _ => {
            for one in done {
                for old in &one.attempts {
                    let _ = payer.send(&one.batch, old).await;
                }
            }
            if !progress.attempts.is_empty() {
                let time = chain.time().await;
                send(payer, progress, time).await;
            }
        }
    }
}

/// It is written down, and the gateway killed before it is sent.
async fn sign_only(payer: &Payer, progress: &mut Progress) {
    let seen = look(payer, progress).await;
    if let Decision::Sign { nonce, fees, gas } = decide(progress, &seen).unwrap() {
        progress.signed(payer.sign(&progress.batch, nonce, fees, gas).unwrap());
    }
}

async fn set_paused(chain: &Chain, is_paused: bool) {
    if chain.is_paused().await != is_paused {
        let call = if is_paused { "pause()" } else { "unpause()" };
        chain.owner_calls(chain.contract, call, &[]).await;
    }
}

async fn has(chain: &Chain) -> Vec<Amount> {
    let mut amounts = Vec::new();
    for person in 1..=PEOPLE {
        amounts.push(chain.has(somebody(person)).await);
    }
    amounts
}

/// What everybody was paid, by the outcomes.
fn said(done: &[Progress]) -> Vec<Amount> {
    let mut amounts = vec![Amount::ZERO; usize::from(PEOPLE)];
    for progress in done {
        let Some(Outcome::Paid { unpaid }) = &progress.outcome else {
            continue;
        };
        for (place, payout) in progress.batch.payouts().iter().enumerate() {
            if !unpaid.contains(&place) {
                amounts[place] = amounts[place].checked_add(payout.amount).unwrap();
            }
        }
    }
    amounts
}
