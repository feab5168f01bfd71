//! Kernels that cost something: what is set aside, charged and given back, and who may give.

use std::collections::BTreeMap;

use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::jupyter::NewKernel;
use alephlab_api::ledger::{Balance, EntryKind, NewCredit};
use alephlab_api::money::{Amount, Asset};
use alephlab_vault::Wallet;
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::support::{OWNER, Socket, TOKEN, World, eventually, legacy, next, sign_in, text};

/// A second costs one credit.
const PRICE: u64 = 3_600;

async fn world(wallet: &Wallet) -> World {
    let folder = tempfile::tempdir().unwrap();
    let admitted = vec![wallet.address()];
    World::start_priced(folder, false, (TOKEN, admitted), Amount::from_whole(PRICE)).await
}

fn credits(address: &str, whole: u64, key: &str) -> NewCredit {
    NewCredit {
        address: address.to_owned(),
        amount: Amount::from_whole(whole),
        asset: Asset::Credit,
        key: key.to_owned(),
        memo: "welcome".to_owned(),
    }
}

fn kernel_with(pairs: &[(&str, &str)]) -> NewKernel {
    let env: BTreeMap<String, String> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    NewKernel {
        env,
        ..NewKernel::default()
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    match outcome.unwrap_err() {
        ClientError::Refused { problem, .. } => problem.code,
        other => panic!("{other}"),
    }
}

async fn balance(world: &World) -> Balance {
    world.client().balance().await.unwrap().balances.remove(0)
}

#[tokio::test]
async fn operator_gives_once_for_each_key_and_nobody_else_gives() {
    let wallet = Wallet::generate().unwrap();
    let world = world(&wallet).await;
    let operator = world.client();
    for _ in 0..2 {
        let given = operator
            .give(&credits(&wallet.address().to_lowercase(), 70, "one"))
            .await
            .unwrap();
        assert_eq!(given.address, wallet.address());
        assert_eq!(given.balances[0].available, Amount::from_whole(70));
    }
    assert_eq!(
        refusal(operator.give(&credits(&wallet.address(), 71, "one")).await),
        "key_conflict"
    );
    assert_eq!(
        refusal(operator.give(&credits(OWNER, 70, "one")).await),
        "key_conflict"
    );
    for wrong in [
        credits("0x12", 1, "two"),
        credits(OWNER, 0, "two"),
        credits(OWNER, 1, ""),
        credits(OWNER, 1, &"k".repeat(201)),
        credits(OWNER, 1, "k\0"),
        credits("acct_\0", 1, "two"),
        NewCredit {
            memo: "m\0".to_owned(),
            ..credits(OWNER, 1, "two")
        },
    ] {
        assert_eq!(refusal(operator.give(&wrong).await), "credit_malformed");
    }
    let signed = sign_in(&world, &wallet).await.unwrap();
    let theirs = operator.with_token(signed.token);
    assert_eq!(
        refusal(theirs.give(&credits(&wallet.address(), 1, "mine")).await),
        "not_operator"
    );
    let entries = theirs.statement(0).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (entries[0].kind, entries[0].incoming, entries[0].memo.as_str()),
        (EntryKind::Credit, true, "welcome")
    );
    assert_eq!(theirs.statement(entries[0].seq).await.unwrap(), []);
    // What others have is not told.
    assert_eq!(operator.statement(0).await.unwrap(), []);
}

#[tokio::test]
async fn what_a_kernel_does_not_use_is_given_back() {
    let world = world(&Wallet::generate().unwrap()).await;
    let client = world.client();
    let refused = refusal(client.start_kernel(&NewKernel::default()).await);
    assert_eq!(refused, "balance_too_small");
    client.give(&credits(OWNER, 1_000_000, "start")).await.unwrap();
    let kernel = client.start_kernel(&NewKernel::default()).await.unwrap();
    let held = balance(&world).await;
    assert_eq!(
        (held.held, held.total),
        (Amount::from_whole(12 * PRICE), Amount::from_whole(1_000_000))
    );
    world.until(kernel.id, "idle").await;
    // A client that sends its request again has the kernel that it has.
    let again = NewKernel {
        kernel_id: Some(kernel.id),
        ..NewKernel::default()
    };
    assert_eq!(client.start_kernel(&again).await.unwrap().id, kernel.id);
    assert_eq!(balance(&world).await.held, held.held);
    client.stop_kernel(kernel.id).await.unwrap();
    let ended = eventually("the hold's end", async || {
        Some(balance(&world).await).filter(|now| now.held.is_zero())
    })
    .await;
    let spent = Amount::from_whole(1_000_000).checked_sub(ended.total).unwrap();
    assert!(spent < Amount::from_whole(60), "{spent}");
}

#[tokio::test]
async fn limits_of_the_client_are_kept_or_refused_in_words() {
    let world = world(&Wallet::generate().unwrap()).await;
    let client = world.client();
    client.give(&credits(OWNER, 1_000, "start")).await.unwrap();
    let start = async |pairs: &[(&str, &str)]| client.start_kernel(&kernel_with(pairs)).await;
    assert_eq!(
        refusal(start(&[("KERNEL_MAX_PRICE", "3599.9")]).await),
        "price_too_high"
    );
    assert_eq!(
        refusal(start(&[("KERNEL_MAX_COST", "1000.1")]).await),
        "balance_too_small"
    );
    for wrong in ["-1", "cheap", "1,5"] {
        assert_eq!(refusal(start(&[("KERNEL_MAX_COST", wrong)]).await), "kernel_env");
    }
    assert_eq!(
        balance(&world).await.held,
        Amount::ZERO,
        "nothing is set aside for what is refused"
    );
    start(&[("KERNEL_MAX_PRICE", "3600"), ("KERNEL_MAX_COST", "700.5")])
        .await
        .unwrap();
    assert_eq!(balance(&world).await.held.to_string(), "700.5");
}

/// Runs a cell: the host of the test tells everybody what it gets.
async fn run_cell(socket: &mut Socket) {
    let mut cell = legacy("cell-7", "shell");
    cell["header"]["msg_type"] = json!("execute_input");
    cell["parent_header"] = json!({ "msg_id": "the request of cell 7" });
    socket.send(Message::text(cell.to_string())).await.unwrap();
}

/// Hears what is said until these words come: all of it, and which cell the last sentence stands under.
async fn hear(socket: &mut Socket, words: &str) -> (String, Value) {
    let (mut said, mut under) = (String::new(), Value::Null);
    while !said.contains(words) {
        let message = text(&next(socket).await);
        if message["msg_type"] == "stream" || message["header"]["msg_type"] == "stream" {
            said.push_str(message["content"]["text"].as_str().unwrap());
            under = message["parent_header"]["msg_id"].clone();
        }
    }
    (said, under)
}

#[tokio::test]
async fn kernel_whose_credits_are_used_is_stopped_and_says_so_before() {
    let world = world(&Wallet::generate().unwrap()).await;
    let client = world.client();
    client.give(&credits(OWNER, 10, "start")).await.unwrap();
    let kernel = client
        .start_kernel(&kernel_with(&[("KERNEL_MAX_COST", "3")]))
        .await
        .unwrap();
    let mut socket = world.channels(kernel.id, "s1", &[]).await;
    run_cell(&mut socket).await;
    let (said, under) = hear(&mut socket, "that were set aside for it are used").await;
    assert_eq!(
        under, "the request of cell 7",
        "JupyterLab shows it under that cell"
    );
    assert!(said.contains("last 3 more seconds"), "{said}");
    let left = eventually("the hold's end", async || {
        Some(balance(&world).await).filter(|now| now.held.is_zero())
    })
    .await;
    eventually("the kernel's end", async || client.kernel(kernel.id).await.err()).await;
    assert_eq!(left.total, Amount::from_whole(7), "never more than was set aside");
    let entries = client.statement(0).await.unwrap();
    let charges: Vec<_> = entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Charge)
        .collect();
    let sum = charges
        .iter()
        .fold(Amount::ZERO, |sum, entry| sum.checked_add(entry.amount).unwrap());
    assert_eq!(sum, Amount::from_whole(3));
    for charge in &charges {
        assert!(
            !charge.incoming && charge.memo.contains(&kernel.id.to_string()),
            "{charge:?}"
        );
    }
    // Written when the hold ends: after the last charge, with which nothing is held any more.
    let told = eventually("the receipt", async || {
        let told = client.receipts(0).await.unwrap();
        Some(told).filter(|told| !told.receipts.is_empty())
    })
    .await;
    alephlab_gateway::check_chain(&told.receipts, &told.signer).unwrap();
    let amounts = told.receipts.iter().map(|signed| signed.receipt.amount);
    let sum = amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap());
    assert_eq!(sum, Amount::from_whole(3), "what receipts say is what was taken");
    let paid = &told.receipts[0];
    let shown = client.receipt(paid.receipt.id).await.unwrap();
    assert_eq!(
        (&shown.receipt, &shown.signer, shown.proof),
        (paid, &told.signer, None)
    );
    assert_eq!(refusal(client.receipt(Uuid::nil()).await), "receipt_unknown");
    // Without an account there are proofs, and roots; this gateway posts none.
    let nobody = GatewayClient::new(&world.url, None).unwrap();
    assert_eq!(refused(nobody.receipt(paid.receipt.id).await).0, 401);
    assert_eq!(
        refusal(nobody.receipt_proof(paid.receipt.id).await),
        "receipt_not_posted"
    );
    assert_eq!(
        refusal(nobody.receipt_proof(Uuid::nil()).await),
        "receipt_unknown"
    );
    let log = nobody.receipt_log().await.unwrap();
    assert_eq!((log.signer, log.posted, log.fault), (told.signer, None, None));
    let unposted = nobody.receipt_consistency(1, 1).await;
    assert_eq!(refusal(unposted), "receipts_not_posted");
    let audit = client.audit_ledger().await.unwrap();
    assert!(audit.entries >= 2 && audit.faults.is_empty(), "{audit:?}");
}

/// Status and code of a refusal.
fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (u16, String) {
    match outcome.unwrap_err() {
        ClientError::Refused { status, problem } => (status, problem.code),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_kernel_near_its_cap_goes_on_when_its_owner_raises_it_and_its_notebook_is_told() {
    let wallet = Wallet::generate().unwrap();
    let world = world(&wallet).await;
    let client = world.client();
    client.give(&credits(OWNER, 2_000, "start")).await.unwrap();
    let wanted = kernel_with(&[("KERNEL_MAX_COST", "60")]);
    let kernel = client.start_kernel(&wanted).await.unwrap().id;
    world.until(kernel, "idle").await;
    let mut socket = world.channels(kernel, "s1", &[]).await;
    run_cell(&mut socket).await;
    let (mut is_warned, mut has_run) = (false, false);
    while !(is_warned && has_run) {
        let message = text(&next(&mut socket).await);
        let said = message["content"]["text"].as_str().unwrap_or_default();
        is_warned |= said.contains("more seconds. Then it is stopped");
        has_run |= message["channel"] == "iopub" && message["header"]["msg_type"] == "execute_input";
    }
    let raise = async |cap: u64| client.raise_cap(kernel, Amount::from_whole(cap)).await;
    for (cap, status, code) in [(59, 400, "cap_too_small"), (2_001, 402, "balance_too_small")] {
        assert_eq!(refused(raise(cap).await), (status, code.to_owned()));
    }
    assert_eq!(balance(&world).await.available, Amount::from_whole(2_000 - 60));
    for _ in 0..2 {
        let raised = raise(1_000).await.unwrap();
        assert_eq!((raised.cap, raised.ended), (Amount::from_whole(1_000), false));
    }
    assert_eq!(balance(&world).await.available, Amount::from_whole(1_000));
    let (_, under) = hear(&mut socket, "was raised to 1000 credits").await;
    assert_eq!(
        under, "the request of cell 7",
        "JupyterLab shows it under that cell"
    );
    raise(1_100).await.unwrap();
    let (said, _) = hear(&mut socket, "was raised to 1100 credits").await;
    assert!(
        !said.contains("1000"),
        "what is asked for again is told once: {said}"
    );
    // Nobody else's, and none that never was.
    let stranger = client.with_token(sign_in(&world, &wallet).await.unwrap().token);
    let unknown = (404, "hold_unknown".to_owned());
    assert_eq!(
        refused(stranger.raise_cap(kernel, Amount::from_whole(1_200)).await),
        unknown
    );
    assert_eq!(refused(stranger.cap(kernel).await), unknown);
    assert_eq!(
        refused(client.raise_cap(Uuid::new_v4(), Amount::from_whole(5)).await),
        unknown
    );
    client.stop_kernel(kernel).await.unwrap();
    assert_eq!(refused(raise(1_200).await), (409, "hold_ended".to_owned()));
    let ended = eventually("the hold's end", async || {
        client.cap(kernel).await.ok().filter(|cap| cap.ended)
    })
    .await;
    assert_eq!(ended.cap, Amount::from_whole(1_100), "nothing was added to it");
    let left = balance(&world).await;
    assert_eq!(
        (left.held, left.available),
        (
            Amount::ZERO,
            Amount::from_whole(2_000).saturating_sub(ended.charged)
        )
    );
}

#[tokio::test]
async fn a_kernel_that_is_free_has_no_cap() {
    let world = World::start().await;
    let kernel = world.kernel().await.id;
    assert_eq!(
        refused(world.client().raise_cap(kernel, Amount::from_whole(1)).await),
        (404, "hold_unknown".to_owned())
    );
}

#[tokio::test]
async fn holds_of_a_gateway_that_was_stopped_are_given_back_by_the_next() {
    let world = world(&Wallet::generate().unwrap()).await;
    let client = world.client();
    client.give(&credits(OWNER, 1_000, "start")).await.unwrap();
    client
        .start_kernel(&kernel_with(&[("KERNEL_MAX_COST", "700")]))
        .await
        .unwrap();
    assert!(!balance(&world).await.held.is_zero());
    let folder = world.stop().await;
    let world = World::start_priced(folder, false, (TOKEN, Vec::new()), Amount::from_whole(PRICE)).await;
    let now = balance(&world).await;
    assert!(now.held.is_zero() && now.available == now.total);
}

#[tokio::test]
async fn kernels_are_free_where_no_price_is_set_and_say_their_price_where_one_is() {
    let free = World::start().await;
    free.kernel().await;
    assert_eq!(free.client().balance().await.unwrap().balances, []);
    let priced = world(&Wallet::generate().unwrap()).await;
    for (world, title) in [
        (&free, "Rust (Alephlab)"),
        (&priced, "Rust (Alephlab) · 3600 credits/h"),
    ] {
        let url = format!("{}/api/kernelspecs", world.url);
        let specs = world.http().get(url).bearer_auth(TOKEN).send().await.unwrap();
        let specs: serde_json::Value = specs.json().await.unwrap();
        assert_eq!(specs["kernelspecs"]["alephlab"]["spec"]["display_name"], title);
    }
}
