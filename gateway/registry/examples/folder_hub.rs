//! A Hub over a folder on this machine, for the tests with real clients.
//!
//! `folder_hub DIR [--part BYTES] NAME=TOKEN… READER=TOKEN:read…` serves until it is killed, and says where in one line of
//! JSON.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::Secret;
use alephlab_registry::folder::{Account, FolderLibrary};
use alephlab_registry::staging::Limits;
use alephlab_registry::{Hub, Staging, unknown_route};
use axum::extract::Request;

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("a folder must be named")?);
    let mut limits = Limits::default();
    let mut accounts = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--part" {
            limits.part = arguments.next().ok_or("--part needs a number")?.parse()?;
        } else if argument == "--most" {
            limits.object = arguments.next().ok_or("--most needs a number")?.parse()?;
        } else {
            let (name, token) = argument.split_once('=').ok_or("accounts are NAME=TOKEN")?;
            accounts.push(Account {
                name: name.to_owned(),
                token: Secret::new(token.trim_end_matches(":read")),
                may_write: !token.ends_with(":read"),
            });
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let library = FolderLibrary::open(&folder.join("models"), accounts)?;
    let staging = Staging::open(&folder.join("staging"), limits)?;
    let hub = Hub::new(Arc::<FolderLibrary>::clone(&library))
        .written_by(&url.parse()?, library, staging)
        .router()
        .fallback(|request: Request| async move {
            unknown_route(request.method().as_str(), request.uri().path())
        });
    println!("{{\"url\":\"{url}\"}}");
    axum::serve(listener, hub.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
