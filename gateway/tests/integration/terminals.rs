//! Terminals over HTTP and WebSocket: with a host in memory what accounts may, with the real agent what shells do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::money::Amount;
use alephlab_gateway::{Config, Gateway, GatewayError, HostConfig, Operator, ThisMachine};
use alephlab_vault::storage::MemoryStorage;
use futures_util::SinkExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::support::{DEADLINE, OWNER, Socket, TOKEN, World, database_of, eventually, next, sign_in, text};

/// Somebody at a gateway.
struct Caller {
    url: String,
    token: String,
}

impl Caller {
    fn new(url: &str, token: &str) -> Self {
        Self {
            url: url.to_owned(),
            token: token.to_owned(),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(&self.token).body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn open(&self, body: Value) -> (u16, Value) {
        self.call(Method::POST, "/api/terminals", body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, Value::Null).await
    }

    async fn close(&self, name: &str) -> u16 {
        let path = format!("/api/terminals/{name}");
        self.call(Method::DELETE, &path, Value::Null).await.0
    }

    async fn names(&self) -> Vec<String> {
        let (status, all) = self.get("/api/terminals").await;
        assert_eq!(status, 200);
        let all = all.as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A page's WebSocket, or the status of its refusal.
    async fn connect(&self, name: &str, origin: Option<&str>) -> Result<Socket, u16> {
        let url = format!("{}/terminals/websocket/{name}", self.url.replace("http", "ws"));
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        if !self.token.is_empty() {
            headers.insert("authorization", format!("token {}", self.token).parse().unwrap());
        }
        if let Some(origin) = origin {
            headers.insert("origin", origin.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn page(&self, name: &str) -> Page {
        let mut socket = self.connect(name, None).await.unwrap();
        assert_eq!(text(&next(&mut socket).await), json!(["setup", {}]));
        Page {
            socket,
            text: String::new(),
        }
    }
}

/// A page that shows a terminal.
struct Page {
    socket: Socket,
    text: String,
}

impl Page {
    async fn say(&mut self, message: Value) {
        self.socket
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    async fn typed(&mut self, text: &str) {
        self.say(json!(["stdin", text])).await;
    }

    /// Reads until a text was shown; gives what was shown until then.
    async fn until(&mut self, wanted: &str) -> String {
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let said = text(&next(&mut self.socket).await);
            assert_eq!(said[0], "stdout", "{said} after {}", self.text);
            self.text += said[1].as_str().unwrap();
        }
    }

    /// Reads until the terminal ends; gives what was shown.
    async fn until_ended(&mut self) -> String {
        loop {
            match next(&mut self.socket).await {
                Message::Close(_) => panic!("it says so first"),
                message => match text(&message) {
                    said if said[0] == "stdout" => self.text += said[1].as_str().unwrap(),
                    said => {
                        assert_eq!(said, json!(["disconnect", 1]));
                        assert!(matches!(next(&mut self.socket).await, Message::Close(_)));
                        return std::mem::take(&mut self.text);
                    }
                },
            }
        }
    }

    /// A prompt that is the same everywhere.
    async fn prompt(&mut self) {
        self.typed("PS1='> '; echo re''ady\r").await;
        self.until("ready\r\n").await;
    }
}

/// A host in memory whose agent is there.
async fn world() -> World {
    connected(World::start().await).await
}

async fn connected(world: World) -> World {
    let client = world.client();
    eventually("the agent", || async {
        client
            .health()
            .await
            .ok()
            .filter(|health| health.agent == "connected")
    })
    .await;
    world
}

#[tokio::test]
async fn names_are_numbers_or_what_is_asked_for_and_there_are_eight() {
    let world = world().await;
    let caller = Caller::new(&world.url, TOKEN);
    assert!(caller.names().await.is_empty());
    let (status, first) = caller.open(json!({})).await;
    assert_eq!((status, &first["name"]), (200, &json!("1")));
    assert!(first["last_activity"].as_str().unwrap().ends_with('Z'));
    assert_eq!(caller.get("/api/terminals/1").await.1["name"], "1");
    assert_eq!(
        caller.open(json!({ "name": null, "cwd": null })).await.1["name"],
        "2"
    );
    assert_eq!(caller.open(json!({ "name": "mine" })).await.1["name"], "mine");
    assert_eq!(caller.open(json!({ "name": "mine" })).await.0, 200, "again");
    assert_eq!(
        caller.open(json!({ "name": "../x" })).await.1["code"],
        "terminal_name"
    );
    assert_eq!((caller.close("1").await, caller.close("1").await), (204, 404));
    assert_eq!(caller.open(json!({})).await.1["name"], "1");
    assert_eq!(caller.names().await, ["1", "2", "mine"]);
    for _ in 0..5 {
        assert_eq!(caller.open(json!({})).await.0, 200);
    }
    let (status, refused) = caller.open(json!({})).await;
    assert_eq!((status, &refused["code"]), (429, &json!("terminals_limit")));
    assert_eq!(caller.get("/api/terminals/none").await.0, 404);
}

#[tokio::test]
async fn an_account_has_its_own_terminals_only() {
    let wallet = alephlab_vault::Wallet::generate().unwrap();
    let world = connected(World::admitting(&wallet.address()).await).await;
    let token = sign_in(&world, &wallet).await.unwrap().token;
    let (one, other) = (
        Caller::new(&world.url, TOKEN),
        Caller::new(&world.url, token.expose()),
    );
    one.open(json!({})).await;
    assert!(other.names().await.is_empty());
    assert_eq!(other.get("/api/terminals/1").await.0, 404);
    assert_eq!(other.close("1").await, 404);
    assert_eq!(other.connect("1", None).await.err(), Some(404));
    assert_eq!(
        other.open(json!({})).await.1["name"],
        "1",
        "names are an account's own"
    );
    assert_eq!(other.close("1").await, 204);
    assert_eq!(one.names().await, ["1"]);
}

#[tokio::test]
async fn pages_of_other_sites_and_strangers_are_refused() {
    let world = world().await;
    let caller = Caller::new(&world.url, TOKEN);
    caller.open(json!({})).await;
    for (origin, refused) in [
        (world.url.as_str(), None),
        ("https://evil.example", Some(403)),
        ("null", Some(403)),
    ] {
        assert_eq!(caller.connect("1", Some(origin)).await.err(), refused, "{origin}");
    }
    assert_eq!(caller.connect("2", None).await.err(), Some(404));
    let stranger = Caller::new(&world.url, "");
    assert_eq!(stranger.connect("1", None).await.err(), Some(401));
    let stranger = Caller::new(&world.url, "wrong");
    assert_eq!(stranger.get("/api/terminals").await.0, 401);
    assert_eq!(stranger.open(json!({})).await.0, 401);
}

#[tokio::test]
async fn a_lost_host_ends_its_terminals_and_says_so() {
    let world = world().await;
    let caller = Caller::new(&world.url, TOKEN);
    caller.open(json!({})).await;
    let mut page = caller.page("1").await;
    world.host.lose();
    let said = page.until_ended().await;
    assert!(
        said.contains("[terminal ended: ") && said.contains("switched off"),
        "{said}"
    );
    assert!(caller.names().await.is_empty());
}

#[tokio::test]
async fn without_a_host_there_is_no_terminal() {
    let world = World::start_in(tempfile::tempdir().unwrap(), true).await;
    let (status, refused) = Caller::new(&world.url, TOKEN).open(json!({})).await;
    assert_eq!((status, &refused["code"]), (503, &json!("host_unavailable")));
    assert!(refused["message"].as_str().unwrap().starts_with("no host: "));
}

#[tokio::test]
async fn where_kernels_cost_something_a_terminal_needs_one() {
    let (data, price) = (tempfile::tempdir().unwrap(), "10".parse::<Amount>().unwrap());
    let world = World::start_priced(data, false, (TOKEN, Vec::new()), price).await;
    let (status, refused) = Caller::new(&connected(world).await.url, TOKEN)
        .open(json!({}))
        .await;
    assert_eq!((status, &refused["code"]), (402, &json!("terminal_kernel")));
}

/// A gateway with this machine as its host.
struct Stack {
    caller: Caller,
    data: Arc<tempfile::TempDir>,
    stop: CancellationToken,
    join: tokio::task::JoinHandle<Result<(), GatewayError>>,
}

impl Stack {
    async fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, Arc::new(tempfile::tempdir().unwrap()), (true, false)).await
    }

    async fn on(
        listener: std::net::TcpListener,
        data: Arc<tempfile::TempDir>,
        (terminals, keep): (bool, bool),
    ) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let work = data.path().join("work");
        std::fs::create_dir_all(&work).unwrap();
        let host = HostConfig {
            agent_program: agent_program(),
            kernel_program: "none".into(),
            broker_program: None,
            runtime_dir: "none".into(),
            engine: Default::default(),
            work_dir: work.clone(),
            cache: None,
            log: None,
            kernel_argv: None,
            confinement: Default::default(),
            outlive: Some(Duration::from_secs(60)),
        };
        let gateway = data.path().join("gateway");
        let provider = ThisMachine::new(host.clone(), url.clone(), gateway.clone());
        let config = Config {
            listener,
            public_url: url.parse().unwrap(),
            fronts: Vec::new(),
            limits: Default::default(),
            standby: false,
            database: database_of(&gateway).await,
            data: gateway,
            aleph_url: "http://127.0.0.1:9".to_owned(),
            operator: Operator {
                address: OWNER.to_owned(),
                token: Secret::new(TOKEN),
            },
            admitted: Vec::new(),
            oidc: None,
            host,
            kernel_price: Amount::ZERO,
            contents: work,
            lab: None,
            max_kernels: 1,
            idle: None,
            keep_kernels: keep,
            terminals,
            verifiers: None,
            follow: None,
            market: Default::default(),
            max_storage: None,
            renting: None,
            settlement: Default::default(),
        };
        let (stop, storage) = (CancellationToken::new(), Arc::new(MemoryStorage::new()));
        let handle = Gateway::start_with(config, storage, Arc::new(provider), stop.clone()).await;
        let caller = Caller::new(&url, TOKEN);
        eventually("the agent", || async {
            (caller.get("/health").await.1["agent"] == "connected").then_some(())
        })
        .await;
        Self {
            caller,
            data,
            stop,
            join: handle.unwrap().join,
        }
    }

    /// Stops the gateway; gives its folder back, and its address.
    async fn stop(self) -> (Arc<tempfile::TempDir>, String) {
        self.stop.cancel();
        let ended = tokio::time::timeout(DEADLINE, self.join).await;
        ended.expect("it stops in time").unwrap().unwrap();
        (self.data, self.caller.url)
    }
}

/// Built with the workspace, beside this test.
fn agent_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("alephlab-agent");
    assert!(
        program.is_file(),
        "build it first: cargo build --release -p alephlab-agent"
    );
    program
}

#[tokio::test]
async fn a_page_types_resizes_leaves_and_finds_the_screen_again() {
    let stack = Stack::start().await;
    let own = stack.data.path().join("work").join(OWNER.to_lowercase());
    assert_eq!(stack.caller.open(json!({})).await.0, 200);
    std::fs::create_dir(own.join("folder")).unwrap();
    let (_, second) = stack.caller.open(json!({ "cwd": "folder" })).await;
    let (mut one, mut two) = (stack.caller.page("1").await, stack.caller.page("2").await);
    one.prompt().await;
    one.typed("pwd; echo '€'\r").await;
    let said = one.until("€\r\n").await;
    assert!(said.contains(&format!("{}\r\n", own.display())), "{said}");
    two.typed("pwd\r").await;
    two.until(&format!("{}/folder\r\n", own.display())).await;
    assert_eq!(second["name"], "2");
    one.say(json!(["set_size", 33, 120, 600, 900])).await;
    one.typed("stty size\r").await;
    one.until("33 120\r\n").await;
    drop(one);
    let mut again = stack.caller.page("1").await;
    let screen = again.until("33 120\r\n").await;
    assert!(screen.contains("ready") && screen.contains("€\r\n"), "{screen}");
    again.typed("exit\r").await;
    let last = again.until_ended().await;
    assert!(!last.contains("[terminal ended"), "{last}");
    assert_eq!(stack.caller.names().await, ["2"]);
    assert_eq!(stack.caller.close("2").await, 204);
    assert!(!two.until_ended().await.contains("[terminal ended"));
    stack.stop().await;
}

#[tokio::test]
async fn a_flood_is_interrupted_and_a_long_paste_arrives_whole() {
    let stack = Stack::start().await;
    stack.caller.open(json!({})).await;
    let mut page = stack.caller.page("1").await;
    page.prompt().await;
    page.typed("yes\r").await;
    let mut flood = 0;
    while flood < 4 << 20 {
        flood += text(&next(&mut page.socket).await)[1].as_str().unwrap().len();
    }
    page.typed("\u{3}").await;
    page.until("^C").await;
    page.typed("stty -echo; cat > pasted; wc -c pasted; stty echo\r")
        .await;
    page.until("echo\r\n").await;
    let line = format!("{}\r", "x".repeat(99));
    page.typed(&line.repeat(10_000)).await;
    page.typed("\u{4}").await;
    page.until("1000000 pasted").await;
    stack.stop().await;
}

#[tokio::test]
async fn terminals_outlive_the_gateway_with_their_screen() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let data = Arc::new(tempfile::tempdir().unwrap());
    let stack = Stack::on(listener, data, (true, true)).await;
    stack.caller.open(json!({})).await;
    let mut page = stack.caller.page("1").await;
    page.prompt().await;
    page.typed("kept=variable; echo be''fore\r").await;
    page.until("before\r\n").await;
    let (data, url) = stack.stop().await;
    let close = loop {
        if let Message::Close(close) = next(&mut page.socket).await {
            break close.expect("the page is told to come back");
        }
    };
    assert_eq!(u16::from(close.code), 1012);
    let address = url.trim_start_matches("http://").to_owned();
    let listener = std::net::TcpListener::bind(&address).unwrap();
    let stack = Stack::on(listener, data, (true, true)).await;
    assert_eq!(stack.caller.names().await, ["1"]);
    let mut page = stack.caller.page("1").await;
    page.until("before\r\n").await;
    page.typed("echo $kept\r").await;
    page.until("variable\r\n").await;
    let (data, _) = stack.stop().await;
    // And not where they are turned off meanwhile.
    let listener = std::net::TcpListener::bind(&address).unwrap();
    let stack = Stack::on(listener, data, (false, false)).await;
    assert!(stack.caller.names().await.is_empty());
    let (status, refused) = stack.caller.open(json!({})).await;
    assert_eq!((status, &refused["code"]), (403, &json!("terminals_off")));
    assert_eq!(refused["message"], "this gateway has no terminals");
    assert_eq!(stack.caller.connect("1", None).await.err(), Some(403));
    stack.stop().await;
}
