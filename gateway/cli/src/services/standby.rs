//! Waiting until the data folder is nobody else's: a second `up` of it that takes over when the first one ends or dies.
//!
//! It listens nowhere meanwhile: a front finds nobody there and goes to the one that serves, with every kind of request.

use std::time::Duration;

use crate::data::{DataFolder, FolderLock};
use crate::error::{CliError, Result};

/// How often the folder is tried: locks tell nobody when they are free.
const TRY: Duration = Duration::from_millis(200);

/// Takes the data folder, however long that takes.
pub(super) async fn wait(data: &DataFolder) -> Result<FolderLock> {
    let mut tick = tokio::time::interval(TRY);
    loop {
        tick.tick().await;
        match data.lock() {
            Err(CliError::Locked { .. }) => {}
            locked => return locked,
        }
    }
}
