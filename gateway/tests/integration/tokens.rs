//! Access tokens: what each opens, and that it opens nothing once it is over.

use alephlab_api::Secret;
use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::ledger::NewCredit;
use alephlab_api::money::Asset;
use alephlab_api::token::{MadeToken, NewToken, Scope};
use alephlab_vault::Wallet;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{Socket, TOKEN, World, eventually, everything_stored, next, sign_in};

async fn make(client: &GatewayClient, name: &str, scope: Scope) -> MadeToken {
    let new = NewToken {
        name: name.to_owned(),
        scope,
        life: None,
    };
    client.new_token(&new).await.unwrap()
}

fn refused(error: ClientError) -> (u16, String) {
    match error {
        ClientError::Refused { status, problem } => (status, problem.code),
        other => panic!("{other}"),
    }
}

async fn open(url: &str, token: &Secret) -> Socket {
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    let header = format!("token {}", token.expose()).parse().unwrap();
    request.headers_mut().insert("authorization", header);
    connect_async(request).await.unwrap().0
}

/// Waits until the gateway closes a socket; the code that it gives.
async fn closed(socket: &mut Socket) -> Option<u16> {
    loop {
        if let Message::Close(frame) = next(socket).await {
            return frame.map(|frame| frame.code.into());
        }
    }
}

/// A request with a token, or none, as a page of ours would send it; its status and code.
async fn ask(world: &World, method: &Method, path: &str, token: Option<&Secret>) -> (StatusCode, String) {
    let mut request = world
        .http()
        .request(method.clone(), format!("{}{path}", world.url));
    request = request.header("origin", &world.url);
    if let Some(token) = token {
        request = request.bearer_auth(token.expose());
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn every_route_is_opened_by_the_scopes_that_the_table_names() {
    let world = World::start().await;
    let client = world.client();
    let mut tokens = Vec::new();
    for scope in Scope::ALL {
        tokens.push((scope, make(&client, scope.name(), scope).await.token));
    }
    let kernel = client.new_kernel_session().await.unwrap().token;
    let mut asked = 0;
    for line in include_str!("../routes.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let [method, route, opens] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        // A form on a page that is the same for everybody: who is not signed in is sent to do that first.
        let (opens, sends_to_sign_in) = opens
            .strip_suffix("+sign-in")
            .map_or((opens, false), |opens| (opens, true));
        let method: Method = method.parse().unwrap();
        let path = route
            .replace("{id}", &uuid::Uuid::nil().to_string())
            .replace("{uuid}", &uuid::Uuid::nil().to_string())
            .replace(['{', '}', '*'], "");
        let at = |token| ask(&world, &method, &path, token);
        for (scope, token) in &tokens {
            let (status, code) = at(Some(token)).await;
            let is_shut = match opens {
                "open" => false,
                "share" => {
                    assert!(status == 401 || status == 429, "{line}: {status}");
                    continue;
                }
                "kernel" => true,
                needed => *scope < needed.parse().unwrap(),
            };
            assert_eq!(
                status == 403 && code == "token_scope",
                is_shut,
                "{scope}: {line}: {status} {code}"
            );
            assert!(
                status != 401 && status != 405 && code != "route_unknown",
                "{scope}: {line}: {code}"
            );
        }
        let is_account = opens.parse::<Scope>().is_ok();
        let (status, code) = at(Some(&kernel)).await;
        if sends_to_sign_in {
            assert_eq!(status, 303, "a kernel: {line}");
            let (status, _) = at(None).await;
            assert!(status == 303 || status == 403, "nobody: {line}: {status}");
            asked += 1;
            continue;
        }
        assert_eq!(
            status == 403 && code == "token_scope",
            is_account,
            "a kernel: {line}: {status}"
        );
        let (status, _) = at(None).await;
        // Beyond so many refusals in a minute the answer is another.
        let is_refused = status == 401 || status == 429;
        assert_eq!(is_refused, opens != "open", "nobody: {line}: {status}");
        asked += 1;
    }
    assert!(asked > 80);
}

#[tokio::test]
async fn a_token_is_made_used_listed_and_revoked() {
    let world = World::start().await;
    let client = world.client();
    let made = make(&client, " ci ", Scope::Read).await;
    let secret = made.token.expose().to_owned();
    assert!(secret.starts_with("alab_") && secret.len() == 69);
    assert_eq!((made.info.name.as_str(), made.info.used), ("ci", None));
    assert_eq!(made.info.expires - made.info.created, 30 * 86_400);
    for header in ["Bearer", "token"] {
        let request = world.http().get(format!("{}/api/kernels", world.url));
        let request = request.header("authorization", format!("{header} {secret}"));
        assert_eq!(request.send().await.unwrap().status(), 200, "{header}");
    }
    let query = format!("{}/api/kernels?token={secret}", world.url);
    assert_eq!(world.http().get(&query).send().await.unwrap().status(), 200);
    let who = client.with_token(made.token.clone()).whoami().await.unwrap();
    assert_eq!((who.scope, who.operator), (Scope::Read, false));
    let listed = client.tokens().await.unwrap();
    let [listed] = &listed[..] else {
        panic!("{listed:?}")
    };
    assert_eq!((listed.id, listed.name.as_str()), (made.info.id, "ci"));
    assert_eq!(listed.used.map(|used| used % 86_400), Some(0), "the day only");
    let twice = NewToken {
        name: "ci".to_owned(),
        ..NewToken::default()
    };
    let taken = client.new_token(&twice).await.unwrap_err();
    assert_eq!(refused(taken), (409, "token_name_taken".to_owned()));
    client.revoke_token(made.info.id).await.unwrap();
    assert_eq!(world.http().get(&query).send().await.unwrap().status(), 401);
    let again = client.revoke_token(made.info.id).await.unwrap_err();
    assert_eq!(refused(again), (404, "token_unknown".to_owned()));
    assert!(client.tokens().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_open_by_a_token_is_closed_when_it_is_revoked() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let (client, made) = (world.client(), make(&world.client(), "lab", Scope::Run).await);
    let stays = make(&client, "other", Scope::Run).await;
    let url = client.channels_url(kernel, "one");
    let mut channels = open(url.as_str(), &made.token).await;
    let mut events = open(&format!("{}/api/events/subscribe", world.url), &made.token).await;
    let mut others = open(client.channels_url(kernel, "two").as_str(), &stays.token).await;
    client.revoke_token(made.info.id).await.unwrap();
    assert_eq!(closed(&mut channels).await, Some(1008));
    let ended = async { while matches!(events.next().await, Some(Ok(message)) if !message.is_close()) {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), ended)
        .await
        .unwrap();
    world.until(kernel, "idle").await;
    // The other token's connection still answers.
    others.send(Message::Ping("x".into())).await.unwrap();
    let ponged = async { while !matches!(others.next().await, Some(Ok(Message::Pong(_)))) {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), ponged)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_ends_by_itself_and_closes_what_is_open() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let client = world.client();
    let short = NewToken {
        name: "short".to_owned(),
        scope: Scope::Run,
        life: Some(5),
    };
    let made = client.new_token(&short).await.unwrap();
    let mut channels = open(client.channels_url(kernel, "one").as_str(), &made.token).await;
    assert_eq!(closed(&mut channels).await, Some(1008));
    let with_it = client.with_token(made.token);
    assert_eq!(refused(with_it.whoami().await.unwrap_err()).0, 401);
    for life in [0, 365 * 86_400 + 1] {
        let wrong = NewToken {
            life: Some(life),
            ..short.clone()
        };
        let error = client.new_token(&wrong).await.unwrap_err();
        assert_eq!(refused(error), (400, "token_life".to_owned()));
    }
    for name in ["", "  ", "a\nb", &"x".repeat(65)] {
        let wrong = NewToken {
            name: name.to_owned(),
            ..NewToken::default()
        };
        let error = client.new_token(&wrong).await.unwrap_err();
        assert_eq!(refused(error), (400, "token_name".to_owned()), "{name}");
    }
    // The one that is over has given its name free.
    client.new_token(&short).await.unwrap();
}

#[tokio::test]
async fn what_is_made_with_a_token_ends_with_it_and_no_later() {
    let world = World::start().await;
    let client = world.client();
    let parent = NewToken {
        name: "parent".to_owned(),
        scope: Scope::Admin,
        life: Some(3_600),
    };
    let parent = client.new_token(&parent).await.unwrap();
    let page = format!("{}/?token={}", world.url, parent.token.expose());
    let browser = world.http().get(page).send().await.unwrap();
    let cookie = browser.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let child = make(&client.with_token(parent.token.clone()), "child", Scope::Run).await;
    assert_eq!(child.info.expires, parent.info.expires);
    let signed_in = async || {
        let request = world.http().get(&world.url).header("cookie", &cookie);
        let page = request.send().await.unwrap().text().await.unwrap();
        !page.contains("Sign in to this gateway")
    };
    assert!(signed_in().await);
    let own = client.with_token(child.token);
    own.whoami().await.unwrap();
    client.revoke_token(parent.info.id).await.unwrap();
    assert!(!signed_in().await && client.tokens().await.unwrap().is_empty());
    assert_eq!(refused(own.whoami().await.unwrap_err()).0, 401);
}

#[tokio::test]
async fn accounts_see_and_end_their_own_tokens_only_and_operators_alone_give_credits() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let operator = world.client();
    let ada = operator.with_token(sign_in(&world, &wallet).await.unwrap().token);
    let (of_ada, of_operator) = (
        make(&ada, "same name", Scope::Admin).await,
        make(&operator, "same name", Scope::Admin).await,
    );
    assert_eq!(ada.tokens().await.unwrap().len(), 1);
    let foreign = ada.revoke_token(of_operator.info.id).await.unwrap_err();
    assert_eq!(refused(foreign), (404, "token_unknown".to_owned()));
    let credit = NewCredit {
        address: wallet.address(),
        amount: "5".parse().unwrap(),
        asset: Asset::Credit,
        key: "k".to_owned(),
        memo: String::new(),
    };
    let run = make(&operator, "run", Scope::Run).await;
    for (token, code) in [(of_ada.token, "not_operator"), (run.token, "token_scope")] {
        let error = operator.with_token(token).give(&credit).await.unwrap_err();
        assert_eq!(refused(error), (403, code.to_owned()));
    }
    operator
        .with_token(of_operator.token)
        .give(&credit)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_last_use_is_seen_and_nothing_of_a_token_is_in_the_database() {
    let world = World::start().await;
    let made = make(&world.client(), "kept", Scope::Run).await;
    let client = world.client();
    client.with_token(made.token.clone()).whoami().await.unwrap();
    eventually("its last use", || async { client.tokens().await.ok()?[0].used }).await;
    let folder = world.stop().await;
    let stored = everything_stored(&folder.path().join("gateway")).await;
    let holds = |text: &str| stored.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("kept"), "its name is there");
    for secret in [made.token.expose(), TOKEN] {
        assert!(!holds(secret));
    }
}

#[tokio::test]
async fn what_was_done_stands_in_the_audit_log_for_the_operator_alone() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let operator = world.client();
    let stranger = Wallet::generate().unwrap();
    sign_in(&world, &stranger).await.unwrap_err();
    let ada = operator.with_token(sign_in(&world, &wallet).await.unwrap().token);
    let made = make(&ada, "a name that is nobody's business", Scope::Read).await;
    ada.revoke_token(made.info.id).await.unwrap();
    let refusal = refused(ada.audit(0).await.unwrap_err());
    assert_eq!(refusal, (403, "not_operator".to_owned()));
    let lines = operator.audit(0).await.unwrap();
    let id = made.info.id;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let (account, subject) = (line.account.clone(), line.subject.clone());
            (account, line.action.as_str(), subject, line.result.as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            (stranger.address(), "sign_in", "wallet".to_owned(), "refused"),
            (wallet.address(), "sign_in", "wallet".to_owned(), "done"),
            (wallet.address(), "token_made", format!("{id} read"), "done"),
            (wallet.address(), "token_revoked", id.to_string(), "done"),
        ]
    );
    let last = alephlab_gateway::check_audit(&lines).unwrap();
    assert_eq!(lines.last().unwrap().hash, last);
}
