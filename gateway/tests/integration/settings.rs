//! The settings page as a browser without script uses it.

use alephlab_vault::Wallet;

use crate::support::{MAX_STORAGE, TOKEN, World, sign_in};

/// A browser with its cookies.
struct Browser<'a> {
    world: &'a World,
    cookie: String,
}

impl<'a> Browser<'a> {
    /// One that signs in by a token.
    async fn signed_in(world: &'a World, token: &str) -> Self {
        let page = format!("{}/?token={token}&next=/settings", world.url);
        let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
        let request = world.http().get(page).header("user-agent", agent);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["location"], "/settings");
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        Self {
            world,
            cookie: cookie.split(';').next().unwrap().to_owned(),
        }
    }

    async fn get(&self, path: &str) -> String {
        let request = self.world.http().get(format!("{}{path}", self.world.url));
        let answer = request.header("cookie", &self.cookie).send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
        let page = answer.text().await.unwrap();
        assert!(!page.contains("style=") && !page.contains("onclick"), "{path}");
        page
    }

    async fn post(&self, path: &str, origin: &str, form: &[(&str, &str)]) -> reqwest::Response {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(form);
        let request = self.world.http().post(format!("{}{path}", self.world.url));
        let request = request
            .header("cookie", &self.cookie)
            .header("origin", origin)
            .header("content-type", "application/x-www-form-urlencoded");
        request.body(text.finish()).send().await.unwrap()
    }

    async fn sends(&self, path: &str, form: &[(&str, &str)]) -> reqwest::Response {
        self.post(path, &self.world.url, form).await
    }
}

/// What stands between two marks.
fn between<'a>(page: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = page
        .split_once(begin)
        .unwrap_or_else(|| panic!("{begin}: {page}"))
        .1;
    rest.split_once(end).unwrap().0
}

#[tokio::test]
async fn a_token_is_made_on_the_page_shown_once_and_revoked_on_a_page_of_its_own() {
    let world = World::start().await;
    let browser = Browser::signed_in(&world, TOKEN).await;
    let page = browser.get("/settings").await;
    for shown in [
        "You have no access token",
        "Operator of this gateway",
        "Firefox on Linux",
        "This browser",
        "of 12 MiB",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let form = [("name", "CI <b>"), ("scope", "read"), ("days", "7")];
    for origin in ["https://evil.example", "null"] {
        let foreign = browser.post("/settings/tokens", origin, &form).await;
        assert_eq!(foreign.status(), 401, "{origin}");
    }
    let made = browser.sends("/settings/tokens", &form).await;
    assert_eq!(made.headers()["cache-control"], "no-store");
    let made = made.text().await.unwrap();
    let token = between(&made, "<code id=\"new-token\">", "</code>").to_owned();
    assert!(
        token.starts_with("alab_") && made.contains("CI &#60;b&#62;"),
        "{made}"
    );
    let listed = browser.get("/settings").await;
    assert!(!listed.contains(&token) && listed.contains("never"), "shown once");
    let with_it = world.client().with_token(alephlab_api::Secret::new(token));
    with_it.whoami().await.unwrap();
    let twice = browser
        .sends("/settings/tokens", &form)
        .await
        .text()
        .await
        .unwrap();
    for kept in [
        "No token was made.",
        "already",
        "value=\"CI &#60;b&#62;\"",
        "value=\"7\" selected",
        "value=\"read\" checked",
    ] {
        assert!(twice.contains(kept), "{kept}: {twice}");
    }
    let ask = format!(
        "/settings/tokens/{}/revoke",
        between(&listed, "href=\"/settings/tokens/", "/revoke")
    );
    let page = browser.get(&ask).await;
    assert!(page.contains("Revoke CI &#60;b&#62;?") && page.contains("Kernels that it started go on"));
    with_it.whoami().await.unwrap();
    let revoked = browser.sends(&ask, &[]).await;
    assert_eq!(
        (revoked.status().as_u16(), &revoked.headers()["location"]),
        (303, &"/settings?done=revoked".parse().unwrap())
    );
    assert!(
        browser
            .get("/settings?done=revoked")
            .await
            .contains("The token is revoked.")
    );
    assert!(with_it.whoami().await.is_err());
    assert_eq!(browser.sends(&ask, &[]).await.status(), 404);
}

#[tokio::test]
async fn a_browser_of_a_narrow_token_sees_no_tokens_and_makes_none() {
    let world = World::start().await;
    let new = alephlab_api::token::NewToken {
        name: "look".to_owned(),
        scope: alephlab_api::token::Scope::Read,
        life: None,
    };
    let made = world.client().new_token(&new).await.unwrap();
    let browser = Browser::signed_in(&world, made.token.expose()).await;
    let page = browser.get("/settings").await;
    assert!(
        page.contains("a token of scope read") && !page.contains("Make a token") && !page.contains("look<")
    );
    let form = [("name", "x"), ("scope", "read"), ("days", "7")];
    assert_eq!(browser.sends("/settings/tokens", &form).await.status(), 403);
    assert_eq!(
        browser.sends("/settings/sign-out-others", &[]).await.status(),
        403
    );
}

#[tokio::test]
async fn who_is_not_signed_in_comes_to_the_settings_after_signing_in() {
    let world = World::start().await;
    let asked = world
        .http()
        .get(format!("{}/settings", world.url))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (asked.status().as_u16(), &asked.headers()["location"]),
        (303, &"/?next=/settings".parse().unwrap())
    );
}

#[tokio::test]
async fn a_theme_is_kept_by_the_browser_and_stands_in_every_page() {
    let world = World::start().await;
    let mut browser = Browser::signed_in(&world, TOKEN).await;
    assert!(
        browser
            .get("/settings")
            .await
            .contains("value=\"system\" checked")
    );
    let foreign = browser
        .post("/settings/theme", "https://evil.example", &[("theme", "dark")])
        .await;
    assert_eq!(foreign.status(), 403);
    let chosen = browser.sends("/settings/theme", &[("theme", "dark")]).await;
    let cookie = chosen.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("theme=dark; "), "{cookie}");
    browser.cookie = format!("{}; theme=dark", browser.cookie);
    for path in ["/", "/settings"] {
        assert!(
            browser
                .get(path)
                .await
                .contains("<html lang=\"en\" data-theme=\"dark\">"),
            "{path}"
        );
    }
    for (theme, kept) in [("system", "theme=; "), ("<script>", "theme=; ")] {
        let chosen = browser.sends("/settings/theme", &[("theme", theme)]).await;
        let cookie = chosen.headers()["set-cookie"].to_str().unwrap();
        assert!(
            cookie.starts_with(kept) && cookie.contains("Max-Age=0"),
            "{cookie}"
        );
    }
    browser.cookie = format!("{}; theme=\"><script>", browser.cookie.split(';').next().unwrap());
    assert!(browser.get("/").await.contains("<html lang=\"en\">"));
}

#[tokio::test]
async fn signing_out_everywhere_else_leaves_this_browser_its_tokens_and_other_accounts() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let program = world
        .client()
        .with_token(sign_in(&world, &wallet).await.unwrap().token);
    let ada = Browser::signed_in(&world, sign_in(&world, &wallet).await.unwrap().token.expose()).await;
    let elsewhere = Browser::signed_in(&world, sign_in(&world, &wallet).await.unwrap().token.expose()).await;
    let of_operator = Browser::signed_in(&world, TOKEN).await;
    let new = alephlab_api::token::NewToken {
        name: "ci".to_owned(),
        ..Default::default()
    };
    let token = program.new_token(&new).await.unwrap().token;
    let done = ada.sends("/settings/sign-out-others", &[]).await;
    assert_eq!(done.headers()["location"], "/settings?done=signed-out");
    assert!(ada.get("/settings").await.contains("This browser"));
    assert!(elsewhere.get("/").await.contains("Sign in to this gateway"));
    assert!(program.whoami().await.is_err());
    program.with_token(token).whoami().await.unwrap();
    assert!(
        of_operator
            .get("/settings")
            .await
            .contains("Operator of this gateway")
    );
}

#[tokio::test]
async fn what_would_not_fit_is_refused_with_nothing_lost_until_room_is_made() {
    let world = World::start().await;
    let put = async |name: &str, bytes: u64| {
        let text = "x".repeat(usize::try_from(bytes).unwrap());
        let body = serde_json::json!({ "type": "file", "format": "text", "content": text });
        let request = world.http().put(format!("{}/api/contents/{name}", world.url));
        let answer = request
            .bearer_auth(TOKEN)
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<serde_json::Value>().await.unwrap())
    };
    assert_eq!(put("a", MAX_STORAGE - 10).await.0, 201);
    let (status, problem) = put("b", 11).await;
    assert_eq!((status, problem["code"].as_str()), (507, Some("storage_quota")));
    let message = problem["message"].as_str().unwrap();
    assert!(
        message.contains("nothing was changed") && message.contains("12 MiB"),
        "{message}"
    );
    assert_eq!(put("a", MAX_STORAGE + 1).await.0, 507);
    let request = world
        .http()
        .get(format!("{}/api/contents/a", world.url))
        .bearer_auth(TOKEN);
    let kept: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(kept["size"].as_u64(), Some(MAX_STORAGE - 10));
    assert_eq!(put("a", 100).await.0, 200, "less is never refused");
    assert_eq!(put("b", 11).await.0, 201);
    let page = Browser::signed_in(&world, TOKEN).await.get("/settings").await;
    assert!(page.contains("<b>111 bytes</b> of 12 MiB"), "{page}");
}
