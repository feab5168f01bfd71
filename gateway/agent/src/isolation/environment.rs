//! Variables for what runs in a sandbox, or in a terminal: the agent's own may be secret, the gateway's settings in them above
//! all.

use std::ffi::OsString;
use std::path::Path;

use super::sandbox::{cargo_home, rustup_home};

/// What programs expect.
const PASSED: [&str; 34] = [
    "ALL_PROXY",
    "ALEPHLAB_CUDA_LIBRARIES",
    "ALEPHLAB_DEVICE",
    "ALEPHLAB_LOG",
    "AR",
    "CARGO_HOME",
    "CC",
    "CFLAGS",
    "CXX",
    "CXXFLAGS",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LANGUAGE",
    "LDFLAGS",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "PKG_CONFIG_PATH",
    "RUSTFLAGS",
    "RUSTUP_HOME",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// Beginnings of names.
const PASSED_GROUPS: [&str; 12] = [
    "CARGO_BUILD_",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_SOURCE_",
    "CUDA_",
    "EVCXR_",
    "LC_",
    "NVIDIA_",
    "OMP_",
    "RAYON_",
    "XDG_",
];
/// Whatever else it is called, what has such a part in its name is left out.
const SECRET: [&str; 4] = ["CREDENTIAL", "PASSWORD", "SECRET", "TOKEN"];

/// The agent's variables that are passed on. In a sandbox with this home, those that name folders are right there.
pub(crate) fn variables(sandbox_home: Option<&Path>) -> Vec<(OsString, OsString)> {
    let all = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_passed));
    let mut passed: Vec<_> = all.collect();
    if let Some(home) = sandbox_home {
        let gone = ["HOME", "TMPDIR", "CARGO_HOME", "RUSTUP_HOME"];
        passed.retain(|(name, _)| {
            !gone.iter().any(|gone| name == gone) && !name.to_string_lossy().starts_with("XDG_")
        });
        let set = [
            ("HOME", home.as_os_str().to_owned()),
            ("TMPDIR", "/tmp".into()),
            ("CARGO_HOME", cargo_home().into()),
            ("RUSTUP_HOME", rustup_home().into()),
        ];
        passed.extend(set.map(|(name, value)| (name.into(), value)));
    }
    passed
}

fn is_passed(name: &str) -> bool {
    let known = PASSED.contains(&name) || PASSED_GROUPS.iter().any(|group| name.starts_with(group));
    known && !SECRET.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_settings_nor_secrets_are_passed() {
        for name in ["PATH", "LC_ALL", "CARGO_NET_OFFLINE", "https_proxy"] {
            assert!(is_passed(name), "{name}");
        }
        for name in [
            "ALEPHLAB__GATEWAY__DATABASE",
            "AWS_ACCESS_KEY_ID",
            "CARGO_REGISTRY_TOKEN",
            "CARGO_REGISTRIES_OURS_TOKEN",
            "SSH_AUTH_SOCK",
        ] {
            assert!(!is_passed(name), "{name}");
        }
    }

    #[test]
    fn folders_are_those_of_the_sandbox() {
        let variables = variables(Some(Path::new("/lab/0xab")));
        let of = |name: &str| {
            let mut found = variables.iter().filter(|(one, _)| one == name);
            let value = found
                .next()
                .map(|(_, value)| value.to_string_lossy().into_owned());
            assert!(found.next().is_none(), "{name} once");
            value
        };
        assert_eq!(of("HOME").as_deref(), Some("/lab/0xab"));
        assert_eq!(of("TMPDIR").as_deref(), Some("/tmp"));
        assert_eq!(of("XDG_RUNTIME_DIR"), None);
    }
}
