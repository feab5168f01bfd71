//! The test vectors of the protocol reference (section 3), sent as they are written there.

use aleph_types::message::MessageType;
use ed25519_dalek::Signer;
use serde_json::{Value, json};

use crate::support::{TestNode, a, address, b, sha256, signed, signed_on};

const A: &str = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1";

struct Vector {
    kind: &'static str,
    content: &'static str,
    hash: &'static str,
    signature: &'static str,
}

const V1: Vector = Vector {
    kind: "POST",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1700000000.0,"content":{"hello":"world","n":1},"type":"test-type"}"#,
    hash: "442492ce61e727fe6e8a9978ab32b2bb0ce92a87918cd56c3a8c642fc8eb44c2",
    signature: "0x3bdaef0e73ee55e1ef15fe4c999618c95672cfba2d1bdbfa63201d3b2af4786b5f266360949629b3ca92ef25c5a2cbcfbfdcb9c3f3eea066a48153693d862f231b",
};
const V2: Vector = Vector {
    kind: "POST",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","content":{"hello":"world","n":1},"time":1700000000.0,"type":"test-type"}"#,
    hash: "376bf668d5c31c7814801b678d63abcfa2dc851a90420de2dc1139615504668d",
    signature: "0xb9c17767f4e2362359525f7a2e1c8f2cf56eaa6f9ccba6727c7bbf027e47e997197d9ee96e3f0e3b5c46eb4100380e9fa9c372ca789b9e1e5f940d7b197061091b",
};
const V3: Vector = Vector {
    kind: "STORE",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1790000000.0,"item_type":"storage","item_hash":"08f166476de183f7a1b2874d544d37912aaf8d19b92013e1aafe233ba231024a","payment":{"chain":"ETH","type":"credit"}}"#,
    hash: "7a43a939f5da1bfad47690174914acfb2b0603b8fd823be8e18f2c1c89a42294",
    signature: "0x0d5ecfa2a45ebb1c054ddc5ea53abd60b2e41ef9b42c44bbc4f39b269f9461af14da45644cb7f1a95e8527e7c419c67bcc3c1a12ce3303d96b6f7f84ae682f451c",
};
const V4: Vector = Vector {
    kind: "AGGREGATE",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1790000002.0,"key":"profile","content":{"k":"v"}}"#,
    hash: "909725effab1d8dabf1b24954c04d0e488acb37e54b1fb5d03404d64740b6dbf",
    signature: "0xac3fba92524301dc245d00d9e3ff5d09dc066033deba1e59e098974028da1bf76816c5305d8b62da079fc88236e06c3b185193c1ea994cbd2247a7683e5c73621b",
};
const V5_POST: Vector = Vector {
    kind: "POST",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1790000003.0,"type":"model-card","content":{"name":"m"}}"#,
    hash: "08eda002457cf4b39ad267e8d4362c90f343ed94993df9289607f9bd0c2cec69",
    signature: "0xacbe31b2a978eb74783d18df91e8db39f5013a22caca07459a869084d20301f3497eb2c1367912422ea6334a24e462ec1ce85cfcb7097b1c9909149d8fa1f7031c",
};
const V5_AMEND: Vector = Vector {
    kind: "POST",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1790000004.0,"type":"amend","ref":"08eda002457cf4b39ad267e8d4362c90f343ed94993df9289607f9bd0c2cec69","content":{"name":"m","v":2}}"#,
    hash: "abb815bff044e474718dc50ed61304397d2fb5362f30e279890cb752cbc241d3",
    signature: "0xb3361f578fbe83ffb7e257fc966144468681c4d715b4eeba058b40974a95f86154d3eeb965053180a97132b88ae64b756f73f17c42eb6e7cf9d903da1577906d1c",
};
const V6: Vector = Vector {
    kind: "INSTANCE",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1790000005.0,"allow_amend":false,"metadata":{"name":"gpu-kernel"},"authorized_keys":["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample lab"],"environment":{"internet":true,"aleph_api":true,"hypervisor":"qemu","trusted_execution":null,"reproducible":false,"shared_cache":false},"resources":{"vcpus":6,"memory":36864,"seconds":30},"payment":{"chain":"ETH","type":"credit"},"requirements":{"node":{"node_hash":"abababababababababababababababababababababababababababababababab"},"gpu":[{"vendor":"NVIDIA","device_name":"AD102 [GeForce RTX 4090]","device_class":"0300","device_id":"10de:2684"}]},"volumes":[],"rootfs":{"parent":{"ref":"7a43a939f5da1bfad47690174914acfb2b0603b8fd823be8e18f2c1c89a42294","use_latest":true},"persistence":"host","size_mib":368640}}"#,
    hash: "d4a868b4de558eddbd80bc9ea994f7536035fafd6043c7d5859b88121c8571b9",
    signature: "0x63a3830914fe3cf46cc0ec116b43a1b6c74f82c45eedeb7946cba887bc428c4001debd30300cadea55c61e687acff9e04ae88215b5ff9b4327af5c6844e98a381c",
};
const V7: Vector = Vector {
    kind: "FORGET",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1790000008.0,"hashes":["d4a868b4de558eddbd80bc9ea994f7536035fafd6043c7d5859b88121c8571b9"],"reason":"stop billing"}"#,
    hash: "0c792c3c3f912019f6e54abaad1c38bb65cbe3bc7ed7736b429b02c6e88404b2",
    signature: "0x76888afa73fb7588771e3592847208dcd65ded1d4f08b3035e75c789332563314f32d75f7169589f81b034d3ed872c0982b46d54ac2777817fd82b9d626de1e91c",
};
const V8: Vector = Vector {
    kind: "AGGREGATE",
    content: r#"{"address":"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1","time":1790000010.0,"key":"security","content":{"authorizations":[{"address":"0x5050A4F4b3f9338C3472dcC01A87C76A144b3c9c","chain":"ETH","types":["POST"],"post_types":["model-card"],"channels":["LAB"],"aggregate_keys":[]}]}}"#,
    hash: "59f8e14c52994f2c7a0de95d0e10d19a787f1a6561d882889f36c3d8c643809f",
    signature: "0x61339b4dc28b80cd076a3babff986f3d815b3e69bb5f99451f7339f40a9bf7655b26ab646ef5970b88c5d38b1422564f65687b680a771ebeb3cab2e6c50ecd981b",
};

impl Vector {
    fn message(&self) -> Value {
        let content: Value = serde_json::from_str(self.content).unwrap();
        json!({
            "sender": A, "chain": "ETH", "signature": self.signature, "type": self.kind, "item_type": "inline",
            "item_content": self.content, "item_hash": self.hash, "time": content["time"], "channel": null,
        })
    }
}

#[tokio::test]
async fn posts_v1_and_v2_are_processed_and_readable() {
    let node = TestNode::start().await;
    for vector in [V1, V2] {
        assert_eq!(sha256(vector.content.as_bytes()), vector.hash);
        node.accept(&vector.message()).await;
        let known = node.message(vector.hash).await;
        assert_eq!(known["status"], "processed");
        assert_eq!(known["message"]["item_content"], vector.content);
        assert_eq!(known["message"]["signature"], vector.signature);
        assert_eq!(known["message"]["time"], json!(1_700_000_000.0));
        assert_eq!(
            known["message"]["content"]["content"],
            json!({"hello": "world", "n": 1})
        );
        assert_eq!(known["message"]["confirmed"], false);
        assert_eq!(known["message"]["size"], vector.content.len());
        let content = node
            .get(&format!("/api/v0/messages/{}/content", vector.hash))
            .await;
        assert_eq!(content.json, json!({"hello": "world", "n": 1}));
    }
}

#[tokio::test]
async fn store_v3_pins_its_file() {
    let node = TestNode::start().await;
    let added = node
        .post_bytes("/api/v0/storage/add_file", vec![7; 300_000])
        .await;
    assert_eq!(
        added.json["hash"],
        "08f166476de183f7a1b2874d544d37912aaf8d19b92013e1aafe233ba231024a"
    );
    node.accept(&V3.message()).await;
    let pinned = node
        .get(&format!("/api/v0/storage/by-message-hash/{}", V3.hash))
        .await;
    assert_eq!(pinned.json["size"], 300_000);
    assert_eq!(pinned.json["owner"], A);
    assert_eq!(pinned.json["ref"], V3.hash);
}

#[tokio::test]
async fn aggregate_v4_is_readable_by_key() {
    let node = TestNode::start().await;
    node.accept(&V4.message()).await;
    let aggregate = node
        .get(&format!("/api/v0/aggregates/{A}.json?keys=profile"))
        .await;
    assert_eq!(
        aggregate.json,
        json!({"address": A, "data": {"profile": {"k": "v"}}, "info": {}})
    );
}

#[tokio::test]
async fn amend_v5_replaces_the_content() {
    let node = TestNode::start().await;
    node.accept(&V5_POST.message()).await;
    node.accept(&V5_AMEND.message()).await;
    let posts = node.get("/api/v1/posts.json?types=model-card").await.json;
    let post = &posts["posts"][0];
    assert_eq!(post["content"], json!({"name": "m", "v": 2}));
    assert_eq!(
        (&post["item_hash"], &post["original_item_hash"]),
        (&json!(V5_AMEND.hash), &json!(V5_POST.hash))
    );
}

#[tokio::test]
async fn instance_v6_costs_what_it_should_until_v7_forgets_it() {
    let node = TestNode::start().await;
    // It boots from the file of V3.
    node.reject(&V6.message(), 301).await;
    node.post_bytes("/api/v0/storage/add_file", vec![7; 300_000])
        .await;
    node.accept(&V3.message()).await;
    node.accept(&V6.message()).await;
    let price = node.get(&format!("/api/v0/price/{}", V6.hash)).await.json;
    assert_eq!(
        (&price["cost"], &price["payment_type"]),
        (&json!("71.875000000000000000"), &json!("credit"))
    );
    assert_eq!(price["charged_address"], A);
    node.accept(&V7.message()).await;
    assert_eq!(node.status(V6.hash).await, "forgotten");
    let known = node.message(V6.hash).await;
    assert_eq!(known["forgotten_by"], json!([V7.hash]));
}

#[tokio::test]
async fn delegate_posts_only_after_v8_and_only_what_it_allows() {
    let node = TestNode::start().await;
    let post = |kind: &str| {
        let content = json!({"address": A, "time": 1_790_000_011.0, "type": kind, "content": {}});
        signed_on(&b(), MessageType::Post, &content, Some("LAB"))
    };
    node.reject(&post("model-card"), 2).await;
    node.accept(&V8.message()).await;
    node.accept(&post("model-card")).await;
    node.reject(&post("other"), 2).await;
}

#[tokio::test]
async fn signature_on_other_content_is_rejected() {
    let node = TestNode::start().await;
    let mut message = V2.message();
    message["signature"] = json!(V1.signature);
    node.reject(&message, 1).await;
    // The real message is still welcome.
    node.accept(&V2.message()).await;
}

#[tokio::test]
async fn bad_signature_is_accepted_as_pending_when_not_waiting() {
    let node = TestNode::start().await;
    let mut message = V2.message();
    message["signature"] = json!(V1.signature);
    let reply = node.publish_async(&message).await;
    assert_eq!(
        (reply.status, &reply.json["message_status"]),
        (202, &json!("pending"))
    );
    crate::support::until(|| async { node.status(V2.hash).await == "rejected" }).await;
    assert_eq!(node.message(V2.hash).await["error_code"], 1);
}

#[tokio::test]
async fn forged_copy_does_not_change_a_processed_message() {
    let node = TestNode::start().await;
    node.accept(&V2.message()).await;
    let mut forged = V2.message();
    forged["signature"] = json!(V1.signature);
    assert_eq!(node.publish(&forged).await.status, 422);
    let known = node.message(V2.hash).await;
    assert_eq!(
        (&known["status"], &known["message"]["signature"]),
        (&json!("processed"), &json!(V2.signature))
    );
}

#[tokio::test]
async fn wrong_hash_and_other_malformed_messages_get_the_plain_text() {
    let node = TestNode::start().await;
    let mut zeros = V1.message();
    zeros["item_hash"] = json!("0".repeat(64));
    let mut unknown_type = V1.message();
    unknown_type["type"] = json!("NOTE");
    for message in [zeros, unknown_type, json!({})] {
        let reply = node.publish(&message).await;
        assert_eq!((reply.status, reply.text.as_str()), (422, "InvalidMessageFormat"));
    }
    let missing = node.post("/api/v0/messages", &json!({"sync": true})).await;
    assert_eq!(
        (missing.status, missing.json.is_array()),
        (422, true),
        "{}",
        missing.text
    );
    assert_eq!(
        node.post_bytes("/api/v0/messages", b"no json".to_vec())
            .await
            .status,
        422
    );
    assert_eq!(
        node.get(&format!("/api/v0/messages/{}", "0".repeat(64)))
            .await
            .status,
        404
    );
    assert_eq!(node.get("/api/v0/messages/nonsense").await.status, 400);
}

#[tokio::test]
async fn solana_message_is_verified_with_ed25519() {
    let node = TestNode::start().await;
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let sender = bs58::encode(key.verifying_key().as_bytes()).into_string();
    for (time, as_text) in [(1.0, true), (2.0, false)] {
        let content = json!({"address": sender, "time": time, "type": "sol", "content": {}}).to_string();
        let hash = sha256(content.as_bytes());
        let signature = key.sign(format!("SOL\n{sender}\nPOST\n{hash}").as_bytes());
        let signature =
            json!({"signature": bs58::encode(signature.to_bytes()).into_string(), "publicKey": sender});
        let mut message = json!({
            "sender": sender, "chain": "SOL", "type": "POST", "item_type": "inline", "item_content": content,
            "item_hash": hash, "time": time, "channel": null,
            "signature": if as_text { json!(signature.to_string()) } else { signature },
        });
        node.accept(&message).await;
        message["sender"] = json!(bs58::encode([3; 32]).into_string());
        assert_eq!(node.publish(&message).await.status, 422);
    }
}

#[tokio::test]
async fn every_evm_chain_label_signs_alike_and_is_part_of_what_is_signed() {
    let node = TestNode::start().await;
    let content = json!({"address": address(&a()), "time": 5.0, "type": "chain", "content": {}});
    let mut message = signed(&a(), MessageType::Post, &content);
    message["chain"] = json!("BASE");
    node.reject(&message, 1).await;
    let base = aleph_types::account::EvmAccount::new(aleph_types::chain::Chain::Base, &[1; 32]).unwrap();
    node.accept(&signed(&base, MessageType::Post, &content)).await;
}
