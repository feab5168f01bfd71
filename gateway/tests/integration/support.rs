//! A gateway on port 0, a host that speaks the agent's protocol without processes, and clients of both framings.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::account::{SignIn, SignedIn};
use alephlab_api::agent::{FromAgent, ToAgent, decode, encode};
use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::jupyter::{Channel, KernelModel, NewKernel};
use alephlab_api::kernel::KernelState;
use alephlab_api::money::Amount;
use alephlab_gateway::{Config, Gateway, GatewayError, Handle, HostConfig, HostProvider, Operator};
use alephlab_vault::Wallet;
use alephlab_vault::storage::{MemoryStorage, Storage};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const OWNER: &str = "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e";
pub(crate) const TOKEN: &str = "operator-token-0123456789";
pub(crate) const V1: &str = "v1.kernel.websocket.jupyter.org";
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A running gateway and what it was made of.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) data: tempfile::TempDir,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) host: Arc<FakeHost>,
    stop: CancellationToken,
    join: tokio::task::JoinHandle<Result<(), GatewayError>>,
}

/// A host without processes: its kernels echo.
#[derive(Default)]
pub(crate) struct FakeHost {
    me: Weak<FakeHost>,
    url: Mutex<String>,
    /// Refuse to rent.
    pub(crate) broken: AtomicBool,
    pub(crate) rented: AtomicUsize,
    current: Mutex<CancellationToken>,
    /// The environment of the last start.
    pub(crate) env: Mutex<Value>,
    pub(crate) kernel_token: Mutex<Option<Secret>>,
    pub(crate) interrupts: AtomicUsize,
}

impl FakeHost {
    /// Loses the machine, as when it is switched off.
    pub(crate) fn lose(&self) {
        self.current.lock().unwrap().cancel();
    }
}

impl HostProvider for FakeHost {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn trust(&self) -> &'static str {
        "This gateway's own machine"
    }

    fn rent<'a>(&'a self, lease: Uuid, token: &'a Secret) -> BoxFuture<'a, Result<(), GatewayError>> {
        async move {
            self.rented.fetch_add(1, Ordering::SeqCst);
            if self.broken.load(Ordering::SeqCst) {
                return Err(GatewayError::Host {
                    reason: "the machine is switched off".into(),
                });
            }
            let stop = CancellationToken::new();
            *self.current.lock().unwrap() = stop.clone();
            let (url, token) = (self.url.lock().unwrap().clone(), token.clone());
            let me = self.me.upgrade().unwrap();
            tokio::spawn(async move { stop.run_until_cancelled(agent(me, url, lease, token)).await });
            Ok(())
        }
        .boxed()
    }

    fn gone(&self, _: Uuid) -> BoxFuture<'_, String> {
        let current = self.current.lock().unwrap().clone();
        async move {
            current.cancelled().await;
            "the machine was switched off".to_owned()
        }
        .boxed()
    }

    fn end(&self, _: Uuid) -> BoxFuture<'_, ()> {
        self.lose();
        async {}.boxed()
    }
}

async fn agent(host: Arc<FakeHost>, url: String, lease: Uuid, token: Secret) {
    let (mut socket, _) = connect_async(format!("{}/v1/agent", url.replace("http", "ws")))
        .await
        .unwrap();
    let hello = FromAgent::Hello {
        lease,
        token,
        host: "fake-machine".into(),
        kernels: vec![],
    };
    send(&mut socket, &hello, &[]).await;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(frame) = message else { continue };
        let (order, parts) = decode::<ToAgent>(&frame).unwrap();
        let parts: Vec<Vec<u8>> = parts.into_iter().map(|range| frame[range].to_vec()).collect();
        obey(&host, &mut socket, order, parts).await;
    }
}

async fn obey(host: &FakeHost, socket: &mut Socket, order: ToAgent, parts: Vec<Vec<u8>>) {
    match order {
        ToAgent::StartKernel {
            kernel_id,
            env,
            kernel_token,
            ..
        } => {
            let detail = env
                .contains_key("KERNEL_FAILS")
                .then(|| "the compiler is missing".to_owned());
            *host.env.lock().unwrap() = json!(env);
            *host.kernel_token.lock().unwrap() = Some(kernel_token);
            let state = match detail {
                Some(_) => KernelState::Dead,
                None => KernelState::Idle,
            };
            report(socket, kernel_id, state, detail).await;
        }
        ToAgent::StopKernel { kernel_id } => report(socket, kernel_id, KernelState::Stopped, None).await,
        ToAgent::RestartKernel { kernel_id } => {
            for state in [KernelState::Restarting, KernelState::Idle] {
                report(socket, kernel_id, state, None).await;
            }
        }
        ToAgent::InterruptKernel { .. } => {
            host.interrupts.fetch_add(1, Ordering::SeqCst);
        }
        ToAgent::Message {
            kernel_id,
            client,
            channel,
        } => {
            // The reply is the request itself; then the same as output for all.
            for (client, channel) in [(Some(client), channel), (None, Channel::Iopub)] {
                let header = FromAgent::Message {
                    kernel_id,
                    client,
                    channel,
                };
                send(socket, &header, &parts).await;
            }
        }
        ToAgent::ClientOpen { .. } | ToAgent::ClientClose { .. } => {}
    }
}

async fn report(socket: &mut Socket, kernel_id: Uuid, state: KernelState, detail: Option<String>) {
    let header = FromAgent::State {
        kernel_id,
        state,
        detail,
    };
    send(socket, &header, &[]).await;
}

async fn send(socket: &mut Socket, header: &FromAgent, parts: &[Vec<u8>]) {
    let frame = encode(header, parts).unwrap();
    // Fails when the gateway of the test is gone already.
    let _ = socket.send(Message::binary(frame)).await;
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), false).await
    }

    pub(crate) async fn start_in(data: tempfile::TempDir, broken: bool) -> Self {
        Self::start_as(data, broken, TOKEN, Vec::new()).await
    }

    /// With this account admitted beside the operator.
    pub(crate) async fn admitting(address: &str) -> Self {
        Self::start_as(
            tempfile::tempdir().unwrap(),
            false,
            TOKEN,
            vec![address.to_owned()],
        )
        .await
    }

    pub(crate) async fn start_as(
        data: tempfile::TempDir,
        broken: bool,
        token: &str,
        admitted: Vec<String>,
    ) -> Self {
        Self::start_priced(data, broken, (token, admitted), Amount::ZERO).await
    }

    /// Where a kernel costs so many credits an hour.
    pub(crate) async fn start_priced(
        data: tempfile::TempDir,
        broken: bool,
        (token, admitted): (&str, Vec<String>),
        kernel_price: Amount,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let host = Arc::new_cyclic(|me| FakeHost {
            me: me.clone(),
            url: Mutex::new(url.clone()),
            broken: broken.into(),
            ..FakeHost::default()
        });
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let stop = CancellationToken::new();
        let config = Config {
            listener,
            public_url: url.parse().unwrap(),
            data: data.path().join("gateway"),
            aleph_url: "http://127.0.0.1:9".to_owned(),
            operator: Operator {
                address: OWNER.to_lowercase(),
                token: Secret::new(token),
            },
            admitted,
            host: HostConfig {
                agent_program: "none".into(),
                kernel_program: "none".into(),
                broker_program: None,
                runtime_dir: "none".into(),
                engine: alephlab_api::agent::Engine::default(),
                work_dir: "none".into(),
                log: None,
                cache: None,
                kernel_argv: None,
            },
            kernel_price,
        };
        let handle =
            Gateway::start_with(config, Arc::clone(&storage), Arc::clone(&host) as _, stop.clone()).await;
        let Handle { join, .. } = handle.unwrap();
        Self {
            url,
            data,
            storage,
            host,
            stop,
            join,
        }
    }

    /// Stops the gateway and gives its folder back.
    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.join)
            .await
            .expect("it stops in time")
            .unwrap()
            .unwrap();
        self.data
    }

    pub(crate) fn client(&self) -> GatewayClient {
        GatewayClient::new(&self.url, Some(Secret::new(TOKEN))).unwrap()
    }

    /// A plain HTTP client, for what ours hides.
    pub(crate) fn http(&self) -> reqwest::Client {
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap()
    }

    /// A started kernel that is idle.
    pub(crate) async fn kernel(&self) -> KernelModel {
        let started = self.client().start_kernel(&NewKernel::default()).await.unwrap();
        self.until(started.id, "idle").await
    }

    /// Waits until a kernel is in a state.
    pub(crate) async fn until(&self, id: Uuid, state: &str) -> KernelModel {
        let client = self.client();
        eventually(state, || async {
            client
                .kernel(id)
                .await
                .ok()
                .filter(|model| model.execution_state == state)
        })
        .await
    }

    /// A WebSocket of a kernel.
    pub(crate) async fn channels(&self, kernel: Uuid, session: &str, headers: &[(&str, &str)]) -> Socket {
        let url = self.client().channels_url(kernel, session);
        let mut request = url.as_str().into_client_request().unwrap();
        request
            .headers_mut()
            .insert("authorization", format!("token {TOKEN}").parse().unwrap());
        for (name, value) in headers {
            let name = tokio_tungstenite::tungstenite::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        connect_async(request).await.unwrap().0
    }
}

/// Signs a wallet in.
pub(crate) async fn sign_in(world: &World, wallet: &Wallet) -> Result<SignedIn, ClientError> {
    let client = world.client();
    let challenge = client.challenge(&wallet.address()).await?;
    let signature = wallet.sign_text(&challenge.message).unwrap();
    let signed = SignIn {
        address: wallet.address(),
        nonce: challenge.nonce,
        signature,
    };
    client.sign_in(&signed).await
}

/// Waits for something, with a deadline. Looks again and again: over HTTP nobody tells when it has come.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, found)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The next data message of a socket; pings are passed over.
pub(crate) async fn next(socket: &mut Socket) -> Message {
    loop {
        let message = tokio::time::timeout(DEADLINE, socket.next())
            .await
            .expect("a message in time");
        match message.expect("an open socket").expect("a whole message") {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

/// A message in the legacy framing.
pub(crate) fn legacy(id: &str, channel: &str) -> Value {
    json!({
        "header": { "msg_id": id, "msg_type": "execute_request", "session": "s", "username": "u", "version": "5.3" },
        "parent_header": {}, "metadata": {}, "content": { "code": "1", "number": 1.5 }, "channel": channel, "buffers": [],
    })
}

/// The text of a message that must be one.
pub(crate) fn text(message: &Message) -> Value {
    match message {
        Message::Text(text) => serde_json::from_str(text.as_str()).unwrap(),
        other => panic!("not a text: {other:?}"),
    }
}
