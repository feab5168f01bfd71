//! Where a token may go: an address that the user wrote must not carry it over a network in the clear.
//!
//! Looks at the address only; nothing is looked up or connected to. Used by every command that takes `--gateway`.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::error::{CliError, Result};

/// Refuses an `http` address outside this machine and its private networks, unless the user insists. What is no
/// address at all is left to the client, which says so.
pub(crate) fn check(gateway: &str, insecure: bool) -> Result<()> {
    let Ok(url) = Url::parse(gateway) else {
        return Ok(());
    };
    let near = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => is_near(address),
        Some(Host::Ipv6(address)) => is_near_v6(address),
        None => true,
    };
    if insecure || url.scheme() != "http" || near {
        return Ok(());
    }
    Err(CliError::Usage {
        message: format!(
            "http://{} would carry the token in the clear for everybody on the way to read",
            url.authority().rsplit('@').next().unwrap_or_default()
        ),
        hint: "write https://, or add --insecure-http if the way there is safe by other means".to_owned(),
    })
}

fn is_near(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_private() || address.is_link_local()
}

fn is_near_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some_and(is_near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stays_off_open_networks() {
        for far in [
            "http://example.org",
            "http://93.184.216.34:8890",
            "http://[2001:db8::1]/",
            "http://localhost.example.org",
            "http://localhost@example.org",
            "HTTP://EXAMPLE.ORG",
            "http://[::ffff:93.184.216.34]/",
        ] {
            let refused = check(far, false).unwrap_err();
            assert!(refused.to_string().contains("in the clear"), "{far}: {refused}");
            assert_eq!(refused.exit_status(), 2, "{far}");
            assert!(refused.hint().unwrap().contains("--insecure-http"));
            check(far, true).unwrap();
        }
    }

    #[test]
    fn this_machine_its_networks_and_https_are_fine() {
        for near in [
            "https://example.org",
            "http://127.0.0.1:8890",
            "http://localhost:1/x",
            "http://lab.localhost",
            "http://10.0.0.7",
            "http://192.168.1.2",
            "http://172.31.0.1",
            "http://[::1]:8890",
            "http://[fd00::1]",
            "no address",
        ] {
            check(near, false).unwrap();
        }
    }
}
