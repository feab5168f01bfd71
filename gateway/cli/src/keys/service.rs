//! The connection of `alephlab keys` to a gateway: receives calls, has them decided and answered, reconnects.
//!
//! One call at a time: two publishes of one model must not cross, and a person reads one question at a time.

use std::io::Write as _;
use std::time::Duration;

use alephlab_api::client::GatewayClient;
use alephlab_api::keys::{Ask, KeyAnswer, KeyCall, KeyReply, KeyWake};
use alephlab_api::{Problem, Secret};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::consent::Consent;
use super::engine::Engine;
use super::rules::Answer;
use super::sales::SellRules;
use crate::error::{CliError, Result};
use crate::jupyter::channels::open_websocket;
use crate::progress::printable;

/// First pause before a lost connection is tried again; doubled up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest pause between two tries.
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Calls that wait while one is answered; more are refused by the gateway's own deadline.
const CALLS_WAITING_MAX: usize = 64;

/// How soon a sale that could not be released is tried again, and how often it is asked without being told.
const SALES_AGAIN: Duration = Duration::from_secs(20);
const SALES_LOOK: Duration = Duration::from_secs(600);

/// What waits for its turn.
enum Work {
    Call(Box<KeyCall>),
    /// It asks what this version does not know.
    Unknown(Uuid),
    /// Something may wait to be bought.
    Purchases,
}

/// What a gateway sends.
#[derive(Deserialize)]
#[serde(untagged)]
enum Sent {
    Wake(KeyWake),
    Call(Box<KeyCall>),
}

/// Answers one gateway's calls for one account.
pub(crate) struct Service {
    gateway: GatewayClient,
    token: Secret,
    engine: Engine,
    consent: Consent,
}

impl Service {
    /// A service that is not yet connected.
    pub(crate) fn new(gateway: GatewayClient, token: Secret, engine: Engine, consent: Consent) -> Self {
        Self {
            gateway,
            token,
            engine,
            consent,
        }
    }

    /// Connects and answers until stopped; a lost connection is made again, a refused one is an error.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> std::result::Result<(), String> {
        let mut pause = RETRY_FIRST;
        loop {
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                ended = self.serve() => ended,
            };
            match ended {
                Ok(()) => pause = RETRY_FIRST,
                Err(error) => {
                    tracing::warn!(%error, "keys lost its gateway");
                    // A token that is refused stays refused.
                    if let Err(error) = self.gateway.whoami().await
                        && error.code() == "gateway_refused"
                    {
                        return Err(error.to_string());
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }

    async fn serve(&mut self) -> Result<()> {
        let url = self.gateway.keys_url();
        let socket = open_websocket(url.as_str(), &self.token).await?;
        tracing::info!("keys is connected");
        let lost = |error: tokio_tungstenite::tungstenite::Error| CliError::Unreachable {
            url: url.to_string(),
            reason: error.to_string(),
        };
        let (mut sink, mut stream) = socket.split();
        let (sender, mut calls) = mpsc::channel::<Work>(CALLS_WAITING_MAX);
        // What was asked for while no machine was connected.
        let _ = sender.try_send(Work::Purchases);
        let sold = Notify::new();
        let read = async {
            // Owned by this future, so that the other one ends when the connection does.
            let sender = sender;
            while let Some(message) = stream.next().await {
                let Message::Text(text) = message.map_err(lost)? else {
                    continue;
                };
                let work = match serde_json::from_str(&text) {
                    Ok(Sent::Call(call)) => Work::Call(call),
                    Ok(Sent::Wake(KeyWake::Purchases)) => Work::Purchases,
                    Ok(Sent::Wake(KeyWake::Sales)) => {
                        sold.notify_one();
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the gateway sent a call that is not understood");
                        match id_of(&text) {
                            Some(id) => Work::Unknown(id),
                            None => continue,
                        }
                    }
                };
                if sender.try_send(work).is_err() {
                    tracing::warn!("too many calls wait: one is not taken");
                }
            }
            Ok(())
        };
        let rules = self.consent.of_sales();
        // Apart from calls: a question to a person must not keep a buyer waiting.
        let sell = Box::pin(release(&self.engine, &rules, &sold));
        let answer = async {
            while let Some(work) = calls.recv().await {
                let (id, reply) = match work {
                    Work::Call(call) => (call.id, answer(&self.engine, &mut self.consent, &call).await),
                    Work::Unknown(id) => (id, Some(not_understood())),
                    Work::Purchases => {
                        buy(&self.engine, &mut self.consent).await;
                        continue;
                    }
                };
                let Some(reply) = reply else {
                    continue;
                };
                let reply = KeyAnswer { id, reply };
                let Ok(text) = serde_json::to_string(&reply) else {
                    continue;
                };
                sink.send(Message::text(text)).await.map_err(lost)?;
            }
            Ok(())
        };
        tokio::pin!(read, answer);
        tokio::select! {
            ended = &mut read => ended,
            ended = &mut answer => ended,
            () = sell => Ok(()),
        }
    }
}

/// Releases what was sold, now and whenever more is. Never ends.
async fn release(engine: &Engine, rules: &SellRules, sold: &Notify) {
    loop {
        let done = engine.release_sales(rules).await;
        let pause = match done {
            Ok(done) => {
                for line in &done.released {
                    drop(writeln!(std::io::stderr(), "{}", printable(line)));
                }
                if done.left { SALES_AGAIN } else { SALES_LOOK }
            }
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "what was sold is not known");
                SALES_AGAIN
            }
        };
        // Nobody waits for longer than that, though a wake-up may be lost.
        let _ = tokio::time::timeout(pause, sold.notified()).await;
    }
}

/// The id of a call that asks what this version does not know; nothing for what is no call.
fn id_of(text: &str) -> Option<Uuid> {
    #[derive(Deserialize)]
    struct Named {
        id: Uuid,
    }
    serde_json::from_str::<Named>(text).ok().map(|named| named.id)
}

/// Another machine of the account may be newer: its answer counts then.
fn not_understood() -> KeyReply {
    let problem = Problem::new(
        "ask_unknown",
        "the owner's alephlab does not know what is asked of it",
    );
    KeyReply::Refused {
        problem: problem.with_hint("update alephlab where `alephlab keys` runs"),
    }
}

/// Buys what was asked for and agreed to.
async fn buy(engine: &Engine, consent: &mut Consent) {
    match engine.buy_wanted(consent).await {
        Ok(bought) => {
            for line in &bought {
                drop(writeln!(std::io::stderr(), "{}", printable(line)));
            }
        }
        // Asked for again at the next connection, or when the buyer presses again.
        Err(error) => {
            tracing::warn!(code = error.code(), %error, "what was to be bought is not known");
        }
    }
}

/// What to reply; `None` leaves it to another machine.
async fn answer(engine: &Engine, consent: &mut Consent, call: &KeyCall) -> Option<KeyReply> {
    let refused = |problem| Some(KeyReply::Refused { problem });
    if let Ask::Open { reference } = &call.request.ask {
        // Rules must judge one thing alike however it is written. What is not found is said when it is opened.
        let _ = engine.look_up(reference).await;
    }
    let names = engine.names(&call.request.ask);
    let details = engine.describe(&call.request).await;
    match consent.decide(call, names, details).await {
        Ok(Some(Answer::Yes)) => {}
        Ok(Some(Answer::No)) => {
            let problem = Problem::new("keys_refused", "the owner of the keys said no");
            return refused(problem.with_hint("ask the owner, or change rules.json on the owner's machine"));
        }
        Ok(None) => return None,
        Err(error) => return refused(problem(&error)),
    }
    match engine.answer(call).await {
        Ok(reply) => Some(reply),
        Err(error) => {
            tracing::warn!(code = error.code(), "a call could not be answered");
            refused(problem(&error))
        }
    }
}

pub(super) fn problem(error: &CliError) -> Problem {
    Problem {
        code: error.code().to_owned(),
        message: error.to_string(),
        hint: error.hint(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_a_newer_kernel_is_answered_and_other_text_is_not() {
        let id = Uuid::from_u128(7);
        let newer = format!(r#"{{"id":"{id}","kernel":{{}},"request":{{"kernel_key":"00","ask":"dance"}}}}"#);
        assert!(serde_json::from_str::<Sent>(&newer).is_err());
        assert_eq!(id_of(&newer), Some(id));
        assert!(id_of("{}").is_none() && id_of("x").is_none());
    }
}
