//! Secrets of accounts: who may list, set and read them, over HTTP and on the page.

use alephlab_api::Secret;
use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::secrets::{SECRET_BYTES_MAX, SECRETS_MAX, SecretName};
use alephlab_vault::Wallet;

use crate::support::{TOKEN, World, eventually, sign_in};

const CANARY: &str = "sk-canary-0123456789";

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn refused<T>(answer: Result<T, ClientError>) -> (u16, String) {
    match answer.err().expect("a refusal") {
        ClientError::Refused { status, problem } => (status, problem.code),
        other => panic!("{other}"),
    }
}

/// A client with the token of the kernel that was started last.
fn kernel_of(world: &World) -> GatewayClient {
    let token = world.host.kernel_token.lock().unwrap().clone().unwrap();
    world.client().with_token(token)
}

/// A second account with a token of its own.
async fn with_another() -> (World, GatewayClient) {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let token = sign_in(&world, &wallet).await.unwrap().token;
    let other = world.client().with_token(token);
    (world, other)
}

#[tokio::test]
async fn a_kernel_reads_what_its_account_stored_and_the_account_sees_names_and_dates() {
    let world = World::start().await;
    world.kernel().await;
    let (account, kernel) = (world.client(), kernel_of(&world));
    let stored = account
        .set_secret(&name("API_KEY"), Secret::new(CANARY))
        .await
        .unwrap();
    assert_eq!(stored.last_read, None);
    assert_eq!(
        kernel.kernel_secret(&name("API_KEY")).await.unwrap().expose(),
        CANARY
    );
    let lines = "-----BEGIN KEY-----\n\"\\\u{e9}\u{1f511}\n";
    account
        .set_secret(&name("API_KEY"), Secret::new(lines))
        .await
        .unwrap();
    assert_eq!(
        kernel.kernel_secret(&name("API_KEY")).await.unwrap().expose(),
        lines
    );
    let list = world
        .http()
        .get(format!("{}/v1/secrets", world.url))
        .bearer_auth(TOKEN);
    let list = list.send().await.unwrap().text().await.unwrap();
    assert!(list.contains("API_KEY") && !list.contains("BEGIN"), "{list}");
    let [listed] = &account.secrets().await.unwrap()[..] else {
        panic!("one secret")
    };
    assert!(listed.last_read.is_some() && listed.created <= listed.changed);
    account.remove_secret(&name("API_KEY")).await.unwrap();
    assert_eq!(
        refused(kernel.kernel_secret(&name("API_KEY")).await),
        (404, "secret_unknown".to_owned())
    );
}

#[tokio::test]
async fn what_is_missing_is_told_with_the_command_and_the_page_that_add_it() {
    let world = World::start().await;
    let session = world.client().new_kernel_session().await.unwrap();
    let kernel = world.client().with_token(session.token);
    let error = kernel.kernel_secret(&name("API_KEY")).await.unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains("`alephlab secret set API_KEY`"), "{hint}");
    assert!(
        hint.contains(&format!("{}/settings/secrets", world.url)),
        "{hint}"
    );
}

#[tokio::test]
async fn no_account_and_no_kernel_of_another_reads_lists_or_removes_a_secret() {
    let (world, other) = with_another().await;
    world
        .client()
        .set_secret(&name("API_KEY"), Secret::new(CANARY))
        .await
        .unwrap();
    let session = other.new_kernel_session().await.unwrap();
    let others_kernel = world.client().with_token(session.token);
    assert_eq!(
        refused(others_kernel.kernel_secret(&name("API_KEY")).await),
        (404, "secret_unknown".to_owned())
    );
    assert!(other.secrets().await.unwrap().is_empty());
    assert_eq!(refused(other.remove_secret(&name("API_KEY")).await).0, 404);
    other
        .set_secret(&name("API_KEY"), Secret::new("theirs"))
        .await
        .unwrap();
    let own = world.client().new_kernel_session().await.unwrap();
    let own = world.client().with_token(own.token);
    assert_eq!(
        own.kernel_secret(&name("API_KEY")).await.unwrap().expose(),
        CANARY
    );
    assert_eq!(
        others_kernel
            .kernel_secret(&name("API_KEY"))
            .await
            .unwrap()
            .expose(),
        "theirs"
    );
}

#[tokio::test]
async fn values_are_for_kernels_and_changes_for_accounts() {
    let world = World::start().await;
    world.kernel().await;
    let (account, kernel) = (world.client(), kernel_of(&world));
    account.set_secret(&name("A"), Secret::new(CANARY)).await.unwrap();
    let scope = (403, "token_scope".to_owned());
    assert_eq!(
        refused(account.kernel_secret(&name("A")).await),
        scope,
        "the account itself"
    );
    assert_eq!(refused(kernel.secrets().await), scope);
    assert_eq!(
        refused(kernel.set_secret(&name("A"), Secret::new("x")).await),
        scope
    );
    assert_eq!(refused(kernel.remove_secret(&name("A")).await), scope);
    let nobody = GatewayClient::new(&world.url, None).unwrap();
    assert_eq!(refused(nobody.kernel_secret(&name("A")).await).0, 401);
    assert_eq!(kernel.kernel_secret(&name("A")).await.unwrap().expose(), CANARY);
}

#[tokio::test]
async fn a_kernel_that_is_over_reads_nothing() {
    let world = World::start().await;
    let id = world.kernel().await.id;
    let kernel = kernel_of(&world);
    world
        .client()
        .set_secret(&name("A"), Secret::new(CANARY))
        .await
        .unwrap();
    kernel.kernel_secret(&name("A")).await.unwrap();
    world.client().stop_kernel(id).await.unwrap();
    eventually("the end of the token", || async {
        let answer = kernel.kernel_secret(&name("A")).await;
        answer.is_err().then(|| assert_eq!(refused(answer).0, 401))
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_and_never_repeated() {
    let world = World::start().await;
    let put = async |path: &str, body: String| {
        let request = world.http().put(format!("{}/v1/secrets/{path}", world.url));
        let answer = request.bearer_auth(TOKEN).body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert!(!text.contains("canary"), "{text}");
        (status, text)
    };
    for (path, body, code) in [
        ("sk-canary", "{\"value\":\"x\"}".to_owned(), "secret_name"),
        ("A%2FB", "{\"value\":\"x\"}".to_owned(), "secret_name"),
        ("A", "{\"value\":\"\"}".to_owned(), "secret_value"),
        ("A", "{}".to_owned(), "body_unreadable"),
        ("A", "\"sk-canary\"".to_owned(), "body_unreadable"),
        ("A", "{\"value\":[\"sk-canary\"]}".to_owned(), "body_unreadable"),
        (
            "A",
            format!("{{\"value\":\"canary{}\"}}", "x".repeat(SECRET_BYTES_MAX)),
            "secret_value",
        ),
    ] {
        let (status, text) = put(path, body).await;
        assert!(status == 400 && text.contains(code), "{path} {status} {text}");
    }
    for number in 0..SECRETS_MAX {
        let set = world
            .client()
            .set_secret(&name(&format!("S{number}")), Secret::new("x"))
            .await;
        set.unwrap();
    }
    let (status, text) = put("ONE_MORE", "{\"value\":\"canary\"}".to_owned()).await;
    assert!(status == 409 && text.contains("secrets_full"), "{text}");
    assert_eq!(put("S0", "{\"value\":\"another\"}".to_owned()).await.0, 200);
}

#[tokio::test]
async fn a_lost_key_file_is_told_in_words_and_ends_by_setting_the_secret_again() {
    let world = World::start().await;
    world
        .client()
        .set_secret(&name("A"), Secret::new(CANARY))
        .await
        .unwrap();
    let session = world.client().new_kernel_session().await.unwrap();
    let data = world.stop().await;
    std::fs::remove_file(data.path().join("gateway/secrets.key")).unwrap();
    let world = World::start_in(data, false).await;
    let kernel = world.client().with_token(session.token);
    let error = kernel.kernel_secret(&name("A")).await.unwrap_err();
    assert_eq!(error.to_problem().code, "secret_unreadable");
    assert!(error.to_string().contains("another key file"), "{error}");
    assert!(error.hint().unwrap().contains("alephlab secret set A"));
    world
        .client()
        .set_secret(&name("A"), Secret::new("new"))
        .await
        .unwrap();
    assert_eq!(kernel.kernel_secret(&name("A")).await.unwrap().expose(), "new");
}

/// A browser that is signed in.
struct Browser<'a> {
    world: &'a World,
    cookie: String,
}

impl<'a> Browser<'a> {
    async fn new(world: &'a World) -> Self {
        let signed = world.http().get(format!("{}/?token={TOKEN}", world.url));
        let signed = signed.send().await.unwrap();
        let cookie = signed.headers()["set-cookie"].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Self { world, cookie }
    }

    async fn page(&self, path: &str) -> String {
        let request = self.world.http().get(format!("{}{path}", self.world.url));
        let answer = request.header("cookie", &self.cookie).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// Sends a form from a page of `origin`; the status, where it leads, and the page.
    async fn post(&self, path: &str, origin: Option<&str>, form: &[(&str, &str)]) -> (u16, String, String) {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(form);
        let mut request = self.world.http().post(format!("{}{path}", self.world.url));
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request
            .header("cookie", &self.cookie)
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(text.finish()).send().await.unwrap();
        let leads = answer
            .headers()
            .get("location")
            .map(|to| to.to_str().unwrap().to_owned());
        (
            answer.status().as_u16(),
            leads.unwrap_or_default(),
            answer.text().await.unwrap(),
        )
    }
}

#[tokio::test]
async fn the_page_stores_lists_and_removes_without_a_script() {
    let world = World::start().await;
    let browser = Browser::new(&world).await;
    let own = Some(world.url.as_str());
    let empty = browser.page("/settings/secrets").await;
    assert!(empty.contains("None yet") && empty.contains("Whoever runs this gateway can read them"));
    let form = [("name", " API_KEY "), ("value", CANARY)];
    let (status, leads, _) = browser.post("/settings/secrets", own, &form).await;
    assert_eq!(
        (status, leads.as_str()),
        (303, "/settings/secrets?stored=API_KEY")
    );
    let listed = browser.page(&leads).await;
    assert!(
        listed.contains("API_KEY is stored.") && listed.contains("/settings/secrets/remove?name=API_KEY")
    );
    assert!(
        !listed.contains("canary") && !listed.contains("style="),
        "{listed}"
    );
    let session = world.client().new_kernel_session().await.unwrap();
    let kernel = world.client().with_token(session.token);
    assert_eq!(
        kernel.kernel_secret(&name("API_KEY")).await.unwrap().expose(),
        CANARY
    );
    let asks = browser.page("/settings/secrets/remove?name=API_KEY").await;
    assert!(
        asks.contains("cannot bring it back") && asks.contains("<title>Remove API_KEY"),
        "{asks}"
    );
    assert_eq!(
        world.client().secrets().await.unwrap().len(),
        1,
        "asking removes nothing"
    );
    let (status, leads, _) = browser
        .post("/settings/secrets/remove", own, &[("name", "API_KEY")])
        .await;
    assert_eq!(
        (status, leads.as_str()),
        (303, "/settings/secrets?removed=API_KEY")
    );
    assert!(browser.page(&leads).await.contains("API_KEY is removed."));
    assert!(world.client().secrets().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_page_says_what_was_wrong_keeps_the_name_and_forgets_the_value() {
    let world = World::start().await;
    let browser = Browser::new(&world).await;
    for (form, said) in [
        (
            [("name", "API-KEY"), ("value", CANARY)],
            "does not begin with a digit.",
        ),
        ([("name", "API_KEY"), ("value", "")], "The value is empty."),
    ] {
        let (status, _, page) = browser.post("/settings/secrets", Some(&world.url), &form).await;
        assert_eq!(status, 200);
        assert!(page.contains(said) && page.contains("aria-invalid"), "{page}");
        assert!(
            page.contains(&format!("value=\"{}\"", form[0].1)) && !page.contains("canary"),
            "{page}"
        );
    }
    assert!(world.client().secrets().await.unwrap().is_empty());
    let forged = browser
        .page("/settings/secrets?stored=NOT_THERE&removed=%3Cb%3E")
        .await;
    assert!(
        !forged.contains("role=\"status\""),
        "a link says nothing that is not so"
    );
}

#[tokio::test]
async fn the_page_is_for_who_is_signed_in_and_forms_of_other_pages_change_nothing() {
    let world = World::start().await;
    let sent = |answer: &reqwest::Response| {
        let place = answer
            .headers()
            .get("location")
            .and_then(|place| place.to_str().ok());
        place.map(str::to_owned)
    };
    let sign_in = Some("/?next=/settings/secrets".to_owned());
    let asked = world.http().get(format!("{}/settings/secrets", world.url));
    assert_eq!(sent(&asked.send().await.unwrap()), sign_in);
    let session = world.client().new_kernel_session().await.unwrap();
    let kernel = world.http().get(format!("{}/settings/secrets", world.url));
    let kernel = kernel.bearer_auth(session.token.expose()).send().await.unwrap();
    assert_eq!(sent(&kernel), sign_in);
    let browser = Browser::new(&world).await;
    world
        .client()
        .set_secret(&name("KEPT"), Secret::new(CANARY))
        .await
        .unwrap();
    for origin in [None, Some("https://evil.example"), Some("null")] {
        for (path, form) in [
            ("/settings/secrets", vec![("name", "KEPT"), ("value", "x")]),
            ("/settings/secrets/remove", vec![("name", "KEPT")]),
        ] {
            assert_eq!(
                browser.post(path, origin, &form).await.0,
                401,
                "{origin:?} {path}"
            );
        }
    }
    assert_eq!(world.client().secrets().await.unwrap().len(), 1);
}
