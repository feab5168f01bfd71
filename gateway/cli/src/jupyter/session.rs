//! One notebook on one kernel of a gateway, from POST to DELETE, shown as phases.

use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::client::GatewayClient;
use alephlab_api::jupyter::NewKernel;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::execute::{self, Target, Watch};
use super::notebook::Notebook;
use crate::error::{CliError, Result};
use crate::progress::{Phase, Reporter};
use crate::stop::or_stop;

/// How long a gateway may take to say which kernel it allocated after the user stopped the command.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// A gateway first gives a kernel and its broker time to end by themselves.
const DELETE_DEADLINE: Duration = Duration::from_secs(20);
/// The kernelspec that every gateway of ours has.
const KERNELSPEC: &str = "alephlab";

/// Where to run and whom to tell.
pub(crate) struct Place<'a> {
    /// The gateway, with the account's token.
    pub gateway: &'a GatewayClient,
    /// The same token, for the WebSocket.
    pub token: &'a Secret,
    /// Shows the phases.
    pub reporter: &'a Reporter,
    /// Cancelled by Ctrl-C.
    pub stop: &'a CancellationToken,
}

impl Place<'_> {
    fn target(&self, kernel: Uuid) -> Target<'_> {
        Target {
            gateway: self.gateway,
            token: self.token,
            kernel,
        }
    }
}

/// Allocates a kernel and waits until it answers; on failure nothing of it stays.
pub(crate) async fn start(place: &Place<'_>, name: &'static str) -> Result<Uuid> {
    start_with(place, name, NewKernel::default()).await
}

/// The same for a kernel that is asked for in a certain way; its kernelspec is ours.
pub(crate) async fn start_with(place: &Place<'_>, name: &'static str, mut wanted: NewKernel) -> Result<Uuid> {
    let phase = place.reporter.phase(name, "allocating a kernel");
    wanted.name = Some(KERNELSPEC.to_owned());
    let kernel = allocate(place, &wanted).await?;
    phase.progress(0, 0, &format!("kernel {kernel} starts"));
    let target = place.target(kernel);
    let ready = tokio::select! {
        biased;
        () = place.stop.cancelled() => Err(CliError::Stopped { doing: "a kernel started".to_owned() }),
        ready = execute::connect(&target) => ready,
    };
    match ready {
        Ok(channels) => {
            channels.close().await;
            phase.finish(&format!("kernel {kernel} is ready"));
            Ok(kernel)
        }
        Err(error) => {
            stop(place, kernel).await;
            Err(error)
        }
    }
}

/// Asks the gateway for a kernel. After Ctrl-C the answer is awaited for a moment: a kernel that was allocated all the
/// same must not stay, on a gateway that outlives this command.
async fn allocate(place: &Place<'_>, wanted: &NewKernel) -> Result<Uuid> {
    let asking = place.gateway.start_kernel(wanted);
    tokio::pin!(asking);
    tokio::select! {
        biased;
        () = place.stop.cancelled() => {
            if let Ok(Ok(kernel)) = tokio::time::timeout(STOP_PATIENCE, &mut asking).await {
                stop(place, kernel.id).await;
            }
            Err(CliError::Stopped { doing: "a kernel was asked for".to_owned() })
        }
        answer = &mut asking => Ok(answer?.id),
    }
}

/// Runs the notebook; Ctrl-C ends it and keeps the outputs of the cells that had ended.
pub(crate) async fn run(
    place: &Place<'_>,
    name: &'static str,
    kernel: Uuid,
    notebook: &mut Notebook,
) -> Result<()> {
    let phase = place.reporter.phase(name, "connecting to the kernel");
    let target = place.target(kernel);
    let mut channels = or_stop(place.stop, "connecting to a kernel", execute::connect(&target)).await?;
    let mut watch = Lines {
        phase: &phase,
        pending: String::new(),
        number: 0,
        total: 0,
    };
    let result = tokio::select! {
        biased;
        () = place.stop.cancelled() => Err(CliError::Stopped { doing: "a notebook ran".to_owned() }),
        result = execute::run(&target, &mut channels, notebook, &mut watch) => result,
    };
    watch.flush();
    channels.close().await;
    result?;
    phase.finish("every cell ran");
    Ok(())
}

/// Deletes the kernel. A kernel that cannot be deleted is ended by the gateway's own end; the log keeps the reason.
pub(crate) async fn stop(place: &Place<'_>, kernel: Uuid) {
    match tokio::time::timeout(DELETE_DEADLINE, place.gateway.stop_kernel(kernel)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%kernel, %error, "the kernel could not be deleted"),
        Err(_) => tracing::warn!(%kernel, "the gateway did not say in time that the kernel is deleted"),
    }
}

/// Shows a notebook's output line by line below its phase.
struct Lines<'a> {
    phase: &'a Phase,
    pending: String,
    number: usize,
    total: usize,
}

impl Lines<'_> {
    fn flush(&mut self) {
        let rest = std::mem::take(&mut self.pending);
        self.line(&rest);
    }

    /// A carriage return starts a line over: only what it ends with is shown.
    fn line(&self, text: &str) {
        let shown = text.trim_end().rsplit('\r').next().unwrap_or_default();
        if !shown.trim().is_empty() {
            self.phase.say(&format!("  {shown}"));
        }
    }
}

impl Watch for Lines<'_> {
    fn cell(&mut self, number: usize, total: usize, source: &str) {
        self.flush();
        (self.number, self.total) = (number, total);
        let first = source
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        self.phase.say(&format!("cell {number}/{total}: {first}"));
    }

    fn output(&mut self, text: &str) {
        self.pending.push_str(text);
        while let Some(end) = self.pending.find('\n') {
            let line: String = self.pending.drain(..=end).collect();
            self.line(&line);
        }
    }

    fn display(&mut self, text: &str) {
        let last = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        self.phase.progress(self.number as u64, self.total as u64, last);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_gateway_that_never_answers_does_not_hold_up_a_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (token, stop) = (Secret::new("t"), CancellationToken::new());
        let pressed = stop.clone();
        let silent = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4];
            socket.read_exact(&mut request).await.unwrap();
            pressed.cancel();
            // Held open, without an answer.
            (socket, request)
        });
        let place = Place {
            gateway: &GatewayClient::new(&url, Some(token.clone())).unwrap(),
            token: &token,
            reporter: &Reporter::new(),
            stop: &stop,
        };
        let started = start(&place, "kernel").await;
        assert!(matches!(started, Err(CliError::Stopped { .. })));
        assert_eq!(&silent.await.unwrap().1, b"POST");
    }
}
