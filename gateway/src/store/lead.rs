//! One gateway at a time has a PostgreSQL database: the one whose writing connection holds a lock of the server's.
//!
//! A gateway that starts takes over or ends what every other run has left, so two would end each other's kernels. The lock
//! belongs to the connection that writes, not to one beside it: a gateway that has lost it, whether it knows or not, writes
//! nothing any more (ADR 27). SQLite needs none of this: its file is in a data folder that one process has locked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::AnyConnection;
use tokio_util::sync::CancellationToken;

use crate::error::{GatewayError, Result};

/// The lock's first number: any that nobody else uses in this database. The second stands for the schema, because several
/// gateways may have one each.
const LEAD: i32 = 470_211_123;
const LOCK: &str = "SELECT CASE WHEN pg_try_advisory_lock($1, hashtext(current_schema())) THEN 1 ELSE 0 END";
const UNLOCK: &str = "SELECT CASE WHEN pg_advisory_unlock($1, hashtext(current_schema())) THEN 1 ELSE 0 END";
/// How long the server may take to say whether the lock is free.
const ANSWER: Duration = Duration::from_secs(10);
/// How often one that waits asks.
const EVERY: Duration = Duration::from_millis(200);
/// How often a gateway that has nothing to write looks whether it still leads.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// How long a gateway that was killed may still be held for alive by the server, where it is on the same network.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// How long a gateway whose connection was cut tries to have the lock again. The server finds out within 25 seconds that the
/// old connection is dead (`tcp_keepalives_*` in `pools`), and until then that one holds it.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a gateway does when another one has the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It is refused, after the few seconds that a killed one may take to be gone.
    Briefly,
    /// It waits as long as it takes.
    UntilItEnds,
}

/// Holds the lock again and again, on each new connection.
#[derive(Default)]
pub(super) struct Lead {
    state: Mutex<State>,
    pub(super) lost: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Since when another one has it.
    refused: Option<Instant>,
    /// How many have had this database, this one counted; none before it had it first.
    number: Option<i64>,
}

impl Lead {
    /// Waits until no other gateway has the database; the connection holds nothing afterwards.
    pub(super) async fn wait(connection: &mut AnyConnection, wait: Wait, server: &str) -> Result<()> {
        let since = Instant::now();
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            if ask_in_time(connection, LOCK).await? {
                ask_in_time(connection, UNLOCK).await?;
                return Ok(());
            }
            if wait == Wait::Briefly && since.elapsed() > LEFT_BEHIND {
                return Err(GatewayError::DatabaseTaken {
                    server: server.to_owned(),
                });
            }
        }
    }

    /// Locks on a connection that is to write; the pool asks again when this fails.
    pub(super) async fn hold(&self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        let taken = || sqlx::Error::Configuration("another gateway has this database".into());
        if !ask(connection, LOCK).await? {
            let mut state = self.state();
            if state.refused.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                self.lost.cancel();
            }
            return Err(taken());
        }
        let known = self.state().number;
        let number = match known {
            Some(_) => sqlx::query_scalar("SELECT number FROM lead"),
            None => sqlx::query_scalar("UPDATE lead SET number = number + 1 RETURNING number"),
        };
        let number: i64 = number.fetch_one(connection).await?;
        if known.is_some_and(|known| known != number) {
            // It had the database and has ended again: what this one remembers is not so any more.
            self.lost.cancel();
            return Err(taken());
        }
        let mut state = self.state();
        (state.refused, state.number) = (None, Some(number));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same of a server that may be gone without a word; it says at once whether the lock is free.
async fn ask_in_time(connection: &mut AnyConnection, statement: &'static str) -> sqlx::Result<bool> {
    let asked = tokio::time::timeout(ANSWER, ask(connection, statement)).await;
    asked.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// Whether the statement says yes.
async fn ask(connection: &mut AnyConnection, statement: &'static str) -> sqlx::Result<bool> {
    let done: i32 = sqlx::query_scalar(statement)
        .bind(LEAD)
        .fetch_one(connection)
        .await?;
    Ok(done == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::tests::database_of;

    /// Ends the connection that writes, from the server's side.
    async fn cut(store: &Store) {
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&store.write)
            .await
            .unwrap();
        sqlx::query("SELECT CASE WHEN pg_terminate_backend($1, 20000) THEN 1 ELSE 0 END")
            .bind(pid)
            .execute(&store.read)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn one_gateway_has_a_database_and_the_next_takes_over_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let Some(url) = database_of(folder.path()).await else {
            // On SQLite the data folder's lock does this; the PostgreSQL run of these tests comes here.
            return;
        };
        let lead = |wait| Store::lead(folder.path(), Some(&url), wait);
        let first = lead(Wait::Briefly).await.unwrap();
        let refused = lead(Wait::Briefly).await.err().unwrap();
        assert_eq!(refused.code(), "gateway_database_taken", "{refused}");
        // A cut is mended, and the lock is had again: nobody has waited.
        cut(&first).await;
        first
            .add_challenge("n1", ("0x1", None), "text", 100)
            .await
            .unwrap();
        let mut waiting = std::pin::pin!(lead(Wait::UntilItEnds));
        // It asks several times, in vain.
        let early = tokio::time::timeout(EVERY * 5, &mut waiting).await;
        assert!(early.is_err(), "it must wait");
        first.close().await;
        let second = waiting.await.unwrap();
        assert!(
            second
                .take_challenge("n1", ("0x1", None), 50)
                .await
                .unwrap()
                .is_some()
        );
        assert!(!second.has_lost_lead());
    }

    #[tokio::test]
    async fn who_waits_goes_on_waiting_when_its_connection_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let Some(url) = crate::store::testing::database_of(folder.path()).await else {
            return;
        };
        let first = url.as_str().parse().unwrap();
        let first = Store::lead(folder.path(), Some(&first), Wait::Briefly)
            .await
            .unwrap();
        // Found first and ended then: a condition that ends could be asked of any connection.
        const ONE: &str = "SELECT CASE WHEN pg_terminate_backend(pid, 20000) THEN 1 ELSE 0 END
                           FROM (SELECT pid FROM pg_stat_activity
                                 WHERE application_name = $1 AND query LIKE '%advisory%' OFFSET 0) AS one";
        let name = uuid::Uuid::new_v4().to_string();
        let named = format!("{}&application_name={name}", url.as_str());
        let named = named.parse().unwrap();
        let waiting = Store::lead(folder.path(), Some(&named), Wait::UntilItEnds);
        let cut = async {
            while sqlx::query(ONE)
                .bind(&name)
                .fetch_all(&first.read)
                .await
                .unwrap()
                .is_empty()
            {
                tokio::task::yield_now().await;
            }
            first.close().await;
        };
        let both = async { tokio::join!(waiting, cut).0 };
        let second = tokio::time::timeout(Duration::from_secs(60), both).await;
        second
            .unwrap()
            .unwrap()
            .add_challenge("n1", ("0x1", None), "text", 100)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn who_was_overtaken_after_a_cut_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let Some(url) = database_of(folder.path()).await else {
            return;
        };
        let first = Store::lead(folder.path(), Some(&url), Wait::Briefly)
            .await
            .unwrap();
        // It does not write, and so does not connect again, until the other one has taken over.
        let waiting = Store::lead(folder.path(), Some(&url), Wait::UntilItEnds);
        let (second, ()) = tokio::join!(waiting, cut(&first));
        let second = second.unwrap();
        let written = first.add_challenge("n1", ("0x1", None), "text", 100);
        let written = tokio::time::timeout(Duration::from_secs(2), written).await;
        assert!(!matches!(written, Ok(Ok(()))), "it writes after it was overtaken");
        assert!(
            second
                .take_challenge("n1", ("0x1", None), 50)
                .await
                .unwrap()
                .is_none()
        );
        // The other one has ended, too: the lock is free, and yet not this one's any more.
        second.close().await;
        let noticed = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::select! {
                () = first.lost_lead() => {}
                () = first.keep_lead() => {}
            }
        });
        noticed.await.unwrap();
        assert!(first.has_lost_lead());
    }

    #[tokio::test]
    async fn a_schema_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let Some(url) = crate::store::testing::database_of(folder.path()).await else {
            return;
        };
        let known = url.as_str();
        let at = known.find("options").unwrap();
        let elsewhere = format!("{}options[search_path]=not_there", &known[..at]);
        let elsewhere = elsewhere.parse().unwrap();
        let refused = Store::lead(folder.path(), Some(&elsewhere), Wait::Briefly).await;
        let refused = refused.err().unwrap();
        assert_eq!(refused.code(), "gateway_database_server");
        assert!(refused.to_string().contains("CREATE SCHEMA"), "{refused}");
    }
}
