//! Gives the linker something for each `-lcuda` that cudarc asks for: an archive with nothing in it. The symbols are in
//! this crate, so a machine needs no CUDA toolkit to link, and what is linked needs no driver to start.

use std::path::PathBuf;
use std::{env, fs};

/// What cudarc links by name.
const LIBRARIES: [&str; 5] = ["cuda", "cublas", "cublasLt", "nvrtc", "curand"];
/// An archive without members.
const EMPTY_ARCHIVE: &str = "!<arch>\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    for library in LIBRARIES {
        fs::write(out.join(format!("lib{library}.a")), EMPTY_ARCHIVE)?;
    }
    println!("cargo::rustc-link-search=native={}", out.display());
    Ok(())
}
