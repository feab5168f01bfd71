//! What the broker is started with: a small file that only its owner may read and that is deleted once read, so
//! that the kernel's token is neither in the arguments nor in the environment nor on the disk afterwards.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use alephlab_api::Secret;
use alephlab_api::agent::BrokerBootstrap;

use crate::{BrokerError, Result};

/// Reads the file and deletes it, also when its content is not understood.
///
/// # Errors
/// [`BrokerError::Bootstrap`] when others could read it, it cannot be deleted, or it is not understood.
pub fn take_bootstrap(path: &Path) -> Result<BrokerBootstrap> {
    let refused = |reason: String| BrokerError::Bootstrap {
        path: path.to_owned(),
        reason,
    };
    let mode = std::fs::metadata(path)
        .map_err(|error| refused(error.to_string()))?
        .mode()
        & 0o777;
    let text = std::fs::read_to_string(path).map(Secret::new);
    std::fs::remove_file(path).map_err(|error| refused(format!("it cannot be deleted: {error}")))?;
    let text = text.map_err(|error| refused(error.to_string()))?;
    if mode & 0o077 != 0 {
        return Err(refused(format!(
            "others could read it (mode {mode:o}), so its token is no secret any more"
        )));
    }
    // serde's message could repeat a value of the file, so only the place is told.
    serde_json::from_str(text.expose()).map_err(|error| {
        refused(format!(
            "it is not understood at line {}, column {}",
            error.line(),
            error.column()
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn written(folder: &Path, text: &str, mode: u32) -> PathBuf {
        let path = folder.join("bootstrap.json");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    const GOOD: &str = r#"{"socket":"/s","gateway":"http://127.0.0.1:1","kernel_token":"canary","account":"0xAb",
        "kernel_id":"0b3e3c50-6ad4-4d6c-8a7e-6f5b5d7c9a10","aleph_url":"http://127.0.0.1:2","work_dir":"/w"}"#;

    #[test]
    fn is_gone_after_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), GOOD, 0o600);
        let bootstrap = take_bootstrap(&path).unwrap();
        assert_eq!(bootstrap.kernel_token.expose(), "canary");
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_others_could_read_is_refused_and_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), GOOD, 0o644);
        let error = take_bootstrap(&path).err().unwrap();
        assert_eq!(error.code(), "broker_bootstrap");
        assert!(!path.exists());
    }

    #[test]
    fn an_error_never_repeats_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), r#"{"kernel_token":"canary","socket":7}"#, 0o600);
        let error = take_bootstrap(&path).err().unwrap().to_string();
        assert!(error.contains("line 1") && !error.contains("canary"), "{error}");
    }
}
