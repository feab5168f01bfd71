//! Which database a test has: the file in its folder, or a schema of its own on the server that `ALEPHLAB_TEST_DATABASE` names.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use sqlx_postgres::PgConnectOptions;
use url::Url;

/// The URL of a PostgreSQL database whose user may make schemas. Without it tests run on SQLite.
const SERVER: &str = "ALEPHLAB_TEST_DATABASE";

/// The database of this folder on the tests' server, made when it is not there; none where they run on SQLite. The same
/// folder has the same one: a gateway that is started again finds what it wrote.
pub(crate) async fn database_of(folder: &Path) -> Option<Url> {
    let mut database: Url = std::env::var(SERVER).ok()?.parse().unwrap();
    let hash = hex::encode(Sha256::digest(folder.as_os_str().as_encoded_bytes()));
    let schema = format!("t{}", &hash[..32]);
    let mut connection = PgConnectOptions::from_url(&database)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let make = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
    connection.execute(sqlx::AssertSqlSafe(make)).await.unwrap();
    connection.close().await.unwrap();
    database
        .query_pairs_mut()
        .append_pair("options[search_path]", &schema);
    Some(database)
}
