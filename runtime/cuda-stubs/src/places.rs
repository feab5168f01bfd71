//! Where CUDA's libraries may lie: folders that a person named, then those of toolkits, containers and Python wheels.

use std::env;
use std::path::PathBuf;

/// Folders that are looked into first, as in `PATH`.
pub const FOLDERS_ENV: &str = "ALEPHLAB_CUDA_LIBRARIES";
/// Variables that name a toolkit's folder.
const TOOLKITS: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CONDA_PREFIX"];
/// Of a toolkit that no variable names.
const USUAL_TOOLKITS: [&str; 2] = ["/usr/local/cuda", "/opt/cuda"];
/// Where containers, WSL and NixOS put a driver.
const OF_DRIVERS: [&str; 3] = [
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];
/// Parts of a Python environment's `site-packages/nvidia` that hold libraries: those of CUDA 13 share a folder.
const OF_WHEELS: [&str; 4] = ["cu13", "cublas", "cuda_nvrtc", "curand"];

/// Folders that a person named.
pub(crate) fn named() -> Vec<PathBuf> {
    let named = env::var_os(FOLDERS_ENV).unwrap_or_default();
    env::split_paths(&named)
        .filter(|folder| folder.is_absolute())
        .collect()
}

/// Folders where libraries usually are and where the loader does not look.
pub(crate) fn usual(of_driver: bool) -> Vec<PathBuf> {
    if of_driver {
        return OF_DRIVERS.map(PathBuf::from).into();
    }
    let named = TOOLKITS.into_iter().filter_map(env::var_os).map(PathBuf::from);
    let toolkits = named.chain(USUAL_TOOLKITS.map(PathBuf::from));
    let mut folders: Vec<PathBuf> = toolkits
        .filter(|toolkit| toolkit.is_absolute())
        .flat_map(|toolkit| [toolkit.join("lib64"), toolkit.join("lib")])
        .collect();
    let python = env::var_os("VIRTUAL_ENV").or_else(|| env::var_os("CONDA_PREFIX"));
    if let Some(python) = python.map(PathBuf::from).filter(|python| python.is_absolute()) {
        folders.extend(of_wheels(&python));
    }
    folders
}

/// Of the wheels in a Python environment.
fn of_wheels(python: &std::path::Path) -> Vec<PathBuf> {
    let versions = std::fs::read_dir(python.join("lib"))
        .into_iter()
        .flatten()
        .flatten();
    let nvidia = versions.map(|version| version.path().join("site-packages/nvidia"));
    nvidia
        .filter(|nvidia| nvidia.is_dir())
        .flat_map(|nvidia| OF_WHEELS.map(|part| nvidia.join(part).join("lib")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_wheels_are_found_below_a_python_environment() {
        let python = env::temp_dir().join(format!("alephlab-wheels-{}", std::process::id()));
        let nvidia = python.join("lib/python3.13/site-packages/nvidia");
        std::fs::create_dir_all(nvidia.join("cu13/lib")).unwrap();
        let found = of_wheels(&python);
        std::fs::remove_dir_all(&python).unwrap();
        assert!(found.contains(&nvidia.join("cu13/lib")), "{found:?}");
    }
}
