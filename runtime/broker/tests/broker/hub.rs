//! The kernel's hub as stock clients meet it: what the kernel's token opens, what nobody's does, and what others find.

use alephlab_api::Problem;
use alephlab_api::model::{ModelRecord, Visibility};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::publish::{card, publish, publish_with};
use super::{CSV, Stage};

/// An answer of HTTP.
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn says(&self, header: &str) -> bool {
        self.head
            .to_ascii_lowercase()
            .contains(&header.to_ascii_lowercase())
    }
}

impl Stage {
    /// Asks the hub, by its own name.
    async fn hub(&self, method: &str, path: &str, token: Option<&str>, more: &str) -> Reply {
        let host = self.hub.url.strip_prefix("http://").unwrap();
        self.hub_as(host, (method, path), token, more).await
    }

    async fn hub_as(
        &self,
        host: &str,
        (method, path): (&str, &str),
        token: Option<&str>,
        more: &str,
    ) -> Reply {
        let address = self.hub.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n{token}{more}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            body: answer[end + 4..].to_vec(),
            head,
        }
    }

    /// As cells of this kernel do.
    async fn own(&self, path: &str) -> Reply {
        self.hub("GET", path, Some(self.hub.token.expose()), "").await
    }

    /// A published model by its id.
    async fn published(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        publish(self, folder.path()).await.unwrap().name
    }

    /// Requests to open that the owner's machine saw.
    fn asked(&self) -> usize {
        self.owner.shown.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernels_token_reads_what_the_owners_machine_opens_and_asks_once() {
    let stage = Stage::new().await;
    let id = stage.published().await;
    let info = stage.own(&format!("/api/models/{id}")).await;
    assert_eq!(
        (info.status, info.json()["gated"].as_str()),
        (200, Some("manual")),
        "{}",
        info.head
    );
    let commit = info.json()["sha"].as_str().unwrap().to_owned();
    let file = stage.own(&format!("/{id}/resolve/main/eval/test.csv")).await;
    assert_eq!((file.status, file.body.as_slice()), (200, CSV.as_bytes()));
    assert!(file.says(&format!("x-repo-commit: {commit}")), "{}", file.head);
    let token = stage.hub.token.expose();
    let path = format!("/{id}/resolve/{commit}/model.safetensors");
    let part = stage
        .hub("GET", &path, Some(token), "Range: bytes=10-19\r\n")
        .await;
    assert_eq!((part.status, part.body.as_slice()), (206, &[7; 10][..]));
    assert_eq!(stage.asked(), 1);
    let who = stage.own("/api/whoami-v2").await;
    assert_eq!(who.json()["name"], stage.owner.wallet.address());
    let listed = stage.own("/api/models").await;
    assert_eq!(listed.json()[0]["id"], id);
    let refs = stage.own(&format!("/api/models/{id}/refs")).await;
    assert_eq!(refs.json()["branches"][0]["targetCommit"], commit);
    // No plaintext lies anywhere for it.
    assert_eq!(stage.opened(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_kernels_token_a_model_that_is_open_here_is_one_that_is_not_there() {
    let stage = Stage::new().await;
    let id = stage.published().await;
    let path = format!("/{id}/resolve/main/eval/test.csv");
    assert_eq!(stage.own(&path).await.status, 200);
    let nothing = format!("/{id}x/resolve/main/eval/test.csv");
    let (one, other) = (
        stage.hub("GET", &path, None, "").await,
        stage.hub("GET", &nothing, None, "").await,
    );
    assert_eq!((one.status, &one.body), (401, &other.body));
    assert!(one.says("x-error-code: RepoNotFound"), "{}", one.head);
    let wrong = stage.hub("GET", &path, Some("hf_wrong"), "").await;
    assert_eq!(wrong.status, 401);
    assert!(!String::from_utf8_lossy(&wrong.body).contains("plaintext-canary"));
    assert_eq!(stage.hub("GET", "/api/models", None, "").await.status, 401);
    // A page of a browser that had another name lead here.
    let token = Some(stage.hub.token.expose());
    let named = stage.hub_as("evil.example", ("GET", &path), token, "").await;
    assert_eq!(named.status, 403);
    let origin = stage
        .hub("GET", &path, token, "Origin: http://evil.example\r\n")
        .await;
    assert_eq!(origin.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_granted_is_refused_and_a_private_model_is_not_there() {
    let stage = Stage::new().await;
    let id = stage.published().await;
    stage.owner.manner.lock().unwrap().refuse = Some(Problem::new("E_GRANT_OPEN", "not for this account"));
    let info = stage.own(&format!("/api/models/{id}")).await;
    assert_eq!(info.status, 200, "that it is there anybody may know");
    let file = stage.own(&format!("/{id}/resolve/main/eval/test.csv")).await;
    assert_eq!(file.status, 403);
    assert!(
        file.says("x-error-code: GatedRepo") && file.says("not for this account"),
        "{}",
        file.head
    );
    stage.owner.hide_all();
    let stranger = format!("{}/hidden", stage.owner.wallet.address());
    let file = stage
        .own(&format!("/{stranger}/resolve/main/eval/test.csv"))
        .await;
    assert_eq!(file.status, 401);
    assert!(file.says("x-error-code: RepoNotFound"), "{}", file.head);
    let other = stage.own("/bert-base-uncased/resolve/main/config.json").await;
    assert_eq!(other.status, 404, "a name without an owner is none here");
    let other = stage.own("/google/bert/resolve/main/config.json").await;
    assert_eq!(other.status, 404, "it cannot be here, and that is said");
    assert!(other.says("HF_ENDPOINT"), "{}", other.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_model_is_read_by_the_kernel_that_it_was_opened_for() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let private = alephlab_api::Card {
        private: true,
        ..card()
    };
    let id = publish_with(&stage, folder.path(), private).await.unwrap().name;
    let info = stage.own(&format!("/api/models/{id}")).await;
    assert_eq!((info.status, info.json()["private"].as_bool()), (200, Some(true)));
    assert_eq!(info.json()["siblings"].as_array().unwrap().len(), 3);
    let file = stage.own(&format!("/{id}/resolve/main/eval/test.csv")).await;
    assert_eq!(file.body, CSV.as_bytes());
    assert_eq!(stage.asked(), 1);
    assert_eq!(
        stage
            .hub("GET", &format!("/api/models/{id}"), None, "")
            .await
            .status,
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_model_is_read_with_the_kernels_token_and_no_machine_is_asked() {
    let stage = Stage::new().await;
    let id = stage.published().await;
    stage.owner.make_public("digits-cnn").await;
    let path = format!("/{id}/resolve/main/eval/test.csv");
    // Other programs of the machine would fetch it at this kernel's expense, and take its places.
    assert_eq!(stage.hub("GET", &path, None, "").await.status, 401);
    let file = stage.own(&path).await;
    assert_eq!(
        (file.status, file.body.as_slice()),
        (200, CSV.as_bytes()),
        "{}",
        file.head
    );
    assert_eq!(stage.asked(), 0);
    // Nor is it shown in the name of another, whatever the gateway says.
    stage.owner.manner.lock().unwrap().renames = true;
    for other in [format!("{id}-2"), format!("0x{}/digits-cnn", "1".repeat(40))] {
        let file = stage.own(&format!("/{other}/resolve/main/eval/test.csv")).await;
        assert_eq!(file.status, 422, "{other}: {}", file.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_to_another_route_of_the_gateway() {
    let stage = Stage::new().await;
    let secrets = &stage.owner.secrets;
    secrets
        .lock()
        .unwrap()
        .insert("KEY".into(), "secret-canary".into());
    let owner = stage.owner.wallet.address();
    for name in ["..%2F..%2Fkernel-secrets%2FKEY", "x%3Fq", "%2E%2E", "x%23"] {
        for token in [None, Some(stage.hub.token.expose())] {
            let answer = stage
                .hub("GET", &format!("/api/models/{owner}/{name}"), token, "")
                .await;
            let expected = if token.is_some() { 404 } else { 401 };
            assert_eq!(answer.status, expected, "{name}: {}", answer.head);
        }
    }
    assert!(!stage.owner.seen.lock().unwrap().contains("KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_calls_a_sealed_model_public_lets_nobody_in() {
    let stage = Stage::new().await;
    let id = stage.published().await;
    let path = format!("/{id}/resolve/main/eval/test.csv");
    assert_eq!(stage.own(&path).await.status, 200, "it is open here");
    let record = stage.owner.records.lock().unwrap()[0].clone();
    let forged = ModelRecord {
        visibility: Visibility::Public,
        keys: Some("AAAA".to_owned()),
        ..record
    };
    // The page that was read a moment ago is kept; a gateway would have lied from the start.
    let later = Stage::over(stage.owner.clone(), stage.owner.storage.clone()).await;
    assert_eq!(later.own(&path).await.status, 200);
    stage.owner.show(forged, "ab".repeat(32));
    let third = Stage::over(stage.owner.clone(), stage.owner.storage.clone()).await;
    assert_eq!(third.hub("GET", &path, None, "").await.status, 401);
    let file = third.own(&path).await;
    assert_eq!(file.status, 422, "{}", file.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_read_by_who_has_its_token_and_by_the_kernel_that_pulled_it() {
    let stage = Stage::new().await;
    stage.published().await;
    let (uuid, token) = stage.owner.share("digits-cnn", None).await;
    let path = format!("/m/{uuid}/resolve/main/eval/test.csv");
    let file = stage.hub("GET", &path, Some(token.expose()), "").await;
    assert_eq!(
        (file.status, file.body.as_slice()),
        (200, CSV.as_bytes()),
        "{}",
        file.head
    );
    let other = alephlab_vault::share::ShareToken::generate().unwrap();
    assert_eq!(
        stage.hub("GET", &path, Some(other.expose()), "").await.status,
        401
    );
    // That somebody has it open is nothing to others, nor to this kernel.
    assert_eq!(stage.own(&path).await.status, 401);
    stage.pull(&uuid.to_string(), Some(token.expose())).await.unwrap();
    assert_eq!(stage.own(&path).await.status, 200, "its cell had the token");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_in_a_cell_is_in_the_hub_and_nobody_is_asked_again() {
    let stage = Stage::new().await;
    let id = stage.published().await;
    let (uuid, token) = stage.owner.share("digits-cnn", None).await;
    stage.pull(&uuid.to_string(), Some(token.expose())).await.unwrap();
    let file = stage.own(&format!("/m/{uuid}/resolve/main/eval/test.csv")).await;
    assert_eq!((file.status, file.body.as_slice()), (200, CSV.as_bytes()));
    stage.pull(&id, None).await.unwrap();
    let asked = stage.asked();
    let file = stage.own(&format!("/{id}/resolve/main/eval/test.csv")).await;
    assert_eq!((file.status, stage.asked()), (200, asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_while_a_person_is_asked_gets_the_answer() {
    let stage = Stage::new().await;
    let id = stage.published().await;
    stage.owner.manner.lock().unwrap().slow = true;
    let path = format!("/{id}/resolve/main/eval/test.csv");
    let (file, ()) = tokio::join!(stage.own(&path), async { stage.owner.approve.notify_one() });
    assert_eq!(
        (file.status, file.body.as_slice()),
        (200, CSV.as_bytes()),
        "{}",
        file.head
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_machine_that_cannot_look_up_has_the_model_sealed_whole() {
    let stage = Stage::new().await;
    stage.owner.manner.lock().unwrap().old = true;
    let id = stage.published().await;
    let file = stage.own(&format!("/{id}/resolve/main/eval/test.csv")).await;
    assert_eq!(file.body, CSV.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_here_and_it_says_how_to_publish() {
    let stage = Stage::new().await;
    let token = Some(stage.hub.token.expose());
    for path in [
        "/api/repos/create",
        "/api/models/a/b/preupload/main",
        "/a/b.git/info/lfs/objects/batch",
    ] {
        let refused = stage.hub("POST", path, token, "").await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.says("publish from a cell"), "{}", refused.head);
    }
    assert_eq!(stage.own("/api/datasets").await.status, 404);
}
