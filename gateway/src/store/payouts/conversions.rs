//! ALEPH that became credits: at once in the account here, or by a message that the network carries out.

use alephlab_api::payout::{Conversion, ConversionState, Rate, Target};

use super::*;

/// What an account asks for, at a rate that it was shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedConversion<'a> {
    pub(crate) id: Uuid,
    pub(crate) account: &'a str,
    pub(crate) aleph: Amount,
    pub(crate) credits: Amount,
    pub(crate) rate: Rate,
    /// Its own address, where the credits go to the network; else they stay here.
    pub(crate) address: Option<&'a str>,
}

/// One whose credits are on their way to the network.
#[derive(Debug, Clone)]
pub(crate) struct OpenConversion {
    pub(crate) id: Uuid,
    pub(crate) credits: Amount,
    pub(crate) address: String,
    /// The signed message, once it is written.
    pub(crate) message: Option<String>,
    pub(crate) is_posted: bool,
}

impl Store {
    /// Turns ALEPH into credits. The same id and content is one conversion, at the rate of the first time.
    ///
    /// # Errors
    /// 402 `balance_too_small`; 409 `key_conflict`.
    pub(crate) async fn convert(&self, asked: AskedConversion<'_>) -> Result<Conversion> {
        let mut transaction = self.begin().await?;
        let id = asked.id.to_string();
        let target = match asked.address {
            Some(_) => Target::Network,
            None => Target::Compute,
        };
        if let Some((account, known)) = conversion(&mut transaction, &id).await? {
            let is_same = account == asked.account && (known.aleph, known.to) == (asked.aleph, target);
            return if is_same { Ok(known) } else { Err(conflict(&id)) };
        }
        let memo = format!(
            "converted: {} ALEPH at {} credits each",
            asked.aleph, asked.rate.credits
        );
        let (wallet, exchange) = (Place::wallet(asked.account), Place::gateway(PurseKind::Exchange));
        let give = (EntryKind::Convert, Asset::Aleph, asked.aleph, (wallet, exchange));
        let take = (
            EntryKind::Convert,
            Asset::Credit,
            asked.credits,
            (exchange, wallet),
        );
        moved(&mut transaction, &format!("convert:{id}:aleph"), &memo, give).await?;
        moved(&mut transaction, &format!("convert:{id}:credits"), &memo, take).await?;
        if let Some(address) = asked.address {
            let memo = format!("credits to {address} on the network");
            let payouts = Place::gateway(PurseKind::Payouts);
            let send = (
                EntryKind::Withdraw,
                Asset::Credit,
                asked.credits,
                (wallet, payouts),
            );
            moved(&mut transaction, &format!("convert:{id}:send"), &memo, send).await?;
        }
        let now = seconds(unix_now());
        let (state, ended) = match target {
            Target::Compute => (ConversionState::Done, Some(now)),
            Target::Network => (ConversionState::Asked, None),
        };
        sqlx::query(
            "INSERT INTO conversions (id, account, target, aleph, credits, rate, rate_time, state, address, asked, ended)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(&id)
        .bind(asked.account)
        .bind(target.name())
        .bind(&asked.aleph.to_bytes()[..])
        .bind(&asked.credits.to_bytes()[..])
        .bind(&asked.rate.credits.to_bytes()[..])
        .bind(seconds(asked.rate.time))
        .bind(state.name())
        .bind(asked.address)
        .bind(now)
        .bind(ended)
        .execute(&mut *transaction)
        .await?;
        let written = conversion(&mut transaction, &id).await?;
        transaction.commit().await?;
        written
            .map(|(_, known)| known)
            .ok_or_else(|| corrupt("a conversion"))
    }

    /// A conversion of this account, if it was asked for already: then the rate of now means nothing.
    pub(crate) async fn known_conversion(&self, account: &str, id: Uuid) -> Result<Option<Conversion>> {
        let mut read = self.read.acquire().await?;
        let found = conversion(&mut read, &id.to_string()).await?;
        Ok(found
            .filter(|(owner, _)| owner == account)
            .map(|(_, known)| known))
    }

    /// Conversions of an account, newest first.
    pub(crate) async fn conversions(&self, account: &str) -> Result<Vec<Conversion>> {
        let rows =
            sqlx::query("SELECT * FROM conversions WHERE account = $1 ORDER BY asked DESC, id LIMIT $2")
                .bind(account)
                .bind(LISTED)
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(read_conversion).collect()
    }

    /// Those that are on their way to the network, oldest first.
    pub(crate) async fn open_conversions(&self) -> Result<Vec<OpenConversion>> {
        let rows = sqlx::query("SELECT * FROM conversions WHERE ended IS NULL ORDER BY asked, id LIMIT $1")
            .bind(LISTED)
            .fetch_all(&self.read)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(OpenConversion {
                    id: read_id(row, "id")?,
                    credits: read_amount(row, "credits")?,
                    address: row.try_get("address")?,
                    message: row.try_get("message")?,
                    is_posted: row.try_get::<&str, _>("state")? == "posted",
                })
            })
            .collect()
    }

    /// Writes the signed message down; only then is it posted. A conversion has one for good: what was written first counts, and is
    /// given.
    pub(crate) async fn write_transfer(&self, id: Uuid, message: &str, hash: &str) -> Result<String> {
        let mut transaction = self.begin().await?;
        sqlx::query("UPDATE conversions SET message = $1, hash = $2 WHERE id = $3 AND message IS NULL AND ended IS NULL")
            .bind(message)
            .bind(hash)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let written: Option<String> = sqlx::query_scalar("SELECT message FROM conversions WHERE id = $1")
            .bind(id.to_string())
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        written.ok_or_else(|| corrupt("a conversion's message"))
    }

    /// Notes that the network has the message, or what it waits for.
    pub(crate) async fn note_transfer(&self, id: Uuid, is_posted: bool, reason: Option<&str>) -> Result<()> {
        sqlx::query(
            "UPDATE conversions SET state = CASE WHEN $1 = 1 THEN 'posted' ELSE state END, reason = $2
             WHERE id = $3 AND ended IS NULL",
        )
        .bind(i64::from(is_posted))
        .bind(reason)
        .bind(id.to_string())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Books a transfer that the network has carried out.
    pub(crate) async fn settle_transfer(&self, id: Uuid) -> Result<()> {
        self.end_transfer(id, None).await
    }

    /// Books a transfer that the network never will carry out: the credits stay in the account here.
    pub(crate) async fn return_transfer(&self, id: Uuid, reason: &str) -> Result<()> {
        self.end_transfer(id, Some(reason)).await
    }

    async fn end_transfer(&self, id: Uuid, refused: Option<&str>) -> Result<()> {
        let (mut transaction, id) = (self.begin().await?, id.to_string());
        let Some((account, known)) = conversion(&mut transaction, &id).await? else {
            return Ok(());
        };
        if known.ended.is_some() {
            return Ok(());
        }
        let payouts = Place::gateway(PurseKind::Payouts);
        let (key, kind, to, state) = match refused {
            None => (
                "settle",
                EntryKind::Settle,
                Place::gateway(PurseKind::Custody),
                ConversionState::Seen,
            ),
            Some(_) => (
                "return",
                EntryKind::Return,
                Place::wallet(&account),
                ConversionState::Returned,
            ),
        };
        let memo = match refused {
            None => format!("message {}", known.message.unwrap_or_default()),
            Some(reason) => format!("credits stayed here: {reason}"),
        };
        let what = (kind, Asset::Credit, known.credits, (payouts, to));
        moved(&mut transaction, &format!("convert:{id}:{key}"), &memo, what).await?;
        // One that was refused before it was posted was posted by nobody.
        sqlx::query("UPDATE conversions SET state = $1, reason = $2, ended = $3 WHERE id = $4")
            .bind(state.name())
            .bind(refused)
            .bind(seconds(unix_now()))
            .bind(&id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// What moves, of what, and from where to where.
type Move<'a> = (EntryKind, Asset, Amount, (Place<'a>, Place<'a>));

async fn moved(
    connection: &mut Connection,
    key: &str,
    memo: &str,
    (kind, asset, amount, (from, to)): Move<'_>,
) -> Result<()> {
    let what = Transfer {
        key,
        kind,
        asset,
        amount,
        hold: None,
        memo,
        from,
        to,
    };
    transfer(connection, &what).await?;
    Ok(())
}

async fn conversion(connection: &mut Connection, id: &str) -> Result<Option<(String, Conversion)>> {
    let row = sqlx::query("SELECT * FROM conversions WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    let read = |row: &Row| Ok((row.try_get("account")?, read_conversion(row)?));
    row.as_ref().map(read).transpose()
}

fn read_conversion(row: &Row) -> Result<Conversion> {
    let (target, state): (&str, &str) = (row.try_get("target")?, row.try_get("state")?);
    Ok(Conversion {
        id: read_id(row, "id")?,
        to: target.parse().map_err(|_| corrupt("a conversion's target"))?,
        aleph: read_amount(row, "aleph")?,
        credits: read_amount(row, "credits")?,
        rate: Rate {
            credits: read_amount(row, "rate")?,
            time: unsigned(row.try_get("rate_time")?),
        },
        state: ConversionState::parse(state).ok_or_else(|| corrupt("a conversion's state"))?,
        address: row.try_get("address")?,
        message: row.try_get("hash")?,
        reason: row.try_get("reason")?,
        asked: unsigned(row.try_get("asked")?),
        ended: row.try_get::<Option<i64>, _>("ended")?.map(unsigned),
    })
}
