//! The registry's routes over real sockets, with a library in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::model::RecordFile;
use alephlab_registry::{ByteStream, Library, RegistryError, Repo, RepoInfo, only_at, router};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::StreamExt as _;

const TOKEN: &str = "hf_right";
const CONTENT: &[u8] = b"0123456789";

struct Shelf(Arc<dyn Repo>);
struct Book(RepoInfo);

impl Library for Shelf {
    fn at<'a>(
        &'a self,
        id: &'a str,
        revision: &'a str,
        bearer: Option<&'a Secret>,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Repo>>, RegistryError>> {
        let open = id == self.0.info().id && bearer.is_some_and(|bearer| bearer.expose() == TOKEN);
        let found = open.then(|| only_at(Arc::clone(&self.0), revision)).transpose();
        async move { found }.boxed()
    }

    fn who<'a>(&'a self, bearer: &'a Secret) -> BoxFuture<'a, Result<Option<String>, RegistryError>> {
        async move { Ok((bearer.expose() == TOKEN).then(|| "reader".to_owned())) }.boxed()
    }

    fn refused(&self, _: SocketAddr) -> bool {
        false
    }
}

impl Repo for Book {
    fn info(&self) -> &RepoInfo {
        &self.0
    }

    fn read(
        &self,
        file: &RecordFile,
        range: Range<u64>,
    ) -> BoxFuture<'static, Result<ByteStream, RegistryError>> {
        let bytes = if file.size == 0 { &[][..] } else { CONTENT };
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let part = Ok(Bytes::from_static(&bytes[range]));
        async move { Ok(futures_util::stream::iter([part]).boxed()) }.boxed()
    }
}

async fn serve() -> String {
    let file = |path: &str, size| RecordFile {
        path: path.into(),
        size,
        sha256: "ab".repeat(32),
    };
    let info = RepoInfo {
        id: "m/7f0c".into(),
        author: "0xAb".into(),
        revision: "c".repeat(40),
        tags: vec!["v1".into()],
        files: vec![
            file("README.md", 10),
            file("empty", 0),
            file("sub/model.safetensors", 10),
        ],
        created: 1,
        ..RepoInfo::default()
    };
    let app = router(Arc::new(Shelf(Arc::new(Book(info)))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    url
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn answers_wrong_repo_wrong_token_and_no_token_alike() {
    let (url, client) = (serve().await, client());
    for path in [
        "api/models/ID",
        "api/models/ID/tree/main",
        "api/models/ID/auth-check",
        "ID/resolve/main/README.md",
    ] {
        let mut answers = Vec::new();
        for (id, token) in [
            ("m/0000", Some(TOKEN)),
            ("m/7f0c", Some("hf_wrong")),
            ("m/7f0c", None),
        ] {
            let mut request = client.get(format!("{url}/{}", path.replace("ID", id)));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            let (status, mut headers) = (answer.status(), answer.headers().clone());
            headers.remove("date");
            headers.remove("x-request-id");
            answers.push((status, headers, answer.bytes().await.unwrap()));
        }
        assert_eq!(answers[0].0, 401);
        assert_eq!(answers[0].1["x-error-code"], "RepoNotFound");
        assert_eq!(answers[0], answers[1]);
        assert_eq!(answers[1], answers[2]);
    }
}

#[tokio::test]
async fn serves_metadata_ranges_and_an_empty_file() {
    let (url, client) = (serve().await, client());
    let file = format!("{url}/m/7f0c/resolve/{}/sub/model.safetensors", "c".repeat(40));
    let head = client.head(&file).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(head.status(), 200);
    for (name, value) in [
        ("content-length", "10"),
        ("x-linked-size", "10"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(head.headers()[name], value, "{name}");
    }
    assert_eq!(head.headers()["x-repo-commit"], "c".repeat(40));
    assert_eq!(head.headers()["etag"], format!("\"{}\"", "ab".repeat(32)));
    let part = client
        .get(&file)
        .bearer_auth(TOKEN)
        .header("range", "bytes=2-4")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            part.status().as_u16(),
            part.headers()["content-range"].to_str().unwrap()
        ),
        (206, "bytes 2-4/10")
    );
    assert_eq!(part.bytes().await.unwrap().as_ref(), b"234");
    let outside = client
        .get(&file)
        .bearer_auth(TOKEN)
        .header("range", "bytes=10-")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (outside.status().as_u16(), &outside.headers()["content-range"]),
        (416, &"bytes */10".parse().unwrap())
    );
    let empty = client
        .get(format!("{url}/m/7f0c/resolve/main/empty"))
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (empty.status().as_u16(), empty.bytes().await.unwrap().len()),
        (200, 0)
    );
}

#[tokio::test]
async fn names_what_is_missing() {
    let (url, client) = (serve().await, client());
    for (path, code) in [
        ("m/7f0c/resolve/main/none", "EntryNotFound"),
        ("m/7f0c/resolve/v9/README.md", "RevisionNotFound"),
        ("api/models/m/7f0c/revision/refs%2Fpr%2F1", "RevisionNotFound"),
        ("api/models/m/7f0c/tree/main/none", "EntryNotFound"),
    ] {
        let answer = client
            .get(format!("{url}/{path}"))
            .bearer_auth(TOKEN)
            .send()
            .await
            .unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-error-code"]),
            (404, &code.parse().unwrap()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_the_framework_refuses_has_the_headers_that_clients_read() {
    let (url, client) = (serve().await, client());
    let tree = client.get(format!("{url}/api/models/m/7f0c/tree/main?limit=many"));
    let delete = client.delete(format!("{url}/api/models/m/7f0c"));
    for (request, status) in [(tree, 400), (delete, 405)] {
        let answer = request.bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-error-code"], "BadRequest");
        assert!(answer.headers().contains_key("x-error-message"));
        let body: serde_json::Value = answer.json().await.unwrap();
        assert!(!body["error"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_list_of_paths_has_a_bound() {
    let (url, client) = (serve().await, client());
    let ask = |paths: usize| {
        client
            .post(format!("{url}/api/models/m/7f0c/paths-info/main"))
            .bearer_auth(TOKEN)
            .body("paths=README.md&".repeat(paths))
            .send()
    };
    assert_eq!(ask(1000).await.unwrap().status(), 200);
    assert_eq!(ask(1001).await.unwrap().status(), 413);
}

#[tokio::test]
async fn describes_the_repo() {
    let (url, client) = (serve().await, client());
    let get = |path: &str| client.get(format!("{url}/{path}")).bearer_auth(TOKEN).send();
    let model: serde_json::Value = get("api/models/m/7f0c/revision/main?blobs=true")
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        (model["sha"].as_str(), model["siblings"].as_array().unwrap().len()),
        (Some("c".repeat(40).as_str()), 3)
    );
    assert_eq!(model["siblings"][0]["lfs"]["sha256"], "ab".repeat(32));
    let who: serde_json::Value = get("api/whoami-v2").await.unwrap().json().await.unwrap();
    assert_eq!(who["name"], "reader");
    let refs: serde_json::Value = get("api/models/m/7f0c/refs").await.unwrap().json().await.unwrap();
    assert_eq!(refs["branches"][0]["targetCommit"], "c".repeat(40));
    let paths = client
        .post(format!("{url}/api/models/m/7f0c/paths-info/v1"))
        .bearer_auth(TOKEN)
        .header("content-type", "application/x-www-form-urlencoded")
        .body("paths=README.md&paths=sub&paths=none&expand=false")
        .send()
        .await
        .unwrap();
    let paths: serde_json::Value = paths.json().await.unwrap();
    assert_eq!(
        (paths[0]["path"].as_str(), paths[1]["type"].as_str()),
        (Some("README.md"), Some("directory"))
    );
    assert_eq!(paths.as_array().unwrap().len(), 2);
}
