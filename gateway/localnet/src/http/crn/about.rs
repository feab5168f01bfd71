//! What a CRN says of itself, to everybody.

use axum::{Json, extract::State};
use serde_json::{Map, Value, json};

use super::Shared;
use crate::{
    compute::{Crn, GpuConfig, Seen},
    db,
};

/// Version that a CRN names, with the routes of which it answers.
pub(crate) const VERSION: &str = concat!("alephlab-localnet-", env!("CARGO_PKG_VERSION"));

const KIB_PER_MIB: u64 = 1024;

/// Disk that a CRN lists, in KiB: instances write to this machine's, and nothing is counted.
const DISK_KIB: u64 = 4 * 1024 * 1024 * 1024;

/// `GET /about/usage/system`.
pub(crate) async fn usage_system(State(host): Shared) -> Json<Value> {
    Json(usage(&host.crn))
}

/// What a CRN has and what of it is free.
pub(crate) fn usage(crn: &Crn) -> Value {
    let facts = &crn.facts;
    let free = crn.free_cards();
    let all: Vec<Value> = facts
        .gpus
        .iter()
        .enumerate()
        .map(|(place, gpu)| device(place, gpu))
        .collect();
    let available: Vec<&Value> = free.iter().filter_map(|place| all.get(*place)).collect();
    json!({
        "cpu": {"count": facts.cpus, "load_average": {"load1": 0.0, "load5": 0.0, "load15": 0.0},
                "core_frequencies": {"min": 0.0, "max": 0.0}},
        "mem": {"total_kB": facts.memory_mib * KIB_PER_MIB, "available_kB": crn.free_memory_mib() * KIB_PER_MIB},
        "disk": {"total_kB": DISK_KIB, "available_kB": DISK_KIB},
        "period": {"start_timestamp": db::iso(db::now()), "duration_seconds": 60.0},
        "properties": {"cpu": {"architecture": std::env::consts::ARCH, "vendor": null, "features": []}},
        "gpu": {"devices": all, "available_devices": available},
        "active": true,
    })
}

fn device(place: usize, gpu: &GpuConfig) -> Value {
    // Cards for screens are VGA controllers, those for data centres 3D controllers.
    let class = if gpu.model.contains("RTX") { "0300" } else { "0302" };
    json!({
        "vendor": "NVIDIA", "model": gpu.model, "device_name": gpu.model, "device_class": class,
        "pci_host": format!("{:02x}:00.0", place + 1), "device_id": gpu.device_id, "compatible": true,
    })
}

/// `GET /about/capability`.
pub(crate) async fn capability(State(host): Shared) -> Json<Value> {
    let facts = &host.crn.facts;
    Json(json!({
        "cpu": {"architecture": std::env::consts::ARCH, "vendor": null, "count": facts.cpus, "features": []},
        "memory": {"size": facts.memory_mib * KIB_PER_MIB, "units": "kB"},
    }))
}

/// `GET /status/config`: the public settings.
pub(crate) async fn config(State(host): Shared) -> Json<Value> {
    let facts = &host.crn.facts;
    Json(json!({
        "DOMAIN_NAME": facts.domain(),
        "node_hash": facts.hash,
        "version": VERSION,
        "references": {"API_SERVER": host.compute.crns.first().map(|crn| crn.facts.address())},
        "payment": {"PAYMENT_RECEIVER_ADDRESS": null, "AVAILABLE_PAYMENTS": {}},
        "computing": {"ENABLE_QEMU_SUPPORT": true, "INSTANCE_DEFAULT_HYPERVISOR": "qemu",
                      "ENABLE_CONFIDENTIAL_COMPUTING": false, "ENABLE_GPU_SUPPORT": !facts.gpus.is_empty()},
    }))
}

/// `GET /v2/about/executions/list`.
pub(crate) async fn executions_v2(State(host): Shared) -> Json<Value> {
    list(&host.crn, |seen| {
        let started = seen.times.started.map(db::iso);
        let mut ports = Map::new();
        if let Some(port) = seen.ssh {
            ports.insert("22".into(), json!({"host": port, "tcp": true, "udp": false}));
        }
        json!({
            "networking": {"ipv4_network": null, "host_ipv4": "127.0.0.1", "ipv6_network": null, "ipv6_ip": null,
                           "ipv4_ip": null, "mapped_ports": ports},
            "status": {"defined_at": db::iso(seen.times.defined), "preparing_at": db::iso(seen.times.defined),
                       "prepared_at": started, "starting_at": started, "started_at": started,
                       "stopping_at": null, "stopped_at": null},
            "running": seen.is_running,
            "awaiting_confidential_init": false,
            "vm_type": "instance",
        })
    })
}

/// `GET /about/executions/list`, the old form.
pub(crate) async fn executions_v1(State(host): Shared) -> Json<Value> {
    list(&host.crn, |_| json!({"networking": {"ipv4": null, "ipv6": null}}))
}

fn list(crn: &Crn, show: impl Fn(&Seen) -> Value) -> Json<Value> {
    let all = crn.all();
    let list: Map<String, Value> = all.iter().map(|seen| (seen.hash.clone(), show(seen))).collect();
    Json(Value::Object(list))
}
