//! Signing in at an OpenID provider: by a good one, and by one whose answers must open nothing.

use alephlab_api::account::{AccountChange, Role, SignIn};
use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::jupyter::NewKernel;
use alephlab_api::ledger::NewCredit;
use alephlab_api::money::{Amount, Asset};
use alephlab_api::token::{NewToken, Scope};
use alephlab_api::{Secret, time};
use alephlab_gateway::check_chain;
use alephlab_vault::Wallet;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::provider::{CLIENT, Provider, parameter, signed_by, unsigned};
use crate::support::{World, eventually, sign_in};

async fn world(provider: &Provider, everyone: bool) -> World {
    let data = tempfile::tempdir().unwrap();
    World::start_oidc(data, Vec::new(), Amount::ZERO, Some(provider.config(everyone))).await
}

/// A browser that has begun to sign in.
struct Attempt {
    /// Where the gateway sends it.
    asked: Url,
    cookie: String,
}

fn cookie_of(answer: &Response) -> String {
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

async fn begin(world: &World, next: &str) -> Attempt {
    let begun = world
        .http()
        .get(format!("{}/sign-in/oidc?next={next}", world.url));
    let begun = begun.send().await.unwrap();
    assert_eq!(begun.status(), StatusCode::SEE_OTHER);
    let cookie = begun.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly")
            && cookie.contains("SameSite=Lax")
            && cookie.contains("Path=/sign-in/oidc"),
        "{cookie}"
    );
    Attempt {
        asked: begun.headers()["location"].to_str().unwrap().parse().unwrap(),
        cookie: cookie_of(&begun),
    }
}

/// The browser comes back.
async fn back(world: &World, cookie: &str, parameters: &[(&str, &str)]) -> Response {
    let mut url = Url::parse(&format!("{}/sign-in/oidc/back", world.url)).unwrap();
    url.query_pairs_mut().extend_pairs(parameters);
    let request = world.http().get(url).header("cookie", cookie);
    request.send().await.unwrap()
}

/// The whole way, with what the provider says of this subject.
async fn answer(world: &World, provider: &Provider, token: impl FnOnce(&Url) -> String) -> Response {
    let Attempt { asked, cookie } = begin(world, "/lab").await;
    let code = provider.code(&asked, token(&asked));
    let state = parameter(&asked, "state");
    back(world, &cookie, &[("code", &code), ("state", &state)]).await
}

/// A browser that is signed in as this subject: its cookie.
async fn signed_in(world: &World, provider: &Provider, subject: &str) -> String {
    let answer = answer(world, provider, |asked| {
        provider.signed(&provider.claims(asked, subject))
    })
    .await;
    assert_eq!(answer.status(), StatusCode::OK);
    cookie_of(&answer)
}

/// A program of an account, and its token.
struct Program {
    client: GatewayClient,
    token: String,
}

impl std::ops::Deref for Program {
    type Target = GatewayClient;

    fn deref(&self) -> &GatewayClient {
        &self.client
    }
}

/// A program of the account that this browser is signed in for.
async fn program(world: &World, cookie: &str) -> Program {
    let new = NewToken {
        name: uuid::Uuid::new_v4().to_string(),
        scope: Scope::Admin,
        life: None,
    };
    let request = world.http().post(format!("{}/v1/tokens", world.url));
    let request = request.header("cookie", cookie).header("origin", &world.url);
    let made: Value = request.json(&new).send().await.unwrap().json().await.unwrap();
    let token = made["token"]
        .as_str()
        .unwrap_or_else(|| panic!("{made}"))
        .to_owned();
    Program {
        client: world.client().with_token(Secret::new(token.as_str())),
        token,
    }
}

fn refused(error: ClientError) -> (u16, String) {
    match error {
        ClientError::Refused { status, problem } => (status, problem.code),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_browser_comes_back_signed_in_to_the_page_that_it_asked_for() {
    let provider = Provider::start().await;
    let world = world(&provider, true).await;
    let page = world
        .http()
        .get(format!("{}/?next=/settings", world.url))
        .send()
        .await;
    let page = page.unwrap().text().await.unwrap();
    assert!(
        page.contains("href=\"/sign-in/oidc?next=%2Fsettings\">Continue with Example</a>"),
        "{page}"
    );
    let Attempt { asked, cookie } = begin(&world, "/lab/tree/a.ipynb").await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", CLIENT),
        ("code_challenge_method", "S256"),
        ("scope", "openid profile"),
        ("redirect_uri", &format!("{}/sign-in/oidc/back", world.url)),
    ] {
        assert_eq!(parameter(&asked, name), value);
    }
    let code = provider.code(&asked, provider.signed(&provider.claims(&asked, "ada")));
    let state = parameter(&asked, "state");
    let issuer = provider.issuer();
    let parameters = [("code", code.as_str()), ("state", &state), ("iss", &issuer)];
    let answer = back(&world, &cookie, &parameters).await;
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let session = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        session.contains("HttpOnly") && session.contains("SameSite=Strict"),
        "{session}"
    );
    let session = cookie_of(&answer);
    let page = answer.text().await.unwrap();
    assert!(page.contains("content=\"0;url=/lab/tree/a.ipynb\""), "{page}");
    assert!(!page.contains(&code) && !page.contains(&state));
    let ada = program(&world, &session).await;
    let who = ada.whoami().await.unwrap();
    assert!(
        who.account.starts_with("acct_") && who.address.is_none() && !who.operator,
        "{who:?}"
    );
    // The same identity is the same account, and another is another.
    let again = signed_in(&world, &provider, "ada").await;
    assert_eq!(
        program(&world, &again).await.whoami().await.unwrap().account,
        who.account
    );
    let bob = signed_in(&world, &provider, "bob").await;
    assert_ne!(
        program(&world, &bob).await.whoami().await.unwrap().account,
        who.account
    );
    let lines = world.client().audit(0).await.unwrap();
    let told: Vec<_> = lines.iter().map(|line| line.action.as_str()).take(4).collect();
    assert_eq!(
        told,
        ["account_made", "account_admitted", "sign_in", "token_made"]
    );
    assert_eq!(
        (lines[2].subject.as_str(), lines[2].account.as_str()),
        ("oidc", who.account.as_str())
    );
    // Signing out ends the browser, not the program.
    let out = world.http().post(format!("{}/sign-out", world.url));
    let out = out.header("cookie", &session).header("origin", &world.url);
    assert_eq!(out.send().await.unwrap().status(), StatusCode::SEE_OTHER);
    let page = world
        .http()
        .get(&world.url)
        .header("cookie", &session)
        .send()
        .await;
    assert!(
        page.unwrap()
            .text()
            .await
            .unwrap()
            .contains("Sign in to this gateway")
    );
    ada.whoami().await.unwrap();
}

#[tokio::test]
async fn an_account_without_an_address_works_and_is_refused_what_needs_one() {
    let provider = Provider::start().await;
    let data = tempfile::tempdir().unwrap();
    let price: Amount = "3600".parse().unwrap();
    let world = World::start_oidc(data, Vec::new(), price, Some(provider.config(true))).await;
    let ada = program(&world, &signed_in(&world, &provider, "ada").await).await;
    let account = ada.whoami().await.unwrap().account;
    let credit = NewCredit {
        address: account.clone(),
        amount: "5000".parse().unwrap(),
        asset: Asset::Credit,
        key: "one".to_owned(),
        memo: "for ada".to_owned(),
    };
    world.client().give(&credit).await.unwrap();
    assert_eq!(ada.balance().await.unwrap().address, account);
    // Two credits last two seconds.
    let new = NewKernel {
        env: [("KERNEL_MAX_COST".to_owned(), "2".to_owned())].into(),
        ..NewKernel::default()
    };
    ada.start_kernel(&new).await.unwrap();
    let put = world
        .http()
        .put(format!("{}/api/contents/a.txt", world.url))
        .bearer_auth(&ada.token);
    let body = json!({ "type": "file", "format": "text", "content": "hers" }).to_string();
    assert_eq!(put.body(body).send().await.unwrap().status(), 201);
    ada.set_secret(&"KEY".parse().unwrap(), Secret::new("value"))
        .await
        .unwrap();
    let receipts = eventually("a receipt", || async {
        let receipts = ada.receipts(0).await.unwrap();
        (!receipts.receipts.is_empty()).then_some(receipts)
    })
    .await;
    assert_eq!(receipts.receipts[0].receipt.payer, account);
    check_chain(&receipts.receipts, &receipts.signer).unwrap();
    let mut forged = receipts.receipts.clone();
    forged[0].receipt.payer = format!("acct_{}", "0".repeat(32));
    assert!(
        check_chain(&forged, &receipts.signer).is_err(),
        "the payer is signed"
    );
    let needed = (409, "address_needed".to_owned());
    assert_eq!(
        refused(ada.add_model(&"00".repeat(32)).await.unwrap_err()),
        needed
    );
    let session = ada.new_kernel_session().await.unwrap();
    let ask = alephlab_api::keys::KeyRequest {
        kernel_key: String::new(),
        walls: Vec::new(),
        ask: alephlab_api::keys::Ask::Prepare { model: "m".into() },
    };
    let kernel = ada.with_token(session.token);
    assert_eq!(refused(kernel.ask_keys(&ask).await.unwrap_err()), needed);
    assert!(ada.models().await.unwrap().is_empty());
}

async fn link(program: &Program, world: &World, wallet: &Wallet) -> (u16, Value) {
    let token = &program.token;
    let url = format!("{}/v1/address", world.url);
    let asked = world
        .http()
        .get(&url)
        .query(&[("address", wallet.address())])
        .bearer_auth(token);
    let asked: Value = asked.send().await.unwrap().json().await.unwrap();
    let Some(message) = asked["message"].as_str().filter(|_| asked["nonce"].is_string()) else {
        return (0, asked);
    };
    let signed = SignIn {
        address: wallet.address(),
        nonce: asked["nonce"].as_str().unwrap().to_owned(),
        signature: wallet.sign_text(message).unwrap(),
    };
    let linked = world
        .http()
        .post(&url)
        .bearer_auth(token)
        .json(&signed)
        .send()
        .await
        .unwrap();
    (linked.status().as_u16(), linked.json().await.unwrap())
}

#[tokio::test]
async fn an_address_is_linked_by_its_signature_and_is_the_same_account_from_then_on() {
    let provider = Provider::start().await;
    let other = Wallet::generate().unwrap();
    let data = tempfile::tempdir().unwrap();
    let config = Some(provider.config(true));
    let world = World::start_oidc(data, vec![other.address()], Amount::ZERO, config).await;
    let ada = program(&world, &signed_in(&world, &provider, "ada").await).await;
    let bob = program(&world, &signed_in(&world, &provider, "bob").await).await;
    let account = ada.whoami().await.unwrap().account;
    let wallet = Wallet::generate().unwrap();
    let (status, taken) = link(&ada, &world, &other).await;
    assert_eq!((status, taken["code"].as_str()), (409, Some("address_taken")));
    // A text to sign in links nothing, and one to link signs nobody in.
    let text = ada.challenge(&wallet.address()).await.unwrap();
    let signed = |nonce: &str, message: &str| SignIn {
        address: wallet.address(),
        nonce: nonce.to_owned(),
        signature: wallet.sign_text(message).unwrap(),
    };
    let url = format!("{}/v1/address", world.url);
    let token = &ada.token;
    let sent = world.http().post(&url).bearer_auth(token);
    let sent = sent
        .json(&signed(&text.nonce, &text.message))
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 401);
    let asked = world
        .http()
        .get(&url)
        .query(&[("address", wallet.address())])
        .bearer_auth(token);
    let text: alephlab_api::account::Challenge = asked.send().await.unwrap().json().await.unwrap();
    assert!(
        text.message.contains(&account) && text.message.contains("for good"),
        "{}",
        text.message
    );
    let for_link = signed(&text.nonce, &text.message);
    assert_eq!(refused(ada.sign_in(&for_link).await.unwrap_err()).0, 401);
    let (status, linked) = link(&ada, &world, &wallet).await;
    assert_eq!(
        (status, linked["address"].as_str()),
        (200, Some(wallet.address().as_str()))
    );
    assert_eq!(ada.whoami().await.unwrap().address, Some(wallet.address()));
    let by_wallet = sign_in(&world, &wallet).await.unwrap();
    assert_eq!(by_wallet.address, wallet.address());
    let by_wallet = ada.with_token(by_wallet.token);
    assert_eq!(by_wallet.whoami().await.unwrap().account, account);
    let (_, second) = link(&ada, &world, &Wallet::generate().unwrap()).await;
    assert_eq!(second["code"].as_str(), Some("address_linked"));
    let (status, taken) = link(&bob, &world, &wallet).await;
    assert_eq!((status, taken["code"].as_str()), (409, Some("address_taken")));
    assert_eq!(
        refused(ada.add_model(&"00".repeat(32)).await.unwrap_err()).1,
        "record_missing"
    );
    let lines = world.client().audit(0).await.unwrap();
    let linked = lines.iter().find(|line| line.action == "address_linked").unwrap();
    assert_eq!((&linked.account, &linked.subject), (&account, &wallet.address()));
}

#[tokio::test]
async fn who_is_not_admitted_has_an_account_that_waits_for_an_operator() {
    let provider = Provider::start().await;
    let world = world(&provider, false).await;
    let claims = |asked: &Url| provider.signed(&provider.claims(asked, "ada"));
    let waits = answer(&world, &provider, claims).await;
    assert!(!waits.headers().contains_key("set-cookie"));
    let page = waits.text().await.unwrap();
    assert!(
        page.contains("Your account waits.") && page.contains("value=\"/lab\""),
        "{page}"
    );
    let accounts = world.client().accounts().await.unwrap();
    let ada = accounts.iter().find(|one| one.issuer.is_some()).unwrap();
    assert_eq!(
        (ada.admitted, ada.role, ada.label.as_deref()),
        (false, Role::User, Some("ada"))
    );
    assert!(page.contains(&ada.account));
    let change = |admitted| AccountChange {
        admitted: Some(admitted),
        role: None,
    };
    let operator = world.client();
    assert!(
        operator
            .change_account(&ada.account, &change(true))
            .await
            .unwrap()
            .admitted
    );
    let program = program(&world, &signed_in(&world, &provider, "ada").await).await;
    program.whoami().await.unwrap();
    operator
        .change_account(&ada.account, &change(false))
        .await
        .unwrap();
    assert_eq!(refused(program.whoami().await.unwrap_err()).0, 401);
    let page = answer(&world, &provider, claims).await.text().await.unwrap();
    assert!(page.contains("has dismissed"), "{page}");
    let own = operator.whoami().await.unwrap().account;
    let settings = operator.change_account(&own, &change(false)).await.unwrap_err();
    assert_eq!(refused(settings), (409, "admitted_by_settings".to_owned()));
}

#[tokio::test]
async fn tokens_that_do_not_hold_open_nothing() {
    let provider = Provider::start().await;
    let world = world(&provider, true).await;
    let good = json!({ "alg": "RS256", "kid": "0" });
    let with = |asked: &Url, name: &str, value: Value| {
        let mut claims = provider.claims(asked, "ada");
        claims[name] = value;
        claims
    };
    let now = time::unix_now();
    let wrong: [(&str, Value); 9] = [
        ("nonce", json!("another")),
        ("nonce", Value::Null),
        ("aud", json!("another client")),
        ("aud", json!([CLIENT, "another client"])),
        ("aud", json!([])),
        ("iss", json!("https://evil.example")),
        ("exp", json!(now - 1)),
        ("exp", Value::Null),
        ("sub", json!("")),
    ];
    for (name, value) in wrong {
        let answer = answer(&world, &provider, |asked| {
            provider.signed(&with(asked, name, value.clone()))
        })
        .await;
        nothing(answer, &format!("{name} {value}")).await;
    }
    let none = json!({ "alg": "none" });
    let hmac = json!({ "alg": "HS256", "kid": "0" });
    type Lie<'a> = (&'a str, &'a dyn Fn(&Value) -> String);
    let lies: [Lie; 6] = [
        ("alg none", &|claims| unsigned(&none, claims)),
        ("no signature", &|claims| unsigned(&good, claims)),
        ("another key", &|claims| signed_by(1, &good, claims)),
        ("hmac", &|claims| signed_by(0, &hmac, claims)),
        ("changed", &|claims| {
            let token = provider.signed(claims);
            let (_, signature) = token.rsplit_once('.').unwrap();
            let mut other = claims.clone();
            other["sub"] = json!("eve");
            format!("{}{signature}", unsigned(&good, &other))
        }),
        ("no token", &|_| "x".to_owned()),
    ];
    for (what, lie) in lies {
        let answer = answer(&world, &provider, |asked| lie(&provider.claims(asked, "ada"))).await;
        nothing(answer, what).await;
    }
    assert_eq!(
        world.client().accounts().await.unwrap().len(),
        1,
        "the operator's"
    );
}

/// The answer is the sign-in page with a sentence, and a way to where the browser was going.
async fn nothing(answer: Response, what: &str) {
    assert!(!answer.headers().contains_key("set-cookie"), "{what}");
    let page = answer.text().await.unwrap();
    assert!(
        page.contains("You are not signed in.") && page.contains("Nothing was changed."),
        "{what}: {page}"
    );
    assert!(page.contains("/sign-in/oidc?next=%2Flab"), "{what}: {page}");
}

#[tokio::test]
async fn an_answer_is_taken_once_from_the_browser_that_asked() {
    let provider = Provider::start().await;
    let world = world(&provider, true).await;
    let good = |asked: &Url| provider.code(asked, provider.signed(&provider.claims(asked, "ada")));
    let first = begin(&world, "/lab").await;
    let (code, state) = (good(&first.asked), parameter(&first.asked, "state"));
    let elsewhere = begin(&world, "/lab").await;
    for cookie in ["", elsewhere.cookie.as_str()] {
        let stolen = back(&world, cookie, &[("code", &code), ("state", &state)]).await;
        assert!(!stolen.headers().contains_key("set-cookie"));
        assert!(stolen.text().await.unwrap().contains("begun in another browser"));
    }
    let answer = back(&world, &first.cookie, &[("code", &code), ("state", &state)]).await;
    cookie_of(&answer);
    let again = back(&world, &first.cookie, &[("code", &code), ("state", &state)]).await;
    assert!(!again.headers().contains_key("set-cookie"));
    assert!(again.text().await.unwrap().contains("was used already"));
    // A code that was used, under a state that was not.
    let second = begin(&world, "/lab").await;
    let state = parameter(&second.asked, "state");
    nothing(
        back(&world, &second.cookie, &[("code", &code), ("state", &state)]).await,
        "a used code",
    )
    .await;
    // A code that was made for another browser's challenge.
    let third = begin(&world, "/lab").await;
    let (code, state) = (good(&elsewhere.asked), parameter(&third.asked, "state"));
    nothing(
        back(&world, &third.cookie, &[("code", &code), ("state", &state)]).await,
        "an injected code",
    )
    .await;
    // Another provider's answer.
    let fourth = begin(&world, "/lab").await;
    let (code, state) = (good(&fourth.asked), parameter(&fourth.asked, "state"));
    let parameters = [
        ("code", code.as_str()),
        ("state", &state),
        ("iss", "https://evil.example"),
    ];
    nothing(back(&world, &fourth.cookie, &parameters).await, "another issuer").await;
}

#[tokio::test]
async fn what_goes_wrong_at_the_provider_is_a_page_with_a_way_back() {
    let provider = Provider::start().await;
    let world = world(&provider, true).await;
    for (error, said) in [
        (
            "access_denied",
            "The sign-in at Example was refused or ended there.",
        ),
        ("server_error", "Example could not sign you in."),
        ("<script>", "Example could not sign you in."),
    ] {
        let Attempt { asked, cookie } = begin(&world, "/lab").await;
        let state = parameter(&asked, "state");
        let answer = back(&world, &cookie, &[("error", error), ("state", &state)]).await;
        assert!(!answer.headers().contains_key("set-cookie"));
        let page = answer.text().await.unwrap();
        assert!(page.contains(said) && !page.contains("<script>"), "{page}");
        assert!(page.contains("/sign-in/oidc?next=%2Flab"));
    }
    assert_eq!(provider.asked(), 1, "what it said of itself is kept");
    provider.change_key();
    signed_in(&world, &provider, "ada").await;
    assert_eq!(
        provider.asked(),
        2,
        "a key that is not known makes it asked again"
    );
    provider.set_broken(true);
    // A gateway starts while its provider is down.
    let fresh = self::world(&provider, true).await;
    let answer = fresh.http().get(format!("{}/sign-in/oidc?next=/lab", fresh.url));
    let page = answer.send().await.unwrap().text().await.unwrap();
    assert!(
        page.contains("Example cannot be reached") && page.contains("another way"),
        "{page}"
    );
    provider.set_broken(false);
    begin(&fresh, "/lab").await;
}

#[tokio::test]
async fn without_a_provider_there_is_no_button_and_nothing_behind_it() {
    let world = World::start().await;
    let page = world
        .http()
        .get(&world.url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(!page.contains("oidc") && !page.contains("Continue with"));
    for path in ["/sign-in/oidc", "/sign-in/oidc/back?code=1&state=2"] {
        let answer = world
            .http()
            .get(format!("{}{path}", world.url))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_browser_that_came_by_another_name_of_this_machine_is_sent_to_the_gateways_own() {
    let provider = Provider::start().await;
    let world = world(&provider, true).await;
    let other = world.url.replace("127.0.0.1", "localhost");
    let sent = world
        .http()
        .get(format!("{other}/sign-in/oidc?next=/lab"))
        .send()
        .await
        .unwrap();
    let own = sent.headers()["location"].to_str().unwrap();
    assert_eq!(own, format!("{}/sign-in/oidc?again=true&next=%2Flab", world.url));
}
