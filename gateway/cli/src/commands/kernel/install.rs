//! Writes and removes the kernelspecs. Their files are compiled in; only the program's path is filled in.

use std::fs;
use std::path::{Path, PathBuf};

use alephlab_api::agent::{EVCXR_KERNELSPEC, KERNELSPEC};
use serde_json::{Value, json};

use super::Location;
use crate::build::toolchain::first_line;
use crate::data;
use crate::error::{CliError, Result};
use crate::settings::xdg;

/// Each kernelspec's name, in URLs and on disk, and what Jupyter shows and runs, but for the program's path.
const SPECS: [(&str, &str); 2] = [
    (
        KERNELSPEC,
        include_str!("../../../../../kernelspec/alephlab/kernel.json"),
    ),
    (
        EVCXR_KERNELSPEC,
        include_str!("../../../../../kernelspec/alephlab-evcxr/kernel.json"),
    ),
];
/// The pictures beside both.
const LOGOS: [(&str, &[u8]); 3] = [
    (
        "logo-32x32.png",
        include_bytes!("../../../../../kernelspec/alephlab/logo-32x32.png"),
    ),
    (
        "logo-64x64.png",
        include_bytes!("../../../../../kernelspec/alephlab/logo-64x64.png"),
    ),
    (
        "logo-svg.svg",
        include_bytes!("../../../../../kernelspec/alephlab/logo-svg.svg"),
    ),
];

/// Installs over older ones; gives the folders. A data folder named by the user becomes part of the command.
pub(crate) async fn install(location: &Location, data: Option<&Path>) -> Result<Vec<PathBuf>> {
    let base = folder(location).await?;
    let program = std::env::current_exe().map_err(|error| CliError::Program {
        program: "alephlab",
        reason: error.to_string(),
    })?;
    let mut folders = Vec::new();
    for (name, text) in SPECS {
        let folder = base.join(name);
        let spec = spec(text, &program, data)?;
        fs::create_dir_all(&folder).map_err(|source| CliError::file("make the folder", &folder, source))?;
        for (name, bytes) in LOGOS {
            data::write_public(&folder.join(name), bytes)?;
        }
        data::write_public(&folder.join("kernel.json"), spec.as_bytes())?;
        folders.push(folder);
    }
    Ok(folders)
}

/// Removes the kernelspecs; gives the folders of those that were there.
pub(crate) async fn uninstall(location: &Location) -> Result<Vec<PathBuf>> {
    let base = folder(location).await?;
    let mut removed = Vec::new();
    for (name, _) in SPECS {
        let folder = base.join(name);
        if folder.join("kernel.json").is_file() {
            fs::remove_dir_all(&folder).map_err(|source| CliError::file("remove", &folder, source))?;
            removed.push(folder);
        }
    }
    Ok(removed)
}

/// A kernelspec with this program, and the data folder, in its command.
fn spec(text: &str, program: &Path, data: Option<&Path>) -> Result<String> {
    let fail = |reason: String| CliError::Malformed {
        path: PathBuf::from("kernel.json"),
        reason,
    };
    let mut spec: Value = serde_json::from_str(text).map_err(|error| fail(error.to_string()))?;
    let mut argv = vec![json!(program.display().to_string()), json!("kernel")];
    if let Some(data) = data {
        let data = std::path::absolute(data).map_err(|source| CliError::file("find", data, source))?;
        argv.extend([json!("--data"), json!(data.display().to_string())]);
    }
    let own = spec["argv"].as_array().into_iter().flatten().skip(2).cloned();
    argv.extend(own);
    spec["argv"] = json!(argv);
    Ok(format!("{spec:#}\n"))
}

async fn folder(location: &Location) -> Result<PathBuf> {
    let base = match location {
        Location {
            prefix: Some(prefix), ..
        } => std::path::absolute(prefix)
            .map_err(|source| CliError::file("find", prefix, source))?
            .join("share/jupyter"),
        Location { sys_prefix: true, .. } => python_prefix().await?.join("share/jupyter"),
        _ => user_folder(),
    };
    Ok(base.join("kernels"))
}

/// Jupyter's data folder of this user, by Jupyter's own rules.
fn user_folder() -> PathBuf {
    if let Some(named) = std::env::var_os("JUPYTER_DATA_DIR").filter(|value| !value.is_empty()) {
        return PathBuf::from(named);
    }
    if cfg!(target_os = "macos") {
        return std::env::home_dir().unwrap_or_default().join("Library/Jupyter");
    }
    xdg("XDG_DATA_HOME", ".local/share").join("jupyter")
}

async fn python_prefix() -> Result<PathBuf> {
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
            return Ok(PathBuf::from(prefix));
        }
    }
    let said = first_line("python3", &["-c", "import sys; print(sys.prefix)"]).await;
    said.map(PathBuf::from).ok_or_else(|| CliError::Usage {
        message: "no Python environment was found for --sys-prefix".to_owned(),
        hint: "activate one, or use --user or --prefix DIR".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    #[tokio::test]
    async fn an_installed_kernelspec_runs_this_program_and_can_be_removed() {
        let prefix = scratch();
        let location = Location {
            prefix: Some(prefix.path().to_path_buf()),
            ..Location::default()
        };
        let folders = install(&location, Some(Path::new("/d"))).await.unwrap();
        let kernels = prefix.path().join("share/jupyter/kernels");
        assert_eq!(
            folders,
            [kernels.join("alephlab"), kernels.join("alephlab-evcxr")]
        );
        let program = std::env::current_exe().unwrap().display().to_string();
        let before = [program.as_str(), "kernel", "--data", "/d", "start"];
        let after = ["--connection-file", "{connection_file}"];
        for (folder, title, engine) in [
            (&folders[0], "Rust (Alephlab)", &[][..]),
            (&folders[1], "Rust (evcxr)", &["--engine", "evcxr"][..]),
        ] {
            let text = fs::read_to_string(folder.join("kernel.json")).unwrap();
            let spec: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(spec["argv"], json!([&before[..], engine, &after[..]].concat()));
            assert_eq!(
                (&spec["language"], &spec["display_name"]),
                (&json!("rust"), &json!(title))
            );
            // Jupyter must interrupt by message: a signal to the process group would end the broker as well.
            assert_eq!(spec["interrupt_mode"], "message");
        }
        assert_eq!(uninstall(&location).await.unwrap(), folders);
        assert!(uninstall(&location).await.unwrap().is_empty());
    }
}
