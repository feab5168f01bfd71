//! The gateway's database: SQLite or PostgreSQL, one writer, rules in the schema.
//!
//! Each file holds the statements of one concern, good for both databases; a change of several rows is one transaction,
//! begun by [`Store::begin`]. Nothing here knows HTTP.

mod accounts;
mod allocations;
mod audit;
mod identities;
mod kernels;
mod lab;
mod lead;
mod ledger;
mod listings;
mod market;
mod models;
mod payments;
mod payouts;
mod pools;
mod receipts;
mod secrets;
mod sessions;
mod shares;
mod terminals;
#[cfg(test)]
mod testing;
mod tokens;
mod trust;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use sqlx::{Any, AnyPool, Transaction};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::database::DatabaseUrl;
use crate::error::{GatewayError, Result};

pub(crate) use accounts::Bearer;
pub(crate) use allocations::{Allocation, NewAllocation, StoredQuote};
pub(crate) use identities::{Attempt, Identity, Linking, Standing};
pub(crate) use kernels::{StoredKernel, StoredLease};
pub(crate) use lab::{LabDocument, LabKind};
pub(crate) use lead::Wait;
pub(crate) use ledger::{Hold, NewHold, hold_ended};
pub(crate) use market::{ASSET as SOLD_FOR, NewSale, StoredOrder, StoredTerms, order_own, order_unknown};
pub(crate) use models::{History, PrivateOf, StoredModel, StoredTags};
pub(crate) use payments::{PaymentState, StoredPayment, Taken};
pub(crate) use payouts::{
    AskedConversion, AskedWithdrawal, OpenConversion, Planning, Progressing, Standing as SettlementStanding,
    Watched,
};
pub(crate) use receipts::StoredHead;
pub(crate) use secrets::SealedSecret;
pub(crate) use sessions::StoredSession;
pub(crate) use shares::StoredShare;
pub(crate) use terminals::StoredTerminal;
pub(crate) use tokens::{Making, SignedInAs};

/// A row of either database.
pub(crate) type Row = sqlx::any::AnyRow;
/// A connection to either database.
pub(crate) type Connection = sqlx::AnyConnection;

/// The database.
#[derive(Clone)]
pub(crate) struct Store {
    /// One connection: SQLite has one writer, and a queue here beats its busy errors, and waits for locks elsewhere.
    write: AnyPool,
    read: AnyPool,
    begin: &'static str,
    /// Who audits has it.
    auditing: Arc<tokio::sync::Mutex<()>>,
    /// Who reads the log of receipts, which anybody may ask for: the other readers are for those who have signed in.
    proving: Arc<tokio::sync::Semaphore>,
    /// Counts how often tokens were ended before their time.
    ended: Arc<watch::Sender<u64>>,
    /// Another gateway has this database now.
    lost: CancellationToken,
}

impl Store {
    /// Opens or makes the database at this URL, or else `gateway.db` in `folder`, for the one gateway that has it.
    pub(crate) async fn lead(folder: &Path, database: Option<&DatabaseUrl>, wait: Wait) -> Result<Self> {
        pools::open(folder, database, Some(wait)).await
    }

    /// Looks again and again whether this gateway still leads: one that writes nothing would not notice. Never ends.
    pub(crate) async fn keep_lead(&self) {
        let mut every = tokio::time::interval(lead::LOOK);
        loop {
            every.tick().await;
            // A connection that was cut is made anew, which takes the lead again or finds out that it is lost.
            if let Err(error) = self.write.acquire().await {
                tracing::warn!(%error, "the database cannot be written to");
            }
        }
    }

    /// Waits until another gateway has this database; this one cannot write any more.
    pub(crate) async fn lost_lead(&self) {
        self.lost.cancelled().await;
    }

    pub(crate) fn has_lost_lead(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// A change of several rows, which nobody else's comes between: what it reads stays so until it is committed.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>> {
        Ok(self.write.begin_with(self.begin).await?)
    }

    /// Whether it is SQLite's file, no server's.
    fn is_file(&self) -> bool {
        self.begin == pools::SQLITE.begin
    }

    pub(crate) async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// SHA-256, as secrets are stored.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Seconds as databases store them.
pub(crate) fn seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Seconds as they are used.
pub(crate) fn unsigned(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0)
}

/// A value in the database that this code did not write.
pub(crate) fn corrupt(what: &str) -> GatewayError {
    GatewayError::Database {
        source: sqlx::Error::Decode(format!("{what} is not readable").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use alephlab_api::kernel::KernelState;
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;
    use sqlx::Connection as _;
    use uuid::Uuid;

    use super::*;

    impl Store {
        /// The database of a test's folder.
        pub(crate) async fn open(folder: &Path) -> Result<Self> {
            pools::open(folder, database_of(folder).await.as_ref(), None).await
        }
    }

    /// Where the store of a test's folder is, when it is not in it.
    pub(crate) async fn database_of(folder: &Path) -> Option<DatabaseUrl> {
        let url = testing::database_of(folder).await?;
        Some(url.as_str().parse().unwrap())
    }

    const ADA: &str = "0x00000000000000000000000000000000000000aD";

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.configure(ADA, &[1; 32], &[], None).await.unwrap();
        (folder, store)
    }

    /// A lease with one kernel of Ada's, whose token hashes to sevens.
    async fn leased(store: &Store) -> (Uuid, Uuid) {
        let (lease, kernel) = (Uuid::new_v4(), Uuid::new_v4());
        store.begin_lease(lease, "this machine", &[8; 32]).await.unwrap();
        store
            .add_kernel((kernel, ADA), "alephlab", Some(lease), &[7; 32], None)
            .await
            .unwrap();
        (lease, kernel)
    }

    #[tokio::test]
    async fn keeps_its_file_private() {
        let folder = tempfile::tempdir().unwrap();
        Store::lead(folder.path(), None, crate::store::Wait::Briefly)
            .await
            .unwrap();
        let mode = std::fs::metadata(folder.path().join("gateway.db"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn refuses_a_state_that_cannot_follow() {
        let (_folder, store) = store().await;
        let (_, kernel) = leased(&store).await;
        store
            .set_kernel_state(kernel, KernelState::Idle, None, None)
            .await
            .unwrap();
        store
            .set_kernel_state(kernel, KernelState::Stopping, None, None)
            .await
            .unwrap();
        assert!(
            store
                .set_kernel_state(kernel, KernelState::Idle, None, None)
                .await
                .is_err()
        );
        store
            .set_kernel_state(kernel, KernelState::Stopped, None, None)
            .await
            .unwrap();
        assert!(
            store
                .set_kernel_state(kernel, KernelState::Restarting, None, None)
                .await
                .is_err()
        );
        assert!(
            store.bearer(&[7; 32]).await.unwrap().is_none(),
            "a stopped kernel's token opens nothing"
        );
    }

    #[tokio::test]
    async fn ending_a_lease_kills_its_kernels_once() {
        let (_folder, store) = store().await;
        let (lease, kernel) = leased(&store).await;
        assert!(store.bearer(&[7; 32]).await.unwrap().is_some());
        store.end_lease(lease, "gone").await.unwrap();
        let left = sqlx::query("SELECT 1 FROM tokens WHERE kernel IS NOT NULL");
        let left = left.fetch_all(&store.read).await.unwrap();
        assert!(left.is_empty(), "its kernels' tokens are deleted");
        store.end_lease(lease, "again").await.unwrap();
        let stored = store.kernel(kernel).await.unwrap().unwrap();
        assert_eq!(
            (stored.state, stored.reason.as_deref()),
            (KernelState::Dead, Some("gone"))
        );
    }

    #[tokio::test]
    async fn a_dead_kernel_is_no_bearer_until_it_is_restarted() {
        let (_folder, store) = store().await;
        let (_, kernel) = leased(&store).await;
        for (state, opens) in [
            (KernelState::Dead, false),
            (KernelState::Restarting, true),
            (KernelState::Stopping, true),
            (KernelState::Stopped, false),
        ] {
            store.set_kernel_state(kernel, state, None, None).await.unwrap();
            let bearer = store.bearer(&[7; 32]).await.unwrap();
            assert_eq!(bearer.is_some(), opens, "{state}");
        }
    }

    /// A database of the first version: its configured token cannot be told from one that a wallet signed for.
    #[tokio::test]
    async fn an_older_database_keeps_no_token_without_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let database = database_of(folder.path()).await;
        let (kind, options) = pools::place(folder.path(), database.as_ref()).unwrap();
        let mut old = pools::first(kind, &options, database.as_ref()).await.unwrap();
        kind.migrations.run_to(1, &mut old).await.unwrap();
        let eve = "0x00000000000000000000000000000000000000eE";
        for (address, operator, token) in [(ADA, true, 1_u8), (eve, false, 2)] {
            sqlx::query("INSERT INTO accounts VALUES ($1, $2, 0)")
                .bind(address)
                .bind(i64::from(operator))
                .execute(&mut old)
                .await
                .unwrap();
            sqlx::query("INSERT INTO tokens (sha256, account, kind, created) VALUES ($1, $2, 'account', $3)")
                .bind([token; 32].as_slice())
                .bind(address)
                .bind(seconds(alephlab_api::time::unix_now()))
                .execute(&mut old)
                .await
                .unwrap();
        }
        old.close().await.unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store
            .configure(ADA, &[9; 32], &[eve.to_owned()], None)
            .await
            .unwrap();
        assert!(store.bearer(&[1; 32]).await.unwrap().is_none());
        let kept = store.bearer(&[2; 32]).await.unwrap().unwrap();
        assert!(kept.expires.is_some());
    }

    #[tokio::test]
    async fn a_text_that_cannot_be_stored_is_the_clients_fault() {
        let (folder, store) = store().await;
        let (_, kernel) = leased(&store).await;
        let session = StoredSession {
            id: Uuid::new_v4(),
            kernel,
            path: "a\0b".to_owned(),
            name: String::new(),
            kind: "notebook".to_owned(),
        };
        match store.put_session(ADA, &session).await {
            Ok(()) => assert!(database_of(folder.path()).await.is_none(), "SQLite takes any"),
            Err(error) => assert_eq!(error.into_response().status(), StatusCode::BAD_REQUEST),
        }
    }

    #[tokio::test]
    async fn a_challenge_is_taken_once_and_not_after_its_end() {
        let (_folder, store) = store().await;
        store.add_challenge("n1", (ADA, None), "text", 100).await.unwrap();
        assert!(
            store
                .take_challenge("n1", ("0x1", None), 50)
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(
            store
                .take_challenge("n1", (ADA, None), 50)
                .await
                .unwrap()
                .as_deref(),
            None,
            "a wrong try uses it up"
        );
        store.add_challenge("n2", (ADA, None), "text", 100).await.unwrap();
        assert_eq!(
            store
                .take_challenge("n2", (ADA, None), 50)
                .await
                .unwrap()
                .as_deref(),
            Some("text")
        );
        assert!(
            store
                .take_challenge("n2", (ADA, None), 50)
                .await
                .unwrap()
                .is_none()
        );
        store.add_challenge("n3", (ADA, None), "text", 100).await.unwrap();
        assert!(
            store
                .take_challenge("n3", (ADA, None), 101)
                .await
                .unwrap()
                .is_none()
        );
    }
}
