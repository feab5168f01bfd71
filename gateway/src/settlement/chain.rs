//! The chain's task: deposits in, tokens against books, and the open batch by one step at each look.
//!
//! It may be cut off anywhere and begun again: what was done is in the database, and every step asks the chain anew.

use std::sync::atomic::Ordering;
use std::time::Duration;

use alephlab_api::time::unix_now;
use alephlab_settlement::{
    B256, Cursor, Decision, Deposits, Node, Outcome, Payer, Seen, Sent, SettlementError, Stage, Waiting,
    decide,
};
use tokio::time::Instant;

use super::{Settlement, Terms};
use crate::error::GatewayError;
use crate::store::{Planning, Progressing, Store};

/// How often tokens and books are compared.
const COMPARED_EVERY: Duration = Duration::from_secs(3_600);

/// Why a look did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Chain(#[from] SettlementError),
    #[error(transparent)]
    Books(#[from] GatewayError),
}

type Result<T> = std::result::Result<T, Trouble>;

/// Looks at the chain.
pub(super) struct Chain<'a> {
    store: &'a Store,
    settlement: &'a Settlement,
    terms: &'a Terms,
    link: Option<Link>,
    payer: Option<Payer>,
    compared: Option<Instant>,
}

/// A node that was found to be of the right chain.
struct Link {
    node: Node,
    deposits: Deposits,
}

impl<'a> Chain<'a> {
    pub(super) fn new(store: &'a Store, settlement: &'a Settlement, terms: &'a Terms) -> Self {
        Self {
            store,
            settlement,
            terms,
            link: None,
            payer: None,
            compared: None,
        }
    }

    /// Looks again and again. Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let trouble = self.look().await.err();
            self.settlement
                .set_trouble(trouble.map(|trouble| trouble.to_string()));
            // Whether woken or not: it looks.
            let _ = tokio::time::timeout(self.terms.every, self.settlement.wake_chain.notified()).await;
        }
    }

    /// One look: what can be done now is done. What keeps deposits from being read keeps nothing from being paid, and the other way.
    pub(super) async fn look(&mut self) -> Result<()> {
        self.connect().await?;
        let read = self.read_deposits().await;
        let read = self.heed(read).await;
        let paid = self.move_batch().await;
        let paid = self.heed(paid).await;
        read.and(paid)
    }

    async fn connect(&mut self) -> Result<()> {
        if self.link.is_some() {
            return Ok(());
        }
        let node = self.terms.connect().await?;
        let watched = &self.terms.watched;
        let deposits = Deposits::new(node.clone(), watched.token, watched.address);
        self.link = Some(Link { node, deposits });
        Ok(())
    }

    /// What cannot be true stops withdrawals.
    async fn heed(&self, outcome: Result<()>) -> Result<()> {
        if let Err(Trouble::Chain(error)) = &outcome
            && let SettlementError::PaidElse { .. }
            | SettlementError::Contradiction { .. }
            | SettlementError::FinalChanged { .. }
            | SettlementError::Logs { .. } = error
        {
            self.store
                .stop_settlement(error.code(), &error.to_string())
                .await?;
        }
        outcome
    }

    /// Books what came in, up to the newest final block, and compares there.
    async fn read_deposits(&mut self) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let watched = &self.terms.watched;
        let standing = match self.store.settlement(watched).await? {
            Some(standing) => standing,
            None => {
                let now = link.deposits.now().await?;
                self.store.begin_settlement(watched, now).await?;
                return Ok(());
            }
        };
        if !standing.is_here {
            let reason = "chain, token or deposit address are not those of the books any more";
            self.store.stop_settlement("settlement_moved", reason).await?;
            return Ok(());
        }
        let mut cursor = standing.cursor;
        loop {
            let found = link.deposits.after(cursor).await?;
            if found.cursor != cursor {
                self.store.take_deposits(watched, cursor, &found).await?;
            }
            cursor = found.cursor;
            if !found.has_more {
                break;
            }
        }
        self.store.claim_deposits().await?;
        self.compare(cursor).await
    }

    /// Tokens against books, both as of the block up to which everything was read. Batches are booked after this in each look, so
    /// the books have none that this block does not.
    async fn compare(&mut self, cursor: Cursor) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let is_asked = self.settlement.compare.load(Ordering::Relaxed);
        let is_due = self.compared.is_none_or(|last| last.elapsed() >= COMPARED_EVERY);
        if !is_asked && !is_due {
            return Ok(());
        }
        if let Some(open) = self.store.open_batch().await? {
            let payer = payer(&mut self.payer, link, self.terms).await?;
            if payer.is_paid_at(&open.progress.batch, cursor.hash).await? {
                // It left the contract and not the books yet: the next look finds both.
                return Ok(());
            }
        }
        let watched = &self.terms.watched;
        let contract = link.deposits.held(watched.contract, cursor).await?;
        let deposit = link.deposits.held(watched.address, cursor).await?;
        let Some(on_chain) = contract.checked_add(deposit) else {
            return Ok(());
        };
        let compared = self.store.compare_custody(on_chain, cursor.number).await?;
        tracing::info!(block = cursor.number, %on_chain, missing = %compared.missing, unbooked = %compared.unbooked, "tokens and books were compared");
        self.settlement.compare.store(false, Ordering::Relaxed);
        self.compared = Some(Instant::now());
        Ok(())
    }

    /// Moves the open batch by one step; makes one where none is open and something is due. Before tokens and books were compared once,
    /// nothing is signed.
    async fn move_batch(&mut self) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let is_stopped = self.store.settlement_stop().await?.is_some() || self.compared.is_none();
        let payer = payer(&mut self.payer, link, self.terms).await?;
        let open = match self.store.open_batch().await? {
            Some(open) => open,
            None if is_stopped => return Ok(()),
            None => match plan(self.store, self.terms, (&link.node, payer)).await? {
                Some(open) => open,
                None => return Ok(()),
            },
        };
        let seen = payer.look(&open.progress).await?;
        let decision = decide(&[(&open.progress, &seen)], &self.terms.policy).pop();
        let decision = decision.unwrap_or(Ok(Decision::Nothing))?;
        let step = Step {
            store: self.store,
            payer,
            seen: &seen,
            open,
        };
        if step.take(decision, is_stopped).await? {
            // What waits for the next batch need not wait for the next look.
            self.settlement.wake();
        }
        Ok(())
    }
}

/// The payout key at its contract, which is asked whose it is.
async fn payer<'a>(known: &'a mut Option<Payer>, link: &Link, terms: &Terms) -> Result<&'a Payer> {
    let payer = match known.take() {
        Some(payer) => payer,
        None => {
            let watched = &terms.watched;
            Payer::connect(
                link.node.clone(),
                watched.contract,
                watched.token,
                terms.key.expose(),
            )
            .await?
        }
    };
    Ok(known.insert(payer))
}

/// A batch of what is due and the contract can pay now.
pub(super) async fn plan(
    store: &Store,
    terms: &Terms,
    (node, payer): (&Node, &Payer),
) -> Result<Option<Progressing>> {
    let (count, _) = store.payouts_asked().await?;
    if count == 0 {
        return Ok(None);
    }
    let (room, newest) = (payer.room().await?, node.newest().await?);
    let now = unix_now();
    let planning = Planning {
        place: payer.place(),
        id: B256::from(rand::random::<[u8; 32]>()),
        now,
        deadline: newest.time.max(now) + terms.deadline,
        most: room.most(),
    };
    if store.plan_batch(&planning).await?.is_none() {
        return Ok(None);
    }
    Ok(store.open_batch().await?)
}

/// What is done with the open batch now.
struct Step<'a> {
    store: &'a Store,
    payer: &'a Payer,
    seen: &'a Seen,
    open: Progressing,
}

impl Step<'_> {
    /// Does it; whether the batch has ended.
    async fn take(mut self, decision: Decision, is_stopped: bool) -> Result<bool> {
        let batch = self.open.progress.batch.clone();
        match decision {
            // What is final happened, whatever else is wrong.
            Decision::Conclude => {
                if let Outcome::Paid { unpaid } = self.payer.conclude(&self.open.progress).await? {
                    self.store.conclude_batch(&batch, &unpaid).await?;
                    tracing::info!(batch = %batch.id(), payouts = batch.payouts().len(), unpaid = unpaid.len(), "a batch is paid");
                }
                return Ok(true);
            }
            Decision::Sign { .. } | Decision::Send | Decision::Drop if is_stopped => {
                self.note(
                    Some("withdrawals are stopped, or not compared with the books yet"),
                    false,
                )
                .await?;
            }
            Decision::Sign { nonce, fees, gas } => {
                let attempt = self.payer.sign(&batch, nonce, fees, gas)?;
                let place = self.open.progress.attempts.len();
                self.store.write_attempt(batch.id(), place, &attempt).await?;
                self.open.progress.signed(attempt);
                self.send().await?;
            }
            Decision::Send => self.send().await?,
            Decision::Drop => {
                self.store.drop_batch(&batch, self.open.smaller).await?;
                tracing::info!(batch = %batch.id(), "a batch was not paid by its deadline and is given up");
                return Ok(true);
            }
            Decision::Wait(waiting) => {
                let (words, smaller) = (words(&waiting), waiting == Waiting::ForSmaller);
                self.note(Some(&words), smaller).await?;
            }
            Decision::Nothing => {}
        }
        Ok(false)
    }

    async fn send(&mut self) -> Result<()> {
        let progress = &mut self.open.progress;
        let Some(attempt) = progress.attempts.last() else {
            return Ok(());
        };
        match self.payer.send(&progress.batch, attempt).await? {
            Sent::Taken => progress.sent(self.seen.time),
            Sent::Cheap => progress.was_cheap(),
            Sent::Used => {}
        }
        if let Some(attempt) = progress.attempts.last() {
            self.store.note_attempt(progress.batch.id(), attempt).await?;
        }
        self.note(None, false).await
    }

    async fn note(&self, waiting: Option<&str>, smaller: bool) -> Result<()> {
        let progress = &self.open.progress;
        let stage: Stage = progress.stage(Some(self.seen));
        self.store
            .note_batch(progress.batch.id(), stage, (waiting, smaller))
            .await?;
        Ok(())
    }
}

/// What an account or the operator reads.
fn words(waiting: &Waiting) -> String {
    match waiting {
        Waiting::ForFinality => "until its block is final".to_owned(),
        Waiting::ForContract { reason } => format!("the contract does not take it: {reason}"),
        Waiting::ForTurn => "another batch is before it".to_owned(),
        Waiting::ForNode { reason } => format!("no node says what it costs: {reason}"),
        Waiting::ForSmaller => "it is too large, and is split after its deadline".to_owned(),
        Waiting::ForFees { most } => format!("gas costs {} gwei, more than is allowed", most / 1_000_000_000),
        Waiting::ForDeadline => "its deadline is near, and what becomes of it is not final yet".to_owned(),
    }
}
