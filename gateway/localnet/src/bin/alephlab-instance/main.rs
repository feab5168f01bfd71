//! `alephlab-instance`: what an instance of the local node runs, in the place of a virtual machine's own system.
//!
//! The local CRN starts it in a sandbox (`compute/sandbox.rs`) and hands it the socket of port 22 as its standard
//! input. It lets in whoever holds a key of the INSTANCE's `authorized_keys`, as `root`, and runs their commands. Its
//! standard output is the instance's console. Zombies are reaped by the sandbox's own init.
//!
//! It has no terminals, no forwarding and no passwords.

mod session;

use std::{fs, io, os::fd::AsFd, path::Path, sync::Arc, time::Duration};

use alephlab_localnet::INSTANCE_READY;
use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};
use russh::{
    MethodKind, MethodSet,
    keys::{Algorithm, PrivateKey, PublicKey, ssh_key::LineEnding},
    server,
};
use tokio::net::TcpListener;

use session::Session;

/// Written by the CRN at every start, from the message.
const AUTHORIZED_KEYS: &str = "/etc/ssh/authorized_keys";

/// Made here at the first boot.
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

/// Packets of at most 32 KiB that a command may leave unread. Beyond them a connection reads nothing more, not even that the
/// client has room again: a command that puts out what it reads, faster fed than heard, would stand still for ever.
const UNREAD_PACKETS: usize = 2_048;

/// How long a wrong key is answered after at least, whatever was wrong with it.
const REJECTION: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    // Before any thread is there, because only a process with one may do it.
    enter_own_namespaces().context("the instance may not be root of namespaces of its own")?;
    let keys = authorized_keys(&fs::read_to_string(AUTHORIZED_KEYS).context("authorized_keys")?);
    let host_key = host_key(Path::new(HOST_KEY)).context("the host key")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(keys, host_key))
}

/// Makes this process root over its files and over mounts that it makes, and over nothing that the sandbox laid:
/// mounts that come from outside are locked for the namespaces inside.
fn enter_own_namespaces() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Keys that can be read; of the others a line on the console says that they are not let in.
fn authorized_keys(text: &str) -> Vec<PublicKey> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| match PublicKey::from_openssh(line) {
            Ok(key) => Some(key),
            Err(error) => {
                println!("a line of authorized_keys is no key that this instance knows: {error}");
                None
            }
        })
        .collect()
}

fn host_key(path: &Path) -> Result<PrivateKey> {
    if path.exists() {
        return Ok(PrivateKey::read_openssh_file(path)?);
    }
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?;
    // Its permissions are the owner's only.
    key.write_openssh_file(path, LineEnding::LF)?;
    Ok(key)
}

async fn serve(keys: Vec<PublicKey>, host_key: PrivateKey) -> Result<()> {
    let listener = std::net::TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener).context("standard input is no socket that listens")?;
    let config = Arc::new(server::Config {
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        auth_rejection_time: REJECTION,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        // A client that only waits for a long command stays.
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(30)),
        channel_buffer_size: UNREAD_PACKETS,
        nodelay: true,
        ..server::Config::default()
    });
    let keys: Arc<[PublicKey]> = keys.into();
    println!("{INSTANCE_READY}");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let session = Session::new(Arc::clone(&keys));
        let config = Arc::clone(&config);
        tokio::spawn(async move {
            // Clients that leave in the middle are none of the console's business.
            if let Ok(running) = server::run_stream(config, stream, session).await {
                let _ = running.await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_keys_let_nobody_in() {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let line = key.public_key().to_openssh().unwrap();
        let keys = authorized_keys(&format!(
            "# comment\n\nssh-ed25519 AAAA\n  {line} name \nnonsense\n"
        ));
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].key_data(), key.public_key().key_data());
    }

    #[test]
    fn host_key_is_made_once() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("key");
        let made = host_key(&path).unwrap();
        assert_eq!(host_key(&path).unwrap().public_key(), made.public_key());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o077, 0);
    }
}
