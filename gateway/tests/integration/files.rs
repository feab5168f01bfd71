//! Files and JupyterLab's page over HTTP, as JupyterLab asks.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TOKEN, World, sign_in};

struct Caller {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Caller {
    fn new(world: &World, token: &str) -> Self {
        Self {
            http: world.http(),
            url: world.url.clone(),
            token: token.to_owned(),
        }
    }

    /// As the page does it: JSON as text/plain.
    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.bearer_auth(&self.token);
        if !body.is_null() {
            request = request
                .header("content-type", "text/plain;charset=UTF-8")
                .body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, Value::Null).await
    }
}

#[tokio::test]
async fn a_notebook_is_made_saved_renamed_kept_and_deleted() {
    let world = World::start().await;
    let caller = Caller::new(&world, TOKEN);
    let (status, made) = caller
        .call(Method::POST, "/api/contents", json!({ "type": "notebook" }))
        .await;
    assert_eq!(
        (status.as_u16(), made["path"].as_str()),
        (201, Some("Untitled.ipynb"))
    );
    let (status, _) = caller
        .call(
            Method::PATCH,
            "/api/contents/Untitled.ipynb",
            json!({ "path": "ä b.ipynb" }),
        )
        .await;
    assert_eq!(status, 200);
    let path = "/api/contents/%C3%A4%20b.ipynb";
    let notebook = json!({ "cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5 });
    let save = json!({ "type": "notebook", "format": "json", "content": notebook, "path": "ä b.ipynb", "name": "x" });
    assert_eq!(caller.call(Method::PUT, path, save).await.0, 200);
    let (status, read) = caller
        .get(&format!("{path}?type=notebook&content=1&hash=1&1796000000000"))
        .await;
    assert_eq!(
        (status.as_u16(), &read["content"], read["hash_algorithm"].as_str()),
        (200, &notebook, Some("sha256"))
    );
    let (_, list) = caller
        .get("/api/contents/?content=1&contentProviderId=undefined")
        .await;
    assert_eq!(list["content"][0]["name"], "ä b.ipynb");
    assert_eq!(
        caller.get("/api/contents?content=0").await.1["content"],
        Value::Null
    );
    let (status, kept) = caller
        .call(Method::POST, &format!("{path}/checkpoints"), Value::Null)
        .await;
    assert_eq!((status.as_u16(), kept["id"].as_str()), (201, Some("checkpoint")));
    assert_eq!(caller.get(&format!("{path}/checkpoints")).await.1, json!([kept]));
    let restore = format!("{path}/checkpoints/checkpoint");
    assert_eq!(caller.call(Method::POST, &restore, Value::Null).await.0, 204);
    assert_eq!(caller.call(Method::DELETE, path, Value::Null).await.0, 204);
    let (status, gone) = caller.get(path).await;
    assert_eq!(
        (status.as_u16(), gone["code"].as_str()),
        (404, Some("file_unknown"))
    );
}

#[tokio::test]
async fn accounts_see_their_own_files_only_and_nobody_anything_else() {
    let wallet = alephlab_vault::Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    let other = sign_in(&world, &wallet).await.unwrap();
    let (owner, other) = (
        Caller::new(&world, TOKEN),
        Caller::new(&world, other.token.expose()),
    );
    let save = json!({ "type": "file", "format": "text", "content": "mine" });
    assert_eq!(
        owner
            .call(Method::PUT, "/api/contents/a.txt", save.clone())
            .await
            .0,
        201
    );
    assert_eq!(other.get("/api/contents/a.txt").await.0, 404);
    assert_eq!(other.get("/files/a.txt").await.0, 404);
    assert_eq!(other.get("/api/contents").await.1["content"], json!([]));
    // The other account's folder lies beside it.
    for path in [
        "..%2Fa.txt",
        "%2e%2e/a.txt",
        "x/..%2F..%2Fa.txt",
        ".ipynb_checkpoints/x",
    ] {
        let (status, _) = owner.get(&format!("/api/contents/{path}")).await;
        assert!(status == 400 || status == 404, "{path}: {status}");
    }
    let stranger = Caller::new(&world, "no-token-of-anybody-0123");
    for path in [
        "/api/contents",
        "/files/a.txt",
        "/lab/api/workspaces",
        "/api/events/subscribe",
    ] {
        assert_eq!(stranger.get(path).await.0, 401, "{path}");
    }
    assert_eq!(
        stranger.call(Method::PUT, "/api/contents/a.txt", save).await.0,
        401
    );
    assert_eq!(owner.get("/api/contents/a.txt").await.1["content"], "mine");
}

#[tokio::test]
async fn a_download_cannot_act_as_this_gateway() {
    let world = World::start().await;
    let caller = Caller::new(&world, TOKEN);
    let page = json!({ "type": "file", "format": "text", "content": "<script>alert(1)</script>" });
    caller.call(Method::PUT, "/api/contents/ä.html", page).await;
    let request = world
        .http()
        .get(format!("{}/files/%C3%A4.html?download=1", world.url));
    let answer = request.bearer_auth(TOKEN).send().await.unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html");
    assert!(header("content-security-policy").starts_with("sandbox"));
    assert_eq!(
        header("content-disposition"),
        "attachment; filename*=UTF-8''%C3%A4.html"
    );
    assert_eq!(answer.text().await.unwrap(), "<script>alert(1)</script>");
}

#[tokio::test]
async fn large_uploads_are_taken_and_other_bodies_are_not() {
    let world = World::start().await;
    let caller = Caller::new(&world, TOKEN);
    let large = json!({ "type": "file", "format": "text", "content": "x".repeat(8 << 20) });
    assert_eq!(
        caller
            .call(Method::PUT, "/api/contents/large.txt", large.clone())
            .await
            .0,
        201
    );
    assert_eq!(caller.call(Method::POST, "/api/sessions", large).await.0, 413);
}

/// JupyterLab's files, of which this test needs few.
fn install(world_data: &std::path::Path) {
    for (path, text) in [
        (
            "lab/static/index.html",
            "<script src=\"{{page_config.fullStaticUrl}}/main.ab12.js?v=ab12\"></script>",
        ),
        ("lab/static/main.ab12.js", "// main"),
        (
            "lab/schemas/@jupyterlab/apputils-extension/themes.json",
            "{\"title\":\"Theme\"}",
        ),
        ("lab/themes/@jupyterlab/theme-light-extension/index.css", "a{}"),
    ] {
        let path = world_data.join("lab").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[tokio::test]
async fn jupyterlab_is_a_page_for_who_is_signed_in_and_keeps_what_they_set() {
    let data = tempfile::tempdir().unwrap();
    install(data.path());
    let world = World::start_in(data, false).await;
    let caller = Caller::new(&world, TOKEN);
    let anybody = world
        .http()
        .get(format!("{}/lab", world.url))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (anybody.status().as_u16(), &anybody.headers()["location"]),
        (303, &"/?next=%2Flab".parse().unwrap())
    );
    let (status, page) = caller.get("/lab/tree/a%20b.ipynb").await;
    let page = page.as_str().unwrap().to_owned();
    assert!(
        status == 200 && page.contains("/static/lab/main.ab12.js?v=ab12"),
        "{page}"
    );
    assert!(
        page.contains("\"treePath\":\"a b.ipynb\"")
            && page.contains("\"terminalsAvailable\":true")
            && !page.contains(TOKEN),
        "{page}"
    );
    let script = world
        .http()
        .get(format!("{}/static/lab/main.ab12.js", world.url))
        .send()
        .await
        .unwrap();
    assert_eq!(script.headers()["content-type"], "text/javascript");
    assert_eq!(
        caller
            .get("/lab/api/themes/@jupyterlab/theme-light-extension/index.css")
            .await
            .0,
        200
    );
    let themes = "/lab/api/settings/@jupyterlab/apputils-extension:themes";
    let raw = "{\n  // dark\n  \"theme\": \"JupyterLab Dark\"\n}";
    assert_eq!(
        caller.call(Method::PUT, themes, json!({ "raw": raw })).await.0,
        204
    );
    let (_, read) = caller.get(themes).await;
    assert_eq!(
        (read["raw"].as_str(), read["schema"]["title"].as_str()),
        (Some(raw), Some("Theme"))
    );
    let (_, all) = caller.get("/lab/api/settings").await;
    assert_eq!(all["settings"][0]["raw"], raw);
    assert_eq!(
        caller
            .call(Method::PUT, "/lab/api/settings/none:x", json!({ "raw": "{}" }))
            .await
            .0,
        404
    );
    let workspace = json!({ "data": { "layout-restorer:data": {} }, "metadata": { "id": "default" } });
    assert_eq!(
        caller
            .call(Method::PUT, "/lab/api/workspaces/default", workspace.clone())
            .await
            .0,
        204
    );
    assert_eq!(caller.get("/lab/api/workspaces/default").await.1, workspace);
    assert_eq!(
        caller.get("/lab/api/workspaces").await.1["workspaces"]["ids"],
        json!(["default"])
    );
    assert_eq!(
        caller
            .call(Method::DELETE, "/lab/api/workspaces/default", Value::Null)
            .await
            .0,
        204
    );
    assert_eq!(
        caller.get("/lab/api/workspaces/default").await.1["data"],
        json!({})
    );
}

#[tokio::test]
async fn without_jupyterlab_it_is_said_how_to_get_it() {
    let world = World::start().await;
    let (status, answer) = Caller::new(&world, TOKEN).get("/lab").await;
    assert_eq!(
        (status.as_u16(), answer["hint"].as_str()),
        (404, Some("its operator runs: alephlab lab install"))
    );
}

/// JupyterLab shows SVG and scripts of trusted cells only, so a notebook that was run and saved has to come back trusted.
#[tokio::test]
async fn what_its_reader_ran_is_shown_whole_when_it_is_opened_again() {
    let world = World::start().await;
    let caller = Caller::new(&world, TOKEN);
    let notebook = |trusted: bool, source: &str| {
        let svg =
            json!({ "output_type": "display_data", "metadata": {}, "data": { "image/svg+xml": "<svg/>" } });
        json!({ "type": "notebook", "format": "json", "content": {
            "nbformat": 4, "nbformat_minor": 5, "metadata": {},
            "cells": [{ "cell_type": "code", "id": "a", "metadata": { "trusted": trusted }, "source": source,
                        "execution_count": 1, "outputs": [svg] }],
        } })
    };
    let put = |path: &'static str, body: Value| caller.call(Method::PUT, path, body);
    let is_trusted = |path: &'static str| {
        let got = caller.get(path);
        async move { got.await.1["content"]["cells"][0]["metadata"]["trusted"] == true }
    };
    let (status, made) = caller
        .call(Method::POST, "/api/contents", json!({ "type": "notebook" }))
        .await;
    assert_eq!(
        (status.as_u16(), made["path"].as_str()),
        (201, Some("Untitled.ipynb"))
    );
    let own = "/api/contents/Untitled.ipynb";
    put(own, notebook(true, "plot()")).await;
    assert!(is_trusted(own).await);
    let (_, hashed) = caller.get("/api/contents/Untitled.ipynb?hash=0").await;
    assert!(hashed["hash"].is_null(), "only who asks for a hash is told it");
    put(own, notebook(false, "plot()")).await;
    assert!(is_trusted(own).await, "the same file, whoever saved it");
    put(own, notebook(false, "other()")).await;
    assert!(!is_trusted(own).await, "a cell that was not run");
    // What is uploaded, new or in place of another, has only its own word.
    let uploaded = "/api/contents/uploaded.ipynb";
    put(uploaded, notebook(true, "theirs()")).await;
    assert!(!is_trusted(uploaded).await);
    let mut again = notebook(true, "theirs too()");
    again["name"] = "uploaded.ipynb".into();
    put(uploaded, again).await;
    assert!(!is_trusted(uploaded).await);
}
