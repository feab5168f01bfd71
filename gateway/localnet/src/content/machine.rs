//! Contents of INSTANCE and V-PROGRAM messages: read by the network's own types, checked where those are wider
//! than the node.

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
    /// Compute units that its cards need at least.
    pub(crate) gpu_units: u32,
    /// STORE messages that it boots from or mounts.
    pub(crate) stores: Vec<Used>,
    pub(crate) replaces: Option<String>,
    pub(crate) allow_amend: bool,
}

/// A STORE message that a machine needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Used {
    pub(crate) hash: String,
    /// Size in MiB of the copy that the machine writes to, which must hold it; `None` when it is mounted as it is, and so
    /// charged as disk.
    pub(crate) copied_to_mib: Option<u64>,
}

/// Row of the price table (reference, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Instance,
    Confidential,
    GpuStandard,
    GpuPremium,
}

impl Class {
    /// All, as the `pricing` aggregate has them.
    pub(crate) const ALL: [Self; 4] = [
        Self::Instance,
        Self::Confidential,
        Self::GpuStandard,
        Self::GpuPremium,
    ];

    /// Its key in the `pricing` aggregate.
    pub(crate) fn entity(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Confidential => "instance_confidential",
            Self::GpuStandard => "instance_gpu_standard",
            Self::GpuPremium => "instance_gpu_premium",
        }
    }
}

/// A kind of card, and what the network asks for with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    /// Compute units that one needs at least.
    pub(crate) units: u32,
    /// Its own memory, GiB.
    pub(crate) memory_gib: u64,
    /// PCI vendor and device.
    pub(crate) ids: &'static [&'static str],
}

const fn model(
    name: &'static str,
    class: Class,
    units: u32,
    memory_gib: u64,
    ids: &'static [&'static str],
) -> Model {
    Model {
        name,
        class,
        units,
        memory_gib,
        ids,
    }
}

/// Cards of the network (reference, section 7; ids of cards that it names without one are from the PCI id database).
pub(crate) const MODELS: [Model; 10] = [
    model(
        "RTX 4000 ADA",
        Class::GpuStandard,
        3,
        20,
        &["10de:27b0", "10de:27b2"],
    ),
    model("RTX 3090", Class::GpuStandard, 4, 24, &["10de:2204", "10de:2203"]),
    model("RTX 4090", Class::GpuStandard, 6, 24, &["10de:2684"]),
    model("RTX 5090", Class::GpuStandard, 8, 32, &["10de:2b85"]),
    model("RTX 6000 ADA", Class::GpuStandard, 11, 48, &["10de:26b1"]),
    model("L40S", Class::GpuStandard, 12, 48, &["10de:26b9"]),
    model(
        "RTX PRO 6000",
        Class::GpuPremium,
        14,
        96,
        &["10de:2bb1", "10de:2bb5"],
    ),
    model(
        "A100",
        Class::GpuPremium,
        16,
        80,
        &["10de:20b2", "10de:20b5", "10de:20b8", "10de:2080", "10de:2081"],
    ),
    model(
        "H100",
        Class::GpuPremium,
        24,
        80,
        &["10de:2330", "10de:2331", "10de:2336", "10de:2313", "10de:22a3"],
    ),
    model("H200", Class::GpuPremium, 32, 141, &["10de:2335"]),
];

/// A card that the network has a price for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) class: Class,
    /// Compute units that it needs at least.
    pub(crate) units: u32,
}

/// The card with this PCI id.
pub(crate) fn card(device_id: &str) -> Option<Card> {
    let found = MODELS.iter().find(|model| model.ids.contains(&device_id));
    found.map(|&Model { class, units, .. }| Card { class, units })
}

/// Reads the content of a machine; `kind` is INSTANCE or V-PROGRAM.
pub(super) fn machine(kind: MessageType, value: &Value) -> Result<Machine, Rejection> {
    let refuse = |error: serde_json::Error| Rejection::format(format!("the {kind} is malformed: {error}"));
    let machine = match kind {
        MessageType::VProgram => v_program(&serde_json::from_value(value.clone()).map_err(refuse)?),
        _ => instance(serde_json::from_value(value.clone()).map_err(refuse)?)?,
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

fn instance(content: InstanceContent) -> Result<Machine, Rejection> {
    let needed = content.base.requirements.as_ref();
    let gpus = needed
        .and_then(|needed| needed.gpu.as_deref())
        .unwrap_or_default();
    let mut class = match content.environment.trusted_execution {
        Some(_) => Class::Confidential,
        None => Class::Instance,
    };
    let mut gpu_units: u32 = 0;
    for gpu in gpus {
        let Some(card) = card(&gpu.device_id) else {
            let text = format!("the network has no card with the id {}", gpu.device_id);
            return Err(Rejection::format(text));
        };
        gpu_units = gpu_units.saturating_add(card.units);
        if class != Class::GpuPremium {
            class = card.class;
        }
    }
    let rootfs_mib = u64::from(content.rootfs.size_mib);
    let mut stores = vec![Used {
        hash: content.rootfs.parent.reference.to_string(),
        copied_to_mib: Some(rootfs_mib),
    }];
    let mut disk_mib = rootfs_mib;
    for volume in &content.base.volumes {
        match volume {
            MachineVolume::Immutable(volume) => stores.push(Used {
                hash: volume.reference.to_string(),
                copied_to_mib: None,
            }),
            MachineVolume::Ephemeral(volume) => disk_mib += u64::from(volume.size_mib),
            MachineVolume::Persistent(volume) => {
                let size = u64::from(volume.size_mib);
                disk_mib += size;
                stores.extend(volume.parent.as_ref().map(|parent| Used {
                    hash: parent.reference.to_string(),
                    copied_to_mib: Some(size),
                }));
            }
        }
    }
    Ok(Machine {
        vcpus: content.base.resources.vcpus,
        memory_mib: u64::from(content.base.resources.memory),
        disk_mib,
        class,
        gpu_units,
        payment: payment(content.base.payment.as_ref().map(|payment| &payment.payment_type)),
        stores,
        replaces: content.base.replaces.map(|hash| hash.to_string()),
        allow_amend: content.base.allow_amend,
    })
}

/// What it boots from and mounts is looked for by its host, not by the node.
fn v_program(content: &VerifiableProgramContent) -> Machine {
    Machine {
        vcpus: content.base.resources.vcpus,
        memory_mib: u64::from(content.base.resources.memory),
        // Everything it mounts is read-only and stored already.
        disk_mib: 0,
        class: Class::Confidential,
        gpu_units: 0,
        payment: payment(content.base.payment.as_ref().map(|payment| &payment.payment_type)),
        stores: Vec::new(),
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
