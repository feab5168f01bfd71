//! Compile servers: a zygote for each kind of cell, started when it is first needed.
//!
//! A stock rustc that never gets past one macro (`kernel/zygote`); each request is a fork of it. One that has died is
//! started again, and said; after the second death cells of its kind are compiled by rustc itself.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::toolbox::{Kind, Optimise, Scope, Toolbox, external};
use crate::evaluator::link::shared::Shared;
use crate::{Error, Result};

/// Items crates that a server can name: rustc looks for a crate only where it was told before it started.
pub(super) const SLOTS: usize = 256;
/// Longest output of one compile. A cell with thousands of errors is stopped there.
const MAX_OUTPUT_BYTES: u64 = 1024 * 1024;
/// A server that died this often is not started again.
const MAX_DEATHS: u32 = 2;
/// Turns rustc into a server: see `kernel/zygote`.
const ZYGOTE_ENV: &str = "ALEPHLAB_ZYGOTE";

/// All servers of a kernel.
pub(super) struct Servers {
    folder: PathBuf,
    slots: PathBuf,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: HashMap<Kind, Server>,
    deaths: HashMap<Kind, u32>,
    started: u32,
    notices: Vec<String>,
}

struct Server {
    process: Child,
    socket: PathBuf,
    /// What it has loaded; see [`Toolbox::base`].
    base: String,
}

/// What a compile printed.
#[derive(Debug, Default)]
pub(super) struct Printed {
    pub(super) text: String,
    /// It was cut off.
    pub(super) too_long: bool,
}

impl Servers {
    /// Servers that keep their files in `folder` and find crates of items in `slots`.
    pub(super) fn new(folder: PathBuf, slots: PathBuf, shared: Arc<Shared>) -> Self {
        Self {
            folder,
            slots,
            shared,
            state: Mutex::default(),
        }
    }

    /// Starts the server of a kind, when it does not run.
    pub(super) fn warm(&self, toolbox: &Toolbox, kind: Kind) {
        if let Err(error) = self.socket(toolbox, kind) {
            tracing::warn!(%error, "a compile server does not start");
        }
    }

    /// Ends all: what they have loaded is no longer what cells are compiled against. Others start when needed.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        for (_, mut server) in state.running.drain() {
            server.end();
        }
        self.shared.set_servers(Vec::new());
    }

    /// Compiles `cell.rs` in a folder; output files appear beside it.
    pub(super) fn compile(&self, toolbox: &Toolbox, kind: Kind, folder: &Path) -> Result<Printed> {
        loop {
            let Some(socket) = self.socket(toolbox, kind)? else {
                return self.compile_directly(toolbox, kind, folder);
            };
            match request(&socket, folder) {
                Ok(printed) => return Ok(printed),
                Err(_) => self.buried(kind),
            }
        }
    }

    /// What the person should know, since the last call.
    pub(super) fn notices(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().notices)
    }

    /// Socket of a kind's server; none when it has died too often.
    fn socket(&self, toolbox: &Toolbox, kind: Kind) -> Result<Option<PathBuf>> {
        let mut state = self.lock();
        let base = toolbox.base();
        if let Some(server) = state.running.get(&kind).filter(|server| server.base == base) {
            return Ok(Some(server.socket.clone()));
        }
        // One for other crates: a subshell began to compile before a `:dep`, or does so behind it.
        if let Some(mut server) = state.running.remove(&kind) {
            server.end();
        }
        if state
            .deaths
            .get(&kind)
            .is_some_and(|deaths| *deaths >= MAX_DEATHS)
        {
            return Ok(None);
        }
        state.started += 1;
        let server = self.start(toolbox, kind, state.started)?;
        let socket = server.socket.clone();
        state.running.insert(kind, server);
        self.shared
            .set_servers(state.running.values().map(|server| server.process.id()).collect());
        Ok(Some(socket))
    }

    fn start(&self, toolbox: &Toolbox, kind: Kind, number: u32) -> Result<Server> {
        let name = format!("z{number}");
        let template = self.folder.join(format!("{name}.rs"));
        let text = format!("{}alephlab_zygote::cells! {{}}\n", toolbox.header(kind.scope));
        fs::write(&template, text).map_err(Error::file("write", &template))?;
        let socket = self.folder.join(&name);
        let listener = UnixListener::bind(&socket).map_err(Error::file("listen on", &socket))?;
        let log = self.folder.join(format!("{name}.log"));
        let log_file = File::create(&log).map_err(Error::file("make", &log))?;
        let mut command = self.command(toolbox, kind);
        command.args(external("alephlab_zygote", &toolbox.zygote));
        command.arg(&template);
        command.current_dir(&self.folder).env(ZYGOTE_ENV, "1");
        // The listener is its standard input, so that nobody waits for it to be ready; that its standard output has
        // lost its reader tells it that the kernel is gone.
        command
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::piped())
            .stderr(log_file);
        let process = command.spawn().map_err(|error| Error::Program {
            program: "rustc".into(),
            message: error.to_string(),
        })?;
        let base = toolbox.base();
        Ok(Server {
            process,
            socket,
            base,
        })
    }

    fn command(&self, toolbox: &Toolbox, kind: Kind) -> Command {
        let mut command = Command::new(&toolbox.rustc);
        command.args(["--crate-name=cell", "--crate-type=cdylib"]);
        command.arg(if kind.spells_types {
            "--emit=obj=cell.o,mir=cell.mir"
        } else {
            "--emit=obj=cell.o"
        });
        command.args(toolbox.flags(kind));
        for slot in 0..SLOTS {
            command.args(external(&format!("slot{slot}"), &slot_file(&self.slots, slot)));
        }
        // A person's settings for their own builds: a wrapper would stand between us and the compiler.
        command.env_remove("RUST_BACKTRACE").env_remove("RUSTC_WRAPPER");
        command
    }

    /// The same cell, by a compiler of its own.
    fn compile_directly(&self, toolbox: &Toolbox, kind: Kind, folder: &Path) -> Result<Printed> {
        let main = folder.join("main.rs");
        let text = format!("{}include!(\"cell.rs\");\n", toolbox.header(kind.scope));
        fs::write(&main, text).map_err(Error::file("write", &main))?;
        let mut command = self.command(toolbox, kind);
        command.arg("main.rs").current_dir(folder);
        run(command)
    }

    fn buried(&self, kind: Kind) {
        let mut state = self.lock();
        let Some(mut server) = state.running.remove(&kind) else {
            return;
        };
        server.end();
        let deaths = state.deaths.entry(kind).or_default();
        *deaths += 1;
        let name = match (kind.scope, kind.optimise) {
            (Scope::Lean, _) => "small cells",
            (Scope::Full, Optimise::No) => "cells with the runtime",
            (Scope::Full, Optimise::Yes) => "loops with the runtime",
        };
        let notice = if *deaths < MAX_DEATHS {
            format!("the compile server for {name} had ended and was started again")
        } else {
            format!(
                "the compile server for {name} ends again and again: these cells are compiled without it, slower"
            )
        };
        state.notices.push(notice);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Server {
    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Where a server looks for the crate in a slot.
pub(super) fn slot_file(slots: &Path, slot: usize) -> PathBuf {
    slots.join(format!("libslot{slot}.rmeta"))
}

/// One compile by a server. An error means that the server is not there; a stopped compile is a short output.
fn request(socket: &Path, folder: &Path) -> std::io::Result<Printed> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = folder.as_os_str().as_encoded_bytes().to_vec();
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reader = BufReader::new(stream);
    let mut greeting = String::new();
    reader.read_line(&mut greeting)?;
    let pid = greeting
        .strip_prefix("pid ")
        .and_then(|pid| pid.trim().parse::<u32>().ok());
    // No greeting: the server ended between accepting and forking.
    let pid = pid.ok_or(std::io::ErrorKind::ConnectionReset)?;
    read_all(&mut reader, || crate::child::kill(pid))
}

fn read_all(reader: &mut impl Read, stop: impl FnOnce()) -> std::io::Result<Printed> {
    let mut bytes = Vec::new();
    reader.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    let too_long = bytes.len() as u64 == MAX_OUTPUT_BYTES;
    if too_long {
        stop();
        // The last line is cut.
        bytes.truncate(
            bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1),
        );
    }
    Ok(Printed {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        too_long,
    })
}

/// Runs a compiler to its end; what it printed on standard error.
pub(super) fn run(mut command: Command) -> Result<Printed> {
    let failed = |error: std::io::Error| Error::Program {
        program: "rustc".into(),
        message: error.to_string(),
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut process = command.spawn().map_err(failed)?;
    let pid = process.id();
    let printed = match process.stderr.take() {
        Some(mut stderr) => read_all(&mut stderr, || crate::child::kill(pid)).map_err(failed)?,
        None => Printed::default(),
    };
    process.wait().map_err(failed)?;
    Ok(printed)
}
