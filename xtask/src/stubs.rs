//! `cargo xtask stubs`: the lists of functions in `runtime/cuda-stubs`, from the source of the cudarc in use.
//!
//! A name that is missing there is found when a program is linked, or not before a cell is loaded; so a test compares.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::steps::Steps;

/// cudarc's module, our file and the library's static.
const LIBRARIES: [(&str, &str, &str); 5] = [
    ("driver", "driver", "DRIVER"),
    ("cublas", "cublas", "CUBLAS"),
    ("cublaslt", "cublaslt", "CUBLAS_LT"),
    ("nvrtc", "nvrtc", "NVRTC"),
    ("curand", "curand", "CURAND"),
];
/// Where the lists lie.
const FOLDER: &str = "runtime/cuda-stubs/src/names";
/// Begins a block of one declaration in cudarc's source.
const BLOCK: &str = "extern \"C\" {";
/// They return a status, and a text through their second argument.
const TOLD: [&str; 2] = ["cuGetErrorName", "cuGetErrorString"];

/// Writes the lists.
pub(crate) fn write(steps: &Steps) -> Result<()> {
    for (path, text) in lists(steps)? {
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Every list, as it should be.
fn lists(steps: &Steps) -> Result<Vec<(PathBuf, String)>> {
    let cudarc = package(steps, "cudarc")?;
    let mut all = Vec::new();
    for (module, file, library) in LIBRARIES {
        let source = cudarc.join("src").join(module).join("sys/mod.rs");
        let source = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
        let functions = functions(&source);
        ensure!(
            functions.len() > 10,
            "cudarc's {module} is written otherwise than before: {} functions found",
            functions.len()
        );
        let mut text = format!(
            "// Written by `cargo xtask stubs`: {} functions.\n\ncrate::trampoline::trampolines! {{ {library};\n",
            functions.len()
        );
        for (name, kind) in functions {
            text.push_str(&format!("    {kind} {name};\n"));
        }
        text.push_str("}\n");
        all.push((steps.root().join(FOLDER).join(file).with_extension("rs"), text));
    }
    Ok(all)
}

/// Folder of a package's source.
pub(crate) fn package(steps: &Steps, name: &str) -> Result<PathBuf> {
    let output = steps
        .command("cargo")
        .args(["metadata", "--format-version=1", "--locked"])
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)))?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .find(|package| package["name"] == name)
        .and_then(|package| package["manifest_path"].as_str())
        .with_context(|| format!("nothing here is built from {name}"))?;
    let manifest = PathBuf::from(manifest);
    Ok(manifest.parent().map(PathBuf::from).unwrap_or_default())
}

/// The functions that bindings declare, and what each returns.
fn functions(source: &str) -> BTreeMap<String, &'static str> {
    let mut found = BTreeMap::new();
    for block in source.split(BLOCK).skip(1) {
        let declaration = block.split(';').next().unwrap_or_default().trim();
        let Some((name, rest)) = declaration
            .strip_prefix("fn ")
            .and_then(|text| text.split_once('('))
        else {
            continue;
        };
        let returned = rest.rsplit_once("->").map_or("", |(_, returned)| returned.trim());
        let kind = match returned {
            _ if TOLD.contains(&name) => "told",
            "" => "nothing",
            "usize" => "size",
            text if text.ends_with("c_char") => "text",
            _ => "status",
        };
        found.insert(name.to_owned(), kind);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_lists_hold_every_function_of_the_cudarc_in_use() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (path, wanted) in lists(&Steps::new(root, false)).unwrap() {
            let text = fs::read_to_string(&path).unwrap();
            assert!(
                text == wanted,
                "{} is not cudarc's: run `cargo xtask stubs`",
                path.display()
            );
        }
    }

    #[test]
    fn what_a_function_returns_is_read_from_its_declaration() {
        let source = "pub type F = Option<unsafe extern \"C\" fn(x: u8) -> CUresult>;\n\
            extern \"C\" {\n fn cuInit(\n Flags: u32) -> CUresult;\n}\n\
            extern \"C\" {\n fn cublasGetStatusName(s: S) -> *const ::core::ffi::c_char;\n}\n\
            extern \"C\" {\n fn cublasLtGetVersion() -> usize;\n}\nextern \"C\" {\n fn cublasXerbla(a: u8);\n}\n\
            extern \"C\" {\n fn cuGetErrorName(e: E, p: *mut *const c_char) -> CUresult;\n}\n";
        let found = functions(source);
        let of = |name: &str| found.get(name).copied();
        assert_eq!(found.len(), 5);
        assert_eq!(of("cuInit"), Some("status"));
        assert_eq!(of("cublasGetStatusName"), Some("text"));
        assert_eq!(of("cublasLtGetVersion"), Some("size"));
        assert_eq!(of("cublasXerbla"), Some("nothing"));
        assert_eq!(of("cuGetErrorName"), Some("told"));
    }
}
