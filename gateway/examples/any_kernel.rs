//! A gateway with this machine as host, whose kernels are another program: benches compare it with other servers on the same
//! kernel. Prints its address, serves until its standard input ends.
//!
//! `any_kernel PROGRAMS DATA ARGUMENT...`: the folder of the agent, a folder of its own, and the kernel's command with
//! `{connection_file}` in it. The operator's token is `bench-operator-token`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_api::isolation::{Confinement, Isolation};
use alephlab_gateway::{Config, Gateway, HostConfig, Operator, ThisMachine};
use alephlab_vault::storage::MemoryStorage;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "any_kernel PROGRAMS DATA ARGUMENT...";
    let programs = PathBuf::from(arguments.next().ok_or(usage)?);
    let data = PathBuf::from(arguments.next().ok_or(usage)?);
    let argv: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::fs::create_dir_all(data.join("work"))?;
    // A sandbox shows our own programs; where others have theirs is not known.
    let isolation = match argv
        .first()
        .is_some_and(|program| Path::new(program).starts_with(&programs))
    {
        true => Isolation::Auto,
        false => Isolation::None,
    };
    let host = HostConfig {
        agent_program: programs.join("alephlab-agent"),
        kernel_program: programs.join("alephlab-kernel"),
        broker_program: None,
        runtime_dir: data.clone(),
        engine: Default::default(),
        work_dir: data.join("work"),
        cache: None,
        log: None,
        kernel_argv: Some(argv),
        confinement: Confinement {
            isolation,
            ..Default::default()
        },
        outlive: None,
    };
    let contents = data.join("work");
    let provider = ThisMachine::new(host.clone(), url.clone(), data.clone());
    let config = Config {
        listener,
        public_url: url.parse()?,
        fronts: Vec::new(),
        limits: Default::default(),
        data,
        database: None,
        standby: false,
        aleph_url: "http://127.0.0.1:9".to_owned(),
        operator: Operator {
            address: "0x7A3f09D2B8E14C5f6A7781E2D3905B64f1AAc41e".to_lowercase(),
            token: Secret::new("bench-operator-token"),
        },
        admitted: Vec::new(),
        oidc: None,
        host,
        kernel_price: Default::default(),
        contents,
        lab: None,
        max_kernels: 1 << 16,
        max_storage: None,
        idle: None,
        keep_kernels: false,
        renting: None,
        settlement: Default::default(),
        terminals: true,
        verifiers: None,
        follow: None,
        market: Default::default(),
    };
    let stop = CancellationToken::new();
    let storage = Arc::new(MemoryStorage::new());
    let handle = Gateway::start_with(config, storage, Arc::new(provider), stop.clone()).await?;
    writeln!(std::io::stdout(), "{url}")?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    stop.cancel();
    handle.join.await??;
    Ok(())
}
