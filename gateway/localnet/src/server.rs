//! Starting and stopping a node: folder, lock, database, tasks and HTTP server.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::serve::ListenerExt;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    config::{Config, Settings},
    db,
    error::{Error, Result},
    faults::Faults,
    files::Files,
    http, ledger,
    node::Node,
    tasks,
};

/// How long open requests may go on after the stop signal. A bound and not a wait: the node ends with its last
/// request, and waits and websockets end by themselves at the signal. Only a client that reads or sends slowly gets to
/// the bound, and a program that stops must not hang on it.
const DRAIN: Duration = Duration::from_secs(5);

/// The local node.
#[derive(Debug)]
pub struct Localnet;

/// A running node.
#[derive(Debug)]
pub struct Handle {
    /// Base address, for example `http://127.0.0.1:4024/`.
    pub url: Url,
    /// Fault switches for tests.
    pub faults: Faults,
    /// Ends when the node has stopped; holds why, if it was not asked to.
    pub join: JoinHandle<Result<()>>,
}

impl Localnet {
    /// Starts a node; it runs until `stop` is cancelled. When this returns, it answers requests.
    ///
    /// # Errors
    /// [`Error::Folder`] when the data folder cannot be written, [`Error::InUse`] when another node
    /// uses it, [`Error::Open`] when its database is unusable.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Handle> {
        let data = config.data.clone();
        tokio::fs::create_dir_all(&data)
            .await
            .map_err(|cause| Error::Folder {
                path: data.clone(),
                cause,
            })?;
        let lock = lock(&data)?;
        let files = Files::open(&data).await?;
        let database = db::open(&data).await?;
        ledger::start_meter(&mut *database.acquire().await?, db::now()).await?;
        let url = address(&config.listener)?;
        let faults = Faults::default();
        // A child, so that a server that fails stops its own tasks and not the caller's.
        let stop = stop.child_token();
        let settings = Settings::of(&config);
        let node = Arc::new(Node::new(database, files, settings, faults.clone(), stop));
        let join = tokio::spawn(run(node, config.listener, config.faults, lock));
        Ok(Handle { url, faults, join })
    }
}

/// Serves until the stop signal, then lets open requests end and closes the database.
async fn run(node: Arc<Node>, listener: TcpListener, with_faults: bool, lock: File) -> Result<()> {
    let judging = tokio::spawn(tasks::judge(Arc::clone(&node)));
    let sweeping = tokio::spawn(tasks::sweep(Arc::clone(&node)));
    let app = http::router(Arc::clone(&node), with_faults);
    // Without it small answers wait for the other side's delayed acknowledgement, about 40 ms.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
    });
    let stop = node.stop.clone();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    let served = tokio::select! {
        served = server.into_future() => served.map_err(|cause| Error::Serve { cause }),
        () = overdue => Ok(()),
    };
    node.stop.cancel();
    for task in [judging, sweeping] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the local node ended badly");
        }
    }
    node.db.close().await;
    drop(lock);
    served
}

/// Takes the folder for this process; the operating system gives it back however the process ends.
fn lock(data: &Path) -> Result<File> {
    let file = File::create(data.join("localnet.lock")).map_err(|cause| Error::Folder {
        path: data.into(),
        cause,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: data.into() }),
        Err(TryLockError::Error(cause)) => Err(Error::Folder {
            path: data.into(),
            cause,
        }),
    }
}

fn address(listener: &TcpListener) -> Result<Url> {
    let address = listener.local_addr().map_err(|cause| Error::Serve { cause })?;
    // An address that means "all" is no address to connect to.
    let shown = if address.ip().is_unspecified() {
        ([127, 0, 0, 1], address.port()).into()
    } else {
        address
    };
    Url::parse(&format!("http://{shown}/")).map_err(|error| Error::Serve {
        cause: std::io::Error::other(error),
    })
}
