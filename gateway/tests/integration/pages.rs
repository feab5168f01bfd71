//! The start page, its cookie and what every answer carries.

use alephlab_api::jupyter::NewKernel;
use alephlab_api::ledger::NewCredit;
use alephlab_api::money::{Amount, Asset};

use crate::support::{OWNER, TOKEN, World};

#[tokio::test]
async fn signs_a_browser_in_and_drops_the_token_from_the_address() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let http = world.http();
    let stranger = http.get(&world.url).send().await.unwrap();
    assert!(stranger.text().await.unwrap().contains("Sign in to this gateway"));
    let wrong = http
        .get(format!("{}/?token=canary-of-a-token", world.url))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(wrong.contains("not known here") && !wrong.contains("canary"));
    let signed = http
        .get(format!("{}/?token={TOKEN}", world.url))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            signed.status().as_u16(),
            signed.headers()["location"].to_str().unwrap()
        ),
        (303, "/")
    );
    let cookie = signed.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(TOKEN),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let page = http
        .get(&world.url)
        .header("cookie", &cookie)
        .send()
        .await
        .unwrap();
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self'"),
        "{policy}"
    );
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let page = page.text().await.unwrap();
    for shown in [
        &kernel.to_string()[..8],
        "Idle",
        "jupyter lab --gateway-url",
        "http://127.0.0.1:9",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert!(!page.contains(TOKEN) && !page.contains("style=") && !page.contains("onclick"));
    let kernels = http
        .get(format!("{}/kernels", world.url))
        .header("cookie", &cookie);
    let kernels = kernels.send().await.unwrap().text().await.unwrap();
    // There while it is empty, too: what is said of a kernel comes and goes while the page is open.
    assert!(
        kernels.contains(&format!("data-live=\"more-{kernel}\"")),
        "{kernels}"
    );
}

#[tokio::test]
async fn a_cookie_changes_nothing_from_another_page() {
    let world = World::start().await;
    let http = world.http();
    let signed = http
        .get(format!("{}/?token={TOKEN}", world.url))
        .send()
        .await
        .unwrap();
    let cookie = signed.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    for (origin, status) in [
        (None, 401),
        (Some("https://evil.example".to_owned()), 401),
        (Some(world.url.clone()), 201),
    ] {
        let mut request = http
            .post(format!("{}/api/kernels", world.url))
            .header("cookie", &cookie);
        if let Some(origin) = &origin {
            request = request.header("origin", origin);
        }
        assert_eq!(request.send().await.unwrap().status(), status, "{origin:?}");
    }
}

#[tokio::test]
async fn figures_and_files_are_served() {
    let world = World::start().await;
    let get = |path: &str| world.http().get(format!("{}{path}", world.url)).send();
    assert!(
        get("/metrics")
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("alephlab_kernels{state=\"idle\"} 0")
    );
    assert_eq!(
        get("/static/alephlab.css").await.unwrap().headers()["content-type"],
        "text/css; charset=utf-8"
    );
    for path in [
        "/static/none",
        "/static/../Cargo.toml",
        "/static/%2e%2e/Cargo.toml",
        "/nothing",
    ] {
        assert_eq!(get(path).await.unwrap().status(), 404, "{path}");
    }
}

/// A browser that keeps its cookie and says where it comes from.
async fn post(world: &World, path: &str, cookie: &str, form: &[(&str, &str)]) -> reqwest::Response {
    let request = world.http().post(format!("{}{path}", world.url));
    let request = request.header("origin", &world.url).header("cookie", cookie);
    send_form(request, form).await
}

async fn send_form(request: reqwest::RequestBuilder, form: &[(&str, &str)]) -> reqwest::Response {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(form);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request.body(text.finish()).send().await.unwrap()
}

#[tokio::test]
async fn a_wallet_signs_a_browser_in_and_it_signs_out() {
    let wallet = alephlab_vault::Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let page = world.http().get(format!(
        "{}/sign-in?address={}&next=/lab",
        world.url,
        wallet.address()
    ));
    let page = page.send().await.unwrap().text().await.unwrap();
    assert!(
        page.contains("wants you to sign in with your Ethereum account"),
        "{page}"
    );
    let challenge = world.client().challenge(&wallet.address()).await.unwrap();
    let signature = wallet.sign_text(&challenge.message).unwrap();
    let address = wallet.address();
    let form = [
        ("address", address.as_str()),
        ("nonce", &challenge.nonce),
        ("signature", &signature),
        ("next", "/lab/tree/a.ipynb"),
    ];
    let request = world.http().post(format!("{}/sign-in", world.url));
    let foreign = send_form(request.header("origin", "http://evil.example"), &form).await;
    assert_eq!(foreign.status(), 403);
    let signed = post(&world, "/sign-in", "", &form).await;
    assert_eq!(
        (signed.status().as_u16(), &signed.headers()["location"]),
        (303, &"/lab/tree/a.ipynb".parse().unwrap())
    );
    let cookie = signed.headers()["set-cookie"].to_str().unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let start = async || {
        let request = world.http().get(&world.url).header("cookie", &cookie);
        request.send().await.unwrap().text().await.unwrap()
    };
    assert!(start().await.contains(&wallet.address()));
    // The text was good once.
    let again = post(&world, "/sign-in", "", &form).await.text().await.unwrap();
    assert!(
        again.contains("You are not signed in.") && again.contains("still waits for one"),
        "{again}"
    );
    let out = post(&world, "/sign-out", &cookie, &[]).await;
    assert_eq!(out.status(), 303);
    assert!(
        start().await.contains("Sign in to this gateway"),
        "the cookie opens nothing now"
    );
}

#[tokio::test]
async fn signing_in_says_what_is_wrong_on_the_page() {
    let wallet = alephlab_vault::Wallet::generate().unwrap();
    let world = World::start().await;
    let page = world
        .http()
        .get(format!("{}/sign-in?address=0x12", world.url))
        .send()
        .await
        .unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("An address is `0x` and 40 hex digits."), "{page}");
    let challenge = world.client().challenge(&wallet.address()).await.unwrap();
    let signature = wallet.sign_text(&challenge.message).unwrap();
    let address = wallet.address();
    let form = [
        ("address", address.as_str()),
        ("nonce", &challenge.nonce),
        ("signature", &signature),
    ];
    let page = post(&world, "/sign-in", "", &form).await.text().await.unwrap();
    assert!(
        page.contains("This gateway does not admit this account. Its operator can add"),
        "{page}"
    );
}

/// A kernel with a cap of one of five dollars, at 3.60 an hour.
async fn dear_kernel(world: &World) -> uuid::Uuid {
    let welcome = NewCredit {
        address: OWNER.to_owned(),
        amount: Amount::from_whole(5_000_000),
        asset: Asset::Credit,
        key: "welcome".to_owned(),
        memo: String::new(),
    };
    world.client().give(&welcome).await.unwrap();
    let wanted = NewKernel {
        env: [("KERNEL_MAX_COST".to_owned(), "1000000".to_owned())].into(),
        ..NewKernel::default()
    };
    let started = world.client().start_kernel(&wanted).await.unwrap();
    world.until(started.id, "idle").await.id
}

#[tokio::test]
async fn a_cap_is_raised_on_its_page_once_what_it_takes_was_shown() {
    let data = tempfile::tempdir().unwrap();
    let price = Amount::from_whole(3_600_000);
    let world = World::start_priced(data, false, (TOKEN, Vec::new()), price).await;
    let kernel = dear_kernel(&world).await;
    let signed = world.http().get(format!("{}/?token={TOKEN}", world.url));
    let signed = signed.send().await.unwrap();
    let cookie = signed.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let get = async |path: String| {
        let request = world.http().get(format!("{}{path}", world.url));
        let answer = request.header("cookie", cookie).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let cap = async || world.client().cap(kernel).await.unwrap().cap;
    let path = format!("/kernels/{kernel}/cap");
    let list = get("/kernels".to_owned()).await;
    assert!(
        list.contains(&format!("href=\"{path}\"")) && list.contains("</b> of 1.00"),
        "{list}"
    );
    let page = get(path.clone()).await;
    assert!(
        page.contains("3.60 USD/h") && !page.contains("Raise it to"),
        "{page}"
    );
    let page = get(format!("{path}?cap=1.50")).await;
    for shown in [
        "<dt>Held in addition</dt><dd>0.50 USD</dd>",
        "<dt>Then lasts</dt>",
        "<dt>Balance after</dt><dd>3.50 USD</dd>",
        "Raise it to 1.50 USD",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    for (typed, said) in [
        (
            "0.50",
            "A cap can only be raised: it is 1000000 credits (1.00 USD).",
        ),
        ("9", "(4.00 USD) are available."),
        ("much", "is no amount"),
    ] {
        let form = [("cap", typed)];
        let sent = post(&world, &path, cookie, &form).await.text().await.unwrap();
        for page in [get(format!("{path}?cap={typed}")).await, sent] {
            assert!(page.contains(said) && !page.contains("Raise it to"), "{page}");
            assert!(page.contains(&format!("value=\"{typed}\"")), "{page}");
        }
    }
    let form = [("cap", "1.50")];
    let request = world.http().post(format!("{}{path}", world.url));
    let request = request.header("cookie", cookie);
    let foreign = send_form(request.header("origin", "http://evil.example"), &form).await;
    assert_eq!(foreign.status(), 401);
    assert_eq!(
        cap().await,
        Amount::from_whole(1_000_000),
        "nothing was changed yet"
    );
    for _ in 0..2 {
        let raised = post(&world, &path, cookie, &form).await;
        assert_eq!(raised.headers()["location"], "/kernels?done=raised");
        assert_eq!(cap().await, Amount::from_whole(1_500_000));
    }
    assert!(get("/kernels?done=raised".to_owned()).await.contains("of 1.50"));
    world.client().stop_kernel(kernel).await.unwrap();
    let late = post(&world, &path, cookie, &[("cap", "2")]).await;
    let late = late.text().await.unwrap();
    assert!(
        late.contains("This kernel has ended") && !late.contains("name=\"cap\""),
        "{late}"
    );
}
