//! Secrets that the account stored with the gateway: asked for with the kernel's token, and nowhere afterwards.

use alephlab_api::broker::{Event, Op};

use crate::{Cell, Stage};

async fn asked(cell: &mut Cell, name: &str) -> Event {
    let name = name.parse().unwrap();
    cell.send(Op::Secret { name }).await;
    cell.event().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_reads_the_value_of_now_with_the_kernels_token() {
    let stage = Stage::new().await;
    let set = |value: &str| {
        let mut secrets = stage.owner.secrets.lock().unwrap();
        secrets.insert("API_KEY".to_owned(), value.to_owned());
    };
    let mut cell = stage.cell().await;
    for value in ["sk-one", "sk-two\n\"and more\""] {
        set(value);
        let Event::Secret { id, value: read } = asked(&mut cell, "API_KEY").await else {
            panic!("no secret")
        };
        assert_eq!((id, read.expose()), (cell.next, value));
    }
    let seen = stage.owner.seen.lock().unwrap();
    assert!(seen.contains("Bearer kernel-token-canary"), "{seen}");
    assert_eq!(stage.opened(), 0, "nothing of it is written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_there_is_told_in_the_gateways_words_and_the_connection_goes_on() {
    let stage = Stage::new().await;
    let mut cell = stage.cell().await;
    let Event::Failed { error, .. } = asked(&mut cell, "API_KEY").await else {
        panic!("no refusal")
    };
    assert_eq!(
        (error.code.as_str(), error.hint.as_deref()),
        ("secret_unknown", Some("add it"))
    );
    let secrets = &stage.owner.secrets;
    secrets
        .lock()
        .unwrap()
        .insert("API_KEY".to_owned(), "x".to_owned());
    assert!(matches!(asked(&mut cell, "API_KEY").await, Event::Secret { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_cannot_lead_to_another_address_of_the_gateway() {
    use tokio::io::AsyncWriteExt as _;
    let stage = Stage::new().await;
    let mut cell = stage.cell().await;
    let line = b"{\"id\":1,\"op\":\"secret\",\"name\":\"../secrets\"}\n";
    cell.write.write_all(line).await.unwrap();
    let Some(Event::Failed { error, .. }) = cell.event().await else {
        panic!("no refusal")
    };
    assert_eq!(error.code, "broker_request");
    assert!(!stage.owner.seen.lock().unwrap().contains("secrets"));
}
