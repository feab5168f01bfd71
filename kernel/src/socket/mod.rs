//! The ROUTER and REP channels, one file each; zeromq serves them. IOPub is [`crate::iopub`].
//!
//! A peer that breaks, leaves or sends garbage never ends a loop here. Started by [`crate::kernel`].

mod control;
mod heartbeat;
mod shell;
mod stdin;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use zeromq::{RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

pub(crate) use control::Control;
pub(crate) use heartbeat::Heartbeat;
pub(crate) use shell::Shell;
pub(crate) use stdin::{Questions, Stdin};

use crate::connection::{Channel, Connection};
use crate::wire::{Parts, Request, Session};
use crate::{Error, Result};

/// A client that does not take its reply for so long gets none.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// Receives the requests of a channel.
pub(crate) struct Requests {
    receive: RouterRecvHalf,
    session: Arc<Session>,
    channel: Channel,
}

/// Answers on a channel.
#[derive(Clone)]
pub(crate) struct Replies {
    send: RouterSendHalf,
    session: Arc<Session>,
}

/// Binds the ROUTER of a channel.
pub(crate) async fn bind(
    connection: &Connection,
    channel: Channel,
    session: &Arc<Session>,
) -> Result<(Requests, Replies)> {
    let mut socket = RouterSocket::new();
    let address = connection.address(channel);
    socket.bind(&address).await.map_err(|error| Error::Bind {
        channel: channel.name(),
        address,
        message: error.to_string(),
    })?;
    let (send, receive) = socket.split();
    let requests = Requests {
        receive,
        session: Arc::clone(session),
        channel,
    };
    Ok((
        requests,
        Replies {
            send,
            session: Arc::clone(session),
        },
    ))
}

impl Requests {
    /// The next request with a good signature. Others are dropped in silence.
    pub(crate) async fn next(&mut self) -> Request {
        loop {
            let frames = match self.receive.recv().await {
                Ok(message) => message.into_vec(),
                Err(error) => {
                    tracing::debug!(channel = self.channel.name(), %error, "peer broke");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            match self.session.decode(&frames) {
                Ok(request) => return request,
                Err(reason) => tracing::warn!(channel = self.channel.name(), ?reason, "message dropped"),
            }
        }
    }
}

impl Replies {
    /// Sends the reply to a request. `x_request` is answered by `x_reply`.
    pub(crate) async fn reply(&self, request: &Request, content: &impl Serialize) {
        self.reply_with(request, &json!({}), content).await;
    }

    /// As [`Replies::reply`], with metadata.
    pub(crate) async fn reply_with(&self, request: &Request, metadata: &Value, content: &impl Serialize) {
        let msg_type = request.msg_type.replace("_request", "_reply");
        let parts = self.session.encode(&msg_type, &request.parent, metadata, content);
        self.send(&request.identities, parts).await;
    }

    /// Sends any message to one client; false when the client is gone.
    pub(crate) async fn send(&self, identities: &[Bytes], parts: Parts) -> bool {
        let Ok(message) = ZmqMessage::try_from(parts.frames(identities)) else {
            return false;
        };
        let mut half = self.send.clone();
        match tokio::time::timeout(SEND_LIMIT, half.send(message)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "client is gone before its reply");
                false
            }
            Err(_) => {
                tracing::warn!("client does not take its reply");
                false
            }
        }
    }
}
