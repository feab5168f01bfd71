//! A Jupyter client for tests: strict about what it waits for, with a deadline on every wait.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use alephlab_kernel::{Channel, Connection, Parent, Session};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use jupyter_protocol::{ConnectionInfo, Transport};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::time::timeout;
use zeromq::util::PeerIdentity;
use zeromq::{DealerSocket, ReqSocket, Socket, SocketOptions, SocketRecv, SocketSend, SubSocket, ZmqMessage};

/// Longest wait for anything. A cell of evcxr's took 18 s on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(300);
pub const KEY: &str = "a-test-key";

/// A message from the kernel.
#[derive(Debug, Clone)]
pub struct Message {
    pub msg_type: String,
    pub parent: Option<String>,
    pub header: Value,
    pub parent_header: Value,
    pub metadata: Value,
    pub content: Value,
    pub buffers: Vec<Bytes>,
}

impl Message {
    /// Field of the content as text.
    pub fn text(&self, name: &str) -> &str {
        self.content[name].as_str().unwrap_or_default()
    }
}

/// Connection information for sockets in a folder.
pub fn ipc(folder: &Path) -> ConnectionInfo {
    ConnectionInfo {
        ip: folder.join("k").to_string_lossy().into_owned(),
        transport: Transport::IPC,
        shell_port: 1,
        iopub_port: 2,
        stdin_port: 3,
        control_port: 4,
        hb_port: 5,
        key: KEY.to_owned(),
        signature_scheme: "hmac-sha256".to_owned(),
        kernel_name: None,
    }
}

pub struct Client {
    pub session: Session,
    pub shell: DealerSocket,
    pub control: DealerSocket,
    pub stdin: DealerSocket,
    pub iopub: SubSocket,
    pub heartbeat: ReqSocket,
}

fn dealer(identity: &str) -> DealerSocket {
    let mut options = SocketOptions::default();
    options.peer_identity(PeerIdentity::try_from(identity.as_bytes()).unwrap());
    DealerSocket::with_options(options)
}

impl Client {
    /// Connects all channels, and waits until iopub welcomes it.
    pub async fn connect(info: &ConnectionInfo, identity: &str) -> Self {
        let mut client = Self::connect_quietly(info, identity).await;
        let welcome = client.iopub().await;
        assert_eq!(welcome.msg_type, "iopub_welcome");
        client
    }

    /// Connects all channels at once, as a hasty client does.
    pub async fn connect_quietly(info: &ConnectionInfo, identity: &str) -> Self {
        let connection = Connection::new(info.clone());
        let mut client = Self {
            session: Session::new(info.key.as_bytes()),
            shell: dealer(identity),
            control: dealer(identity),
            stdin: dealer(identity),
            iopub: SubSocket::new(),
            heartbeat: ReqSocket::new(),
        };
        let address = |channel| connection.address(channel);
        client.shell.connect(&address(Channel::Shell)).await.unwrap();
        client.control.connect(&address(Channel::Control)).await.unwrap();
        client.stdin.connect(&address(Channel::Stdin)).await.unwrap();
        client
            .heartbeat
            .connect(&address(Channel::Heartbeat))
            .await
            .unwrap();
        client.iopub.subscribe("").await.unwrap();
        client.iopub.connect(&address(Channel::IoPub)).await.unwrap();
        client
    }

    /// Sends on shell; returns the message's id.
    pub async fn ask(&mut self, msg_type: &str, content: Value) -> String {
        let (message, id) = self.message(msg_type, &content);
        self.shell.send(message).await.unwrap();
        id
    }

    /// Sends on shell to a subshell.
    pub async fn ask_subshell(&mut self, subshell: &str, msg_type: &str, content: Value) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let header = json!({ "msg_id": id, "msg_type": msg_type, "session": "s", "username": "u",
            "date": "2026-01-01T00:00:00Z", "version": "5.5", "subshell_id": subshell });
        let parts = [header, json!({}), json!({}), content].map(|part| Bytes::from(part.to_string()));
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(KEY.as_bytes()).unwrap();
        parts.iter().for_each(|part| mac.update(part));
        let signature = Bytes::from(hex::encode(mac.finalize().into_bytes()));
        let frames = [Bytes::from_static(b"<IDS|MSG>"), signature]
            .into_iter()
            .chain(parts);
        let message = ZmqMessage::try_from(frames.collect::<Vec<_>>()).unwrap();
        self.shell.send(message).await.unwrap();
        id
    }

    /// Opens a subshell; its id.
    pub async fn open_subshell(&mut self) -> String {
        let id = self.ask_control("create_subshell_request", json!({})).await;
        let reply = self.control_reply(&id).await;
        assert_eq!(reply.msg_type, "create_subshell_reply");
        reply.text("subshell_id").to_owned()
    }

    /// Everything on iopub, by parent, until these are all idle.
    pub async fn until_all_idle(&mut self, ids: &[&str]) -> BTreeMap<String, Vec<Message>> {
        let mut of: BTreeMap<String, Vec<Message>> = BTreeMap::new();
        let mut waiting = ids.to_vec();
        while !waiting.is_empty() {
            let message = self.iopub().await;
            let parent = message.parent.clone().unwrap_or_default();
            if message.content["execution_state"] == "idle" {
                waiting.retain(|id| *id != parent);
            }
            of.entry(parent).or_default().push(message);
        }
        of
    }

    /// Sends on control.
    pub async fn ask_control(&mut self, msg_type: &str, content: Value) -> String {
        let (message, id) = self.message(msg_type, &content);
        self.control.send(message).await.unwrap();
        id
    }

    /// Answers a question on stdin.
    pub async fn answer(&mut self, value: &str) {
        let (message, _) = self.message("input_reply", &json!({ "status": "ok", "value": value }));
        self.stdin.send(message).await.unwrap();
    }

    /// Answers one question of several.
    pub async fn answer_to(&mut self, question: &Message, value: &str) {
        let content = json!({ "status": "ok", "value": value });
        let parent = Parent::of(&question.header);
        let parts = self.session.encode("input_reply", &parent, &json!({}), &content);
        let message = ZmqMessage::try_from(parts.frames(&[])).unwrap();
        self.stdin.send(message).await.unwrap();
    }

    pub fn message(&self, msg_type: &str, content: &Value) -> (ZmqMessage, String) {
        let parts = self
            .session
            .encode(msg_type, &Parent::none(), &json!({}), content);
        let id = parts.msg_id.clone();
        (ZmqMessage::try_from(parts.frames(&[])).unwrap(), id)
    }

    /// The next reply on shell, which must answer `id`.
    pub async fn reply(&mut self, id: &str) -> Message {
        let message = parse(
            timeout(DEADLINE, self.shell.recv())
                .await
                .expect("a reply")
                .unwrap(),
        );
        assert_eq!(message.parent.as_deref(), Some(id), "{message:?}");
        message
    }

    /// The next reply on shell, whatever it answers: shells answer in any order.
    pub async fn any_reply(&mut self) -> Message {
        let reply = timeout(DEADLINE, self.shell.recv()).await;
        parse(reply.expect("a reply").unwrap())
    }

    pub async fn control_reply(&mut self, id: &str) -> Message {
        let message = parse(
            timeout(DEADLINE, self.control.recv())
                .await
                .expect("a reply")
                .unwrap(),
        );
        assert_eq!(message.parent.as_deref(), Some(id), "{message:?}");
        message
    }

    /// The next question on stdin.
    pub async fn question(&mut self) -> Message {
        parse(
            timeout(DEADLINE, self.stdin.recv())
                .await
                .expect("a question")
                .unwrap(),
        )
    }

    /// The next message on iopub.
    pub async fn iopub(&mut self) -> Message {
        parse(
            timeout(DEADLINE, self.iopub.recv())
                .await
                .expect("a message on iopub")
                .unwrap(),
        )
    }

    /// Everything on iopub up to the idle of `id`, which is not included; messages of other parents are left out.
    pub async fn until_idle(&mut self, id: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.iopub().await;
            if message.parent.as_deref() != Some(id) {
                continue;
            }
            if message.content["execution_state"] == "idle" {
                return messages;
            }
            messages.push(message);
        }
    }

    /// The next message of a type on iopub; others are dropped.
    pub async fn until_type(&mut self, msg_type: &str) -> Message {
        loop {
            let message = self.iopub().await;
            if message.msg_type == msg_type {
                return message;
            }
        }
    }

    /// Runs a cell: its reply, and what iopub said between busy and idle.
    pub async fn run(&mut self, code: &str) -> (Message, Vec<Message>) {
        self.run_with(json!({ "code": code, "allow_stdin": true })).await
    }

    pub async fn run_with(&mut self, content: Value) -> (Message, Vec<Message>) {
        let id = self.ask("execute_request", content).await;
        let messages = self.until_idle(&id).await;
        let reply = self.reply(&id).await;
        assert_eq!(messages[0].content["execution_state"], "busy");
        (reply, messages[1..].to_vec())
    }

    /// Asks something on shell that is no execution; the reply's content.
    pub async fn content(&mut self, msg_type: &str, content: Value) -> Value {
        let id = self.ask(msg_type, content).await;
        let reply = self.reply(&id).await;
        self.until_idle(&id).await;
        reply.content
    }
}

/// Takes a message apart; the test's own code trusts the signature, `wire.rs` checks it.
pub fn parse(message: ZmqMessage) -> Message {
    let frames: Vec<Bytes> = message.into_vec();
    let at = frames
        .iter()
        .position(|frame| &frame[..] == b"<IDS|MSG>")
        .expect("a delimiter");
    let json = |index: usize| serde_json::from_slice::<Value>(&frames[at + index]).unwrap();
    let (header, parent_header) = (json(2), json(3));
    Message {
        msg_type: header["msg_type"].as_str().unwrap().to_owned(),
        parent: parent_header["msg_id"].as_str().map(str::to_owned),
        metadata: json(4),
        content: json(5),
        header,
        parent_header,
        buffers: frames[at + 6..].to_vec(),
    }
}

/// All text of a stream.
pub fn stream(messages: &[Message], name: &str) -> String {
    let of = |message: &&Message| message.msg_type == "stream" && message.text("name") == name;
    messages
        .iter()
        .filter(of)
        .map(|message| message.text("text"))
        .collect()
}

/// The messages' types, in order.
pub fn types(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.msg_type.as_str()).collect()
}

/// The only message of a type.
pub fn only<'a>(messages: &'a [Message], msg_type: &str) -> &'a Message {
    let found: Vec<_> = messages
        .iter()
        .filter(|message| message.msg_type == msg_type)
        .collect();
    assert_eq!(found.len(), 1, "one {msg_type} in {messages:?}");
    found[0]
}
