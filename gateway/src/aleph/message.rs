//! Messages of the renting account: INSTANCE and FORGET, and how the network stands to them.

use aleph_sdk::client::{AlephClient, AlephMessageClient as _, MessageError, MessageWithStatus};
use aleph_sdk::messages::{ForgetBuilder, InstanceBuilder};
use aleph_types::channel::Channel;
use aleph_types::item_hash::ItemHash;
use aleph_types::message::execution::base::Payment;
use aleph_types::message::execution::environment::{
    GpuDeviceClass, GpuProperties, HostRequirements, Hypervisor, NodeRequirements,
};
use aleph_types::message::execution::volume::PersistentVolumeSize;
use aleph_types::message::pending::PendingMessage;
use alephlab_vault::{SignedMessage, Wallet};
use serde_json::{Value, json};

use super::host;
use super::nodes::Place;
use crate::error::Result;

/// The channel of all messages of hosts.
const CHANNEL: &str = "ALEPHLAB";

/// What the network makes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has never seen it.
    Unknown,
    /// It is or will be carried out, and paid for.
    Stands,
    /// It will not be carried out.
    Refused(String),
    /// It was carried out, and is not any more: nothing is billed.
    Over,
}

/// Signs the message of an instance on this place; gives it and its item hash.
pub(super) fn instance(
    wallet: &Wallet,
    image: ItemHash,
    place: &Place,
    key: String,
) -> Result<(Value, ItemHash)> {
    let disk = PersistentVolumeSize::try_from(place.size.disk_mib).map_err(|error| host(&error))?;
    let card = GpuProperties {
        vendor: place.card_vendor.clone(),
        device_name: place.card_name.clone(),
        device_class: match place.card_class.as_str() {
            "0302" => GpuDeviceClass::_3DController,
            _ => GpuDeviceClass::VgaCompatibleController,
        },
        device_id: place.device_id.clone(),
    };
    let node = NodeRequirements {
        owner: None,
        address_regex: None,
        node_hash: Some(place.node_hash.clone()),
        terms_and_conditions: None,
    };
    let message = InstanceBuilder::new(wallet.account(), image, disk)
        // The image that was named, and no other.
        .use_latest_rootfs(false)
        .vcpus(place.size.vcpus)
        .memory(place.size.memory_mib.into())
        .timeout_seconds(30)
        .hypervisor(Hypervisor::Qemu)
        .payment(Payment::credits())
        .requirements(HostRequirements {
            cpu: None,
            node: Some(node),
            gpu: Some(vec![card]),
        })
        .ssh_keys(vec![key])
        .metadata([("name".to_owned(), json!("alephlab"))].into())
        .channel(Channel::from(CHANNEL.to_owned()))
        .build()
        .map_err(|error| host(&error))?;
    let hash = message.item_hash.clone();
    let message = serde_json::to_value(&message).map_err(|error| host(&error))?;
    Ok((message, hash))
}

/// The content of a message that was signed before, as it was signed.
pub(super) fn content(message: &Value) -> Result<String> {
    Ok(pending(message)?.item_content)
}

/// Posts a message that was signed before.
pub(super) async fn post(node: &AlephClient, message: &Value) -> Result<Standing> {
    let pending = pending(message)?;
    match node.post_message(&pending, true).await {
        Ok(_) => {}
        Err(MessageError::ApiError { status: 402, body }) => return Ok(refused(&body)),
        // The message is judged already; how is asked below.
        Err(MessageError::ApiError { status: 422, .. }) => {}
        Err(error) => return Err(host(&error)),
    }
    standing(node, &pending.item_hash).await
}

/// Asks the network to forget an instance.
pub(super) async fn forget(node: &AlephClient, wallet: &Wallet, hash: &ItemHash) -> Result<()> {
    let message = ForgetBuilder::new(wallet.account(), vec![hash.clone()])
        .reason("the host is given back")
        .channel(Channel::from(CHANNEL.to_owned()))
        .build()
        .map_err(|error| host(&error))?;
    node.post_message(&message, true)
        .await
        .map_err(|error| host(&error))?;
    Ok(())
}

/// How the network stands to a message.
pub(super) async fn standing(node: &AlephClient, hash: &ItemHash) -> Result<Standing> {
    let found = match node.get_message(hash).await {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return Ok(Standing::Unknown),
        Err(error) => return Err(host(&error)),
    };
    Ok(match found {
        MessageWithStatus::Pending { .. } | MessageWithStatus::Processed { .. } => Standing::Stands,
        // Until it is removed it runs, and its payer has a day to pay.
        MessageWithStatus::Removing { .. } => Standing::Stands,
        MessageWithStatus::Removed { .. } | MessageWithStatus::Forgotten { .. } => Standing::Over,
        MessageWithStatus::Rejected { error_code, .. } => rejected(error_code),
    })
}

fn rejected(code: i64) -> Standing {
    let reason = match code {
        5 | 6 => "the gateway's account has too few credits for it".to_owned(),
        _ => format!("the network rejects the message (error {code})"),
    };
    Standing::Refused(reason)
}

fn refused(body: &str) -> Standing {
    let said: String = body.chars().filter(|c| !c.is_control()).take(200).collect();
    Standing::Refused(format!("the network wants more credits for it: {said}"))
}

fn pending(message: &Value) -> Result<PendingMessage> {
    let signed = SignedMessage::from_value(message.clone()).map_err(|error| host(&error))?;
    Ok(signed.pending())
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[test]
    fn a_draft_is_posted_as_it_was_signed() {
        let wallet = Wallet::generate().unwrap();
        let image = "ab".repeat(32).parse().unwrap();
        let node: Url = "https://node.example".parse().unwrap();
        let place = Place::for_test(&node);
        let (message, hash) = instance(&wallet, image, &place, "ssh-ed25519 AAAA".to_owned()).unwrap();
        let again = pending(&message).unwrap();
        assert_eq!(again.item_hash, hash);
        assert_eq!(serde_json::to_value(&again).unwrap(), message);
        let content: Value = serde_json::from_str(&again.item_content).unwrap();
        assert_eq!(content["payment"]["type"], "credit");
        assert_eq!(content["requirements"]["gpu"][0]["device_id"], "10de:2684");
        assert_eq!(content["requirements"]["node"]["node_hash"], "n");
        assert_eq!(content["resources"]["memory"], 36 * 1024);
        assert_eq!(content["rootfs"]["size_mib"], 360 * 1024);
        assert_eq!(content["authorized_keys"][0], "ssh-ed25519 AAAA");
    }
}
