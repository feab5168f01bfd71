//! Finds the workspace that programs and runtime are built from, and names its runtime's content.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{CliError, Result};
use crate::settings::Settings;

/// Where this program was compiled. Only a last resort: the folder may be gone.
const COMPILED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// What the runtime is made of, relative to the workspace.
const RUNTIME_PARTS: [&str; 14] = [
    "Cargo.lock",
    "rust-toolchain.toml",
    "Cargo.toml",
    "runtime/Cargo.toml",
    "runtime/src",
    "runtime/cell",
    "runtime/cuda-stubs",
    "runtime/derive",
    "runtime/features",
    "runtime/kernels-ptx",
    "runtime/link",
    "runtime/ops",
    "gateway/api",
    "kernel/zygote/src",
];

/// The workspace's folder, when there is one: setting, then above the program, above here, where it was compiled.
pub(crate) fn find(settings: &Settings) -> Result<Option<PathBuf>> {
    if let Some(named) = &settings.runtime.source {
        if is_workspace(named) {
            return Ok(Some(named.clone()));
        }
        let message = format!(
            "runtime.source is {}, which is not a folder of Alephlab's sources",
            named.display()
        );
        return Err(CliError::Setting { message });
    }
    let program = std::env::current_exe().ok();
    let here = std::env::current_dir().ok();
    let above = [program, here].into_iter().flatten().find_map(|start| {
        start
            .ancestors()
            .find(|folder| is_workspace(folder))
            .map(Path::to_path_buf)
    });
    Ok(above.or_else(|| {
        Path::new(COMPILED_IN)
            .canonicalize()
            .ok()
            .filter(|folder| is_workspace(folder))
    }))
}

/// Sixteen hex digits that change when anything does that the runtime is built from.
pub(crate) fn runtime_hash(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for part in RUNTIME_PARTS {
        let path = root.join(part);
        list(&path, &mut files).map_err(|source| CliError::file("read", &path, source))?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for path in files {
        let bytes = fs::read(&path).map_err(|source| CliError::file("read", &path, source))?;
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update(Sha256::digest(&bytes));
    }
    Ok(hex::encode(&hash.finalize()[..8]))
}

fn is_workspace(folder: &Path) -> bool {
    [
        "runtime/link/Cargo.toml",
        "kernel/Cargo.toml",
        "gateway/api/Cargo.toml",
    ]
    .iter()
    .all(|part| folder.join(part).is_file())
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != "target" && !name.to_string_lossy().starts_with('.') {
            list(&entry.path(), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    fn workspace(folder: &Path) {
        for part in RUNTIME_PARTS {
            let path = folder.join(part);
            let file = if path.extension().is_some() {
                path
            } else {
                path.join("lib.rs")
            };
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, part).unwrap();
        }
    }

    #[test]
    fn the_hash_follows_the_runtime_and_nothing_else() {
        let folder = scratch();
        workspace(folder.path());
        let before = runtime_hash(folder.path()).unwrap();
        fs::create_dir_all(folder.path().join("gateway/cli")).unwrap();
        fs::write(folder.path().join("gateway/cli/x.rs"), "x").unwrap();
        fs::create_dir_all(folder.path().join("runtime/link/target")).unwrap();
        fs::write(folder.path().join("runtime/link/target/x"), "x").unwrap();
        assert_eq!(runtime_hash(folder.path()).unwrap(), before);
        fs::write(folder.path().join("runtime/link/lib.rs"), "changed").unwrap();
        assert_ne!(runtime_hash(folder.path()).unwrap(), before);
    }

    #[test]
    fn this_workspace_is_found_from_the_program() {
        assert!(is_workspace(Path::new(COMPILED_IN)));
    }
}
