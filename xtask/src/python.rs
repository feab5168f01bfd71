//! The Python environment of the client tests: pinned, in `target/venv`, made anew only when its list changes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::counts::Counts;
use crate::steps::{Steps, succeed};

/// Copy of the list that the environment was made from; written last.
const STAMP: &str = "alephlab-requirements.txt";

/// The environment's interpreter.
pub(crate) fn interpreter(steps: &Steps) -> PathBuf {
    folder(steps).join("bin/python")
}

/// Makes the environment when it is missing or its list has changed.
pub(crate) fn ensure(steps: &Steps) -> Result<Counts> {
    let list = steps.root().join("tests/clients/requirements.txt");
    let wanted = fs::read_to_string(&list).with_context(|| format!("{} cannot be read", list.display()))?;
    let folder = folder(steps);
    let stamp = folder.join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        println!("{} is up to date", folder.display());
        return Ok(Counts::default());
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    succeed(steps.command("python3").args(["-m", "venv"]).arg(&folder))
        .context("a virtual environment cannot be made; on Debian: apt-get install python3-venv")?;
    let mut pip = steps.command(interpreter(steps));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ])
    .arg(&list);
    succeed(&mut pip).context("the Python packages cannot be installed")?;
    fs::write(&stamp, wanted).with_context(|| format!("{} cannot be written", stamp.display()))?;
    Ok(Counts::default())
}

fn folder(steps: &Steps) -> PathBuf {
    steps.target().join("venv")
}
