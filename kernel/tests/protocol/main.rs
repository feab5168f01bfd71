//! The messaging protocol, whole, against the scripted evaluator: no compiler needed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![expect(missing_docs, unreachable_pub, reason = "tests")]

#[path = "../support/client.rs"]
mod client;
mod execute;
mod hostile;
mod interrupt;
mod iopub;
mod questions;
mod requests;
mod shutdown;
mod subshells;
mod traps;
mod wire;

use std::path::PathBuf;

use alephlab_kernel::evaluator::scripted;
use alephlab_kernel::{Config, Connection, Kernel, Limits};
use jupyter_protocol::ConnectionInfo;

/// A kernel in this process, on sockets in a folder of its own.
pub struct Served {
    pub info: ConnectionInfo,
    pub folder: tempfile::TempDir,
    pub kernel: Kernel,
}

pub async fn serve() -> Served {
    serve_with(Limits::default(), false).await
}

/// `delayed`: the evaluator starts when the file `ready` exists in the folder.
pub async fn serve_with(limits: Limits, delayed: bool) -> Served {
    serve_all(limits, delayed, None).await
}

/// `history`: a file that is shared with other kernels.
pub async fn serve_all(limits: Limits, delayed: bool, history: Option<PathBuf>) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let info = client::ipc(folder.path());
    let engine = scripted::engine(delayed.then(|| folder.path().join("ready")));
    let kernel = Kernel::start(Config {
        connection: Connection::new(info.clone()),
        engine,
        limits,
        history,
    })
    .await
    .unwrap();
    Served { info, folder, kernel }
}

impl Served {
    /// A file for `until FILE`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn client(&self) -> client::Client {
        client::Client::connect(&self.info, "client-1").await
    }
}
