//! How busy a host is, and what each kernel takes of it, as its agent measures it every few seconds. For people to look at;
//! nothing is billed by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A whole host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostLoad {
    /// Logical processors.
    pub cores: u32,
    /// How many of them were busy since the measurement before.
    pub cores_busy: f32,
    /// Bytes of memory that no program can have without swapping.
    pub memory_used: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Free bytes on the disk where kernels work.
    pub disk_free: u64,
    /// Bytes of that disk.
    pub disk: u64,
    /// Its GPUs, in NVML's order; empty where there is no driver with its `nvidia-smi`.
    #[serde(default)]
    pub gpus: Vec<GpuLoad>,
}

/// A GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuLoad {
    /// Its product name.
    pub name: String,
    /// Percent of the time in which a kernel of its own ran on it, in NVML's last period (up to a second).
    pub busy: u32,
    /// Bytes of its memory that are used.
    pub memory_used: u64,
    /// Bytes of its memory.
    pub memory: u64,
    /// Degrees Celsius, where it says so.
    pub celsius: Option<u32>,
}

/// What the processes of one kernel take: its own, the child that runs cells, compile servers, and what cells started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelLoad {
    /// How many processors they kept busy since the measurement before.
    pub cores_busy: f32,
    /// Bytes of memory: of pages that several processes have, each its share (PSS, `proc(5)`).
    pub memory: u64,
    /// Bytes of GPU memory, where the driver knows whose they are.
    #[serde(default)]
    pub gpu_memory: Option<u64>,
}

/// A host with the asking account's kernels on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostReading {
    /// Name of the machine.
    pub name: String,
    /// When it was measured, unix seconds.
    pub at: u64,
    /// The host.
    pub load: HostLoad,
    /// The account's kernels there.
    pub kernels: BTreeMap<Uuid, KernelLoad>,
}

/// `GET /v1/load`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Loads {
    /// Hosts whose agents are connected.
    pub hosts: Vec<HostReading>,
}
