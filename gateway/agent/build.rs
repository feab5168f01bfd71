//! Links the program statically, C library included: it then starts on any Linux of its processor, whatever glibc is there.
//!
//! `-C target-feature=+crt-static` would do that, but cargo has no flags for one package, and with them for all of them every
//! dependency is built once more. As it changes only how the program is linked, that is said here in its place: `-static-pie`
//! for how it starts; and where rustc asks for libraries of C after `-Bdynamic`, the linker finds first a file under each of
//! these names that says which archive is meant.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The libraries that std and the `libc` crate ask for. C's and the compiler's own need each other.
const LIBRARIES: [(&str, &str); 7] = [
    ("c", "GROUP ( libc.a libgcc_eh.a libgcc.a )"),
    ("gcc_s", "GROUP ( libgcc_eh.a libgcc.a libc.a )"),
    ("dl", "INPUT ( libdl.a )"),
    ("m", "INPUT ( libm.a )"),
    ("pthread", "INPUT ( libpthread.a )"),
    ("rt", "INPUT ( librt.a )"),
    ("util", "INPUT ( libutil.a )"),
];
/// What some distributions do not install beside their C library.
const NEEDED: [&str; 2] = ["libc.a", "rcrt1.o"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let is =
        |name: &str, value: &str| env::var(name).is_ok_and(|found| found.split(',').any(|one| one == value));
    let is_glibc = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !is_glibc || is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        return Ok(());
    }
    if let Some(missing) = NEEDED.into_iter().find(|file| !finds(file)) {
        println!(
            "cargo:warning=alephlab-agent needs the C library of this system: the linker finds no {missing}"
        );
        return Ok(());
    }
    let folder = env::var("OUT_DIR")?;
    for (name, script) in LIBRARIES {
        fs::write(
            Path::new(&folder).join(format!("lib{name}.so")),
            format!("{script}\n"),
        )?;
    }
    // For programs only: tests of the library are dynamic, as everywhere. Names of functions are a fifth of the program.
    for argument in ["-static-pie", "-Wl,--strip-all", &format!("-L{folder}")] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    Ok(())
}

/// Whether the linker's driver knows a file of the system; of one that it does not know it says the bare name.
fn finds(file: &str) -> bool {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let said = Command::new(linker)
        .arg(format!("-print-file-name={file}"))
        .output();
    said.is_ok_and(|said| Path::new(String::from_utf8_lossy(&said.stdout).trim()).is_absolute())
}
