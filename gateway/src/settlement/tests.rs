//! The whole way on a real local chain, cut off wherever it waits.

use std::future::poll_fn;
use std::task::Poll;

use alephlab_api::money::Asset;
use alephlab_api::payout::{NewWithdrawal, Way, WithdrawalState};
use alephlab_settlement::{Decision, Payer, Sent, decide};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::store::AskedWithdrawal;

mod credits;

#[path = "../../settlement/tests/chain/anvil.rs"]
mod anvil;

use anvil::{CHAIN_ID, LIMIT, OPERATOR_KEY, OWNER};

const BOB: &str = "0x00000000000000000000000000000000000000bE";
const CYD: &str = "0x00000000000000000000000000000000000000cF";
const CONFIRMATIONS: u64 = 3;

struct World {
    chain: anvil::Chain,
    store: Store,
    settlement: Settlement,
    _folder: tempfile::TempDir,
}

impl World {
    /// A gateway of which the contract's owner is an account, as is Bob.
    async fn start(token: &str) -> Self {
        let chain = anvil::Chain::start(token).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("payout.key"), OPERATOR_KEY).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(folder.path().join("payout.key"), mode).unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let owner: Address = OWNER.parse().unwrap();
        let admitted = [BOB.to_owned(), CYD.to_owned()];
        store
            .configure(&owner.to_string(), &[1; 32], &admitted, None)
            .await
            .unwrap();
        let config = SettlementConfig {
            chain: Some(ChainConfig {
                node: Secret::new(chain.address.clone()),
                chain_id: CHAIN_ID,
                token: chain.token.to_string(),
                contract: chain.contract.to_string(),
                deposit: None,
                confirmations: Some(CONFIRMATIONS),
                minimum: Amount::from_whole(1),
                daily: None,
                fee_max: 1_000_000_000_000,
                every: Duration::from_secs(1),
            }),
            rate: None,
            credits: None,
        };
        let settlement = Settlement::open(folder.path(), config).unwrap();
        let world = Self {
            chain,
            store,
            settlement,
            _folder: folder,
        };
        world.look().await.unwrap();
        world
    }

    fn terms(&self) -> &Terms {
        self.settlement.terms().unwrap()
    }

    /// One look of a gateway that was just started.
    async fn look(&self) -> std::result::Result<(), chain::Trouble> {
        Chain::new(&self.store, &self.settlement, self.terms())
            .look()
            .await
    }

    /// Looks, with a block after each, until nothing of an account is on its way.
    async fn until_over(&self, account: &str) {
        for _ in 0..40 {
            self.look().await.unwrap();
            self.chain.mine(1).await;
            let all = self.store.payouts_of(account).await.unwrap();
            if all.iter().all(|one| one.ended.is_some()) {
                return;
            }
        }
        panic!("{:?}", self.store.payouts_of(account).await);
    }

    async fn deposit(&self, whole: u64) {
        self.chain
            .transfer(self.terms().watched.address, Amount::from_whole(whole))
            .await;
        self.chain.mine(CONFIRMATIONS).await;
        self.look().await.unwrap();
    }

    async fn has(&self, account: &str) -> Amount {
        let balances = self.store.balances(account).await.unwrap();
        let found = balances.iter().find(|balance| balance.asset == Asset::Aleph);
        found.map_or(Amount::ZERO, |balance| balance.available)
    }

    async fn ask(&self, account: &str, whole: u64) -> Result<NewWithdrawal> {
        let new = NewWithdrawal {
            id: Uuid::new_v4(),
            amount: Amount::from_whole(whole),
        };
        let asked = AskedWithdrawal {
            id: new.id,
            account,
            address: account,
            amount: new.amount,
            daily: None,
            times: usize::MAX,
        };
        self.store.ask_withdrawal(asked).await?;
        Ok(new)
    }

    async fn give(&self, account: &str, whole: u64) {
        let amount = Amount::from_whole(whole);
        let given = self
            .store
            .credit((account, account), Asset::Aleph, amount, account, "");
        given.await.unwrap();
    }

    async fn state(&self, account: &str) -> WithdrawalState {
        self.store.payouts_of(account).await.unwrap()[0].state
    }

    async fn standing(&self) -> SettlementStanding {
        self.store
            .settlement(&self.terms().watched)
            .await
            .unwrap()
            .unwrap()
    }

    async fn compare(&self) -> alephlab_api::payout::Comparison {
        self.settlement.compare();
        self.look().await.unwrap();
        self.standing().await.compared.unwrap()
    }

    /// The filling of the contract is no deposit: the operator records it.
    async fn record_filling(&self) {
        let filling = Amount::from_whole(10 * LIMIT);
        self.chain.mine(CONFIRMATIONS).await;
        self.compare().await;
        for _ in 0..2 {
            let moved = self
                .store
                .move_custody(OWNER, Way::In, filling, ("filling", "start"));
            moved.await.unwrap();
        }
    }

    async fn is_sound(&self) {
        assert_eq!(self.store.audit().await.unwrap().faults, Vec::<String>::new());
    }
}

fn owner() -> String {
    OWNER.parse::<Address>().unwrap().to_string()
}

fn whole(amount: Amount) -> u64 {
    amount.whole().unwrap()
}

/// Drops a call when it has waited so often; whether it came to its end before.
async fn is_cut(waits: u32, call: impl Future) -> bool {
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
async fn a_deposit_is_booked_when_it_is_final_and_what_was_paid_out_is_at_the_address() {
    let world = World::start("AlephLike").await;
    let terms = world.terms();
    world
        .chain
        .transfer(terms.watched.address, Amount::from_whole(70))
        .await;
    world.look().await.unwrap();
    assert_eq!(world.has(&owner()).await, Amount::ZERO, "its block may still go");
    world.chain.mine(CONFIRMATIONS).await;
    for _ in 0..2 {
        world.look().await.unwrap();
        assert_eq!(whole(world.has(&owner()).await), 70);
    }
    world.give(BOB, 5).await;
    world.ask(BOB, 5).await.unwrap();
    assert_eq!(world.state(BOB).await, WithdrawalState::Asked);
    world.look().await.unwrap();
    assert_eq!(world.state(BOB).await, WithdrawalState::Sent);
    world.look().await.unwrap();
    assert_eq!(world.state(BOB).await, WithdrawalState::Mined);
    world.until_over(BOB).await;
    assert_eq!(world.state(BOB).await, WithdrawalState::Paid);
    assert_eq!(whole(world.chain.has(BOB.parse().unwrap()).await), 5);
    let compared = world.compare().await;
    // The contract's filling is in no book, and stops nothing.
    assert_eq!(whole(compared.unbooked), 10 * LIMIT);
    assert!(compared.missing.is_zero() && world.standing().await.stop.is_none());
    world.record_filling().await;
    let compared = world.compare().await;
    assert_eq!(
        (compared.missing, compared.unbooked),
        (Amount::ZERO, Amount::ZERO)
    );
    world.is_sound().await;
}

#[tokio::test]
async fn a_deposit_of_nobody_is_the_accounts_that_links_its_address() {
    let world = World::start("AlephLike").await;
    let nobody = anvil::OPERATOR.parse::<Address>().unwrap();
    world.chain.ask("anvil_impersonateAccount", json!([nobody])).await;
    world.chain.transfer(nobody, Amount::from_whole(9)).await;
    let data = format!(
        "0xa9059cbb{}{}",
        world
            .terms()
            .watched
            .address
            .into_word()
            .to_string()
            .trim_start_matches("0x"),
        alephlab_settlement::B256::from(Amount::from_whole(9).to_bytes())
            .to_string()
            .trim_start_matches("0x"),
    );
    let sent = json!([{"from": nobody, "to": world.chain.token, "data": data}]);
    world.chain.ask("eth_sendTransaction", sent).await;
    world.chain.mine(CONFIRMATIONS).await;
    world.look().await.unwrap();
    let (count, total) = world.store.unknown_deposits().await.unwrap();
    assert_eq!((count, whole(total)), (1, 9));
    let identity = crate::store::Identity {
        issuer: "https://id.example".to_owned(),
        subject: "1".to_owned(),
        label: "Eve".to_owned(),
    };
    let (eve, _) = world.store.identify(&identity, true).await.unwrap();
    world.store.link_address(&eve, &nobody.to_string()).await.unwrap();
    for _ in 0..2 {
        world.look().await.unwrap();
        assert_eq!(whole(world.has(&eve).await), 9);
    }
    assert_eq!(world.store.unknown_deposits().await.unwrap().0, 0);
    world.is_sound().await;
}

/// What a cut has left: what was written and not sent, and what was sent and not noted.
#[derive(Debug, Default)]
struct Left {
    cuts: u32,
    unsent: u32,
    unnoted: u32,
}

impl World {
    /// A look that is cut off; the gaps at which it was depend on the machine, and have a test of their own below.
    async fn cut(&self, waits: u32, left: &mut Left) {
        let mut one = Chain::new(&self.store, &self.settlement, self.terms());
        left.cuts += u32::from(is_cut(waits, one.look()).await);
        let Some(open) = self.store.open_batch().await.unwrap() else {
            return;
        };
        for attempt in open.progress.attempts.iter().filter(|one| one.sent_at.is_none()) {
            let known = json!([attempt.hash]);
            let known = self.chain.ask("eth_getTransactionByHash", known).await;
            match known.is_null() {
                true => left.unsent += 1,
                false => left.unnoted += 1,
            }
        }
    }
}

#[tokio::test]
async fn wherever_it_is_cut_off_everybody_is_paid_once() {
    let world = World::start("AlephLike").await;
    world.record_filling().await;
    let mut left = Left::default();
    // Between any two answers of database and node, at each stage of a withdrawal.
    for waits in 0..40 {
        let deposit = world.terms().watched.address;
        world.chain.transfer(deposit, Amount::from_whole(20)).await;
        world.chain.mine(CONFIRMATIONS).await;
        let (before, mut is_asked) = (world.chain.has(OWNER.parse().unwrap()).await, false);
        for _ in 0..40 {
            world.cut(waits, &mut left).await;
            world.look().await.unwrap();
            world.chain.mine(1).await;
            let all = world.store.payouts_of(&owner()).await.unwrap();
            if is_asked && all.iter().all(|one| one.ended.is_some()) {
                break;
            }
            if !is_asked && whole(world.has(&owner()).await) == 20 {
                world.ask(&owner(), 20).await.unwrap();
                is_asked = true;
            }
        }
        let compared = world.compare().await;
        assert_eq!(
            (compared.missing, compared.unbooked),
            (Amount::ZERO, Amount::ZERO),
            "{waits}"
        );
        let after = world.chain.has(OWNER.parse().unwrap()).await;
        let paid = after.checked_sub(before).unwrap();
        assert_eq!(
            (whole(paid), world.has(&owner()).await),
            (20, Amount::ZERO),
            "{waits}"
        );
    }
    assert!(left.cuts > 50, "{left:?}");
    world.is_sound().await;
}

#[tokio::test]
async fn what_was_written_and_not_sent_or_sent_and_not_noted_is_paid_once() {
    let world = World::start("AlephLike").await;
    world.record_filling().await;
    for (account, is_sent) in [(BOB, false), (CYD, true)] {
        world.give(account, 5).await;
        world.ask(account, 5).await.unwrap();
        let node = world.terms().connect().await.unwrap();
        let (contract, token) = (world.chain.contract, world.chain.token);
        let payer = Payer::connect(node.clone(), contract, token, OPERATOR_KEY)
            .await
            .unwrap();
        let open = chain::plan(&world.store, world.terms(), (&node, &payer))
            .await
            .unwrap()
            .unwrap();
        let seen = payer.look(&open.progress).await.unwrap();
        let decision = decide(&[(&open.progress, &seen)], &world.terms().policy).remove(0);
        let Ok(Decision::Sign { nonce, fees, gas }) = decision else {
            panic!("{decision:?}");
        };
        let batch = &open.progress.batch;
        let attempt = payer.sign(batch, nonce, fees, gas).unwrap();
        world.store.write_attempt(batch.id(), 0, &attempt).await.unwrap();
        if is_sent {
            assert_eq!(payer.send(batch, &attempt).await, Ok(Sent::Taken));
        }
        // Here it is killed.
        world.until_over(account).await;
        let paid = world.store.payouts_of(account).await.unwrap().remove(0);
        assert_eq!(paid.state, WithdrawalState::Paid);
        assert_eq!(
            paid.transaction,
            Some(attempt.hash.to_string()),
            "no second one was signed"
        );
        assert_eq!(whole(world.chain.has(account.parse().unwrap()).await), 5);
    }
    assert!(world.compare().await.missing.is_zero());
    world.is_sound().await;
}

#[tokio::test]
async fn a_batch_that_is_not_paid_in_time_is_given_up_and_paid_by_another() {
    let mut world = World::start("AlephLike").await;
    world.give(BOB, 5).await;
    world.ask(BOB, 5).await.unwrap();
    if let Some(terms) = &mut world.settlement.terms {
        terms.deadline = 1;
    }
    world.look().await.unwrap();
    let first = world
        .store
        .payouts_of(BOB)
        .await
        .unwrap()
        .remove(0)
        .batch
        .unwrap();
    if let Some(terms) = &mut world.settlement.terms {
        terms.deadline = DEADLINE;
    }
    for _ in 0..200 {
        world.chain.mine(1).await;
        world.look().await.unwrap();
        let now = world.store.payouts_of(BOB).await.unwrap().remove(0);
        if now.state == WithdrawalState::Paid {
            assert_ne!(now.batch.unwrap(), first);
            assert_eq!(whole(world.chain.has(BOB.parse().unwrap()).await), 5);
            return world.is_sound().await;
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?}", world.store.payouts_of(BOB).await);
}

#[tokio::test]
async fn whom_the_token_refuses_keeps_nobody_from_being_paid() {
    let world = World::start("HostileToken").await;
    let barred = BOB.parse::<Address>().unwrap().into_word();
    let refuses = alephlab_settlement::B256::with_last_byte(5);
    world
        .chain
        .owner_calls(world.chain.token, "setAnswer(address,uint8)", &[barred, refuses])
        .await;
    for account in [BOB, CYD] {
        world.give(account, 5).await;
        world.ask(account, 5).await.unwrap();
    }
    world.until_over(CYD).await;
    assert_eq!(world.state(CYD).await, WithdrawalState::Paid);
    let refused = world.store.payouts_of(BOB).await.unwrap().remove(0);
    assert_eq!(refused.state, WithdrawalState::Asked);
    assert!(refused.reason.unwrap().contains("tried again"));
    assert_eq!(whole(world.chain.has(CYD.parse().unwrap()).await), 5);
    world.is_sound().await;
}

#[tokio::test]
async fn what_is_missing_stops_withdrawals_until_the_operator_has_it_right() {
    let world = World::start("AlephLike").await;
    world.record_filling().await;
    world.give(BOB, 5).await;
    let taken = [
        world.chain.token.into_word(),
        OWNER.parse::<Address>().unwrap().into_word(),
        alephlab_settlement::B256::from(Amount::from_whole(3).to_bytes()),
    ];
    world
        .chain
        .owner_calls(world.chain.contract, "withdraw(address,address,uint256)", &taken)
        .await;
    world.chain.mine(CONFIRMATIONS).await;
    for _ in 0..2 {
        let compared = world.compare().await;
        assert_eq!(whole(compared.missing), 3);
        let stop = world.standing().await.stop.unwrap();
        assert_eq!(stop.code, "settlement_missing");
        let refused = world.ask(BOB, 5).await.unwrap_err();
        assert_eq!(refused.code(), "withdrawals_stopped");
        world.store.resume_settlement(OWNER, None).await.unwrap();
    }
    world.compare().await;
    let moved = world
        .store
        .move_custody(OWNER, Way::Out, Amount::from_whole(3), ("taken", ""));
    moved.await.unwrap();
    world.store.resume_settlement(OWNER, None).await.unwrap();
    assert!(world.compare().await.missing.is_zero());
    world.ask(BOB, 5).await.unwrap();
    world.until_over(BOB).await;
    assert_eq!(world.state(BOB).await, WithdrawalState::Paid);
    let told: Vec<_> = world.store.audit_lines(0, 100).await.unwrap();
    let count = |action: &str| told.iter().filter(|line| line.action == action).count();
    assert_eq!((count("settlement_stopped"), count("settlement_resumed")), (3, 3));
}

#[tokio::test]
async fn a_final_block_that_goes_stops_everything_but_what_is_final() {
    let world = World::start("AlephLike").await;
    world.deposit(10).await;
    world.chain.mine(1).await;
    world.look().await.unwrap();
    world.chain.reorg(CONFIRMATIONS + 2).await;
    world.chain.mine(4).await;
    assert!(world.look().await.is_err());
    let standing = world.standing().await;
    assert_eq!(standing.stop.as_ref().unwrap().code, "settlement_final_changed");
    let cursor = world
        .settlement
        .cursor_to_resume(&standing)
        .await
        .unwrap()
        .unwrap();
    let at = Some((&world.terms().watched, standing.cursor, cursor));
    world.store.resume_settlement(OWNER, at).await.unwrap();
    world.look().await.unwrap();
    assert!(world.standing().await.stop.is_none());
}

#[tokio::test]
async fn another_chain_than_that_of_the_books_is_not_read() {
    let mut world = World::start("AlephLike").await;
    let other = Address::repeat_byte(7);
    if let Some(terms) = &mut world.settlement.terms {
        terms.watched.address = other;
    }
    world.look().await.unwrap();
    let standing = world.standing().await;
    assert_eq!(standing.stop.as_ref().unwrap().code, "settlement_moved");
    let cursor = world
        .settlement
        .cursor_to_resume(&standing)
        .await
        .unwrap()
        .unwrap();
    let at = Some((&world.terms().watched, standing.cursor, cursor));
    world.store.resume_settlement(OWNER, at).await.unwrap();
    world.look().await.unwrap();
    assert!(world.standing().await.stop.is_none());
}
