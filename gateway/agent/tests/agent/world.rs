//! An agent, the gateway that the test plays, and what both say.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{
    AgentBootstrap, FromAgent, Held, HeldTerminal, Proof, Received, ToAgent, decode, encode, number,
};
use alephlab_api::isolation::{Confinement, Isolation, Walls};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};
use uuid::Uuid;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_alephlab-agent");
/// Keeps what it was given where the test can see it, and ends with its input.
const BROKER: &str = r#"#!/bin/sh
cp -p "$2" ../seen.json; rm "$2"; echo 'ready {"hub":{"url":"http://127.0.0.1:9","token":"hf_of-this-kernel"}}'; cat >/dev/null
"#;

pub(crate) struct World {
    pub(crate) agent: Child,
    pub(crate) listener: TcpListener,
    pub(crate) folder: tempfile::TempDir,
    lease: Uuid,
    pub(crate) run: Uuid,
}

/// A connection, as a gateway has it.
pub(crate) struct Gateway {
    pub(crate) socket: WebSocketStream<TcpStream>,
    /// Number of the last order.
    pub(crate) ordered: u64,
    /// What the agent said of itself.
    pub(crate) kernels: Vec<Held>,
    pub(crate) received: Option<Received>,
    pub(crate) terminals: Vec<HeldTerminal>,
    pub(crate) proof: Proof,
    pub(crate) walls: Option<Walls>,
}

pub(crate) fn echo_kernel() -> PathBuf {
    let folder = Path::new(AGENT).parent().unwrap();
    folder.join("examples/echo_kernel")
}

impl World {
    pub(crate) async fn start(kernel: Vec<String>) -> Self {
        Self::start_with(kernel, &[]).await
    }

    /// Without sandboxes: what is tested is the agent itself, and processes are looked at by their numbers.
    pub(crate) async fn start_with(kernel: Vec<String>, flags: &[&str]) -> Self {
        let confinement = Confinement {
            isolation: Isolation::None,
            ..Confinement::default()
        };
        Self::start_confined(kernel, flags, confinement, |_| {}).await
    }

    /// With walls, and with what `change` does to the agent's command.
    pub(crate) async fn start_confined(
        kernel: Vec<String>,
        flags: &[&str],
        confinement: Confinement,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path().join("work");
        std::fs::create_dir(&work_dir).unwrap();
        let runtime_dir = folder.path().join("runtime");
        std::fs::create_dir(&runtime_dir).unwrap();
        let broker = folder.path().join("broker");
        std::fs::write(
            &broker,
            BROKER.replace("../", &format!("{}/", folder.path().display())),
        )
        .unwrap();
        std::fs::set_permissions(&broker, std::fs::Permissions::from_mode(0o700)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lease = Uuid::new_v4();
        let bootstrap = AgentBootstrap {
            lease,
            token: Secret::new("lease-token"),
            kernel_program: "/nonexistent/alephlab-kernel".into(),
            broker_program: Some(broker),
            runtime_dir,
            engine: alephlab_api::agent::Engine::default(),
            work_dir,
            cache: None,
            kernel_argv: Some(kernel),
            lock: Some(folder.path().join("agent.lock")),
            certificate: None,
            confinement,
        };
        let file = folder.path().join("bootstrap.json");
        std::fs::write(&file, serde_json::to_vec(&bootstrap).unwrap()).unwrap();
        let mut agent = Command::new(AGENT);
        agent
            .args([
                "--gateway",
                &format!("http://{}", listener.local_addr().unwrap()),
                "--bootstrap",
            ])
            .arg(&file)
            .args(flags)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        change(&mut agent);
        let agent = agent.spawn().unwrap();
        Self {
            agent,
            listener,
            folder,
            lease,
            run: Uuid::new_v4(),
        }
    }

    /// Welcomes the agent to a gateway that has nothing yet.
    pub(crate) async fn accept(&self) -> Gateway {
        let mut gateway = self.hello(self.run).await;
        let kernels = gateway
            .kernels
            .iter()
            .map(|held| (held.kernel_id, held.oldest - 1));
        let kernels = kernels.collect();
        gateway
            .tell(&ToAgent::Resume {
                kernels,
                terminals: Default::default(),
            })
            .await;
        gateway
    }

    /// Waits for the agent's dial and its hello, and checks what it proves.
    pub(crate) async fn hello(&self, run: Uuid) -> Gateway {
        let (stream, _) = tokio::time::timeout(DEADLINE, self.listener.accept())
            .await
            .expect("a dial")
            .unwrap();
        let mut gateway = Gateway {
            socket: accept_async(stream).await.unwrap(),
            ordered: 0,
            kernels: Vec::new(),
            received: None,
            terminals: Vec::new(),
            proof: Proof {
                token: None,
                key: String::new(),
                signature: String::new(),
            },
            walls: None,
        };
        let nonce = Uuid::new_v4().to_string();
        gateway.tell(&ToAgent::Challenge { nonce: nonce.clone() }).await;
        let FromAgent::Hello {
            lease, proof, walls, ..
        } = next(&mut gateway).await.1
        else {
            panic!("hello comes first")
        };
        assert_eq!(lease, self.lease);
        let key = VerifyingKey::from_bytes(&hex::decode(&proof.key).unwrap().try_into().unwrap()).unwrap();
        let signature = Signature::from_slice(&hex::decode(&proof.signature).unwrap()).unwrap();
        key.verify(&Proof::text(lease, &nonce), &signature).unwrap();
        assert!(
            !self.folder.path().join("bootstrap.json").exists(),
            "the bootstrap file is deleted after reading"
        );
        gateway.tell(&ToAgent::Welcome { run }).await;
        let FromAgent::Holds {
            kernels,
            received,
            terminals,
        } = next(&mut gateway).await.1
        else {
            panic!("then what it has")
        };
        Gateway {
            kernels,
            received,
            terminals,
            proof,
            walls,
            ..gateway
        }
    }

    /// Starts a kernel and waits until it is idle.
    pub(crate) async fn kernel(&self, gateway: &mut Gateway) -> Uuid {
        let kernel_id = Uuid::new_v4();
        start(gateway, kernel_id).await;
        until(gateway, KernelState::Idle).await;
        kernel_id
    }

    pub(crate) fn kernel_pid(&self) -> u32 {
        std::fs::read_to_string(self.folder.path().join("work/pid"))
            .unwrap()
            .parse()
            .unwrap()
    }
}

pub(crate) async fn start(gateway: &mut Gateway, kernel_id: Uuid) {
    let order = ToAgent::StartKernel {
        kernel_id,
        name: "alephlab".into(),
        env: Default::default(),
        cwd: None,
        home: None,
        anywhere: false,
        kernel_token: Secret::new("kernel-token"),
        account: "0xAb".into(),
        aleph_url: "http://127.0.0.1:9".into(),
    };
    send(gateway, &order, &[]).await;
}

impl Gateway {
    /// A frame without a number.
    pub(crate) async fn tell(&mut self, order: &ToAgent) {
        let frame = encode::<_, &[u8]>(order, &[]).unwrap();
        self.socket.send(Message::binary(frame)).await.unwrap();
    }

    /// An order that was sent before, or one out of turn.
    pub(crate) async fn send_numbered(&mut self, count: u64, order: &ToAgent, parts: &[String]) {
        let mut frame = encode(order, parts).unwrap();
        number(&mut frame, count);
        self.socket.send(Message::binary(frame)).await.unwrap();
    }

    pub(crate) async fn note(&mut self, kernel_id: Uuid, (taken, keep): (u64, u64), note: Value) {
        self.tell(&ToAgent::Note {
            kernel_id,
            taken,
            keep,
            note,
        })
        .await;
    }
}

pub(crate) async fn send(gateway: &mut Gateway, order: &ToAgent, parts: &[String]) {
    gateway.ordered += 1;
    gateway.send_numbered(gateway.ordered, order, parts).await;
}

/// The next frame, acknowledgements and hints aside, with its number.
pub(crate) async fn next(gateway: &mut Gateway) -> (u64, FromAgent, Vec<Value>) {
    loop {
        let message = tokio::time::timeout(DEADLINE, gateway.socket.next())
            .await
            .expect("a frame in time");
        if let Message::Binary(frame) = message.expect("an open socket").unwrap() {
            let (number, header, parts) = decode(&frame).unwrap();
            if matches!(header, FromAgent::Received { .. } | FromAgent::Ahead { .. }) {
                continue;
            }
            return (
                number,
                header,
                parts
                    .into_iter()
                    .map(|part| serde_json::from_slice(&frame[part]).unwrap())
                    .collect(),
            );
        }
    }
}

/// Waits for a state; returns the details of the states on the way.
pub(crate) async fn until(gateway: &mut Gateway, wanted: KernelState) -> Vec<String> {
    let mut details = Vec::new();
    loop {
        if let (_, FromAgent::State { state, detail, .. }, _) = next(gateway).await {
            details.extend(detail);
            if state == wanted {
                return details;
            }
        }
    }
}

pub(crate) async fn say(
    gateway: &mut Gateway,
    kernel_id: Uuid,
    client: Uuid,
    channel: Channel,
    kind: &str,
    content: Value,
) {
    let header =
        json!({ "msg_id": "m", "msg_type": kind, "session": "s", "username": "u", "version": "5.3" });
    let parts = [header.to_string(), "{}".into(), "{}".into(), content.to_string()];
    send(
        gateway,
        &ToAgent::Message {
            kernel_id,
            client,
            channel,
        },
        &parts,
    )
    .await;
}

/// The next message of a type: for whom, from where, content.
pub(crate) async fn heard(gateway: &mut Gateway, kind: &str) -> (Option<Uuid>, Channel, Value) {
    loop {
        if let (_, FromAgent::Message { client, channel, .. }, mut parts) = next(gateway).await
            && parts[0]["msg_type"] == kind
        {
            return (client, channel, parts[3].take());
        }
    }
}

pub(crate) async fn gone(pid: u32) {
    let process = format!("/proc/{pid}/stat");
    let dead = async {
        // A zombie of a killed agent waits for init; it runs no more. Nobody is told of the end of a process that is
        // not its child, so it is looked at again.
        while std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, dead)
        .await
        .expect("the process ends");
}

pub(crate) fn echo() -> Vec<String> {
    vec![
        echo_kernel().to_string_lossy().into_owned(),
        "{connection_file}".into(),
    ]
}
