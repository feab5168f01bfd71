//! How the gateway reaches a rented host while it joins, to hand it its lease: SSH with a key of that lease only, which stands in the
//! INSTANCE message; nothing in the message opens anything.
//!
//! The host's own key is not known beforehand and is taken as it comes: its owner, who can read its memory anyway, could
//! answer in its place, and so could whoever sits on the way in that time (ADR 20).

use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::{Join, Joined};
use russh::client::{self, Handler};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{GatewayError, Result};

/// Who the image lets in.
const USER: &str = "root";
/// What takes the lease there.
const COMMAND: &str = "alephlab-agent join";
const CONNECT: Duration = Duration::from_secs(5);
/// The whole hand-over.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than the agent answers.
const MAX_ANSWER: usize = 16 << 10;

/// Where a host's SSH server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The key pair of a lease.
pub(super) fn key(seed: &[u8; 32]) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(seed))
}

/// As `authorized_keys` takes it.
pub(super) fn public(seed: &[u8; 32]) -> Result<String> {
    let key = key(seed);
    let line = key.public_key().to_openssh();
    line.map_err(|error| failed(&format!("the lease's key cannot be written: {error}")))
}

/// Whether somebody listens there.
pub(super) async fn answers(address: &Address) -> bool {
    let dialled = TcpStream::connect((address.host.as_str(), address.port));
    timeout(CONNECT, dialled)
        .await
        .is_ok_and(|dialled| dialled.is_ok())
}

/// Hands a lease over.
pub(super) async fn hand_over(address: &Address, seed: &[u8; 32], join: &Join) -> Result<Joined> {
    let handed = timeout(PATIENCE, talk(address, seed, join)).await;
    handed.unwrap_or_else(|_| {
        let seconds = PATIENCE.as_secs();
        Err(failed(&format!(
            "the host did not take its lease within {seconds} s"
        )))
    })
}

async fn talk(address: &Address, seed: &[u8; 32], join: &Join) -> Result<Joined> {
    let ssh = |error: russh::Error| failed(&format!("its SSH server: {error}"));
    let config = Arc::new(client::Config::default());
    let place = (address.host.as_str(), address.port);
    let mut session = client::connect(config, place, AnyHost).await.map_err(ssh)?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(key(seed)), None);
    let allowed = session.authenticate_publickey(USER, key).await.map_err(ssh)?;
    if !allowed.success() {
        return Err(failed("its SSH server does not take the lease's key"));
    }
    let mut channel = session.channel_open_session().await.map_err(ssh)?;
    channel.exec(true, COMMAND).await.map_err(ssh)?;
    let lease = serde_json::to_vec(join).map_err(|error| failed(&error.to_string()))?;
    channel.data_bytes(lease).await.map_err(ssh)?;
    channel.eof().await.map_err(ssh)?;
    let (mut answer, mut complaint, mut status) = (Vec::new(), Vec::new(), None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => keep(&mut answer, &data),
            ChannelMsg::ExtendedData { data, .. } => keep(&mut complaint, &data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    let _ = session.disconnect(Disconnect::ByApplication, "", "").await;
    if status != Some(0) {
        let said = String::from_utf8_lossy(&complaint);
        let said: String = said
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        return Err(failed(&format!("its agent did not take the lease: {said}")));
    }
    serde_json::from_slice(&answer)
        .map_err(|error| failed(&format!("its agent answered something else: {error}")))
}

fn keep(kept: &mut Vec<u8>, more: &[u8]) {
    let room = MAX_ANSWER.saturating_sub(kept.len());
    kept.extend_from_slice(&more[..more.len().min(room)]);
}

fn failed(reason: &str) -> GatewayError {
    GatewayError::Host {
        reason: reason.to_owned(),
    }
}

/// Takes whatever key the host has; see the module's text.
struct AnyHost;

impl Handler for AnyHost {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, Self::Error> {
        Ok(true)
    }
}
