//! The parts of `tests/bench/registry.py`, each a process of its own, so that its memory can be told.
//!
//! `registry network DATA` is a local Aleph node, `registry gateway DATA NODE` a gateway without a host, `registry publish GATEWAY
//! NODE NAME FILE` puts a public model there. The first two print their address and serve until their standard input ends.
//! `registry head ADDRESS CONNECTIONS SECONDS` asks for paths of its standard input by HEAD: wrk waits for bodies that do not come.
//! `registry read NODE FILE` reads what `publish` wrote into FILE.model: the ceiling of fetching, hashing and decrypting.

mod hostless;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alephlab_api::Secret;
use alephlab_api::account::SignIn;
use alephlab_api::client::GatewayClient;
use alephlab_api::model::{MODEL_RECORD_TYPE, ModelRecord, RecordFile, Visibility};
use alephlab_api::time::unix_now;
use alephlab_gateway::Operator;
use alephlab_localnet::{Localnet, bind};
use alephlab_vault::message::{sign_post, sign_store};
use alephlab_vault::share::narrow;
use alephlab_vault::storage::{Storage, nodes};
use alephlab_vault::{
    Keys, Meta, ObjectKeys, Reader, ReaderKey, SignedHead, Source, SourceFile, Wallet, find_grant,
    put_dataset,
};
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

type Done<T = ()> = Result<T, Box<dyn Error>>;

const USAGE: &str = "registry network DATA | gateway DATA NODE | publish GATEWAY NODE NAME FILE | read NODE FILE | head ADDRESS CONNECTIONS SECONDS";
/// Owns everything here, and is worth nothing.
const SECRET: [u8; 32] = [7; 32];

#[tokio::main]
async fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["network", data] => network(data).await,
        ["gateway", data, node] => gateway(Path::new(data), node).await,
        ["publish", gateway, node, name, file] => publish((gateway, node), name, Path::new(file)).await,
        ["read", node, file] => read(node, Path::new(file)).await,
        ["head", address, connections, seconds] => {
            head(address, connections.parse()?, seconds.parse()?).await
        }
        _ => Err(USAGE.into()),
    }
}

/// Says where, and waits until nobody needs it.
async fn serve(url: &str, stop: CancellationToken) -> Done {
    writeln!(std::io::stdout(), "{url}")?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    stop.cancel();
    Ok(())
}

async fn network(data: &str) -> Done {
    let listener = bind(([127, 0, 0, 1], 0).into()).await?;
    let mut config = alephlab_localnet::Config::new(listener, data);
    config.credits = u64::from(u32::MAX) * 1000;
    let stop = CancellationToken::new();
    let handle = Localnet::start(config, stop.clone()).await?;
    serve(handle.url.as_str().trim_end_matches('/'), stop).await?;
    handle.join.await??;
    Ok(())
}

async fn gateway(data: &Path, node: &str) -> Done {
    let operator = Operator {
        address: Wallet::from_secret(&SECRET)?.address(),
        token: Secret::new("bench-operator-token"),
    };
    hostless::run(data, node, operator, Vec::new()).await
}

async fn publish((gateway, node): (&str, &str), name: &str, file: &Path) -> Done {
    let (wallet, key) = (Wallet::from_secret(&SECRET)?, ReaderKey::generate()?);
    let storage = nodes(node)?;
    let bytes = std::fs::metadata(file)?.len();
    let sha256 = std::process::Command::new("sha256sum").arg(file).output()?.stdout;
    let source = SourceFile {
        path: "model.safetensors".to_owned(),
        source: Source::Path(file.to_owned()),
        mime: None,
        mtime: None,
        executable: false,
        attributes: BTreeMap::new(),
    };
    let put = put_dataset(
        Arc::clone(&storage),
        &wallet,
        &key,
        vec![source],
        Meta::default(),
        None,
        &|_| {},
    )
    .await?;
    let secret = find_grant(storage.as_ref(), &put.head, &key).await?;
    let reader = Reader::open(Arc::clone(&storage), &put.head, Keys::Epoch(secret)).await?;
    let (keys, root) = narrow(&reader, &put.head_message)?;
    let store = sign_store(&wallet, &keys.root.at.item_hash, u64::try_from(root.bytes.len())?)?;
    storage.put(root.bytes, &store).await?;
    let record = ModelRecord {
        owner: wallet.address(),
        name: format!("{}/{name}", wallet.address()),
        uuid: Uuid::new_v4(),
        commit: put.head.revision(),
        price: "free".to_owned(),
        visibility: Visibility::Public,
        keys: Some(keys.to_public()),
        sealed: None,
        files: vec![RecordFile {
            path: "model.safetensors".to_owned(),
            size: bytes,
            sha256: String::from_utf8(sha256)?
                .get(..64)
                .unwrap_or_default()
                .to_owned(),
        }],
        head: put.head_message.clone(),
        created: unix_now(),
        ..ModelRecord::default()
    };
    let post = sign_post(&wallet, MODEL_RECORD_TYPE, serde_json::to_value(&record)?, None)?;
    storage.publish(&post).await?;
    let opened = serde_json::json!({ "head": put.head, "keys": record.keys });
    std::fs::write(file.with_extension("model"), opened.to_string())?;
    let client = GatewayClient::new(gateway, None)?;
    let challenge = client.challenge(&wallet.address()).await?;
    let signed = SignIn {
        address: wallet.address(),
        nonce: challenge.nonce,
        signature: wallet.sign_text(&challenge.message)?,
    };
    let signed = client.sign_in(&signed).await?;
    client
        .with_token(signed.token)
        .add_model(&post.item_hash())
        .await?;
    writeln!(std::io::stdout(), "{}", record.name)?;
    Ok(())
}

async fn read(node: &str, file: &Path) -> Done {
    let opened: serde_json::Value = serde_json::from_slice(&std::fs::read(file.with_extension("model"))?)?;
    let head: SignedHead = serde_json::from_value(opened["head"].clone())?;
    let keys = ObjectKeys::from_public(opened["keys"].as_str().unwrap_or_default())?;
    let storage: Arc<dyn Storage> = nodes(node)?;
    let reader = Reader::open(storage, &head, Keys::Objects(keys)).await?;
    let begun = Instant::now();
    let mut stream = reader.stream_slices("model.safetensors", 0..u64::MAX)?;
    let mut bytes = 0;
    while let Some(piece) = stream.next().await {
        bytes += piece?.len();
    }
    let seconds = begun.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{bytes} {seconds:.3}")?;
    Ok(())
}

async fn head(address: &str, connections: usize, seconds: u64) -> Done {
    let mut paths = String::new();
    std::io::stdin().read_to_string(&mut paths)?;
    let paths: Arc<[String]> = paths.lines().map(str::to_owned).collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    let asking: Vec<_> = (0..connections)
        .map(|first| tokio::spawn(ask(address.to_owned(), Arc::clone(&paths), first * 7919, until)))
        .collect();
    let mut times = Vec::new();
    for asked in asking {
        times.extend(asked.await??);
    }
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .map_or(0.0, |time: &Duration| time.as_secs_f64() * 1e3)
    };
    let rate = times.len() as u64 / seconds.max(1);
    writeln!(
        std::io::stdout(),
        "{{\"p50\": {:.3}, \"p99\": {:.3}, \"rate\": {rate}}}",
        at(50),
        at(99)
    )?;
    Ok(())
}

/// One connection that is kept: how long each answer took.
async fn ask(
    address: String,
    paths: Arc<[String]>,
    first: usize,
    until: Instant,
) -> std::io::Result<Vec<Duration>> {
    let mut connection = TcpStream::connect(&address).await?;
    connection.set_nodelay(true)?;
    let (mut times, mut answer) = (Vec::new(), Vec::new());
    for number in first.. {
        if Instant::now() > until {
            break;
        }
        let path = &paths[number * 31 % paths.len()];
        let begun = Instant::now();
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        answer.clear();
        while !answer.ends_with(b"\r\n\r\n") {
            if connection.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(std::io::Error::other(
                String::from_utf8_lossy(&answer).into_owned(),
            ));
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}
