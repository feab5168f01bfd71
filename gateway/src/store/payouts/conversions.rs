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
    /// How often the network did not carry it out.
    tries: u32,
}

/// Seconds until a message that the network did not carry out is posted again; twice as many after each time.
const FIRST_WAIT: u64 = 10;
/// At most so many.
const LONGEST_WAIT: u64 = 3_600;

impl Store {
    /// Turns ALEPH into credits. The same id and content is one conversion, at the rate of the first time.
    ///
    /// # Errors
    /// 402 `balance_too_small`; 409 `conversion_open` or `key_conflict`; 503 `withdrawals_stopped`.
    pub(crate) async fn convert(&self, asked: AskedConversion<'_>) -> Result<Conversion> {
        let mut transaction = self.begin().await?;
        let id = asked.id.to_string();
        let target = match asked.address {
            Some(_) => Target::Network,
            None => Target::Compute,
        };
        if let Some((account, known)) = conversion(&mut transaction, &id).await? {
            let is_same = account == asked.account && (known.aleph, known.to) == (asked.aleph, target);
            return if is_same {
                Ok(known)
            } else {
                Err(key_conflict(&id))
            };
        }
        // What is missing may be what this account has; as credits it would be gone.
        if let Some(stop) = custody::stop_of(&mut transaction).await? {
            return Err(stopped(&stop.code));
        }
        if asked.address.is_some() {
            none_open(&mut transaction, asked.account).await?;
        }
        let memo = format!(
            "converted: {} at {} each",
            asked.aleph.of(Asset::Aleph),
            asked.rate.credits.of(Asset::Credit)
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
            "INSERT INTO conversions (id, account, target, aleph, credits, rate, rate_time, state, address, not_before, asked, ended)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11)",
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

    /// Those on their way to the network whose time has come; first those of which a message is written, whose credits are as good as
    /// gone.
    pub(crate) async fn open_conversions(&self, now: u64) -> Result<Vec<OpenConversion>> {
        let rows = sqlx::query(
            "SELECT * FROM conversions WHERE ended IS NULL AND not_before <= $1
             ORDER BY message IS NULL, not_before, asked, id LIMIT $2",
        )
        .bind(seconds(now))
        .bind(LISTED)
        .fetch_all(&self.read)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(OpenConversion {
                    id: id(row, "id")?,
                    credits: amount(row, "credits")?,
                    address: row.try_get("address")?,
                    message: row.try_get("message")?,
                    is_posted: row.try_get::<&str, _>("state")? == "posted",
                    tries: u32::try_from(row.try_get::<i64, _>("tries")?).unwrap_or(u32::MAX),
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

    /// Credits of all messages that are written and not known to be carried out.
    pub(crate) async fn credits_written(&self) -> Result<Amount> {
        let rows = sqlx::query(
            "SELECT credits AS amount FROM conversions WHERE ended IS NULL AND message IS NOT NULL",
        )
        .fetch_all(&self.read)
        .await?;
        Ok(sum(&rows)?.1)
    }

    /// Notes that the network has the message.
    pub(crate) async fn note_transfer(&self, id: Uuid) -> Result<()> {
        sqlx::query("UPDATE conversions SET state = 'posted' WHERE id = $1 AND ended IS NULL")
            .bind(id.to_string())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Notes why the network did not carry it out; it is posted again after a while.
    pub(crate) async fn delay_transfer(&self, open: &OpenConversion, reason: &str) -> Result<()> {
        let wait = FIRST_WAIT << open.tries.min(16);
        sqlx::query(
            "UPDATE conversions SET reason = $1, tries = tries + 1, not_before = $2
             WHERE id = $3 AND ended IS NULL",
        )
        .bind(reason)
        .bind(seconds(unix_now() + wait.min(LONGEST_WAIT)))
        .bind(open.id.to_string())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Books a transfer that the network has carried out.
    pub(crate) async fn settle_transfer(&self, id: Uuid) -> Result<()> {
        self.end_transfer(id, None).await
    }

    /// Books a transfer that was not posted, or that the network never will carry out: the ALEPH is in the account again.
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
        let (payouts, wallet) = (Place::gateway(PurseKind::Payouts), Place::wallet(&account));
        let state = match refused {
            None => {
                let custody = Place::gateway(PurseKind::Custody);
                let gone = (
                    EntryKind::Settle,
                    Asset::Credit,
                    known.credits,
                    (payouts, custody),
                );
                let memo = format!("message {}", known.message.unwrap_or_default());
                moved(&mut transaction, &format!("convert:{id}:settle"), &memo, gone).await?;
                ConversionState::Seen
            }
            Some(reason) => {
                let exchange = Place::gateway(PurseKind::Exchange);
                let (credits, memo) = (known.credits, format!("not converted: {reason}"));
                let back = (EntryKind::Return, Asset::Credit, credits, (payouts, wallet));
                let give = (EntryKind::Convert, Asset::Credit, credits, (wallet, exchange));
                let take = (EntryKind::Convert, Asset::Aleph, known.aleph, (exchange, wallet));
                for (key, what) in [("return", back), ("back:credits", give), ("back:aleph", take)] {
                    moved(&mut transaction, &format!("convert:{id}:{key}"), &memo, what).await?;
                }
                ConversionState::Returned
            }
        };
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

/// One at a time: each is a message of the gateway's.
async fn none_open(connection: &mut Connection, account: &str) -> Result<()> {
    let open = sqlx::query("SELECT 1 FROM conversions WHERE account = $1 AND ended IS NULL")
        .bind(account)
        .fetch_optional(connection)
        .await?;
    if open.is_none() {
        return Ok(());
    }
    let text = "credits of this account are on their way to the network already";
    Err(
        GatewayError::refused(StatusCode::CONFLICT, "conversion_open", text)
            .with_hint("see how far they are: alephlab wallet convert --list"),
    )
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
        id: id(row, "id")?,
        to: target.parse().map_err(|_| corrupt("a conversion's target"))?,
        aleph: amount(row, "aleph")?,
        credits: amount(row, "credits")?,
        rate: Rate {
            credits: amount(row, "rate")?,
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
