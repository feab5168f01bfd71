//! What happens when a start fails, a host is lost, or the gateway is started again.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use alephlab_api::jupyter::NewKernel;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{World, eventually, next, text};

#[tokio::test]
async fn a_failed_start_is_dead_and_says_why_on_connect() {
    let world = World::start().await;
    let env = BTreeMap::from([("KERNEL_FAILS".to_owned(), "1".to_owned())]);
    let kernel = world
        .client()
        .start_kernel(&NewKernel {
            env,
            ..NewKernel::default()
        })
        .await
        .unwrap();
    let dead = world.until(kernel.id, "dead").await;
    assert_eq!(dead.reason.as_deref(), Some("the compiler is missing"));
    let mut socket = world.channels(kernel.id, "s", &[]).await;
    let first = text(&next(&mut socket).await);
    assert!(
        first["content"]["text"]
            .as_str()
            .unwrap()
            .contains("the compiler is missing"),
        "{first}"
    );
    assert_eq!(
        text(&next(&mut socket).await)["content"]["execution_state"],
        "dead"
    );
    world.client().stop_kernel(kernel.id).await.unwrap();
}

#[tokio::test]
async fn a_lost_host_kills_its_kernels_and_is_replaced() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world.channels(kernel, "s", &[]).await;
    let token = world.host.kernel_token.lock().unwrap().clone().unwrap();
    let broker = async || {
        let request = world.http().post(format!("{}/v1/keys/requests", world.url));
        let sent = request.body("{}").bearer_auth(token.expose()).send().await;
        sent.unwrap().status().as_u16()
    };
    assert_eq!(broker().await, 400, "its token works, but it asks nothing");
    world.host.lose();
    let dead = world.until(kernel, "dead").await;
    assert_eq!(broker().await, 401, "its token went with the lease");
    assert!(dead.reason.unwrap().contains("switched off"));
    assert!(
        text(&next(&mut socket).await)["content"]["text"]
            .as_str()
            .unwrap()
            .contains("switched off")
    );
    assert!(world.client().restart_kernel(kernel).await.is_err());
    eventually("another host", || async {
        world.client().start_kernel(&NewKernel::default()).await.ok()
    })
    .await;
    assert!(world.host.rented.load(Ordering::SeqCst) >= 2);
    world.client().stop_kernel(kernel).await.unwrap();
}

#[tokio::test]
async fn without_a_host_a_start_is_refused_or_dead_with_the_reason() {
    let world = World::start_in(tempfile::tempdir().unwrap(), true).await;
    let reason = match world.client().start_kernel(&NewKernel::default()).await {
        Ok(kernel) => world.until(kernel.id, "dead").await.reason.unwrap(),
        Err(error) => error.to_string(),
    };
    assert!(
        reason.contains("switched off") || reason.contains("starting"),
        "{reason}"
    );
    assert_eq!(world.client().health().await.unwrap().agent, "off");
}

#[tokio::test]
async fn a_restarted_gateway_remembers_dead_kernels_and_accounts() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    let mut socket = world.channels(kernel, "s", &[]).await;
    let session = world.client().new_kernel_session().await.unwrap();
    let data = world.stop().await;
    loop {
        // What was said before comes first; a stop of the gateway means: come back.
        if let Message::Close(Some(close)) = next(&mut socket).await {
            assert_eq!(u16::from(close.code), 1012);
            break;
        }
    }
    let world = World::start_in(data, false).await;
    let dead = world.client().kernel(kernel).await.unwrap();
    assert_eq!(dead.execution_state, "dead");
    assert!(dead.reason.unwrap().contains("the gateway was stopped"));
    assert!(world.client().kernels().await.unwrap().is_empty());
    world.client().stop_kernel(kernel).await.unwrap();
    assert!(world.client().kernel(kernel).await.is_err());
    let request = world
        .http()
        .post(format!("{}/v1/keys/requests", world.url))
        .body("{}");
    let outside = request.bearer_auth(session.token.expose()).send().await.unwrap();
    assert_eq!(
        outside.status(),
        400,
        "a kernel outside of the gateway keeps its token, and must say what it asks"
    );
}
