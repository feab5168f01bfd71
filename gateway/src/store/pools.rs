//! Opens the database, brings its schema up to date, and knows what differs between SQLite and PostgreSQL: how a
//! connection is set up and how a change begins. Statements are the same for both.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Connection as _, Executor as _};
use url::Url;

use super::Store;
use super::lead::{LOOK, Lead, Wait};
use crate::database::DatabaseUrl;
use crate::error::{GatewayError, Result};

/// How long a server may take to answer when the gateway starts.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one that waits lets a server be that does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Readers that prove receipts at the same time: less than there are.
const PROVING: usize = 2;

/// What differs between the two.
pub(super) struct Kind {
    /// Both have the same numbers, and end with the same tables.
    pub(super) migrations: Migrator,
    /// Sets up the first connection, which migrates, and the one that writes.
    writer: &'static str,
    /// Sets up those that read.
    reader: &'static str,
    /// Readers at the same time.
    readers: u32,
    /// Begins a change of several rows; one of them goes on at a time, whoever asks.
    pub(super) begin: &'static str,
}

pub(super) static SQLITE: Kind = Kind {
    migrations: sqlx::migrate!("./migrations/sqlite"),
    // What is committed is on the disk: money is in it, and roots of receipts go out after their commit. After a power failure
    // their places must not be given to others.
    writer: "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
    reader: "PRAGMA query_only = ON",
    readers: 4,
    // Writing from the begin: a reader that turns writer is refused when another has written in between.
    begin: "BEGIN IMMEDIATE",
};

pub(super) static POSTGRES: Kind = Kind {
    migrations: sqlx::migrate!("./migrations/postgres"),
    // A gateway that hangs or is cut off lets others go on soon.
    // So is one whose machine is gone: the server asks after it, and holds its lock for 25 seconds more.
    writer: "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '30s';
             SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3",
    // Several statements of one reader see the same moment, as in SQLite.
    reader: "SET default_transaction_read_only = on; SET default_transaction_isolation = 'repeatable read';
             SET statement_timeout = '30s'",
    // In SQLite each is a file handle; here each is a process of the server's, and an answer is a way over the network.
    readers: 8,
    // One change at a time in a database, held until it ends: what it reads nobody else is about to change. All changes
    // of the ledger meet in the gateway's own purse, so they would wait for each other in any case (ADR 21). Any number
    // that nobody else uses in this database is good.
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(4702111234474983745)",
};

/// Opens the database of `folder`, which is made: the one at this URL, or else the file in it. Where it is to lead, no
/// other gateway has a database at a URL when this returns, and none gets it later.
pub(super) async fn open(folder: &Path, database: Option<&DatabaseUrl>, lead: Option<Wait>) -> Result<Store> {
    let (kind, options) = place(folder, database)?;
    loop {
        match open_at(kind, &options, database, lead).await {
            // Another one was quicker: its turn is before this one's.
            Err(GatewayError::DatabaseTaken { .. }) if lead == Some(Wait::UntilItEnds) => {}
            opened => return opened,
        }
    }
}

async fn open_at(
    kind: &'static Kind,
    options: &AnyConnectOptions,
    database: Option<&DatabaseUrl>,
    lead: Option<Wait>,
) -> Result<Store> {
    // Once by hand: a pool goes on asking a server that refuses, and then does not say why.
    let mut connection = first(kind, options, database).await?;
    let lead = match (lead, database) {
        (Some(wait), Some(database)) => {
            // Before the schema is touched: the one that has it may be of another version.
            connection = turn(connection, kind, options, database, wait).await?;
            Some(Arc::new(Lead::default()))
        }
        _ => None,
    };
    kind.migrations.run(&mut connection).await?;
    connection.close().await?;
    let store = Store {
        write: writer(options, kind, lead.clone()),
        read: pool(options, kind.readers, kind.reader),
        begin: kind.begin,
        auditing: Arc::default(),
        proving: Arc::new(tokio::sync::Semaphore::new(PROVING)),
        ended: Arc::default(),
        lost: lead.as_ref().map(|lead| lead.lost.clone()).unwrap_or_default(),
    };
    if let (Some(_), Some(database)) = (lead, database) {
        // Another one may have been quicker.
        let taken = |error| match error {
            sqlx::Error::PoolTimedOut => GatewayError::DatabaseTaken {
                server: database.server(),
            },
            source => source.into(),
        };
        drop(store.write.acquire().await.map_err(taken)?);
    }
    Ok(store)
}

/// Waits until no other gateway has the database. One that waits as long as it takes waits for a server that restarts, too.
async fn turn(
    mut connection: AnyConnection,
    kind: &Kind,
    options: &AnyConnectOptions,
    database: &DatabaseUrl,
    wait: Wait,
) -> Result<AnyConnection> {
    loop {
        let server = database.server();
        let lost = match Lead::wait(&mut connection, wait, &server).await {
            Ok(()) => return Ok(connection),
            Err(error) if wait == Wait::Briefly => return Err(error),
            Err(error) => error,
        };
        tracing::warn!(server, error = %lost, "the database was lost while waiting for it; asking again");
        connection = loop {
            tokio::time::sleep(AGAIN).await;
            match tokio::time::timeout(CONNECT * 2, first(kind, options, Some(database))).await {
                Ok(Ok(connection)) => break connection,
                Ok(Err(error)) => tracing::debug!(server, %error, "the database does not answer"),
                Err(_) => tracing::debug!(server, "the database does not answer"),
            }
        };
        // The one that served may have lost its connection with this one: it comes first.
        tokio::time::sleep(LOOK * 2).await;
    }
}

/// Where it is and of which kind; the folder is made, and the file if it is one.
pub(super) fn place(
    folder: &Path,
    database: Option<&DatabaseUrl>,
) -> Result<(&'static Kind, AnyConnectOptions)> {
    static DRIVERS: Once = Once::new();
    DRIVERS.call_once(|| {
        // Fails only when they are there already.
        let _ = sqlx::any::install_drivers(&[sqlx::sqlite::any::DRIVER, sqlx_postgres::any::DRIVER]);
    });
    let file = make_private(folder, database.is_none())?;
    let (kind, url) = match database {
        Some(database) => (&POSTGRES, database.secured()),
        None => (&SQLITE, file_url(&file)?),
    };
    Ok((kind, AnyConnectOptions::from_url(&url)?))
}

/// A connection that may change the schema.
pub(super) async fn first(
    kind: &Kind,
    options: &AnyConnectOptions,
    database: Option<&DatabaseUrl>,
) -> Result<AnyConnection> {
    let connecting = tokio::time::timeout(CONNECT, options.connect()).await;
    let mut connection = match (connecting, database) {
        (Ok(Ok(connection)), _) => connection,
        (Ok(Err(source)), None) => return Err(source.into()),
        (Ok(Err(error)), Some(database)) => {
            return Err(GatewayError::DatabaseServer {
                server: database.server(),
                reason: error.to_string(),
            });
        }
        (Err(_), _) => {
            return Err(GatewayError::DatabaseServer {
                server: database.map_or_else(|| "gateway.db".to_owned(), DatabaseUrl::server),
                reason: format!("it did not answer in {} seconds", CONNECT.as_secs()),
            });
        }
    };
    set_up(&mut connection, kind.writer).await?;
    if let Some(database) = database {
        is_made_for_this(&mut connection, database).await?;
    }
    Ok(connection)
}

/// A database in another encoding would refuse some names and texts, but not before somebody writes one. Nor does PostgreSQL
/// say that a schema is missing before something is made there.
async fn is_made_for_this(connection: &mut AnyConnection, database: &DatabaseUrl) -> Result<()> {
    let unusable = |reason: String| GatewayError::DatabaseServer {
        server: database.server(),
        reason,
    };
    let encoding: String = sqlx::query_scalar("SHOW server_encoding")
        .fetch_one(&mut *connection)
        .await?;
    if encoding != "UTF8" {
        let reason = format!("the database is in {encoding}; make one with ENCODING 'UTF8'");
        return Err(unusable(reason));
    }
    let schemas: i32 = sqlx::query_scalar("SELECT CASE WHEN current_schema() IS NULL THEN 0 ELSE 1 END")
        .fetch_one(connection)
        .await?;
    match schemas {
        0 => Err(unusable(
            "the schema that the URL names is not there; make it with CREATE SCHEMA".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The folder, 0700, and in it the file's place: 0600 before it holds anything; SQLite copies the mode to its companions.
fn make_private(folder: &Path, with_file: bool) -> Result<PathBuf> {
    let bad = |source| GatewayError::Folder {
        path: folder.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(bad)?;
    // A URL is read without what `..` and links mean on a disk.
    let file = folder.canonicalize().map_err(bad)?.join("gateway.db");
    if with_file {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&file)
            .map_err(bad)?;
    }
    Ok(file)
}

fn file_url(file: &Path) -> Result<Url> {
    let bad = |reason: &str| GatewayError::Folder {
        path: file.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, reason),
    };
    let path = file.to_str().ok_or_else(|| bad("its name is not UTF-8"))?;
    let mut url = Url::parse("sqlite:///").map_err(|_| bad("it has no URL"))?;
    url.set_path(&path.replace('%', "%25"));
    Ok(url)
}

/// Connects when it is first used.
fn pool(options: &AnyConnectOptions, connections: u32, setup: &'static str) -> AnyPool {
    AnyPoolOptions::new()
        .max_connections(connections)
        .after_connect(move |connection, _| Box::pin(set_up(connection, setup)))
        .connect_lazy_with(options.clone())
}

/// The one connection that writes; it stays open, because the lead goes with it.
fn writer(options: &AnyConnectOptions, kind: &'static Kind, lead: Option<Arc<Lead>>) -> AnyPool {
    AnyPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            let lead = lead.clone();
            Box::pin(async move {
                set_up(connection, kind.writer).await?;
                match lead {
                    Some(lead) => lead.hold(connection).await,
                    None => Ok(()),
                }
            })
        })
        .connect_lazy_with(options.clone())
}

async fn set_up(connection: &mut AnyConnection, setup: &'static str) -> sqlx::Result<()> {
    connection.execute(sqlx::raw_sql(setup)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::Row as _;

    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations() {
        let names = |kind: &'static Kind| -> Vec<(i64, String)> {
            let migrations = kind.migrations.iter();
            migrations
                .map(|migration| (migration.version, migration.description.to_string()))
                .collect()
        };
        assert_eq!(names(&SQLITE), names(&POSTGRES));
    }

    /// Table, column, and whether it may be without a value.
    async fn columns(store: &Store) -> BTreeSet<(String, String, bool)> {
        let statement = if store.begin == SQLITE.begin {
            "SELECT t.name, c.name, c.\"notnull\" = 0 AND c.pk = 0 FROM sqlite_schema t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND t.name NOT IN ('_sqlx_migrations', 'sqlite_sequence')"
        } else {
            "SELECT table_name::text, column_name::text, CASE is_nullable WHEN 'YES' THEN 1 ELSE 0 END
             FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name <> '_sqlx_migrations' AND column_name <> 'rowid'"
        };
        let rows = sqlx::query(statement).fetch_all(&store.read).await.unwrap();
        rows.iter()
            .map(|row| (row.get(0), row.get(1), row.get::<i64, _>(2) != 0))
            .collect()
    }

    #[tokio::test]
    async fn tables_are_those_of_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = open(folder.path(), None, None).await.unwrap();
        let this = Store::open(folder.path()).await.unwrap();
        let wanted = columns(&sqlite).await;
        assert!(wanted.contains(&("holds".to_owned(), "ended".to_owned(), true)));
        assert_eq!(columns(&this).await, wanted);
    }

    /// A transaction that is begun otherwise reads what another gateway is about to change.
    #[test]
    fn every_change_begins_at_one_place() {
        let otherwise = ["write", "begin("].join(".");
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains(&otherwise), "Store::begin, in {}", path.display());
            }
        }
    }

    #[tokio::test]
    async fn what_is_committed_is_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), None, None).await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&store.write)
            .await
            .unwrap();
        assert_eq!(synchronous, 2, "FULL");
    }

    #[tokio::test]
    async fn a_connection_that_the_server_has_ended_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store
            .add_challenge("n1", ("0x1", None), "text", 100)
            .await
            .unwrap();
        if store.begin == POSTGRES.begin {
            let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
                .fetch_one(&store.write)
                .await
                .unwrap();
            let ended: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1, 20000)")
                .bind(pid)
                .fetch_one(&store.read)
                .await
                .unwrap();
            assert!(ended);
        }
        store
            .add_challenge("n2", ("0x1", None), "text", 100)
            .await
            .unwrap();
        assert!(
            store
                .take_challenge("n1", ("0x1", None), 50)
                .await
                .unwrap()
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_folder_of_any_name_holds_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a b%41?c#d");
        let store = open(&folder, None, None).await.unwrap();
        store.close().await;
        assert!(folder.join("gateway.db").metadata().unwrap().len() > 0);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        // A port that nobody listens on any more.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let url = format!("postgres://ada:hunter2@{address}/lab").parse().unwrap();
        let Err(error) = open(folder.path(), Some(&url), None).await else {
            panic!("there is no server");
        };
        let text = error.to_string();
        assert_eq!(error.code(), "gateway_database_server");
        assert!(
            text.contains(&address.to_string()) && text.contains("refused"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!folder.path().join("gateway.db").exists());
    }
}
