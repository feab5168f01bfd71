//! Section `oidc`: an OpenID provider as a second door.

use std::path::{Path, PathBuf};

use alephlab_api::Secret;
use alephlab_gateway::OidcConfig;
use serde::{Deserialize, Serialize};

use super::values::list;
use crate::data::private_line;
use crate::error::{CliError, Result};

/// Section `oidc`.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Oidc {
    /// The provider's issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What it knows the gateway by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// File with what the gateway proves itself with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<PathBuf>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is asked for besides `openid`.
    #[serde(deserialize_with = "list")]
    pub scopes: Vec<String>,
    /// Whom it lets in.
    pub admit: Admit,
}

/// Who may use the gateway of those who sign in at the provider.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Admit {
    /// Whom an operator admits.
    #[default]
    Operator,
    /// Everyone.
    Everyone,
}

impl Oidc {
    /// What the gateway is started with; none where no issuer is set.
    pub(crate) fn config(&self) -> Result<Option<OidcConfig>> {
        let Some(issuer) = &self.issuer else {
            return Ok(None);
        };
        let Some(client_id) = &self.client_id else {
            let message = "oidc.issuer is set, and oidc.client_id is not".to_owned();
            return Err(CliError::Setting { message });
        };
        let secret = self.client_secret_file.as_deref().map(read).transpose()?;
        let host = url::Url::parse(issuer).ok();
        let host = host.and_then(|url| url.host_str().map(str::to_owned));
        Ok(Some(OidcConfig {
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            client_secret: secret,
            name: self.name.clone().or(host).unwrap_or_else(|| issuer.clone()),
            scopes: self.scopes.clone(),
            everyone: self.admit == Admit::Everyone,
        }))
    }
}

/// What stands in the file.
fn read(path: &Path) -> Result<Secret> {
    let line = private_line(path)?;
    match line.trim() {
        line if !line.is_empty() => Ok(Secret::new(line)),
        _ => Err(CliError::Usage {
            message: format!("{} holds no secret", path.display()),
            hint: "its first line is the secret that the OpenID provider gave".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing::scratch;

    #[test]
    fn a_secret_comes_from_a_file_that_only_its_owner_reads() {
        let folder = scratch();
        let file = folder.path().join("secret");
        let section = |client_id: Option<&str>| Oidc {
            issuer: Some("https://id.example/lab".to_owned()),
            client_id: client_id.map(str::to_owned),
            client_secret_file: Some(file.clone()),
            ..Oidc::default()
        };
        let refused = |section: Oidc| section.config().err().unwrap().to_string();
        assert!(refused(section(None)).contains("oidc.client_id"));
        std::fs::write(&file, "hunter2 \n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let open = refused(section(Some("lab")));
        assert!(
            open.contains("other people") && !open.contains("hunter2"),
            "{open}"
        );
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = section(Some("lab")).config().unwrap().unwrap();
        assert_eq!(config.client_secret.unwrap().expose(), "hunter2");
        assert_eq!((config.name.as_str(), config.everyone), ("id.example", false));
        assert!(Oidc::default().config().unwrap().is_none());
    }
}
