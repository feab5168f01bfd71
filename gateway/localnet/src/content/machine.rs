//! Contents of INSTANCE and V-PROGRAM messages: read by the network's own types, checked where those are wider
//! than the node.

use std::collections::HashSet;

use aleph_types::message::{
    InstanceContent, MessageType, VerifiableProgramContent,
    execution::{base::PaymentType, volume::MachineVolume},
};
use serde_json::Value;

use super::Payment;
use crate::rejection::Rejection;

/// Most virtual processors of one machine.
const MAX_VCPUS: u32 = 256;
/// Most memory of one machine, in MiB.
const MAX_MEMORY_MIB: u64 = 1024 * 1024;

/// What rules and prices read of a machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Machine {
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    /// Root file system and volumes that the host keeps for it, in MiB.
    pub(crate) disk_mib: u64,
    pub(crate) class: Class,
    /// `None` when it would be paid by a stream, which is no longer taken.
    pub(crate) payment: Option<Payment>,
    /// STORE messages of what it boots from; error 300 when one is missing.
    pub(crate) images: Vec<String>,
    /// STORE messages of its volumes; error 301 when one is missing.
    pub(crate) volumes: Vec<String>,
    /// Root file system in MiB, which must hold its image; `None` when the image is mounted as it is.
    pub(crate) rootfs_mib: Option<u64>,
    pub(crate) replaces: Option<String>,
    pub(crate) allow_amend: bool,
}

/// Row of the price table (reference, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Instance,
    Confidential,
    GpuStandard,
    GpuPremium,
}

/// Devices of the standard GPU class (reference, section 7); any other card is premium.
const STANDARD_GPUS: [&str; 6] = [
    "10de:2684", // RTX 4090
    "10de:2204", // RTX 3090
    "10de:2203", // RTX 3090 Ti
    "10de:27b0", // RTX 4000 ADA
    "10de:27b2",
    "10de:26b9", // L40S
];

/// Reads the content of a machine; `kind` is INSTANCE or V-PROGRAM.
pub(super) fn machine(kind: MessageType, value: &Value) -> Result<Machine, Rejection> {
    let refuse = |error: serde_json::Error| Rejection::format(format!("the {kind} is malformed: {error}"));
    let machine = match kind {
        MessageType::VProgram => v_program(&serde_json::from_value(value.clone()).map_err(refuse)?),
        _ => instance(serde_json::from_value(value.clone()).map_err(refuse)?),
    };
    if machine.vcpus == 0 || machine.vcpus > MAX_VCPUS {
        return Err(Rejection::format("resources.vcpus is not between 1 and 256"));
    }
    if machine.memory_mib == 0 || machine.memory_mib > MAX_MEMORY_MIB {
        return Err(Rejection::format(
            "resources.memory is not between 1 MiB and 1 TiB",
        ));
    }
    Ok(machine)
}

fn instance(content: InstanceContent) -> Machine {
    let gpus = content
        .base
        .requirements
        .as_ref()
        .and_then(|needed| needed.gpu.as_ref());
    let is_standard = |id: &str| STANDARD_GPUS.contains(&id);
    let class = match (gpus, &content.environment.trusted_execution) {
        (Some(gpus), _) if !gpus.is_empty() => {
            if gpus.iter().all(|gpu| is_standard(&gpu.device_id)) {
                Class::GpuStandard
            } else {
                Class::GpuPremium
            }
        }
        (_, Some(_)) => Class::Confidential,
        _ => Class::Instance,
    };
    let rootfs_mib = u64::from(content.rootfs.size_mib);
    let mut volumes = Vec::new();
    let mut disk_mib = rootfs_mib;
    for volume in &content.base.volumes {
        match volume {
            MachineVolume::Immutable(volume) => volumes.push(volume.reference.to_string()),
            MachineVolume::Ephemeral(volume) => disk_mib += u64::from(volume.size_mib),
            MachineVolume::Persistent(volume) => {
                disk_mib += u64::from(volume.size_mib);
                volumes.extend(volume.parent.as_ref().map(|parent| parent.reference.to_string()));
            }
        }
    }
    Machine {
        vcpus: content.base.resources.vcpus,
        memory_mib: u64::from(content.base.resources.memory),
        disk_mib,
        class,
        payment: payment(content.base.payment.as_ref().map(|payment| &payment.payment_type)),
        images: vec![content.rootfs.parent.reference.to_string()],
        volumes,
        rootfs_mib: Some(rootfs_mib),
        replaces: content.base.replaces.map(|hash| hash.to_string()),
        allow_amend: content.base.allow_amend,
    }
}

fn v_program(content: &VerifiableProgramContent) -> Machine {
    let images = [
        &content.runtime.reference,
        &content.workload.reference,
        &content.workload.hash_tree,
    ];
    // Every volume comes with the tree that proves it.
    let volumes = content
        .volumes
        .iter()
        .flat_map(|volume| [volume.reference.to_string(), volume.hash_tree.to_string()]);
    Machine {
        vcpus: content.base.resources.vcpus,
        memory_mib: u64::from(content.base.resources.memory),
        // Everything it mounts is read-only and stored already.
        disk_mib: 0,
        class: Class::Confidential,
        payment: payment(content.base.payment.as_ref().map(|payment| &payment.payment_type)),
        images: images.map(ToString::to_string).into_iter().collect(),
        volumes: volumes.collect::<HashSet<_>>().into_iter().collect(),
        rootfs_mib: None,
        replaces: None,
        allow_amend: false,
    }
}

/// Absent means hold.
fn payment(kind: Option<&PaymentType>) -> Option<Payment> {
    match kind {
        None | Some(PaymentType::Hold) => Some(Payment::Hold),
        Some(PaymentType::Credit) => Some(Payment::Credit),
        Some(PaymentType::Superfluid) => None,
    }
}
