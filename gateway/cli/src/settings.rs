//! Settings: defaults < `alephlab.toml` in the data folder < `alephlab.toml` here < `ALEPHLAB__SECTION__KEY` < flags.
//!
//! Each section is a struct of its own; an unknown key is refused by name. Where a value came from is kept for
//! `alephlab config show`. This module reads settings and does nothing with them.

mod gateway;
mod hosts;
mod isolation;
mod keys;
mod market;
mod oidc;
mod registry;
mod settlement;
mod sources;
mod values;

use std::path::{Path, PathBuf};

use alephlab_api::agent::{Engine, ObjectCache};
use alephlab_vault::Address;
use figment::Figment;
use figment::providers::{Format, Toml};
use serde::{Deserialize, Serialize};
use sources::{Defaults, Environment, FlagValues};
use values::{gibibytes, port, yes_or_no};

pub(crate) use gateway::Gateway;
pub(crate) use hosts::Hosts;
pub(crate) use isolation::Isolation;
pub(crate) use keys::KEYS;
pub(crate) use market::Market;
pub(crate) use oidc::Oidc;
pub(crate) use registry::Registry;
pub(crate) use settlement::Settlement;

use crate::data::DataFolder;
use crate::error::{CliError, Result};

/// Prefix of our environment variables; sections and keys are joined with two underscores.
const ENV_PREFIX: &str = "ALEPHLAB__";
/// Name of the settings file.
const FILE_NAME: &str = "alephlab.toml";
/// The gateway takes no shorter one: it could be guessed.
const TOKEN_CHARS_MIN: usize = 16;
/// The value of `aleph.url` that means the node on this machine.
const LOCAL_NODE: &str = "local";

/// All settings. No `Debug`: the token is among them.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Section `data`.
    pub data: Data,
    /// Section `account`.
    pub account: Account,
    /// Section `gateway`.
    pub gateway: Gateway,
    /// Section `hosts`.
    #[serde(default)]
    pub hosts: Hosts,
    /// Section `isolation`.
    #[serde(default)]
    pub isolation: Isolation,
    /// Section `market`.
    #[serde(default)]
    pub market: Market,
    /// Section `oidc`.
    pub oidc: Oidc,
    /// Section `registry`.
    #[serde(default)]
    pub registry: Registry,
    /// Section `settlement`.
    #[serde(default)]
    pub settlement: Settlement,
    /// Section `aleph`.
    pub aleph: Aleph,
    /// Section `kernel`.
    #[serde(default)]
    pub kernel: Kernel,
    /// Section `runtime`.
    pub runtime: Runtime,
}

/// Section `data`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Data {
    /// The data folder.
    pub dir: PathBuf,
}

/// Section `account`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    /// Name of the operator's account.
    pub name: String,
    /// File with the passphrase of accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
}

/// Section `aleph`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Aleph {
    /// A URL, or `local`.
    pub url: String,
    /// TCP port of the local node.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// Room for objects of remote nodes.
    #[serde(deserialize_with = "gibibytes")]
    pub cache_gib: u64,
}

impl Aleph {
    /// The configured node, or none when this machine's own is to be started.
    pub(crate) fn remote(&self) -> Option<&str> {
        (self.url != LOCAL_NODE).then_some(self.url.as_str())
    }

    /// Where this machine keeps objects. Those of the node on this machine lie on its disk already.
    pub(crate) fn cache(&self, data: &DataFolder) -> Option<ObjectCache> {
        let keeps = self.remote().is_some() && self.cache_gib > 0;
        keeps.then(|| ObjectCache {
            folder: data.objects(),
            bytes_max: self.cache_gib << 30,
        })
    }
}

/// Section `kernel`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    /// What compiles cells.
    #[serde(default)]
    pub engine: Engine,
    /// Whether the text of cells is kept for later kernels.
    #[serde(default = "yes", deserialize_with = "yes_or_no")]
    pub history: bool,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            history: true,
        }
    }
}

fn yes() -> bool {
    true
}

/// Section `runtime`.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Runtime {
    /// The runtime template itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// The workspace that it is built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
}

/// What flags say about settings.
#[derive(Clone, Default)]
pub(crate) struct Flags {
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--port`.
    pub port: Option<u16>,
    /// `--token`.
    pub token: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--standby`.
    pub standby: bool,
}

/// Settings together with their sources.
pub(crate) struct Loaded {
    /// The values.
    pub settings: Settings,
    figment: Figment,
}

/// Reads the settings for this process.
pub(crate) fn load(flags: &Flags) -> Result<Loaded> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    load_from(flags, &here, default_data_folder(), std::env::vars().collect())
}

impl Loaded {
    /// The data folder, for commands that only look.
    pub(crate) fn data(&self) -> DataFolder {
        self.unlocked(DataFolder::at(&self.settings.data.dir))
    }

    /// The data folder, made when it is missing.
    pub(crate) fn open_data(&self) -> Result<DataFolder> {
        Ok(self.unlocked(DataFolder::open(&self.settings.data.dir)?))
    }

    fn unlocked(&self, data: DataFolder) -> DataFolder {
        data.unlocked_by(self.settings.account.passphrase_file.clone())
    }

    /// Whether the user chose this value in any way.
    pub(crate) fn is_chosen(&self, key: &str) -> bool {
        self.figment
            .find_metadata(key)
            .is_some_and(|metadata| metadata.name != DEFAULTS)
    }

    /// Where a value comes from, in words.
    pub(crate) fn source(&self, key: &str) -> String {
        let Some(metadata) = self.figment.find_metadata(key) else {
            return DEFAULTS.to_owned();
        };
        match (&*metadata.name, metadata.source.as_ref()) {
            (ENVIRONMENT, _) => format!("environment {}", variable(key)),
            (_, Some(source)) => match source.file_path() {
                Some(path) => path.display().to_string(),
                None => metadata.name.to_string(),
            },
            (name, None) => name.to_owned(),
        }
    }

    /// The value as JSON; the token and the chain's node only as a word and no password of a database, because this is for showing.
    pub(crate) fn shown(&self, key: &str) -> serde_json::Value {
        let found = self.figment.find_value(key).ok();
        let value = found.and_then(|value| value.deserialize::<serde_json::Value>().ok());
        match value {
            Some(_) if key == "gateway.token" || key == "settlement.node" => "(set)".into(),
            Some(_) if key == "gateway.database" => {
                let database = self.settings.gateway.database.as_ref();
                database.map_or(serde_json::Value::Null, |url| url.to_string().into())
            }
            Some(value) => value,
            None => serde_json::Value::Null,
        }
    }
}

const DEFAULTS: &str = "default";
const ENVIRONMENT: &str = "environment";
const FLAGS: &str = "command line";

fn load_from(flags: &Flags, here: &Path, data: PathBuf, variables: Vec<(String, String)>) -> Result<Loaded> {
    let environment = Environment(variables);
    let chosen = FlagValues(flags.clone());
    // A missing file is no error; absolute, so that figment does not look for it in parent folders.
    let here_file = || Toml::file(here.join(FILE_NAME));
    let first = Figment::from(Defaults(data))
        .merge(here_file())
        .merge(environment.clone())
        .merge(chosen.clone());
    let dir: PathBuf = first.extract_inner("data.dir").map_err(|error| refuse(&error))?;
    let data_file = here.join(&dir).join(FILE_NAME);
    let own = Figment::from(Toml::file(&data_file));
    if own.find_value("data.dir").is_ok() {
        let message = format!(
            "{} sets data.dir, but it lies in the data folder itself: remove it",
            data_file.display()
        );
        return Err(CliError::Setting { message });
    }
    let figment = Figment::from(Defaults(dir))
        .merge(Toml::file(&data_file))
        .merge(here_file())
        .merge(environment)
        .merge(chosen);
    let mut settings: Settings = figment.extract().map_err(|error| refuse(&error))?;
    settings.data.dir = here.join(&settings.data.dir);
    check(&settings)?;
    Ok(Loaded { settings, figment })
}

fn check(settings: &Settings) -> Result<()> {
    let refuse = |message: String| Err(CliError::Setting { message });
    if let Some(token) = &settings.gateway.token
        && (token.len() < TOKEN_CHARS_MIN || !token.chars().all(|c| c.is_ascii_graphic()))
    {
        let message =
            format!("gateway.token must be at least {TOKEN_CHARS_MIN} printable ASCII characters, no spaces");
        return refuse(message);
    }
    let gateway = &settings.gateway;
    let is_secure = gateway
        .public_url
        .as_ref()
        .is_some_and(|url| url.scheme() == "https");
    if !gateway.listen.is_loopback() && !is_secure {
        return refuse(format!(
            "gateway.listen is {}, which others can reach without TLS: set gateway.public_url to the https address of the front that brings it, or listen on 127.0.0.1",
            gateway.listen
        ));
    }
    for account in &settings.gateway.accounts {
        if account.parse::<Address>().is_err() {
            return refuse(format!(
                "gateway.accounts names {account:?}, which is no address: write 0x and 40 hex digits"
            ));
        }
    }
    if let Some(url) = settings.aleph.remote()
        && !url
            .split(',')
            .all(|one| url::Url::parse(one.trim()).is_ok_and(|url| matches!(url.scheme(), "http" | "https")))
    {
        return refuse(format!(
            "aleph.url is {url:?}, which is neither \"local\" nor an http or https URL, nor several with commas between them"
        ));
    }
    Ok(())
}

/// One sentence out of figment's error: the key and where it was found.
fn refuse(error: &figment::Error) -> CliError {
    let first = error.clone().into_iter().next();
    let Some(first) = first else {
        return CliError::Setting {
            message: error.to_string(),
        };
    };
    let place = match first.metadata.as_ref() {
        Some(metadata) => match metadata.source.as_ref().and_then(figment::Source::file_path) {
            Some(path) => format!(" in {}", path.display()),
            None => format!(" from the {}", metadata.name),
        },
        None => String::new(),
    };
    let key = first.path.join(".");
    let message = match &first.kind {
        figment::error::Kind::UnknownField(field, known) => {
            // The path of an unknown field names its section only in some versions: never name it twice.
            let full = if key.is_empty() || key.ends_with(field.as_str()) {
                if key.is_empty() { field.clone() } else { key }
            } else {
                format!("{key}.{field}")
            };
            format!("unknown setting {full}{place}; known here: {}", known.join(", "))
        }
        kind => format!("setting {key}{place}: {kind}"),
    };
    CliError::Setting { message }
}

/// The folder for data by the XDG rules.
fn default_data_folder() -> PathBuf {
    xdg("XDG_DATA_HOME", ".local/share").join("alephlab")
}

/// An XDG base folder: the variable when it is absolute, else its default below the home folder.
pub(crate) fn xdg(variable: &str, fallback: &str) -> PathBuf {
    let named = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    named.unwrap_or_else(|| {
        std::env::home_dir()
            .unwrap_or_else(|| PathBuf::from("/"))
            .join(fallback)
    })
}

/// The environment variable of a setting.
pub(crate) fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;

    fn loaded(folder: &Path, flags: &Flags, variables: &[(&str, &str)]) -> Result<Loaded> {
        let variables = variables
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        load_from(flags, folder, folder.join("data"), variables)
    }

    fn message(result: Result<Loaded>) -> String {
        result.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_password_of_a_database_is_neither_shown_nor_repeated() {
        let folder = scratch();
        let variable = "ALEPHLAB__GATEWAY__DATABASE";
        let with = |url| loaded(folder.path(), &Flags::default(), &[(variable, url)]);
        let found = with("postgres://ada:hunter2@db.example/lab").unwrap();
        assert_eq!(
            found.shown("gateway.database"),
            "postgres://ada:***@db.example/lab"
        );
        assert!(with("").is_err());
        let refused = message(with("mysql://ada:hunter2@db.example/lab"));
        assert!(
            refused.contains("gateway.database") && refused.contains("mysql"),
            "{refused}"
        );
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!(
            loaded(folder.path(), &Flags::default(), &[])
                .unwrap()
                .shown("gateway.database"),
            serde_json::Value::Null
        );
    }

    #[test]
    fn later_sources_win_and_are_named() {
        let folder = scratch();
        let here = folder.path().join(FILE_NAME);
        std::fs::write(
            &here,
            "[gateway]\nport = 1\n[aleph]\nport = 2\n[account]\nname = \"file\"\n",
        )
        .unwrap();
        let flags = Flags {
            port: Some(4),
            ..Flags::default()
        };
        let loaded = loaded(
            folder.path(),
            &flags,
            &[("ALEPHLAB__ALEPH__PORT", "3"), ("OTHER", "x")],
        )
        .unwrap();
        let settings = &loaded.settings;
        assert_eq!(
            (
                settings.gateway.port,
                settings.aleph.port,
                settings.account.name.as_str()
            ),
            (4, 3, "file")
        );
        assert_eq!(loaded.source("gateway.port"), "command line");
        assert_eq!(loaded.source("aleph.port"), "environment ALEPHLAB__ALEPH__PORT");
        assert_eq!(loaded.source("account.name"), here.display().to_string());
        assert_eq!(loaded.source("aleph.url"), "default");
        assert!(loaded.is_chosen("gateway.port") && !loaded.is_chosen("aleph.url"));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let folder = scratch();
        let text = message(loaded(
            folder.path(),
            &Flags::default(),
            &[("ALEPHLAB__GATEWAY__PROT", "1")],
        ));
        assert!(
            text.contains("gateway.prot") && text.contains("environment"),
            "{text}"
        );
        std::fs::write(folder.path().join(FILE_NAME), "[gatewy]\nport = 1\n").unwrap();
        let text = message(loaded(folder.path(), &Flags::default(), &[]));
        assert!(text.contains("gatewy") && text.contains(FILE_NAME), "{text}");
    }

    #[test]
    fn a_token_of_digits_stays_text_and_is_never_shown() {
        let folder = scratch();
        let loaded = loaded(
            folder.path(),
            &Flags::default(),
            &[("ALEPHLAB__GATEWAY__TOKEN", "0012345678901234")],
        )
        .unwrap();
        assert_eq!(loaded.settings.gateway.token.as_deref(), Some("0012345678901234"));
        assert_eq!(loaded.shown("gateway.token"), "(set)");
    }

    #[test]
    fn accounts_are_addresses_from_a_list_or_with_commas() {
        let folder = scratch();
        let [one, two] = ["ab", "cd"].map(|digits| format!("0x{}", digits.repeat(20)));
        let both = format!("{one}, {two},");
        let loaded = |variables: &[(&str, &str)]| loaded(folder.path(), &Flags::default(), variables);
        let accounts = |loaded: Result<Loaded>| loaded.unwrap().settings.gateway.accounts;
        assert!(accounts(loaded(&[])).is_empty());
        assert_eq!(
            accounts(loaded(&[("ALEPHLAB__GATEWAY__ACCOUNTS", &both)])),
            [one.clone(), two]
        );
        let text = message(loaded(&[("ALEPHLAB__GATEWAY__ACCOUNTS", "0x12")]));
        assert!(
            text.contains("gateway.accounts") && text.contains("\"0x12\"") && text.contains("40 hex digits"),
            "{text}"
        );
        let file = folder.path().join(FILE_NAME);
        std::fs::write(&file, format!("[gateway]\naccounts = [\"{one}\"]\n")).unwrap();
        assert_eq!(accounts(loaded(&[])), [one]);
        std::fs::write(&file, "[gateway]\naccounts = [7]\n").unwrap();
        let text = message(loaded(&[]));
        assert!(
            text.contains("gateway.accounts") && text.contains("a list of texts in quotes"),
            "{text}"
        );
    }

    #[test]
    fn others_reach_the_gateway_through_a_front_with_tls_only() {
        let folder = scratch();
        let with = |variables: &[(&str, &str)]| loaded(folder.path(), &Flags::default(), variables);
        let everywhere = ("ALEPHLAB__GATEWAY__LISTEN", "0.0.0.0");
        let public = "ALEPHLAB__GATEWAY__PUBLIC_URL";
        for refused in [vec![everywhere], vec![everywhere, (public, "http://lab.example")]] {
            let text = message(with(&refused));
            assert!(text.contains("gateway.listen") && text.contains("TLS"), "{text}");
        }
        assert!(with(&[everywhere, (public, "https://lab.example")]).is_ok());
        for wrong in [
            "lab.example",
            "https://lab.example/hub",
            "https://ada@lab.example",
        ] {
            assert!(message(with(&[(public, wrong)])).contains("gateway.public_url"));
        }
        let fronts = ("ALEPHLAB__GATEWAY__FRONTS", "10.0.0.2, ::1");
        assert_eq!(with(&[fronts]).unwrap().settings.gateway.fronts.len(), 2);
        let text = message(with(&[("ALEPHLAB__GATEWAY__FRONTS", "front.example")]));
        assert!(text.contains("gateway.fronts"), "{text}");
    }

    #[test]
    fn values_that_cannot_be_used_are_refused() {
        let folder = scratch();
        let text = message(loaded(
            folder.path(),
            &Flags::default(),
            &[("ALEPHLAB__GATEWAY__PORT", "70000")],
        ));
        assert!(text.contains("gateway.port"), "{text}");
        let text = message(loaded(
            folder.path(),
            &Flags::default(),
            &[("ALEPHLAB__ALEPH__URL", "ftp://x")],
        ));
        assert!(text.contains("aleph.url"), "{text}");
    }

    #[test]
    fn the_data_folders_file_cannot_move_the_data_folder() {
        let folder = scratch();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join(FILE_NAME), "[gateway]\nport = 9\n").unwrap();
        assert_eq!(
            loaded(folder.path(), &Flags::default(), &[])
                .unwrap()
                .settings
                .gateway
                .port,
            9
        );
        std::fs::write(data.join(FILE_NAME), "[data]\ndir = \"/tmp\"\n").unwrap();
        assert!(message(loaded(folder.path(), &Flags::default(), &[])).contains("data.dir"));
    }
}
