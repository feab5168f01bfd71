//! The pinned Rust toolchain and the other tools that building and running cells need.
//!
//! A cell's library fits only one exact compiler, so a different version is an error. `rust-src` is only wished for:
//! without it completion and the types of some variables are lost, and that is said.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::probe;
use crate::error::{CliError, Result};

/// A tool that does not say its version within this is as good as missing; rustup may first install the toolchain.
const VERSION_LIMIT: Duration = Duration::from_secs(600);
/// A download that takes longer is given up: everything else works without it.
const RUST_SRC_LIMIT: Duration = Duration::from_secs(180);
/// The pin, compiled in so that an installed program knows it too.
const TOOLCHAIN_FILE: &str = include_str!("../../../../rust-toolchain.toml");
/// What is lost without `rust-src`.
pub(crate) const WITHOUT_RUST_SRC: &str = "without it completion and hover in cells stay empty and variables whose type must be inferred need an annotation";

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// Such as `1.95.0`.
    pub version: String,
    /// Where the compiler lies.
    pub sysroot: PathBuf,
    /// Whether the standard library's sources are there.
    pub has_rust_src: bool,
}

/// The version that everything is built with.
pub(crate) fn pinned() -> &'static str {
    let line = TOOLCHAIN_FILE
        .lines()
        .find_map(|line| line.trim().strip_prefix("channel"));
    line.and_then(|rest| rest.split('"').nth(1)).unwrap_or("unknown")
}

/// Asks the compiler that the workspace (or this folder) selects.
pub(crate) async fn check(root: Option<&Path>) -> Result<Toolchain> {
    let wanted = pinned();
    let answer = probe("rustc", &["--version"], root, VERSION_LIMIT).await;
    let Some(answer) = answer.filter(|answer| answer.status.success()) else {
        return Err(CliError::Toolchain {
            message: format!("rustc {wanted} was not found, and cells are compiled with it"),
            hint: format!(
                "install Rust from https://rustup.rs, then run `rustup toolchain install {wanted}`"
            ),
        });
    };
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    let version = said.split_whitespace().nth(1).unwrap_or_default().to_owned();
    if version != wanted {
        return Err(CliError::Toolchain {
            message: format!("rustc is {version}, but a cell's library fits only rustc {wanted}"),
            hint: format!("run `rustup toolchain install {wanted}`"),
        });
    }
    let sysroot = probe("rustc", &["--print", "sysroot"], root, VERSION_LIMIT).await;
    let sysroot = sysroot.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned());
    let sysroot = PathBuf::from(sysroot.unwrap_or_default());
    let has_rust_src = sysroot.join("lib/rustlib/src/rust/library/core").is_dir();
    Ok(Toolchain {
        version,
        sysroot,
        has_rust_src,
    })
}

/// Whether a C compiler, which links cells, answers; its first line when it does.
pub(crate) async fn c_compiler() -> Option<String> {
    first_line("cc", &["--version"]).await
}

/// First line of what a tool says, when it ends well.
pub(crate) async fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let answer = probe(program, args, None, Duration::from_secs(20)).await?;
    let text = String::from_utf8_lossy(&answer.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    answer.status.success().then_some(text)
}

/// Requires a C compiler.
pub(crate) async fn require_c_compiler() -> Result<String> {
    c_compiler().await.ok_or_else(|| CliError::Toolchain {
        message: "no C compiler was found: `cc` is what links cells".to_owned(),
        hint: "install one, on Debian with `apt-get install gcc libc6-dev`".to_owned(),
    })
}

/// Adds `rust-src` when it is missing; says whether it is there now.
pub(crate) async fn add_rust_src(toolchain: &Toolchain, root: Option<&Path>) -> bool {
    if toolchain.has_rust_src {
        return true;
    }
    let args = ["component", "add", "rust-src", "--toolchain", &toolchain.version];
    let answer = probe("rustup", &args, root, RUST_SRC_LIMIT).await;
    answer.is_some_and(|answer| answer.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_is_a_version() {
        assert_eq!(pinned().split('.').count(), 3, "{}", pinned());
    }

    #[tokio::test]
    async fn this_machines_toolchain_is_the_pinned_one() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        assert_eq!(check(Some(root)).await.unwrap().version, pinned());
    }
}
