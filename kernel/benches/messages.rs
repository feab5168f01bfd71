//! What the kernel itself costs a message: round trips of a client in Rust, with an evaluator that does next to nothing.
//!
//! `cargo bench -p alephlab-kernel --bench messages`: median and p99 in microseconds, request to idle, over TCP.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints"
)]
#![expect(unreachable_pub, dead_code, reason = "the tests' client")]

#[path = "../tests/support/client.rs"]
mod client;

use std::net::TcpListener;
use std::time::Instant;

use alephlab_kernel::evaluator::scripted;
use alephlab_kernel::{Config, Connection, Kernel, Limits};
use client::Client;
use jupyter_protocol::{ConnectionInfo, Transport};
use serde_json::json;

const ROUNDS: usize = 5_000;
const WARM_UP: usize = 200;

fn main() {
    let kernel = tokio::runtime::Runtime::new().unwrap();
    let person = tokio::runtime::Runtime::new().unwrap();
    let info = tcp();
    let config = Config {
        connection: Connection::new(info.clone()),
        engine: scripted::engine(None),
        limits: Limits::default(),
        history: None,
    };
    let running = kernel.block_on(Kernel::start(config)).unwrap();
    person.block_on(async {
        let mut client = Client::connect(&info, "bench").await;
        let mut asked = Vec::with_capacity(ROUNDS);
        let mut executed = Vec::with_capacity(ROUNDS);
        for round in 0..WARM_UP + ROUNDS {
            let started = Instant::now();
            client.content("kernel_info_request", json!({})).await;
            let between = Instant::now();
            client.run("set x 1").await;
            if round >= WARM_UP {
                asked.push((between - started).as_nanos());
                executed.push(between.elapsed().as_nanos());
            }
        }
        report("kernel_info", asked);
        report("a cell without its evaluation", executed);
    });
    running.shut_down();
    kernel.block_on(running.wait());
}

fn report(name: &str, mut nanos: Vec<u128>) {
    nanos.sort_unstable();
    let at = |share: usize| nanos.get(nanos.len() * share / 100).copied().unwrap_or_default() / 1000;
    println!(
        "{name:32} median {:>6} µs   p99 {:>6} µs   {} times",
        at(50),
        at(99),
        nanos.len()
    );
}

fn tcp() -> ConnectionInfo {
    // All held at once, so that they differ.
    let held: Vec<TcpListener> = (0..5)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let port = |at: usize| held[at].local_addr().unwrap().port();
    ConnectionInfo {
        ip: "127.0.0.1".into(),
        transport: Transport::TCP,
        shell_port: port(0),
        iopub_port: port(1),
        stdin_port: port(2),
        control_port: port(3),
        hb_port: port(4),
        key: client::KEY.into(),
        signature_scheme: "hmac-sha256".into(),
        kernel_name: None,
    }
}
