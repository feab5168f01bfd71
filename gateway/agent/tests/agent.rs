//! The agent as a program, with a gateway that the test plays, a small kernel and a broker of four lines of shell.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{AgentBootstrap, FromAgent, ToAgent, decode, encode};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(20);
const AGENT: &str = env!("CARGO_BIN_EXE_alephlab-agent");
/// Keeps what it was given where the test can see it, and ends with its input.
const BROKER: &str = "#!/bin/sh\ncp -p \"$2\" ../seen.json; rm \"$2\"; echo ready; cat >/dev/null\n";

struct World {
    agent: Child,
    listener: TcpListener,
    folder: tempfile::TempDir,
    lease: Uuid,
}

type Gateway = WebSocketStream<TcpStream>;

fn echo_kernel() -> PathBuf {
    let folder = Path::new(AGENT).parent().unwrap();
    folder.join("examples/echo_kernel")
}

impl World {
    async fn start(kernel: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path().join("work");
        std::fs::create_dir(&work_dir).unwrap();
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
            runtime_dir: folder.path().to_owned(),
            work_dir,
            kernel_argv: Some(kernel),
        };
        let file = folder.path().join("bootstrap.json");
        std::fs::write(&file, serde_json::to_vec(&bootstrap).unwrap()).unwrap();
        let agent = Command::new(AGENT)
            .args([
                "--gateway",
                &format!("http://{}", listener.local_addr().unwrap()),
                "--bootstrap",
            ])
            .arg(&file)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            agent,
            listener,
            folder,
            lease,
        }
    }

    /// Waits for the agent's dial and its hello.
    async fn accept(&self) -> (Gateway, Vec<Uuid>) {
        let (stream, _) = tokio::time::timeout(DEADLINE, self.listener.accept())
            .await
            .expect("a dial")
            .unwrap();
        let mut gateway = accept_async(stream).await.unwrap();
        let (frame, _) = next(&mut gateway).await;
        let FromAgent::Hello {
            lease,
            token,
            kernels,
            ..
        } = frame
        else {
            panic!("hello comes first")
        };
        assert_eq!((lease, token.expose()), (self.lease, "lease-token"));
        assert!(
            !self.folder.path().join("bootstrap.json").exists(),
            "the bootstrap file is deleted after reading"
        );
        (gateway, kernels)
    }

    /// Starts a kernel and waits until it is idle.
    async fn kernel(&self, gateway: &mut Gateway) -> Uuid {
        let kernel_id = Uuid::new_v4();
        start(gateway, kernel_id).await;
        until(gateway, KernelState::Idle).await;
        kernel_id
    }

    fn kernel_pid(&self) -> u32 {
        std::fs::read_to_string(self.folder.path().join("work/pid"))
            .unwrap()
            .parse()
            .unwrap()
    }
}

async fn start(gateway: &mut Gateway, kernel_id: Uuid) {
    let order = ToAgent::StartKernel {
        kernel_id,
        name: "alephlab".into(),
        env: Default::default(),
        cwd: None,
        kernel_token: Secret::new("kernel-token"),
        account: "0xAb".into(),
        aleph_url: "http://127.0.0.1:9".into(),
    };
    send(gateway, &order, &[]).await;
}

async fn send(gateway: &mut Gateway, order: &ToAgent, parts: &[String]) {
    gateway
        .send(Message::binary(encode(order, parts).unwrap()))
        .await
        .unwrap();
}

async fn next(gateway: &mut Gateway) -> (FromAgent, Vec<Value>) {
    loop {
        let message = tokio::time::timeout(DEADLINE, gateway.next())
            .await
            .expect("a frame in time");
        if let Message::Binary(frame) = message.expect("an open socket").unwrap() {
            let (header, parts) = decode(&frame).unwrap();
            return (
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
async fn until(gateway: &mut Gateway, wanted: KernelState) -> Vec<String> {
    let mut details = Vec::new();
    loop {
        if let (FromAgent::State { state, detail, .. }, _) = next(gateway).await {
            details.extend(detail);
            if state == wanted {
                return details;
            }
        }
    }
}

async fn say(
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
async fn heard(gateway: &mut Gateway, kind: &str) -> (Option<Uuid>, Channel, Value) {
    loop {
        if let (FromAgent::Message { client, channel, .. }, mut parts) = next(gateway).await
            && parts[0]["msg_type"] == kind
        {
            return (client, channel, parts[3].take());
        }
    }
}

async fn gone(pid: u32) {
    let process = format!("/proc/{pid}/stat");
    let dead = async {
        // A zombie of a killed agent waits for init; it runs no more.
        while std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, dead)
        .await
        .expect("the process ends");
}

fn echo() -> Vec<String> {
    vec![
        echo_kernel().to_string_lossy().into_owned(),
        "{connection_file}".into(),
    ]
}

#[tokio::test]
async fn passes_messages_of_each_client_and_output_to_all() {
    let world = World::start(echo()).await;
    let (mut gateway, _) = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    for client in [Uuid::new_v4(), Uuid::new_v4()] {
        say(
            &mut gateway,
            kernel,
            client,
            Channel::Shell,
            "execute_request",
            json!({ "code": "hi" }),
        )
        .await;
        // Output and reply come by two sockets, in either order.
        let (mut output, mut reply) = (None, None);
        while output.is_none() || reply.is_none() {
            if let (FromAgent::Message { client, channel, .. }, mut parts) = next(&mut gateway).await {
                match parts[0]["msg_type"].as_str().unwrap() {
                    "stream" => output = Some((client, channel, parts[3]["text"].take())),
                    "execute_reply" => reply = Some((client, channel)),
                    _ => {}
                }
            }
        }
        assert_eq!(output, Some((None, Channel::Iopub, "hi".into())));
        assert_eq!(reply, Some((Some(client), Channel::Shell)));
    }
}

#[tokio::test]
async fn a_question_reaches_the_client_that_ran_the_cell() {
    let world = World::start(echo()).await;
    let (mut gateway, _) = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    let (asker, other) = (Uuid::new_v4(), Uuid::new_v4());
    send(
        &mut gateway,
        &ToAgent::ClientOpen {
            kernel_id: kernel,
            client: other,
        },
        &[],
    )
    .await;
    say(
        &mut gateway,
        kernel,
        asker,
        Channel::Shell,
        "execute_request",
        json!({ "code": "ask" }),
    )
    .await;
    let (to, channel, _) = heard(&mut gateway, "input_request").await;
    assert_eq!((to, channel), (Some(asker), Channel::Stdin));
    say(
        &mut gateway,
        kernel,
        asker,
        Channel::Stdin,
        "input_reply",
        json!({ "value": "42" }),
    )
    .await;
    assert_eq!(heard(&mut gateway, "stream").await.2["text"], "42");
    send(&mut gateway, &ToAgent::InterruptKernel { kernel_id: kernel }, &[]).await;
    assert_eq!(heard(&mut gateway, "stream").await.2["text"], "interrupted");
}

#[tokio::test]
async fn a_kernel_that_dies_is_restarted_and_says_so() {
    let world = World::start(echo()).await;
    let (mut gateway, _) = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    let (client, first) = (Uuid::new_v4(), world.kernel_pid());
    say(
        &mut gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        json!({ "code": "die" }),
    )
    .await;
    let details = until(&mut gateway, KernelState::Idle).await;
    assert!(
        details[0].contains("status 3") && details[0].contains("variables are gone"),
        "{details:?}"
    );
    assert_ne!(world.kernel_pid(), first);
    // The same client goes on with the new process.
    say(
        &mut gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        json!({ "code": "hi" }),
    )
    .await;
    assert_eq!(heard(&mut gateway, "execute_reply").await.0, Some(client));
    send(&mut gateway, &ToAgent::RestartKernel { kernel_id: kernel }, &[]).await;
    assert!(
        until(&mut gateway, KernelState::Idle).await.is_empty(),
        "an ordered restart needs no reason"
    );
}

#[tokio::test]
async fn a_kernel_that_dies_at_once_again_and_again_stays_dead() {
    let world = World::start(echo()).await;
    let (mut gateway, _) = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    for round in 0..4 {
        say(
            &mut gateway,
            kernel,
            Uuid::new_v4(),
            Channel::Shell,
            "execute_request",
            json!({ "code": "die" }),
        )
        .await;
        let wanted = if round < 3 {
            KernelState::Idle
        } else {
            KernelState::Dead
        };
        until(&mut gateway, wanted).await;
    }
    send(&mut gateway, &ToAgent::RestartKernel { kernel_id: kernel }, &[]).await;
    until(&mut gateway, KernelState::Idle).await;
}

#[tokio::test]
async fn the_broker_gets_a_private_file_and_ends_with_the_kernel() {
    let world = World::start(echo()).await;
    let (mut gateway, _) = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    let seen = world.folder.path().join("seen.json");
    assert_eq!(
        std::fs::metadata(&seen).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let seen: Value = serde_json::from_slice(&std::fs::read(seen).unwrap()).unwrap();
    assert_eq!(
        (seen["kernel_token"].as_str(), seen["account"].as_str()),
        (Some("kernel-token"), Some("0xAb"))
    );
    let folder = Path::new(seen["socket"].as_str().unwrap())
        .parent()
        .unwrap()
        .to_owned();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&folder), mode(&folder.join("connection.json"))),
        (0o700, 0o600)
    );
    let pid = world.kernel_pid();
    send(&mut gateway, &ToAgent::StopKernel { kernel_id: kernel }, &[]).await;
    until(&mut gateway, KernelState::Stopped).await;
    gone(pid).await;
    assert!(!folder.exists(), "nothing is left of a stopped kernel");
}

#[tokio::test]
async fn goes_on_after_a_lost_connection_without_losing_output() {
    let world = World::start(echo()).await;
    let (mut gateway, none) = world.accept().await;
    assert!(none.is_empty());
    let kernel = world.kernel(&mut gateway).await;
    let client = Uuid::new_v4();
    say(
        &mut gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        json!({ "code": "one" }),
    )
    .await;
    assert_eq!(heard(&mut gateway, "stream").await.2["text"], "one");
    drop(gateway);
    let (mut gateway, kernels) = world.accept().await;
    assert_eq!(kernels, [kernel]);
    say(
        &mut gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        json!({ "code": "two" }),
    )
    .await;
    assert_eq!(heard(&mut gateway, "stream").await.2["text"], "two");
}

#[tokio::test]
async fn leaves_no_orphan_when_it_is_killed_or_its_gateway_goes() {
    for kill in [true, false] {
        let mut world = World::start(echo()).await;
        let (mut gateway, _) = world.accept().await;
        world.kernel(&mut gateway).await;
        let pid = world.kernel_pid();
        if kill {
            world.agent.start_kill().unwrap();
        } else {
            // The gateway held the other end of the agent's input.
            drop(world.agent.stdin.take());
        }
        gone(pid).await;
        tokio::time::timeout(DEADLINE, world.agent.wait())
            .await
            .expect("the agent ends")
            .unwrap();
    }
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let world = World::start(vec!["/nonexistent/kernel".into()]).await;
    let (mut gateway, _) = world.accept().await;
    start(&mut gateway, Uuid::new_v4()).await;
    let details = until(&mut gateway, KernelState::Dead).await;
    assert!(
        details[0].contains("/nonexistent/kernel could not be started: No such file"),
        "{details:?}"
    );
}

#[tokio::test]
async fn ends_with_a_sentence_when_its_lease_is_refused() {
    let mut world = World::start(echo()).await;
    // Kept open: its end would end the agent too.
    let _input = world.agent.stdin.take();
    let (mut gateway, _) = world.accept().await;
    let close = CloseFrame {
        code: 4401.into(),
        reason: "this lease is not known here".into(),
    };
    gateway.close(Some(close)).await.unwrap();
    let output = tokio::time::timeout(DEADLINE, world.agent.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("refused this lease: this lease is not known here"),
        "{said}"
    );
}
