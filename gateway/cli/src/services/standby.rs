//! Waiting until the data folder is nobody else's: a second `up` of it that takes over when the first one ends or dies.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use alephlab_gateway::stand_by;
use tokio_util::sync::CancellationToken;

use crate::data::{DataFolder, FolderLock};
use crate::error::{CliError, Result};
use crate::settings::Loaded;

/// How often the folder is tried: locks tell nobody when they are free.
const TRY: Duration = Duration::from_millis(200);

/// Takes the data folder, however long that takes. Where this gateway has a port of its own, it answers there meanwhile
/// that it waits.
pub(super) async fn wait(loaded: &Loaded, data: &DataFolder) -> Result<FolderLock> {
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    let mut answers = None;
    let mut tick = tokio::time::interval(TRY);
    loop {
        tick.tick().await;
        match data.lock() {
            Err(CliError::Locked { .. }) => {}
            locked => {
                over.cancel();
                // The port is free again when nobody answers on it any more.
                if let Some(answers) = answers {
                    let _ = tokio::time::timeout(Duration::from_secs(1), answers).await;
                }
                return locked;
            }
        }
        if answers.is_none()
            && let Some(listener) = own_port(loaded)
        {
            answers = Some(tokio::spawn(stand_by(listener, over.clone())));
        }
    }
}

/// The port of this gateway, unless the one that serves has it.
fn own_port(loaded: &Loaded) -> Option<TcpListener> {
    let gateway = &loaded.settings.gateway;
    let address = SocketAddr::from((gateway.listen, gateway.port));
    let chosen = loaded.is_chosen("gateway.port") && gateway.port != 0;
    chosen.then(|| TcpListener::bind(address).ok()).flatten()
}
