//! The log file `DATA/logs/alephlab.log`; `ALEPHLAB_LOG` chooses its level. Nothing is logged to the terminal.
//!
//! Never cell code or output, keys or tokens: that is the rule for every `tracing` call in this program.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use crate::data::DataFolder;
use crate::error::{CliError, Result};

/// Above this the file is set aside as `.1`, of which one is kept.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Levels and targets as in `tracing`'s `EnvFilter`, such as `debug` or `alephlab_gateway=debug`.
const LEVEL_VARIABLE: &str = "ALEPHLAB_LOG";
/// The name in `logs/`.
const FILE_NAME: &str = "alephlab.log";

/// Where this program logs.
pub(crate) fn file(data: &DataFolder) -> PathBuf {
    data.logs().join(FILE_NAME)
}

/// Starts logging for this process; a second call in one process changes nothing.
pub(crate) fn start(data: &DataFolder) -> Result<()> {
    let folder = data.logs();
    data.make(&folder)?;
    let path = file(data);
    let rolling = Rolling::open(&path).map_err(|source| CliError::file("write", &path, source))?;
    let filter = match std::env::var(LEVEL_VARIABLE) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| CliError::Setting {
            message: format!("{LEVEL_VARIABLE} is {text:?}, which is not a log level: {error}"),
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Mutex::new(rolling))
        .finish();
    // An earlier subscriber is this one's equal.
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(())
}

/// A file that is set aside when it grows too large.
struct Rolling {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Rolling {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_path_buf(),
            file,
            bytes,
        })
    }

    fn roll(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        std::fs::rename(&self.path, aside)?;
        *self = Self::open(&self.path.clone())?;
        Ok(())
    }
}

impl Write for Rolling {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.bytes > FILE_BYTES_MAX {
            self.roll()?;
        }
        let written = self.file.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[test]
    fn a_large_log_is_set_aside_once() {
        let folder = scratch();
        let path = folder.path().join(FILE_NAME);
        let mut log = Rolling::open(&path).unwrap();
        log.bytes = FILE_BYTES_MAX + 1;
        log.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(folder.path().join("alephlab.log.1").exists());
        log.write_all(b"er").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newer");
    }
}
