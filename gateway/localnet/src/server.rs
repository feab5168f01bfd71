//! Starting and stopping a node: folder, lock, database, tasks and HTTP server.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{Router, serve::ListenerExt};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    compute::{self, Apart, Compute},
    config::{Config, Settings},
    db,
    error::{Error, Result},
    faults::Faults,
    files::Files,
    foundation::Foundation,
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
    /// What the foundation says of prices and cards, for tests.
    pub foundation: Foundation,
    /// Ends when the node has stopped; holds why, if it was not asked to.
    pub join: JoinHandle<Result<()>>,
}

impl Localnet {
    /// Starts a node; it runs until `stop` is cancelled. When this returns, it answers requests.
    ///
    /// # Errors
    /// [`Error::Folder`] when the data folder cannot be written, [`Error::InUse`] when another node
    /// uses it, [`Error::Open`] when its database is unusable; [`Error::Compute`], [`Error::Sandbox`] or
    /// [`Error::Instance`] when it is to run instances and cannot.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Handle> {
        let data = config.data.clone();
        let settings = Settings::of(&config);
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
        let (faults, foundation) = (Faults::default(), Foundation::default());
        let compute = config
            .compute
            .map(|compute| Compute::open(compute, &data, &url, &faults))
            .transpose()?;
        // A child, so that a server that fails stops its own tasks and not the caller's.
        let stop = stop.child_token();
        let node = Arc::new(Node::new(
            database,
            files,
            settings,
            (faults.clone(), foundation.clone()),
            stop,
        ));
        let running = Running {
            node,
            compute,
            with_faults: config.faults,
            _lock: lock,
        };
        let join = tokio::spawn(running.run(config.listener));
        Ok(Handle {
            url,
            faults,
            foundation,
            join,
        })
    }
}

/// What a node runs with.
struct Running {
    node: Arc<Node>,
    /// All CRNs, and those that answer at addresses of their own.
    compute: Option<(Compute, Vec<Apart>)>,
    with_faults: bool,
    _lock: File,
}

impl Running {
    /// Serves until the stop signal, then lets open requests end, ends all instances and closes the database.
    async fn run(self, listener: TcpListener) -> Result<()> {
        let node = self.node;
        let mut tasks = JoinSet::new();
        tasks.spawn(tasks::judge(Arc::clone(&node)));
        let (compute, apart) = self.compute.unzip();
        let compute = compute.map(Arc::new);
        tasks.spawn(tasks::sweep(Arc::clone(&node), compute.clone()));
        if let Some(compute) = &compute {
            tasks.spawn(compute::schedule(Arc::clone(&node), Arc::clone(compute)));
            for (crn, listener) in apart.unwrap_or_default() {
                let host = http::crn::Host {
                    node: Arc::clone(&node),
                    compute: Arc::clone(compute),
                    crn,
                };
                tasks.spawn(serve_crn(http::crn::routes(host), listener, node.stop.clone()));
            }
        }
        let app = http::router(&node, compute, self.with_faults);
        let server = axum::serve(listener.tap_io(no_delay), app)
            .with_graceful_shutdown(node.stop.clone().cancelled_owned());
        let served = within_drain(&node.stop, server.into_future()).await;
        node.stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the local node ended badly");
            }
        }
        node.db.close().await;
        served
    }
}

/// Serves a CRN at an address of its own, until the stop signal.
async fn serve_crn(app: Router, listener: TcpListener, stop: CancellationToken) {
    let server =
        axum::serve(listener.tap_io(no_delay), app).with_graceful_shutdown(stop.clone().cancelled_owned());
    if let Err(error) = within_drain(&stop, server.into_future()).await {
        tracing::error!(%error, "a CRN is served no longer");
    }
}

/// Without it small answers wait for the other side's delayed acknowledgement, about 40 ms.
fn no_delay(stream: &mut TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
}

/// Waits for a server, but after the stop signal no longer than [`DRAIN`].
async fn within_drain(stop: &CancellationToken, server: impl Future<Output = io::Result<()>>) -> Result<()> {
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served.map_err(|cause| Error::Serve { cause }),
        () = overdue => Ok(()),
    }
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

/// The address at which a listener is reached.
pub(crate) fn address(listener: &TcpListener) -> Result<Url> {
    let address = listener.local_addr().map_err(|cause| Error::Serve { cause })?;
    // An address that means "all" is no address to connect to.
    let shown = if address.ip().is_unspecified() {
        ([127, 0, 0, 1], address.port()).into()
    } else {
        address
    };
    Url::parse(&format!("http://{shown}/")).map_err(|error| Error::Serve {
        cause: io::Error::other(error),
    })
}
