//! The audit log: written in the transaction of what it tells of, so that neither is there without the other.

use alephlab_api::audit::AuditLine;
use alephlab_api::time::unix_now;
use sqlx::Row as _;

use super::{Connection, Row, Store, corrupt, seconds, unsigned};
use crate::audit::chained;
use crate::error::Result;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    SignIn,
    SignOutOthers,
    TokenMade,
    TokenRevoked,
    CreditGiven,
    AccountMade,
    AccountAdmitted,
    AccountDismissed,
    AddressLinked,
    RoleSet,
    WithdrawalAsked,
    SettlementStopped,
    SettlementResumed,
    CustodyMoved,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::SignOutOthers => "sign_out_others",
            Self::TokenMade => "token_made",
            Self::TokenRevoked => "token_revoked",
            Self::CreditGiven => "credit_given",
            Self::AccountMade => "account_made",
            Self::AccountAdmitted => "account_admitted",
            Self::AccountDismissed => "account_dismissed",
            Self::AddressLinked => "address_linked",
            Self::RoleSet => "role_set",
            Self::WithdrawalAsked => "withdrawal_asked",
            Self::SettlementStopped => "settlement_stopped",
            Self::SettlementResumed => "settlement_resumed",
            Self::CustodyMoved => "custody_moved",
        }
    }
}

impl Store {
    /// Notes a sign-in by `way` that was refused.
    pub(crate) async fn note_refused_sign_in(&self, account: &str, way: &str) -> Result<()> {
        let mut transaction = self.begin().await?;
        append(&mut transaction, account, Action::SignIn, way, "refused").await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Lines after the one at `after`, in order.
    pub(crate) async fn audit_lines(&self, after: u64, limit: u32) -> Result<Vec<AuditLine>> {
        let rows = sqlx::query("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(seconds(after))
            .bind(i64::from(limit))
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(read).collect()
    }
}

/// Notes something that is done in this transaction.
pub(super) async fn note(
    transaction: &mut Connection,
    account: &str,
    action: Action,
    subject: &str,
) -> Result<()> {
    append(transaction, account, action, subject, "done").await
}

async fn append(
    transaction: &mut Connection,
    account: &str,
    action: Action,
    subject: &str,
    result: &str,
) -> Result<()> {
    let last = sqlx::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut *transaction)
        .await?;
    let (seq, before) = match &last {
        Some(row) => {
            let hash = row.try_get::<&[u8], _>("hash")?.try_into();
            let hash: [u8; 32] = hash.map_err(|_| corrupt("a hash of the audit log"))?;
            (unsigned(row.try_get("seq")?) + 1, hash)
        }
        None => (1, [0; 32]),
    };
    let line = AuditLine {
        seq,
        time: unix_now(),
        account: account.to_owned(),
        action: action.name().to_owned(),
        subject: subject.to_owned(),
        result: result.to_owned(),
        hash: String::new(),
    };
    sqlx::query(
        "INSERT INTO audit (seq, time, account, action, subject, result, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(seconds(line.seq))
    .bind(seconds(line.time))
    .bind(&line.account)
    .bind(&line.action)
    .bind(&line.subject)
    .bind(&line.result)
    .bind(chained(&before, &line).as_slice())
    .execute(transaction)
    .await?;
    Ok(())
}

fn read(row: &Row) -> Result<AuditLine> {
    Ok(AuditLine {
        seq: unsigned(row.try_get("seq")?),
        time: unsigned(row.try_get("time")?),
        account: row.try_get("account")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        result: row.try_get("result")?,
        hash: hex::encode(row.try_get::<&[u8], _>("hash")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{AuditError, check_audit};

    const ADA: &str = "0x00000000000000000000000000000000000000aD";

    async fn written() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut connection = store.write.acquire().await.unwrap();
        for subject in ["one", "two", "three"] {
            note(&mut connection, ADA, Action::TokenMade, subject)
                .await
                .unwrap();
        }
        drop(connection);
        store.note_refused_sign_in(ADA, "wallet").await.unwrap();
        (folder, store)
    }

    async fn checked(store: &Store) -> std::result::Result<String, AuditError> {
        check_audit(&store.audit_lines(0, 100).await.unwrap())
    }

    #[tokio::test]
    async fn lines_follow_each_other_and_hold() {
        let (_folder, store) = written().await;
        let lines = store.audit_lines(0, 100).await.unwrap();
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.seq, line.subject.as_str(), line.result.as_str()))
            .collect();
        let all = [
            (1, "one", "done"),
            (2, "two", "done"),
            (3, "three", "done"),
            (4, "wallet", "refused"),
        ];
        assert_eq!(told, all);
        assert_eq!(checked(&store).await, Ok(lines[3].hash.clone()));
        assert_eq!(store.audit_lines(2, 1).await.unwrap(), lines[2..3]);
        assert_eq!(check_audit(&[]), Ok("00".repeat(32)));
    }

    #[tokio::test]
    async fn whoever_changes_the_database_is_found_out() {
        for (change, error) in [
            (
                "UPDATE audit SET account = '0x1' WHERE seq = 2",
                AuditError::Changed { seq: 2 },
            ),
            (
                "UPDATE audit SET time = time + 1 WHERE seq = 4",
                AuditError::Changed { seq: 4 },
            ),
            (
                "UPDATE audit SET result = 'done' WHERE seq = 4",
                AuditError::Changed { seq: 4 },
            ),
            (
                "UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 2) WHERE seq = 1",
                AuditError::Changed { seq: 1 },
            ),
            (
                "UPDATE audit SET action = 'token_', subject = 'madeone' WHERE seq = 1",
                AuditError::Changed { seq: 1 },
            ),
            ("DELETE FROM audit WHERE seq = 2", AuditError::Gap { seq: 3 }),
            ("DELETE FROM audit WHERE seq = 1", AuditError::Gap { seq: 2 }),
        ] {
            let (_folder, store) = written().await;
            sqlx::query(change).execute(&store.write).await.unwrap();
            assert_eq!(checked(&store).await, Err(error), "{change}");
        }
        // Taken out, with those after it moved up: the hash tells.
        let (_folder, store) = written().await;
        for change in [
            "DELETE FROM audit WHERE seq = 2",
            "UPDATE audit SET seq = 2 WHERE seq = 3",
            "UPDATE audit SET seq = 3 WHERE seq = 4",
        ] {
            sqlx::query(change).execute(&store.write).await.unwrap();
        }
        assert_eq!(checked(&store).await, Err(AuditError::Changed { seq: 2 }));
    }
}
