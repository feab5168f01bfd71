//! What a broker tells who started it, and what of that its kernel finds in its environment.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// What a broker says on its standard output once it listens: a line, `ready` and this as JSON.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BrokerReady {
    /// Where it opens datasets, if cells are in a sandbox that has to be shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<PathBuf>,
    /// Where stock Hub clients of this kernel read models; none where there is no loopback to listen on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubAddress>,
}

/// Where a kernel's hub is, and what opens it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HubAddress {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// Stands for the kernel's account, at this hub alone.
    pub token: Secret,
    /// Where clients keep their copies, with the token for those that read it from a file; erased with the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<PathBuf>,
}

impl BrokerReady {
    const WORD: &str = "ready ";
    /// Names that clients do not ask a proxy for.
    const LOOPBACK: &str = "127.0.0.1";

    /// The line.
    ///
    /// # Errors
    /// Where a folder's path is not UTF-8.
    pub fn line(&self) -> Result<String, serde_json::Error> {
        Ok(format!("{}{}", Self::WORD, serde_json::to_string(self)?))
    }

    /// Reads the line; none when it is none.
    pub fn of_line(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim_end().strip_prefix(Self::WORD)?).ok()
    }

    /// Variables by which stock Hub clients in cells find the hub; `set` says what a variable holds already. None where an
    /// endpoint or a token is set: whoever did means another hub, which is not to be sent this kernel's token, nor this hub theirs.
    pub fn variables(&self, set: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
        let is_set = |name: &&str| set(name).is_some_and(|value| !value.is_empty());
        let Some(hub) = &self.hub else {
            return Vec::new();
        };
        if ["HF_ENDPOINT", "HF_TOKEN"].iter().any(is_set) {
            return Vec::new();
        }
        let mut variables = vec![
            ("HF_ENDPOINT", hub.url.clone()),
            ("HF_TOKEN", hub.token.expose().to_owned()),
        ];
        if let Some(home) = hub.home.as_ref().and_then(|home| home.to_str())
            && !is_set(&"HF_HOME")
        {
            variables.push(("HF_HOME", home.to_owned()));
        }
        // A proxy, of the machine or of a cell, must not be asked for this: it would see the token.
        let names = ["no_proxy", "NO_PROXY"];
        let known = names.iter().copied().filter(|name| is_set(name)).find_map(&set);
        let all = match known {
            Some(all) if all == "*" => all,
            Some(known) => format!("{known},{}", Self::LOOPBACK),
            None => Self::LOOPBACK.to_owned(),
        };
        variables.extend(names.map(|name| (name, all.clone())));
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_says_what_its_kernel_finds_in_its_environment() {
        let said = BrokerReady {
            opened: Some("/dev/shm/a b".into()),
            hub: Some(HubAddress {
                url: "http://127.0.0.1:7".into(),
                token: Secret::new("hf_canary"),
                home: Some("/tmp/k/hub".into()),
            }),
        };
        assert!(!format!("{said:?}").contains("canary"));
        let read = BrokerReady::of_line(&format!("{}\n", said.line().unwrap())).unwrap();
        assert_eq!(read.opened, said.opened);
        let plain = read.variables(|_| None);
        let hub = [
            ("HF_ENDPOINT", "http://127.0.0.1:7"),
            ("HF_TOKEN", "hf_canary"),
            ("HF_HOME", "/tmp/k/hub"),
            ("no_proxy", "127.0.0.1"),
            ("NO_PROXY", "127.0.0.1"),
        ];
        assert_eq!(plain, hub.map(|(name, value)| (name, value.to_owned())));
        // A proxy is not asked for the loopback, whatever else it is not asked for.
        for (known, all) in [("intern", "intern,127.0.0.1"), ("*", "*")] {
            let set = |name: &str| (name == "NO_PROXY").then(|| known.to_owned());
            let not = [("no_proxy", all), ("NO_PROXY", all)];
            assert_eq!(
                read.variables(set)[3..],
                not.map(|(name, value)| (name, value.to_owned()))
            );
        }
        // Copies go where somebody wants them.
        let own = read.variables(|name| (name == "HF_HOME").then(|| "/data/hf".to_owned()));
        assert!(own.iter().all(|(name, _)| *name != "HF_HOME"));
        // Whoever set one of both means another hub.
        for own in ["HF_ENDPOINT", "HF_TOKEN"] {
            let set = |name: &str| (name == own).then(|| "x".to_owned());
            assert!(read.variables(set).is_empty(), "{own}");
        }
        assert!(BrokerReady::default().variables(|_| None).is_empty());
        for bad in ["", "ready", "ready x", "no {}"] {
            assert!(BrokerReady::of_line(bad).is_none(), "{bad}");
        }
    }
}
