//! `/api/ws0/messages`: accepted messages as they come, after some history, one JSON message a frame.
//!
//! A client that reads so slowly that messages would be lost is disconnected, so that it notices
//! and asks for history when it comes back.

use std::{collections::HashSet, sync::Arc};

use axum::{
    extract::{
        Query, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    response::Response,
};
use tokio::sync::broadcast;

use super::{
    Shared,
    failure::{Answer, Failure},
    listing::{self, Filter, MessageRow},
    params::{Paging, Params, Place},
};
use crate::node::Node;

/// Messages of history when the request does not say.
const DEFAULT_HISTORY: u64 = 10;
/// History must be less than this.
const HISTORY_LIMIT: u64 = 200;

/// What one websocket wants.
struct Subscription {
    filter: Filter,
    history: u64,
    accepted: broadcast::Receiver<Arc<str>>,
}

/// `GET /api/ws0/messages` with the filters of `messages.json` and `history`.
pub(crate) async fn messages(
    State(node): Shared,
    Query(params): Query<Params>,
    upgrade: WebSocketUpgrade,
) -> Answer<Response> {
    let history = params.integer("history")?.unwrap_or(DEFAULT_HISTORY);
    if history >= HISTORY_LIMIT {
        return Err(Failure::invalid("history", "Input should be less than 200"));
    }
    // Before the history is read, so that nothing falls between the two.
    let subscription = Subscription {
        filter: Filter::of(&params)?,
        history,
        accepted: node.accepted.subscribe(),
    };
    Ok(upgrade.on_upgrade(move |socket| serve(node, socket, subscription)))
}

async fn serve(node: Arc<Node>, mut socket: WebSocket, mut subscription: Subscription) {
    let Some(sent) = send_history(&node, &mut socket, &subscription).await else {
        return;
    };
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return close(socket, close_code::AWAY, "the node stops").await,
            hash = subscription.accepted.recv() => match hash {
                Ok(hash) if sent.contains(&*hash) => {}
                Ok(hash) => {
                    if !send_matching(&node, &mut socket, &subscription.filter, &hash).await {
                        return;
                    }
                }
                Err(_) => return close(socket, close_code::AGAIN, "too slow: messages were lost").await,
            },
            frame = socket.recv() => match frame {
                // Clients may say what they like; only a close means something.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

/// Sends the newest messages, oldest first, and returns their hashes; `None` when the client is gone.
async fn send_history(
    node: &Node,
    socket: &mut WebSocket,
    subscription: &Subscription,
) -> Option<HashSet<String>> {
    if subscription.history == 0 {
        return Some(HashSet::new());
    }
    let paging = Paging {
        per_page: subscription.history,
        place: Place::Page(1),
        ascending: false,
    };
    let mut connection = node.db.acquire().await.ok()?;
    let rows = subscription.filter.page(&mut connection, &paging).await.ok()?;
    drop(connection);
    let mut sent = HashSet::new();
    for row in rows.into_iter().rev() {
        sent.insert(row.item_hash.clone());
        send(socket, row, &subscription.filter).await.then_some(())?;
    }
    Some(sent)
}

/// False when the client is gone.
async fn send_matching(node: &Node, socket: &mut WebSocket, filter: &Filter, hash: &str) -> bool {
    let Ok(mut connection) = node.db.acquire().await else {
        return false;
    };
    let found = filter.matching(&mut connection, hash).await;
    drop(connection);
    match found {
        Ok(Some(row)) => send(socket, row, filter).await,
        Ok(None) => true,
        Err(_) => false,
    }
}

async fn send(socket: &mut WebSocket, row: MessageRow, filter: &Filter) -> bool {
    match serde_json::to_string(&listing::show(row, filter.format)) {
        Ok(text) => socket.send(Message::Text(text.into())).await.is_ok(),
        Err(_) => false,
    }
}

async fn close(mut socket: WebSocket, code: u16, reason: &'static str) {
    // The client may be gone already, and then needs no goodbye.
    let _ = socket
        .send(Message::Close(Some(CloseFrame {
            code,
            reason: reason.into(),
        })))
        .await;
}
