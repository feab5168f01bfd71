//! Status codes, models and refusals of the Jupyter Server API.

use std::sync::atomic::Ordering;

use alephlab_api::jupyter::{KernelModel, NewKernel, SessionModel};
use reqwest::{Body, Method, Response};
use serde_json::{Value, json};

use crate::support::{TOKEN, World, eventually};

/// A request as browsers send it.
async fn call(
    world: &World,
    method: Method,
    path: String,
    body: impl Into<Body>,
) -> reqwest::Result<Response> {
    let request = world
        .http()
        .request(method, format!("{}{path}", world.url))
        .bearer_auth(TOKEN);
    request
        .header("content-type", "text/plain;charset=UTF-8")
        .body(body)
        .send()
        .await
}

#[tokio::test]
async fn takes_a_token_in_three_places_and_refuses_all_else() {
    let world = World::start().await;
    let http = world.http();
    for (header, query, status) in [
        (Some(format!("token {TOKEN}")), "", 200),
        (Some(format!("Bearer {TOKEN}")), "", 200),
        (None, "?token=operator-token-0123456789", 200),
        (None, "", 401),
        (Some("Bearer wrong-token-canary".to_owned()), "", 401),
        (Some("Basic b3BlcmF0b3I6".to_owned()), "", 401),
        (None, "?token=wrong-token-canary", 401),
        (None, "?token=", 401),
    ] {
        for path in [
            "/api/kernels",
            "/api/kernelspecs",
            "/api/status",
            "/api/me",
            "/api/sessions",
            "/v1/whoami",
        ] {
            let mut request = http.get(format!("{}{path}{query}", world.url));
            if let Some(header) = &header {
                request = request.header("authorization", header);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{path} {header:?} {query}");
            let text = answer.text().await.unwrap();
            assert!(!text.contains("canary") && !text.contains(TOKEN), "{text}");
            if status == 401 {
                let body: Value = serde_json::from_str(&text).unwrap();
                assert!(
                    body["message"].is_string() && body["reason"] == body["message"],
                    "{text}"
                );
            }
        }
    }
    assert_eq!(
        http.get(format!("{}/api", world.url))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn a_kernel_token_opens_no_account() {
    let world = World::start().await;
    let session = world.client().new_kernel_session().await.unwrap();
    for path in ["/api/kernels", "/v1/models", "/v1/shares", "/v1/whoami", "/"] {
        let request = world
            .http()
            .get(format!("{}{path}", world.url))
            .bearer_auth(session.token.expose());
        let answer = request.send().await.unwrap();
        let page = path == "/";
        assert_eq!(answer.status().as_u16(), if page { 200 } else { 403 }, "{path}");
        if page {
            assert!(answer.text().await.unwrap().contains("Sign in to this gateway"));
        }
    }
}

#[tokio::test]
async fn kernels_answer_with_the_codes_that_clients_check() {
    let world = World::start().await;
    let call = |method, path: String, body: &'static str| call(&world, method, path, body);
    let started = call(
        Method::POST,
        "/api/kernels".into(),
        r#"{"name":"alephlab","env":{"KERNEL_A":"1","HOME":"/x"}}"#,
    );
    let started = started.await.unwrap();
    assert_eq!(started.status(), 201);
    let location = started.headers()["location"].to_str().unwrap().to_owned();
    let model: KernelModel = started.json().await.unwrap();
    assert_eq!(location, format!("/api/kernels/{}", model.id));
    let fraction = model.last_activity.split_once('.').unwrap().1;
    assert!(
        fraction.len() == 7 && fraction.ends_with('Z'),
        "{}",
        model.last_activity
    );
    world.until(model.id, "idle").await;
    assert_eq!(*world.host.env.lock().unwrap(), json!({ "KERNEL_A": "1" }));
    let path = format!("/api/kernels/{}", model.id);
    assert_eq!(
        call(Method::POST, format!("{path}/interrupt"), "{}")
            .await
            .unwrap()
            .status(),
        204
    );
    assert_eq!(
        call(Method::POST, format!("{path}/restart"), "")
            .await
            .unwrap()
            .status(),
        200
    );
    eventually("the interrupt", || async {
        (world.host.interrupts.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    assert_eq!(call(Method::GET, path.clone(), "").await.unwrap().status(), 200);
    assert_eq!(
        call(Method::DELETE, path.clone(), "").await.unwrap().status(),
        204
    );
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/restart")),
        (Method::GET, "/api/kernels/not-an-id".into()),
        (Method::GET, "/api/nothing".into()),
    ] {
        let answer = call(method, path.clone(), "").await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.json::<Value>().await.unwrap()["message"].is_string());
    }
}

#[tokio::test]
async fn refuses_a_start_of_an_unknown_kernelspec_or_without_json() {
    let world = World::start().await;
    for (body, status) in [(r#"{"name":"python3"}"#, 404), ("{", 400)] {
        let answer = call(&world, Method::POST, "/api/kernels".into(), body)
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{body}");
    }
}

#[tokio::test]
async fn a_start_with_an_id_happens_once() {
    let world = World::start().await;
    let wanted = NewKernel {
        kernel_id: Some(uuid::Uuid::new_v4()),
        ..NewKernel::default()
    };
    let one = world.client().start_kernel(&wanted).await.unwrap();
    let two = world.client().start_kernel(&wanted).await.unwrap();
    assert_eq!(
        (one.id, world.client().kernels().await.unwrap().len()),
        (two.id, 1)
    );
}

#[tokio::test]
async fn kernelspecs_have_resources_that_exist() {
    let world = World::start().await;
    let get = |path: &str| {
        world
            .http()
            .get(format!("{}{path}", world.url))
            .bearer_auth(TOKEN)
            .send()
    };
    let specs: Value = get("/api/kernelspecs").await.unwrap().json().await.unwrap();
    let spec = &specs["kernelspecs"]["alephlab"];
    assert_eq!(
        (specs["default"].as_str(), spec["spec"]["language"].as_str()),
        (Some("alephlab"), Some("rust"))
    );
    for (_, path) in spec["resources"].as_object().unwrap() {
        let answer = get(path.as_str().unwrap()).await.unwrap();
        assert!(
            answer.status() == 200
                && answer.headers()["content-type"]
                    .to_str()
                    .unwrap()
                    .starts_with("image/")
        );
    }
}

#[tokio::test]
async fn sessions_are_renamed_get_another_kernel_and_end() {
    let world = World::start().await;
    let call = |method, path: String, body: Value| call(&world, method, path, body.to_string());
    let wanted =
        json!({ "path": "u-u-i-d", "type": "notebook", "name": "", "kernel": { "name": "alephlab" } });
    let created = call(Method::POST, "/api/sessions".into(), wanted.clone())
        .await
        .unwrap();
    assert_eq!(created.status(), 201);
    assert!(created.headers().contains_key("location"));
    let created: SessionModel = created.json().await.unwrap();
    let first = created.kernel.unwrap().id;
    let again: SessionModel = call(Method::POST, "/api/sessions".into(), wanted)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(again.id, created.id, "the same path is the same session");
    let path = format!("/api/sessions/{}", created.id);
    let renamed = call(
        Method::PATCH,
        path.clone(),
        json!({ "path": "a.ipynb", "id": created.id }),
    )
    .await
    .unwrap();
    assert_eq!(
        renamed
            .json::<SessionModel>()
            .await
            .unwrap()
            .notebook
            .unwrap()
            .path,
        "a.ipynb"
    );
    let moved = call(
        Method::PATCH,
        path.clone(),
        json!({ "kernel": { "name": "alephlab" } }),
    )
    .await
    .unwrap();
    let second = moved.json::<SessionModel>().await.unwrap().kernel.unwrap().id;
    assert_ne!(first, second);
    assert!(
        world.client().kernel(first).await.is_err(),
        "a kernel without a session is stopped"
    );
    assert_eq!(
        call(Method::DELETE, path.clone(), json!({}))
            .await
            .unwrap()
            .status(),
        204
    );
    assert_eq!(call(Method::DELETE, path, json!({})).await.unwrap().status(), 404);
    assert!(world.client().kernels().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_with_an_unknown_kernelspec_is_refused_as_jupyter_does() {
    let world = World::start().await;
    let wanted = json!({ "path": "b", "type": "notebook", "name": "", "kernel": { "name": "python3" } });
    let unknown = call(&world, Method::POST, "/api/sessions".into(), wanted.to_string())
        .await
        .unwrap();
    assert_eq!(unknown.status(), 501);
    assert!(unknown.json::<Value>().await.unwrap()["short_message"].is_string());
}

#[tokio::test]
async fn refuses_a_name_that_is_not_its_own() {
    let world = World::start().await;
    let answer = world
        .http()
        .get(format!("{}/api", world.url))
        .header("host", "evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 403);
}
