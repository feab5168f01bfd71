//! Cards of Aleph's network: the names that people know, and what each needs at least and costs. A default for when the
//! network's own lists (`prices`) cannot be read or lack a card, and the measure of whether they are believed.

use alephlab_api::money::Amount;

/// One kind of card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Model {
    /// As people call it.
    pub(super) name: &'static str,
    /// PCI vendor and device.
    pub(super) ids: &'static [&'static str],
    /// Compute units that the network asks for with it.
    pub(super) units: u32,
    /// Its own memory, GiB.
    pub(super) memory_gib: u32,
    pub(super) class: Class,
}

/// Row of the price table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Standard,
    Premium,
}

/// A compute unit of a GPU instance: one processor, 6 GiB of memory, 60 GiB of disk.
pub(super) const UNIT_MEMORY_GIB: u32 = 6;
/// Its disk, GiB.
pub(super) const UNIT_DISK_GIB: u32 = 60;

impl Class {
    /// Credits for a unit and hour, as of July 2026.
    pub(super) fn unit_price(self) -> Amount {
        Amount::from_whole(match self {
            Self::Standard => 43_125,
            Self::Premium => 86_250,
        })
    }
}

const MODELS: [Model; 10] = [
    Model {
        name: "RTX 4000 ADA",
        ids: &["10de:27b0", "10de:27b2"],
        units: 3,
        memory_gib: 20,
        class: Class::Standard,
    },
    Model {
        name: "RTX 3090",
        ids: &["10de:2204", "10de:2203"],
        units: 4,
        memory_gib: 24,
        class: Class::Standard,
    },
    Model {
        name: "RTX 4090",
        ids: &["10de:2684"],
        units: 6,
        memory_gib: 24,
        class: Class::Standard,
    },
    Model {
        name: "RTX 5090",
        ids: &["10de:2b85"],
        units: 8,
        memory_gib: 32,
        class: Class::Standard,
    },
    Model {
        name: "RTX 6000 ADA",
        ids: &["10de:26b1"],
        units: 11,
        memory_gib: 48,
        class: Class::Standard,
    },
    Model {
        name: "L40S",
        ids: &["10de:26b9"],
        units: 12,
        memory_gib: 48,
        class: Class::Standard,
    },
    Model {
        name: "RTX PRO 6000",
        ids: &["10de:2bb1", "10de:2bb5"],
        units: 14,
        memory_gib: 96,
        class: Class::Premium,
    },
    Model {
        name: "A100",
        ids: &["10de:20b2", "10de:20b5", "10de:20b8", "10de:2080", "10de:2081"],
        units: 16,
        memory_gib: 80,
        class: Class::Premium,
    },
    Model {
        name: "H100",
        ids: &["10de:2330", "10de:2331", "10de:2336", "10de:2313", "10de:22a3"],
        units: 24,
        memory_gib: 80,
        class: Class::Premium,
    },
    Model {
        name: "H200",
        ids: &["10de:2335"],
        units: 32,
        memory_gib: 141,
        class: Class::Premium,
    },
];

/// The model of the card with this PCI id.
pub(super) fn model(device_id: &str) -> Option<&'static Model> {
    let is_it = |id: &&str| id.eq_ignore_ascii_case(device_id);
    MODELS.iter().find(|model| model.ids.iter().any(is_it))
}

/// Name and first PCI id of every model.
pub(super) fn models() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODELS
        .iter()
        .filter_map(|model| Some((model.name, *model.ids.first()?)))
}

impl Model {
    /// Credits an hour.
    pub(super) fn price(&self) -> Amount {
        let unit = self.class.unit_price();
        unit.part(u64::from(self.units), 1).unwrap_or(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_those_of_the_network() {
        let price = |id: &str| model(id).unwrap().price();
        assert_eq!(price("10de:27b0"), Amount::from_whole(129_375));
        assert_eq!(price("10DE:2684"), Amount::from_whole(258_750));
        assert_eq!(price("10de:2330"), Amount::from_whole(2_070_000));
        assert_eq!(price("10de:2335"), Amount::from_whole(2_760_000));
        assert_eq!(model("10de:0000"), None);
    }
}
