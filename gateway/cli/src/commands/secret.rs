//! `alephlab secret`: stores, lists and removes secrets that notebooks of an account read by name.

use std::io::{IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use alephlab_api::Secret as Hidden;
use alephlab_api::secrets::{SECRET_BYTES_MAX, SecretInfo, SecretName};
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::at_gateway::AtGateway;
use crate::error::{CliError, Result};

/// Store keys of other services at the gateway, for notebooks to read by name: `secret("NAME")?` in a cell.
///
/// Whoever runs the gateway can read them, and every cell of the account there. Other accounts cannot.
#[derive(Args)]
pub(crate) struct Secret {
    #[command(flatten)]
    at: AtGateway,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Store one, or give it another value: typed at the terminal where it is not shown, or read from standard input.
    Set {
        /// Its name: letters, digits and underscores.
        name: SecretName,
        /// Read the value from a file. A line feed at its end is not part of it, there and on standard input.
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
    },
    /// List names, when each was changed, and when a kernel last read it; never values.
    List,
    /// Remove one.
    Remove {
        /// Its name.
        name: SecretName,
    },
}

impl Secret {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        let (gateway, account) = self.at.connect().await?;
        match &self.action {
            Action::Set { name, from_file } => {
                let value = value(name, from_file.as_deref())?;
                let stored = gateway.set_secret(name, value).await?;
                if self.json {
                    println!("{}", json!(stored));
                } else {
                    let (url, owner) = (gateway.base(), account.name());
                    println!(
                        "{name} is stored at {url} for kernels of {owner}; who runs that gateway can read it"
                    );
                }
            }
            Action::List => self.listed(&gateway.secrets().await?),
            Action::Remove { name } => {
                gateway.remove_secret(name).await?;
                println!("{name} is removed; the key itself stays valid where it was issued");
            }
        }
        Ok(())
    }

    fn listed(&self, secrets: &[SecretInfo]) {
        for secret in secrets {
            if self.json {
                println!("{}", json!(secret));
                continue;
            }
            let changed = alephlab_api::time::hub(secret.changed);
            let read = secret
                .last_read
                .map_or_else(|| "never".to_owned(), alephlab_api::time::hub);
            println!("{}  changed {changed}  last read {read}", secret.name);
        }
    }
}

/// Never from an argument: those can be read by every process of this machine, and stay in the shell's history.
fn value(name: &SecretName, file: Option<&Path>) -> Result<Hidden> {
    let terminal = Path::new("the terminal");
    let input = Path::new("standard input");
    match file {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|source| CliError::file("read", path, source))?;
            read(file, path)
        }
        None if std::io::stdin().is_terminal() => {
            let typed = rpassword::prompt_password(format!("Value of {name} (not shown): "));
            let typed = typed.map_err(|source| CliError::file("read", terminal, source))?;
            checked(Zeroizing::new(typed.into_bytes()), terminal)
        }
        None => read(std::io::stdin(), input),
    }
}

fn read(from: impl Read, path: &Path) -> Result<Hidden> {
    // Room for all of it at once, and for its line end: a buffer that grows leaves copies behind.
    let room = SECRET_BYTES_MAX + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    from.take(room as u64)
        .read_to_end(&mut bytes)
        .map_err(|source| CliError::file("read", path, source))?;
    checked(bytes, path)
}

fn checked(mut bytes: Zeroizing<Vec<u8>>, path: &Path) -> Result<Hidden> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    let wrong = |what: &str| CliError::Usage {
        message: format!("{} {what}", path.display()),
        hint: "nothing was stored".to_owned(),
    };
    if bytes.is_empty() {
        return Err(wrong("holds no value"));
    }
    if bytes.len() > SECRET_BYTES_MAX {
        let most = SECRET_BYTES_MAX >> 10;
        return Err(wrong(&format!(
            "holds more than {most} KiB, the most that is kept"
        )));
    }
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Hidden::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(wrong("is not text (UTF-8); encode it, with base64 for example"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<Hidden> {
        read(bytes, Path::new("standard input"))
    }

    #[test]
    fn one_line_end_is_not_part_of_a_value() {
        for (bytes, value) in [
            ("sk-1", "sk-1"),
            ("sk-1\n", "sk-1"),
            ("sk-1\r\n", "sk-1"),
            ("a\nb\n", "a\nb"),
            ("a\n\n", "a\n"),
            (" a ", " a "),
        ] {
            assert_eq!(of(bytes.as_bytes()).unwrap().expose(), value, "{bytes:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_refused_without_being_repeated() {
        let longest = "x".repeat(SECRET_BYTES_MAX);
        assert_eq!(of(format!("{longest}\r\n").as_bytes()).unwrap().expose(), longest);
        for bytes in [
            b"".as_slice(),
            b"\n",
            b"canary\xff",
            format!("{longest}canary").as_bytes(),
        ] {
            let error = of(bytes).err().unwrap();
            assert_eq!(error.code(), "usage");
            let told = format!("{error} {:?}", error.hint());
            assert!(
                !told.contains("canary") && told.contains("nothing was stored"),
                "{told}"
            );
        }
    }
}
