//! An account sees its own: every route is asked in one account's name for what another one has.

use alephlab_api::Secret;
use alephlab_api::account::{AccountChange, Role};
use alephlab_api::client::GatewayClient;
use alephlab_api::ledger::NewCredit;
use alephlab_api::money::Asset;
use alephlab_api::token::{NewToken, Scope};
use alephlab_vault::Wallet;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{OWNER, TOKEN, World, sign_in};

/// What everything is called that the first account has and the second must not see.
const CANARY: &str = "canary-of-ada";
/// What is in those things, and is named by no address.
const CONTENT: &str = "what-ada-keeps";
/// The name where only letters are allowed.
const NAME: &str = "CANARYOFADA";

/// What one account has, by which it can be asked for.
struct Things {
    kernel: String,
    session: String,
    token: String,
    terminal: String,
}

/// One of everything, of the operator's account.
async fn things(world: &World) -> Things {
    let client = world.client();
    let http = world.http();
    let send = async |method: Method, path: &str, body: Value| -> Value {
        let request = http
            .request(method, format!("{}{path}", world.url))
            .bearer_auth(TOKEN);
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default()
    };
    let kernel = world.kernel().await.id.to_string();
    let file = json!({ "type": "file", "format": "text", "content": CONTENT });
    send(Method::PUT, &format!("/api/contents/{CANARY}.txt"), file).await;
    let session = json!({
        "path": format!("{CANARY}.ipynb"), "name": CONTENT, "type": "notebook", "kernel": { "id": kernel },
    });
    let session = send(Method::POST, "/api/sessions", session).await;
    let terminal = send(Method::POST, "/api/terminals", json!({ "name": NAME })).await;
    let workspace = json!({ "data": { "x": CONTENT }, "metadata": { "id": CANARY } });
    send(Method::PUT, &format!("/lab/api/workspaces/{CANARY}"), workspace).await;
    let new = NewToken {
        name: CANARY.to_owned(),
        ..NewToken::default()
    };
    let token = client.new_token(&new).await.unwrap().info.id.to_string();
    client
        .set_secret(&NAME.parse().unwrap(), Secret::new(CONTENT))
        .await
        .unwrap();
    let credit = NewCredit {
        address: OWNER.to_owned(),
        amount: "77".parse().unwrap(),
        asset: Asset::Credit,
        key: "one".to_owned(),
        memo: CONTENT.to_owned(),
    };
    client.give(&credit).await.unwrap();
    Things {
        kernel,
        session: session["id"].as_str().unwrap().to_owned(),
        token,
        terminal: terminal["name"].as_str().unwrap().to_owned(),
    }
}

impl Things {
    /// The addresses of a route that lead to what the account has.
    fn paths(&self, route: &str) -> Vec<String> {
        let id = match route {
            _ if route.contains("/sessions/") => &self.session,
            _ if route.contains("/tokens/") => &self.token,
            _ => &self.kernel,
        };
        let path = route
            .replace("{id}", id)
            .replace("{uuid}", &self.token)
            .replace("{account}", OWNER)
            .replace("{*id}", CANARY)
            .replace("{*path}", &format!("{CANARY}.txt"))
            .replace("{section}", "notebook")
            .replace("{file}", "favicon.ico")
            .replace("{locale}", "en");
        match route.contains("secrets") {
            true => vec![path.replace("{name}", NAME)],
            false => vec![
                path.replace("{name}", &self.terminal),
                path.replace("{name}", CANARY),
            ],
        }
    }
}

/// Asks as a browser of the account does; status and body.
async fn ask(world: &World, cookie: &str, method: &Method, path: &str) -> (u16, String) {
    let request = world
        .http()
        .request(method.clone(), format!("{}{path}", world.url))
        .header("cookie", cookie)
        .header("origin", &world.url);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn browser(world: &World, wallet: &Wallet) -> (GatewayClient, String) {
    let token = sign_in(world, wallet).await.unwrap().token;
    let page = world
        .http()
        .get(format!("{}/?token={}", world.url, token.expose()));
    let page = page.send().await.unwrap();
    let cookie = page.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    (world.client().with_token(token), cookie)
}

#[tokio::test]
async fn no_route_shows_or_changes_what_another_account_has() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let ada = things(&world).await;
    let (_, cookie) = browser(&world, &wallet).await;
    // What must not stand in any answer: ids that were asked for may be repeated, in a refusal only.
    let traces = [CONTENT, CANARY, NAME, OWNER];
    let ids = [&ada.kernel, &ada.session, &ada.token];
    let mut asked = 0;
    for line in include_str!("../routes.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let [method, route, _] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        if route == "/sign-out" {
            continue;
        }
        let method: Method = method.parse().unwrap();
        for path in ada.paths(route) {
            let (status, body) = ask(&world, &cookie, &method, &path).await;
            assert!(status < 500, "{line}: {status}: {body}");
            // A refusal may repeat what was asked for, and so may the answer to what made something of the same name.
            // Every account has each workspace that it asks for, empty at first; and a share's page says the same of any id.
            let is_echo = route.starts_with("/lab/api/workspaces/") || route == "/m/{uuid}";
            let told = status >= 400 || method != Method::GET || is_echo;
            let named = |trace: &str| told && path.to_lowercase().contains(&trace.to_lowercase());
            for trace in traces.iter().copied().chain(ids.iter().map(|id| id.as_str())) {
                let shown = body.to_lowercase().contains(&trace.to_lowercase());
                assert!(
                    !shown || named(trace),
                    "{line}: {path} shows {trace}: {status}: {body}"
                );
            }
            asked += 1;
        }
    }
    assert!(asked > 90);
    // And all of it is still there.
    let client = world.client();
    assert_eq!(client.kernels().await.unwrap()[0].id.to_string(), ada.kernel);
    assert_eq!(client.tokens().await.unwrap().len(), 1);
    assert_eq!(client.secrets().await.unwrap().len(), 1);
    let operator = {
        let page = world
            .http()
            .get(format!("{}/?token={TOKEN}", world.url))
            .send()
            .await
            .unwrap();
        let cookie = page.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    };
    for (path, kept) in [
        ("/api/sessions", ada.session.as_str()),
        ("/api/terminals", &ada.terminal),
        ("/api/contents", CANARY),
        (&format!("/lab/api/workspaces/{CANARY}"), CONTENT),
        ("/v1/ledger", CONTENT),
        ("/settings", OWNER),
    ] {
        let (status, body) = ask(&world, &operator, &Method::GET, path).await;
        // An address is shown as EIP-55 writes it.
        let kept = body.to_lowercase().contains(&kept.to_lowercase());
        assert!(status == 200 && kept, "{path}: {status}: {body}");
    }
}

#[tokio::test]
async fn what_operators_do_is_refused_to_users_in_words_until_they_are_operators() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let (user, cookie) = browser(&world, &wallet).await;
    let change = json!({ "role": "operator" }).to_string();
    let credit = json!({ "address": OWNER, "amount": "1", "asset": "credit", "key": "k" }).to_string();
    let routes = [
        (Method::GET, "/v1/audit".to_owned(), String::new()),
        (Method::GET, "/v1/accounts".to_owned(), String::new()),
        (
            Method::PATCH,
            format!("/v1/accounts/{}", wallet.address()),
            change,
        ),
        (Method::POST, "/v1/credits".to_owned(), credit),
        (Method::GET, "/settings/accounts".to_owned(), String::new()),
        (
            Method::POST,
            "/settings/accounts".to_owned(),
            "account=x&role=operator".to_owned(),
        ),
    ];
    let all = async |token: Option<&Secret>| {
        let mut answers = Vec::new();
        for (method, path, body) in &routes {
            let request = world
                .http()
                .request(method.clone(), format!("{}{path}", world.url));
            let request = request.header("origin", &world.url).body(body.clone());
            let kind = "application/x-www-form-urlencoded";
            let request = match token {
                Some(token) => request.bearer_auth(token.expose()),
                None => request.header("cookie", &cookie),
            };
            let answer = request.header("content-type", kind).send().await.unwrap();
            answers.push((answer.status().as_u16(), answer.text().await.unwrap()));
        }
        answers
    };
    let new = |scope: Scope| NewToken {
        name: scope.to_string(),
        scope,
        life: None,
    };
    let token = user.new_token(&new(Scope::Admin)).await.unwrap().token;
    for way in [None, Some(&token)] {
        for (status, body) in all(way).await {
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (status, problem["code"].as_str()),
                (403, Some("not_operator")),
                "{body}"
            );
            let message = problem["message"].as_str().unwrap();
            assert!(message.starts_with("only the gateway's operator "), "{message}");
        }
    }
    let own = user.whoami().await.unwrap().account;
    let role = |role| AccountChange {
        role: Some(role),
        admitted: None,
    };
    let changed = world
        .client()
        .change_account(&own.to_lowercase(), &role(Role::Operator))
        .await
        .unwrap();
    assert_eq!((changed.role, changed.by_settings), (Role::Operator, false));
    for way in [None, Some(&token)] {
        for (at, (status, body)) in all(way).await.into_iter().enumerate() {
            // The last names no account, and the page says so.
            assert!(status == 200, "{at}: {status}: {body}");
        }
    }
    // An operator sees accounts, not what is in them; and the one of the settings stays.
    let read = user.new_token(&new(Scope::Read)).await.unwrap().token;
    let read = user.with_token(read);
    assert!(read.accounts().await.is_err());
    assert!(user.kernels().await.unwrap().is_empty());
    let stays = user.change_account(OWNER, &role(Role::User)).await.unwrap_err();
    assert_eq!(stays.to_problem().code, "role_by_settings");
    let data = world.stop().await;
    let world = World::start_as(data, false, TOKEN, vec![wallet.address()]).await;
    let user = world.client().with_token(token);
    assert!(user.whoami().await.unwrap().operator, "also after the next start");
    world
        .client()
        .change_account(&own, &role(Role::User))
        .await
        .unwrap();
    assert!(!user.whoami().await.unwrap().operator);
    let unknown = world
        .client()
        .change_account("acct_x", &role(Role::User))
        .await
        .unwrap_err();
    assert_eq!(unknown.to_problem().code, "account_unknown");
}
