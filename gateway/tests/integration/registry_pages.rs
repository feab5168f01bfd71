//! The registry's pages over HTTP: what everybody sees, what an account does, and what nobody is told.

use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_vault::{GrantTerms, Meta, ReaderKey, Wallet, grant_dataset, put_dataset, register_reader_key};
use reqwest::Response;
use serde_json::Value;
use uuid::Uuid;

use crate::shares::{Shared, share, source};
use crate::support::{TOKEN, World};

/// A browser: its cookie, and where its pages come from.
struct Browser<'a> {
    world: &'a World,
    cookie: String,
}

impl<'a> Browser<'a> {
    async fn of(world: &'a World, token: &Secret) -> Self {
        let signed = world
            .http()
            .get(format!("{}/?token={}", world.url, token.expose()));
        let signed = signed.send().await.unwrap();
        let cookie = signed.headers()["set-cookie"].to_str().unwrap();
        Self {
            world,
            cookie: cookie.split(';').next().unwrap().to_owned(),
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = self.world.http().get(format!("{}{path}", self.world.url));
        told(request.header("cookie", &self.cookie).send().await.unwrap()).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let request = self.world.http().post(format!("{}{path}", self.world.url));
        let request = request
            .header("cookie", &self.cookie)
            .header("origin", &self.world.url);
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(encoded(form))
            .send()
            .await
            .unwrap()
    }
}

fn encoded(form: &[(&str, &str)]) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(form);
    text.finish()
}

async fn told(answer: Response) -> (u16, String) {
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn anonymous(world: &World, path: &str) -> (u16, String) {
    let answer = world
        .http()
        .get(format!("{}{path}", world.url))
        .send()
        .await
        .unwrap();
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self'"),
        "{path}: {policy}"
    );
    let (status, html) = told(answer).await;
    for never in ["style=", "onclick", "javascript:"] {
        assert!(!html.contains(never), "{path}: {never}");
    }
    (status, html)
}

fn location(answer: &Response) -> &str {
    assert_eq!(answer.status(), 303);
    answer.headers()["location"].to_str().unwrap()
}

#[tokio::test]
async fn who_is_not_signed_in_looks_at_models_and_is_asked_to_sign_in_for_the_rest() {
    let empty = World::start().await;
    let (status, html) = anonymous(&empty, "/models").await;
    assert!(status == 200 && html.contains("No model is published here yet"));
    let shared = share().await;
    let world = &shared.world;
    let (name, revision) = (&shared.terms.model, &shared.terms.revision);
    let (_, html) = anonymous(world, "/models?q=digits").await;
    assert!(
        html.contains(&format!("href=\"/models/{name}\"")) && html.contains("Sealed"),
        "{html}"
    );
    let (_, html) = anonymous(world, "/models?q=digits&format=gguf").await;
    assert!(html.contains("No model is all of this") && html.contains("href=\"/models?q=digits\""));
    for (tab, shown) in [
        ("", "Sign in to open it in a notebook"),
        ("/files", "400 kB"),
        ("/revisions", "The first"),
        ("/verification", "Nobody has checked this revision"),
        ("/use", "It could keep the token and read this revision"),
    ] {
        for address in [
            name.clone(),
            name.to_ascii_lowercase().replace("/DIGITS", "/digits"),
        ] {
            let (status, html) = anonymous(world, &format!("/models/{address}{tab}")).await;
            assert!(status == 200 && html.contains(shown), "{tab}: {html}");
        }
    }
    let (status, _) = anonymous(world, &format!("/models/{name}?rev={revision}")).await;
    assert_eq!(status, 200);
    for path in [
        format!("/models/{name}?rev=v9"),
        format!("/models/{name}/stars"),
        format!("/models/{name}x"),
        "/models/ada/digits".to_owned(),
        "/m/not-a-uuid".to_owned(),
    ] {
        let (status, html) = anonymous(world, &path).await;
        assert!(
            status == 404 && html.contains("There is nothing at this address"),
            "{path}"
        );
    }
    for path in ["/shares", "/datasets"] {
        let answer = world
            .http()
            .get(format!("{}{path}", world.url))
            .send()
            .await
            .unwrap();
        assert_eq!(location(&answer), format!("/?next={path}"));
    }
}

#[tokio::test]
async fn one_click_makes_a_notebook_of_the_revision_in_the_accounts_folder() {
    let shared = share().await;
    let (name, revision) = (shared.terms.model.clone(), shared.terms.revision.clone());
    let path = format!("/models/{name}/notebook");
    let browser = Browser::of(&shared.world, &shared.owner_token).await;
    let answer = browser.post(&path, &[("rev", &revision)]).await;
    let made = location(&answer).to_owned();
    assert_eq!(made, format!("/models/{name}?made=digits.ipynb"));
    let (_, html) = browser.get(&made).await;
    assert!(html.contains("alephlab lab install"), "{html}");
    let (_, html) = browser.get(&format!("/models/{name}?made=%3Cb%3E.ipynb")).await;
    assert!(!html.contains("is in your folder"));
    let address = shared.wallet.address().to_lowercase();
    let file = shared
        .world
        .data
        .path()
        .join("work")
        .join(&address)
        .join("digits.ipynb");
    let notebook: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let code = notebook["cells"].to_string();
    assert!(code.contains(&format!("{name}@{revision}")), "{code}");
    assert_eq!(notebook["metadata"]["kernelspec"]["name"], "alephlab");
    // From nowhere, and by nobody.
    let http = shared.world.http();
    let url = format!("{}{path}", shared.world.url);
    let foreign = http
        .post(&url)
        .header("cookie", &browser.cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), 401);
    let nobody = http
        .post(&url)
        .header("origin", &shared.world.url)
        .send()
        .await
        .unwrap();
    assert_eq!(nobody.status(), 401);
    assert_eq!(browser.post(&path, &[("rev", "v9")]).await.status(), 404);
    // Where JupyterLab is installed it opens there.
    let (wallet, token) = (shared.wallet.address(), shared.owner_token.clone());
    let folder = shared.world.stop().await;
    let lab = folder.path().join("lab/lab/static");
    std::fs::create_dir_all(&lab).unwrap();
    let page = "<script src=\"{{page_config.fullStaticUrl}}/main.ab12.js?v=ab12\"></script>";
    std::fs::write(lab.join("index.html"), page).unwrap();
    let world = World::start_as(folder, false, TOKEN, vec![wallet]).await;
    let browser = Browser::of(&world, &token).await;
    let answer = browser.post(&path, &[("rev", &revision)]).await;
    assert_eq!(location(&answer), "/lab/tree/digits1.ipynb");
}

#[tokio::test]
async fn one_click_on_a_shares_page_makes_a_notebook_without_its_token() {
    let shared = share().await;
    let path = format!("/m/{}", shared.terms.uuid);
    let form = format!("{path}/notebook");
    let (_, html) = anonymous(&shared.world, &path).await;
    assert!(html.contains(&format!("action=\"{form}\"")), "{html}");
    let browser = Browser::of(&shared.world, &shared.owner_token).await;
    let made = location(&browser.post(&form, &[]).await).to_owned();
    assert_eq!(made, format!("{path}?made=shared-model.ipynb"));
    assert!(browser.get(&made).await.1.contains("is in your folder"));
    let address = shared.wallet.address().to_lowercase();
    let file = shared.world.data.path().join("work").join(&address);
    let notebook = std::fs::read_to_string(file.join("shared-model.ipynb")).unwrap();
    assert!(
        notebook.contains(&format!("pull(\\\"{}\\\", None)?", shared.terms.uuid)),
        "{notebook}"
    );
    // Who is not signed in comes back to the page after it.
    let http = shared.world.http();
    let nobody = http.post(format!("{}{form}", shared.world.url));
    let nobody = nobody.header("origin", &shared.world.url).send().await.unwrap();
    assert_eq!(location(&nobody), format!("/?next={path}"));
    let foreign = http
        .post(format!("{}{form}", shared.world.url))
        .send()
        .await
        .unwrap();
    assert_eq!(foreign.status(), 403);
}

#[tokio::test]
async fn pages_and_lists_are_compressed_and_bytes_and_tokens_are_not() {
    let shared = share().await;
    let world = &shared.world;
    let ask = async |path: &str| {
        let request = world.http().get(format!("{}{path}", world.url));
        let request = request
            .header("accept-encoding", "gzip, br")
            .header("authorization", format!("Bearer {}", shared.token.expose()));
        request.send().await.unwrap()
    };
    let name = &shared.terms.model;
    let lists = [
        "/models".to_owned(),
        format!("/models/{name}"),
        "/static/htmx.min.js".to_owned(),
    ];
    for path in lists {
        let answer = ask(&path).await;
        assert_eq!(answer.headers()["content-encoding"], "gzip", "{path}");
        assert_eq!(answer.headers()["vary"], "accept-encoding", "{path}");
        assert!(answer.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]), "{path}");
    }
    let file = format!("/m/{}/resolve/main/model.safetensors", shared.terms.uuid);
    // Each of them large, and all but the first two of a kind that would be compressed.
    let share = format!("/m/{}", shared.terms.uuid);
    for path in [
        file.as_str(),
        "/static/fonts/instrument-sans-latin-wght-normal.woff2",
        "/",
        share.as_str(),
    ] {
        let answer = ask(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(!answer.headers().contains_key("content-encoding"), "{path}");
        assert!(answer.bytes().await.unwrap().len() > 1_024, "{path}");
    }
    let browser = Browser::of(world, &shared.owner_token).await;
    for path in ["/settings", "/shares/new"] {
        let request = world.http().get(format!("{}{path}", world.url));
        let request = request
            .header("accept-encoding", "gzip, br")
            .header("cookie", &browser.cookie);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(!answer.headers().contains_key("content-encoding"), "{path}");
        assert!(answer.bytes().await.unwrap().len() > 1_024, "{path}");
    }
}

#[tokio::test]
async fn an_owner_sees_and_revokes_shares_and_nobody_else_does() {
    let Shared {
        world,
        owner_token,
        terms,
        token,
        ..
    } = share().await;
    let browser = Browser::of(&world, &owner_token).await;
    let (_, html) = browser.get("/shares").await;
    assert!(html.contains(&format!("/shares/{}/revoke", terms.uuid)) && !html.contains(token.expose()));
    let ask = format!("/shares/{}/revoke", terms.uuid);
    let stranger = Browser::of(&world, &Secret::new(TOKEN)).await;
    assert_eq!(stranger.get(&ask).await.0, 404);
    assert_eq!(location(&stranger.post(&ask, &[]).await), "/shares?done=revoked");
    let (status, html) = browser.get(&ask).await;
    assert!(status == 200 && html.contains("can keep it"), "{html}");
    let read = || async {
        let path = format!("{}/m/{}/resolve/main/README.md", world.url, terms.uuid);
        world
            .http()
            .get(path)
            .bearer_auth(token.expose())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(read().await, 200);
    assert_eq!(location(&browser.post(&ask, &[]).await), "/shares?done=revoked");
    assert_eq!(read().await, 401);
    let (_, html) = browser.get("/shares?done=revoked").await;
    assert!(html.contains("You share no model") && html.contains("The share is revoked"));
}

#[tokio::test]
async fn the_page_of_a_share_tells_nobody_whether_there_is_one() {
    let shared = share().await;
    let page = async |uuid: Uuid| {
        let (status, html) = anonymous(&shared.world, &format!("/m/{uuid}")).await;
        assert_eq!(status, 200);
        html.replace(&uuid.to_string(), "UUID")
    };
    let (right, wrong) = (page(shared.terms.uuid).await, page(Uuid::new_v4()).await);
    assert_eq!(right, wrong);
    shared.owner.revoke_share(shared.terms.uuid).await.unwrap();
    assert_eq!(page(shared.terms.uuid).await, right);
    let token = shared.token.expose();
    let (_, html) = anonymous(&shared.world, &format!("/m/{}?t={token}", shared.terms.uuid)).await;
    assert!(html.contains("A token stood in this page") && !html.contains(token));
}

#[tokio::test]
async fn forms_answer_with_a_command_and_change_nothing() {
    let shared = share().await;
    let world = &shared.world;
    let browser = Browser::of(world, &shared.owner_token).await;
    for (path, form, command) in [
        (
            "/publish",
            vec![("folder", "my models"), ("open", "public")],
            "alephlab model publish &#39;my models&#39; --public",
        ),
        (
            "/shares/new",
            vec![("model", "digits"), ("expires", "7d")],
            "alephlab model share digits --expires 7d",
        ),
        (
            "/datasets",
            vec![
                ("dataset", "flowers"),
                ("reader", "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e"),
                ("what", "revoke"),
            ],
            "alephlab dataset revoke flowers \
             0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e",
        ),
    ] {
        let (status, html) = told(browser.post(path, &form).await).await;
        assert!(status == 200 && html.contains(command), "{path}: {html}");
        let foreign = world.http().post(format!("{}{path}", world.url));
        let foreign = foreign
            .header("origin", "https://evil.example")
            .header("content-type", "application/x-www-form-urlencoded");
        let foreign = foreign.body(encoded(&form)).send().await.unwrap();
        assert!([401, 403].contains(&foreign.status().as_u16()), "{path}");
    }
    assert_eq!(shared.owner.shares().await.unwrap().len(), 1);
    // Who is not signed in prepares a publication too.
    let open = world
        .http()
        .post(format!("{}/publish", world.url))
        .header("origin", &world.url);
    let open = open.header("content-type", "application/x-www-form-urlencoded");
    let (status, html) = told(open.body(encoded(&[("folder", "x")])).send().await.unwrap()).await;
    assert!(status == 200 && html.contains("alephlab model publish x --sealed"));
}

#[tokio::test]
async fn an_account_sees_what_the_network_says_of_its_datasets() {
    let shared = share().await;
    let browser = Browser::of(&shared.world, &shared.owner_token).await;
    let (_, html) = browser.get("/datasets").await;
    // The model is sealed content of the account too, and no dataset.
    assert!(html.contains("You have no dataset"), "{html}");
    let storage = Arc::clone(&shared.world.storage);
    let (reader, reader_key) = (Wallet::generate().unwrap(), ReaderKey::generate().unwrap());
    register_reader_key(storage.as_ref(), &reader, &reader_key)
        .await
        .unwrap();
    let put = put_dataset(
        Arc::clone(&storage),
        &shared.wallet,
        &shared.key,
        vec![source("flowers.csv", b"1,2\n")],
        Meta::default(),
        None,
        &|_| {},
    );
    let head = put.await.unwrap().head;
    let to = reader.address().parse().unwrap();
    grant_dataset(
        storage.as_ref(),
        &shared.wallet,
        &shared.key,
        &head,
        to,
        GrantTerms::until(None),
    )
    .await
    .unwrap();
    let (_, html) = browser.get("/datasets").await;
    let id = head.head.dataset_id.to_string();
    assert!(
        html.contains(&id) && html.contains(&reader.address()) && html.contains("no end"),
        "{html}"
    );
    assert!(!html.contains("flowers.csv"));
    let operator = Browser::of(&shared.world, &Secret::new(TOKEN)).await;
    assert!(!operator.get("/datasets").await.1.contains(&id));
}
