//! What happens when a start fails, a host is lost, or the gateway is started again.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use alephlab_api::jupyter::NewKernel;
use alephlab_api::ledger::NewCredit;
use alephlab_api::money::{Amount, Asset};
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::fake_host::FakeHost;
use crate::support::{OWNER, TOKEN, World, change_database, eventually, next, text};

#[tokio::test]
async fn a_failed_start_is_dead_and_says_why_on_connect() {
    let world = World::start().await;
    let env = BTreeMap::from([("KERNEL_FAILS".to_owned(), "1".to_owned())]);
    let kernel = world
        .client()
        .start_kernel(&NewKernel {
            env,
            ..NewKernel::default()
        })
        .await
        .unwrap();
    let dead = world.until(kernel.id, "dead").await;
    assert_eq!(dead.reason.as_deref(), Some("the compiler is missing"));
    let mut socket = world.channels(kernel.id, "s", &[]).await;
    let first = text(&next(&mut socket).await);
    assert!(
        first["content"]["text"]
            .as_str()
            .unwrap()
            .contains("the compiler is missing"),
        "{first}"
    );
    assert_eq!(
        text(&next(&mut socket).await)["content"]["execution_state"],
        "dead"
    );
    world.client().stop_kernel(kernel.id).await.unwrap();
}

#[tokio::test]
async fn a_lost_host_kills_its_kernels_and_is_replaced() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world.channels(kernel, "s", &[]).await;
    let token = world.host.kernel_token.lock().unwrap().clone().unwrap();
    let broker = async || {
        let request = world.http().post(format!("{}/v1/keys/requests", world.url));
        let sent = request.body("{}").bearer_auth(token.expose()).send().await;
        sent.unwrap().status().as_u16()
    };
    assert_eq!(broker().await, 400, "its token works, but it asks nothing");
    world.host.lose();
    let dead = world.until(kernel, "dead").await;
    assert_eq!(broker().await, 401, "its token went with the lease");
    assert!(dead.reason.unwrap().contains("switched off"));
    assert!(
        text(&next(&mut socket).await)["content"]["text"]
            .as_str()
            .unwrap()
            .contains("switched off")
    );
    assert!(world.client().restart_kernel(kernel).await.is_err());
    eventually("another host", || async {
        world.client().start_kernel(&NewKernel::default()).await.ok()
    })
    .await;
    assert!(world.host.rented.load(Ordering::SeqCst) >= 2);
    world.client().stop_kernel(kernel).await.unwrap();
}

#[tokio::test]
async fn without_a_host_a_start_is_refused_or_dead_with_the_reason() {
    let world = World::start_in(tempfile::tempdir().unwrap(), true).await;
    let reason = match world.client().start_kernel(&NewKernel::default()).await {
        Ok(kernel) => world.until(kernel.id, "dead").await.reason.unwrap(),
        Err(error) => error.to_string(),
    };
    assert!(
        reason.contains("switched off") || reason.contains("starting"),
        "{reason}"
    );
    assert_eq!(world.client().health().await.unwrap().agent, "off");
}

#[tokio::test]
async fn a_restarted_gateway_remembers_dead_kernels_and_accounts() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world.channels(kernel, "s", &[]).await;
    let session = world.client().new_kernel_session().await.unwrap();
    let data = world.stop().await;
    loop {
        // What was said before comes first; a stop of the gateway means: come back.
        if let Message::Close(Some(close)) = next(&mut socket).await {
            assert_eq!(u16::from(close.code), 1012);
            break;
        }
    }
    let world = World::start_in(data, false).await;
    let dead = world.client().kernel(kernel).await.unwrap();
    assert_eq!(dead.execution_state, "dead");
    assert!(dead.reason.unwrap().contains("the gateway was stopped"));
    assert!(world.client().kernels().await.unwrap().is_empty());
    world.client().stop_kernel(kernel).await.unwrap();
    assert!(world.client().kernel(kernel).await.is_err());
    let request = world
        .http()
        .post(format!("{}/v1/keys/requests", world.url))
        .body("{}");
    let outside = request.bearer_auth(session.token.expose()).send().await.unwrap();
    assert_eq!(
        outside.status(),
        400,
        "a kernel outside of the gateway keeps its token, and must say what it asks"
    );
}

/// A gateway that leaves its host when it stops, as one that was killed does, and the next one on the same host.
struct Successor {
    data: tempfile::TempDir,
    host: std::sync::Arc<FakeHost>,
}

impl Successor {
    async fn first(price: Amount) -> World {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = FakeHost::new("", false);
        let data = tempfile::tempdir().unwrap();
        World::start_on(data, (listener, host), (TOKEN, Vec::new()), (price, true)).await
    }

    async fn after(world: World) -> Self {
        let host = std::sync::Arc::clone(&world.host);
        Self {
            data: world.stop().await,
            host,
        }
    }

    async fn next(self, price: Amount) -> World {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        World::start_on(
            self.data,
            (listener, self.host),
            (TOKEN, Vec::new()),
            (price, true),
        )
        .await
    }
}

/// The texts of so many outputs of a socket.
async fn outputs(socket: &mut crate::support::Socket, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let message = text(&next(socket).await);
        if message["header"]["msg_type"] == "stream" {
            texts.push(message["content"]["text"].as_str().unwrap().to_owned());
        }
    }
    texts
}

#[tokio::test]
async fn the_next_gateway_takes_kernels_over_with_all_that_they_said() {
    let world = Successor::first(Amount::ZERO).await;
    let kernel = world.kernel().await.id;
    let dead = {
        let env = BTreeMap::from([("KERNEL_FAILS".to_owned(), "1".to_owned())]);
        let wanted = NewKernel {
            env,
            ..NewKernel::default()
        };
        let started = world.client().start_kernel(&wanted).await.unwrap();
        world.until(started.id, "dead").await.id
    };
    let mut page = world.channels(kernel, "page", &[]).await;
    world.host.print(kernel, "1");
    world.host.print(kernel, "2");
    assert_eq!(outputs(&mut page, 2).await, ["1", "2"]);
    let before = Successor::after(world).await;
    before.host.print(kernel, "3");
    before.host.print(kernel, "4");
    let world = before.next(Amount::ZERO).await;
    assert_eq!(
        world.client().kernel(kernel).await.unwrap().execution_state,
        "idle"
    );
    // The page that was open goes on; one that was reloaded hears what nobody heard.
    let mut page = world.channels(kernel, "page", &[]).await;
    assert_eq!(outputs(&mut page, 2).await, ["3", "4"]);
    world.host.print(kernel, "5");
    assert_eq!(outputs(&mut page, 1).await, ["5"]);
    assert_eq!(
        (
            world.host.rented.load(Ordering::SeqCst),
            world.host.starts.load(Ordering::SeqCst)
        ),
        (1, 2),
        "no host was rented again and no kernel started again"
    );
    // It can be used, restarted and stopped as before.
    let request = crate::support::legacy("m1", "shell");
    page.send(Message::text(request.to_string())).await.unwrap();
    loop {
        let message = text(&next(&mut page).await);
        if message["channel"] == "shell" {
            assert_eq!(message["header"]["msg_id"], "m1");
            break;
        }
    }
    world.client().restart_kernel(dead).await.unwrap();
    world.until(dead, "idle").await;
    world.client().stop_kernel(kernel).await.unwrap();
    assert!(world.client().kernel(kernel).await.is_err());
}

#[tokio::test]
async fn a_page_that_was_reloaded_while_no_gateway_was_there_hears_what_it_missed() {
    let world = Successor::first(Amount::ZERO).await;
    let kernel = world.kernel().await.id;
    let mut page = world.channels(kernel, "page", &[]).await;
    world.host.print(kernel, "1");
    assert_eq!(outputs(&mut page, 1).await, ["1"]);
    let before = Successor::after(world).await;
    before.host.print(kernel, "2");
    let world = before.next(Amount::ZERO).await;
    let mut reloaded = world.channels(kernel, "another", &[]).await;
    assert_eq!(outputs(&mut reloaded, 1).await, ["2"]);
}

/// The notebook of a session whose kernel runs its cell, in a gateway that goes then.
async fn running(world: World, cell: &str) -> (Successor, uuid::Uuid, Value) {
    let code = "forever()";
    let notebook = json!({
        "cells": [{ "cell_type": "code", "id": "c1", "source": code, "metadata": {}, "outputs": [], "execution_count": null }],
        "metadata": {}, "nbformat": 4, "nbformat_minor": 5,
    });
    save(&world, &notebook).await;
    let wanted =
        json!({ "path": "n.ipynb", "name": "n", "type": "notebook", "kernel": { "name": "alephlab" } });
    let session: Value = call(&world, reqwest::Method::POST, "/api/sessions", &wanted).await;
    let kernel = session["kernel"]["id"].as_str().unwrap().parse().unwrap();
    world.until(kernel, "idle").await;
    let mut page = world.channels(kernel, "page", &[]).await;
    let mut request = crate::support::legacy("run", "shell");
    request["header"]["msg_type"] = "execute_request".into();
    request["metadata"] = json!({ "cellId": cell });
    request["content"] = json!({ "code": code });
    page.send(Message::text(request.to_string())).await.unwrap();
    // It echoes, so it has the request.
    while text(&next(&mut page).await)["channel"] != "shell" {}
    let stream = |text: &str| json!({ "name": "stdout", "text": text });
    world
        .host
        .answer(kernel, &request["header"], "stream", &stream("heard\n"));
    assert_eq!(outputs(&mut page, 1).await, ["heard\n"]);
    drop(page);
    let before = Successor::after(world).await;
    before
        .host
        .answer(kernel, &request["header"], "stream", &stream("missed\n"));
    before.host.answer(
        kernel,
        &request["header"],
        "status",
        &json!({ "execution_state": "idle" }),
    );
    (before, kernel, notebook)
}

async fn call(world: &World, method: reqwest::Method, path: &str, body: &Value) -> Value {
    let request = world
        .http()
        .request(method, format!("{}{path}", world.url))
        .bearer_auth(TOKEN)
        .json(body);
    request.send().await.unwrap().json().await.unwrap()
}

async fn save(world: &World, notebook: &Value) {
    let body = json!({ "type": "notebook", "format": "json", "content": notebook });
    call(world, reqwest::Method::PUT, "/api/contents/n.ipynb", &body).await;
}

async fn stored(world: &World) -> Value {
    let path = "/api/contents/n.ipynb?content=1";
    call(world, reqwest::Method::GET, path, &Value::Null).await["content"]["cells"][0]["outputs"].clone()
}

#[tokio::test]
async fn a_notebook_has_what_its_cell_put_out_although_page_and_gateway_went() {
    let world = Successor::first(Amount::ZERO).await;
    let (before, kernel, _) = running(world, "c1").await;
    assert_eq!(before.host.followed(kernel), 1);
    let world = before.next(Amount::ZERO).await;
    let whole = json!([{ "output_type": "stream", "name": "stdout", "text": "heard\nmissed\n" }]);
    assert_eq!(stored(&world).await, whole, "to the first who asks");
    let followed = async || (world.host.followed(kernel) == 0).then_some(());
    eventually("the host is told that it is written", followed).await;
    // It is written once: who clears it then has it cleared.
    let cleared = Successor::after(world).await.next(Amount::ZERO).await;
    assert_eq!(stored(&cleared).await, whole);
}

#[tokio::test]
async fn what_a_page_saved_before_the_gateway_went_is_not_written_again() {
    let world = Successor::first(Amount::ZERO).await;
    let (before, kernel, mut notebook) = running(world, "c1").await;
    let world = before.next(Amount::ZERO).await;
    let mut page = world.channels(kernel, "page", &[]).await;
    assert_eq!(outputs(&mut page, 1).await, ["missed\n"]);
    while text(&next(&mut page).await)["header"]["msg_type"] != "status" {}
    // As the page that has all of it, and wants none of it.
    notebook["cells"][0]["outputs"] = json!([]);
    let saved = async || {
        save(&world, &notebook).await;
        (world.host.followed(kernel) == 0).then_some(())
    };
    eventually("the page has heard all of it", saved).await;
    drop(page);
    let world = Successor::after(world).await.next(Amount::ZERO).await;
    assert_eq!(stored(&world).await, json!([]));
}

#[tokio::test]
async fn a_connection_that_is_lost_again_and_again_loses_and_repeats_nothing() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut page = world.channels(kernel, "page", &[]).await;
    let mut said = Vec::new();
    for round in 0..20 {
        for line in 0..5 {
            let text = format!("{round}.{line}");
            world.host.print(kernel, &text);
            said.push(text);
        }
        world.host.disconnect();
        let request = crate::support::legacy(&round.to_string(), "shell");
        page.send(Message::text(request.to_string())).await.unwrap();
    }
    let (mut heard, mut replies) = (Vec::new(), Vec::new());
    while heard.len() < said.len() || replies.len() < 20 {
        let message = text(&next(&mut page).await);
        if message["header"]["msg_type"] == "stream" {
            heard.push(message["content"]["text"].as_str().unwrap().to_owned());
        } else if message["channel"] == "shell" {
            replies.push(message["header"]["msg_id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(heard, said);
    assert_eq!(
        replies,
        (0..20).map(|round| round.to_string()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_kernel_that_went_while_no_gateway_was_there_is_dead() {
    let world = Successor::first(Amount::ZERO).await;
    let kernel = world.kernel().await.id;
    let before = Successor::after(world).await;
    before.host.lose();
    let world = before.next(Amount::ZERO).await;
    let dead = world.client().kernel(kernel).await.unwrap();
    assert_eq!(dead.execution_state, "dead");
    // Another host is rented, and goes on as the first did.
    world.kernel().await;
}

#[tokio::test]
async fn a_kernel_in_which_nothing_runs_is_stopped_as_its_client_asked() {
    let world = World::start().await;
    let start = async |limit: &str| {
        let env = BTreeMap::from([("KERNEL_IDLE_TIMEOUT".to_owned(), limit.to_owned())]);
        let wanted = NewKernel {
            env,
            ..NewKernel::default()
        };
        world.client().start_kernel(&wanted).await
    };
    let error = start("1h").await.unwrap_err().to_string();
    assert!(error.contains("whole number of seconds"), "{error}");
    let (kernel, other) = (start("1").await.unwrap().id, world.kernel().await.id);
    let mut page = world.channels(kernel, "page", &[]).await;
    let said = outputs(&mut page, 1).await;
    assert_eq!(said, ["The kernel is stopped: nothing ran in it for a second.\n"]);
    eventually("its end", || async { world.client().kernel(kernel).await.err() }).await;
    assert_eq!(world.until(other, "idle").await.id, other);
}

/// 100 credits a second, so that each second shows.
const PRICE: u64 = 360_000;

/// A gateway whose owner has credits for ten hours.
async fn with_credits() -> World {
    let world = Successor::first(Amount::from_whole(PRICE)).await;
    let welcome = NewCredit {
        address: OWNER.to_owned(),
        amount: Amount::from_whole(10 * PRICE),
        asset: Asset::Credit,
        key: "welcome".to_owned(),
        memo: String::new(),
    };
    world.client().give(&welcome).await.unwrap();
    world
}

/// The next gateway, after one that was killed when this kernel could be used for a thousand seconds.
async fn killed(world: World, kernel: uuid::Uuid, die_after: Option<u64>) -> World {
    let before = Successor::after(world).await;
    let usable = alephlab_api::time::unix_now() - 1_000;
    let set = format!("UPDATE kernels SET usable = {usable}");
    change_database(&before.data.path().join("gateway"), set).await;
    if let Some(after) = die_after {
        before.host.die(kernel, usable + after);
    }
    before.next(Amount::from_whole(PRICE)).await
}

/// A kernel that could be used for a thousand seconds when its gateway was killed, and the next gateway.
async fn paid(die_after: Option<u64>) -> (World, uuid::Uuid) {
    let world = with_credits().await;
    let kernel = world.kernel().await.id;
    (killed(world, kernel, die_after).await, kernel)
}

/// What the owner has and what is set aside for kernels, in whole credits.
async fn balance(world: &World) -> (Amount, Amount) {
    let balance = world.client().balance().await.unwrap().balances.remove(0);
    (balance.available, balance.held)
}

#[tokio::test]
async fn a_kernel_that_died_while_no_gateway_was_there_costs_what_it_lived() {
    let (world, kernel) = paid(Some(30)).await;
    world.until(kernel, "dead").await;
    let left = eventually("the end of the hold", || async {
        let (available, held) = balance(&world).await;
        held.is_zero().then_some(available)
    });
    assert_eq!(left.await, Amount::from_whole(10 * PRICE - 30 * 100));
}

#[tokio::test]
async fn a_kernel_that_lived_while_no_gateway_was_there_costs_that_time_too() {
    let (world, kernel) = paid(None).await;
    world.until(kernel, "idle").await;
    world.client().stop_kernel(kernel).await.unwrap();
    let left = eventually("the end of the hold", || async {
        let (available, held) = balance(&world).await;
        held.is_zero().then_some(available)
    });
    let (left, most) = (left.await, Amount::from_whole(10 * PRICE - 1_000 * 100));
    let least = Amount::from_whole(10 * PRICE - 1_060 * 100);
    assert!(least <= left && left <= most, "{left}");
}

#[tokio::test]
async fn a_kernel_whose_cap_was_raised_lives_beyond_the_first_one_under_the_next_gateway_too() {
    let world = with_credits().await;
    let for_seconds = |seconds: u64| Amount::from_whole(100 * seconds);
    let wanted = NewKernel {
        env: BTreeMap::from([("KERNEL_MAX_COST".to_owned(), for_seconds(900).to_string())]),
        ..NewKernel::default()
    };
    let kernel = world.client().start_kernel(&wanted).await.unwrap().id;
    world.until(kernel, "idle").await;
    let raised = world.client().raise_cap(kernel, for_seconds(20_000)).await;
    assert_eq!(raised.unwrap().cap, for_seconds(20_000));
    let world = killed(world, kernel, None).await;
    let client = world.client();
    let charged = eventually("a charge", || async {
        let cap = client.cap(kernel).await.unwrap();
        (cap.seconds >= 1_000).then_some(cap)
    })
    .await;
    assert_eq!(
        charged.charged,
        for_seconds(charged.seconds),
        "all of it is charged"
    );
    assert_eq!((charged.cap, charged.ended), (for_seconds(20_000), false));
    world.until(kernel, "idle").await;
    client.raise_cap(kernel, for_seconds(21_000)).await.unwrap();
    let (available, _) = balance(&world).await;
    assert_eq!(
        available,
        Amount::from_whole(10 * PRICE).saturating_sub(for_seconds(21_000))
    );
    client.stop_kernel(kernel).await.unwrap();
}
