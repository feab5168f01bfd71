//! Signing in, and key requests between kernels and the owner's machines.

use std::time::Duration;

use alephlab_api::account::{AccountChange, Role, SignIn};
use alephlab_api::client::ClientError;
use alephlab_api::keys::{Ask, KeyAnswer, KeyCall, KeyReply, KeyRequest};
use alephlab_api::{Problem, Secret, time};
use alephlab_vault::Wallet;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{OWNER, Socket, TOKEN, World, next, sign_in};

async fn keys(world: &World, token: &str) -> Socket {
    let mut request = world.client().keys_url().as_str().into_client_request().unwrap();
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    connect_async(request).await.unwrap().0
}

/// Waits until the gateway has read all that was sent.
async fn pong(socket: &mut Socket) {
    let answered = async { while !matches!(socket.next().await, Some(Ok(Message::Pong(_)))) {} };
    tokio::time::timeout(Duration::from_secs(20), answered)
        .await
        .unwrap();
}

fn status(error: ClientError) -> u16 {
    match error {
        ClientError::Refused { status, .. } => status,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_wallet_signs_in_once_for_each_text() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address().to_lowercase()).await;
    let (client, address) = (world.client(), wallet.address());
    let challenge = client.challenge(&address.to_lowercase()).await.unwrap();
    assert!(challenge.message.contains(&address) && challenge.message.contains(&challenge.nonce));
    let signature = wallet.sign_text(&challenge.message).unwrap();
    let signed = SignIn {
        address: address.clone(),
        nonce: challenge.nonce,
        signature,
    };
    let signed_in = client.sign_in(&signed).await.unwrap();
    let expires = signed_in.expires.unwrap();
    assert!(expires > time::now() && expires.ends_with('Z'), "{expires}");
    let who = client.with_token(signed_in.token).whoami().await.unwrap();
    assert_eq!((who.address, who.operator), (Some(address.clone()), false));
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
    // The character NUL is in no nonce and no name, whatever the database makes of it.
    let nonce = "\0".to_owned();
    let forged = SignIn { nonce, ..forged };
    assert_eq!(status(client.sign_in(&forged).await.unwrap_err()), 401);
    let nothing = AccountChange::default();
    let nobody = client.change_account("%00", &nothing).await;
    assert_eq!(status(nobody.unwrap_err()), 404);
    assert_eq!(status(client.challenge("0x12").await.unwrap_err()), 400);
    assert_eq!(
        client.whoami().await.unwrap().account.to_lowercase(),
        OWNER.to_lowercase()
    );
}

#[tokio::test]
async fn a_stranger_is_refused_only_after_the_signature_was_proven() {
    let world = World::start().await;
    let (client, stranger) = (world.client(), Wallet::generate().unwrap());
    let refused = sign_in(&world, &stranger).await.unwrap_err();
    let ClientError::Refused { status: 403, problem } = refused else {
        panic!("{refused}")
    };
    assert_eq!(problem.code, "not_admitted");
    assert!(problem.hint.unwrap().contains("gateway.accounts"));
    for address in [OWNER.to_owned(), stranger.address()] {
        let challenge = client.challenge(&address).await.unwrap();
        let forged = SignIn {
            signature: Wallet::generate().unwrap().sign_text(&challenge.message).unwrap(),
            nonce: challenge.nonce,
            address,
        };
        let refused = client.sign_in(&forged).await.unwrap_err();
        assert_eq!(
            refused.to_problem().code,
            "sign_in_refused",
            "who is admitted shows not"
        );
    }
}

#[tokio::test]
async fn a_change_of_an_account_that_is_refused_changes_nothing() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let operator = world.client();
    let change = |role, admitted| AccountChange { role, admitted };
    let both = change(Some(Role::Operator), Some(false));
    let refused = operator.change_account(&wallet.address(), &both).await;
    assert_eq!(refused.unwrap_err().to_problem().code, "admitted_by_settings");
    let accounts = operator.accounts().await.unwrap();
    let theirs = accounts.iter().find(|one| one.account == wallet.address());
    assert_eq!(theirs.unwrap().role, Role::User);
    let promote = change(Some(Role::Operator), None);
    operator
        .change_account(&wallet.address(), &promote)
        .await
        .unwrap();
    let token = sign_in(&world, &wallet).await.unwrap().token;
    let second = operator.with_token(token);
    let own = second
        .change_account(&wallet.address(), &change(None, Some(false)))
        .await;
    assert_eq!(own.unwrap_err().to_problem().code, "own_account");
    let started_with = operator.whoami().await.unwrap().account;
    let other = second
        .change_account(&started_with, &change(None, Some(false)))
        .await;
    assert_eq!(other.unwrap_err().to_problem().code, "admitted_by_settings");
}

#[tokio::test]
async fn tokens_end_with_the_configuration_that_gave_them() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let token = sign_in(&world, &wallet).await.unwrap().token;
    let page = world
        .http()
        .get(format!("{}/?token={TOKEN}", world.url))
        .send()
        .await
        .unwrap();
    let cookie = page.headers()["set-cookie"].to_str().unwrap();
    // The name holds the port, which the next gateway has another of.
    let cookie = cookie.split(['=', ';']).nth(1).unwrap().to_owned();
    let data = world.stop().await;
    let world = World::start_as(data, false, "another-token-0123456789", vec![wallet.address()]).await;
    for old in [TOKEN, &cookie] {
        let old = world.client().with_token(Secret::new(old));
        assert_eq!(status(old.whoami().await.unwrap_err()), 401);
    }
    let signed_in = world.client().with_token(token.clone());
    assert_eq!(signed_in.whoami().await.unwrap().account, wallet.address());
    let world = World::start_in(world.stop().await, false).await;
    world.client().whoami().await.unwrap();
    let refused = world.client().with_token(token).whoami().await.unwrap_err();
    assert_eq!(status(refused), 401, "the account is no longer admitted");
}

#[tokio::test]
async fn a_peer_gets_only_so_many_texts_to_sign() {
    let world = World::start().await;
    for _ in 0..30 {
        world.client().challenge(OWNER).await.unwrap();
    }
    let refused = world.client().challenge(OWNER).await.unwrap_err();
    assert_eq!(status(refused), 429);
}

#[tokio::test]
async fn kernels_of_one_account_are_hidden_from_another() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let kernel = world.kernel().await.id;
    let token = sign_in(&world, &wallet).await.unwrap().token;
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
        walls: Vec::new(),
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
async fn a_machine_that_does_not_know_a_name_leaves_it_to_another() {
    let world = World::start().await;
    let session = world.client().new_kernel_session().await.unwrap();
    let broker = world.client().with_token(session.token);
    let (mut one, mut two) = (keys(&world, TOKEN).await, keys(&world, TOKEN).await);
    let ask = Ask::Prepare { model: "m".into() };
    let request = KeyRequest {
        kernel_key: "00".repeat(32),
        walls: Vec::new(),
        ask,
    };
    let asking = tokio::spawn(async move { broker.ask_keys(&request).await });
    let mut id = None;
    for (socket, code) in [(&mut one, "unknown_name"), (&mut two, "keys_refused")] {
        let Message::Text(text) = next(socket).await else {
            panic!("calls are text")
        };
        let call: KeyCall = serde_json::from_str(text.as_str()).unwrap();
        assert_eq!(*id.get_or_insert(call.id), call.id);
        let problem = Problem::new(code, "no");
        let reply = KeyReply::Refused { problem };
        let answer = serde_json::to_string(&KeyAnswer { id: call.id, reply }).unwrap();
        socket.send(Message::text(answer)).await.unwrap();
        // Answered in order: the pong comes after the answer was taken.
        socket.send(Message::Ping("x".into())).await.unwrap();
        pong(socket).await;
    }
    let KeyReply::Refused { problem } = asking.await.unwrap().unwrap() else {
        panic!("a refusal")
    };
    assert_eq!(problem.code, "keys_refused");
}

#[tokio::test]
async fn an_account_token_cannot_ask_and_a_kernel_token_cannot_answer() {
    let world = World::start().await;
    let request = KeyRequest {
        kernel_key: String::new(),
        walls: Vec::new(),
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
