//! A gateway on port 0 with a host without processes, and clients of both framings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::account::{SignIn, SignedIn};
use alephlab_api::client::{ClientError, GatewayClient};
use alephlab_api::jupyter::{KernelModel, NewKernel};
use alephlab_api::money::Amount;
use alephlab_gateway::{
    Config, DatabaseUrl, Gateway, GatewayError, Handle, HostConfig, HostProvider, MarketConfig, OidcConfig,
    Operator, Renting, SettlementConfig,
};
use alephlab_vault::Wallet;
use alephlab_vault::storage::{MemoryStorage, Storage};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fake_host::FakeHost;
use crate::testing;

pub(crate) const OWNER: &str = "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e";
pub(crate) const TOKEN: &str = "operator-token-0123456789";
pub(crate) const V1: &str = "v1.kernel.websocket.jupyter.org";
/// Room of an account's files: little, so that a test can fill it.
pub(crate) const MAX_STORAGE: u64 = 12 << 20;
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where the gateway of this folder keeps its data, when it is not in it.
pub(crate) async fn database_of(folder: &Path) -> Option<DatabaseUrl> {
    let url = testing::database_of(folder).await?;
    Some(url.as_str().parse().unwrap())
}

/// Changes what a gateway of this folder left.
pub(crate) async fn change_database(folder: &Path, statement: String) {
    let file = || format!("sqlite://{}", folder.join("gateway.db").display());
    let url = testing::database_of(folder).await.map_or_else(file, String::from);
    let mut connection = AnyConnection::connect(&url).await.unwrap();
    connection.execute(AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
}

/// All bytes of the database of a gateway that was stopped.
pub(crate) async fn everything_stored(folder: &Path) -> Vec<u8> {
    let Some(url) = testing::database_of(folder).await else {
        let mut bytes = std::fs::read(folder.join("gateway.db")).unwrap();
        // The log is gone where the last connection has put it into the database.
        bytes.extend(std::fs::read(folder.join("gateway.db-wal")).unwrap_or_default());
        return bytes;
    };
    let mut connection = AnyConnection::connect(url.as_str()).await.unwrap();
    let tables = "SELECT schema_to_xml(current_schema(), true, false, '')::text";
    let rows: String = sqlx::query_scalar(tables)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    rows.into_bytes()
}

/// Who rents hosts to it, and how long they go on without it.
type Rents = (Arc<dyn HostProvider>, Duration);

/// A gateway's folder, and the network that it reads.
struct Folder {
    data: tempfile::TempDir,
    storage: Arc<dyn Storage>,
    /// How often it asks what is new there.
    follow: Option<Duration>,
    /// How soon sales are settled there.
    market: MarketConfig,
    settlement: SettlementConfig,
}

/// A running gateway and what it was made of.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) data: tempfile::TempDir,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) host: Arc<FakeHost>,
    stop: CancellationToken,
    join: tokio::task::JoinHandle<Result<(), GatewayError>>,
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
        let host = FakeHost::new(&url, broken);
        Self::start_on(data, (listener, host), (token, admitted), (kernel_price, false)).await
    }

    /// On a host that is there already, or not; and whether the gateway leaves it when it stops.
    pub(crate) async fn start_on(
        data: tempfile::TempDir,
        (listener, host): (std::net::TcpListener, Arc<FakeHost>),
        accounts: (&str, Vec<String>),
        (kernel_price, keep_kernels): (Amount, bool),
    ) -> Self {
        Self::start_renting(
            data,
            (listener, host),
            accounts,
            (kernel_price, keep_kernels),
            None,
        )
        .await
    }

    /// Where hosts can be rented, too.
    pub(crate) async fn start_renting(
        data: tempfile::TempDir,
        at: (std::net::TcpListener, Arc<FakeHost>),
        accounts: (&str, Vec<String>),
        terms: (Amount, bool),
        rented: Option<(Arc<dyn HostProvider>, Duration)>,
    ) -> Self {
        Self::start_with(data, at, accounts, terms, (rented, None)).await
    }

    /// Where accounts may sign in at an OpenID provider, too.
    pub(crate) async fn start_oidc(
        data: tempfile::TempDir,
        admitted: Vec<String>,
        price: Amount,
        oidc: Option<OidcConfig>,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let host = FakeHost::new(&url, false);
        let accounts = (TOKEN, admitted);
        Self::start_with(data, (listener, host), accounts, (price, false), (None, oidc)).await
    }

    async fn start_with(
        data: tempfile::TempDir,
        (listener, host): (std::net::TcpListener, Arc<FakeHost>),
        (token, admitted): (&str, Vec<String>),
        (kernel_price, keep_kernels): (Amount, bool),
        (rented, oidc): (Option<Rents>, Option<OidcConfig>),
    ) -> Self {
        let renting = rented.map(|(provider, outlive)| Renting {
            providers: vec![provider],
            listener: std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            address: None,
            outlive,
        });
        let data = Folder {
            data,
            storage: Arc::new(MemoryStorage::new()),
            follow: None,
            market: MarketConfig::default(),
            settlement: Default::default(),
        };
        let terms = (kernel_price, keep_kernels);
        Self::start_where(data, (listener, host), (token, admitted), terms, (renting, oidc)).await
    }

    /// A gateway on this network, which admits these accounts.
    pub(crate) async fn on(storage: &Arc<dyn Storage>, admitted: Vec<String>) -> Self {
        Self::following(storage, admitted, None).await
    }

    /// The same, asking that often what is new there.
    pub(crate) async fn following(
        storage: &Arc<dyn Storage>,
        admitted: Vec<String>,
        follow: Option<Duration>,
    ) -> Self {
        Self::selling(storage, admitted, (follow, MarketConfig::default())).await
    }

    /// The same, with what it asks of sales.
    pub(crate) async fn selling(
        storage: &Arc<dyn Storage>,
        admitted: Vec<String>,
        (follow, market): (Option<Duration>, MarketConfig),
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = FakeHost::new("", false);
        let data = Folder {
            data: tempfile::tempdir().unwrap(),
            storage: Arc::clone(storage),
            follow,
            market,
            settlement: Default::default(),
        };
        let terms = (Amount::ZERO, false);
        Self::start_where(data, (listener, host), (TOKEN, admitted), terms, (None, None)).await
    }

    /// A gateway that takes and pays ALEPH so.
    pub(crate) async fn settling(admitted: Vec<String>, settlement: SettlementConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = FakeHost::new("", false);
        let data = Folder {
            data: tempfile::tempdir().unwrap(),
            storage: Arc::new(MemoryStorage::new()),
            follow: None,
            market: MarketConfig::default(),
            settlement,
        };
        let terms = (Amount::ZERO, false);
        Self::start_where(data, (listener, host), (TOKEN, admitted), terms, (None, None)).await
    }

    async fn start_where(
        Folder {
            data,
            storage,
            follow,
            market,
            settlement,
        }: Folder,
        (listener, host): (std::net::TcpListener, Arc<FakeHost>),
        (token, admitted): (&str, Vec<String>),
        (kernel_price, keep_kernels): (Amount, bool),
        (renting, oidc): (Option<Renting>, Option<OidcConfig>),
    ) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        host.url.lock().unwrap().clone_from(&url);
        let stop = CancellationToken::new();
        let config = Config {
            listener,
            public_url: url.parse().unwrap(),
            fronts: Vec::new(),
            limits: Default::default(),
            standby: false,
            data: data.path().join("gateway"),
            database: database_of(&data.path().join("gateway")).await,
            aleph_url: "http://127.0.0.1:9".to_owned(),
            operator: Operator {
                address: OWNER.to_lowercase(),
                token: Secret::new(token),
            },
            admitted,
            oidc,
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
                confinement: Default::default(),
                outlive: None,
            },
            kernel_price,
            contents: data.path().join("work"),
            lab: Some(data.path().join("lab")).filter(|folder| folder.exists()),
            max_kernels: 64,
            max_storage: Some(MAX_STORAGE),
            idle: None,
            keep_kernels,
            renting,
            terminals: true,
            verifiers: None,
            follow,
            market,
            settlement,
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
