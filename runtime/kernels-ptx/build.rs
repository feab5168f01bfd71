//! Embeds what `cargo xtask ptx` left in `ptx/`. Without it the build is one for CPUs, and the crate says so.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Facts of a build of kernels, a line each: `name=value`. Written last.
const FACTS: &str = "built";
/// What is embedded.
const END: &str = ".ptx.gz";
/// Without one of these, none is embedded: candle would fail in the middle of a calculation.
const OF_CANDLE: [&str; 11] = [
    "affine",
    "binary",
    "cast",
    "conv",
    "fill",
    "indexing",
    "quantized",
    "reduce",
    "sort",
    "ternary",
    "unary",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    // The folder is always there, with a file of git's.
    println!("cargo::rerun-if-changed=ptx");
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo names no folder")?).join("ptx");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    fs::write(out.join("ptx.rs"), embed(&folder)?)?;
    Ok(())
}

/// Rust that includes every file, or says that there is none.
fn embed(folder: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let none = "pub(crate) const BUILT: Option<crate::Built> = None;\n\
        pub(crate) const PACKED: &[(&str, &[u8])] = &[];\n";
    let Ok(facts) = fs::read_to_string(folder.join(FACTS)) else {
        return Ok(none.to_owned());
    };
    let facts: BTreeMap<&str, &str> = facts.lines().filter_map(|line| line.split_once('=')).collect();
    let fact = |name: &str| facts.get(name).copied().unwrap_or_default();
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(name) = name.strip_suffix(END) {
            files.insert(name.to_owned(), path);
        }
    }
    if let Some(missing) = OF_CANDLE.iter().find(|name| !files.contains_key(**name)) {
        println!(
            "cargo::warning=ptx/{missing}{END} is missing: no GPU kernels are embedded; run `cargo xtask ptx`"
        );
        return Ok(none.to_owned());
    }
    let mut text = format!(
        "pub(crate) const BUILT: Option<crate::Built> = Some(crate::Built {{ compiler: {:?}, target: {:?}, driver: {} }});\n\
         pub(crate) const PACKED: &[(&str, &[u8])] = &[\n",
        fact("compiler"),
        fact("target"),
        fact("driver").parse::<i32>()?,
    );
    for (name, path) in files {
        writeln!(text, "    ({name:?}, include_bytes!({path:?})),")?;
    }
    text.push_str("];\n");
    Ok(text)
}
