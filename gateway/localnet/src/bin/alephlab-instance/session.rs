//! One SSH connection: who is let in, and the commands that it runs.

use std::{collections::HashMap, os::unix::process::ExitStatusExt, process::Stdio, sync::Arc};

use russh::{
    Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Error,
    keys::PublicKey,
    server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, VerifiedPublicKey},
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
};

/// The only account.
const ACCOUNT: &str = "root";

/// What the client calls standard error (RFC 4254, section 5.2).
const STDERR: Option<u32> = Some(1);

/// Exit status of a command that could not be started, as shells have it.
const NOT_STARTED: u32 = 126;

/// One connection.
pub(crate) struct Session {
    keys: Arc<[PublicKey]>,
    /// Open channels that run nothing yet.
    idle: HashMap<ChannelId, Channel<Msg>>,
}

impl Session {
    pub(crate) fn new(keys: Arc<[PublicKey]>) -> Self {
        Self {
            keys,
            idle: HashMap::new(),
        }
    }

    fn judge(&self, account: &str, key: &PublicKey) -> Auth {
        let known = self.keys.iter().any(|known| known.key_data() == key.key_data());
        if account == ACCOUNT && known {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }
}

impl Handler for Session {
    type Error = Error;

    async fn auth_publickey_offered(
        &mut self,
        account: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Error> {
        Ok(self.judge(account, offer.public_key))
    }

    async fn auth_publickey(&mut self, account: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Error> {
        Ok(self.judge(account, key.public_key))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut russh::server::Session,
    ) -> Result<(), Error> {
        self.idle.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut russh::server::Session,
    ) -> Result<(), Error> {
        let command = std::str::from_utf8(command).map(str::to_owned);
        match (self.idle.remove(&channel), command) {
            (Some(idle), Ok(command)) => {
                session.channel_success(channel)?;
                tokio::spawn(run(idle, command));
                Ok(())
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut russh::server::Session,
    ) -> Result<(), Error> {
        // Without an answer the client would wait for one.
        session.channel_failure(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut russh::server::Session,
    ) -> Result<(), Error> {
        session.channel_failure(channel)
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut russh::server::Session,
    ) -> Result<(), Error> {
        self.idle.remove(&channel);
        Ok(())
    }
}

/// Runs a command until it and whoever else holds its output have ended. A client that leaves does not end it: as with
/// any SSH server it then writes to nobody.
async fn run(channel: Channel<Msg>, command: String) {
    let (input, output) = channel.split();
    let started = Command::new("/bin/sh")
        .args(["-c", &command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let status = match started {
        Ok(child) => follow(child, input, &output).await,
        Err(error) => {
            let _ = output.extended_data(1, error.to_string().as_bytes()).await;
            NOT_STARTED
        }
    };
    // The client may be gone.
    let _ = output.exit_status(status).await;
    let _ = output.eof().await;
    let _ = output.close().await;
}

async fn follow(mut child: Child, input: ChannelReadHalf, output: &ChannelWriteHalf<Msg>) -> u32 {
    if let Some(stdin) = child.stdin.take() {
        tokio::spawn(feed(input, stdin));
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let pump_stdout = async {
        if let Some(mut stdout) = stdout {
            let _ = tokio::io::copy(&mut stdout, &mut output.make_writer()).await;
        }
    };
    let pump_stderr = async {
        if let Some(mut stderr) = stderr {
            let _ = tokio::io::copy(&mut stderr, &mut output.make_writer_ext(STDERR)).await;
        }
    };
    tokio::join!(pump_stdout, pump_stderr);
    match child.wait().await {
        // As a shell tells of signals.
        Ok(status) => status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .and_then(|code| u32::try_from(code).ok())
            .unwrap_or(NOT_STARTED),
        Err(_) => NOT_STARTED,
    }
}

/// Passes what the client sends until it says that this was all, or leaves.
async fn feed(mut input: ChannelReadHalf, mut stdin: ChildStdin) {
    let mut is_open = true;
    while let Some(message) = input.wait().await {
        match message {
            // What a command no longer reads is dropped, so that the connection goes on.
            ChannelMsg::Data { data } if is_open => is_open = stdin.write_all(&data).await.is_ok(),
            ChannelMsg::Eof | ChannelMsg::Close => break,
            _ => {}
        }
    }
}
