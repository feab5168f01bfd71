//! Where settings come from besides files: defaults, environment, flags, as providers of figment.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::{
    Account, Aleph, DEFAULTS, Data, ENV_PREFIX, ENVIRONMENT, FLAGS, Flags, Gateway, Hosts, Isolation, Kernel,
    LOCAL_NODE, Market, Oidc, Registry, Runtime, Settings, Settlement,
};

/// The values that hold when nobody says otherwise, for this data folder.
pub(super) struct Defaults(pub(super) PathBuf);

impl Provider for Defaults {
    fn metadata(&self) -> Metadata {
        Metadata::named(DEFAULTS)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let settings = Settings {
            data: Data { dir: self.0.clone() },
            account: Account {
                name: "owner".to_owned(),
                passphrase_file: None,
            },
            gateway: Gateway {
                port: 8890,
                listen: Ipv4Addr::LOCALHOST.into(),
                public_url: None,
                fronts: Vec::new(),
                max_failures: 60,
                max_texts: 30,
                standby: false,
                token: None,
                database: None,
                accounts: Vec::new(),
                kernel_price: "0".to_owned(),
                lab: None,
                max_kernels: 64,
                max_storage: 20 << 30,
                idle_minutes: 0,
                outlive_minutes: 10,
                keep_kernels: false,
                terminals: true,
            },
            hosts: Hosts::default(),
            oidc: Oidc {
                scopes: vec!["profile".to_owned()],
                ..Oidc::default()
            },
            market: Market::default(),
            registry: Registry::default(),
            settlement: Settlement::default(),
            isolation: Isolation::default(),
            aleph: Aleph {
                url: LOCAL_NODE.to_owned(),
                port: 0,
                cache_gib: 20,
            },
            kernel: Kernel::default(),
            runtime: Runtime::default(),
        };
        Serialized::defaults(settings).data()
    }
}

/// Our variables as text: figment's own provider would turn a token of digits into a number.
#[derive(Clone)]
pub(super) struct Environment(pub(super) Vec<(String, String)>);

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named(ENVIRONMENT)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let values = self.0.iter().filter_map(|(name, value)| {
            let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase().replace("__", ".");
            Some((key, Value::from(value.clone())))
        });
        Ok(nested(values))
    }
}

/// What stands on the command line.
#[derive(Clone)]
pub(super) struct FlagValues(pub(super) Flags);

impl Provider for FlagValues {
    fn metadata(&self) -> Metadata {
        Metadata::named(FLAGS)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let flags = &self.0;
        let data = flags
            .data
            .as_ref()
            .map(|path| Value::from(path.display().to_string()));
        let values = [
            ("data.dir", data),
            ("gateway.port", flags.port.map(Value::from)),
            ("gateway.token", flags.token.clone().map(Value::from)),
            ("gateway.standby", flags.standby.then(|| Value::from(true))),
            ("account.name", flags.account.clone().map(Value::from)),
        ];
        Ok(nested(
            values
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?))),
        ))
    }
}

fn nested(values: impl Iterator<Item = (String, Value)>) -> Map<Profile, Dict> {
    let mut dict = Dict::new();
    for (key, value) in values {
        match key.split_once('.') {
            Some((section, key)) => {
                let section = dict
                    .entry(section.to_owned())
                    .or_insert_with(|| Value::from(Dict::new()));
                if let Value::Dict(_, section) = section {
                    section.insert(key.to_owned(), value);
                }
            }
            None => drop(dict.insert(key, value)),
        }
    }
    Profile::Default.collect(dict)
}
