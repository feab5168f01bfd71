//! Runs a build tool as a process group of its own and reads its lines, so that Ctrl-C never leaves a compiler behind.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::error::{CliError, Result};
use crate::stop::Group;

/// More than this of a tool's error output helps nobody.
const STDERR_BYTES_KEPT: usize = 16 << 10;
/// Lines of error output that go into a message.
const STDERR_LINES_SHOWN: usize = 12;

/// Runs a tool to its end within a time limit; `None` when it is missing, fails to start or takes too long.
pub(crate) async fn probe(
    program: &str,
    args: &[&str],
    folder: Option<&Path>,
    limit: Duration,
) -> Option<Output> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    tokio::time::timeout(limit, command.output()).await.ok()?.ok()
}

/// Runs a build and gives each line of its standard output to `line`; its error output becomes the error's words.
pub(crate) async fn build(
    what: &'static str,
    command: &mut Command,
    mut line: impl FnMut(&str),
) -> Result<()> {
    let fail = |detail: String| CliError::Build { what, detail };
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| {
            fail(format!(
                "{} cannot be started: {error}",
                command.as_std().get_program().display()
            ))
        })?;
    let mut group = Group::new(child);
    let stdout = group.child().stdout.take();
    let stderr = group.child().stderr.take();
    let read = async {
        if let Some(stdout) = stdout {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(text)) = lines.next_line().await {
                line(&text);
            }
        }
    };
    let ((), said) = tokio::join!(read, tail(stderr));
    let status = group.wait().await.map_err(|error| fail(error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(fail(format!("{status}\n{}", last_lines(&said))))
    }
}

/// The end of a stream, read to its end so that the writer never blocks.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * STDERR_BYTES_KEPT {
            kept.drain(..kept.len() - STDERR_BYTES_KEPT);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(STDERR_LINES_SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_given_and_a_failure_carries_the_tools_words() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two; echo because >&2; exit 3"]);
        let error = build("x", &mut command, |line| seen.push(line.to_owned()))
            .await
            .unwrap_err();
        assert_eq!(seen, ["one", "two"]);
        assert!(error.to_string().contains("because"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_tool_is_none() {
        assert!(
            probe("alephlab-no-such-tool", &[], None, Duration::from_secs(1))
                .await
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_slow_tool_is_none() {
        assert!(
            probe("sleep", &["60"], None, Duration::from_millis(50))
                .await
                .is_none()
        );
    }
}
