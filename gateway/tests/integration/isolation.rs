//! What agents are told of the accounts that kernels belong to, and what people are told of the walls that agents have.

use std::sync::atomic::Ordering;

use alephlab_api::jupyter::NewKernel;
use alephlab_vault::Wallet;

use crate::support::{OWNER, TOKEN, World, eventually, sign_in};

#[tokio::test]
async fn walls_are_shown_in_one_phrase() {
    let world = World::start().await;
    world.kernel().await;
    let health = world.client().health().await.unwrap();
    assert_eq!(health.isolation.as_deref(), Some("bubblewrap, cgroup v2"));
    let page = world.http().get(format!("{}/kernels", world.url));
    let page = page
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(page.contains("Kept apart by bubblewrap, cgroup v2"), "{page}");
}

#[tokio::test]
async fn a_kernel_has_its_accounts_folder_and_only_the_operators_may_work_elsewhere() {
    let wallet = Wallet::generate().unwrap();
    let world = World::admitting(&wallet.address()).await;
    world.kernel().await;
    let home = world.host.home.lock().unwrap().clone();
    assert_eq!(home, (Some(OWNER.to_lowercase()), true));
    let guest = sign_in(&world, &wallet).await.unwrap();
    let guest = world.client().with_token(guest.token);
    let elsewhere = NewKernel {
        path: Some("/etc".to_owned()),
        ..NewKernel::default()
    };
    guest.start_kernel(&elsewhere).await.unwrap();
    eventually("the second start", || async {
        (world.host.starts.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
    let home = world.host.home.lock().unwrap().clone();
    assert_eq!(home, (Some(wallet.address().to_lowercase()), false));
}
