//! Subshells (JEP 91) in the child: a thread for each, that runs cells beside those of the main shell.
//!
//! The kernel connects to a socket that the child listens on; the first line names the subshell's folder, in which its
//! link and its two FIFOs lie, the others are commands as the child has them on its standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Runtime, failed, memory, open_fifo, parse, streams};
use crate::Result;

/// Said when a thread takes commands.
pub(crate) const READY: &str = "ALEPHLAB_SUBSHELL_READY";
/// Between two tries when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// As much as the main thread has.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Socket on which the child of a process id listens, beside the kernel's link.
pub(crate) fn socket(link: &Path, child: u32) -> PathBuf {
    link.with_file_name(format!("subshells-{child}"))
}

/// Listens for subshells from now on.
pub(super) fn listen(link: &Path, runtime: Runtime) -> Result<()> {
    let path = socket(link, std::process::id());
    let fail = |error: std::io::Error| failed("listen for subshells", &error.to_string());
    let listener = UnixListener::bind(path).map_err(fail)?;
    let serve = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::park_timeout(PAUSE);
                continue;
            };
            let builder = std::thread::Builder::new()
                .name("subshell".into())
                .stack_size(STACK_BYTES);
            // Refused, the kernel finds its connection closed, and says that there is no subshell.
            let _ = builder.spawn(move || serve_one(&stream, runtime));
        }
    };
    std::thread::Builder::new()
        .name("subshells".into())
        .spawn(serve)
        .map_err(fail)?;
    Ok(())
}

fn serve_one(stream: &UnixStream, runtime: Runtime) -> Result<()> {
    let fail = |error: std::io::Error| failed("serve a subshell", &error.to_string());
    let mut answers = stream.try_clone().map_err(fail)?;
    let mut lines = BufReader::new(stream).lines();
    let Some(folder) = lines.next() else { return Ok(()) };
    let folder = PathBuf::from(folder.map_err(fail)?);
    let stdout: File = open_fifo(&folder.join("out"))?;
    let stderr: File = open_fifo(&folder.join("err"))?;
    let streams = streams::keep(stdout.into(), stderr.into());
    runtime.start_subshell(&folder.join("link"), streams)?;
    answers.write_all(format!("{READY}\n").as_bytes()).map_err(fail)?;
    for line in lines {
        let line = line.map_err(fail)?;
        let (path, _) = parse(&line).ok_or_else(|| failed("understand the command", &line))?;
        runtime.run_lean_cell(path, &mut answers)?;
        memory::give_back();
    }
    // The kernel has closed it.
    let _ = answers.flush();
    Ok(())
}
