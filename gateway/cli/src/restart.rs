//! Undoes what `cargo run` does to the environment, by starting this program once more in its own place.
//!
//! Cargo puts the target folder, where another build of the runtime's library may lie, in front of the search path of
//! shared libraries. A kernel would inherit that and could load two runtimes, which breaks every static in them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// Starts over without cargo's folders when they are set. Returns when there is nothing to undo or it cannot be done.
pub(crate) fn without_cargos_libraries() {
    let (Some(current), Ok(program)) = (std::env::var_os(LIBRARIES), std::env::current_exe()) else {
        return;
    };
    let Some(own) = program.parent() else { return };
    let Some(cleaned) = cleaned(&current, own) else {
        return;
    };
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1));
    for (name, _) in std::env::vars_os() {
        if is_cargos(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    if cleaned.is_empty() {
        command.env_remove(LIBRARIES);
    } else {
        command.env(LIBRARIES, cleaned);
    }
    // On success this process is replaced; an error leaves everything as it was, which works but for the trap above.
    let error = command.exec();
    tracing::warn!(%error, "could not start over without cargo's library path");
}

/// The path without cargo's folders; `None` when there are none in it.
fn cleaned(current: &OsString, own: &Path) -> Option<OsString> {
    let all: Vec<PathBuf> = std::env::split_paths(current).collect();
    if !all.iter().any(|folder| folder.starts_with(own)) {
        return None;
    }
    let kept = all
        .iter()
        .filter(|folder| !folder.starts_with(own) && !is_toolchain(folder));
    std::env::join_paths(kept).ok()
}

fn is_toolchain(folder: &Path) -> bool {
    folder.components().any(|part| part.as_os_str() == "rustlib") || folder.join("rustlib").is_dir()
}

fn is_cargos(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cargos_folders_are_removed() {
        let own = Path::new("/w/target/release");
        let path = OsString::from("/w/target/release/deps:/w/target/release:/t/lib/rustlib/x/lib:/opt/lib");
        assert_eq!(cleaned(&path, own), Some(OsString::from("/opt/lib")));
        assert_eq!(cleaned(&OsString::from("/opt/lib"), own), None);
        assert_eq!(
            cleaned(&OsString::from("/w/target/release"), own),
            Some(OsString::new())
        );
    }
}
