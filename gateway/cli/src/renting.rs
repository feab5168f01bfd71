//! Hosts beyond this machine: the account that rents them, the door that their agents come through, and, on the local network,
//! hosts that are sandboxes on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alephlab_api::agent::HostFile;
use alephlab_gateway::{Aleph, AlephConfig, CreditsConfig, LeaseSecrets, Renting};
use alephlab_localnet::{ComputeConfig, CrnConfig, GpuConfig};
use alephlab_vault::message::sign_store;
use alephlab_vault::storage::Storage;
use alephlab_vault::{SignedMessage, Wallet};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::build::prepare::Prepared;
use crate::data::{DataFolder, read_json, write_json};
use crate::error::{CliError, Result};
use crate::settings::Settings;

/// What the local network's hosts boot; they are sandboxes that see this machine's programs, so it says only that.
const LOCAL_IMAGE: &[u8] = b"alephlab: hosts of the local network boot this machine's own programs\n";
fn wrong(message: String) -> CliError {
    CliError::Setting { message }
}

/// The account that rents hosts, made when there is none.
pub(crate) fn wallet(data: &DataFolder) -> Result<Wallet> {
    let path = data.gateway().join("renting.key");
    let unusable = |error| CliError::vault("the renting account's key cannot be used", &error);
    if path.exists() {
        return Wallet::load(&path, None).map_err(unusable);
    }
    let wallet = Wallet::generate().map_err(unusable)?;
    wallet.save(&path, None).map_err(unusable)?;
    Ok(wallet)
}

/// How the gateway sends credits to accounts' own addresses; none where no ALEPH becomes credits.
pub(crate) fn credits(
    settings: &Settings,
    data: &DataFolder,
    aleph_url: &str,
) -> Result<Option<CreditsConfig>> {
    if settings.settlement.rate(data.root())?.is_none() {
        return Ok(None);
    }
    let first = aleph_url.split(',').next().unwrap_or_default().trim();
    let node = first
        .parse()
        .map_err(|error| wrong(format!("aleph.url: `{first}` is no URL: {error}")))?;
    data.make(&data.gateway())?;
    Ok(Some(CreditsConfig {
        wallet: wallet(data)?,
        node,
    }))
}

/// How the gateway rents hosts; none when it is not to.
pub(crate) async fn renting(
    settings: &Settings,
    data: &DataFolder,
    aleph_url: &str,
    storage: &dyn Storage,
) -> Result<Option<Renting>> {
    let hosts = &settings.hosts;
    if !hosts.aleph {
        return Ok(None);
    }
    let listens_here = hosts.listen.ip().is_loopback() || hosts.listen.ip().is_unspecified();
    if hosts.local.is_empty() && hosts.address.is_none() && listens_here {
        let message = format!(
            "hosts.address is not set, and no rented host could dial {}: write the name and port under which they reach this machine",
            hosts.listen
        );
        return Err(wrong(message));
    }
    data.make(&data.gateway())?;
    let wallet = wallet(data)?;
    let image = match &hosts.image {
        None if !hosts.local.is_empty() => Some(local_image(data, &wallet, storage).await?),
        image => image.clone(),
    };
    let url = |key: &str, text: &str| {
        text.parse::<url::Url>()
            .map_err(|error| wrong(format!("{key}: `{text}` is no URL: {error}")))
    };
    let first = aleph_url.split(',').next().unwrap_or_default().trim();
    let failed = |error: alephlab_gateway::GatewayError| wrong(error.to_string());
    let aleph = Aleph::new(AlephConfig {
        node: url("aleph.url", first)?,
        crns: url("hosts.crns", &hosts.list(first))?,
        image,
        wallet,
        secrets: LeaseSecrets::open(&data.gateway()).map_err(failed)?,
        prices_for: Aleph::PRICES_FOR,
    });
    let listener = std::net::TcpListener::bind(hosts.listen);
    Ok(Some(Renting {
        providers: vec![Arc::new(aleph.map_err(failed)?)],
        listener: listener
            .map_err(|error| wrong(format!("hosts.listen: {} cannot be used: {error}", hosts.listen)))?,
        address: hosts.address.clone(),
        outlive: settings.gateway.outlive().unwrap_or(Duration::from_secs(60)),
    }))
}

/// The local network takes an INSTANCE only with an image that it has.
async fn local_image(data: &DataFolder, wallet: &Wallet, storage: &dyn Storage) -> Result<String> {
    let known = data.gateway().join("local-image.json");
    if let Some(store) = read_json::<SignedMessage>(&known)? {
        let failed = |error| CliError::vault("the local hosts' image was not stored", &error);
        storage
            .put(Bytes::from_static(LOCAL_IMAGE), &store)
            .await
            .map_err(failed)?;
        return Ok(store.item_hash());
    }
    let failed = |error| CliError::vault("the local hosts' image was not stored", &error);
    let hash = hex::encode(Sha256::digest(LOCAL_IMAGE));
    let store = sign_store(wallet, &hash, LOCAL_IMAGE.len() as u64).map_err(failed)?;
    storage
        .put(Bytes::from_static(LOCAL_IMAGE), &store)
        .await
        .map_err(failed)?;
    write_json(&known, &store)?;
    Ok(store.item_hash())
}

/// Hosts of the local network; none when no card is named.
pub(crate) fn compute(settings: &Settings, prepared: &Prepared) -> Result<Option<ComputeConfig>> {
    let cards = &settings.hosts.local;
    if cards.is_empty() {
        return Ok(None);
    }
    let gpus = cards.iter().map(|name| card(name)).collect::<Result<Vec<_>>>()?;
    let programs = &prepared.programs;
    let node = CrnConfig {
        name: "this machine, sandboxed (no card is real)".to_owned(),
        gpus,
        cpus: 256,
        memory_mib: 1 << 20,
        listener: None,
    };
    let mut compute = ComputeConfig::new(vec![node], programs.instance.clone());
    let host = HostFile {
        kernel_program: programs.kernel.clone(),
        broker_program: Some(programs.broker.clone()),
        runtime_dir: prepared.runtime_dir.clone(),
        engine: prepared.engine,
        work_dir: PathBuf::from("/root"),
        run_dir: PathBuf::from("/run/alephlab"),
        kernel_argv: None,
        confinement: settings.isolation.of_rented(),
    };
    compute.host_file = serde_json::to_vec(&host).ok();
    let folder = programs.agent.parent().map(PathBuf::from).unwrap_or_default();
    let cargo = home("CARGO_HOME", ".cargo");
    let rustup = home("RUSTUP_HOME", ".rustup");
    compute.path = vec![folder.clone(), cargo.join("bin")];
    compute.env = vec![("RUSTUP_HOME".to_owned(), rustup.display().to_string())];
    compute.programs = vec![folder, prepared.runtime_dir.clone(), cargo, rustup];
    Ok(Some(compute))
}

fn home(variable: &str, default: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from);
    set.unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        home.join(default)
    })
}

fn card(name: &str) -> Result<GpuConfig> {
    let known =
        Aleph::cards().find(|(model, id)| model.eq_ignore_ascii_case(name.trim()) || *id == name.trim());
    let Some((model, id)) = known else {
        let all: Vec<_> = Aleph::cards().map(|(model, _)| model).collect();
        let all = all.join(", ");
        return Err(wrong(format!(
            "hosts.local: there is no card `{name}`; there are {all}"
        )));
    };
    Ok(GpuConfig {
        device_id: id.to_owned(),
        model: model.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_named_by_model_or_id() {
        assert_eq!(card(" rtx 4090").unwrap().device_id, "10de:2684");
        assert_eq!(card("10de:2330").unwrap().model, "H100");
        assert!(card("Voodoo").unwrap_err().to_string().contains("H100"));
    }
}
