//! Meters of the page of kernels: how much of a host a kernel takes, and how busy the host is.

use alephlab_api::load::{GpuLoad, HostLoad, HostReading, KernelLoad, Loads};
use uuid::Uuid;

/// From here on a meter warns.
const NEAR: u64 = 90;

/// A bar with what it stands for.
pub(super) struct Meter {
    pub(super) label: String,
    pub(super) said: String,
    pub(super) percent: u64,
    pub(super) near: bool,
}

/// A host, with its own meters.
pub(super) struct HostRow {
    pub(super) name: String,
    pub(super) meters: Vec<Meter>,
}

/// What the kernel takes of its host; nothing while its host is away or has not measured it yet.
pub(super) fn of_kernel(loads: &Loads, kernel: Uuid) -> Vec<Meter> {
    let found = loads
        .hosts
        .iter()
        .find_map(|host| Some((host, host.kernels.get(&kernel)?)));
    let Some((HostReading { load: host, .. }, load)) = found else {
        return Vec::new();
    };
    let mut meters = vec![
        processors(load.cores_busy, host.cores),
        memory("Memory", load.memory, host.memory),
    ];
    meters.extend(gpu_of_kernel(host, load));
    meters
}

/// How busy each host is.
pub(super) fn of_hosts(loads: &Loads) -> Vec<HostRow> {
    let rows = loads.hosts.iter().map(|HostReading { name, load, .. }| {
        let mut meters = vec![
            processors(load.cores_busy, load.cores),
            memory("Memory", load.memory_used, load.memory),
            disk(load.disk_free, load.disk),
        ];
        for gpu in &load.gpus {
            meters.push(busy(gpu));
            meters.push(memory(
                &format!("Memory of {}", gpu.name),
                gpu.memory_used,
                gpu.memory,
            ));
        }
        HostRow {
            name: name.clone(),
            meters,
        }
    });
    rows.collect()
}

/// Bytes on the GPU where the driver knows whose they are; inside containers it often does not, and then the GPU's own are
/// said where it is the only one.
fn gpu_of_kernel(host: &HostLoad, load: &KernelLoad) -> Option<Meter> {
    let all: u64 = host.gpus.iter().map(|gpu| gpu.memory).sum();
    if let Some(bytes) = load.gpu_memory {
        return Some(memory("GPU memory", bytes, all));
    }
    match &host.gpus[..] {
        [gpu] => Some(busy(gpu)),
        _ => None,
    }
}

fn busy(gpu: &GpuLoad) -> Meter {
    let percent = u64::from(gpu.busy.min(100));
    let heat = gpu
        .celsius
        .map_or_else(String::new, |degrees| format!(", {degrees} °C"));
    Meter {
        label: gpu.name.clone(),
        said: format!("{percent} %{heat}"),
        percent,
        // A GPU that works is what one pays for.
        near: false,
    }
}

fn processors(busy: f32, cores: u32) -> Meter {
    // Between two measurements the clocks of the system disagree a little.
    let busy = f64::from(busy).clamp(0.0, f64::from(cores));
    Meter {
        label: "CPU".to_owned(),
        said: format!("{busy:.1} of {cores}"),
        percent: percent(busy, f64::from(cores)),
        near: false,
    }
}

fn memory(label: &str, used: u64, all: u64) -> Meter {
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let percent = percent(used as f64, all as f64);
    Meter {
        label: label.to_owned(),
        said: format!("{} of {}", size(used), size(all)),
        percent,
        near: percent >= NEAR,
    }
}

/// What is free is said, because some of the rest may be nobody's to use.
fn disk(free: u64, all: u64) -> Meter {
    Meter {
        said: format!("{} free", size(free)),
        ..memory("Disk", all.saturating_sub(free), all)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
fn percent(part: f64, all: f64) -> u64 {
    match all > 0.0 {
        true => (part / all * 100.0).clamp(0.0, 100.0).round() as u64,
        false => 0,
    }
}

/// `1.2 GiB`, `640 MiB`.
fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    match bytes {
        0..MIB => format!("{} KiB", bytes >> 10),
        MIB..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn loads(gpus: Vec<GpuLoad>, gpu_memory: Option<u64>) -> (Loads, Uuid) {
        let kernel = Uuid::new_v4();
        let load = HostLoad {
            cores: 16,
            cores_busy: 20.0,
            memory_used: 23 << 30,
            memory: 24 << 30,
            disk_free: 3 << 30,
            disk: 4 << 30,
            gpus,
        };
        let one = KernelLoad {
            cores_busy: 1.44,
            memory: 640 << 20,
            gpu_memory,
        };
        let host = HostReading {
            name: "lab".to_owned(),
            at: 0,
            load,
            kernels: BTreeMap::from([(kernel, one)]),
        };
        (Loads { hosts: vec![host] }, kernel)
    }

    fn said(meters: &[Meter]) -> Vec<(&str, &str, u64)> {
        meters
            .iter()
            .map(|meter| (&*meter.label, &*meter.said, meter.percent))
            .collect()
    }

    #[test]
    fn meters_say_what_is_taken_and_of_how_much() {
        let (loads, kernel) = loads(Vec::new(), None);
        let cpu = ("CPU", "1.4 of 16", 9);
        assert_eq!(
            said(&of_kernel(&loads, kernel)),
            [cpu, ("Memory", "640 MiB of 24.0 GiB", 3)]
        );
        assert!(of_kernel(&loads, Uuid::new_v4()).is_empty());
        let rows = of_hosts(&loads);
        assert_eq!(
            said(&rows[0].meters),
            [
                ("CPU", "16.0 of 16", 100),
                ("Memory", "23.0 GiB of 24.0 GiB", 96),
                ("Disk", "3.0 GiB free", 25)
            ]
        );
        let near: Vec<_> = rows[0].meters.iter().map(|meter| meter.near).collect();
        assert_eq!(near, [false, true, false]);
    }

    #[test]
    fn a_gpu_shows_its_work_and_whose_memory_it_is_where_that_is_known() {
        let gpu = GpuLoad {
            name: "RTX 4090".to_owned(),
            busy: 87,
            memory_used: 11 << 30,
            memory: 24 << 30,
            celsius: Some(64),
        };
        let (with, kernel) = loads(vec![gpu.clone()], None);
        let meters = of_kernel(&with, kernel);
        assert_eq!(said(&meters)[2], ("RTX 4090", "87 %, 64 °C", 87));
        let (with, kernel) = loads(vec![gpu], Some(6 << 30));
        let meters = of_kernel(&with, kernel);
        assert_eq!(said(&meters)[2], ("GPU memory", "6.0 GiB of 24.0 GiB", 25));
        assert_eq!(
            said(&of_hosts(&with)[0].meters)[4],
            ("Memory of RTX 4090", "11.0 GiB of 24.0 GiB", 46)
        );
    }
}
