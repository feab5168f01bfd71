//! What the gateway and an agent say to each other over the agent's WebSocket.
//!
//! One binary WebSocket message is one frame of this protocol: its number as `u64`, the length of the JSON header as
//! `u32`, the header, then raw parts, each after its length as `u32`; all big-endian. Parts are on `Message`: header,
//! parent header, metadata and content of the Jupyter message, then its buffers; and on input and output of terminals. [`encode`], [`number`] and [`decode`] are
//! the only code that knows this (`frames.rs`).
//!
//! **Numbers.** What is said of a kernel, [`FromAgent::State`] and [`FromAgent::Message`], is numbered from 1 for each kernel
//! and kept by the agent until the gateway says that nobody needs it any more ([`ToAgent::Note`]). Orders are numbered from 1
//! for each run of the gateway and kept by the gateway until the agent has them ([`FromAgent::Received`]). So either side
//! can go on after a lost connection, and a gateway that was killed finds kernels, output and who had heard what with the
//! agent. Everything else has the number 0 and concerns one connection only.
//!
//! **Terminals.** Orders to them are numbered like all orders. Their output is counted in bytes instead: a frame says how many
//! came before it, so what comes twice is seen, and it is not sent faster than it is read ([`ToAgent::TerminalTaken`]).
//!
//! **A connection.** Challenge, Hello, Welcome, Holds, Resume; then both sides send what the other does not have. Until the
//! Welcome the agent is anybody, so little of it is read.

mod ready;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::isolation::{Confinement, Walls};
use crate::jupyter::Channel;
use crate::kernel::KernelState;
use crate::load::{HostLoad, KernelLoad};
use crate::secret::Secret;

pub use ready::{BrokerReady, HubAddress};

pub use crate::frames::{Decoded, MAX_FRAME, decode, encode, number};

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
    /// Proves the lease until the gateway knows the agent's key.
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
    /// Locked while the agent runs, with its process id in it; none locks nothing.
    #[serde(default)]
    pub lock: Option<PathBuf>,
    /// The gateway's certificate (PEM), the only one that is taken; none takes what the system trusts.
    #[serde(default)]
    pub certificate: Option<String>,
    /// How kernels are kept apart.
    #[serde(default)]
    pub confinement: Confinement,
}

/// Names this machine and its present run (`random(4)`): a process id means something there only.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where a host's image keeps what the agent needs.
pub const HOST_FILE: &str = "/etc/alephlab/host.json";

/// What a host's image says of itself, in [`HOST_FILE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostFile {
    /// The kernel's program.
    pub kernel_program: PathBuf,
    /// The broker's program; none starts kernels without one.
    #[serde(default)]
    pub broker_program: Option<PathBuf>,
    /// The prebuilt runtime.
    pub runtime_dir: PathBuf,
    /// What compiles cells where the kernelspec leaves it open.
    #[serde(default)]
    pub engine: Engine,
    /// Where kernels work.
    pub work_dir: PathBuf,
    /// Where the agent keeps its lock and its log.
    #[serde(default = "run_dir")]
    pub run_dir: PathBuf,
    /// Another kernel's command instead, `{connection_file}` replaced; for tests.
    #[serde(default)]
    pub kernel_argv: Option<Vec<String>>,
    /// How kernels are kept apart.
    #[serde(default)]
    pub confinement: Confinement,
}

fn run_dir() -> PathBuf {
    PathBuf::from("/run/alephlab")
}

/// What a gateway hands to a rented host, over the way that only the two can use: read by `alephlab-agent join` from its
/// standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Join {
    /// The lease that the host was rented for.
    pub lease: Uuid,
    /// Proves it until the gateway knows the agent's key.
    pub token: Secret,
    /// Where the agent dials.
    pub gateway: String,
    /// The gateway's certificate (PEM), the only one that is taken.
    pub certificate: Option<String>,
    /// How long kernels go on without the gateway, seconds.
    pub patience: u64,
}

/// What `alephlab-agent join` answers on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// An agent of this lease was there already.
    pub already: bool,
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
    /// The gateway's certificate (PEM), the only one that is taken; none takes what the system trusts.
    #[serde(default)]
    pub certificate: Option<String>,
    /// All that cells see of the work folder; none where cells see what the broker sees.
    #[serde(default)]
    pub confined: Option<PathBuf>,
    /// What confined cells do not see, in whatever folder it lies, but for what is shown of it.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
    /// Where Hub clients in cells may keep their copies: made by the broker, and erased by it at its end.
    #[serde(default)]
    pub hub_home: Option<PathBuf>,
}

/// Gateway to agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// First frame of each connection: what the agent signs to prove itself.
    Challenge {
        /// 32 random bytes in hex.
        nonce: String,
    },
    /// The agent is accepted.
    Welcome {
        /// This run of the gateway; its orders are numbered from 1.
        run: Uuid,
    },
    /// What the agent need not send.
    Resume {
        /// Kernels that the gateway knows, with the newest number that it has of each. All others are to be stopped.
        kernels: BTreeMap<Uuid, u64>,
        /// Terminals that the gateway knows, with how many bytes of output it has of each. All others are to be closed.
        #[serde(default)]
        terminals: BTreeMap<Uuid, u64>,
    },
    /// What the agent keeps for the gateway, beside what it may forget.
    Note {
        /// The kernel.
        kernel_id: Uuid,
        /// Newest number that the gateway has and has room after.
        taken: u64,
        /// Nobody needs what comes before this number.
        keep: u64,
        /// The gateway's own, given back in [`Held`].
        note: serde_json::Value,
    },
    /// A cell that the gateway follows for its notebook, for the agent to keep until it is told none. It comes before the
    /// request that runs the cell.
    Follow {
        /// The kernel.
        kernel_id: Uuid,
        /// The gateway's number of the cell.
        cell: u64,
        /// The gateway's own, given back in [`Held`]; none when the cell is not followed any longer.
        note: Option<serde_json::Value>,
    },
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
        /// Folder of its account in the work folder: all that its cells see of that. None for a host of one account.
        #[serde(default)]
        home: Option<String>,
        /// It may work in other folders of the host, too: its account is that of the host's own user.
        #[serde(default)]
        anywhere: bool,
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
    /// Start a shell in a terminal. Repeating it for one that is open changes nothing.
    OpenTerminal {
        /// Its id.
        terminal_id: Uuid,
        /// Working folder relative to the work folder.
        cwd: Option<String>,
        /// As of a kernel.
        #[serde(default)]
        home: Option<String>,
        /// Variables for its shell, beside the few of the agent's own that it gets.
        env: BTreeMap<String, String>,
        /// Of its window.
        size: WindowSize,
    },
    /// What was typed; the bytes follow as one part.
    TerminalInput {
        /// The terminal.
        terminal_id: Uuid,
    },
    /// Its window has another size.
    TerminalSize {
        /// The terminal.
        terminal_id: Uuid,
        /// Of its window.
        size: WindowSize,
    },
    /// End a terminal with all that runs in it, or forget one that has ended.
    CloseTerminal {
        /// The terminal.
        terminal_id: Uuid,
    },
    /// How far a terminal's output was read; it may be [`TERMINAL_WINDOW`] ahead of that.
    TerminalTaken {
        /// The terminal.
        terminal_id: Uuid,
        /// Bytes since it was opened.
        taken: u64,
    },
}

/// Bytes of a terminal's output that may be on the way to whoever reads it; beyond it, what writes in the terminal waits.
pub const TERMINAL_WINDOW: u64 = 128 << 10;
/// Bytes of a terminal's newest output that are kept for a page that comes later.
pub const TERMINAL_KEPT: usize = 256 << 10;

/// Size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub cols: u16,
}

/// A terminal that an agent has.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HeldTerminal {
    /// The terminal.
    pub terminal_id: Uuid,
    /// Bytes of input that came since it was opened.
    pub input: u64,
}

/// That an agent is the one that a host was rented for. The token is good once: with the first key that comes with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proof {
    /// The lease's token; none once the gateway has welcomed this key.
    pub token: Option<Secret>,
    /// Ed25519 (RFC 8032) public key that was made on the host, 32 bytes in hex.
    pub key: String,
    /// Signature over [`Proof::text`], 64 bytes in hex.
    pub signature: String,
}

impl Proof {
    /// What is signed.
    pub fn text(lease: Uuid, nonce: &str) -> Vec<u8> {
        [
            b"alephlab/agent/v1\0".as_slice(),
            lease.as_bytes(),
            nonce.as_bytes(),
        ]
        .concat()
    }
}

/// A kernel that an agent has something of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// The kernel.
    pub kernel_id: Uuid,
    /// Oldest number that it still has, or the next one if it has none.
    pub oldest: u64,
    /// Newest number.
    #[serde(default)]
    pub newest: u64,
    /// What the gateway had it keep last.
    pub note: serde_json::Value,
    /// Cells that the gateway follows.
    #[serde(default)]
    pub cells: Vec<HeldCell>,
}

/// A cell that the gateway follows. (A map by number does not come through JSON inside of [`FromAgent`].)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCell {
    /// The gateway's number of the cell.
    pub cell: u64,
    /// What the gateway wrote of it.
    pub note: serde_json::Value,
}

/// How far orders came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The run of the gateway that they came from.
    pub run: Uuid,
    /// The newest that was obeyed.
    pub number: u64,
}

/// Agent to gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// Answer to the challenge.
    Hello {
        /// The lease it serves.
        lease: Uuid,
        /// Proof that it is that agent.
        proof: Proof,
        /// Name of the machine.
        host: String,
        /// What is between its kernels and the rest of the host; older agents say nothing.
        #[serde(default)]
        walls: Option<Walls>,
    },
    /// Answer to the welcome.
    Holds {
        /// Kernels that it has something of.
        kernels: Vec<Held>,
        /// Newest order that it has obeyed.
        received: Option<Received>,
        /// Terminals that it has.
        #[serde(default)]
        terminals: Vec<HeldTerminal>,
    },
    /// Orders up to this one were obeyed.
    Received {
        /// Number of the order.
        number: u64,
    },
    /// A kernel changed.
    State {
        /// The kernel.
        kernel_id: Uuid,
        /// Its state now.
        state: KernelState,
        /// Why, when that needs saying.
        detail: Option<String>,
        /// When, unix seconds.
        #[serde(default)]
        at: u64,
    },
    /// What a numbered frame says of the kernel's state that waits behind output for which the gateway has no room.
    Ahead {
        /// The kernel.
        kernel_id: Uuid,
        /// Number of that frame.
        number: u64,
        /// The state: of a [`FromAgent::State`], or busy or idle as a message says.
        state: KernelState,
        /// Why, when that needs saying.
        detail: Option<String>,
        /// When, unix seconds; 0 for what a message says.
        at: u64,
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
    /// What was measured; not numbered, and the newest is all that counts.
    Load {
        /// The host.
        host: HostLoad,
        /// Kernels that run.
        kernels: BTreeMap<Uuid, KernelLoad>,
    },
    /// What a terminal put out; the bytes follow as one part.
    TerminalOutput {
        /// The terminal.
        terminal_id: Uuid,
        /// Bytes that came before these since it was opened.
        offset: u64,
    },
    /// How much input a terminal has read.
    TerminalTook {
        /// The terminal.
        terminal_id: Uuid,
        /// Bytes since it was opened.
        input: u64,
    },
    /// A terminal is over, after all its output. Said on each connection until it is closed.
    TerminalEnded {
        /// The terminal.
        terminal_id: Uuid,
        /// Why, when its shell did not end by itself.
        reason: Option<String>,
    },
}
