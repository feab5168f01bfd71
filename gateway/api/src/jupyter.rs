//! Bodies of the Jupyter Server API that the gateway answers with and our clients send.
//!
//! Field sets follow what JupyterLab, `jupyter_server`'s gateway client and the other recorded clients need
//! (`reference/jupyter-server.md` section 1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The channels of a kernel that a client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Requests that run in order.
    Shell,
    /// Interrupt and shutdown.
    Control,
    /// Questions of a cell to its user.
    Stdin,
    /// Output, to all.
    Iopub,
}

impl Channel {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Control => "control",
            Self::Stdin => "stdin",
            Self::Iopub => "iopub",
        }
    }

    /// The channel of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Shell, Self::Control, Self::Stdin, Self::Iopub]
            .into_iter()
            .find(|channel| channel.name() == name)
    }
}

/// `POST /api/kernels`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NewKernel {
    /// Kernelspec; the default one when missing.
    #[serde(default)]
    pub name: Option<String>,
    /// Environment for the kernel; only `KERNEL_*` names are passed on.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working folder, relative to the host's work folder.
    #[serde(default)]
    pub path: Option<String>,
    /// Makes the start idempotent: a second call with the same id answers with the first's kernel.
    #[serde(default, alias = "id")]
    pub kernel_id: Option<Uuid>,
}

/// A kernel, as `/api/kernels` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelModel {
    /// Its id.
    pub id: Uuid,
    /// Its kernelspec.
    pub name: String,
    /// Six digits of fraction and `Z`, see [`crate::time`].
    pub last_activity: String,
    /// `starting`, `idle`, `busy`, `restarting`, `terminating` or `dead`.
    pub execution_state: String,
    /// Clients connected now.
    pub connections: u64,
    /// Why it is in this state, when that needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Trust line of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
}

/// A session: a document and the kernel that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionModel {
    /// Its id.
    pub id: Uuid,
    /// Path of the document.
    pub path: String,
    /// Name for people.
    pub name: String,
    /// `notebook`, `console` or `file`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its kernel.
    pub kernel: Option<KernelModel>,
    /// Only for notebooks: older clients read the path here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notebook: Option<NotebookRef>,
}

/// The older form of a session's document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotebookRef {
    /// Path of the document.
    pub path: String,
    /// Name for people.
    pub name: String,
}

/// `POST` and `PATCH /api/sessions`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionChange {
    /// Path of the document.
    #[serde(default)]
    pub path: Option<String>,
    /// Name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// `notebook`, `console` or `file`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// The kernel wanted.
    #[serde(default)]
    pub kernel: Option<SessionKernel>,
    /// The older form of `path`.
    #[serde(default)]
    pub notebook: Option<Value>,
}

/// Which kernel a session wants: one that runs, or a new one of a kernelspec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKernel {
    /// A kernel that runs.
    #[serde(default)]
    pub id: Option<Uuid>,
    /// A kernelspec.
    #[serde(default)]
    pub name: Option<String>,
}

/// `GET /api/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Clients connected now.
    pub connections: u64,
    /// Kernels running now.
    pub kernels: u64,
    /// Last activity of any kernel.
    pub last_activity: String,
    /// Start of the gateway.
    pub started: String,
}
