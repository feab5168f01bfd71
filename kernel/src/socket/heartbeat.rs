//! Heartbeat: sends back the bytes that came. On its own task, so that it answers whatever else happens.

use tokio_util::sync::CancellationToken;
use zeromq::{RepSocket, Socket, SocketRecv, SocketSend};

use crate::connection::{Channel, Connection};
use crate::{Error, Result};

/// The heartbeat channel.
pub(crate) struct Heartbeat {
    socket: RepSocket,
}

impl Heartbeat {
    /// Binds the channel.
    pub(crate) async fn bind(connection: &Connection) -> Result<Self> {
        let mut socket = RepSocket::new();
        let address = connection.address(Channel::Heartbeat);
        let bound = socket.bind(&address).await;
        bound.map_err(|error| Error::Bind {
            channel: "heartbeat",
            address,
            message: error.to_string(),
        })?;
        Ok(Self { socket })
    }

    /// Echoes until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let ping = tokio::select! {
                () = cancel.cancelled() => return,
                ping = self.socket.recv() => ping,
            };
            match ping {
                Ok(ping) => drop(self.socket.send(ping).await),
                Err(error) => {
                    tracing::debug!(%error, "heartbeat peer broke");
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
