//! What the gateway and an agent say to each other over the agent's WebSocket.
//!
//! One binary WebSocket message is one frame of this protocol: `u32` big-endian length of the JSON header, the header,
//! then raw parts, each after its `u32` big-endian length. Parts are only on `Message`: header, parent header, metadata
//! and content of the Jupyter message, then its buffers. [`encode`] and [`decode`] are the only code that knows this.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::jupyter::Channel;
use crate::kernel::KernelState;
use crate::problem::Problem;
use crate::secret::Secret;

/// Largest frame either side takes, bytes.
pub const MAX_FRAME: usize = 64 << 20;

/// What compiles the cells of a kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A compile server: quick.
    #[default]
    Zygote,
    /// The evcxr crate: the reference.
    Evcxr,
}

impl Engine {
    /// As settings and flags write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zygote => "zygote",
            Self::Evcxr => "evcxr",
        }
    }

    /// Of a kernel: one kernelspec asks for evcxr, the other takes what is set.
    pub fn of_kernelspec(name: &str, set: Self) -> Self {
        if name == EVCXR_KERNELSPEC {
            Self::Evcxr
        } else {
            set
        }
    }
}

/// The kernelspec that every gateway of ours has: Rust (Alephlab).
pub const KERNELSPEC: &str = "alephlab";
/// The kernelspec whose cells evcxr compiles.
pub const EVCXR_KERNELSPEC: &str = "alephlab-evcxr";

/// A folder for objects from Aleph nodes as they are stored there: ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCache {
    /// The folder.
    pub folder: PathBuf,
    /// Bytes that it may hold.
    pub bytes_max: u64,
}

/// The 0600 file that the agent reads and deletes at start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentBootstrap {
    /// The lease that this agent serves.
    pub lease: Uuid,
    /// Opens `/v1/agent` once for each connection of this lease.
    pub token: Secret,
    /// The kernel's program.
    pub kernel_program: PathBuf,
    /// The broker's program; none starts kernels without one.
    pub broker_program: Option<PathBuf>,
    /// The prebuilt runtime.
    pub runtime_dir: PathBuf,
    /// What compiles cells where the kernelspec leaves it open.
    #[serde(default)]
    pub engine: Engine,
    /// Where kernels work and where private folders of kernels are made.
    pub work_dir: PathBuf,
    /// Where brokers keep objects; none keeps none.
    #[serde(default)]
    pub cache: Option<ObjectCache>,
    /// Instead of `kernel_program run ..`: another kernel's command, `{connection_file}` replaced.
    #[serde(default)]
    pub kernel_argv: Option<Vec<String>>,
}

/// The 0600 file that the broker reads and deletes at start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BrokerBootstrap {
    /// Where to listen for cells.
    pub socket: PathBuf,
    /// Address of the gateway.
    pub gateway: String,
    /// The kernel beside it.
    pub kernel_id: Uuid,
    /// Opens key requests and shares at the gateway.
    pub kernel_token: Secret,
    /// Address of the Aleph node.
    pub aleph_url: String,
    /// The account whose kernel this is.
    pub account: String,
    /// Where the kernel works.
    pub work_dir: PathBuf,
    /// Where objects are kept; none keeps none.
    #[serde(default)]
    pub cache: Option<ObjectCache>,
}

/// Gateway to agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// Start broker and kernel. Repeating it for a kernel that runs changes nothing.
    StartKernel {
        /// Its id.
        kernel_id: Uuid,
        /// Its kernelspec.
        name: String,
        /// `KERNEL_*` variables for it.
        env: BTreeMap<String, String>,
        /// Working folder relative to the work folder.
        cwd: Option<String>,
        /// For its broker.
        kernel_token: Secret,
        /// The account whose kernel this is.
        account: String,
        /// Address of the Aleph node.
        aleph_url: String,
    },
    /// End broker and kernel.
    StopKernel {
        /// The kernel.
        kernel_id: Uuid,
    },
    /// Ask the kernel to interrupt its cell.
    InterruptKernel {
        /// The kernel.
        kernel_id: Uuid,
    },
    /// Replace the kernel's process; id and connection stay.
    RestartKernel {
        /// The kernel.
        kernel_id: Uuid,
    },
    /// A client came: give it its own identity on shell, control and stdin.
    ClientOpen {
        /// The kernel.
        kernel_id: Uuid,
        /// The client.
        client: Uuid,
    },
    /// A client left for good.
    ClientClose {
        /// The kernel.
        kernel_id: Uuid,
        /// The client.
        client: Uuid,
    },
    /// A client's message; parts follow.
    Message {
        /// The kernel.
        kernel_id: Uuid,
        /// Who sent it.
        client: Uuid,
        /// Shell, control or stdin.
        channel: Channel,
    },
}

/// Agent to gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// First frame of each connection.
    Hello {
        /// The lease it serves.
        lease: Uuid,
        /// Proof that it is that agent.
        token: Secret,
        /// Name of the machine.
        host: String,
        /// Kernels that still run, after a reconnection.
        #[serde(default)]
        kernels: Vec<Uuid>,
    },
    /// A kernel changed.
    State {
        /// The kernel.
        kernel_id: Uuid,
        /// Its state now.
        state: KernelState,
        /// Why, when that needs saying.
        detail: Option<String>,
    },
    /// A kernel's message; parts follow.
    Message {
        /// The kernel.
        kernel_id: Uuid,
        /// For whom; none for output to all.
        client: Option<Uuid>,
        /// Where it came from.
        channel: Channel,
    },
}

/// One frame: header and parts, as bytes of a binary WebSocket message.
///
/// # Errors
/// `frame_size` when it would exceed [`MAX_FRAME`]; `frame_header` when the header is not JSON.
pub fn encode<H: Serialize, P: AsRef<[u8]>>(header: &H, parts: &[P]) -> Result<Vec<u8>, Problem> {
    let json = serde_json::to_vec(header).map_err(|error| {
        Problem::new(
            "frame_header",
            format!("the frame's header cannot be written: {error}"),
        )
    })?;
    let total = parts
        .iter()
        .fold(4 + json.len(), |sum, part| sum + 4 + part.as_ref().len());
    if total > MAX_FRAME {
        let limit = MAX_FRAME >> 20;
        return Err(Problem::new(
            "frame_size",
            format!("a message of {total} bytes is over the limit of {limit} MiB"),
        ));
    }
    let mut bytes = Vec::with_capacity(total);
    for part in std::iter::once(json.as_slice()).chain(parts.iter().map(AsRef::as_ref)) {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

/// The header and the byte ranges of the parts of a frame from outside.
///
/// # Errors
/// `frame_size` when lengths do not add up; `frame_header` when the header is not the expected JSON.
pub fn decode<H: DeserializeOwned>(bytes: &[u8]) -> Result<(H, Vec<std::ops::Range<usize>>), Problem> {
    let bad = || Problem::new("frame_size", "a frame's lengths do not add up to its size");
    if bytes.len() > MAX_FRAME {
        return Err(bad());
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length: [u8; 4] = bytes
            .get(at..at + 4)
            .and_then(|raw| raw.try_into().ok())
            .ok_or_else(bad)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| bad())?;
        let end = (at + 4)
            .checked_add(length)
            .filter(|end| *end <= bytes.len())
            .ok_or_else(bad)?;
        ranges.push(at + 4..end);
        at = end;
    }
    if ranges.is_empty() {
        return Err(bad());
    }
    let header = ranges.remove(0);
    let header = serde_json::from_slice(&bytes[header]).map_err(|error| {
        Problem::new(
            "frame_header",
            format!("a frame's header cannot be read: {error}"),
        )
    })?;
    Ok((header, ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_with_empty_and_binary_parts() {
        let header = ToAgent::Message {
            kernel_id: Uuid::nil(),
            client: Uuid::nil(),
            channel: Channel::Shell,
        };
        let parts: [&[u8]; 4] = [b"{}", b"", &[0xff, 0x00], b"x"];
        let bytes = encode(&header, &parts).unwrap();
        let (back, ranges) = decode::<ToAgent>(&bytes).unwrap();
        assert!(matches!(
            back,
            ToAgent::Message {
                channel: Channel::Shell,
                ..
            }
        ));
        let back: Vec<&[u8]> = ranges.into_iter().map(|range| &bytes[range]).collect();
        assert_eq!(back, parts);
    }

    #[test]
    fn refuses_lengths_that_lie() {
        assert_eq!(decode::<ToAgent>(&[]).unwrap_err().code, "frame_size");
        assert_eq!(
            decode::<ToAgent>(&[0, 0, 0, 9, b'{']).unwrap_err().code,
            "frame_size"
        );
        assert_eq!(decode::<ToAgent>(&[0, 0]).unwrap_err().code, "frame_size");
        assert_eq!(
            decode::<ToAgent>(&[0, 0, 0, 2, b'{', b'}']).unwrap_err().code,
            "frame_header"
        );
    }

    #[test]
    fn refuses_to_write_a_frame_over_the_limit() {
        let part = vec![0_u8; MAX_FRAME];
        assert_eq!(encode(&0, &[part]).unwrap_err().code, "frame_size");
    }
}
