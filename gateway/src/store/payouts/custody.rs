//! What the gateway has on the chain: deposits as they come, the cursor up to which they were read, and the comparison of tokens with
//! the books, which stops withdrawals when something is missing.

use std::collections::BTreeSet;

use alephlab_api::payout::{Comparison, Stop, Way};
use alephlab_settlement::{Address, B256, Cursor, Found};

use super::batches::parsed;
use super::*;

/// Which transfers are deposits. Another place has other transfers: what was read of one says nothing of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) chain_id: u64,
    pub(crate) token: Address,
    /// Where deposits are taken.
    pub(crate) address: Address,
    /// What comes from it is the gateway's own.
    pub(crate) contract: Address,
}

/// How settlement stands.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) cursor: Cursor,
    /// The cursor is of this place.
    pub(crate) is_here: bool,
    pub(crate) stop: Option<Stop>,
    pub(crate) compared: Option<Comparison>,
}

impl Store {
    /// How it stands at this place; none before the first look.
    pub(crate) async fn settlement(&self, watched: &Watched) -> Result<Option<Standing>> {
        let row = sqlx::query("SELECT * FROM settlement")
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(|row| standing(row, watched)).transpose()
    }

    /// Why withdrawals are stopped, if they are.
    pub(crate) async fn settlement_stop(&self) -> Result<Option<Stop>> {
        let row = sqlx::query("SELECT * FROM settlement")
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map_or(Ok(None), stop)
    }

    /// Begins to read deposits behind this block, where nothing was read before.
    pub(crate) async fn begin_settlement(&self, watched: &Watched, cursor: Cursor) -> Result<()> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO settlement (id, chain, token, address, cursor_number, cursor_hash)
             VALUES (1, $1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING",
        )
        .bind(seconds(watched.chain_id))
        .bind(watched.token.to_string())
        .bind(watched.address.to_string())
        .bind(seconds(cursor.number))
        .bind(cursor.hash.to_string())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Books what came in after `read`, and where to go on, in one step. Does nothing when it was read already. A transaction of which
    /// something was booked by an earlier read has been mined again after a final block had gone: it is not booked a second time, and
    /// stops withdrawals.
    pub(crate) async fn take_deposits(&self, watched: &Watched, read: Cursor, found: &Found) -> Result<()> {
        let mut transaction = self.begin().await?;
        let moved = sqlx::query(
            "UPDATE settlement SET cursor_number = $1, cursor_hash = $2 WHERE cursor_number = $3 AND cursor_hash = $4",
        )
        .bind(seconds(found.cursor.number))
        .bind(found.cursor.hash.to_string())
        .bind(seconds(read.number))
        .bind(read.hash.to_string())
        .execute(&mut *transaction)
        .await?;
        if moved.rows_affected() != 1 {
            return Ok(());
        }
        let known = known(&mut transaction, watched, found).await?;
        for deposit in &found.deposits {
            // Tokens that the contract's owner takes out of it, or that go in a circle, were here before.
            if deposit.from == watched.contract || deposit.from == watched.address {
                continue;
            }
            if is_earlier_contract(&mut transaction, watched, deposit.from).await? {
                continue;
            }
            if known.contains(&deposit.transaction) {
                let reason = format!(
                    "transaction {} was mined again after its deposit was booked",
                    deposit.transaction
                );
                stop_now(&mut transaction, "settlement_twice", &reason).await?;
                continue;
            }
            let (chain, hash, log) = (
                seconds(watched.chain_id),
                deposit.transaction.to_string(),
                seconds(deposit.log),
            );
            let sender = deposit.from.to_string();
            let account = sqlx::query("SELECT id FROM accounts WHERE address = $1")
                .bind(&sender)
                .fetch_optional(&mut *transaction)
                .await?;
            let account: Option<String> = account.map(|row| row.try_get("id")).transpose()?;
            let key = format!("chain:{chain}:{hash}:{log}");
            let memo = format!("deposit of {sender}, transaction {hash}");
            let to = account
                .as_deref()
                .map_or(Place::gateway(PurseKind::Suspense), Place::wallet);
            deposited(
                &mut transaction,
                (&key, &memo),
                deposit.amount,
                (Place::gateway(PurseKind::Custody), to),
            )
            .await?;
            sqlx::query(
                "INSERT INTO chain_deposits (chain, hash, log, sender, amount, account, time)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(chain)
            .bind(&hash)
            .bind(log)
            .bind(&sender)
            .bind(&deposit.amount.to_bytes()[..])
            .bind(&account)
            .bind(seconds(unix_now()))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Gives deposits of nobody to the accounts that have their senders' addresses now.
    pub(crate) async fn claim_deposits(&self) -> Result<()> {
        const CLAIMABLE: &str =
            "SELECT d.*, a.id AS owner FROM chain_deposits d JOIN accounts a ON a.address = d.sender
             WHERE d.account IS NULL";
        // Mostly there are none, and who only reads waits for nobody.
        if sqlx::query(CLAIMABLE).fetch_optional(&self.read).await?.is_none() {
            return Ok(());
        }
        let mut transaction = self.begin().await?;
        for row in sqlx::query(CLAIMABLE).fetch_all(&mut *transaction).await? {
            let (chain, hash, log): (i64, String, i64) =
                (row.try_get("chain")?, row.try_get("hash")?, row.try_get("log")?);
            let (owner, sender): (String, String) = (row.try_get("owner")?, row.try_get("sender")?);
            let key = format!("claim:{chain}:{hash}:{log}");
            let memo = format!("deposit of {sender}, transaction {hash}");
            let places = (Place::gateway(PurseKind::Suspense), Place::wallet(&owner));
            deposited(&mut transaction, (&key, &memo), amount(&row, "amount")?, places).await?;
            sqlx::query("UPDATE chain_deposits SET account = $1 WHERE chain = $2 AND hash = $3 AND log = $4")
                .bind(&owner)
                .bind(chain)
                .bind(&hash)
                .bind(log)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Deposits of nobody: how many, and what they come to.
    pub(crate) async fn unknown_deposits(&self) -> Result<(u64, Amount)> {
        let rows = sqlx::query("SELECT amount FROM chain_deposits WHERE account IS NULL")
            .fetch_all(&self.read)
            .await?;
        sum(&rows)
    }

    /// Compares what was found at a block with the books, which must be as of that block. Something missing stops withdrawals;
    /// more than the books say does not, or anybody could stop them by sending a unit to the contract.
    pub(crate) async fn compare_custody(&self, on_chain: Amount, block: u64) -> Result<Comparison> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "SELECT debits, credits FROM ledger_accounts WHERE owner = 'gateway' AND asset = 'aleph' AND kind = 'custody'",
        )
        .fetch_optional(&mut *transaction)
        .await?;
        // Debits are what came in, credits what went out.
        let (came, went) = match &row {
            Some(row) => (amount(row, "debits")?, amount(row, "credits")?),
            None => (Amount::ZERO, Amount::ZERO),
        };
        let there = add(went, on_chain)?;
        let compared = Comparison {
            time: unix_now(),
            block,
            on_chain,
            missing: came.saturating_sub(there),
            unbooked: there.saturating_sub(came),
        };
        sqlx::query(
            "UPDATE settlement SET compared_at = $1, compared_block = $2, on_chain = $3, missing = $4, unbooked = $5",
        )
        .bind(seconds(compared.time))
        .bind(seconds(block))
        .bind(&on_chain.to_bytes()[..])
        .bind(&compared.missing.to_bytes()[..])
        .bind(&compared.unbooked.to_bytes()[..])
        .execute(&mut *transaction)
        .await?;
        if !compared.missing.is_zero() {
            let reason = format!(
                "at block {block} contract and deposit address have {}, {} less than the books say",
                on_chain.of(Asset::Aleph),
                compared.missing.of(Asset::Aleph)
            );
            stop_now(&mut transaction, "settlement_missing", &reason).await?;
        }
        transaction.commit().await?;
        Ok(compared)
    }

    /// Stops withdrawals until the operator says otherwise; what has stopped them first stays.
    pub(crate) async fn stop_settlement(&self, code: &str, reason: &str) -> Result<()> {
        let mut transaction = self.begin().await?;
        stop_now(&mut transaction, code, reason).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Has withdrawals go on; where a cursor is given, deposits are read on behind it, if nothing was read since `read`.
    ///
    /// # Errors
    /// 409 `settlement_moving`.
    pub(crate) async fn resume_settlement(
        &self,
        by: &str,
        at: Option<(&Watched, Cursor, Cursor)>,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query("SELECT * FROM settlement")
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(stop) = row.as_ref().map_or(Ok(None), stop)? else {
            return Ok(());
        };
        sqlx::query("UPDATE settlement SET stopped_code = NULL, stopped_reason = NULL, stopped_at = NULL")
            .execute(&mut *transaction)
            .await?;
        if let Some((watched, read, cursor)) = at {
            let moved = sqlx::query(
                "UPDATE settlement SET chain = $1, token = $2, address = $3, cursor_number = $4, cursor_hash = $5
                 WHERE cursor_number = $6 AND cursor_hash = $7",
            )
            .bind(seconds(watched.chain_id))
            .bind(watched.token.to_string())
            .bind(watched.address.to_string())
            .bind(seconds(cursor.number))
            .bind(cursor.hash.to_string())
            .bind(seconds(read.number))
            .bind(read.hash.to_string())
            .execute(&mut *transaction)
            .await?;
            if moved.rows_affected() != 1 {
                let text = "deposits were read on meanwhile";
                return Err(
                    GatewayError::refused(StatusCode::CONFLICT, "settlement_moving", text)
                        .with_hint("ask again"),
                );
            }
        }
        note(&mut transaction, by, Action::SettlementResumed, &stop.code).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Records what the contract's owner put in or took out. What was put in must have been found at the last comparison, in no book: it
    /// would be missing at the next one else.
    ///
    /// # Errors
    /// 409 `move_not_seen`.
    pub(crate) async fn move_custody(
        &self,
        by: &str,
        way: Way,
        amount: Amount,
        (key, memo): (&str, &str),
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        let (custody, issued) = (
            Place::gateway(PurseKind::Custody),
            Place::gateway(PurseKind::Issued),
        );
        let (places, words) = match way {
            Way::In => ((custody, issued), "in"),
            Way::Out => ((issued, custody), "out"),
        };
        if !deposited(&mut transaction, (&format!("moved:{key}"), memo), amount, places).await? {
            return Ok(());
        }
        if way == Way::In {
            book(&mut transaction, amount).await?;
        }
        let what = format!("{} {words}", amount.of(Asset::Aleph));
        note(&mut transaction, by, Action::CustodyMoved, &what).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Which of these transactions were booked by an earlier read. All logs of one are in one block, so in one read.
async fn known(connection: &mut Connection, watched: &Watched, found: &Found) -> Result<BTreeSet<B256>> {
    let mut known = BTreeSet::new();
    for deposit in &found.deposits {
        let booked = sqlx::query("SELECT 1 FROM chain_deposits WHERE chain = $1 AND hash = $2")
            .bind(seconds(watched.chain_id))
            .bind(deposit.transaction.to_string())
            .fetch_optional(&mut *connection)
            .await?;
        if booked.is_some() {
            known.insert(deposit.transaction);
        }
    }
    Ok(known)
}

/// Whether it is a contract that paid before: what its owner sends from there to the deposit address was here before.
async fn is_earlier_contract(
    connection: &mut Connection,
    watched: &Watched,
    sender: Address,
) -> Result<bool> {
    let paid = sqlx::query("SELECT 1 FROM payout_batches WHERE chain = $1 AND contract = $2 LIMIT 1")
        .bind(seconds(watched.chain_id))
        .bind(sender.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(paid.is_some())
}

/// Takes an amount from what the last comparison found in no book.
async fn book(connection: &mut Connection, moved: Amount) -> Result<()> {
    let row = sqlx::query("SELECT unbooked FROM settlement WHERE unbooked IS NOT NULL")
        .fetch_optional(&mut *connection)
        .await?;
    let unbooked = row.map_or(Ok(Amount::ZERO), |row| amount(&row, "unbooked"))?;
    let Some(left) = unbooked.checked_sub(moved) else {
        let text = format!(
            "{} are there and in no book, not {}: not final yet, or not there",
            unbooked.of(Asset::Aleph),
            moved.of(Asset::Aleph)
        );
        let refused = GatewayError::refused(StatusCode::CONFLICT, "move_not_seen", text);
        return Err(refused.with_hint(
            "it is looked again now: ask when `alephlab wallet settlement` shows the amount as in no book",
        ));
    };
    sqlx::query("UPDATE settlement SET unbooked = $1")
        .bind(&left.to_bytes()[..])
        .execute(connection)
        .await?;
    Ok(())
}

/// Why withdrawals are stopped, as a part of something larger.
pub(super) async fn stop_of(connection: &mut Connection) -> Result<Option<Stop>> {
    let row = sqlx::query("SELECT * FROM settlement")
        .fetch_optional(connection)
        .await?;
    row.as_ref().map_or(Ok(None), stop)
}

async fn stop_now(connection: &mut Connection, code: &str, reason: &str) -> Result<()> {
    let stopped = sqlx::query(
        "UPDATE settlement SET stopped_code = $1, stopped_reason = $2, stopped_at = $3 WHERE stopped_code IS NULL",
    )
    .bind(code)
    .bind(reason)
    .bind(seconds(unix_now()))
    .execute(&mut *connection)
    .await?;
    if stopped.rows_affected() == 1 {
        tracing::error!(code, reason, "withdrawals are stopped");
        note(connection, "gateway", Action::SettlementStopped, code).await?;
    }
    Ok(())
}

async fn deposited(
    connection: &mut Connection,
    (key, memo): (&str, &str),
    amount: Amount,
    (from, to): (Place<'_>, Place<'_>),
) -> Result<bool> {
    transfer(
        connection,
        &Transfer {
            key,
            kind: EntryKind::Deposit,
            asset: Asset::Aleph,
            amount,
            hold: None,
            memo,
            from,
            to,
        },
    )
    .await
}

fn standing(row: &Row, watched: &Watched) -> Result<Standing> {
    let cursor = Cursor {
        number: unsigned(row.try_get("cursor_number")?),
        hash: parsed(row.try_get("cursor_hash")?, "a block's hash")?,
    };
    let here = (
        unsigned(row.try_get("chain")?),
        parsed::<Address>(row.try_get("token")?, "a token")?,
        parsed::<Address>(row.try_get("address")?, "an address")?,
    );
    let compared = match row.try_get::<Option<i64>, _>("compared_at")? {
        None => None,
        Some(time) => Some(Comparison {
            time: unsigned(time),
            block: unsigned(row.try_get("compared_block")?),
            on_chain: amount(row, "on_chain")?,
            missing: amount(row, "missing")?,
            unbooked: amount(row, "unbooked")?,
        }),
    };
    Ok(Standing {
        cursor,
        is_here: here == (watched.chain_id, watched.token, watched.address),
        stop: stop(row)?,
        compared,
    })
}

fn stop(row: &Row) -> Result<Option<Stop>> {
    let Some(code) = row.try_get::<Option<String>, _>("stopped_code")? else {
        return Ok(None);
    };
    Ok(Some(Stop {
        code,
        reason: row.try_get("stopped_reason")?,
        since: unsigned(row.try_get("stopped_at")?),
    }))
}
