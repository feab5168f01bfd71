//! `alephlab dataset mount`: a dataset as a folder of this machine, until it is stopped.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alephlab_mount::{MountError, Mounted, Options, detach_dead, mount};
use alephlab_vault::Reader;
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Dataset;
use crate::datasets::Found;
use crate::error::{CliError, Result};
use crate::progress::Reporter;

/// How often it is looked whether somebody else has unmounted it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The folder to mount at; removed again when it was made for this.
struct Place {
    path: PathBuf,
    is_new: bool,
}

impl Place {
    fn of(path: PathBuf) -> Result<Self> {
        // Of a command that was killed.
        detach_dead(&path);
        let is_new = !path.exists();
        if is_new {
            let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
            made.map_err(|source| CliError::File {
                action: "make the folder",
                path: path.clone(),
                source,
            })?;
        }
        Ok(Self { path, is_new })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_new {
            // Whoever put something into it meanwhile keeps it.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

impl Dataset {
    /// Serves the files until the command is stopped or the folder is unmounted.
    pub(super) async fn serve(
        &self,
        found: &Found,
        reader: Reader,
        folder: Option<&Path>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let plain = found.name.rsplit('/').next().unwrap_or(&found.name);
        let place = Place::of(folder.map_or_else(|| PathBuf::from(plain), Path::to_owned))?;
        let (files, bytes) = (reader.files(), reader.bytes());
        // Where the folder is, whatever becomes of the place that the command was started in.
        let path = place.path.canonicalize().map_err(|source| CliError::File {
            action: "find",
            path: place.path.clone(),
            source,
        })?;
        let mounted =
            mount(reader, &path, Handle::current(), Options::default()).map_err(|error| refused(&error))?;
        self.print(
            &json!({ "name": found.name, "version": found.head.head.version, "folder": path, "files": files, "bytes": bytes }),
            &format!("{}", path.display()),
        );
        let reporter = Reporter::new();
        reporter.line(&format!(
            "{} version {}: {}, readable by this account until Ctrl-C",
            found.name,
            found.head.head.version,
            super::counted(files, "file", "files")
        ));
        tokio::select! {
            () = stop.cancelled() => {}
            () = unmounted(&mounted) => reporter.line("it was unmounted"),
        }
        if let Some(failure) = mounted.failure() {
            reporter.line(&format!(
                "a read of {} had failed: {}",
                failure.path, failure.message
            ));
        }
        drop(mounted);
        drop(place);
        Ok(())
    }
}

async fn unmounted(mounted: &Mounted) {
    while mounted.is_mounted() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn refused(error: &MountError) -> CliError {
    let hint = match error {
        MountError::Folder { .. } => "name an empty folder of yours, or one that is not there yet",
        _ => "`alephlab dataset get` downloads the files instead",
    };
    CliError::Usage {
        message: error.to_string(),
        hint: hint.to_owned(),
    }
}
