//! Builds a template: `alephlab-kernel template --runtime-source DIR --out DIR`.
//!
//! Copies the runtime's sources, lets evcxr itself compile them in its build folder (so that a kernel's first
//! cell finds everything fresh), removes what belongs to single cells, and writes the stamp last. A killed build
//! leaves no stamp and goes on where it was. Progress goes to a callback.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::private::{PROFILE, write_settings, write_toolchain};
use super::stamp::{EVCXR, Stamp, Toolchain, find_file, hash_tree};
use super::{Template, source, write_whole};
use crate::{Error, Result};

/// How often progress is reported while crates compile.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// One line of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// `source`, `crates`, `finish` or `done`.
    pub phase: &'static str,
    /// Steps done in this phase.
    pub done: usize,
    /// Steps of this phase.
    pub total: usize,
}

/// Builds the template in `out` from the checkout `runtime_source`. Returns at once when it is built already.
///
/// # Errors
/// [`Error::File`], [`Error::Program`], or [`Error::Evaluator`] with the compiler's message.
pub fn build(runtime_source: &Path, out: &Path, report: &(dyn Fn(Progress) + Sync)) -> Result<Stamp> {
    let template = Template::new(out)?;
    fs::create_dir_all(template.root()).map_err(Error::file("make", template.root()))?;
    let lock = File::create(template.root().join("lock")).map_err(Error::file("make", template.root()))?;
    // Two builds at once: the second waits, then finds the first one's stamp.
    lock.lock().map_err(Error::file("lock", template.root()))?;
    report(Progress {
        phase: "source",
        done: 0,
        total: 1,
    });
    let crates = source::copy(runtime_source, &template)?;
    let toolchain = Toolchain::find(&template.source())?;
    let hash = hash_tree(&template.source())?;
    report(Progress {
        phase: "source",
        done: 1,
        total: 1,
    });
    if let Ok(stamp) = Stamp::read(&template)
        && stamp.source_hash == hash
        && stamp.check(&template, &toolchain).is_ok()
    {
        report(Progress {
            phase: "done",
            done: 1,
            total: 1,
        });
        return Ok(stamp);
    }
    let _ = fs::remove_file(template.stamp());
    // Built on top of the runtime as it was.
    for bundles in template.all_bundles() {
        let _ = fs::remove_dir_all(bundles);
    }
    compile(&template, &toolchain, crates, report)?;
    report(Progress {
        phase: "finish",
        done: 0,
        total: 1,
    });
    let runtime_lib = clean(&template, &toolchain)?;
    compile_zygote(&template, &toolchain)?;
    let stamp = Stamp {
        rustc: toolchain.rustc,
        target: toolchain.target,
        source_hash: hash,
        libstd: toolchain.libstd,
        runtime_lib,
        evcxr: EVCXR.to_owned(),
        profile: PROFILE.to_owned(),
        rustflags: evcxr_flags(),
    };
    let text = serde_json::to_string_pretty(&stamp).unwrap_or_default();
    write_whole(&template.stamp(), &text)?;
    report(Progress {
        phase: "done",
        done: 1,
        total: 1,
    });
    Ok(stamp)
}

/// Has evcxr compile the runtime and one cell that uses it.
fn compile(
    template: &Template,
    toolchain: &Toolchain,
    crates: usize,
    report: &(dyn Fn(Progress) + Sync),
) -> Result<()> {
    let evcxr = template.evcxr();
    fs::create_dir_all(&evcxr).map_err(Error::file("make", &evcxr))?;
    write_toolchain(template.root(), &toolchain.rustc)?;
    write_settings(template.root(), template)?;
    let settings = format!("[evcxr]\ntmpdir = {evcxr:?}\n");
    write_whole(&template.root().join("evcxr.toml"), &settings)?;
    let finished = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let counting = Arc::clone(&finished);
        scope.spawn(move || {
            while !counting.load(Ordering::Acquire) {
                report(Progress {
                    phase: "crates",
                    done: compiled(template, toolchain).min(crates),
                    total: crates,
                });
                std::thread::park_timeout(REPORT_EVERY);
            }
        });
        let result = crate::evaluator::evcxr::warm_up(template);
        finished.store(true, Ordering::Release);
        result
    })
}

/// The macro that makes rustc a compile server: one file without dependencies, so one call of rustc.
fn compile_zygote(template: &Template, toolchain: &Toolchain) -> Result<()> {
    let failed = |message: String| Error::Program {
        program: "rustc".into(),
        message,
    };
    let output = Command::new(toolchain.sysroot.join("bin/rustc"))
        .args([
            "--edition=2024",
            "--crate-type=proc-macro",
            "--crate-name=alephlab_zygote",
        ])
        .args(["-Copt-level=2", "-Cprefer-dynamic", "-o"])
        .arg(template.zygote())
        .arg(template.source().join(source::ZYGOTE))
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// The flags that evcxr gives rustc: by what linker it finds.
fn evcxr_flags() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if has("lld") && !has("mold") {
        "-Cprefer-dynamic -Clink-arg=-fuse-ld=lld".to_owned()
    } else {
        "-Cprefer-dynamic".to_owned()
    }
}

/// Crates whose library is compiled, by cargo's fingerprints.
fn compiled(template: &Template, toolchain: &Toolchain) -> usize {
    let target = template.evcxr().join("target");
    let folders = [
        target.join("debug/.fingerprint"),
        target.join(&toolchain.target).join("debug/.fingerprint"),
    ];
    let mut names = std::collections::BTreeSet::new();
    for entry in folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
    {
        if find_file(&entry.path(), "lib-", "").is_some() {
            let name = entry.file_name().to_string_lossy().into_owned();
            names.insert(
                name.rsplit_once('-')
                    .map_or(name.clone(), |(name, _)| name.to_owned()),
            );
        }
    }
    names.len()
}

/// Removes what belongs to single cells; returns where the runtime is, below `evcxr/`.
fn clean(template: &Template, toolchain: &Toolchain) -> Result<PathBuf> {
    let debug = PathBuf::from("target").join(&toolchain.target).join("debug");
    let root = template.evcxr().join(&debug);
    let incremental = root.join("incremental");
    if incremental.exists() {
        fs::remove_dir_all(&incremental).map_err(Error::file("remove", &incremental))?;
    }
    for folder in [root.clone(), root.join("deps")] {
        while let Some(cell) = find_file(&folder, "libcode_", "") {
            fs::remove_file(&cell).map_err(Error::file("remove", &cell))?;
        }
    }
    let library = debug.join("deps").join("libalephlab.so");
    if template.evcxr().join(&library).exists() {
        return Ok(library);
    }
    let message = format!("{} was not built", library.display());
    Err(Error::Template {
        path: template.root().to_owned(),
        message,
    })
}
