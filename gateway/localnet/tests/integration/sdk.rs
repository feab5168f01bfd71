//! The unmodified Rust SDK against the local node.

use aleph_sdk::{
    authorization::AlephAuthorizationClient,
    client::{
        AlephAccountClient, AlephAggregateClient, AlephClient, AlephMessageClient, AlephPostClient,
        AlephStorageClient, MessageError, MessageFilter, MessageVerification, MessageWithStatus,
        PaginationParams, PostFilter, RetryConfig, StorageError,
    },
    messages::{AggregateBuilder, ForgetBuilder, PostBuilder, StoreBuilder},
};
use aleph_types::{
    account::Account,
    item_hash::{AlephItemHash, ItemHash},
    message::{FileRef, MessageType, StorageEngine, execution::base::Payment},
};
use alephlab_localnet::Fault;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};

use crate::support::{TestNode, a, aggregate_message, b};

fn client(node: &TestNode) -> AlephClient {
    let retry = RetryConfig {
        max_retries: 1,
        ..RetryConfig::default()
    };
    AlephClient::builder(node.handle.url.clone())
        .retry_config(retry)
        .build()
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

#[tokio::test]
async fn posted_message_is_fetched_and_verified() {
    let node = TestNode::start().await;
    let (client, account) = (client(&node), a());
    let post = PostBuilder::new(&account, "card", json!({"n": 1}))
        .unwrap()
        .channel("LAB".to_owned().into());
    let message = post.build().unwrap();
    let answer = client.post_message(&message, true).await.unwrap();
    assert_eq!(answer.message_status, "processed");
    let verified = client.get_message_and_verify(&message.item_hash).await.unwrap();
    match verified {
        MessageWithStatus::Processed {
            message: MessageVerification::Verified(found),
        } => {
            assert_eq!(found.message().sender(), account.address());
        }
        other => panic!("not verified: {other:?}"),
    }
    let unknown = ItemHash::from([7; 32]);
    assert!(client.get_message(&unknown).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn large_content_goes_through_storage_and_verifies() {
    let node = TestNode::start().await;
    let (client, account) = (client(&node), a());
    let post = PostBuilder::new(&account, "large", json!({"x": "y".repeat(80_000)}))
        .unwrap()
        .build()
        .unwrap();
    client.submit_message(&post, true).await.unwrap();
    let listed = client
        .get_messages_and_verify(&MessageFilter::default())
        .await
        .unwrap();
    assert!(
        matches!(listed.as_slice(), [MessageVerification::Verified(_)]),
        "{listed:?}"
    );
}

#[tokio::test]
async fn every_status_is_understood() {
    let node = TestNode::start().await;
    let (client, account) = (client(&node), a());
    let post = PostBuilder::new(&account, "card", json!({}))
        .unwrap()
        .build()
        .unwrap();
    client.post_message(&post, true).await.unwrap();
    let forget = ForgetBuilder::new(&account, vec![post.item_hash.clone()])
        .reason("done")
        .build()
        .unwrap();
    client.post_message(&forget, true).await.unwrap();
    match client.get_message(&post.item_hash).await.unwrap() {
        MessageWithStatus::Forgotten { forgotten_by, .. } => assert_eq!(forgotten_by, vec![forget.item_hash]),
        other => panic!("not forgotten: {other:?}"),
    }
    let amend = PostBuilder::amend(&account, ItemHash::from([7; 32]), json!({}))
        .unwrap()
        .build()
        .unwrap();
    let rejected = client.post_message(&amend, true).await.unwrap_err();
    assert!(
        matches!(rejected, MessageError::ApiError { status: 422, .. }),
        "{rejected}"
    );
    match client.get_message(&amend.item_hash).await.unwrap() {
        MessageWithStatus::Rejected { error_code, .. } => assert_eq!(error_code, 101),
        other => panic!("not rejected: {other:?}"),
    }
    node.handle.faults.on(
        Fault::StayPending {
            message_type: String::new(),
        },
        None,
    );
    let pending = PostBuilder::new(&account, "later", json!({}))
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(
        client.post_message(&pending, false).await.unwrap().message_status,
        "pending"
    );
    match client.get_message(&pending.item_hash).await.unwrap() {
        MessageWithStatus::Pending { messages } => assert_eq!(messages.len(), 1),
        other => panic!("not pending: {other:?}"),
    }
}

#[tokio::test]
async fn uploaded_file_is_downloaded_with_verification() {
    let node = TestNode::start().await;
    let (client, account) = (client(&node), a());
    let bytes = vec![42; 3_000_000];
    let path = node.folder.path().join("object");
    std::fs::write(&path, &bytes).unwrap();
    let hash = ItemHash::from(AlephItemHash::from_bytes(&bytes));
    let message = StoreBuilder::new(&account, hash.clone(), StorageEngine::Storage)
        .payment(Payment::credits())
        .reference("object")
        .build()
        .unwrap();
    assert_eq!(
        client
            .upload_file_to_storage(&path, Some(&message), true)
            .await
            .unwrap(),
        hash
    );
    let download = client.download_file_by_hash(&hash).await.unwrap();
    assert_eq!(download.with_verification().bytes().await.unwrap(), bytes);
    assert_eq!(u64::from(client.get_file_size(&hash).await.unwrap()), 3_000_000);
    assert_eq!(
        client
            .get_file_metadata_by_message_hash(&message.item_hash)
            .await
            .unwrap()
            .file_hash,
        hash
    );
    let name = FileRef::UserDefined {
        owner: account.address().clone(),
        reference: "object".into(),
    };
    assert_eq!(
        client.get_file_metadata_by_ref(&name).await.unwrap().owner,
        *account.address()
    );
    let files: Vec<_> = client
        .get_account_files_iterator(account.address(), None, None)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(files[0].item_hash, message.item_hash);
    assert_eq!(
        u64::from(client.get_total_storage_size(account.address()).await.unwrap()),
        3_000_000
    );
    assert_eq!(
        client.get_balance(account.address()).await.unwrap().credits / 1_000,
        9_999
    );
    assert!(client.estimate_price(&message).await.unwrap().required_tokens > 0.0);
}

#[tokio::test]
async fn verification_catches_wrong_and_missing_bytes() {
    let node = TestNode::start().await;
    let client = client(&node);
    let (file, _) = node.store(&vec![1; 500_000], json!({})).await;
    let hash = ItemHash::try_from(file.as_str()).unwrap();
    node.handle.faults.on(Fault::WrongBytes, Some(1));
    let download = client.download_file_by_hash(&hash).await.unwrap();
    let error = download.with_verification().bytes().await.unwrap_err();
    assert!(
        matches!(error, MessageError::Storage(StorageError::IntegrityError(_))),
        "{error}"
    );
    node.handle.faults.on(Fault::Truncate { keep_bytes: 10 }, Some(1));
    let download = client.download_file_by_hash(&hash).await.unwrap();
    assert!(download.with_verification().bytes().await.is_err());
    node.handle.faults.on(
        Fault::Status {
            path: "/raw/".into(),
            status: 503,
        },
        Some(1),
    );
    let download = client.download_file_by_hash(&hash).await.unwrap();
    assert_eq!(download.with_verification().bytes().await.unwrap().len(), 500_000);
}

#[tokio::test]
async fn upload_errors_have_their_own_names() {
    let node = TestNode::start_with(|config| config.credits = 0).await;
    let (client, account) = (client(&node), a());
    let store = |bytes: &[u8]| {
        let hash = ItemHash::from(AlephItemHash::from_bytes(bytes));
        StoreBuilder::new(&account, hash, StorageEngine::Storage)
            .payment(Payment::credits())
            .build()
            .unwrap()
    };
    let error = client
        .upload_to_storage(b"x", Some(&store(b"x")), true)
        .await
        .unwrap_err();
    assert!(matches!(error, StorageError::InsufficientBalance), "{error}");
    let error = client
        .upload_to_storage(b"x", Some(&store(b"other")), true)
        .await
        .unwrap_err();
    assert!(matches!(error, StorageError::InvalidMetadata(_)), "{error}");
    let mut forged = store(b"x");
    forged.signature = store(b"other").signature;
    let error = client
        .upload_to_storage(b"x", Some(&forged), true)
        .await
        .unwrap_err();
    assert!(matches!(error, StorageError::InvalidSignature), "{error}");
    let error = client.upload_to_ipfs(b"x", None, true).await.unwrap_err();
    assert!(matches!(error, StorageError::IpfsDisabled), "{error}");
}

#[tokio::test]
async fn aggregates_and_authorizations_are_read() {
    let node = TestNode::start().await;
    let (client, owner, delegate) = (client(&node), a(), b());
    assert!(
        client
            .get_all_aggregates(owner.address())
            .await
            .unwrap()
            .is_empty()
    );
    for (key, content) in [
        ("profile", json!({"k": "v"})),
        ("profile", json!({"l": 1})),
        ("other", json!({"x": 1})),
    ] {
        let message = AggregateBuilder::new(&owner, key, map(content)).build().unwrap();
        client.post_message(&message, true).await.unwrap();
    }
    let profile: Value = client.get_aggregate(owner.address(), "profile").await.unwrap();
    assert_eq!(profile, json!({"profile": {"k": "v", "l": 1}}));
    assert_eq!(client.get_all_aggregates(owner.address()).await.unwrap().len(), 2);
    let entry = json!({"address": delegate.address(), "types": ["POST"]});
    node.accept(&aggregate_message(
        &owner,
        "security",
        1.0,
        json!({"authorizations": [entry]}),
    ))
    .await;
    assert_eq!(
        client.get_authorizations(owner.address()).await.unwrap()[0].types,
        vec![MessageType::Post]
    );
    let received = client
        .get_received_authorizations(delegate.address())
        .await
        .unwrap();
    assert_eq!(received[0].granter, *owner.address());
}

#[tokio::test]
async fn iterators_walk_all_pages() {
    let node = TestNode::start().await;
    let (client, account) = (client(&node), a());
    for n in 0..7 {
        let post = PostBuilder::new(&account, "n", json!({"n": n}))
            .unwrap()
            .build()
            .unwrap();
        client.post_message(&post, true).await.unwrap();
    }
    let messages: Vec<_> = client
        .get_messages_iterator(MessageFilter::default(), Some(3))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(messages.len(), 7);
    let filter = || PostFilter {
        post_types: Some(vec!["n".into()]),
        ..PostFilter::default()
    };
    let v0: Vec<_> = client
        .get_posts_v0_iterator(filter(), Some(2))
        .try_collect()
        .await
        .unwrap();
    let v1: Vec<_> = client
        .get_posts_v1_iterator(filter(), Some(5))
        .try_collect()
        .await
        .unwrap();
    assert_eq!((v0.len(), v1.len()), (7, 7));
    let page = PaginationParams {
        pagination: Some(3),
        page: Some(3),
    };
    let last = client.get_posts_v1(&filter(), page.clone()).await.unwrap();
    assert_eq!((last.posts.len(), last.pagination_total), (1, 7));
    assert_eq!(
        client
            .get_posts_v0(&filter(), page.clone())
            .await
            .unwrap()
            .posts
            .len(),
        1
    );
    assert_eq!(
        client
            .get_messages(&MessageFilter::default(), page)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn subscription_hears_new_messages() {
    let node = TestNode::start().await;
    let (client, account) = (client(&node), a());
    let filter = MessageFilter {
        message_type: Some(MessageType::Post),
        ..MessageFilter::default()
    };
    let mut stream = client.subscribe_to_messages(&filter, Some(0)).await.unwrap();
    let post = PostBuilder::new(&account, "live", json!({}))
        .unwrap()
        .build()
        .unwrap();
    client.post_message(&post, true).await.unwrap();
    let heard = tokio::time::timeout(std::time::Duration::from_secs(10), stream.next())
        .await
        .unwrap();
    assert_eq!(heard.unwrap().unwrap().item_hash, post.item_hash);
}
