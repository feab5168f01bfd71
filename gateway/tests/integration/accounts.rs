//! Signing in, and key requests between kernels and the owner's machines.

use alephlab_api::account::SignIn;
use alephlab_api::client::ClientError;
use alephlab_api::keys::{Ask, KeyAnswer, KeyCall, KeyReply, KeyRequest};
use alephlab_api::{Problem, Secret};
use alephlab_vault::Wallet;
use futures_util::SinkExt as _;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{OWNER, Socket, TOKEN, World, next};

async fn keys(world: &World, token: &str) -> Socket {
    let mut request = world.client().keys_url().as_str().into_client_request().unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    connect_async(request).await.unwrap().0
}

fn status(error: ClientError) -> u16 {
    match error {
        ClientError::Refused { status, .. } => status,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_wallet_signs_in_once_for_each_text() {
    let world = World::start().await;
    let (client, wallet) = (world.client(), Wallet::generate().unwrap());
    let address = wallet.address();
    let challenge = client.challenge(&address.to_lowercase()).await.unwrap();
    assert!(challenge.message.contains(&address) && challenge.message.contains(&challenge.nonce));
    let signature = wallet.sign_text(&challenge.message).unwrap();
    let signed = SignIn {
        address: address.clone(),
        nonce: challenge.nonce,
        signature,
    };
    let signed_in = client.sign_in(&signed).await.unwrap();
    let who = client.with_token(signed_in.token).whoami().await.unwrap();
    assert_eq!((who.address, who.operator), (address.clone(), false));
    assert_eq!(
        status(client.sign_in(&signed).await.unwrap_err()),
        401,
        "a text is used once"
    );
    let challenge = client.challenge(&address).await.unwrap();
    let other = Wallet::generate().unwrap().sign_text(&challenge.message).unwrap();
    let forged = SignIn {
        address,
        nonce: challenge.nonce,
        signature: other,
    };
    assert_eq!(status(client.sign_in(&forged).await.unwrap_err()), 401);
    assert_eq!(status(client.challenge("0x12").await.unwrap_err()), 400);
    assert_eq!(
        client.whoami().await.unwrap().address.to_lowercase(),
        OWNER.to_lowercase()
    );
}

#[tokio::test]
async fn kernels_of_one_account_are_hidden_from_another() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let wallet = Wallet::generate().unwrap();
    let challenge = world.client().challenge(&wallet.address()).await.unwrap();
    let signature = wallet.sign_text(&challenge.message).unwrap();
    let signed = SignIn {
        address: wallet.address(),
        nonce: challenge.nonce,
        signature,
    };
    let token = world.client().sign_in(&signed).await.unwrap().token;
    let other = world.client().with_token(token);
    assert!(other.kernels().await.unwrap().is_empty());
    for outcome in [
        other.kernel(kernel).await.map(|_| ()),
        other.stop_kernel(kernel).await,
    ] {
        assert_eq!(status(outcome.unwrap_err()), 404);
    }
    world.client().kernel(kernel).await.unwrap();
}

#[tokio::test]
async fn a_refusal_of_the_owner_reaches_the_kernel_and_the_first_answer_counts() {
    let world = World::start().await;
    world.kernel().await;
    let token: Secret = world.host.kernel_token.lock().unwrap().clone().unwrap();
    let broker = world.client().with_token(token);
    let (mut one, mut two) = (keys(&world, TOKEN).await, keys(&world, TOKEN).await);
    let request = KeyRequest {
        kernel_key: "00".repeat(32),
        ask: Ask::Open {
            reference: "digits".into(),
        },
    };
    let asked = request.clone();
    let asking = tokio::spawn(async move { broker.ask_keys(&asked).await });
    let mut calls = Vec::new();
    for socket in [&mut one, &mut two] {
        let Message::Text(text) = next(socket).await else {
            panic!("calls are text")
        };
        calls.push(serde_json::from_str::<KeyCall>(text.as_str()).unwrap());
    }
    assert_eq!(calls[0], calls[1]);
    assert_eq!(
        (&calls[0].request, calls[0].kernel.host.as_str()),
        (&request, "fake-machine")
    );
    for (socket, code) in [(&mut two, "first"), (&mut one, "second")] {
        let reply = KeyReply::Refused {
            problem: Problem::new(code, "the owner said no"),
        };
        let answer = serde_json::to_string(&KeyAnswer {
            id: calls[0].id,
            reply,
        })
        .unwrap();
        socket.send(Message::text(answer)).await.unwrap();
        // The second is sent only after the first counted.
        if code == "first" {
            crate::support::eventually("the answer", || async { asking.is_finished().then_some(()) }).await;
        }
    }
    let KeyReply::Refused { problem } = asking.await.unwrap().unwrap() else {
        panic!("a refusal")
    };
    assert_eq!(problem.code, "first");
}

#[tokio::test]
async fn an_account_token_cannot_ask_and_a_kernel_token_cannot_answer() {
    let world = World::start().await;
    let request = KeyRequest {
        kernel_key: String::new(),
        ask: Ask::Prepare { model: "m".into() },
    };
    assert_eq!(status(world.client().ask_keys(&request).await.unwrap_err()), 403);
    let session = world.client().new_kernel_session().await.unwrap();
    let mut request = world.client().keys_url().as_str().into_client_request().unwrap();
    request.headers_mut().insert(
        "authorization",
        format!("Bearer {}", session.token.expose()).parse().unwrap(),
    );
    assert!(connect_async(request).await.is_err());
}
