//! Opens the gateway's start page in the user's browser, where there is one.

use std::process::{Command, Stdio};

/// Tries to open an address. A machine without a display or an opener simply shows no page.
pub(crate) fn open(address: &str) {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    if !has_display && !cfg!(target_os = "macos") {
        return;
    }
    let started = Command::new(opener)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        // Waited for on its own thread, so that it does not stay as a zombie.
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(error) => tracing::info!(%error, "no browser could be opened"),
    }
}
